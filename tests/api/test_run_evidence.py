"""`evidence.npz` beside the scores of a run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stored_run import SIDE, place_run
from terrafuse import api
from terrafuse.errors import OutputError, ScoresError
from terrafuse.evaluation.evidence import read_evidence
from terrafuse.version import VERSION

pytestmark = pytest.mark.filterwarnings("ignore:.*was trained when nodata:UserWarning")


@pytest.fixture
def run(tmp_path: Path) -> api.Run:
    """A run folder of the first version, which has no evidence, with its data."""
    return api.load(place_run(tmp_path))


def test_scores_of_a_run_bring_their_evidence(run: api.Run) -> None:
    metrics = run.evaluate(split="val", subsets=True, device="cpu")
    assert metrics == json.loads((run.folder / "metrics.json").read_text())
    evidence = read_evidence(run.folder / "evidence.npz")
    assert ["+".join(subset) for subset in evidence.subsets] == list(metrics["subsets"])
    for place, own in enumerate(metrics["subsets"].values()):
        confusion = evidence.counts("confusion", np.zeros(len(evidence.cells), int), place)
        assert confusion[0, :, :-1].tolist() == own["matrix"]
    (scene,) = evidence.scenes
    assert (scene.id, scene.height, scene.width, scene.crs) == ("scene2", SIDE, SIDE, "EPSG:32633")
    data = run.config.data.manifest.parent
    sizes = {name: (data / f"{name}_2.tif").stat().st_size for name in ("s2", "s1")}
    assert scene.bytes == sizes
    facts = evidence.facts
    assert facts["split"] == metrics["split"] == "val"
    assert facts["manifest"] == "data/dataset.yaml"
    assert (facts["method"], facts["backbone"]) == ("upseg", "vit_tiny_patch16_224")
    assert (facts["seed"], facts["steps"], facts["terrafuse_version"]) == (0, 6, VERSION)
    assert facts["crop_size"] == metrics["settings"]["crop_size"] == 32
    assert (facts["scenes"], facts["converted"]) == ([], {})


def test_settings_tell_runs_apart_but_not_their_seeds(run: api.Run) -> None:
    def facts(**changed: Any) -> Any:
        config = run.config.model_copy(
            update={"training": run.config.training.model_copy(update=changed)}
        )
        other = api.Run(run.folder, run.segmenter, run.info, config)
        other.evaluate(split="val", device="cpu")
        return read_evidence(run.folder / "evidence.npz").facts

    first, again, other = facts(), facts(seed=7), facts(lr=0.5)
    assert (first["seed"], again["seed"]) == (0, 7)
    assert first["settings"] == again["settings"] != other["settings"]
    assert first["model"] == again["model"]


def test_chosen_scenes_have_evidence_of_their_own(run: api.Run) -> None:
    run.evaluate(split="val", device="cpu")
    before = (run.folder / "evidence.npz").read_bytes()
    run.evaluate(scenes=["scene0", "scene2"], device="cpu")
    assert (run.folder / "evidence.npz").read_bytes() == before
    assert (run.folder / "metrics_scenes.json").exists()
    evidence = read_evidence(run.folder / "evidence_scenes.npz")
    assert [scene.id for scene in evidence.scenes] == ["scene0", "scene2"]
    assert evidence.facts["scenes"] == ["scene0", "scene2"]


def test_scores_and_evidence_appear_together_or_not_at_all(
    run: api.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.evaluate(split="val", device="cpu")
    before = {path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("terrafuse.api.runs.save_evidence", fail)
        with pytest.raises(OutputError, match="No space left"):
            run.evaluate(split="val", subsets=True, device="cpu")
    assert {p.name: p.read_bytes() for p in run.folder.iterdir() if p.is_file()} == before
    run.evaluate(split="val", subsets=True, device="cpu")
    assert (run.folder / "evidence.npz").read_bytes() != before["evidence.npz"]


def test_what_cannot_be_read_is_evaluated_again(run: api.Run) -> None:
    """As the messages say, and the tables that are left out are read if they are asked for."""
    path = run.folder / "evidence.npz"
    with pytest.raises(ScoresError, match=r"there is no .*Evaluate the run \(terrafuse evaluate"):
        read_evidence(path)
    run.evaluate(split="val", device="cpu")
    whole = path.read_bytes()
    some = read_evidence(path, ["boundary"])
    with pytest.raises(ScoresError, match="has no table 'confusion'; evaluate the run again"):
        some.counts("confusion")
    assert read_evidence(path).counts("confusion").any()
    arrays = dict(np.load(path))
    text = arrays["described"].tobytes().replace(b'"format":1', b'"format":9')
    np.savez(path, **{**arrays, "described": np.frombuffer(text, np.uint8)})
    with pytest.raises(ScoresError, match=r"has format 9; this version reads 1. Evaluate the run"):
        read_evidence(path)
    path.write_bytes(whole[:-40])
    with pytest.raises(ScoresError, match=r"is damaged .*Evaluate the run again"):
        read_evidence(path)
    run.evaluate(split="val", device="cpu")
    assert path.read_bytes() == whole


def test_shards_make_the_evidence_of_one_run(run: api.Run) -> None:
    how: dict[str, Any] = {"scenes": ["*"], "device": "cpu", "subsets": True}
    run.evaluate(**how)
    path = run.folder / "evidence_scenes.npz"
    whole = path.read_bytes()
    path.unlink()
    assert run.evaluate(**how, shard="2/2") == {"waits_for": 2}
    assert not path.exists()
    run.evaluate(**how, shard="1/2")
    assert path.read_bytes() == whole

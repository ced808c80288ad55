"""The page of a run: what it says beside the scores."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from stored_run import place_run
from terrafuse import api
from terrafuse.api.run_facts import run_facts
from terrafuse.evaluation import find_places, read_evidence
from terrafuse.prediction import Calibration, SubsetCalibration

reporting = import_module("terrafuse.api.reporting")

pytestmark = pytest.mark.filterwarnings("ignore:.*was trained when nodata:UserWarning")


@pytest.fixture
def run(tmp_path: Path) -> api.Run:
    """A scored run."""
    loaded = api.load(place_run(tmp_path))
    loaded.evaluate(split="val", subsets=True, device="cpu")
    return loaded


def test_facts_are_those_of_the_run(run: api.Run) -> None:
    evidence = read_evidence(run.folder / "evidence.npz")
    facts = run_facts(run, evidence)
    assert facts["Trained on"]["s2"] == "optical: blue, green, red, nir, in dn"
    assert facts["Trained on"]["s1"] == "sar: vv, in db"
    assert facts["Trained on"]["scenes"] == "train 2, val 1"
    assert (facts["Training"]["steps"], facts["Training"]["seed"]) == (6, 0)
    assert facts["Model"]["method"] == "upseg"
    trained, parameters = facts["Model"]["of them trained"], facts["Model"]["parameters"]
    assert trained == parameters == sum(p.numel() for p in run.segmenter.parameters())
    provenance = facts["Provenance"]
    state = hashlib.sha256((run.folder / "config.yaml").read_bytes()).hexdigest()
    assert provenance["settings, SHA-256"] == state
    run.config.data.manifest.unlink()
    lost = run_facts(run)
    assert lost["Provenance"]["manifest, SHA-256"] is None
    assert "scenes" not in lost["Trained on"]
    assert "labels of the scored scenes" not in lost["Provenance"]


def test_the_digest_of_labels_tells_other_labels(run: api.Run) -> None:
    def digest() -> object:
        evidence = read_evidence(run.folder / "evidence.npz")
        return run_facts(run, evidence)["Provenance"]["labels of the scored scenes"]

    before = digest()
    with rasterio.open(run.config.data.manifest.parent / "labels_2.tif", "r+") as labels:
        labels.write(1 - labels.read())
    run.evaluate(split="val", device="cpu")
    assert digest() != before


def test_the_page_shows_places_and_what_the_run_was_made_of(run: api.Run) -> None:
    page = api.report(run, device="cpu").read_text(encoding="utf-8")
    found = headings(page)
    assert found.index("Maps") < found.index("Places") < found.index("About")
    (place,) = re.findall(r"<h3>((?:most wrong|least sure|best): [^<]*)</h3>", page)
    assert re.fullmatch(
        r"most wrong: scene &#x27;scene2&#x27;, row 16, column 16; \d+ % wrong, mean confidence "
        r"0\.\d\d", place,
    )  # fmt: skip
    shown = page[page.index(place) :]
    titles = re.findall(r'data-title="([^"]*)"', shown)[:6]
    assert titles == ["s2", "s1", "truth", "map", "errors", "confidence"]


def test_a_page_of_chosen_scenes_names_the_file_of_their_scores(run: api.Run) -> None:
    metrics = run.evaluate(scenes=["scene0", "scene2"], device="cpu")
    page = api.report(run, metrics=metrics, device="cpu").read_text(encoding="utf-8")
    own, other = (
        hashlib.sha256((run.folder / name).read_bytes()).hexdigest()
        for name in ("metrics_scenes.json", "metrics.json")
    )
    assert own in page
    assert other not in page
    assert "How sure the scores are" not in headings(page)  # they are of the run's own split


@pytest.mark.parametrize("temperature", [None, 5.0])
def test_the_confidence_of_a_place_is_calibrated_as_its_scores(
    run: api.Run, temperature: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if temperature:
        own = {"s2+s1": SubsetCalibration(temperature)}
        run = replace(run, calibration=Calibration("s2+s1", own))
        run.evaluate(split="val", device="cpu")
    seen: list[NDArray[np.uint8]] = []
    draw = reporting.confidence_image
    monkeypatch.setattr(reporting, "confidence_image", lambda x: seen.append(x) or draw(x))
    api.report(run, device="cpu")
    (place,) = find_places(read_evidence(run.folder / "evidence.npz"))
    assert (seen[0][::8] / 254).mean() == pytest.approx(place.confidence, abs=0.003)


def headings(page: str) -> list[str]:
    return re.findall(r"<h2[^>]*>([^<]*)</h2>", page)


def test_scores_are_judged_on_the_page(run: api.Run) -> None:
    page = api.report(run, device="cpu").read_text(encoding="utf-8")
    judged = ["How sure the scores are", "Confidence"]
    found = headings(page)
    assert [name for name in found if name in (*judged, "Synergy")] == judged
    assert "1 block of 64 pixels (a window of the model). With fewer than 6 blocks nothing" in page
    own = json.loads((run.folder / "metrics.json").read_text())["calibration"]["subsets"]["s2+s1"]
    over = own["overconfidence"]["value"]
    word = "less sure" if over < 0 else "surer"
    assert f"With s2+s1 the map is {100 * abs(over):.1f} points {word} than it is right." in page


def test_synergy_stands_on_the_page_until_the_model_changes(run: api.Run) -> None:
    api.synergy(run, split="val", tests=(), device="cpu")
    page = api.report(run, device="cpu").read_text(encoding="utf-8")
    assert headings(page).index("Confidence") < headings(page).index("Synergy")
    assert "s1 brings " in page
    path = run.folder / "synergy.json"
    values = json.loads(path.read_text())
    values["facts"]["model"] = "of another training"
    path.write_text(json.dumps(values))
    assert "Synergy" not in headings(api.report(run, device="cpu").read_text(encoding="utf-8"))


def test_runs_side_by_side_are_compared(run: api.Run, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run.folder, other)
    page = api.report([run, other], device="cpu").read_text(encoding="utf-8")
    section = page[page.index(">How sure the scores are</h2>") :]
    assert "cannot be told apart" in section
    assert "Differences with 95 % intervals" in section


def test_scores_without_evidence_have_a_page_without_places(run: api.Run) -> None:
    (run.folder / "evidence.npz").unlink()
    page = api.report(run, device="cpu").read_text(encoding="utf-8")
    assert ">Places</h2>" not in page
    assert ">About</h2>" in page

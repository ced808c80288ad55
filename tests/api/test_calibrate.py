"""Verb `calibrate`: the run folder's calibration.json, and what uses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from scipy.special import log_softmax

from remedies import refused, said, warned
from stored_run import place_run
from terrafuse import api
from terrafuse.errors import ConfigError, LabelError, ModelError, ScoresError
from terrafuse.prediction import Calibration

ALL = "s2+s1"
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*was trained when nodata:UserWarning",
    "ignore:the model was trained on split:UserWarning",
    "ignore:the temperature of s[12] is 20:UserWarning",
)


@pytest.fixture
def run(tmp_path: Path) -> api.Run:
    return api.load(place_run(tmp_path))


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        values: np.ndarray = dataset.read()
    return values


def shares(run: api.Run, out: Path, scene: str, **options: Any) -> np.ndarray:
    """Probabilities of a scene (K, H, W)."""
    made = run.predict(
        out, scene=f"{run.config.data.manifest}#{scene}", device="cpu",
        products=("probabilities_float32", "class_map"), **options,
    )  # fmt: skip
    return read(made["probabilities_float32"])


def test_what_is_fitted_is_used_until_the_weights_change(run: api.Run, tmp_path: Path) -> None:
    before = shares(run, tmp_path / "before", "scene2")
    labels = read(run.config.data.manifest.parent / "labels_2.tif")[0]
    fitted = api.calibrate(run, device="cpu")
    assert json.loads((run.folder / "calibration.json").read_text()) == fitted
    own = fitted["subsets"][ALL]
    temperature = own["temperature"]
    assert own["pixels"] == 32 * 32

    def nll(logits: np.ndarray) -> float:
        found = log_softmax(logits.astype(np.float64), axis=0)
        return -float(np.take_along_axis(found, labels[None].astype(int), axis=0).mean())

    assert own["nll"]["before"] == pytest.approx(nll(np.log(before)), abs=1e-6)
    assert own["nll"]["after"] == pytest.approx(nll(np.log(before) / temperature), abs=1e-5)
    for other in (0.97, 1.03):
        assert own["nll"]["after"] < nll(np.log(before) / (temperature * other))
    again = api.load(run.folder)
    after = shares(again, tmp_path / "after", "scene2")
    expected = np.exp(log_softmax(np.log(before) / temperature, axis=0))
    np.testing.assert_allclose(after, expected, rtol=1e-4)
    assert np.array_equal(shares(again, tmp_path / "off", "scene2", calibrated=False), before)
    maps = [(tmp_path / name / "class_map.tif").read_bytes() for name in ("before", "after", "off")]
    assert maps[0] == maps[1] == maps[2]
    record = json.loads((tmp_path / "after" / "prediction.json").read_text())
    assert record["calibration"]["temperature"] == temperature
    metrics = again.evaluate(split="val", device="cpu")
    assert metrics["settings"]["calibration"][ALL]["temperature"] == temperature
    plain = again.evaluate(split="val", device="cpu", calibrated=False)
    assert plain["settings"]["calibration"] is None
    assert plain["subsets"] == metrics["subsets"]
    assert plain["calibration"] != metrics["calibration"]
    # Other weights.
    description = json.loads((run.folder / "model.json").read_text())
    weights = run.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes().replace(b'"0.1.0"', b'"0.1.1"'))
    description["state_sha256"] = None
    (run.folder / "model.json").write_text(json.dumps(description))
    with warned("prediction.calibrated:read_calibration | Calibrate again (terrafuse calibrate"):
        changed = api.load(run.folder)
    assert changed.calibration is None
    api.calibrate(changed, device="cpu")
    assert api.load(run.folder).calibration is not None  # and nothing is said


def test_each_subset_and_class_sets(run: api.Run, tmp_path: Path) -> None:
    fitted = api.calibrate(run, split="train", per_subset=True, conformal=0.5, device="cpu")
    assert list(fitted["subsets"]) == [ALL, "s2", "s1"]
    for own in fitted["subsets"].values():
        assert own["class_sets"]["blocks"] == 2
        assert own["class_sets"]["coverage"] == 0.5
    again = api.load(run.folder)
    data = run.config.data.manifest.parent
    made = again.predict(
        tmp_path / "s1", rasters={"s1": data / "s1_2.tif"}, device="cpu",
        products=("class_sets", "confidence"),
    )  # fmt: skip
    record = json.loads(made.record.read_text())["calibration"]
    assert record["modalities"] == "s1"
    assert record["temperature"] == fitted["subsets"]["s1"]["temperature"]
    metrics = again.evaluate(split="val", subsets=True, device="cpu")
    sets = metrics["class_sets"]["subsets"]
    assert list(sets) == [ALL, "s2", "s1"]
    for name, own in sets.items():
        assert own["threshold"] == fitted["subsets"][name]["class_sets"]["threshold"]
        assert 1 <= own["mean_size"]["value"] <= 2
    # By hand: every eighth row of the map of all.
    held = read(
        again.predict(
            tmp_path / "all", scene=f"{run.config.data.manifest}#scene2", device="cpu",
            products=("class_sets",),
        )["class_sets"]
    )[0][::8]  # fmt: skip
    labels = read(data / "labels_2.tif")[0][::8]
    assert sets[ALL]["covered_pixels"]["value"] == (held >> labels & 1).mean()
    assert sets[ALL]["mean_size"]["value"] == np.bitwise_count(held).mean()


def test_what_cannot_be_calibrated(run: api.Run) -> None:
    with refused("evaluation.calibration.conformal:choose_threshold | use a split with more"):
        api.calibrate(run, conformal=0.6, device="cpu")
    api.calibrate(run, split="train", conformal=0.6, device="cpu")
    with refused("api.calibrating:_wish | give a share above 0 and below 1", ConfigError) as error:
        api.calibrate(run, conformal=1.0)
    share = float(error.find(r"such as ([\d.]+)"))
    with pytest.raises(ScoresError):  # allowed, but there are two blocks
        api.calibrate(run, split="train", conformal=share, device="cpu")
    with refused("api.calibrating:_wish | has an effect only with --conformal", ConfigError):
        api.calibrate(run, block_px=64)
    api.calibrate(run, split="train", conformal=0.5, block_px=64, device="cpu")
    run.segmenter.supports_missing = False  # type: ignore[misc]
    with refused("api.calibrating:_subsets | Leave out --per-subset", ModelError):
        api.calibrate(run, per_subset=True)
    api.calibrate(run, device="cpu")


def test_splits_that_flatter(run: api.Run) -> None:
    with warned("api.calibrating:_scenes | Calibrate on a split that it has not seen"):
        api.calibrate(run, split="train", device="cpu")
    config = run.config.model_copy(
        update={"evaluation": run.config.evaluation.model_copy(update={"split": "val"})}
    )
    with warned("api.calibrating:_scenes | Calibrate on a split of its own"):
        api.calibrate(replace(run, config=config), device="cpu")
    api.calibrate(run, split="val", device="cpu")  # says nothing


def test_labels_without_data_or_without_errors(run: api.Run) -> None:
    path = run.config.data.manifest.parent / "labels_2.tif"
    made = shares(run, run.folder / "map", "scene2").argmax(axis=0)
    with rasterio.open(path, "r+") as dataset:
        dataset.write(made[None].astype(np.uint8))
    with warned("api.calibrating:_tell_ends | Calibrate on more ground"):
        api.calibrate(run, device="cpu")
    for name in ("s2_2.tif", "s1_2.tif"):
        with rasterio.open(path.parent / name, "r+") as dataset:
            dataset.write(np.full(dataset.shape, np.nan, np.float32)[None].repeat(dataset.count, 0))
    with refused("evaluation.calibration.fitting:fit_calibration | Choose another --split") as e:
        api.calibrate(run, device="cpu")
    assert "--split" in e.text
    assert issubclass(LabelError, ValueError)
    api.calibrate(run, split="train", device="cpu")


def test_the_command(run: api.Run, command_line: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = command_line("calibrate", run.folder, "--device", "cpu", "--json")
    assert code == 0, err
    fitted = json.loads(out)
    assert fitted["split"] == "val"
    code, out, err = command_line(
        "evaluate", run.folder, "--split", "val", "--device", "cpu", "--no-report",
        "--trimap", "1,3",
    )  # fmt: skip
    assert code == 0, err
    assert "confidence (calibrated): ECE" in out
    assert "near boundaries" in out
    code, _, err = command_line("evaluate", run.folder, "--trimap", "1;3")
    assert code == 2
    how = said("cli.evaluate:_distances | give distances in pixels such as 1,3,5", err)
    assert [float(word) for word in how.find(r"such as (\S+)").split(",")] == [1, 3, 5]
    assert Calibration().of(("s1",)).temperature == 1

"""A temperature and class sets in maps: classes stay, and shares are those of divided logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from array_scene import ArrayScene, Identity
from remedies import refused, warned
from terrafuse.classes import ClassScheme
from terrafuse.errors import ConfigError, OutputError, WeightsError
from terrafuse.prediction import (
    CALIBRATION_JSON,
    Calibration,
    MapSettings,
    ScenePredictor,
    SubsetCalibration,
    WindowSettings,
    read_calibration,
    write_calibration,
)

SCHEME = ClassScheme(("bare", "wet", "roof"))
SHARES = ("confidence", "entropy", "margin", "probabilities", "disagreement")
FULL = Calibration("a+b", {"a+b": SubsetCalibration(2.5, 0.4, 0.9)})


def scene_of(missing: frozenset[str] = frozenset()) -> ArrayScene:
    rng = np.random.default_rng(0)
    images = {name: rng.normal(0, 2, (3, 50, 40)).astype(np.float32) for name in "ab"}
    images["a"][:, :5, :7] = images["b"][:, :5, :7] = np.nan
    return ArrayScene(images, scheme=SCHEME, missing=missing)


def predictor(scene: ArrayScene, calibration: Calibration | None = None) -> ScenePredictor:
    windows = WindowSettings(32, 8)
    model = Identity(scene.modalities, 3)
    return ScenePredictor(model, windows, device="cpu", calibration=calibration)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=0))
    shares: np.ndarray = weights / weights.sum(axis=0)
    return shares


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        values: np.ndarray = dataset.read()
    return values


def test_classes_stay_and_shares_are_those_of_divided_logits(tmp_path: Path) -> None:
    scene = scene_of()
    products = ("class_map", *SHARES, "probabilities_float32")
    plain = predictor(scene).predict(scene, tmp_path / "plain", products=products)
    made = predictor(scene, FULL).predict(scene, tmp_path / "made", products=products)
    assert made["class_map"].read_bytes() == plain["class_map"].read_bytes()
    assert made["disagreement"].read_bytes() == plain["disagreement"].read_bytes()
    known = ~np.isnan(scene.images["a"][0])
    expected = softmax(np.nan_to_num(scene.images["a"]) / 2.5)
    np.testing.assert_allclose(
        read(made["probabilities_float32"])[:, known], expected[:, known], rtol=1e-5
    )
    ordered = np.sort(expected, axis=0)
    entropy = -(expected * np.log(expected)).sum(axis=0) / np.log(3)
    for name, share in (
        ("confidence", ordered[-1]), ("margin", ordered[-1] - ordered[-2]), ("entropy", entropy),
    ):  # fmt: skip
        assert np.abs(read(made[name])[0][known] - 254 * share[known]).max() < 0.51
        assert not np.array_equal(read(made[name]), read(plain[name]))
    record = json.loads(made.record.read_text())
    assert record["calibration"] == {
        "modalities": "a+b", "temperature": 2.5, "threshold": 0.4, "coverage": 0.9,
    }  # fmt: skip
    assert json.loads(plain.record.read_text())["calibration"] is None


def test_a_temperature_of_one_changes_no_byte(tmp_path: Path) -> None:
    scene = scene_of()
    one = Calibration("a+b", {"a+b": SubsetCalibration(1.0)})
    plain = predictor(scene).predict(scene, tmp_path / "plain", products=SHARES)
    made = predictor(scene, one).predict(scene, tmp_path / "one", products=SHARES)
    for name in SHARES:
        assert made[name].read_bytes() == plain[name].read_bytes()


def test_class_sets_hold_the_best_class_and_what_is_likely(tmp_path: Path) -> None:
    scene = scene_of()
    products = ("class_map", "class_sets", "class_set_size")
    made = predictor(scene, FULL).predict(scene, tmp_path / "map", products=products)
    known = ~np.isnan(scene.images["a"][0])
    shares = softmax(np.nan_to_num(scene.images["a"]) / 2.5)
    held = shares >= 0.4
    held[shares.argmax(axis=0), *np.indices(known.shape)] = True
    bits = (held * np.array([1, 2, 4])[:, None, None]).sum(axis=0)
    found = read(made["class_sets"])[0]
    is_clear = (np.abs(shares - 0.4) > 1e-5).all(axis=0)
    assert is_clear.mean() > 0.99
    assert np.array_equal(found[known & is_clear], bits[known & is_clear])
    assert not found[~known].any()
    assert np.array_equal(read(made["class_set_size"])[0], np.bitwise_count(found))
    with rasterio.open(made["class_sets"]) as dataset:
        assert dataset.nodata == 0
        assert json.loads(dataset.tags()["class_bits"]) == {"bare": 1, "wet": 2, "roof": 4}
    names = Path(f"{made['class_sets']}.aux.xml").read_text(encoding="utf-8")
    assert "<Category>bare+roof</Category>" in names
    record = json.loads(made.record.read_text())["products"]["class_sets"]
    assert record["bits"] == {"bare": 1, "wet": 2, "roof": 4}


def test_a_scene_gets_the_calibration_of_what_it_has(tmp_path: Path) -> None:
    each = Calibration("a+b", {**FULL.subsets, "a": SubsetCalibration(4.0, 0.1, 0.9)})
    for calibration, temperature in ((each, 4.0), (FULL, 2.5)):
        scene = scene_of(frozenset({"b"}))
        out = tmp_path / str(temperature)
        products = ("probabilities_float32",)
        made = predictor(scene, calibration).predict(scene, out, products=products)
        known = ~np.isnan(scene.images["a"][0])
        expected = softmax(np.nan_to_num(scene.images["a"]) / temperature)
        found = read(made["probabilities_float32"])
        np.testing.assert_allclose(found[:, known], expected[:, known], rtol=1e-5)
    scene = scene_of(frozenset({"b"}))
    sets = ("class_sets",)
    with warned("prediction.predictor:ScenePredictor._tell_other_sets | Calibrate each subset"):
        predictor(scene, FULL).predict(scene, tmp_path / "sets", products=sets)
    predictor(scene, each).predict(scene, tmp_path / "each", products=sets)  # says nothing


def test_class_sets_need_a_threshold_and_bits(tmp_path: Path) -> None:
    scene = scene_of()
    without = Calibration("a+b", {"a+b": SubsetCalibration(2.0)})
    for calibration in (None, without):
        with refused(
            "prediction.predictor:ScenePredictor._check_sets | Set one (terrafuse calibrate RUN",
            ConfigError,
        ):
            predictor(scene, calibration).predict(scene, tmp_path, products=("class_set_size",))
    rng = np.random.default_rng(0)
    many = ArrayScene(
        {"a": rng.normal(size=(9, 20, 20)).astype(np.float32)},
        scheme=ClassScheme(tuple("klmnopqrs")),
    )
    calibration = Calibration("a", {"a": SubsetCalibration(1.0, 0.05, 0.9)})
    own = ScenePredictor(Identity(many.modalities), WindowSettings(16, 0), calibration=calibration)
    with refused("prediction.predictor:ScenePredictor._check_sets | Write 'class_set_size'") as e:
        own.predict(many, tmp_path, products=("class_sets",))
    made = own.predict(many, tmp_path, products=(e.find(r"Write '(\w+)' instead"),))
    assert read(made["class_set_size"]).max() > 3


def test_units_of_another_temperature_are_not_gone_on_with(tmp_path: Path) -> None:
    """Parts of one map all have one temperature."""
    scene = scene_of()

    plain, warm = predictor(scene), predictor(scene, FULL)
    keys = [
        {**own._facts(scene, SCHEME, ("a", "b")), **MapSettings().to_dict()}
        for own in (plain, warm)
    ]
    assert keys[0] != keys[1]
    (tmp_path / "units").mkdir()
    (tmp_path / "units" / "job.json").write_text(json.dumps({"format": 1, "key": keys[0]}))
    with pytest.raises(OutputError, match=r"differs in: .*calibration"):
        warm.predict(scene, tmp_path, resume=True)


def content(**values: Any) -> dict[str, Any]:
    subsets = {
        "a+b": {"temperature": 1.5, "class_sets": {"threshold": 0.1, "coverage": 0.8}},
        "a": {"temperature": 0.7, "class_sets": None},
    }
    return {"model": "abc", "full": "a+b", "subsets": subsets, **values}


def test_the_file_of_other_weights_is_told_and_not_used(tmp_path: Path) -> None:
    assert read_calibration(tmp_path, "abc") is None
    write_calibration(tmp_path, content())
    found = read_calibration(tmp_path, "abc")
    assert found is not None
    assert found.of(("a", "b")) == SubsetCalibration(1.5, 0.1, 0.8)
    assert found.of(("a",)) == SubsetCalibration(0.7)
    assert found.of(("b",)) == found.of(("a", "b"))
    assert not found.has_sets  # not of every subset
    with warned("prediction.calibrated:read_calibration | Calibrate again (terrafuse calibrate"):
        assert read_calibration(tmp_path, "other") is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"format": 1}', '{"format": 9, "model": "abc"}', json.dumps(
        {"format": 1, **content(subsets={"a+b": {"temperature": -1, "class_sets": None}})}
    )],
)  # fmt: skip
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / CALIBRATION_JSON
    path.write_text(text)
    with refused("prediction.calibrated:read_calibration | or delete it", WeightsError):
        read_calibration(tmp_path, "abc")
    path.unlink()
    assert read_calibration(tmp_path, "abc") is None

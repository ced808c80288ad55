"""Products with a band per class and of which modalities had data, on disk."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rio_cogeo import cog_validate

from array_scene import ArrayScene, Identity, NeedsAll
from terrafuse.classes import ClassScheme
from terrafuse.errors import ConfigError
from terrafuse.prediction import (
    PRODUCTS,
    Lattice,
    MapSettings,
    ScenePredictor,
    WindowSettings,
    cog,
    find_products,
    plan_units,
    units,
)
from terrafuse.segmenter import Inputs, SegmenterOutput

SCHEME = ClassScheme(("bare", "wét", "roof", "sea"))
NAMES = ("probabilities", "probabilities_float32", "sources", "disagreement")


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of 64 pixels with tiles of 16: a small scene has many, and levels beyond a unit's."""
    monkeypatch.setattr(cog, "TILE", 16)
    monkeypatch.setattr(cog, "UNIT", 64)
    monkeypatch.setattr(units, "UNIT", 64)
    monkeypatch.setattr(units, "MOST_TWICE", 10)
    monkeypatch.setattr(units, "_SUMS_BYTES", 0)


class AtAnyScale(NeedsAll):
    def segment(self, inputs: Inputs) -> SegmenterOutput:
        return SegmenterOutput(inputs.images["a"] + inputs.images["b"])


def two_sensors(height: int = 210, width: int = 150) -> ArrayScene:
    """The first one lacks the lower left corner, the coarse second the top rows."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, height, width)).astype(np.float32)
    b = rng.normal(size=(1, height // 2, width // 2)).astype(np.float32)
    a[:, 120:, :41] = np.nan
    b[:, :17] = np.nan
    return ArrayScene({"a": a, "b": b}, scales={"b": 2.0}, scheme=SCHEME)


def predict(scene: ArrayScene, out: Path, model: type[Identity] = Identity, **options: Any) -> Any:
    windows = WindowSettings(32, 8, batch_size=3)
    predictor = ScenePredictor(model(scene.modalities, 4), windows, device="cpu")
    return predictor.predict(scene, out, **options)


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores.astype(np.float64) - scores.max(axis=0))
    shares: np.ndarray = weights / weights.sum(axis=0)
    return shares


@pytest.mark.usefixtures("small_units")
@pytest.mark.filterwarnings("ignore:The file is greater:UserWarning")
def test_a_band_per_class_with_its_name(tmp_path: Path) -> None:
    scene = two_sensors()
    made = predict(scene, tmp_path, products=NAMES)
    image = np.nan_to_num(scene.images["a"])
    expected = softmax(image)
    empty = np.isnan(scene.images["a"][0])
    empty[17 * 2 :] = False
    assert not empty.any()  # each pixel has data of one sensor
    with rasterio.open(made["probabilities"]) as dataset:
        assert dataset.count == 4
        assert dataset.descriptions == SCHEME.names
        assert dataset.scales == (1 / 254,) * 4
        assert dataset.nodatavals == (255,) * 4
        assert dataset.interleaving.name == "band"
        assert {c.name for c in dataset.colorinterp} == {"gray", "undefined"}
        assert len(dataset.overviews(3)) == 4
        bytes_ = dataset.read()
    assert np.abs(bytes_ - expected * 254).max() < 0.51
    with rasterio.open(made["probabilities_float32"]) as dataset:
        assert dataset.dtypes == ("float32",) * 4
        assert dataset.descriptions == SCHEME.names
        assert np.isnan(dataset.nodata)
        np.testing.assert_allclose(dataset.read(), expected, rtol=2e-5)
    for band in range(4):  # overviews are the band's own, level by level
        wanted = bytes_[band]
        for level in range(4):
            wanted = PRODUCTS["probabilities"].encoding(255).reduce(wanted)
            with rasterio.open(made["probabilities"], overview_level=level) as dataset:
                np.testing.assert_array_equal(dataset.read(band + 1), wanted)
    record = json.loads(made.record.read_text())["products"]
    assert record["probabilities"]["bands"] == list(SCHEME.names)
    assert record["probabilities_float32"]["nodata"] == "nan"


def test_they_are_valid_cogs(tmp_path: Path) -> None:
    scene = two_sensors(1100, 600)
    made = predict(scene, tmp_path, products=("class_map", *NAMES))
    for path in made.files.values():
        assert cog_validate(path, strict=True) == (True, [], [])


@pytest.mark.usefixtures("small_units")
def test_sources_are_bits_with_names(tmp_path: Path) -> None:
    scene = two_sensors()
    made = predict(scene, tmp_path / "map", products=("sources", "class_map"))
    expected = np.full((210, 150), 3)
    expected[120:, :41] = 2
    expected[:34] = 1
    with rasterio.open(made["sources"]) as dataset:
        np.testing.assert_array_equal(dataset.read(1), expected)
        assert (dataset.dtypes, dataset.nodata) == (("uint8",), 0)
        assert json.loads(dataset.tags()["modalities"]) == {"a": 1, "b": 2}
    rasterio.shutil.copy(made["sources"], tmp_path / "seen.vrt", driver="VRT")
    seen = (tmp_path / "seen.vrt").read_text()
    places = [seen.index(f"<Category>{name}</Category>") for name in ("none", "a", "b", "a+b")]
    assert places == sorted(places)
    record = json.loads(made.record.read_text())["products"]["sources"]
    assert record["bits"] == {"a": 1, "b": 2}
    # A sensor left out has no data; its bit stays its own.
    left = predict(scene, tmp_path / "left", products=("sources",), without={"a"})
    with rasterio.open(left["sources"]) as dataset:
        np.testing.assert_array_equal(dataset.read(1), expected & 2)


def test_sources_are_told_where_a_method_that_needs_all_is_not_run(tmp_path: Path) -> None:
    scene = two_sensors()
    with pytest.warns(UserWarning, match="windows of scene 'a' have no data in one of a, b"):
        made = predict(scene, tmp_path, AtAnyScale, products=("sources", "class_map"))
    with rasterio.open(made["sources"]) as sources, rasterio.open(made.class_map) as class_map:
        assert sources.read(1)[0, 0] == 1
        assert class_map.read(1)[0, 0] == 255


@pytest.mark.usefixtures("small_units")
def test_windows_between_parts_are_counted_once_as_lacking(tmp_path: Path) -> None:
    scene = two_sensors()
    predictor = ScenePredictor(
        AtAnyScale(scene.modalities, 4), WindowSettings(32, 8, batch_size=3), device="cpu"
    )
    with pytest.warns(UserWarning, match="windows of scene 'a' have no data") as whole:
        list(predictor.stream(scene))
    with pytest.warns(UserWarning, match="windows of scene 'a' have no data") as parts:
        predictor.predict(scene, tmp_path)
    assert str(parts[0].message) == str(whole[0].message)


def test_nine_modalities_have_no_bits_in_a_byte(tmp_path: Path) -> None:
    scene = ArrayScene(
        {f"m{i}": np.ones((2, 8, 8), np.float32) for i in range(9)}, scheme=ClassScheme(("x", "y"))
    )
    predictor = ScenePredictor(Identity(scene.modalities), WindowSettings(8, 0), device="cpu")
    with pytest.raises(ConfigError, match=r"tells 8 modalities apart, and the model has 9 \(m0"):
        predictor.predict(scene, tmp_path / "map", products=("class_map", "sources"))
    predictor.predict(scene, tmp_path / "map", products=("class_map",))  # as the message says


def test_units_are_narrower_where_products_hold_more() -> None:
    lattice = Lattice(100, 100_000, 512, 128)
    plain = plan_units(lattice, 2)
    assert plan_units(lattice, 2, find_products(["confidence", "entropy"])).width == plain.width
    votes = plan_units(lattice, 2, find_products(["disagreement"]))
    assert votes.width == 4096  # 32 MiB of 17 bytes in 512 rows are 3855 columns, too few
    # 9 bytes in 512 rows, and two bytes in 512 + 1024: 4369 columns.
    assert plan_units(lattice, 2, find_products(["probabilities"])).width == 4096


def test_settings_can_be_sent_to_workers() -> None:
    chosen = MapSettings(("class_map", "sources"), ("flips",), 0.6, 4)
    assert pickle.loads(pickle.dumps(chosen)) == chosen

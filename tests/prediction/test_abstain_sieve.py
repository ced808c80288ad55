"""Pixels that get no class, and patches that are too small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.features import sieve
from rio_cogeo import cog_validate

from array_scene import ArrayScene, Identity
from terrafuse.classes import ClassScheme
from terrafuse.errors import ConfigError, NotEnoughMemoryError
from terrafuse.prediction import (
    MapSettings,
    Products,
    ScenePredictor,
    WindowSettings,
    choose_values,
    cog,
    describe_areas,
    read_class_map,
    units,
)
from terrafuse.prediction import sieve as sieving

SCHEME = ClassScheme(("low", "high"), colors=("#a0a0a0", "#ff0000"))
CODES = ClassScheme(("low", "high"), codes=((255,), (254,)), void=(253,))


def predict(image: np.ndarray, out: Path, scheme: ClassScheme = SCHEME, **options: Any) -> Products:
    scene = ArrayScene({"a": image.astype(np.float32)}, scheme=scheme)
    predictor = ScenePredictor(Identity(scene.modalities), WindowSettings(32, 8), device="cpu")
    return predictor.predict(scene, out, **options)


def by_share(*shares: float) -> np.ndarray:
    """Scores of two classes with these probabilities of the second, in a row."""
    p = np.array(shares)
    return np.stack([np.zeros_like(p), np.log(p / (1 - p))])[:, None]


def test_uncertain_pixels_have_a_value_name_colour_and_row_of_their_own(tmp_path: Path) -> None:
    image = by_share(0.9, 0.55, 0.61, 0.3, 0.45, 0.5)
    image[:, :, 2] = np.nan
    made = predict(image, tmp_path, abstain=0.6, areas=True, products=("class_map",))
    with rasterio.open(made.class_map) as dataset:
        assert dataset.read(1).tolist() == [[1, 254, 255, 0, 254, 254]]
        assert dataset.nodata == 255
        assert dataset.read_masks(1).tolist() == [[255, 255, 0, 255, 255, 255]]
        # The first grey is a class's.
        assert dataset.colormap(1)[254] == (120, 120, 120, 255)
        assert dataset.tags()["abstained"] == "254"
        assert json.loads(dataset.tags()["classes"]) == ["low", "high"]
    rasterio.shutil.copy(made.class_map, tmp_path / "seen.vrt", driver="VRT")
    assert "<Category>abstained</Category>" in (tmp_path / "seen.vrt").read_text()
    record = json.loads(made.record.read_text())
    assert (record["abstain"], record["abstained_pixels"], made.abstained_pixels) == (0.6, 3, 3)
    assert record["products"]["class_map"]["abstained"] == 254
    assert (tmp_path / "areas.csv").read_text().splitlines() == [
        "class,pixels,hectares,percent",
        "low,1,0.0100,50.000",
        "high,1,0.0100,50.000",
        "abstained,3,0.0300,",
        "no data,1,0.0100,",
    ]
    assert [row["%"] for row in describe_areas(made.areas)] == ["50.0", "50.0", "–", "–"]
    n = 255
    assert read_class_map(made.class_map).tolist() == [[1, n, n, 0, n, n]]
    assert read_class_map(made.class_map, abstained=7).tolist() == [[1, 7, n, 0, 7, 7]]


def test_the_threshold_is_on_the_probability_itself_and_one_is_allowed(tmp_path: Path) -> None:
    image = by_share(0.75, 0.7499, 1 - 1e-12)
    assert read_class_map(
        predict(image, tmp_path / "a", abstain=0.75).class_map, abstained=9
    ).tolist() == [[1, 9, 1]]
    assert read_class_map(
        predict(image, tmp_path / "b", abstain=1.0).class_map, abstained=9
    ).tolist() == [[9, 9, 1]]


def test_the_value_is_no_class_nor_no_data_nor_one_that_labels_use(tmp_path: Path) -> None:
    made = predict(by_share(0.9, 0.5), tmp_path, CODES, abstain=0.6)
    values = made.class_values
    assert (values.values, values.nodata, values.abstained) == ((255, 254), 252, 251)
    with rasterio.open(made.class_map) as dataset:
        assert dataset.read(1).tolist() == [[254, 251]]
    assert choose_values(CODES).abstained is None
    full = ClassScheme(tuple(f"c{i}" for i in range(255)))
    with pytest.raises(ConfigError, match="255 classes and no data leave no value of a byte"):
        choose_values(full, abstains=True)
    choose_values(full)  # as the message says
    almost = ClassScheme(tuple(f"c{i}" for i in range(254)))
    assert choose_values(almost, abstains=True).abstained == 254


@pytest.mark.parametrize("value", [0, -0.1, 1.01, float("nan")])
def test_confidences_outside_0_to_1_are_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=r"abstain is .*above 0 and at most 1"):
        MapSettings(abstain=value)
    assert [MapSettings(abstain=given).abstain for given in (1e-9, 1)] == [1e-9, 1]


def test_what_changes_the_class_map_needs_one() -> None:
    for options in ({"abstain": 0.5}, {"sieve": 4}):
        with pytest.raises(ConfigError, match=f"{next(iter(options))} changes the class map; add"):
            MapSettings(("confidence",), **options)
        MapSettings(("confidence", "class_map"), **options)  # as the message says
    with pytest.raises(ConfigError, match="sieve is 1; give the smallest patch to keep, 2 pixels"):
        MapSettings(sieve=1)
    MapSettings(sieve=2)


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cog, "TILE", 16)
    monkeypatch.setattr(cog, "UNIT", 64)
    monkeypatch.setattr(units, "UNIT", 64)
    monkeypatch.setattr(units, "MOST_TWICE", 10)
    monkeypatch.setattr(units, "_SUMS_BYTES", 0)


def speckled() -> np.ndarray:
    """Patches of 8 pixels with speckles, a hole without data, uncertain rows."""
    rng = np.random.default_rng(0)
    image = np.kron(rng.normal(size=(3, 27, 19)), np.ones((1, 8, 8)))[:, :210, :150]
    image += rng.normal(size=image.shape) / 2
    image[:, 70:100, 20:90] = np.nan
    image[:, 130:140] = 0
    return image


@pytest.mark.usefixtures("small_units")
def test_small_patches_go_as_gdal_would_take_them_from_the_whole_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme, options = ClassScheme(("a", "b", "c"), codes=((7,), (0,), (9,))), {"abstain": 0.4}
    plain = predict(speckled(), tmp_path / "plain", scheme, **options)
    made = predict(speckled(), tmp_path / "sieved", scheme, sieve=6, areas=True, **options)
    with rasterio.open(plain.class_map) as dataset:
        before = dataset.read(1)
    counts = ~np.isin(before, [255, plain.class_values.abstained])
    assert 0 < (before == plain.class_values.abstained).sum() < counts.sum()
    expected = sieve(before, 6, mask=counts, connectivity=4)
    assert (expected != before)[:, 63:65].any()  # across the edge of two units
    with rasterio.open(made.class_map) as dataset:
        np.testing.assert_array_equal(dataset.read(1), expected)
        assert dataset.tags()["classes"] == '["a", "b", "c"]'
        coarse = dataset.read(1, out_shape=(14, 10))
    assert plain.confidence.read_bytes() == made.confidence.read_bytes()
    record = json.loads(made.record.read_text())
    assert (record["sieve"], record["sieved_pixels"]) == (6, (expected != before).sum())
    assert made.areas[0].pixels == (expected == 7).sum()
    assert not list((tmp_path / "sieved").glob("*sieved*"))
    monkeypatch.setattr(units, "UNIT", 1024)
    one = predict(speckled(), tmp_path / "one", scheme, sieve=6, areas=True, **options)
    assert one.class_map.read_bytes() == made.class_map.read_bytes()
    with rasterio.open(one.class_map) as dataset:
        np.testing.assert_array_equal(dataset.read(1, out_shape=(14, 10)), coarse)


def test_no_data_and_abstained_neither_take_nor_give(tmp_path: Path) -> None:
    """Lone pixels of class 1 in no data, between abstained ones, and in class 0."""
    image = np.repeat(by_share(0.1), 12, axis=1).repeat(12, axis=2)
    image[:, 2:7, 2:7] = np.nan
    image[:, 4, 4] = by_share(0.9)[:, 0, 0]
    image[:, 7:12, 7:12] = 0
    image[:, 9, 9] = by_share(0.9)[:, 0, 0]
    image[:, 1, 9] = by_share(0.9)[:, 0, 0]
    image[:, 9, 1] = np.nan  # small itself
    made = predict(image, tmp_path, sieve=30, abstain=0.6)
    found = read_class_map(made.class_map, abstained=9)
    assert (found[4, 4], found[9, 9], found[1, 9], found[9, 1]) == (1, 1, 0, 255)
    assert (found == 9).sum() == 24
    assert (found == 255).sum() == 25


def test_a_sieved_map_is_a_valid_cog(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 70, 1100))
    made = predict(image, tmp_path, sieve=5)
    assert cog_validate(made.class_map, strict=True) == (True, [], [])


def test_a_map_larger_than_memory_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.zeros((2, 40, 50))
    monkeypatch.setattr(sieving, "free_memory", lambda: 7_000)
    with pytest.raises(
        NotEnoughMemoryError, match=r"sieving a map of 40 × 50 pixels .*Leave out --sieve"
    ):
        predict(image, tmp_path / "map", sieve=4)
    assert not (tmp_path / "map").exists()
    predict(image, tmp_path / "map")  # as the message says

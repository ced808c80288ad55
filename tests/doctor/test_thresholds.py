"""From which value on the doctor speaks: just below every limit it does not, just above it does.

The numbers are those of docs/howto/check.md and of the comments in the code, written out again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml
from rasterio.transform import from_origin

from terrafuse.data import load_manifest
from terrafuse.data.grid import Grid
from terrafuse.data.schema import SceneEntry
from terrafuse.doctor import check_manifest, registration
from terrafuse.doctor.bands import check_bands
from terrafuse.doctor.duplicates import Fingerprint, find_duplicates
from terrafuse.doctor.elevation import check_elevation
from terrafuse.doctor.labels import check_labels
from terrafuse.doctor.nodata import check_nodata
from terrafuse.doctor.scales import check_scales
from terrafuse.doctor.shifts import Shift
from terrafuse.doctor.structure import check_structure
from terrafuse.doctor.summary import ModalityRecord, SceneRecord
from terrafuse.doctor.values import check_values
from terrafuse.modalities import Modality

OPTICAL = {"kind": "optical"}
METRES = {"kind": "elevation", "unit": "m"}


def image(bands: int = 3, size: int = 64, high: int = 200) -> np.ndarray:
    return np.random.default_rng(0).integers(40, high, (bands, size, size)).astype(np.uint8)


def scattered(shape: tuple[int, ...], count: int) -> np.ndarray:
    """A mask of so many pixels, spread at random."""
    mask = np.zeros(int(np.prod(shape)), bool)
    mask[np.random.default_rng(1).permutation(mask.size)[:count]] = True
    return mask.reshape(shape)


def told(findings: Any, code: str) -> str | None:
    """Severity of the one finding of this code."""
    found = [finding.severity for finding in findings if finding.code == code]
    assert len(found) <= 1
    return found[0] if found else None


# Registration: shifts of more than 1.5 pixels are noted, of more than 2.5 warned of.


@pytest.mark.parametrize(
    ("pixels", "confidence", "scale", "severity"),
    [
        (1.45, 9, 1, None), (1.55, 9, 1, "note"), (2.45, 9, 1, "note"), (2.55, 9, 1, "warning"),
        (2.9, 9, 2, None), (3.1, 9, 2, "note"), (4.9, 9, 2, "note"), (5.1, 9, 2, "warning"),
        (9, 3.9, 1, None), (9, 4.1, 1, "warning"),
    ],
)  # fmt: skip
def test_shifts(look_at, monkeypatch, pixels, confidence, scale, severity):
    """In pixels of the coarser raster, and only where the measurement is sure."""

    class Measured:
        def __init__(self, scene):
            self.scale = {"m": 1.0, "n": float(scale)}

        def measure(self, one, other):
            return Shift(0.6 * pixels, -0.8 * pixels, confidence)

    monkeypatch.setattr(registration, "_Images", Measured)
    coarse = (image(1, 64 // scale), {"scale": float(scale)}, {})
    scene = look_at(m=(image(1), {}, {}), n=coarse).scene
    assert told(registration.check_registration(scene), "registration") == severity


# Values.


@pytest.mark.parametrize(
    ("percent", "severity"), [(4.5, None), (5.5, "note"), (29, "note"), (31, "warning")]
)
def test_saturation(look_at, percent, severity):
    array = image(1)
    array[0][scattered((64, 64), round(percent * 40.96))] = 255
    assert told(check_values(look_at(m=(array, OPTICAL, {}))), "saturated") == severity


@pytest.mark.parametrize(("pixels", "severity"), [(3, None), (5, "warning")])
def test_values_that_ran_over(look_at, pixels, severity):
    """Each makes four jumps; a jump in a thousand of 16 384 pixels is enough."""
    array = np.random.default_rng(0).integers(225, 254, (1, 128, 128)).astype(np.uint8)
    for n in range(pixels):
        array[0, 10 + 20 * n, 30 + 10 * n] = 3
    assert told(check_values(look_at(m=(array, OPTICAL, {}))), "wrap-around") == severity


@pytest.mark.parametrize(("shape", "severity"), [((15, 17), None), ((16, 16), "warning")])
def test_constant_bands(look_at, shape, severity):
    array = np.full((1, *shape), 7, np.uint8)
    found = check_values(look_at(m=(array, OPTICAL, {})))
    assert told(found, "constant-in-scene") == severity


@pytest.mark.parametrize(("rows", "severity"), [(31, None), (33, "note")])
def test_little_data(look_at, rows, severity):
    array = image(1)
    array[:, :rows] = 0
    found = check_values(look_at(m=(array, OPTICAL, {"nodata": 0})))
    assert told(found, "little-data") == severity


# Pixels without data that count as data.


@pytest.mark.parametrize(("pixels", "severity"), [(60, None), (61, "warning")])
def test_a_side_of_fill(look_at, pixels, severity):
    """95 % of 64 pixels are 60.8."""
    array = image()
    array[:, 0, :pixels] = 0
    assert told(check_nodata(look_at(m=(array, OPTICAL, {}))), "undeclared-nodata") == severity


@pytest.mark.parametrize(("side", "severity"), [(12, None), (13, "warning")])
def test_a_corner_of_fill(look_at, side, severity):
    """2 % of 4096 pixels are 82; the corners have 78 and 91."""
    array = image()
    rows, cols = np.ogrid[:64, :64]
    array[:, rows + cols < side] = 0
    assert told(check_nodata(look_at(m=(array, OPTICAL, {}))), "undeclared-nodata") == severity


@pytest.mark.parametrize(("shape", "severity"), [((4, 5), None), ((3, 7), "warning")])
def test_holes_of_zero(look_at, shape, severity):
    """Half a percent of 4096 pixels are 20.5."""
    array = image()
    array[:, 30 : 30 + shape[0], 20 : 20 + shape[1]] = 0
    assert told(check_nodata(look_at(m=(array, OPTICAL, {}))), "zeros") == severity


@pytest.mark.parametrize(("pixels", "is_value"), [(7, False), (8, True)])
def test_fill_that_is_also_a_value(look_at, pixels, is_value):
    """2 in 1000 of the 3712 other pixels are 7.4."""
    array = image()
    array[:, :6] = 255
    array[0, 30, 10 : 10 + pixels] = 255
    (finding,) = check_nodata(look_at(m=(array, OPTICAL, {})))
    assert (finding.fix == {}) == is_value


# Elevation.


def hills(low: float, height: float = 30, size: int = 64) -> np.ndarray:
    rows, cols = np.mgrid[:size, :size]
    wave = (1 + np.sin(rows / 9) * np.cos(cols / 7)) / 2
    wave = (wave - wave.min()) / (wave.max() - wave.min())
    return (low + height * wave)[None].astype(np.float32)


@pytest.mark.parametrize(
    ("low", "severity"), [(-599, None), (-601, "warning"), (9169, None), (9171, "warning")]
)
def test_heights_that_no_ground_has(look_at, low, severity):
    found = check_elevation(look_at(m=(hills(low), METRES, {})))
    assert told(found, "elevation-fill") == severity


@pytest.mark.parametrize(
    ("low", "count", "severity"),
    [(19, 12, None), (21, 12, "warning"), (60, 8, None), (60, 9, "warning")],
)
def test_zeros_among_heights(look_at, low, count, severity):
    array = hills(low)
    array[0, 30, 10 : 10 + count] = 0
    found = check_elevation(look_at(m=(array, METRES, {})))
    assert told(found, "elevation-holes") == severity


@pytest.mark.parametrize(
    ("height", "away", "severity"),
    [(20, 90, None), (20, 110, "warning"), (20, -90, None), (20, -110, "warning"),
     (80, 220, None), (80, 260, "warning")],
)  # fmt: skip
def test_spikes(look_at, height, away, severity):
    """Beyond 100 m, and beyond three times what 99.6 % of the heights span."""
    array = hills(300, height)
    low, high = np.percentile(array, (0.2, 99.8))
    array[0, 40, 7] = (high if away > 0 else low) + away
    found = check_elevation(look_at(m=(array, METRES, {})))
    assert told(found, "elevation-outlier") == severity


# Scales of values.


@pytest.fixture
def scales(look_at):
    """Function that checks one array per scene as one modality."""

    def run(*arrays: np.ndarray, kind: str = "optical", unit: str = "dn") -> list:
        records = []
        for i, array in enumerate(arrays):
            seen = look_at(m=(array.astype(np.float32), {"kind": kind}, {})).seen["m"]
            entry = SceneEntry(f"x{i}", "train", {"m": ("m.tif",)})
            record = SceneRecord(entry, Grid(None, None, 32, 32), False, np.zeros(2, np.int64))
            record.summaries["m"] = ModalityRecord.of(seen)
            records.append(record)
        modality = Modality("m", tuple(f"b{i}" for i in range(len(arrays[0]))), kind, unit=unit)
        return list(check_scales(modality, records))

    return run


def brightness(percent: float, value: float, seed: int = 0) -> np.ndarray:
    """Two bands whose percentile of this share is this value."""
    array = np.random.default_rng(seed).gamma(2, 0.05, (2, 48, 48))
    return array / np.percentile(array, percent, axis=(1, 2), keepdims=True) * value


@pytest.mark.parametrize(("top", "severity"), [(1.55, None), (1.65, "warning")])
def test_reflectance_beyond_one(scales, top, severity):
    arrays = [brightness(99, top, seed) for seed in range(3)]
    assert told(scales(*arrays, unit="reflectance"), "unit") == severity


@pytest.mark.parametrize(("ratio", "severity"), [(7.6, None), (8.4, "warning")])
def test_scenes_of_another_brightness(scales, ratio, severity):
    usual = [brightness(90, 1200, seed) for seed in range(3)]
    dark = brightness(90, 1200 / ratio, 5).clip(0, 255)
    assert told(scales(*usual, dark), "mixed-scale") == severity


@pytest.mark.parametrize(
    ("floor", "others", "severity"),
    [(940, 100, None), (960, 100, "warning"), (1390, 100, "warning"), (1410, 100, None),
     (1000, 590, "warning"), (1000, 610, None)],
)  # fmt: skip
def test_an_offset_of_1000(scales, floor, others, severity):
    def lowest(value: float, seed: int) -> np.ndarray:
        array = 1e4 * brightness(90, 0.2, seed)
        return array - np.percentile(array, 0.5, axis=(1, 2)).min() + value

    found = scales(lowest(others, 0), lowest(others + 20, 1), lowest(floor, 2))
    assert told(found, "offset") == severity


@pytest.mark.parametrize(("median", "severity"), [(-69, None), (-71, "warning")])
def test_decibels_that_were_multiplied(scales, median, severity):
    array = np.random.default_rng(0).normal(0, 4, (1, 48, 48))
    array = array - np.median(array) + median
    assert told(scales(array, kind="sar", unit="db"), "unit") == severity


@pytest.mark.parametrize(
    ("usual", "factor", "severity"),
    [(90, 29, None), (90, 31, "warning"), (60, 32, None), (66, 32, "warning")],
)
def test_heights_in_another_unit(scales, usual, factor, severity):
    """More than 30 times the spread of the others, and more than 2000."""

    def spread(value: float, seed: int) -> np.ndarray:
        array = np.random.default_rng(seed).random((1, 48, 48)).astype(np.float32)
        low, high = np.percentile(array, (5, 99))
        return 200 + (array - low) / (high - low) * value

    arrays = [spread(usual, seed) for seed in range(3)]
    found = scales(*arrays, spread(usual * factor, 4), kind="elevation", unit="m")
    assert told(found, "mixed-scale") == severity


# Scenes that occur twice.


@pytest.mark.parametrize(("cosine", "severity"), [(0.975, None), (0.985, "warning")])
def test_nearly_identical_scenes(cosine, severity):
    rng = np.random.default_rng(0)
    one, other = np.linalg.qr(rng.normal(size=(1024, 2)))[0].T
    mixed = cosine * one + np.sqrt(1 - cosine**2) * other
    prints = {
        "a": ("train", Fingerprint("1", {"m": one.astype(np.float16)})),
        "b": ("test", Fingerprint("2", {"m": mixed.astype(np.float16)})),
    }
    assert told(find_duplicates(prints), "leak") == severity


# Labels.


@pytest.mark.parametrize(("rows", "severity"), [(86, None), (87, "note")])
def test_mostly_void(look_at, rows, severity):
    """90 % of 96 rows are 86.4."""
    labels = np.tile(np.arange(2, dtype=np.uint8), (1, 96, 48))
    labels[:, :rows] = 255
    found = check_labels(look_at(labels=labels, m=(image(1, 96), {}, {})))
    assert told(found, "mostly-void") == severity


@pytest.mark.parametrize(("wrong", "severity"), [(0.025, None), (0.015, "error")])
@pytest.mark.parametrize("worst", [0, 1])
def test_a_band_that_gives_the_class_away(look_at, wrong, severity, worst):
    """98 % of every class, whichever is told worse."""
    labels = np.zeros((1, 96, 96), np.uint8)
    labels[:, 48:] = 1
    band = 10 + 20 * labels
    of_class = np.flatnonzero(labels.ravel() == worst)[: round(wrong * 4608)]
    band.ravel()[of_class] = 10 + 20 * (1 - worst)
    found = check_labels(look_at(labels=labels, m=(band, {}, {})))
    assert told(found, "labels-as-input") == severity


@pytest.mark.parametrize(("index", "severity"), [(0.01, None), (-0.01, "note")])
def test_plants_darker_in_infrared(look_at, index, severity):
    """A median NDVI below 0; that no order of equal bands mends."""
    labels = np.zeros((1, 48, 48), np.uint8)
    red = np.random.default_rng(0).integers(9_000, 11_000, (48, 48)).astype(np.float32)
    bands = np.stack([red, red * (1 + index) / (1 - index)])
    kept = OPTICAL | {"bands": ("red", "nir")}
    found = check_bands(look_at(labels=labels, classes=("forest", "soil"), m=(bands, kept, {})))
    assert told(found, "band-order") == severity


# Structure.


@pytest.mark.parametrize(
    ("rows", "severity"), [(100, None), (97, "note"), (52, "note"), (48, "warning")]
)
def test_coverage(look_at, rows, severity):
    """Looked at in 33 rows: one less than all is 97 %, 17 are 52 %, 16 are 48 %."""
    noise = np.random.default_rng(0).random((1, 100, 100)).astype(np.float32)
    found = check_structure(look_at(m=(noise, {}, {}), n=(noise[:, :rows], {}, {})))
    assert told(found, "coverage") == severity


@pytest.mark.parametrize(
    ("metres", "severity"),
    [(14.9, None), (15.1, "warning"), (6.7, None), (6.6, "warning")],
)
def test_pixels_of_another_size(look_at, metres, severity):
    noise = np.random.default_rng(0).random((1, 64, 64)).astype(np.float32)
    other = np.random.default_rng(1).random((1, 100, 100)).astype(np.float32)
    place = {"transform": from_origin(500_000, 5_000_000, metres, metres)}
    case = look_at(m=(noise, {}, {}), n=(other, {}, place))
    found = [f for f in check_structure(case) if f.code == "pixel-size"]
    assert ([f.severity for f in found] or [None])[0] == severity


# Splits.


@pytest.fixture
def splits(make_raster, tmp_path):
    """Function that checks a scene of each split, the second so many columns away."""

    def run(column: int, labels: np.ndarray) -> list:
        entries = []
        for name, first in (("train", 0), ("val", column)):
            place = {"transform": from_origin(500_000 + 10 * first, 5_000_000, 10, 10)}
            noise = np.random.default_rng(first).random((1, 40, 40))
            make_raster(tmp_path / f"{name}.tif", noise, **place)
            make_raster(tmp_path / f"{name}_l.tif", labels[None].astype(np.uint8), **place)
            files = {"m": f"{name}.tif", "labels": f"{name}_l.tif"}
            entries.append({"id": name, "split": name} | files)
        values = {
            "classes": [{"name": n, "code": i} for i, n in enumerate("ab")],
            "modalities": {"m": {"bands": ["x"]}},
            "scenes": entries,
        }
        (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(values))
        return check_manifest(load_manifest(tmp_path / "dataset.yaml"), workers=1)

    return run


@pytest.mark.parametrize(("apart", "severity"), [(31, "note"), (33, None)])
def test_neighbours_in_other_splits(splits, apart, severity):
    labels = np.random.default_rng(0).integers(0, 2, (40, 40))
    assert told(splits(40 + apart, labels), "split-near") == severity


@pytest.mark.parametrize(("pixels", "severity"), [(1, "note"), (2, None)])
def test_rare_classes(splits, pixels, severity):
    """A thousandth of 1600 pixels are 1.6."""
    labels = np.zeros((40, 40), int)
    labels[7, :pixels] = 1
    assert told(splits(500, labels), "rare-class") == severity

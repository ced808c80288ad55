"""Generated rasters as channels: the same for every window, every process and every machine."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin

from terrafuse.data import ReadingRules, Scene, load_manifest, scene_from_rasters
from terrafuse.data.encoding import ENCODED_BANDS, draw_colors, find_boundaries
from terrafuse.errors import BandError, ConfigError, DataError
from terrafuse.modalities import Modality
from terrafuse.samples import Window
from terrafuse.sampling.augment import resize_sample

MakeRaster = Callable[..., Path]
ENCODINGS = ("color", "gray", "boundary", "mean_rgb")


def write_segments(make_raster: MakeRaster, path: Path, labels: np.ndarray, **tags: str) -> Path:
    make_raster(path, labels[None].astype(np.uint16), nodata=65535)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(**tags)
    table = np.random.default_rng(0).integers(0, 255, (int(labels[labels < 65535].max()) + 1, 3))
    np.save(path.with_suffix(".colors.npy"), table.astype(np.uint8))
    return path


def open_encoded(path: Path, encoding: Any, **rules: Any) -> Scene:
    modality = Modality("s", ENCODED_BANDS[encoding], kind="structure")
    resampling = "bilinear" if encoding == "stretch" else "nearest"
    rule = ReadingRules(encoding=encoding, resampling=resampling, **rules)  # type: ignore[arg-type]
    return scene_from_rasters([modality], {"s": path}, sources={"s": rule})


def read_all(scene: Scene) -> np.ndarray:
    return scene.read(scene.full_window).images["s"].numpy()


def segments(height: int = 70, width: int = 90, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 300, (height // 5 + 1, width // 5 + 1))
    labels = labels.repeat(5, 0).repeat(5, 1)[:height, :width]
    labels[10:20, 10:30] = 65535
    return labels


def test_by_hand(make_raster: MakeRaster, tmp_path: Path) -> None:
    labels = np.array([[0, 0, 1], [0, 1, 1], [2, 2, 65535]])
    path = write_segments(make_raster, tmp_path / "a.tif", labels, TERRAFUSE_KEY="town")
    hidden = labels == 65535
    color = read_all(open_encoded(path, "color"))
    assert (np.isnan(color) == hidden).all()
    assert (color[:, labels == 0] == 0).all()
    for number in (1, 2):
        (once,) = np.unique(color[:, labels == number], axis=1).T
        assert ((once >= 1) & (once <= 255) & (once == np.round(once))).all()
    np.testing.assert_array_equal(read_all(open_encoded(path, "gray"))[0], color[0])
    boundary = read_all(open_encoded(path, "boundary"))[0]
    expected = [[0, 255, 255], [255, 255, 0], [255, 255, np.nan]]
    np.testing.assert_array_equal(boundary, expected)
    table = np.load(tmp_path / "a.colors.npy")
    mean = read_all(open_encoded(path, "mean_rgb"))
    for number in range(3):
        np.testing.assert_array_equal(
            mean[:, labels == number], table[[number]].T.repeat((labels == number).sum(), axis=1)
        )


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_pixel_does_not_depend_on_the_window_it_is_read_in(
    make_raster: MakeRaster, tmp_path: Path, encoding: str
) -> None:
    scene = open_encoded(write_segments(make_raster, tmp_path / "a.tif", segments()), encoding)
    whole = read_all(scene)
    rng = np.random.default_rng(1)
    for _ in range(25):
        row, col, height, width = (int(n) for n in rng.integers((-5, -5, 1, 1), (60, 80, 30, 30)))
        window = Window(row, col, height, width)
        inner = window.intersection(scene.full_window)
        if inner is None:
            continue
        found = scene.read(window)
        np.testing.assert_array_equal(
            found.images["s"].numpy()[:, *inner.slices(window)], whole[:, *inner.slices()]
        )
        assert int(found.valid["s"].sum()) == (~np.isnan(whole[0][inner.slices()])).sum()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_likewise_on_another_grid(make_raster: MakeRaster, tmp_path: Path, encoding: str) -> None:
    """Labels are resampled before they are encoded: no colour that no segment has."""
    path = write_segments(make_raster, tmp_path / "a.tif", segments())
    transform = from_origin(500_003, 4_999_998, 7, 7)
    grid = make_raster(tmp_path / "g.tif", np.ones((1, 80, 100), np.uint8), transform=transform)
    modality = Modality("s", ENCODED_BANDS[encoding], kind="structure")
    rule = ReadingRules(encoding=encoding, resampling="nearest")  # type: ignore[arg-type]
    scene = scene_from_rasters(
        [Modality("g", ("g",)), modality], {"g": grid, "s": path}, grid="g", sources={"s": rule}
    )
    whole = read_all(scene)
    for window in (Window(3, 5, 40, 30), Window(31, 60, 49, 40), Window(64, 64, 1, 1)):
        np.testing.assert_array_equal(
            scene.read(window).images["s"].numpy(), whole[:, *window.slices()]
        )
    allowed = read_all(open_encoded(path, encoding)).reshape(len(whole), -1)
    known = whole.reshape(len(whole), -1)
    colors = set(map(tuple, known[:, ~np.isnan(known[0])].T))
    assert len(colors) > 1
    assert colors <= set(map(tuple, allowed[:, ~np.isnan(allowed[0])].T))


def test_colors_are_those_of_the_image_in_every_process(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    labels = segments()
    path = write_segments(make_raster, tmp_path / "a.tif", labels, TERRAFUSE_KEY="town")
    moved = write_segments(make_raster, tmp_path / "b.tif", labels, TERRAFUSE_KEY="town")
    other = write_segments(make_raster, tmp_path / "c.tif", labels, TERRAFUSE_KEY="field")
    nameless = write_segments(make_raster, tmp_path / "town.tif", labels)
    first = read_all(open_encoded(path, "color"))
    np.testing.assert_array_equal(read_all(open_encoded(moved, "color")), first)
    np.testing.assert_array_equal(read_all(open_encoded(nameless, "color")), first)
    known = ~np.isnan(first)
    assert (read_all(open_encoded(other, "color")) != first)[known].any()
    code = (
        "import numpy as np; from terrafuse.data.encoding import draw_colors;"
        "print(draw_colors(np.array([[1, 2, 70000]]), 'town').ravel().tolist())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = draw_colors(np.array([[1, 2, 70000]]), "town").ravel().tolist()
    assert there.stdout.strip() == str(here)
    # Fixed for good: a model must find the colours that it was trained with.
    assert here == [one for channel in range(3) for one in by_hand([1, 2, 70000], "town", channel)]


def by_hand(numbers: list[int], key: str, channel: int) -> list[int]:
    """SplitMix64 in whole numbers of any size."""
    mask, colors = 2**64 - 1, []
    for number in numbers:
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
        z = (seed + number * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
        colors.append((((z >> 16 * channel) & 0xFFFF) * 255 >> 16) + 1)
    return colors


def test_colors_differ_and_use_the_range() -> None:
    colors = draw_colors(np.arange(1, 20_001)[None], "a")[:, 0].astype(int)
    assert (colors.min(), colors.max()) == (1, 255)
    assert abs(colors.mean() - 128) < 1
    assert len(np.unique(colors, axis=1).T) > 19_950
    assert abs(np.corrcoef(colors)[np.triu_indices(3, 1)]).max() < 0.03
    assert abs(np.corrcoef(colors[0, 1:], colors[0, :-1])[0, 1]) < 0.03


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_boundaries_are_where_a_neighbour_differs(height, width, count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, count, (height + 2, width + 2)).astype(np.float32)
    labels[rng.random(labels.shape) < 0.2] = np.nan
    found = find_boundaries(labels)
    for row in range(height):
        for col in range(width):
            own = labels[row + 1, col + 1]
            around = [(row, col + 1), (row + 2, col + 1), (row + 1, col), (row + 1, col + 2)]
            differ = any(not np.isnan(labels[p]) and labels[p] != own for p in around)
            expected = np.nan if np.isnan(own) else 255 * differ
            np.testing.assert_equal(found[row, col], np.float32(expected))


def test_depth_is_stretched_between_the_limits_in_its_tags(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    values = np.array([[[-5, 10, 20, 30, 99, np.nan]]], np.float32)
    path = make_raster(tmp_path / "d.tif", values, nodata=float("nan"))
    scene = open_encoded(path, "stretch")
    with pytest.raises(DataError, match=r"does not say between which values.*TERRAFUSE_LIMITS"):
        read_all(scene)
    for limits, expected in (
        ("10.0 30.0", [0, 0, 127.5, 255, 255, np.nan]),
        ("10.0 10.0", [0, 0, 0, 0, 0, np.nan]),
    ):
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(TERRAFUSE_LIMITS=limits)
        np.testing.assert_allclose(read_all(open_encoded(path, "stretch"))[0, 0], expected)


def test_encoded_scenes_travel_to_other_processes(make_raster: MakeRaster, tmp_path: Path) -> None:
    path = write_segments(make_raster, tmp_path / "a.tif", segments())
    for encoding in ENCODINGS:
        scene = open_encoded(path, encoding)
        first = read_all(scene)
        np.testing.assert_array_equal(read_all(pickle.loads(pickle.dumps(scene))), first)


def test_an_encoded_band_can_be_rescaled_and_decimated(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    path = write_segments(make_raster, tmp_path / "a.tif", segments())
    plain = read_all(open_encoded(path, "gray"))
    rescaled = read_all(open_encoded(path, "gray", rescale="scene_range"))
    low, high = np.nanmin(plain), np.nanmax(plain)
    np.testing.assert_allclose(rescaled, (plain - low) / (high - low), atol=1e-6)


def test_rasters_that_hold_no_segments(make_raster: MakeRaster, tmp_path: Path) -> None:
    floats = make_raster(tmp_path / "f.tif", np.full((1, 4, 4), 1.5, np.float32))
    with pytest.raises(BandError, match=r"holds 1\.5, which is not a segment number"):
        read_all(open_encoded(floats, "color"))
    negative = make_raster(tmp_path / "n.tif", np.full((1, 4, 4), -1, np.int16))
    with pytest.raises(BandError, match="holds -1"):
        read_all(open_encoded(negative, "gray"))
    huge = make_raster(tmp_path / "h.tif", np.full((1, 4, 4), 4e9, np.float64))
    with pytest.raises(BandError, match=r"holds 4e\+09"):
        read_all(open_encoded(huge, "color"))
    three = make_raster(tmp_path / "t.tif", np.ones((3, 4, 4), np.uint8))
    with pytest.raises(BandError, match=r"encoding 'color' is made of one band; .* has 3"):
        open_encoded(three, "color")
    assert read_all(open_encoded(three, "color", read_bands=(2,))).shape == (3, 4, 4)


def test_a_table_that_is_missing_or_belongs_to_another_raster(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    path = write_segments(make_raster, tmp_path / "a.tif", segments())
    table = tmp_path / "a.colors.npy"
    np.save(table, np.zeros((5, 3), np.uint8))
    with pytest.raises(DataError, match="table of mean colours ends at 4"):
        read_all(open_encoded(path, "mean_rgb"))
    np.save(table, np.zeros((5, 4), np.uint8))
    with pytest.raises(DataError, match="not a table of colours"):
        read_all(open_encoded(path, "mean_rgb"))
    table.unlink()
    with pytest.raises(DataError, match=r"needs '.*a\.colors\.npy', which cannot be read"):
        read_all(open_encoded(path, "mean_rgb"))


def test_rasters_of_another_generator_are_refused(make_raster: MakeRaster, tmp_path: Path) -> None:
    path = write_segments(make_raster, tmp_path / "a.tif", segments(), TERRAFUSE_GENERATOR="a1")
    assert open_encoded(path, "color", generator="a1")
    with pytest.raises(DataError, match=r"was made by generator a1; expected b2"):
        open_encoded(path, "color", generator="b2")
    plain = make_raster(tmp_path / "p.tif", np.ones((1, 4, 4), np.uint8))
    with pytest.raises(DataError, match="by no known generator"):
        open_encoded(plain, "color", generator="b2")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            "bands: [a, b, c], encoding: color",
            r"makes the bands \['color_red'.*not \['a', 'b', 'c'\]",
        ),
        ("bands: [gray], encoding: grey", "'modalities.s.encoding' is 'grey'"),
        (
            "bands: [gray], encoding: gray, resampling: bilinear",
            "segment numbers cannot be interpolated",
        ),
        ("bands: [gray], encoding: gray, kind: other", "segment numbers cannot be interpolated"),
        (
            "bands: [gray], encoding: gray, read_bands: [1, 2]",
            "1 bands in its files but 2 read_bands",
        ),
    ],
)
def test_faults_in_the_manifest(tmp_path: Path, extra: str, message: str) -> None:
    path = tmp_path / "dataset.yaml"
    kind = "" if "kind" in extra else "kind: structure, "
    path.write_text(
        f"classes: [{{name: a}}]\nmodalities:\n  s: {{{kind}{extra}}}\n"
        "scenes:\n  - {id: a, s: a.tif}\n"
    )
    with pytest.raises(ConfigError, match=message):
        load_manifest(path)


def test_encodings_survive_the_manifest(make_raster: MakeRaster, tmp_path: Path) -> None:
    write_segments(make_raster, tmp_path / "a.tif", segments(), TERRAFUSE_GENERATOR="a1")
    path = tmp_path / "dataset.yaml"
    path.write_text(
        "classes: [{name: a}]\nmodalities:\n  s: {kind: structure, bands: [boundary], "
        "encoding: boundary, generator: a1}\nscenes:\n  - {id: a, s: a.tif}\n"
    )
    manifest = load_manifest(path)
    assert manifest.to_dict()["modalities"]["s"] == {
        "bands": ["boundary"], "kind": "structure", "encoding": "boundary", "generator": "a1",
    }  # fmt: skip
    rules = manifest.rules["s"]
    assert ReadingRules.from_dict(rules.to_dict()) == rules
    before = {k: v for k, v in rules.to_dict().items() if k not in ("encoding", "generator")}
    assert ReadingRules.from_dict(before).encoding is None
    assert read_all(manifest.scene("a")).shape == (1, 70, 90)


def test_the_zoom_of_augmentation_makes_no_new_colour(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    path = write_segments(make_raster, tmp_path / "a.tif", segments(64, 64))
    scene = open_encoded(path, "color")
    sample = scene.read(scene.full_window)
    for size in (32, 48, 100):
        zoomed = resize_sample(sample, scene.modalities, size)
        assert zoomed.images["s"].shape == (3, size, size)
        known = zoomed.valid["s"]
        colors = torch.unique(zoomed.images["s"][:, known].T, dim=0)
        all_colors = torch.unique(sample.images["s"][:, sample.valid["s"]].T, dim=0)
        assert set(map(tuple, colors.tolist())) <= set(map(tuple, all_colors.tolist()))
        assert bool((~known).any())

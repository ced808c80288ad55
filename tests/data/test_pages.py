"""Files of several pages: said, chosen, or read as bands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from terrafuse.api import data_describe
from terrafuse.data import load_manifest
from terrafuse.errors import ConfigError, RasterReadError

MakeRaster = Callable[..., Path]
PAGES = np.arange(3 * 6 * 8, dtype=np.uint16).reshape(3, 6, 8)
CODES = np.stack([np.zeros((6, 8)), np.arange(48).reshape(6, 8) % 2, np.ones((6, 8))])


def write_pages(make_raster: MakeRaster, path: Path, pages: np.ndarray, **place: object) -> None:
    """Write each band as a page; `place` is of all pages but the first."""
    make_raster(path, pages[:1])
    for page in pages[1:]:
        make_raster(path, page[None], APPEND_SUBDATASET="YES", **place)


@pytest.fixture
def read(make_raster: MakeRaster, tmp_path: Path) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Function that reads images and labels, each of three pages, by keys of their manifest."""
    # Only the first page says where it lies, as many tools write them.
    write_pages(make_raster, tmp_path / "i.tif", PAGES, crs=None)
    write_pages(make_raster, tmp_path / "l.tif", CODES.astype(np.uint8))

    def load(bands: int, labels: dict[str, int], **rules: object) -> tuple[np.ndarray, np.ndarray]:
        values = {
            "classes": [{"name": "a", "code": 0}, {"name": "b", "code": 1}],
            "modalities": {"m": {"bands": [f"b{n}" for n in range(bands)], **rules}},
            "labels": labels,
            "scenes": [{"id": "s", "m": "i.tif", "labels": "l.tif"}],
        }
        path = tmp_path / "dataset.yaml"
        path.write_text(yaml.safe_dump(values))
        manifest = load_manifest(path)
        # What is written again is the same.
        path.write_text(yaml.safe_dump(manifest.to_dict()))
        scene = load_manifest(path).scene("s")
        sample = scene.read(scene.full_window)
        return sample.images["m"].numpy(), sample.labels.numpy()

    return load


def test_several_pages_are_named_and_asked_for(read: Callable[..., object]) -> None:
    expected = (
        r"modality 'm' of scene 's': '.*i.tif' has 3 pages: 1 \(6 × 8 pixels, 1 band\), 2 \(.*\), "
        r"3 \(.*\). Say in the manifest which: 'page: 1' takes one"
    )
    with pytest.raises(RasterReadError, match=expected):
        read(1, {"page": 2})
    with pytest.raises(RasterReadError, match=r"labels of scene 's': '.*l.tif' has 3 pages"):
        read(1, {}, page=1)


@pytest.mark.parametrize(
    ("page", "taken"), [(1, [0]), (3, [2]), ([3, 1], [2, 0]), ("all", [0, 1, 2])]
)
def test_pages_are_read_as_bands(read: Callable[..., tuple[np.ndarray, np.ndarray]], page: object,
                                 taken: list[int]) -> None:  # fmt: skip
    image, labels = read(len(taken), {"page": 2}, page=page)
    np.testing.assert_array_equal(image, PAGES[taken])
    np.testing.assert_array_equal(labels, CODES[1])


def test_bands_are_picked_from_all_pages(
    read: Callable[..., tuple[np.ndarray, np.ndarray]],
) -> None:
    image, _ = read(2, {"page": 1}, page="all", read_bands=[3, 2])
    np.testing.assert_array_equal(image, PAGES[[2, 1]])


def test_a_page_that_does_not_exist(read: Callable[..., object]) -> None:
    with pytest.raises(RasterReadError, match=r"no page 4; its pages are 1 to 3\. Correct 'page'"):
        read(1, {"page": 1}, page=4)
    with pytest.raises(ConfigError, match=r"'labels\.page' is 0: .* greater than or equal to 1"):
        read(1, {"page": 0}, page=1)


def test_a_file_of_one_page_is_its_first(make_raster: MakeRaster, tmp_path: Path) -> None:
    make_raster(tmp_path / "i.tif", PAGES[:2])
    path = tmp_path / "dataset.yaml"
    for page in (1, "all"):
        path.write_text(
            "classes: [{name: a}]\nscenes: [{id: s, m: i.tif}]\n"
            f"modalities: {{m: {{bands: [x, y], page: {page}}}}}\n"
        )
        scene = load_manifest(path).scene("s")
        np.testing.assert_array_equal(scene.read(scene.full_window).images["m"], PAGES[:2])


def test_overviews_and_masks_are_no_pages(make_raster: MakeRaster, tmp_path: Path) -> None:
    import rasterio

    path = make_raster(tmp_path / "i.tif", np.zeros((1, 64, 64), np.uint8))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.ones((64, 64), bool))
        dataset.build_overviews([2, 4])
    manifest = tmp_path / "dataset.yaml"
    manifest.write_text(
        "classes: [{name: a}]\nmodalities: {m: {bands: [x]}}\nscenes: [{id: s, m: i.tif}]\n"
    )
    assert load_manifest(manifest).scene("s").grid.height == 64


def test_described_folders_read_pages_as_bands_and_say_so(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        write_pages(make_raster, tmp_path / f"set/images/{name}.tif", PAGES)
        make_raster(tmp_path / f"set/labels/{name}.tif", CODES[1:2].astype(np.uint8))
    said: list[str] = []
    data_describe(tmp_path / "set", tmp_path / "dataset.yaml", options={}, report=said.append)
    manifest = load_manifest(tmp_path / "dataset.yaml")
    assert any("has 3 pages, read as bands ('page: all')" in line for line in said)
    scene = manifest.scene("b")
    np.testing.assert_array_equal(scene.read(scene.full_window).images["images"], PAGES)

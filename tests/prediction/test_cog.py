"""Cloud-optimised GeoTIFFs made tile by tile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from safetensors.numpy import save_file

from terrafuse.prediction import cog, tiff
from terrafuse.prediction.cog import (
    Block,
    BlockWriter,
    Encoding,
    assemble,
    level_sizes,
    write_template,
)
from terrafuse.samples import Window

PLACE: dict[str, Any] = {"crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, 10, 10)}
DEFLATE = {"compress": "DEFLATE", "predictor": "2", "zlevel": "1"}
CODES = Encoding("uint8", 255, "mode", DEFLATE)
SHARES = Encoding("uint8", 255, "average", DEFLATE)
FLOATS = Encoding("float32", np.nan, "average", DEFLATE | {"predictor": "3"})


def block_of(path: Path, array: np.ndarray, encoding: Encoding, step: int = 100) -> Block:
    """The raster as one block, written in strips of `step` rows."""
    writer = BlockWriter(array.shape[1], len(level_sizes(*array.shape)), encoding)
    for row in range(0, len(array), step):
        writer.write(array[row : row + step])
    save_file(writer.finish(), path)
    return Block(path, Window(0, 0, *array.shape))


def write(folder: Path, array: np.ndarray, encoding: Encoding, step: int = 100) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    block = block_of(folder / "block", array, encoding, step)
    path = folder / "map.tif"
    with write_template(path, *array.shape, encoding.profile | PLACE) as template:
        template.update_tags(made="here")
    assemble(path, [[block]], encoding, path)
    return path


def overview(path: Path, level: int) -> np.ndarray:
    with rasterio.open(path, overview_level=level) as dataset:
        values: np.ndarray = dataset.read(1)
        return values


@pytest.mark.parametrize("encoding", [CODES, SHARES, FLOATS], ids=["codes", "shares", "floats"])
@pytest.mark.parametrize("shape", [(1, 1), (512, 512), (513, 300), (1300, 1025), (4100, 90)])
def test_pixels_tags_and_overviews(
    shape: tuple[int, int], encoding: Encoding, tmp_path: Path
) -> None:
    array = np.random.default_rng(0).integers(0, 9, shape).astype(encoding.dtype)
    array[: shape[0] // 3] = encoding.nodata
    path = write(tmp_path, array, encoding)
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(1), array)
        assert dataset.crs == PLACE["crs"]
        assert dataset.transform == PLACE["transform"]
        assert dataset.tags()["made"] == "here"
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.block_shapes == [(512, 512)]
        assert len(dataset.overviews(1)) == len(level_sizes(*shape)) - 1
        assert np.array_equal(dataset.nodata, encoding.nodata, equal_nan=True)
    expected = array
    for level in range(len(level_sizes(*shape)) - 1):
        expected = encoding.reduce(expected)
        np.testing.assert_array_equal(overview(path, level), expected)


def test_the_same_however_the_rows_come(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 5, (1200, 700)).astype(np.uint8)
    files = [write(tmp_path / str(step), array, CODES, step) for step in (1, 333, 512, 5000)]
    assert len({file.read_bytes() for file in files}) == 1


def test_mode_by_hand() -> None:
    n = 255
    blocks = {
        (1, 2, 2, 3): 2,
        (1, 2, 3, 3): 3,
        (1, 2, 3, 1): 1,
        (4, 3, 2, 1): 4,  # all once: the first
        (n, 2, 3, 3): 3,
        (n, 4, 3, 2): 4,
        (n, n, 7, 7): 7,
        (n, n, 6, 7): 6,
        (n, n, n, 5): 5,
        (5, n, n, n): 5,
        (n, n, n, n): n,
        (1, 1, 2, 2): 1,
    }
    rows = np.array([[v for b in blocks for v in b[:2]], [v for b in blocks for v in b[2:]]])
    assert CODES.reduce(rows.astype(np.uint8)).tolist() == [list(blocks.values())]


def test_averages_by_hand() -> None:
    n = 255
    blocks = {(1, 2, 3, 4): 2, (1, 2, 2, 5): 2, (3, 4, 4, 3): 4, (n, 10, 20, 31): 20, (n,) * 4: n}
    rows = np.array([[v for b in blocks for v in b[:2]], [v for b in blocks for v in b[2:]]])
    # 2.5 → 2 and 3.5 → 4: halves to the even number, so that overviews do not brighten.
    assert SHARES.reduce(rows.astype(np.uint8)).tolist() == [list(blocks.values())]
    floats = np.array([[1, np.nan], [2, np.nan]], np.float32)
    assert FLOATS.reduce(floats).tolist() == [[1.5]]


def test_averages_of_bytes_without_gaps_are_those_of_numpy() -> None:
    rows = np.random.default_rng(0).integers(0, 255, (200, 302)).astype(np.uint8)
    means = rows.reshape(100, 2, 151, 2).mean(axis=(1, 3))
    assert np.array_equal(SHARES.reduce(rows), np.rint(means))


def test_an_odd_end_counts_what_is_there() -> None:
    rows = np.array([[1, 1, 8], [1, 1, 8], [6, 4, 2]], np.uint8)
    assert CODES.reduce(rows).tolist() == [[1, 8], [6, 2]]
    assert SHARES.reduce(rows).tolist() == [[1, 8], [5, 2]]


@pytest.mark.parametrize("is_big", [False, True])
def test_layout_is_the_one_of_cloud_optimised_files(
    is_big: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directories at the start, then tiles of the coarsest overview, the full image last."""
    monkeypatch.setattr(cog, "_MOST_CLASSIC", 0 if is_big else 2**32)
    array = np.random.default_rng(0).integers(0, 5, (1100, 1030)).astype(np.uint8)
    path = write(tmp_path, array, CODES)
    file = path.read_bytes()
    assert (file[2] == 43) == is_big
    first = tiff.read_directory(file)
    offsets, sizes = (first[tag].numbers for tag in (tiff.TILE_OFFSETS, tiff.TILE_BYTE_COUNTS))
    assert len(offsets) == 9
    assert list(offsets) == sorted(offsets)
    assert offsets[-1] + sizes[-1] + 4 == len(file)  # the tile's last bytes are there again
    for offset, size in zip(offsets, sizes, strict=True):
        assert int.from_bytes(file[offset - 4 : offset], "little") == size
        assert file[offset + size : offset + size + 4] == file[offset + size - 4 : offset + size]
    assert file.index(b"GDAL_STRUCTURAL_METADATA_SIZE=000140 bytes\n") == (16 if is_big else 8)
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(1), array)
        tops = [
            int(dataset.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1, ovr=level))
            for level in range(2)
        ]
        assert tops[1] < tops[0] < offsets[0]
    np.testing.assert_array_equal(overview(path, 1), CODES.reduce(CODES.reduce(array)))


def test_a_template_that_is_not_all_there_is_noticed(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 5, (600, 600)).astype(np.uint8)
    block = block_of(tmp_path / "block", array, CODES)
    path = tmp_path / "map.tif"
    write_template(path, *array.shape, CODES.profile | PLACE).close()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(OSError, match=r"map\.tif is not on disk as it was written"):
        assemble(path, [[block]], CODES, path)

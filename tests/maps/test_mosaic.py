"""Mosaics, by hand: overlapping maps of unequal sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from made_maps import TEN_M, write_map
from terrafuse.api import mosaic
from terrafuse.errors import ConfigError, DataError, GridMismatchError, OutputError
from terrafuse.locking import folder_lock

N = 255
A = [[0, 1, 1], [0, 0, N]]
A_LEVELS = [[200, 100, 50], [200, 10, N]]
B = [[2, 2, 2], [1, 1, N], [0, 0, 0]]
B_LEVELS = [[90, 60, 120], [20, 254, N], [30, 30, 30]]
#: B begins one row above A and one column to its right: A's pixel (0, 1) is B's (1, 0).
B_AT = TEN_M * Affine.translation(1, -1)
BY_FIRST = [[N, 2, 2, 2], [0, 1, 1, N], [0, 0, 0, 0]]
BY_LAST = [[N, 2, 2, 2], [0, 1, 1, N], [0, 0, 0, 0]]


def two(folder: Path, **changes: Any) -> tuple[Path, Path]:
    a = write_map(folder / "a" / "class_map.tif", A, confidence=A_LEVELS)
    settings = {"transform": B_AT, "confidence": B_LEVELS, **changes}
    return a, write_map(folder / "b" / "class_map.tif", settings.pop("classes", B), **settings)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def test_by_confidence(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    made = mosaic([a.parent, b], tmp_path / "out")
    # A's (0, 1): 100 against 20; (0, 2): 50 against 254; (1, 1): 10 against 30.
    assert read(made.class_map).tolist() == [[N, 2, 2, 2], [0, 1, 1, N], [0, 0, 0, 0]]
    assert read(made.confidence).tolist() == [
        [N, 90, 60, 120],
        [200, 100, 254, N],
        [200, 30, 30, 30],
    ]
    with rasterio.open(made.class_map) as dataset:
        assert dataset.transform == TEN_M * Affine.translation(0, -1)
        assert dataset.overviews(1) == []
        assert dataset.block_shapes == [(512, 512)]
    record = json.loads(made.record.read_text())
    assert record["mosaic"] == {
        "by": "confidence",
        "maps": [{"file": str(a), "resampled": False}, {"file": str(b), "resampled": False}],
    }


@pytest.mark.parametrize(
    ("by", "middle"), [("first", [[1, 1], [0, 0]]), ("last", [[2, 1], [0, 0]])]
)
def test_by_order(by: str, middle: list[list[int]], tmp_path: Path) -> None:
    own = [[2, 2, 2], [2, 1, N], [0, 0, 0]]
    a, b = two(tmp_path, classes=own)
    made = mosaic([a, b], tmp_path / "out", by=by)
    assert read(made.class_map)[1:, 1:3].tolist() == middle
    assert read(made.confidence)[1, 1] == {"first": 100, "last": 20}[by]


def test_classes_in_another_order_are_brought_into_that_of_the_first(tmp_path: Path) -> None:
    a, _ = two(tmp_path)
    other = write_map(
        tmp_path / "c.tif", [[0, 7, 3]], names=("ice", "sea", "wet land"), values=(7, 0, 3)
    )
    made = mosaic([other, a], tmp_path / "out", by="first")
    assert read(made.class_map).tolist() == [[0, 7, 3], [0, 0, N]]
    made = mosaic([a, other], tmp_path / "out2", by="last")
    assert read(made.class_map).tolist() == [[0, 2, 1], [0, 0, N]]


def test_other_classes_are_refused(tmp_path: Path) -> None:
    a, b = two(tmp_path, names=("sea", "wet land", "rock"))
    with pytest.raises(DataError, match=r"other classes than .*: ice, rock in one of both only"):
        mosaic([a, b], tmp_path / "out")
    _, b = two(tmp_path)
    mosaic([a, b], tmp_path / "out")  # of a model of the same classes


def test_another_grid_is_resampled_and_told(tmp_path: Path) -> None:
    a, _ = two(tmp_path)
    coarse = write_map(
        tmp_path / "c.tif", [[1, 2]], transform=TEN_M * Affine.translation(3, 0) * Affine.scale(2)
    )
    with pytest.warns(UserWarning, match=r"c\.tif' are not those of the mosaic; it is resampled"):
        made = mosaic([a, coarse], tmp_path / "out", by="first")
    assert read(made.class_map).tolist() == [[0, 1, 1, 1, 1, 2, 2], [0, 0, N, 1, 1, 2, 2]]
    with pytest.warns(UserWarning, match="resampled"):
        made = mosaic([a, coarse], tmp_path / "like", by="first", like=coarse)
    assert read(made.class_map).tolist() == [[1, 2]]


def test_another_crs(tmp_path: Path) -> None:
    """The same two pixels in the neighbouring zone, in which they are turned by a few degrees."""
    a, _ = two(tmp_path)
    inside = write_map(
        tmp_path / "c.tif", np.full((40, 40), 2), crs="EPSG:32632",
        transform=Affine(10, 0, 970_100, 0, -10, 5_013_700),
    )  # fmt: skip
    with pytest.warns(UserWarning, match="resampled"):
        made = mosaic([a, inside], tmp_path / "out", by="first")
    found = read(made.class_map)
    with rasterio.open(made.class_map) as dataset:
        assert dataset.crs.to_epsg() == 32633
    # 1600 pixels of 10 m, on a plane whose scale differs by less than 0.5 %.
    assert abs((found == 2).sum() - 1600) < 20


def test_wide_maps_go_block_by_block(tmp_path: Path) -> None:
    values = np.random.default_rng(3).integers(0, 3, (1200, 1100))
    a = write_map(tmp_path / "a.tif", values[:700])
    b = write_map(tmp_path / "b.tif", values[600:], transform=TEN_M * Affine.translation(0, 600))
    made = mosaic([a, b], tmp_path / "out")
    assert (read(made.class_map) == values).all()
    assert set(made.files) == {"class_map"}


def test_remedies(tmp_path: Path) -> None:
    """Each is followed in the line after it."""
    a, b = two(tmp_path, confidence=None)
    out = tmp_path / "out"
    (b.parent / "confidence.tif").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"no confidence.tif beside .*--by first"):
        mosaic([a, b], out, by="confidence")
    mosaic([a, b], out, by="first")
    with pytest.raises(ConfigError, match="Known: confidence, first, last"):
        mosaic([a, b], out, by="best")
    bare = write_map(tmp_path / "bare.tif", A, crs=None)
    with pytest.raises(GridMismatchError, match="Give maps that have one, or none of which has"):
        mosaic([a, bare], out, by="first")
    mosaic([bare, bare], out, by="first")
    polar = "+proj=gnom +lat_0=90 +lon_0=0 +ellps=WGS84"
    pole = write_map(tmp_path / "pole.tif", A, crs=polar, transform=Affine(10, 0, 0, 0, -10, 0))
    south = write_map(tmp_path / "south.tif", A, crs="EPSG:4326",
                      transform=Affine(1, 0, 0, 0, -1, -50))  # fmt: skip
    with pytest.raises(GridMismatchError, match="Name another map first, or the grid of another"):
        mosaic([pole, south], out, by="first")
    with pytest.warns(UserWarning, match="resampled"):
        mosaic([pole, south], out, by="first", like=south)
    with pytest.raises(ConfigError, match="name at least one"):
        mosaic([], out)


def test_no_map_is_written_over_and_one_writes_at_a_time(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    a, b = two(tmp_path)
    with pytest.raises(OutputError, match="would be overwritten"):
        mosaic([a, b], a.parent)
    with (
        folder_lock(tmp_path / "out", "mosaic"),
        ThreadPoolExecutor(1) as pool,
        pytest.raises(OutputError, match="is in use"),
    ):
        pool.submit(mosaic, [a, b], tmp_path / "out").result()

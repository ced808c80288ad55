"""Mosaics, by hand: overlapping maps of unequal sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from made_maps import NAMES, TEN_M, write_map
from small_units import UNIT, make_units_small
from terrafuse.api import mosaic
from terrafuse.errors import ConfigError, DataError, GridMismatchError, OutputError
from terrafuse.locking import folder_lock
from terrafuse.maps import open_class_raster
from terrafuse.prediction import cog, job, units
from terrafuse.prediction.job import UNITS

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


def test_in_tiles_it_has_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_units_small(put=monkeypatch.setattr)
    rng = np.random.default_rng(0)
    classes, levels = rng.integers(0, 3, (2, 70, 150)), rng.integers(0, 255, (2, 70, 150))
    paths = [
        write_map(
            tmp_path / name / "class_map.tif", classes[i].tolist(), confidence=levels[i].tolist(),
            transform=TEN_M * Affine.translation(9 * i, -3 * i),
        )
        for i, name in enumerate("ab")
    ]  # fmt: skip
    one = mosaic(paths, tmp_path / "one")
    with pytest.raises(ConfigError, match=f"tiles is 50; give .* multiple of {UNIT}"):
        mosaic(paths, tmp_path / "many", tiles=50)
    many = mosaic(paths, tmp_path / "many", tiles=UNIT)
    assert many.class_map.name == "class_map.vrt"
    assert sum(path.suffix == ".tif" for path in many.parts) == 2 * 2 * 3
    for name in ("class_map", "confidence"):
        assert np.array_equal(read(many[name]), read(one[name]))
    assert open_class_raster(many.class_map).scheme == open_class_raster(one.class_map).scheme


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


@pytest.mark.parametrize("by", ["first", "last", "confidence"])
def test_what_one_map_abstains_from_another_may_name(by: str, tmp_path: Path) -> None:
    """Value 9 is abstained from; named in the other map, there too, or nowhere."""
    a = write_map(
        tmp_path / "a" / "class_map.tif", [[9, 9, 9, 1, 9]], abstained=9,
        confidence=[[90, 80, 70, 60, 50]],
    )  # fmt: skip
    b = write_map(
        tmp_path / "b" / "class_map.tif", [[2, 8, N, 8, 0]], abstained=8,
        confidence=[[20, 100, N, 90, 30]],
    )  # fmt: skip
    made = mosaic([a, b], tmp_path / "out", by=by)
    assert made.class_values.abstained == 254
    assert read(made.class_map).tolist() == [[2, 254, 254, 1, 0]]
    assert read(made.confidence).tolist() == [[20, 80, 70, 60, 30]]
    assert json.loads(made.record.read_text())["abstained_pixels"] == 2
    whole = open_class_raster(made.class_map)
    assert (whole.names[-1], whole.values[-1], whole.scheme.names) == ("abstained", 254, NAMES)
    plain, _ = two(tmp_path / "plain")
    assert mosaic([plain], tmp_path / "out2").class_values.abstained is None


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


@pytest.mark.parametrize(
    ("fault", "seen"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "full"), OutputError)],
)
def test_nothing_stays_of_a_mosaic_that_was_not_finished(
    fault: BaseException, seen: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault is in the second of three units."""
    for module in (cog, units):
        monkeypatch.setattr(module, "UNIT", 1024)
    tall = write_map(tmp_path / "tall" / "class_map.tif", np.ones((2100, 3)))
    out = tmp_path / "out"
    mosaic([two(tmp_path)[0]], out)
    (out / "preview.png").write_bytes(b"of an earlier map")
    before = {path: path.read_bytes() for path in out.iterdir()}
    save, saved = job.save, []

    def fail(content: Any) -> bytes:
        saved.append(len(list((out / UNITS).glob("*.json"))))
        if len(saved) > 1:
            raise fault
        return bytes(save(content))

    monkeypatch.setattr(job, "save", fail)
    with pytest.raises(seen) as told:
        mosaic([tall], out)
    assert saved == [1, 2]  # job.json, and the first unit
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    said = f"{told.value} {getattr(told.value, '__notes__', '')}"
    assert "--resume" not in said
    assert "kept" not in said
    assert isinstance(fault, OSError) or "nothing was written; run the same command again" in said
    # What the message says to do; and after a kill, which leaves units.
    monkeypatch.setattr(job, "save", save)
    units_left = out / UNITS
    units_left.mkdir()
    (units_left / "job.json").write_text("{}")
    with pytest.warns(UserWarning, match="unfinished map, which is begun anew$"):
        made = mosaic([tall], out)
    assert not units_left.exists()
    assert not (out / "preview.png").exists()
    assert read(made.class_map).shape == (2100, 3)

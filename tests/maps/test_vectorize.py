"""Polygons of class maps: the raster exactly, whatever the strips; files that others read."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.features import rasterize

from made_maps import TEN_M, UTM, write_map
from terrafuse.api import vectorize
from terrafuse.data import Grid
from terrafuse.errors import (
    ConfigError,
    DataError,
    MissingDependencyError,
    OutputError,
    RasterReadError,
)
from terrafuse.locking import file_lock
from terrafuse.maps import Polygons, open_class_raster, parse_classes, polygonize
from terrafuse.maps.tracing import trace
from terrafuse.prediction.areas import AreaCount

SPIRAL = """
#########
#.......#
#.#####.#
#.#...#.#
#.#.#.#.#
#.#.###.#
#.#.....#
#.#######
#........
"""
COMB = "#.#.#.#\n" * 6 + "#######\n"
DIAGONAL = "#..#\n.##.\n.##.\n#..#\n"
RING = "###..\n#o#..\n##.##\n..#.#\n..###\n"
ISLANDS = ".......\n.#####.\n.#ooo#.\n.#o.o#.\n.#ooo#.\n.#####.\n.......\n"
SHAPES = {"spiral": SPIRAL, "comb": COMB, "diagonal": DIAGONAL, "ring": RING, "islands": ISLANDS}


def pixels(drawing: str) -> np.ndarray:
    """'#' is class 1, 'o' class 0, '.' no data."""
    return np.array(
        [[{"#": 1, "o": 0, ".": 255}[c] for c in row] for row in drawing.split()], np.uint8
    )


@dataclass(frozen=True)
class Rows:
    """Reader of an array, as `RasterReader` is of a file."""

    values: np.ndarray

    def classes(self, window: Any) -> np.ndarray:
        return self.values[window.row : window.row_stop]

    def confidence(self, window: Any) -> None:
        return None


@dataclass(frozen=True)
class InMemory:
    """A map that is an array."""

    values: np.ndarray

    @property
    def grid(self) -> Grid:
        return Grid(rasterio.CRS.from_string(UTM), TEN_M, *self.values.shape)

    def reading(self) -> Any:
        return nullcontext(Rows(self.values))


def polygons(values: np.ndarray, rows: int, tolerance_px: float = 0) -> Polygons:
    found = polygonize(InMemory(values), rows=rows, tolerance_px=tolerance_px)
    return Polygons.together(list(found))


def check_exact(values: np.ndarray, rows: int) -> list[tuple[int, str]]:
    found = polygons(values, rows)
    shapes = list(zip(found.shapes, found.classes.tolist(), strict=True))
    drawn = np.full(values.shape, 255, np.uint8)
    if shapes:
        drawn = rasterize(shapes, out_shape=values.shape, fill=255, dtype="uint8")
    assert (drawn == values).all()
    assert shapely.is_valid(found.shapes).all()
    assert {shape.geom_type for shape in found.shapes} <= {"Polygon"}
    assert (shapely.area(found.shapes) == found.pixels).all()
    assert found.pixels.sum() == (values != 255).sum()
    # Two neighbours have the same vertices on their common line.
    assert shapely.coverage_is_valid(found.shapes)
    return sorted((int(k), s.normalize().wkt) for s, k in shapes)


SMALL = arrays(
    np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from((0, 1, 255))
)


@settings(max_examples=120, deadline=None, database=None)
@given(SMALL, st.integers(1, 9))
def test_polygons_are_the_raster_whatever_the_strips(values: np.ndarray, rows: int) -> None:
    assert check_exact(values, rows) == check_exact(values, 100)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_that_cross_every_strip(name: str) -> None:
    values = pixels(SHAPES[name])
    whole = check_exact(values, 100)
    for rows in (1, 2, 3, 4):
        assert check_exact(values, rows) == whole


def test_by_hand() -> None:
    """A spiral is one polygon; corners that touch do not join; a hole may touch the outline."""
    assert len(polygons(pixels(SPIRAL), 2)) == 1
    assert len(polygons(pixels(COMB), 2)) == 1
    assert len(polygons(pixels(DIAGONAL), 1)) == 5
    ring = polygons(pixels(RING), 2)
    assert sorted(zip(ring.classes.tolist(), ring.pixels.tolist(), strict=True)) == [
        (0, 1),
        (1, 7),
        (1, 7),
    ]
    islands = polygons(pixels(ISLANDS), 3)
    by_class = dict(zip(islands.classes.tolist(), islands.shapes, strict=True))
    assert [len(by_class[k].interiors) for k in (0, 1)] == [1, 1]
    assert by_class[1].normalize().wkt == (
        "POLYGON ((1 1, 1 6, 6 6, 6 1, 1 1), (2 2, 5 2, 5 5, 2 5, 2 2))"
    )


def test_pixels_that_share_only_a_corner_are_two_areas() -> None:
    values = pixels("#.\n.#\n")
    assert [shape.area for shape in trace(values).polygons] == [1, 1, 1, 1]


@settings(max_examples=60, deadline=None, database=None)
@given(
    arrays(
        np.uint8,
        st.tuples(st.integers(1, 14), st.integers(1, 14)),
        elements=st.sampled_from((0, 1, 2, 255)),
    ),
    st.sampled_from((3, 5, 100)),
    st.sampled_from((0.8, 2.0, 5.0)),
)
def test_simplified_neighbours_keep_a_common_line(
    values: np.ndarray, rows: int, tolerance: float
) -> None:
    full = np.where(values == 255, 2, values)
    found = polygons(full, rows, tolerance)
    assert shapely.is_valid(found.shapes).all()
    assert shapely.coverage_is_valid(found.shapes)
    # The whole frame, once: neither gaps nor overlaps.
    assert shapely.union_all(found.shapes).equals(shapely.box(0, 0, *values.shape[::-1]))
    assert shapely.area(found.shapes).sum() == values.size
    with_gaps = polygons(values, rows, tolerance)
    assert shapely.coverage_is_valid(with_gaps.shapes)


def test_simplifying_takes_the_stairs_away() -> None:
    n = 40
    values = (np.add.outer(np.arange(n), np.arange(n)) < n).astype(np.uint8)
    stairs, straight = polygons(values, 1000), polygons(values, 1000, 1.0)
    assert shapely.get_num_coordinates(stairs.shapes).min() > n
    assert shapely.get_num_coordinates(straight.shapes).max() < 8
    assert abs(shapely.area(straight.shapes) - stairs.pixels).max() <= n


def test_memory_depends_on_what_is_open() -> None:
    """A map ten times as high takes no more, where areas end."""

    def peak(height: int) -> int:
        block = np.random.default_rng(0).integers(0, 3, (32, 64)).astype(np.uint8)
        block[-1] = 255
        raster = InMemory(np.tile(block, (height // 32, 1)))
        tracemalloc.start()
        try:
            count = sum(len(found) for found in polygonize(raster, rows=48))
            assert count > height
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(32)
    assert peak(3200) < 1.3 * peak(320)


CLASSES = [[0, 0, 1, 255], [0, 1, 1, 2], [0, 0, 2, 2]]
LEVELS = [[254, 254, 127, 255], [254, 0, 127, 255], [127, 127, 254, 254]]


@pytest.fixture
def map_(tmp_path: Path) -> Path:
    return write_map(
        tmp_path / "map" / "class_map.tif", CLASSES, values=(0, 1, 2), confidence=LEVELS
    )


def test_attributes_by_hand(map_: Path, tmp_path: Path) -> None:
    made = vectorize(map_.parent, tmp_path / "out.gpkg")
    assert made.polygons == {"sea": 1, "wet land": 1, "ice": 1}
    meta, _, wkb, columns = pyogrio.raw.read(made.path)
    rows = {row[0]: row[1:] for row in zip(*(column.tolist() for column in columns), strict=True)}
    assert list(meta["fields"]) == ["class", "value", "pixels", "area_ha", "confidence"]
    assert rows["sea"] == (0, 5, 0.05, pytest.approx((3 * 254 + 2 * 127) / 5 / 254))
    assert rows["wet land"] == (1, 3, 0.03, pytest.approx(2 * 127 / 3 / 254))
    # One pixel of it has no confidence, and does not count.
    assert rows["ice"] == (2, 3, 0.03, pytest.approx(1))
    assert meta["crs"] == UTM
    ice = shapely.from_wkb(wkb[list(rows).index("ice")])
    assert ice.bounds == (500_020, 4_999_970, 500_040, 4_999_990)
    assert ice.exterior.is_ccw


def test_areas_are_those_of_the_table(tmp_path: Path) -> None:
    """In degrees too, where a pixel shrinks along its meridian."""
    values = np.random.default_rng(1).integers(0, 3, (30, 20))
    transform = Affine(0.5, 0, 10, 0, -1.5, 70)
    path = write_map(tmp_path / "a.tif", values, crs="EPSG:4326", transform=transform)
    made = vectorize(path, tmp_path / "out.gpkg")
    _, _, _, (names, _, counts, hectares) = pyogrio.raw.read(made.path)
    raster = open_class_raster(path)
    count = AreaCount(raster.grid)
    count.add(values.astype(np.uint8))
    for row in count.result(raster.scheme)[:-1]:
        assert counts[names == row.name].sum() == row.pixels
        assert hectares[names == row.name].sum() == pytest.approx(row.hectares)


def test_geoparquet(map_: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    made = vectorize(map_, tmp_path / "out.parquet")
    table = pq.read_table(made.path)
    geo = json.loads(table.schema.metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    column = geo["columns"][geo["primary_column"]]
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["Polygon"]
    assert column["crs"]["id"] == {"authority": "EPSG", "code": 32633}
    assert column["bbox"] == [500_000, 4_999_970, 500_040, 5_000_000]
    assert column["covering"]["bbox"]["ymax"] == ["bbox", "ymax"]
    shapes = shapely.from_wkb(table["geometry"].to_numpy())
    boxes = [tuple(box.values()) for box in table["bbox"].to_pylist()]
    assert boxes == [shape.bounds for shape in shapes]
    assert sorted(table["class"].to_pylist()) == ["ice", "sea", "wet land"]
    assert shapely.area(shapes).sum() == 11 * 100


def test_geoparquet_without_its_package(
    map_: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"terrafuse\[parquet\]"):
        vectorize(map_, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_geojson_is_in_degrees_with_the_right_hand_rule(map_: Path, tmp_path: Path) -> None:
    made = vectorize(map_, tmp_path / "out.geojson")
    content = json.loads(made.path.read_text())
    assert len(content["features"]) == 3
    for feature in content["features"]:
        shape = shapely.geometry.shape(feature["geometry"])
        assert shape.exterior.is_ccw
        west, south, east, north = shape.bounds
        assert 14.99 < west < east < 15.01
        assert 45.1 < south < north < 45.2
    assert {f["properties"]["class"]: f["properties"]["pixels"] for f in content["features"]} == {
        "sea": 5,
        "wet land": 3,
        "ice": 3,
    }


def test_geojson_is_cut_at_the_antimeridian(tmp_path: Path) -> None:
    transform = Affine(1, 0, 178, 0, -1, 50)
    path = write_map(tmp_path / "a.tif", [[0, 0, 0, 0, 0]], crs="EPSG:4326", transform=transform)
    content = json.loads(vectorize(path, tmp_path / "out.geojson").path.read_text())
    shape = shapely.geometry.shape(content["features"][0]["geometry"])
    assert sorted(part.bounds for part in shape.geoms) == [
        (-180, 49, -177, 50),
        (178, 49, 180, 50),
    ]


def test_without_crs(tmp_path: Path) -> None:
    path = write_map(tmp_path / "a.tif", CLASSES, crs=None, transform=Affine.identity())
    made = vectorize(path, tmp_path / "out.gpkg", min_area=4)
    assert made.polygons == {"sea": 1, "wet land": 0, "ice": 0}
    assert made.left_out == 2
    meta, _, _, _ = pyogrio.raw.read(made.path)
    assert list(meta["fields"]) == ["class", "value", "pixels"]
    with pytest.raises(ConfigError, match=r"ends in \.gpkg or \.parquet"):
        vectorize(path, tmp_path / "out.geojson")
    vectorize(path, tmp_path / "out.parquet")
    assert not (tmp_path / "out.geojson").exists()


def test_a_crs_without_code(tmp_path: Path) -> None:
    own = "+proj=laea +lat_0=10 +lon_0=20 +x_0=0 +y_0=0 +ellps=GRS80 +units=m"
    path = write_map(tmp_path / "a.tif", CLASSES, crs=own)
    for name in ("out.gpkg", "out.parquet", "out.geojson"):
        vectorize(path, tmp_path / name)
    crs = rasterio.CRS.from_user_input(pyogrio.read_info(tmp_path / "out.gpkg")["crs"])
    assert crs.to_dict()["proj"] == "laea"


def test_maps_of_other_programs(tmp_path: Path) -> None:
    bare = write_map(tmp_path / "bare.tif", CLASSES, tags=False)
    with pytest.raises(DataError, match="does not say which classes it has; name its classes"):
        vectorize(bare, tmp_path / "out.gpkg")
    made = vectorize(bare, tmp_path / "out.gpkg", classes={"water": 0, "snow": 2})
    assert made.polygons == {"water": 1, "snow": 1}
    with rasterio.open(bare, "r+") as dataset:
        dataset.write_colormap(1, {0: (1, 2, 3, 255), 1: (4, 5, 6, 255), 2: (7, 8, 9, 255)})
    made = vectorize(bare, tmp_path / "colours.gpkg")
    assert {name for name, n in made.polygons.items() if n} == {"0", "1", "2"}
    assert open_class_raster(bare).colors[1] == "#040506"
    wide = write_map(tmp_path / "wide.tif", np.array(CLASSES) * 256, tags=False, dtype=np.int32,
                     nodata=255 * 256)  # fmt: skip
    made = vectorize(wide, tmp_path / "wide.gpkg", classes={"a": 0, "b": 256, "c": 512})
    assert made.polygons == {"a": 1, "b": 1, "c": 1}


def test_what_is_abstained_from_has_polygons_of_that_name(tmp_path: Path) -> None:
    map_ = write_map(tmp_path / "a.tif", [[0, 9, 9], [9, 1, 255]], abstained=9)
    made = vectorize(map_, tmp_path / "out.geojson")
    assert made.polygons == {"sea": 1, "wet land": 1, "ice": 0, "abstained": 2}
    found = [f["properties"] for f in json.loads(made.path.read_text())["features"]]
    named = sorted((f["class"], f["value"], f["pixels"]) for f in found)
    assert named == [("abstained", 9, 1), ("abstained", 9, 2), ("sea", 0, 1), ("wet land", 1, 1)]
    made = vectorize(map_, tmp_path / "out.geojson", classes={"water": 0, "land": 1})
    assert made.polygons == {"water": 1, "land": 1}
    # A class of that name is another thing.
    names = ("sea", "abstained")
    odd = open_class_raster(write_map(tmp_path / "b.tif", [[9]], names=names, abstained=9))
    assert (odd.names, odd.num_classes) == (("sea", "abstained", "(abstained)"), 2)


def test_what_is_no_class_map(tmp_path: Path) -> None:
    out = tmp_path / "out.gpkg"
    with pytest.raises(RasterReadError, match=r"nowhere\.tif' does not exist"):
        vectorize(tmp_path / "nowhere.tif", out)
    floats = write_map(tmp_path / "floats.tif", CLASSES, dtype=np.float32)
    with pytest.raises(DataError, match="holds float32; classes are whole numbers"):
        vectorize(floats, out)
    with rasterio.open(
        tmp_path / "rgb.tif", "w", driver="GTiff", height=2, width=2, count=3, dtype="uint8",
        crs=UTM, transform=TEN_M,
    ) as dataset:  # fmt: skip
        dataset.write(np.zeros((3, 2, 2), np.uint8))
    with pytest.raises(DataError, match="is a colour image"):
        vectorize(tmp_path / "rgb.tif", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no class_map\.tif"):
        vectorize(tmp_path / "empty", out)
    nothing = write_map(tmp_path / "nothing.tif", [[255, 255]])
    with pytest.raises(DataError, match=r"no pixel of .* has a class"):
        vectorize(nothing, out)
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(RasterReadError, match="cannot be read as a raster"):
        vectorize(tmp_path / "text.tif", out)
    assert not out.exists()


def test_remedies(map_: Path, tmp_path: Path) -> None:
    """Each is followed in the line after it."""
    with pytest.raises(ConfigError, match=r"'\.shp'\. Known: \.geojson, \.gpkg, \.parquet"):
        vectorize(map_, tmp_path / "out.shp")
    out = vectorize(map_, tmp_path / "out.gpkg").path
    with pytest.raises(ConfigError, match="--simplify is -1; give 0 or more"):
        vectorize(map_, out, simplify=-1)
    vectorize(map_, out, simplify=0)
    with pytest.raises(DataError, match="give a smaller --min-area"):
        vectorize(map_, out, min_area=1e9)
    vectorize(map_, out, min_area=1)
    with pytest.raises(OutputError, match="would be overwritten"):
        vectorize(own := map_.rename(map_.with_suffix(".gpkg")), own)


def test_values_that_are_no_class(tmp_path: Path) -> None:
    path = write_map(tmp_path / "a.tif", [[0, 7]])
    with pytest.raises(RasterReadError, match=r"holds 7, which is none of its classes \(0, 1, 2\)"):
        vectorize(path, tmp_path / "out.gpkg")
    vectorize(path, tmp_path / "out.gpkg", classes={"a": 0, "b": 7})
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".gpkg"] == ["out.gpkg"]


def test_two_processes(map_: Path, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    out = tmp_path / "out.gpkg"
    with (
        file_lock(out, "vectorize"),
        ThreadPoolExecutor(1) as pool,
        pytest.raises(OutputError, match="is in use"),
    ):
        pool.submit(vectorize, map_, out).result()
    vectorize(map_, out)


def test_earlier_file_stays_when_the_disk_is_full(
    map_: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = vectorize(map_, tmp_path / "out.gpkg").path
    before = out.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyogrio.raw, "write", full)
    with pytest.raises(OutputError, match="No space left"):
        vectorize(map_, out)
    assert out.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map", "out.gpkg"]


def test_remedies_of_naming(map_: Path, tmp_path: Path) -> None:
    """Each is followed in the lines after it."""
    out = tmp_path / "out.gpkg"
    bare = write_map(tmp_path / "bare.tif", CLASSES, tags=False)
    with pytest.raises(ConfigError, match="has two names; give each one name"):
        vectorize(bare, out, classes={"a": 1, "b": 1})
    vectorize(bare, out, classes={"a": 1})
    with pytest.raises(ConfigError, match="'a' is named twice; leave one out"):
        parse_classes("a=1,a=2")
    with pytest.raises(ConfigError, match=r"'b' is not of the form NAME=VALUE"):
        parse_classes("a=1,b")
    assert parse_classes("wet=land=1, b=-2") == {"wet=land": 1, "b": -2}
    void = write_map(tmp_path / "void.tif", CLASSES, values=(0, 1, 255))
    with pytest.raises(DataError, match="nodata value 255, which is also that of a class"):
        vectorize(void, out)
    vectorize(void, out, classes={"a": 0, "b": 1, "c": 2})
    other = write_map(tmp_path / "other.tif", [[1, 2]], tags=False)
    with pytest.raises(DataError, match="Give the confidence of this map"):
        vectorize(bare, out, classes={"a": 1}, confidence=other)
    own = map_.with_name("confidence.tif")
    made = vectorize(bare, out, classes={"a": 1}, confidence=own)
    assert pyogrio.raw.read(made.path)[3][4].tolist() == [pytest.approx(1 / 3)]


def test_the_command_line(map_: Path, tmp_path: Path, command_line: Any) -> None:
    out = tmp_path / "out.gpkg"
    code, said, _ = command_line("vectorize", str(map_.parent), "-o", str(out))
    assert (code, said) == (0, f"wrote {out} (sea 1, wet land 1, ice 1)\n")
    code, said, _ = command_line("mosaic", str(map_), str(map_), "-o", str(tmp_path / "all"))
    assert (code, said.count("wrote")) == (0, 2)
    code, _, problem = command_line("vectorize", str(tmp_path / "no.tif"), "-o", str(out))
    assert code == 2
    assert "does not exist. Check the path" in problem

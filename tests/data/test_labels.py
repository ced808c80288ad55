"""Labels from rasters and polygons, on the scene's grid."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
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
from rasterio.transform import from_origin
from rasterio.warp import transform as transform_points

from shared import shared_data
from terrafuse.classes import ClassScheme
from terrafuse.data import Scene, scene_from_rasters
from terrafuse.data.labels import LabelRules
from terrafuse.errors import BandError, ConfigError, GridMismatchError, LabelError, RasterReadError
from terrafuse.modalities import Modality
from terrafuse.samples import Window

MakeRaster = Callable[..., Path]
SCHEME = ClassScheme(("dry", "wet"), codes=((1, 2), (7,)), void=(9,))
COLORS = ClassScheme(("dry", "wet"), codes=(("#ff0000",), ("#0000FF",)), void=("#000000",))


@pytest.fixture
def open_labels(make_raster: MakeRaster, tmp_path: Path) -> Callable[..., Scene]:
    """Function that opens a scene of 20 × 30 pixels of 10 m with these labels."""

    def open_scene(
        labels: Path, scheme: ClassScheme = SCHEME, grid: str | None = "image", **rules: Any
    ) -> Scene:
        image = make_raster(tmp_path / "image.tif", np.ones((1, 20, 30), np.uint8))
        return scene_from_rasters(
            [Modality("image", ("b",))], {"image": image}, grid=grid, labels=labels,
            scheme=scheme, label_rules=LabelRules(**rules),
        )  # fmt: skip

    return open_scene


def read_all(scene: Scene) -> np.ndarray:
    return scene.read_labels(scene.grid.window)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
def test_codes_become_class_indices(
    make_raster: MakeRaster, tmp_path: Path, open_labels: Callable[..., Scene], dtype: str
) -> None:
    codes = np.random.default_rng(0).choice([1, 2, 7, 9, 100], (1, 20, 30)).astype(dtype)
    scene = open_labels(make_raster(tmp_path / "l.tif", codes, nodata=100))
    expected = np.select([codes[0] <= 2, codes[0] == 7], [0, 1], 255)
    np.testing.assert_array_equal(read_all(scene), expected)
    sample = scene.read(Window(-1, 28, 3, 4))
    assert sample.labels is not None
    assert sample.labels.dtype.is_signed
    assert sample.labels.shape == (3, 4)
    np.testing.assert_array_equal(sample.labels[1:, :2], expected[:2, 28:])
    assert (sample.labels[0] == 255).all()
    assert (sample.labels[:, 2:] == 255).all()
    assert scene.read(Window(0, 0, 2, 2), labels=False).labels is None


def test_values_outside_the_scheme_are_counted_and_named(
    make_raster: MakeRaster, tmp_path: Path, open_labels: Callable[..., Scene]
) -> None:
    codes = np.ones((1, 20, 30), np.uint8)
    codes[0, 0, :5] = 3
    scene = open_labels(make_raster(tmp_path / "l.tif", codes))
    message = (
        r"labels of scene 'scene' \(.*l\.tif\) contain values not in the class scheme: 3 \(5 px"
    )
    with pytest.raises(LabelError, match=message):
        read_all(scene)
    scene.read_labels(Window(1, 0, 5, 5))
    ignored = open_labels(tmp_path / "l.tif", nodata=3)
    assert (read_all(ignored)[0, :6] == [255] * 5 + [0]).all()


def test_nan_and_masks_are_ignored(
    make_raster: MakeRaster, tmp_path: Path, open_labels: Callable[..., Scene]
) -> None:
    codes = np.ones((1, 20, 30), np.float32)
    codes[0, 3, 4] = np.nan
    labels = read_all(open_labels(make_raster(tmp_path / "nan.tif", codes)))
    assert np.argwhere(labels == 255).tolist() == [[3, 4]]
    path = make_raster(tmp_path / "mask.tif", np.where(np.isnan(codes), 77, 1).astype(np.uint8))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(~np.isnan(codes[0]))
    np.testing.assert_array_equal(read_all(open_labels(path)), labels)


def test_a_nodata_tag_that_is_a_class_code_is_that_class(
    make_raster: MakeRaster, tmp_path: Path, open_labels: Callable[..., Scene]
) -> None:
    codes = np.full((1, 20, 30), 7, np.uint8)
    scene = open_labels(make_raster(tmp_path / "l.tif", codes, nodata=7))
    assert (read_all(scene) == 1).all()
    turned = make_raster(
        tmp_path / "t.tif", codes, nodata=7, transform=from_origin(500_001, 5_000_000, 10, 10)
    )
    assert (read_all(open_labels(turned)) == 1).all()


def test_colours(
    make_raster: MakeRaster, tmp_path: Path, open_labels: Callable[..., Scene]
) -> None:
    index = np.random.default_rng(0).integers(0, 3, (20, 30))
    table = np.array([[255, 0, 0], [0, 0, 255], [0, 0, 0]], np.uint8)
    expected = np.array([0, 1, 255])[index]
    rgb = make_raster(tmp_path / "rgb.tif", np.moveaxis(table[index], -1, 0), photometric="rgb")
    np.testing.assert_array_equal(read_all(open_labels(rgb, COLORS)), expected)
    paletted = make_raster(tmp_path / "p.tif", index[None].astype(np.uint8))
    with rasterio.open(paletted, "r+") as dataset:
        dataset.write_colormap(1, {n: (*map(int, color), 255) for n, color in enumerate(table)})
    np.testing.assert_array_equal(read_all(open_labels(paletted, COLORS)), expected)
    # The same file under a scheme of numbers: the stored values count.
    numbers = ClassScheme(("a", "b", "c"))
    np.testing.assert_array_equal(read_all(open_labels(paletted, numbers)), index)
    with pytest.raises(BandError, match=r"have 3 bands, but .* numbers: one band is needed"):
        open_labels(rgb, SCHEME)


def test_labels_on_another_grid_are_taken_from_the_nearest_pixel(
    make_raster: MakeRaster, tmp_path: Path, open_labels: Callable[..., Scene]
) -> None:
    codes = np.array([[[1, 7, 9], [7, 1, 7]]], np.uint8)
    coarse = from_origin(500_000, 5_000_000, 100, 100)
    scene = open_labels(make_raster(tmp_path / "l.tif", codes, transform=coarse))
    expected = np.kron([[0, 1, 255], [1, 0, 1]], np.ones((10, 10)))
    np.testing.assert_array_equal(read_all(scene), expected)
    # By default the labels have the scene's grid.
    scene = open_labels(tmp_path / "l.tif", grid=None)
    np.testing.assert_array_equal(read_all(scene), [[0, 1, 255], [1, 0, 1]])


def test_labels_covering_a_part_are_ignored_elsewhere(
    make_raster: MakeRaster, tmp_path: Path, open_labels: Callable[..., Scene]
) -> None:
    for pixel in (10, 7):
        codes = np.full((1, 5, 5), 7, np.uint8)
        place = from_origin(500_100, 4_999_900, pixel, pixel)
        labels = read_all(open_labels(make_raster(tmp_path / "l.tif", codes, transform=place)))
        size = 5 * pixel / 10
        assert abs((labels == 1).sum() - size**2) <= 2 * size
        assert set(np.unique(labels)) == {1, 255}


# Polygons ----------------------------------------------------------------------------------------


def to_map(points: Sequence[tuple[float, float]], crs: str) -> shapely.Polygon:
    """A polygon given in pixels (col, row) of the scene."""
    cols, rows = np.array(points).T
    xs, ys = Affine(10, 0, 500_000, 0, -10, 5_000_000) * (cols, rows)
    if crs != "EPSG:32633":
        xs, ys = transform_points("EPSG:32633", crs, xs, ys)[:2]
    return shapely.Polygon(np.stack([xs, ys], axis=1))


def rectangle(col: float, row: float, col_stop: float, row_stop: float) -> Any:
    return [(col, row), (col_stop, row), (col_stop, row_stop), (col, row_stop)]


def write_polygons(
    path: Path, polygons: Sequence[Any], values: Sequence[Any] = (), crs: str | None = "EPSG:4326"
) -> Path:
    shapes = [
        p if isinstance(p, shapely.Geometry) else to_map(p, crs or "EPSG:32633") for p in polygons
    ]
    pyogrio.raw.write(
        path,
        geometry=shapely.to_wkb(np.array(shapes, object)),
        field_data=[np.array(values)] if values else [],
        fields=["kind"] if values else [],
        geometry_type=shapes[0].geom_type,
        crs=crs,
    )
    return path


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32633", "EPSG:3035"])
@pytest.mark.parametrize("suffix", ["geojson", "gpkg"])
def test_polygons_in_any_crs(
    tmp_path: Path, open_labels: Callable[..., Scene], crs: str, suffix: str
) -> None:
    if suffix == "geojson" and crs == "EPSG:3035":
        crs = "EPSG:4326"
    polygons = [rectangle(2, 3, 10, 9), rectangle(8, 5, 25, 15)]
    path = write_polygons(tmp_path / f"l.{suffix}", polygons, [7, 2], crs)
    expected = np.full((20, 30), 255)
    expected[3:9, 2:10] = 1
    expected[5:15, 8:25] = 0  # the later one lies on top
    scene = open_labels(path, attribute="kind")
    np.testing.assert_array_equal(read_all(scene), expected)
    np.testing.assert_array_equal(scene.read_labels(Window(-2, 5, 10, 10))[2:], expected[:8, 5:15])
    assert scene.paths()["labels"] == (path,)


def test_background_and_area_of_interest(tmp_path: Path, open_labels: Callable[..., Scene]) -> None:
    path = write_polygons(tmp_path / "l.geojson", [rectangle(2, 3, 10, 9)])
    area = write_polygons(tmp_path / "area.gpkg", [rectangle(0, 0, 15, 20)], crs="EPSG:3857")
    scene = open_labels(path, area=str(area), background=1)
    expected = np.full((20, 30), 255)
    expected[:, :15] = 0
    expected[3:9, 2:10] = 1
    np.testing.assert_array_equal(read_all(scene), expected)
    by_name = read_all(open_labels(path, background="dry"))
    assert (by_name[:, 20:] == 0).all()


def test_codes_of_polygons_may_be_texts_names_and_numbers(
    tmp_path: Path, open_labels: Callable[..., Scene]
) -> None:
    scheme = ClassScheme(("dry", "wet"), codes=(("D", 4), ("#0000ff",)))
    polygons = [rectangle(n, 0, n + 1, 20) for n in range(5)]
    path = write_polygons(tmp_path / "l.geojson", polygons, ["D", "wet", "#0000FF", "4", "dry"])
    assert read_all(open_labels(path, scheme, attribute="kind"))[0, :5].tolist() == [0, 1, 1, 0, 0]
    path = write_polygons(tmp_path / "f.gpkg", polygons[:1], [4.0])
    assert read_all(open_labels(path, scheme, attribute="kind"))[0, 0] == 0


def test_holes_and_multipolygons(tmp_path: Path, open_labels: Callable[..., Scene]) -> None:
    ring = shapely.difference(
        to_map(rectangle(2, 2, 12, 12), "EPSG:32633"), to_map(rectangle(5, 5, 8, 8), "EPSG:32633")
    )
    both = shapely.MultiPolygon([ring, to_map(rectangle(20, 2, 22, 4), "EPSG:32633")])
    path = write_polygons(tmp_path / "l.gpkg", [both], [1], "EPSG:32633")
    expected = np.full((20, 30), 255)
    expected[2:12, 2:12] = 0
    expected[5:8, 5:8] = 255
    expected[2:4, 20:22] = 0
    np.testing.assert_array_equal(read_all(open_labels(path, attribute="kind")), expected)


def test_edges_are_straight_in_the_crs_of_the_file(make_raster: MakeRaster, tmp_path: Path) -> None:
    # 2° of a parallel: in UTM it bends away from the chord by some 1.7 km.
    grid = from_origin(430_000, 5_560_000, 500, 500)
    image = make_raster(tmp_path / "i.tif", np.ones((1, 80, 280), np.uint8), transform=grid)
    strip = shapely.Polygon([(14, 50), (16, 50), (16, 50.1), (14, 50.1)])
    path = write_polygons(tmp_path / "l.geojson", [strip])
    scene = scene_from_rasters(
        [Modality("i", ("b",))], {"i": image}, labels=path, scheme=ClassScheme(("a",)),
        label_rules=LabelRules(),
    )  # fmt: skip
    rows, cols = np.nonzero(read_all(scene) == 0)
    assert rows.size > 1000
    x, y = grid * (cols + 0.5, rows + 0.5)
    _, lat = transform_points("EPSG:32633", "EPSG:4326", x, y)[:2]
    slack = 0.5 * 500 / 111_000
    assert min(lat) > 50 - slack / 20
    assert max(lat) < 50.1 + slack / 20


def test_a_rotated_grid(make_raster: MakeRaster, tmp_path: Path) -> None:
    turned = Affine.translation(500_000, 5_000_000) * Affine.rotation(30) * Affine.scale(10, -10)
    image = make_raster(tmp_path / "i.tif", np.ones((1, 20, 20), np.uint8), transform=turned)
    corners = [turned * point for point in rectangle(3, 4, 9, 16)]
    path = write_polygons(tmp_path / "l.gpkg", [shapely.Polygon(corners)], crs="EPSG:32633")
    scene = scene_from_rasters(
        [Modality("i", ("b",))], {"i": image}, labels=path, scheme=ClassScheme(("a",))
    )
    expected = np.full((20, 20), 255)
    expected[4:16, 3:9] = 0
    np.testing.assert_array_equal(read_all(scene), expected)


@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(3, 25), st.integers(3, 25)))
@settings(max_examples=20, deadline=None)
def test_any_tiling_rasterises_the_same_labels(
    tmp_path_factory: pytest.TempPathFactory, seed: int, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("tiling")
    profile = {"driver": "GTiff", "count": 1, "height": 40, "width": 50, "dtype": "uint8"}
    profile |= {"crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, 10, 10)}
    with rasterio.open(folder / "i.tif", "w", **profile) as dataset:
        dataset.write(np.ones((1, 40, 50), np.uint8))
    # Half-pixel corners: edges that run exactly through pixel centres.
    hulls = [to_map(rng.integers(-10, 120, (5, 2)) / 2, "EPSG:32633").convex_hull for _ in range(6)]
    path = write_polygons(folder / "l.gpkg", hulls, [1, 7, 2, 1, 7, 7], "EPSG:32633")
    scene = scene_from_rasters(
        [Modality("i", ("b",))], {"i": folder / "i.tif"}, labels=path, scheme=SCHEME,
        label_rules=LabelRules(attribute="kind"),
    )  # fmt: skip
    whole = read_all(scene)
    for row in range(0, 40, size[0]):
        for col in range(0, 50, size[1]):
            part = scene.read_labels(Window(row, col, *size))
            expected = whole[row : row + size[0], col : col + size[1]]
            np.testing.assert_array_equal(part[: expected.shape[0], : expected.shape[1]], expected)


@pytest.mark.filterwarnings("ignore:'crs' was not provided:UserWarning")
def test_polygons_without_crs_lie_on_images_without(
    make_raster: MakeRaster, tmp_path: Path, open_labels: Callable[..., Scene]
) -> None:
    image = make_raster(tmp_path / "i.tif", np.ones((1, 20, 20), np.uint8), crs=None)
    bare = write_polygons(tmp_path / "bare.gpkg", [rectangle(3, 4, 9, 16)], crs=None)
    options: dict[str, Any] = {"labels": bare, "scheme": ClassScheme(("a",))}
    modality = Modality("i", ("b",))
    labels = read_all(scene_from_rasters([modality], {"i": image}, **options))
    assert (labels == 0).sum() == 6 * 12
    placed = write_polygons(tmp_path / "placed.geojson", [rectangle(3, 4, 9, 16)])
    with pytest.raises(GridMismatchError, match="have a CRS, but the scene's grid has none"):
        scene_from_rasters([modality], {"i": image}, **options | {"labels": placed})
    with pytest.raises(GridMismatchError, match="have no CRS, but the scene's grid has one"):
        open_labels(bare)


def test_faults_of_polygons_are_named(tmp_path: Path, open_labels: Callable[..., Scene]) -> None:
    polygons = [rectangle(2, 3, 10, 9), rectangle(8, 5, 25, 15)]
    path = write_polygons(tmp_path / "l.geojson", polygons, ["7", "lake"])
    with pytest.raises(LabelError, match=r"not in the class scheme: 'lake' \(1 polygons\)"):
        open_labels(path, attribute="kind")
    write_polygons(path, polygons, ["7", "Wet"])
    with pytest.raises(LabelError, match=r": 'Wet' \(1 polygons, nearly 'wet'\)"):
        open_labels(path, attribute="kind")
    with pytest.raises(ConfigError, match=r"unknown attribute of .* 'kid'. Did you mean 'kind'"):
        open_labels(path, attribute="kid")
    with pytest.raises(ConfigError, match=r"may be dry, wet.*'labels.attribute' \(fields: kind\)"):
        open_labels(path)
    with pytest.raises(
        ConfigError, match=r"unknown background class of .* 'we'\. Did you mean 'wet'"
    ):
        open_labels(path, attribute="kind", background="we")
    with pytest.raises(RasterReadError, match=r"there is no file '.*no\.gpkg'"):
        open_labels(tmp_path / "no.gpkg")
    (tmp_path / "bad.gpkg").write_text("no vectors")
    with pytest.raises(RasterReadError, match="cannot be opened as polygons"):
        open_labels(tmp_path / "bad.gpkg")
    line = shapely.LineString(to_map(rectangle(2, 3, 10, 9), "EPSG:4326").exterior.coords)
    write_polygons(tmp_path / "line.geojson", [line])
    with pytest.raises(LabelError, match="must be polygons, but hold 1 × LineString"):
        open_labels(tmp_path / "line.geojson", background=1)


def test_alexandria_buildings_as_the_curators_rasterised_them() -> None:
    folder = shared_data("alexandria_dsm_buildings")
    scheme = ClassScheme(("other", "building"), codes=((0,), (1,)), void=(255,))
    dsm = {"dsm": folder / "dsm.tif"}
    raster = scene_from_rasters(
        [Modality("dsm", ("z",))], dsm, labels=folder / "buildings_mask.tif", scheme=scheme
    )
    vector = scene_from_rasters(
        [Modality("dsm", ("z",))], dsm, labels=folder / "buildings.geojson", scheme=scheme,
        label_rules=LabelRules(background="other"),
    )  # fmt: skip
    truth, ours = read_all(raster), read_all(vector)
    assert json.loads((folder / "buildings.geojson").read_text())["features"]
    digitised = truth != 255
    assert (truth[digitised] != ours[digitised]).mean() < 0.001

"""Longitudes count by whole turns: 300° is −60°, and across the date line they go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import Resampling, reproject

from terrafuse.classes import ClassScheme
from terrafuse.data import ReadingRules, Scene, scene_from_rasters
from terrafuse.data.footprints import overlap_groups, overlapping_grids
from terrafuse.data.grid import Grid
from terrafuse.data.labels import LabelRules
from terrafuse.errors import GridMismatchError
from terrafuse.modalities import Modality

MakeRaster = Callable[..., Path]
DEGREES = CRS.from_epsg(4326)


def place(left: float, top: float, pixel: float) -> Affine:
    return Affine(pixel, 0, left, 0, -pixel, top)


# (transform, rows, columns) in degrees.
SOURCES = {
    "178 to 182": (place(178, 5, 0.5), 20, 8),
    "-182 to -178": (place(-182, 5, 0.5), 20, 8),
    "0 to 360": (place(0, 20, 2), 20, 180),
    "-180 to 180": (place(-180, 20, 2), 20, 180),
    "298 to 302": (place(298, 5, 0.5), 20, 8),
    "-62 to -58": (place(-62, 5, 0.5), 20, 8),
}
# Finer than all sources, so that GDAL's kernel has the width of ours: one source pixel.
TARGETS = {
    "178 to 182": (place(178, 4, 0.25), 32, 16, "EPSG:4326"),
    "-182 to -178": (place(-182, 4, 0.25), 32, 16, "EPSG:4326"),
    "178.1 to 181.7": (place(178.1, 4, 0.3), 20, 12, "EPSG:4326"),
    "-10 to 10": (place(-10.1, 4, 0.25), 32, 80, "EPSG:4326"),
    "350 to 370": (place(349.9, 4, 0.25), 32, 80, "EPSG:4326"),
    "-62 to -58": (place(-62, 4, 0.25), 32, 16, "EPSG:4326"),
    "298 to 302": (place(298, 4, 0.25), 32, 16, "EPSG:4326"),
    "the whole globe": (place(-180, 4, 0.5), 16, 720, "EPSG:4326"),
    "the globe from 0": (place(0, 4, 0.5), 16, 720, "EPSG:4326"),
    "UTM 60": (place(720_000, 300_000, 20_000), 30, 20, "EPSG:32660"),
    "UTM 1": (place(0, 300_000, 20_000), 30, 20, "EPSG:32601"),
    "UTM 20": (place(300_000, 300_000, 20_000), 30, 20, "EPSG:32620"),
    "another datum": (place(-62.1, 4, 0.3), 20, 12, "EPSG:4269"),
}


def read_as_gdal(
    image: np.ndarray, source: Affine, target: Affine, shape: tuple[int, int], crs: str, how: str
) -> np.ndarray:
    found = np.full(shape, np.nan, np.float32)
    reproject(
        image, found, src_transform=source, src_crs=DEGREES, dst_transform=target, dst_crs=crs,
        src_nodata=np.nan, dst_nodata=np.nan, resampling=Resampling[how], tolerance=0.01,
        XSCALE=1, YSCALE=1,
    )  # fmt: skip
    return found


def image_of(rows: int, cols: int) -> np.ndarray:
    values = np.random.default_rng(rows * cols).random((rows, cols)) * 100
    return (values + 3 * np.arange(cols)).astype(np.float32)


def read_here(
    make_raster: MakeRaster, folder: Path, image: np.ndarray, source: Affine, target: str, how: str
) -> np.ndarray:
    transform, rows, cols, crs = TARGETS[target]
    rasters = {
        "m": make_raster(folder / "s.tif", image[None], crs="EPSG:4326", transform=source),
        "g": make_raster(folder / "g.tif", np.zeros((1, rows, cols), np.uint8), crs=crs,
                         transform=transform),
    }  # fmt: skip
    scene = scene_from_rasters(
        [Modality("m", ("x",)), Modality("g", ("g",))], rasters, grid="g",
        sources={"m": ReadingRules(resampling=how)},
    )  # fmt: skip
    result: np.ndarray = scene.read(scene.grid.window, labels=False).images["m"].numpy()[0]
    return result


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
def test_equal_to_gdals_warp(
    make_raster: MakeRaster, tmp_path: Path, source: str, target: str
) -> None:
    transform, rows, cols = SOURCES[source]
    to, height, width, crs = TARGETS[target]
    image = image_of(rows, cols)
    slope = float(np.abs(np.diff(image, axis=1)).max())
    for how in ("nearest", "bilinear"):
        expected = read_as_gdal(image, transform, to, (height, width), crs, how)
        if np.isnan(expected).all():
            with pytest.raises(GridMismatchError, match="does not overlap the scene's grid"):
                read_here(make_raster, tmp_path, image, transform, target, how)
            return
        found = read_here(make_raster, tmp_path, image, transform, target, how)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        away = np.abs(found - expected)[~np.isnan(expected)]
        if crs == "EPSG:4326":
            assert away.max() < 1e-3
        elif how == "nearest":
            # Both interpolate positions to 0.01 pixels, each from points of its own.
            assert (away > 0).mean() < 0.05
        else:
            assert away.max() < 0.04 * slope


def test_aligned_pixels_a_turn_away_are_copied(make_raster: MakeRaster, tmp_path: Path) -> None:
    image = image_of(20, 8)
    source = place(298, 5, 0.5)
    grid = make_raster(
        tmp_path / "g.tif", np.zeros((1, 20, 10), np.uint8), crs="EPSG:4326",
        transform=place(-62.5, 5, 0.5),
    )  # fmt: skip
    labels = make_raster(
        tmp_path / "l.tif", np.arange(160).reshape(1, 20, 8).astype(np.uint8) % 2,
        crs="EPSG:4326", transform=source,
    )  # fmt: skip
    path = make_raster(tmp_path / "s.tif", image[None], crs="EPSG:4326", transform=source)
    scene = scene_from_rasters(
        [Modality("m", ("x",)), Modality("g", ("g",))], {"m": path, "g": grid}, grid="g",
        labels=labels, scheme=ClassScheme(("a", "b")),
    )  # fmt: skip
    sample = scene.read(scene.grid.window)
    np.testing.assert_array_equal(sample.images["m"][0, :, 1:9], image)
    assert np.isnan(sample.images["m"].numpy()[0, :, [0, 9]]).all()
    assert sample.labels is not None
    np.testing.assert_array_equal(sample.labels[:, 1:9], np.arange(160).reshape(20, 8) % 2)
    assert (sample.labels[:, [0, 9]] == 255).all()


def outline(left: float, right: float, bottom: float, top: float) -> list[list[float]]:
    return [[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]]


def labelled(
    make_raster: MakeRaster,
    folder: Path,
    transform: Affine,
    crs: str,
    rings: list[list[list[float]]],
) -> Scene:
    path = make_raster(
        folder / "g.tif", np.zeros((1, 16, 16), np.uint8), crs=crs, transform=transform
    )
    features = [
        {"type": "Feature", "properties": {"c": code},
         "geometry": {"type": "Polygon", "coordinates": [ring]}}
        for code, ring in enumerate(rings, 1)
    ]  # fmt: skip
    file = folder / "p.geojson"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    scheme = ClassScheme(("none", "one", "two"))
    return scene_from_rasters(
        [Modality("g", ("g",))], {"g": path}, labels=file, scheme=scheme,
        label_rules=LabelRules(attribute="c", background=0),
    )  # fmt: skip


@pytest.mark.parametrize("turn", [-360, 0, 360])
@pytest.mark.parametrize("start", [-62, 298])
def test_polygons_at_300_degrees(
    make_raster: MakeRaster, tmp_path: Path, start: float, turn: float
) -> None:
    # Columns 2 to 5 and 4 to 11 of 16, rows 4 to 7 and 6 to 13; the later counts.
    rings = [
        outline(-61.5 + turn, -60.5 + turn, 3, 4),
        outline(-61 + turn, -59 + turn, 1.5, 3.5),
    ]
    scene = labelled(make_raster, tmp_path, place(start, 5, 0.25), "EPSG:4326", rings)
    expected = np.zeros((16, 16), np.uint8)
    expected[4:8, 2:6], expected[6:14, 4:12] = 1, 2
    np.testing.assert_array_equal(scene.read_labels(scene.grid.window), expected)


@pytest.mark.parametrize("turn", [-360, 0, 360])
def test_polygons_at_300_degrees_on_a_projected_grid(
    make_raster: MakeRaster, tmp_path: Path, turn: float
) -> None:
    ring = outline(-61.5 + turn, -60.5 + turn, 3, 4)
    grid = place(600_000, 500_000, 20_000)
    scene = labelled(make_raster, tmp_path, grid, "EPSG:32620", [ring])
    plain = labelled(make_raster, tmp_path, grid, "EPSG:32620", [outline(-61.5, -60.5, 3, 4)])
    labels = scene.read_labels(scene.grid.window)
    np.testing.assert_array_equal(labels, plain.read_labels(plain.grid.window))
    # About 111 × 111 km in pixels of 20 km.
    assert 25 <= (labels == 1).sum() <= 36


@pytest.mark.parametrize(
    "rings",
    [
        [outline(179, 181, 2, 4)],
        [outline(-181, -179, 2, 4)],
        [outline(179, 180, 2, 4), outline(-180, -179, 2, 4)],  # cut, as GeoJSON wants it
    ],
)
@pytest.mark.parametrize("left", [178, -182])
def test_polygons_across_the_date_line(
    make_raster: MakeRaster, tmp_path: Path, left: float, rings: list[list[list[float]]]
) -> None:
    scene = labelled(make_raster, tmp_path, place(left, 5, 0.25), "EPSG:4326", rings)
    expected = np.zeros((16, 16), bool)
    expected[4:12, 4:12] = True
    np.testing.assert_array_equal(scene.read_labels(scene.grid.window) > 0, expected)


def test_a_projected_scene_across_the_date_line(make_raster: MakeRaster, tmp_path: Path) -> None:
    # UTM 60 has 180° at about x = 834 km on the equator.
    grid = place(674_000, 160_000, 20_000)
    rings = [outline(179, 180, -1, 1), outline(-180, -179.5, -1, 1)]
    scene = labelled(make_raster, tmp_path, grid, "EPSG:32660", rings)
    labels = scene.read_labels(scene.grid.window)
    middle = labels[8]
    # 179° is at 722.6 km, 180° at 834 km, −179.5° at 889.7 km: columns 2 to 7 and 8 to 10.
    assert middle.tolist() == [0, 0, *[1] * 6, *[2] * 3, *[0] * 5]


def test_scenes_a_turn_apart_show_the_same_ground() -> None:
    def grid(left: float, crs: CRS = DEGREES) -> Grid:
        return Grid(crs, place(left, 5, 0.25), 16, 16)

    # 178 to 182 and −182 to −178 are one place, of which 181 to 185 shares a quarter.
    grids = [grid(178), grid(-182), grid(-179), grid(0), grid(300), grid(-60)]
    assert overlapping_grids(grids) == [(0, 1), (0, 2), (1, 2), (4, 5)]
    assert overlap_groups(grids) == [[0, 1, 2], [3], [4, 5]]
    utm = Grid(CRS.from_epsg(32660), place(674_000, 160_000, 20_000), 16, 16)
    assert overlapping_grids([grid(-180), utm, grid(0)]) == [(0, 1)]

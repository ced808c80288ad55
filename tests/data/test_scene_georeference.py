"""A pixel ends where it began, whatever the grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.warp import transform

from terrafuse.data import Grid, ReadingRules, Scene, scene_from_rasters
from terrafuse.modalities import Modality
from terrafuse.samples import Window

# Around 12° E, 50° N.
CENTRE = (12.0, 50.0)
SYSTEMS = ("EPSG:4326", "EPSG:32632", "EPSG:32633", "EPSG:3857", "EPSG:25832", "EPSG:3035")
PLACE = Modality("place", ("x", "y"))
REFERENCE = Modality("reference", ("one",))


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Grids of 5 to 40 m that all contain the centre."""
    crs = CRS.from_string(draw(st.sampled_from(SYSTEMS)))
    height, width = draw(st.integers(12, 60)), draw(st.integers(12, 60))
    degree = 1 / 100_000 if crs.is_geographic else 1.0
    size = draw(st.floats(5, 40)) * degree
    (x,), (y,) = transform(CRS.from_epsg(4326), crs, [CENTRE[0]], [CENTRE[1]])[:2]
    t = Affine.translation(x, y)
    t *= Affine.rotation(draw(st.sampled_from((0.0, 0.0, 90.0, 33.0, -120.0, 181.5))))
    t *= Affine.scale(size, draw(st.sampled_from((-1, -1, 1))) * size * draw(st.floats(0.8, 1.25)))
    col, row = draw(st.floats(0.1, 0.9)) * width, draw(st.floats(0.1, 0.9)) * height
    return Grid(crs, t * Affine.translation(-col, -row), height, width)


def pixel_centres(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    cols, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    x, y = grid.transform * (cols, rows)
    return x, y


def write(path: Path, grid: Grid, bands: np.ndarray) -> str:
    with rasterio.open(
        path, "w", driver="GTiff", count=len(bands), height=grid.height, width=grid.width,
        dtype=bands.dtype, crs=grid.crs, transform=grid.transform,
    ) as dataset:  # fmt: skip
        dataset.write(bands)
    return str(path)


def open_pair(folder: Path, source: Grid, target: Grid, resampling: str) -> Scene:
    """A raster whose bands are the map coordinates of its pixels, on another raster's grid."""
    x, y = pixel_centres(source)
    middle = x.mean(), y.mean()  # float32 has no room for the full coordinates
    places = np.stack([x - middle[0], y - middle[1]])
    rasters = {
        "place": write(folder / "place.tif", source, places),
        "reference": write(
            folder / "reference.tif", target, np.ones((1, target.height, target.width), np.uint8)
        ),
    }
    rules = {"place": ReadingRules(resampling=resampling)}  # type: ignore[arg-type]
    return scene_from_rasters([PLACE, REFERENCE], rasters, grid="reference", sources=rules)


@given(grids(), grids(), st.sampled_from(["nearest", "bilinear"]))
@settings(max_examples=60, deadline=None)
def test_a_pixel_ends_where_it_began(
    tmp_path_factory: pytest.TempPathFactory, source: Grid, target: Grid, resampling: str
) -> None:
    scene = open_pair(tmp_path_factory.mktemp("pair"), source, target, resampling)
    assert scene.grid == target
    sample = scene.read(scene.grid.window)
    scene.close()

    image = sample.images["place"].numpy().astype(float)
    x, y = pixel_centres(source)
    found = ~source.transform * (image[0] + x.mean(), image[1] + y.mean())
    truth_x, truth_y = pixel_centres(target)
    moved = transform(target.crs, source.crs, truth_x.ravel(), truth_y.ravel())[:2]
    truth = np.reshape(~source.transform * np.array(moved), (2, *truth_x.shape))

    valid = sample.valid["place"].numpy()
    error = np.abs(np.array(found) - np.array(truth)).max(axis=0)
    # Source pixels from a target pixel's centre to those that may take part in its value.
    reach = max(1.0, *(float(np.hypot(*np.diff(truth, axis=a)).max()) for a in (1, 2)))
    size = np.array([source.width, source.height])[:, None, None]
    inside = ((truth > reach) & (truth < size - reach)).all(axis=0)
    beyond = ((truth < -reach) | (truth > size + reach)).any(axis=0)
    assert valid[inside].all()
    assert not valid[beyond].any()
    # Half a source pixel, and the transform's tolerance.
    assert error[inside].max(initial=0) <= 0.5 + 0.02
    # At the raster's edge a wide kernel sees one side only.
    assert error[valid].max(initial=0) <= reach / 2 + 0.02
    if resampling == "nearest":
        assert error[valid].max(initial=0) <= 0.5 + 0.02


@given(grids(), grids(), st.sampled_from(["nearest", "bilinear", "average"]), st.data())
@settings(max_examples=25, deadline=None)
def test_any_tiling_reads_the_same_pixels(
    tmp_path_factory: pytest.TempPathFactory,
    source: Grid,
    target: Grid,
    resampling: str,
    data: st.DataObject,
) -> None:
    big = Grid(target.crs, target.transform, target.height * 5, target.width * 5)
    scene = open_pair(tmp_path_factory.mktemp("tiling"), source, big, resampling)
    whole = scene.read(scene.grid.window).images["place"]
    scene.close()  # forgets the blocks, too
    size = data.draw(st.tuples(st.integers(20, 200), st.integers(20, 200)))
    for row in range(-5, big.height, size[0]):
        for col in range(-7, big.width, size[1]):
            window = Window(row, col, *size)
            inner = window.intersection(scene.grid.window)
            if inner is None:
                continue
            part = scene.read(window).images["place"]
            rows, cols = inner.slices(window)
            np.testing.assert_array_equal(
                part[:, rows, cols], whole[(slice(None), *inner.slices())]
            )
    scene.close()

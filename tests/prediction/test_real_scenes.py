"""From files to files: a pixel ends where it began, on exactly the scene's grid."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from array_scene import Identity, make_modality
from shared import shared_data
from terrafuse.classes import ClassScheme
from terrafuse.data import Grid, Scene, scene_from_rasters
from terrafuse.errors import DataError, RasterReadError
from terrafuse.prediction import Products, ScenePredictor, WindowSettings
from terrafuse.segmenter import Inputs, SegmenterOutput

THREE = ClassScheme(("a", "b", "c"))
MakeRaster = Callable[..., Path]


class Mixed(Identity):
    """Some of every modality in every class."""

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        mean = torch.stack([x.mean(dim=1) for x in inputs.images.values()]).mean(dim=0)
        return SegmenterOutput(torch.stack([mean * k for k in range(self.num_classes)], dim=1))


def predict(scene: Scene, out: Path, model: type[Identity] = Identity) -> Products:
    segmenter = model(scene.modalities, THREE.num_classes)
    predictor = ScenePredictor(segmenter, WindowSettings(48, 12, batch_size=2), device="cpu")
    return predictor.predict(scene, out, scheme=THREE)


def transforms() -> st.SearchStrategy[Affine]:
    def make(x: float, y: float, size: float, angle: float, flip: bool) -> Affine:
        return (
            Affine.translation(x, y)
            * Affine.rotation(angle)
            * Affine.scale(size, size if flip else -size)
        )

    return st.builds(
        make,
        st.floats(-1e6, 1e6), st.floats(0, 9e6), st.floats(0.05, 90),
        st.just(0.0) | st.floats(-180, 180), st.booleans(),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@example(transform=Affine(1, 0, 0, 0, -1, 0), crs="EPSG:32633", size=(1, 1), seed=0)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    transform=transforms(),
    crs=st.sampled_from(["EPSG:32633", "EPSG:3857", "EPSG:2056", None]),
    size=st.tuples(st.integers(1, 110), st.integers(1, 110)),
    seed=st.integers(0, 99),
)
def test_identity_model_on_any_grid(
    tmp_path: Path,
    make_raster: MakeRaster,
    transform: Affine,
    crs: str | None,
    size: tuple[int, int],
    seed: int,
) -> None:
    image = np.random.default_rng(seed).integers(1, 200, (3, *size)).astype(np.uint8)
    if max(size) > 1:
        image[:, 0, 0] = 0  # the nodata value
    path = make_raster(tmp_path / "image.tif", image, crs=crs, transform=transform, nodata=0)
    with rasterio.open(path) as dataset:
        grid = Grid.from_dataset(dataset)
    scene = scene_from_rasters([make_modality("image", 3)], {"image": path})
    made = predict(scene, tmp_path / "map")
    scene.close()
    with rasterio.open(made.class_map) as dataset:
        assert Grid.from_dataset(dataset) == grid
        expected = np.where((image == 0).all(axis=0), 255, image.argmax(axis=0))
        assert np.array_equal(dataset.read(1), expected)


def test_a_scene_is_read_once_per_window_also_where_a_raster_covers_a_part(
    tmp_path: Path, make_raster: MakeRaster
) -> None:
    image = np.random.default_rng(0).integers(1, 200, (3, 100, 130)).astype(np.uint8)
    part = np.ones((1, 40, 50), np.float32)
    grid = Affine(10, 0, 500_000, 0, -10, 5_000_000)
    files = {
        "image": make_raster(tmp_path / "image.tif", image, transform=grid),
        "part": make_raster(
            tmp_path / "part.tif", part, transform=grid * Affine.translation(70, 50)
        ),
    }
    modalities = [make_modality("image", 3), make_modality("part", 1)]
    scene = scene_from_rasters(modalities, files, grid="image")
    predictor = ScenePredictor(Identity(scene.modalities, 3), WindowSettings(48, 12), device="cpu")
    assert np.array_equal(predictor.class_map(scene), image.argmax(axis=0))
    valid = np.zeros((100, 130), bool)
    valid[50:90, 70:120] = True
    assert np.array_equal(predictor.class_map(scene, without={"image"}) == 255, ~valid)


@pytest.mark.parametrize(
    ("reference", "others"),
    [("olinda_landsat7_6band", {"olinda_dem_90m": 3.0}),
     ("olinda_dem_90m", {"olinda_landsat7_6band": 1.0}),
     ("zion_srtm_wgs84", {"zion_nlcd_utm12": 1.0}),
     ("rotterdam_pan_0p5m", {"rotterdam_ms_1m_float64": 2.0}),
     ("rotterdam_ms_1m_float64", {"rotterdam_pan_0p5m": 0.5}),
     ("rotterdam_sar_4pol_nan_edges", {}),
     ("rotated_geotransform", {})],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_real_rasters_give_a_map_on_the_reference_grid(
    tmp_path: Path, reference: str, others: dict[str, float]
) -> None:
    folder = shared_data("geotiff_zoo")
    files, modalities = {}, []
    for name, scale in ({reference: 1.0} | others).items():
        files[name] = folder / f"{name}.tif"
        with rasterio.open(files[name]) as dataset:
            modalities.append(make_modality(name, dataset.count, scale))
    scene = scene_from_rasters(modalities, files, grid=reference)
    made = predict(scene, tmp_path, Mixed)
    with rasterio.open(files[reference]) as dataset:
        grid = Grid.from_dataset(dataset)
    for path in (made.class_map, made.confidence):
        with rasterio.open(path) as dataset:
            assert Grid.from_dataset(dataset) == grid
            assert (dataset.read(1) != 255).any()


@pytest.mark.parametrize(
    ("name", "bands", "kind", "text"),
    [("all_nodata_4band", 4, DataError, "all-nodata scene 'scene'"),
     ("corrupt_truncated", 3, RasterReadError, "corrupt_truncated.tif")],
)  # fmt: skip
def test_real_rasters_that_cannot_be_mapped_leave_nothing(
    tmp_path: Path, name: str, bands: int, kind: type[Exception], text: str
) -> None:
    path = shared_data("geotiff_zoo") / f"{name}.tif"
    scene = scene_from_rasters([make_modality("image", bands)], {"image": path})
    with pytest.raises(kind, match=text):
        predict(scene, tmp_path / "map")
    assert list(tmp_path.iterdir()) == []

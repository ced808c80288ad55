"""Real files: each is read right, or refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform

from shared import shared_data
from terrafuse.data import ReadingRules, Scene, load_manifest, scene_from_rasters, write_manifest
from terrafuse.doctor import check_manifest
from terrafuse.errors import BandError, GridMismatchError, RasterReadError
from terrafuse.modalities import Modality

# Name → bands, and the share of pixels with data in some band, found with rasterio's own masks.
READABLE = {
    "aerial_rgb_internal_mask.tif": (3, 0.969),
    "all_nodata_4band.tif": (4, 0.0),
    "float32_nan_pixels.tif": (1, 0.489),
    "int16_scale_offset.tif": (2, 0.9999),
    "landsat7_8band_stack.gtif": (8, 1.0),
    "landsat_bahamas_rgb_nodata0.tif": (3, 0.675),
    "landsat_pucallpa_swnirrg.tif": (4, 1.0),
    "naip_2014_rgbn_723.tif": (4, 1.0),
    "naip_2018_rgbn_724.tif": (4, 1.0),
    "neon_harv_hsi_369band_nocrs.tif": (369, 1.0),
    "neon_harv_rgb_10cm.tif": (3, 0.9999),
    "non_earth_crs.tif": (1, 0.0975),
    "olinda_dem_90m.tif": (1, 1.0),
    "olinda_landsat7_6band.tif": (6, 1.0),
    "rgba_uint16_utm12.tif": (3, 0.489),
    "rotated_geotransform.tif": (1, 1.0),
    "rotterdam_ms_1m_float64.tif": (4, 1.0),
    "rotterdam_pan_0p5m.tif": (1, 1.0),
    "rotterdam_sar_4pol_nan_edges.tif": (4, 0.608),
    "s2_single_band_a.tif": (1, 1.0),
    "s2_single_band_b.tif": (1, 1.0),
    "zion_nlcd_utm12.tif": (1, 1.0),
    "zion_srtm_wgs84.tif": (1, 1.0),
}
COMPLEX = [f"rotterdam_sar_{p}_complex64.tif" for p in ("hh", "hv", "vh", "vv")]
REFUSED = {
    "sentinel1_gcps_only.tif": (GridMismatchError, "210 ground control points only, .* gdalwarp"),
    **dict.fromkeys(COMPLEX, (BandError, "complex64.*'complex: amplitude'")),
}


@pytest.fixture
def zoo() -> Path:
    return shared_data("geotiff_zoo")


def modality(name: str, bands: int, scale: float = 1.0) -> Modality:
    return Modality(name, tuple(f"b{n}" for n in range(bands)), scale=scale)


def open_zoo(path: Path, bands: int) -> Scene:
    return scene_from_rasters([modality("m", bands)], {"m": path})


def test_every_file_has_a_test(zoo: Path) -> None:
    names = {path.name for path in zoo.iterdir() if path.suffix in (".tif", ".gtif")}
    assert names == {*READABLE, *REFUSED, "corrupt_truncated.tif"}


@pytest.mark.parametrize("rule", ["all", "each"])
@pytest.mark.parametrize("name", READABLE)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_files_that_can_be_read(zoo: Path, name: str, rule: Literal["all", "each"]) -> None:
    bands, share = READABLE[name]
    rules = {"m": ReadingRules(nodata_rule=rule)}
    scene = scene_from_rasters([modality("m", bands)], {"m": zoo / name}, sources=rules)
    sample = scene.read(scene.grid.window)
    image = sample.images["m"].numpy()
    with rasterio.open(zoo / name) as dataset:
        indexes = list(range(1, bands + 1))
        masked = dataset.read(indexes, masked=True).astype(np.float64)
        masked = np.ma.masked_invalid(masked)
        scaled = masked * np.reshape(dataset.scales[:bands], (-1, 1, 1))
        scaled += np.reshape(dataset.offsets[:bands], (-1, 1, 1))
        assert scene.grid.transform == dataset.transform
        assert scene.grid.crs == dataset.crs
    if rule == "all":  # none of these has NaN in single bands
        scaled.mask = np.broadcast_to(np.ma.getmaskarray(scaled).all(axis=0), scaled.shape)
    np.testing.assert_allclose(image, scaled.filled(np.nan), rtol=1e-6)
    assert sample.valid["m"].numpy().mean() == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_refused(zoo: Path, name: str) -> None:
    error, message = REFUSED[name]
    with pytest.raises(error, match=message) as caught:
        open_zoo(zoo / name, 1)
    assert name in str(caught.value)


def test_a_truncated_file_opens_and_fails_where_it_ends(zoo: Path) -> None:
    scene = open_zoo(zoo / "corrupt_truncated.tif", 3)
    with pytest.raises(RasterReadError, match=r"corrupt_truncated\.tif' cannot be decoded"):
        scene.read(scene.grid.window)


def test_four_polarisations_as_amplitude(zoo: Path) -> None:
    rules = {"sar": ReadingRules(complex="amplitude")}
    files = {"sar": [zoo / name for name in COMPLEX]}
    scene = scene_from_rasters([modality("sar", 4)], files, sources=rules)
    image = scene.read(scene.grid.window).images["sar"]
    with rasterio.open(zoo / COMPLEX[1]) as dataset:
        np.testing.assert_allclose(image[1], np.abs(dataset.read(1)), rtol=1e-6)


def locate(scene: Scene, other: Path) -> np.ndarray:
    """Pixel indices (2, H, W) of a raster at the centres of the scene's pixels; −1 outside."""
    grid = scene.grid
    cols, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    x, y = grid.transform * (cols, rows)
    with rasterio.open(other) as dataset:
        x, y = transform(grid.crs, dataset.crs, x.ravel(), y.ravel())[:2]
        col, row = np.floor(~dataset.transform * np.array([x, y]))
        inside = (row >= 0) & (row < dataset.height) & (col >= 0) & (col < dataset.width)
    found = np.where(inside, [row, col], -1).astype(int)
    return found.reshape(2, grid.height, grid.width)


@pytest.mark.parametrize(
    ("reference", "bands", "other", "scale"),
    [
        ("olinda_landsat7_6band.tif", 6, "olinda_dem_90m.tif", 1.0),
        ("olinda_dem_90m.tif", 1, "olinda_landsat7_6band.tif", 1.0),
        ("zion_nlcd_utm12.tif", 1, "zion_srtm_wgs84.tif", 1.0),
        ("zion_srtm_wgs84.tif", 1, "zion_nlcd_utm12.tif", 1.0),
        ("rotterdam_pan_0p5m.tif", 1, "rotterdam_ms_1m_float64.tif", 1.0),
        ("naip_2014_rgbn_723.tif", 4, "naip_2018_rgbn_724.tif", 1.0),
    ],
)
def test_pairs_on_different_grids_show_the_same_ground(
    zoo: Path, reference: str, bands: int, other: str, scale: float
) -> None:
    with rasterio.open(zoo / other) as dataset:
        raw = dataset.read()
    scene = scene_from_rasters(
        [modality("a", bands), modality("b", len(raw), scale)],
        {"a": zoo / reference, "b": zoo / other},
        grid="a",
        sources={"b": ReadingRules(resampling="nearest")},
    )
    with rasterio.open(zoo / reference) as dataset:
        assert scene.grid.transform == dataset.transform
        assert (scene.grid.height, scene.grid.width) == dataset.shape
    image = scene.read(scene.grid.window).images["b"].numpy()
    row, col = locate(scene, zoo / other)
    inside = row >= 0
    assert inside.mean() > 0.9
    same = image[:, inside] == raw[:, row[inside], col[inside]]
    # Centres on a pixel's edge may fall to either side.
    assert same.all(axis=0).mean() > 0.995
    assert np.isnan(image[:, ~inside]).mean() > 0.9 if (~inside).any() else True


def test_each_at_its_own_scale(zoo: Path) -> None:
    scene = scene_from_rasters(
        [modality("ms", 4, scale=2.0), modality("pan", 1)],
        {"ms": zoo / "rotterdam_ms_1m_float64.tif", "pan": zoo / "rotterdam_pan_0p5m.tif"},
    )
    sample = scene.read(scene.full_window)
    with rasterio.open(zoo / "rotterdam_ms_1m_float64.tif") as dataset:
        raw = dataset.read()
    # The files' grids differ by 2 cm at the far corner: resampled, yet nearly the same.
    difference = np.abs(sample.images["ms"].numpy() - raw) / raw.std()
    assert np.nanmax(difference) < 0.2
    assert np.nanmean(difference) < 0.005
    assert sample.valid["ms"].all()


def test_rasters_of_different_places_and_one_without_crs(zoo: Path) -> None:
    pairs = {
        ("rotterdam_ms_1m_float64.tif", 4, "rotterdam_sar_4pol_nan_edges.tif", 4): "not overlap",
        ("zion_srtm_wgs84.tif", 1, "non_earth_crs.tif", 1): "no transform from",
        ("neon_harv_rgb_10cm.tif", 3, "neon_harv_hsi_369band_nocrs.tif", 369): "has no CRS, but",
    }  # fmt: skip
    for (reference, bands, other, others), message in pairs.items():
        files = {"a": zoo / reference, "b": zoo / other}
        with pytest.raises(GridMismatchError, match=message):
            scene_from_rasters([modality("a", bands), modality("b", others)], files, grid="a")


# What `data check` says of each file alone, but for notes.
CHECKED = {
    "all_nodata_4band.tif": {"no-data"},
    "corrupt_truncated.tif": {"unreadable"},
    "float32_nan_pixels.tif": {"nan-beside-nodata"},
    "landsat7_8band_stack.gtif": {"constant-in-scene"},  # its eighth band is empty
    "rgba_uint16_utm12.tif": {"constant-in-scene"},  # 10000 wherever alpha shows it
    "sentinel1_gcps_only.tif": {"grid"},
    **{name: {"bands"} for name in COMPLEX},
}
KINDS = {"olinda_dem_90m.tif": "elevation", "zion_srtm_wgs84.tif": "elevation"}


def check(folder: Path, files: dict[str, tuple[Path, int, dict]]) -> set[str]:
    """Codes of the errors and warnings about a scene of these files."""
    values = {
        "classes": [{"name": "any"}],
        "modalities": {
            name: {"bands": [f"{name}{i}" for i in range(bands)]} | given
            for name, (_, bands, given) in files.items()
        },
        "scenes": [{"id": "x", "split": "all"} | {k: str(v[0]) for k, v in files.items()}],
    }
    manifest = load_manifest(write_manifest(values, folder / "dataset.yaml"))
    findings = check_manifest(manifest, train_splits=(), validation_split="all")
    return {finding.code for finding in findings if finding.severity != "note"}


@pytest.mark.parametrize("name", sorted({*READABLE, *REFUSED, "corrupt_truncated.tif"}))
def test_what_the_check_says(zoo: Path, tmp_path: Path, name: str) -> None:
    bands = READABLE[name][0] if name in READABLE else 3 if "corrupt" in name else 1
    kind = KINDS.get(name) or ("optical" if bands >= 3 and "sar" not in name else "other")
    assert check(tmp_path, {"m": (zoo / name, bands, {"kind": kind})}) == CHECKED.get(name, set())


def test_what_the_check_says_of_pairs_on_different_grids(zoo: Path, tmp_path: Path) -> None:
    ms = (zoo / "rotterdam_ms_1m_float64.tif", 4, {"kind": "optical", "scale": 2.0})
    pan = (zoo / "rotterdam_pan_0p5m.tif", 1, {"kind": "optical"})
    assert check(tmp_path, {"ms": ms, "pan": pan}) == set()
    assert check(tmp_path, {"ms": (*ms[:2], {"kind": "optical"}), "pan": pan}) == {"pixel-size"}
    dem = (zoo / "olinda_dem_90m.tif", 1, {"kind": "elevation"})
    etm = (zoo / "olinda_landsat7_6band.tif", 6, {"kind": "optical"})
    assert check(tmp_path, {"etm": etm, "dem": dem}) == {"pixel-size"}
    sar = (zoo / "rotterdam_sar_4pol_nan_edges.tif", 4, {})
    assert check(tmp_path, {"ms": ms, "sar": sar}) == {"grid"}

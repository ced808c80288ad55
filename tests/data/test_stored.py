"""TIFFs that GDAL would show as computed colours give the samples they store, bit for bit."""

from __future__ import annotations

import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning

from terrafuse.data import (
    ReadingRules,
    Scene,
    compute_statistics,
    load_manifest,
    scene_from_rasters,
)
from terrafuse.data.handles import pool
from terrafuse.data.raster_file import inspect_raster
from terrafuse.errors import RasterReadError
from terrafuse.modalities import Modality
from terrafuse.samples import Window

MakeRaster = Callable[..., Path]
Values = NDArray[Any]

PHOTOMETRIC, SUBSAMPLING, SAMPLE_FORMAT = 262, 530, 339
CMYK, YCBCR, CIELAB = 5, 6, 8
OTHER = Affine(7, 0, 500_103, 0, -7, 4_999_796)


def patch(path: Path, *, photometric: int, subsampling: int | None = None) -> Path:
    """Change what a little-endian TIFF calls its samples, and nothing else of it."""
    content = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from("<H", content, entry)
        if tag == PHOTOMETRIC:
            struct.pack_into("<H", content, entry + 8, photometric)
        if tag == SAMPLE_FORMAT and subsampling:  # its place, as it says the default
            struct.pack_into("<HHIHH", content, entry, SUBSAMPLING, 3, 2, subsampling, subsampling)
    path.write_bytes(content)
    return path


def image(bands: int = 4, height: int = 90, width: int = 70) -> Values:
    """Noise on ramps that differ by band, with 0 and 255 in it."""
    rng = np.random.default_rng(bands)
    ramp = np.linspace(10, 150, width) + 20 * np.arange(bands)[:, None, None]
    values = (ramp + rng.integers(0, 40, (bands, height, width))).astype(np.uint8)
    values[:, 5:9, 11:31], values[1, 50:, :9] = 0, 255
    return values


def cmyk(make: MakeRaster, path: Path, values: Values, **profile: Any) -> Path:
    return make(path, values, photometric="cmyk", **profile)


def patched_cmyk(make: MakeRaster, path: Path, values: Values, **profile: Any) -> Path:
    return patch(make(path, values, photometric="minisblack", **profile), photometric=CMYK)


def ycbcr(make: MakeRaster, path: Path, values: Values, **profile: Any) -> Path:
    made = make(path, values, photometric="rgb", **profile)
    return patch(made, photometric=YCBCR, subsampling=1)


def cielab(make: MakeRaster, path: Path, values: Values, **profile: Any) -> Path:
    return patch(make(path, values, photometric="rgb", **profile), photometric=CIELAB)


KINDS = {"CMYK": cmyk, "CMYK, patched": patched_cmyk, "YCbCr": ycbcr, "CIELab": cielab}
PROFILES: dict[str, dict[str, Any]] = {
    "strips": {},
    "tiles": {"tiled": True, "blockxsize": 32, "blockysize": 16, "compress": "deflate"},
    "bands apart": {"interleave": "band", "nodata": 0},
}


def modality(bands: int) -> Modality:
    return Modality("m", tuple(f"b{n}" for n in range(bands)))


def open_one(path: Path | str, bands: int, **options: Any) -> Scene:
    return scene_from_rasters([modality(bands)], {"m": path}, **options)


def open_warped(path: Path, bands: int, grid: Path) -> Scene:
    both = [modality(bands), Modality("grid", ("g",))]
    return scene_from_rasters(both, {"m": path, "grid": grid}, grid="grid")


def read(scene: Scene, window: Window | None = None) -> Values:
    values: Values = scene.read(window or scene.grid.window).images["m"].numpy()
    return values


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=PROFILES)
def pair(
    request: pytest.FixtureRequest, kind: str, make_raster: MakeRaster, tmp_path: Path
) -> tuple[Path, Path, Values]:
    """The file, a plain one of the same samples, and those."""
    profile = PROFILES[request.param]
    values = image(4 if "CMYK" in kind else 3)
    odd = KINDS[kind](make_raster, tmp_path / "odd.tif", values, **profile)
    plain = make_raster(tmp_path / "plain.tif", values, photometric="minisblack", **profile)
    with rasterio.open(odd) as dataset:  # else this would test nothing
        assert dataset.count != len(values) or not np.array_equal(dataset.read(), values)
    return odd, plain, values


def test_every_way_of_reading_gives_the_stored_samples(
    pair: tuple[Path, Path, Values], make_raster: MakeRaster, tmp_path: Path
) -> None:
    odd, plain, values = pair
    bands = len(values)
    one, other = open_one(odd, bands), open_one(plain, bands)
    whole = read(one)
    np.testing.assert_array_equal(whole[~np.isnan(whole)], values[~np.isnan(whole)])
    for window in (Window(0, 0, 90, 70), Window(33, 17, 21, 40), Window(-5, 60, 30, 30)):
        np.testing.assert_array_equal(read(one, window), read(other, window))
    np.testing.assert_array_equal(one.read_decimated(4)["m"], other.read_decimated(4)["m"])
    grid = make_raster(tmp_path / "g.tif", np.ones((1, 40, 50), np.uint8), transform=OTHER)
    one_warped, other_warped = (open_warped(path, bands, grid) for path in (odd, plain))
    assert not np.isnan(read(one_warped)).all()
    np.testing.assert_array_equal(read(one_warped), read(other_warped))
    np.testing.assert_array_equal(
        one_warped.read_decimated(3)["m"], other_warped.read_decimated(3)["m"]
    )
    assert compute_statistics([one], one.modalities) == compute_statistics(
        [other], other.modalities
    )


def test_a_file_that_lies_nowhere_has_no_placement_by_chance(tmp_path: Path) -> None:
    """GDAL leaves the transform undefined where a file with the prefix has none."""
    profile = {"driver": "GTiff", "count": 4, "height": 9, "width": 7, "dtype": "uint8"}
    for number in range(20):
        path = tmp_path / f"{number}.tif"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, "w", photometric="cmyk", **profile) as dataset:
                dataset.write(np.full((4, 9, 7), number, np.uint8))
        file = inspect_raster(path, "x")
        assert file.color_model == "CMYK"
        assert file.grid.transform == Affine.identity()


def test_a_nodata_tag_and_a_mask_count_for_stored_samples(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    values = image()
    tagged = cmyk(make_raster, tmp_path / "a.tif", values, nodata=0)
    np.testing.assert_array_equal(np.isnan(read(open_one(tagged, 4))), values == 0)
    masked = cmyk(make_raster, tmp_path / "b.tif", values)
    shown = np.indices((90, 70)).sum(axis=0) % 3 > 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(masked, "r+") as dataset:
        dataset.write_mask(shown)
    expected = np.where(shown, values.astype(float), np.nan)
    np.testing.assert_array_equal(read(open_one(masked, 4)), expected)
    rules = {"m": ReadingRules(nodata=255, read_bands=(2,))}
    expected = np.where(values[1:2] == 255, np.nan, values[1:2])
    np.testing.assert_array_equal(read(open_one(tagged, 1, sources=rules)), expected)


@pytest.mark.parametrize("beside", [False, True])
def test_overviews_of_computed_colours_are_passed_over(
    make_raster: MakeRaster, tmp_path: Path, beside: bool
) -> None:
    values = image(height=256, width=256)
    odd = cmyk(make_raster, tmp_path / "a.tif", values)
    with rasterio.Env(TIFF_USE_OVR=beside), rasterio.open(odd, "r+") as dataset:
        dataset.build_overviews([2, 4], Resampling.nearest)
    assert (tmp_path / "a.tif.ovr").exists() == beside
    plain = make_raster(tmp_path / "b.tif", values, photometric="minisblack")
    grid = make_raster(tmp_path / "g.tif", np.ones((1, 200, 200), np.uint8), transform=OTHER)
    for step in (2, 4):
        for one, other in (
            (open_one(odd, 4), open_one(plain, 4)),
            (open_warped(odd, 4, grid), open_warped(plain, 4, grid)),
        ):
            np.testing.assert_array_equal(
                one.read_decimated(step)["m"], other.read_decimated(step)["m"]
            )


def test_ycbcr_whose_pixels_share_colours_is_read_as_rgb_and_said(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    path = make_raster(tmp_path / "a.tif", image(3), photometric="rgb")
    patch(path, photometric=YCBCR, subsampling=2)
    with rasterio.open(path) as dataset:
        expected = dataset.read()
    np.testing.assert_array_equal(read(open_one(path, 3)), expected)
    assert inspect_raster(path, "x").notices == {
        "color-model": f"'{path}' is stored as YCbCr; it is read as the RGB that GDAL computes "
        "from it"
    }


def test_ordinary_files_are_opened_as_before(make_raster: MakeRaster, tmp_path: Path) -> None:
    smooth = np.kron(image(3, 6, 6), np.ones((1, 16, 16), np.uint8))
    jpeg = {"photometric": "ycbcr", "compress": "jpeg", "jpeg_quality": 95}
    path = make_raster(tmp_path / "jpeg.tif", smooth, **jpeg)
    file = inspect_raster(path, "x")
    assert (file.spec, file.color_model, file.notices) == (str(path), "", {})
    assert np.abs(read(open_one(path, 3)) - smooth).mean() < 6
    for photometric in ("minisblack", "rgb", "miniswhite"):
        path = make_raster(tmp_path / f"{photometric}.tif", image(3), photometric=photometric)
        assert inspect_raster(path, "x").spec == str(path)
        np.testing.assert_array_equal(read(open_one(path, 3)), image(3))


def test_inks_beyond_four_and_jpeg_of_inks(make_raster: MakeRaster, tmp_path: Path) -> None:
    path = cmyk(make_raster, tmp_path / "five.tif", image(5))
    np.testing.assert_array_equal(read(open_one(path, 5)), image(5))
    smooth = np.kron(image(4, 6, 6), np.ones((1, 16, 16), np.uint8))
    path = cmyk(make_raster, tmp_path / "a.tif", smooth, compress="jpeg", jpeg_quality=95)
    assert np.abs(read(open_one(path, 4)) - smooth).mean() < 3


def test_the_prefix_is_taken_wherever_a_path_is(
    make_raster: MakeRaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = cmyk(make_raster, tmp_path / "a.tif", image())
    labels = make_raster(tmp_path / "l.tif", np.ones((1, 90, 70), np.uint8))
    for path in (f"GTIFF_RAW:{odd}", f"gtiff_raw:{odd}"):
        scene = open_one(path, 4)
        np.testing.assert_array_equal(read(scene), image())
        assert scene.paths() == {"m": (odd,)}
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(read(open_one("GTIFF_RAW:a.tif", 4)), image())
    # It changes nothing where it is not needed.
    np.testing.assert_array_equal(read(open_one(f"GTIFF_RAW:{labels}", 1)), 1)
    with pytest.raises(RasterReadError, match=r"there is no file 'gone\.tif'"):
        open_one("GTIFF_RAW:gone.tif", 4)


def vrt(path: Path, source: str, bands: int = 4, *, relative: int = 1) -> Path:
    """A VRT as gdalbuildvrt writes it over what GDAL shows."""
    colors = ("Red", "Green", "Blue", "Alpha")
    parts = "".join(
        f'<VRTRasterBand dataType="Byte" band="{n}"><ColorInterp>{colors[n - 1]}</ColorInterp>'
        f'<SimpleSource><SourceFilename relativeToVRT="{relative}">{source}</SourceFilename>'
        f"<SourceBand>{n}</SourceBand></SimpleSource></VRTRasterBand>"
        for n in range(1, bands + 1)
    )
    path.write_text(
        '<VRTDataset rasterXSize="70" rasterYSize="90"><SRS>EPSG:32633</SRS>'
        f"<GeoTransform>500000,10,0,5000000,0,-10</GeoTransform>{parts}</VRTDataset>"
    )
    return path


@pytest.mark.parametrize("nested", [False, True])
def test_a_vrt_over_such_files_gives_their_samples(
    make_raster: MakeRaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    values = image()
    odd = cmyk(make_raster, tmp_path / "in" / "a.tif", values)
    with rasterio.open(odd, "r+") as dataset:
        dataset.build_overviews([2], Resampling.nearest)
    path = vrt(tmp_path / "b.vrt", "in/a.tif")
    if nested:
        path = vrt(tmp_path / "c.vrt", str(path), relative=0)
    with rasterio.open(path) as dataset:
        assert not np.array_equal(dataset.read(), values)
    plain = make_raster(tmp_path / "p.tif", values, photometric="minisblack")
    grid = make_raster(tmp_path / "g.tif", np.ones((1, 40, 50), np.uint8), transform=OTHER)
    monkeypatch.chdir(tmp_path)
    for given in (path, Path(path.name)):
        one = open_one(given, 4)
        np.testing.assert_array_equal(read(one), values)
        np.testing.assert_array_equal(
            one.read_decimated(2)["m"], open_one(plain, 4).read_decimated(2)["m"]
        )
        np.testing.assert_array_equal(
            read(open_warped(given, 4, grid)), read(open_warped(plain, 4, grid))
        )
    assert (
        "stored as CMYK; read as 4 plain bands" in inspect_raster(path, "x").notices["color-model"]
    )
    assert not any(inspect_raster(path, "x").alpha_tags)
    pool.close()
    scene = open_warped(path, 4, grid)
    before = len(pool)
    read(scene)
    assert len(pool) == before + 1
    inspect_raster(path, "x")  # it may be new: what was made of it is closed
    assert len(pool) == before + 1


def test_files_in_an_archive(make_raster: MakeRaster, tmp_path: Path) -> None:
    """GDAL's virtual paths; the file on disk is the archive."""
    values = image()
    cmyk(make_raster, tmp_path / "a.tif", values)
    vrt(tmp_path / "a.vrt", "a.tif")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a.tif", "a.vrt"):
            archive.write(tmp_path / name, name)
    for name in ("a.tif", "a.vrt"):
        path = f"/vsizip/{tmp_path}/a.zip/{name}"
        for given in (path, f"GTIFF_RAW:{path}"):
            scene = open_one(given, 4)
            np.testing.assert_array_equal(read(scene), values)
            assert scene.paths() == {"m": (tmp_path / "a.zip",)}


def test_a_manifest_takes_the_prefix_with_patterns_and_a_root(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    cmyk(make_raster, tmp_path / "data/a_1.tif", image())
    make_raster(tmp_path / "data/a_2.tif", image()[:1, ::-1])
    scene = {"id": "x", "m": "GTIFF_RAW:a_*.tif"}
    values = {"root": "data", "classes": [{"name": "c", "code": 1}], "scenes": [scene]}
    values["modalities"] = {"m": {"bands": list("abcde")}}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(values))
    manifest = load_manifest(tmp_path / "dataset.yaml")
    found = read(manifest.scene("x"))
    np.testing.assert_array_equal(found, np.concatenate([image(), image()[:1, ::-1]]))
    assert manifest.local_files(manifest.entries[0])["m"][0] == tmp_path / "data/a_1.tif"


def test_a_vrt_over_plain_files_stays_what_it_is(make_raster: MakeRaster, tmp_path: Path) -> None:
    make_raster(tmp_path / "a.tif", image(), photometric="minisblack")
    path = vrt(tmp_path / "a.vrt", "a.tif")
    assert inspect_raster(path, "x").spec == str(path)
    np.testing.assert_array_equal(read(open_one(path, 4)), image())
    # Written anew as CMYK, the file is looked at again.
    cmyk(make_raster, tmp_path / "a.tif", image(4)[:, ::-1])
    np.testing.assert_array_equal(read(open_one(path, 4)), image()[:, ::-1])


def test_a_vrt_of_more_colours_than_samples_is_refused(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    odd = cielab(make_raster, tmp_path / "a.tif", image(3))
    path = vrt(tmp_path / "a.vrt", "a.tif")
    with pytest.raises(
        RasterReadError, match=r"takes band 4 of '.*a\.tif', which stores 3 \(CIELab\)"
    ):
        open_one(path, 4)
    np.testing.assert_array_equal(read(open_one(odd, 3)), image(3))  # as the message advises

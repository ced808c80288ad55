"""Files whose bands are of two dtypes, and nodata at the end of a dtype's range."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from terrafuse.data import ReadingRules, Scene, scene_from_rasters
from terrafuse.data.gridded import equals_nodata, usable_nodata
from terrafuse.modalities import Modality

pytestmark = pytest.mark.usefixtures("without_figures")

MakeRaster = Callable[..., Path]
CommandLine = Callable[..., tuple[int, str, str]]
F32, F64 = float(np.finfo(np.float32).max), float(np.finfo(np.float64).max)
HALF = Affine(10, 0, 500_005, 0, -10, 4_999_995)
RNG = np.random.default_rng(5)


def separate(path: Path, parts: list[Path], *, nodata: bool = True) -> Path:
    """A VRT as `gdalbuildvrt -separate` writes it: a band per file, of the file's dtype."""
    bands = []
    for number, part in enumerate(parts, 1):
        with rasterio.open(part) as dataset:
            crs, transform, shape = dataset.crs, dataset.transform, dataset.shape
            kind = {"uint16": "UInt16", "float32": "Float32", "complex64": "CFloat32"}
            tag = dataset.nodata if nodata else None
            about = (
                f'<SourceFilename relativeToVRT="1">{part.name}</SourceFilename>'
                "<SourceBand>1</SourceBand>"
            )
            source = f"<SimpleSource>{about}</SimpleSource>"
            head = ""
            if tag is not None:
                head = f"<NoDataValue>{tag!r}</NoDataValue>"
                source = f"<ComplexSource>{about}<NODATA>{tag!r}</NODATA></ComplexSource>"
            dtype = kind[dataset.dtypes[0]]
            bands.append(
                f'<VRTRasterBand dataType="{dtype}" band="{number}">{head}{source}</VRTRasterBand>'
            )
    numbers = ", ".join(repr(v) for v in transform.to_gdal())
    path.write_text(
        f'<VRTDataset rasterXSize="{shape[1]}" rasterYSize="{shape[0]}"><SRS>{crs.to_wkt()}</SRS>'
        f"<GeoTransform>{numbers}</GeoTransform>{''.join(bands)}</VRTDataset>"
    )
    return path


def read(
    path: Path, count: int, make_raster: MakeRaster, *, half: bool, **rules: Any
) -> np.ndarray:
    """Of a grid half a pixel away, or of the raster's own."""
    modality = Modality("m", tuple(f"b{n}" for n in range(count)))
    rasters = {"m": path}
    modalities = [modality]
    if half:
        zeros = np.zeros((1, 7, 7), np.uint8)
        rasters["g"] = make_raster(path.parent / "grid.tif", zeros, transform=HALF)
        modalities.append(Modality("g", ("g",)))
    scene: Scene = scene_from_rasters(
        modalities, rasters, grid="g" if half else None, sources={"m": ReadingRules(**rules)}
    )
    image: np.ndarray = scene.read(scene.grid.window, labels=False).images["m"].numpy()
    small = scene.read_decimated(2)["m"]
    assert small.shape[0] == count
    return image


def halfway(values: np.ndarray) -> np.ndarray:
    """What bilinear sampling half a pixel away gives, by hand; NaN-free input."""
    v = values.astype(np.float64)
    with np.errstate(over="ignore"):  # the fill
        return (v[..., :-1, :-1] + v[..., 1:, :-1] + v[..., :-1, 1:] + v[..., 1:, 1:]) / 4


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("nodata", [True, False])
def test_uint16_beside_float32(
    make_raster: MakeRaster, tmp_path: Path, order: tuple[int, int], nodata: bool
) -> None:
    whole = RNG.integers(1, 60_000, (1, 8, 8)).astype(np.uint16)
    real = RNG.normal(0, 10, (1, 8, 8)).astype(np.float32)
    whole[0, 0, :3], real[0, 1, :2] = 0, -9999
    parts = [
        make_raster(tmp_path / "w.tif", whole, nodata=0),
        make_raster(tmp_path / "r.tif", real, nodata=-9999),
    ]
    path = separate(tmp_path / "v.vrt", [parts[i] for i in order], nodata=nodata)
    expected = np.concatenate([whole.astype(np.float32), real])[list(order)]
    if nodata:
        expected[order.index(0), 0, :3] = expected[order.index(1), 1, :2] = np.nan
    rules = {"nodata_rule": "each"}
    np.testing.assert_array_equal(read(path, 2, make_raster, half=False, **rules), expected)
    away = read(path, 2, make_raster, half=True, **rules)
    np.testing.assert_allclose(away[:, 2:, 3:], halfway(expected)[:, 2:, 3:], rtol=1e-5, atol=1e-3)


def test_a_real_band_beside_a_complex_one_keeps_its_sign(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    real = RNG.normal(-10, 1, (1, 8, 8)).astype(np.float32)
    signal = (RNG.normal(0, 1, (1, 8, 8)) + 1j * RNG.normal(0, 1, (1, 8, 8))).astype(np.complex64)
    parts = [make_raster(tmp_path / "c.tif", signal), make_raster(tmp_path / "r.tif", real)]
    path = separate(tmp_path / "v.vrt", parts)
    expected = np.concatenate([np.abs(signal), real])
    rules = {"complex": "amplitude"}
    np.testing.assert_allclose(read(path, 2, make_raster, half=False, **rules), expected, rtol=1e-6)
    away = read(path, 2, make_raster, half=True, **rules)
    np.testing.assert_allclose(away, halfway(expected), rtol=1e-4)


def test_every_verb_takes_bands_of_two_dtypes(
    make_raster: MakeRaster, tmp_path: Path, command_line: CommandLine
) -> None:
    for i, name in enumerate(("a", "b", "c")):
        labels = RNG.integers(0, 2, (1, 32, 32)).astype(np.uint8)
        image = RNG.normal(900 + 50.0 * labels, 60, (1, 32, 32))
        place = {"transform": Affine(10, 0, 500_000 + 1000 * i, 0, -10, 5_000_000)}
        make_raster(tmp_path / f"set/labels/{name}.tif", labels, **place)
        parts = [
            make_raster(tmp_path / f"set/optical/{name}.w.tif", image.astype(np.uint16), **place),
            make_raster(tmp_path / f"set/optical/{name}.r.tif", -image.astype(np.float32), **place),
        ]
        vrt = separate(tmp_path / f"set/optical/{name}.vrt", parts)
        text = vrt.read_text()
        for part in parts:  # as a folder of VRTs that point elsewhere
            (tmp_path / "parts").mkdir(exist_ok=True)
            part.rename(tmp_path / "parts" / part.name)
            text = text.replace(f">{part.name}<", f">../../parts/{part.name}<")
        vrt.write_text(text)
    manifest, run = tmp_path / "dataset.yaml", tmp_path / "run.yaml"
    code, _, said = command_line("data", "describe", tmp_path / "set", "-o", manifest)
    assert code == 0, said
    text = manifest.read_text()
    for name, split in zip("abc", ("train", "val", "test"), strict=True):
        text = text.replace(f"id: {name},", f"id: {name}, split: {split},")
    manifest.write_text(text)
    run.write_text(
        f"data: {{manifest: {manifest}, crop_size: 32, batch_size: 2, workers: 0}}\n"
        "method: {name: single, backbone: resnet10t, backbone_options: {strides: [2, 4, 8, 16]}}\n"
        "training: {steps: 2}\nprediction: {crop_size: 32, overlap: 0}\n"
    )
    made = tmp_path / "run"
    calls: list[tuple[object, ...]] = [
        ("data", "check", manifest),
        ("data", "stats", manifest, "--json"),
        ("data", "preview", manifest, "-o", tmp_path / "p.png"),
        ("data", "split", manifest, "-o", tmp_path / "split.yaml", "--block", 16, "--buffer", 0),
        ("train", run, "--out", made),
        ("evaluate", made),
        ("predict", made, "-r", f"optical={tmp_path}/set/optical/c.vrt", "--out", tmp_path / "map"),
    ]
    for words in calls:
        code, out, said = command_line(*words)
        assert code == 0, (words, out, said)
        if words[1] == "stats":
            means = json.loads(out)["optical"]["mean"]
            # The train scene's image, and the same with its sign turned.
            assert means[0] == pytest.approx(-means[1], abs=1)


SPELLED = {
    "as numpy and ArcGIS print it": -3.4028235e38,
    "in 9 digits": -3.40282347e38,
    "as QGIS prints it": -3.40282e38,
    "exactly": -F32,
    "of a float64": -F64,
    "of a float64, in 15 digits, which is infinite": float("-1.79769313486232e308"),
}


@pytest.mark.parametrize("half", [False, True], ids=["aligned", "warped"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spelled", SPELLED)
def test_the_largest_float_as_people_print_it(
    make_raster: MakeRaster, tmp_path: Path, spelled: str, dtype: str, half: bool
) -> None:
    nodata = SPELLED[spelled]
    fill = -F64 if dtype == "float64" and abs(nodata) > 1e300 else -F32
    heights = RNG.normal(300, 20, (1, 8, 8)).astype(dtype)
    heights[0, :2, :3] = fill
    for tag in (None, fill):  # the manifest's value counts, over a right tag too
        path = make_raster(tmp_path / "h.tif", heights, nodata=tag)
        image = read(path, 1, make_raster, half=half, nodata=nodata)[0]
        # Half a pixel away, what has one neighbour with data has that.
        assert np.isnan(image[: 1 if half else 2, : 2 if half else 3]).all()
        seen = image[np.isfinite(image)]
        # Averages lie within the heights: no fill is left in any.
        assert seen.min() >= heights[0].max(where=heights[0] > -1, initial=0) - 200
        if half:
            expected = halfway(heights)[0]
            np.testing.assert_allclose(image[2:, 3:], expected[2:, 3:], rtol=1e-5)
        else:
            assert np.isnan(image).sum() == 6


def test_no_other_value_is_taken_for_nodata() -> None:
    near = np.array([-F32, -3.4028e38, -3.4e38, 0, 3.4e38, F32], np.float32)
    nodata = usable_nodata(-3.4028235e38, near.dtype)
    assert nodata is not None
    assert equals_nodata(near, nodata).tolist() == [True, True, False, False, False, False]
    assert usable_nodata(-3.4e38, near.dtype) == -3.4e38
    own = np.array([-F32, -3.4e38], np.float32)
    assert equals_nodata(own, -3.4e38).tolist() == [False, True]
    # Of a float64, the largest float32 hides that alone.
    wide = np.array([-F64, -F32, -1e39, -1e38])
    assert equals_nodata(wide, -F32).tolist() == [False, True, False, False]
    assert usable_nodata(float("nan"), near.dtype) is None
    assert usable_nodata(-3.4e38, np.dtype("uint16")) is None

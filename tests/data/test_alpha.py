"""A band tagged alpha is opacity or data, by its values and by the bands that are asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from scipy import ndimage

from terrafuse.data import ReadingRules, Scene, compute_statistics, scene_from_rasters
from terrafuse.data.raster_file import inspect_raster
from terrafuse.modalities import Modality

MakeRaster = Callable[..., Path]
Values = NDArray[Any]

SIDE = 64
OTHER = Affine(7, 0, 500_003, 0, -7, 4_999_996)


def infrared(side: int = SIDE) -> Values:
    """Land and a dark lake, a twentieth of it saturated."""
    rng = np.random.default_rng(0)
    values = rng.normal(140, 30, (side, side)).clip(1, 254)
    values[rng.random(values.shape) < 0.05] = 255
    values[: side // 4, : side // 2] = 0
    return values.astype(np.uint8)


def shape_of_data(side: int = SIDE) -> Values:
    """255 within a turned rectangle, else 0."""
    rows, cols = np.indices((side, side))
    inside = (rows + cols / 3 > side / 3) & (rows - cols / 2 < side * 0.6)
    return np.where(inside, 255, 0).astype(np.uint8)


def softened(sigma: float) -> Values:
    return np.asarray(
        ndimage.gaussian_filter(shape_of_data().astype(float), sigma).astype(np.uint8)
    )


#: Fourth band → whether it is data.
BANDS: dict[str, tuple[Values, bool]] = {
    "near infrared": (infrared(), True),
    "near infrared over water": (np.where(np.indices((SIDE, SIDE))[1] < 54, 0, infrared()), True),
    "near infrared of little contrast": ((infrared() // 16 + 100).astype(np.uint8), True),
    "a mask": (shape_of_data(), False),
    "a mask with soft edges": (softened(1), False),
    "a feathered mask": (softened(5), False),
    "all opaque": (np.full((SIDE, SIDE), 255, np.uint8), False),
    "all half transparent": (np.full((SIDE, SIDE), 128, np.uint8), False),
    "all transparent": (np.zeros((SIDE, SIDE), np.uint8), False),
}
# Of 16 bits, too.
BANDS["16 bits of infrared"] = (infrared().astype(np.uint16) * 40, True)
BANDS["16 bits of mask"] = (softened(1).astype(np.uint16) * 257, False)


def colors(dtype: Any = np.uint8, side: int = SIDE) -> Values:
    rng = np.random.default_rng(1)
    return np.asarray(rng.integers(1, 200, (3, side, side)).astype(dtype))


def write(make: MakeRaster, path: Path, values: Values) -> Path:
    """Four bands tagged red, green, blue, alpha; two gray, alpha."""
    if path.suffix == ".png":
        made = make(path.with_suffix(".tif"), values, photometric="minisblack")
        with rasterio.open(made) as source:
            profile = source.profile
        kept = {k: profile[k] for k in ("count", "height", "width", "dtype", "crs", "transform")}
        with rasterio.open(path, "w", driver="PNG", **kept) as dataset:
            dataset.write(values)
    else:
        many = "rgb" if len(values) == 4 else "minisblack"
        make(path, values, photometric=many, alpha="yes")
    with rasterio.open(path) as dataset:
        assert dataset.colorinterp[-1] == ColorInterp.alpha
    return path


def open_one(path: Path, bands: int, rules: ReadingRules | None = None) -> Scene:
    modality = Modality("m", tuple(f"b{n}" for n in range(bands)))
    return scene_from_rasters([modality], {"m": path}, sources={"m": rules} if rules else None)


def open_warped(make: MakeRaster, path: Path, bands: int) -> Scene:
    grid = make(path.with_name("grid.tif"), np.ones((1, 60, 60), np.uint8), transform=OTHER)
    both = [Modality("m", tuple(f"b{n}" for n in range(bands))), Modality("grid", ("g",))]
    return scene_from_rasters(both, {"m": path, "grid": grid}, grid="grid")


def read(scene: Scene) -> Values:
    values: Values = scene.read(scene.grid.window).images["m"].numpy()
    return values


@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.parametrize("name", BANDS)
def test_opacity_hides_pixels_and_data_does_not(
    make_raster: MakeRaster, tmp_path: Path, name: str, suffix: str
) -> None:
    band, is_data = BANDS[name]
    values = np.stack([*colors(band.dtype), band])
    path = write(make_raster, tmp_path / f"a{suffix}", values)
    file = inspect_raster(path, "x")
    assert file.alpha == (False, False, False, not is_data)
    expected = f"band 4 of '{path}' is tagged alpha, but taken for data: it hides no pixels"
    assert file.notices == ({"alpha": expected} if is_data else {})
    shown = np.ones(band.shape, bool) if is_data else band > 0
    # Three bands of the file: the colours, hidden or not.
    scene = open_one(path, 3)
    np.testing.assert_array_equal(read(scene), np.where(shown, values[:3].astype(float), np.nan))
    assert scene.files["m"][0].notices == file.notices
    # Four of them: all are bands for certain.
    scene = open_one(path, 4)
    np.testing.assert_array_equal(read(scene), values)
    assert scene.files["m"][0].notices == {"alpha": expected}
    picked = open_one(path, 2, ReadingRules(read_bands=(4, 1)))
    np.testing.assert_array_equal(read(picked), values[[3, 0]])


@pytest.mark.parametrize("name", ["near infrared", "a mask with soft edges"])
def test_it_is_the_same_on_another_grid_and_in_small(
    make_raster: MakeRaster, tmp_path: Path, name: str
) -> None:
    band, is_data = BANDS[name]
    values = np.stack([*colors(), band])
    tagged = write(make_raster, tmp_path / "a.tif", values)
    # As if somebody had told the two apart: no alpha, or a mask.
    told = make_raster(tmp_path / "b.tif", values[:3], photometric="rgb")
    if not is_data:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(told, "r+") as dataset:
            dataset.write_mask(band > 0)
    for one, other in (
        (open_warped(make_raster, tagged, 3), open_warped(make_raster, told, 3)),
        (open_one(tagged, 3), open_one(told, 3)),
    ):
        np.testing.assert_array_equal(read(one), read(other))
        np.testing.assert_array_equal(one.read_decimated(4)["m"], other.read_decimated(4)["m"])
    ours, theirs = (compute_statistics([s], s.modalities) for s in (one, other))
    assert ours == theirs


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_gray_with_alpha(make_raster: MakeRaster, tmp_path: Path, suffix: str) -> None:
    gray = colors()[:1]
    for name in ("near infrared", "a mask"):
        band, is_data = BANDS[name]
        path = write(make_raster, tmp_path / f"{name}{suffix}", np.concatenate([gray, band[None]]))
        assert inspect_raster(path, "x").alpha == (False, not is_data)
        expected = gray if is_data else np.where(band > 0, gray.astype(float), np.nan)
        np.testing.assert_array_equal(read(open_one(path, 1)), expected)
        both = np.concatenate([gray, band[None]])
        np.testing.assert_array_equal(read(open_one(path, 2)), both)


@pytest.mark.parametrize("overviews", [False, True])
def test_a_large_file_is_judged_by_a_part(
    make_raster: MakeRaster, tmp_path: Path, overviews: bool
) -> None:
    side = 1300
    for name, band in (("data", infrared(side)), ("mask", shape_of_data(side))):
        path = write(make_raster, tmp_path / f"{name}.tif", np.stack([*colors(side=side), band]))
        if overviews:
            with rasterio.open(path, "r+") as dataset:
                dataset.build_overviews([4], Resampling.average)
        assert inspect_raster(path, "x").alpha[3] == (name == "mask")


def test_files_are_looked_into_only_where_the_answer_counts(
    make_raster: MakeRaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from terrafuse.data import raster_file

    looked: list[int] = []
    sample = raster_file._sample
    monkeypatch.setattr(
        raster_file, "_sample", lambda d, *rest: looked.append(1) or sample(d, *rest)
    )
    values = np.stack([*colors(), infrared()])
    tagged = write(make_raster, tmp_path / "a.tif", values)
    plain = make_raster(tmp_path / "b.tif", values, photometric="minisblack")
    for path, bands in ((tagged, 4), (plain, 4)):
        open_one(path, bands)
        assert not looked
    for _ in range(3):  # once per file and state of it
        open_one(tagged, 3)
        assert len(looked) == 1
    write(make_raster, tmp_path / "a.tif", np.stack([*colors(), shape_of_data()]))
    assert np.isnan(read(open_one(tagged, 3))).any()
    assert len(looked) == 2


def test_labels_drawn_over_with_alpha_stay_labels(make_raster: MakeRaster, tmp_path: Path) -> None:
    from terrafuse.classes import ClassScheme

    codes = np.zeros((2, SIDE, SIDE), np.uint8)
    codes[0, :, 20:], codes[1] = 1, infrared()
    labels = write(make_raster, tmp_path / "l.tif", codes)
    image = make_raster(tmp_path / "i.tif", colors())
    scheme = ClassScheme.from_dict(
        {"classes": [{"name": n, "code": i} for i, n in enumerate("ab")]}
    )
    scene = scene_from_rasters(
        [Modality("m", ("r", "g", "b"))], {"m": image}, labels=labels, scheme=scheme
    )
    expected = np.where(infrared() > 0, codes[0], 255)
    np.testing.assert_array_equal(scene.read_labels(scene.grid.window), expected)

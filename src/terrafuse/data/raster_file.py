"""Metadata of a raster file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from html import unescape
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.transform import from_gcps
from rasterio.windows import Window as RasterWindow

from terrafuse.data.grid import Grid
from terrafuse.data.handles import pool, transform_of
from terrafuse.data.names import gdal_path, is_part, local_file
from terrafuse.data.on_disk import obstacle
from terrafuse.data.remote import advise, forget
from terrafuse.data.stored import color_model, plain_path
from terrafuse.errors import RasterReadError, cut

# Share of the pixels above 0 within 3 % of the maximum: 80 % in a mask with soft edges, a third in
# one that is feathered over a fifth of its side, mostly less than 5 % in near infrared.
_FULL, _SHARE = 0.97, 0.3
# Larger rasters are judged by an overview, or else by windows spread over them.
_WHOLE_PIXELS = 1 << 20
_SMALL_SIDE = 512
_SIDE, _PER_AXIS = 256, 4


def alpha_holds_data(path: str, band: int) -> bool:
    """Tell whether less than 30 % of an alpha band's pixels above 0 are near its maximum.

    Reads at most 2²⁰ pixels, and of a remote file one overview or one window in its middle. A band
    that cannot be read counts as opacity: the read proper raises the error.

    Args:
        band: 1-based number.
    """
    file = local_file(path)
    if file is None:
        return _judge(path, band, None)
    try:
        about = file.stat()
    except OSError:
        return False
    return _judge(path, band, (about.st_mtime_ns, about.st_size))


@lru_cache(maxsize=4096)
def _judge(path: str, band: int, stamp: tuple[int, int] | None) -> bool:
    """Judge a file; `stamp` distinguishes a rewritten file of the same name."""
    try:
        with pool.borrow(gdal_path(path)) as dataset:
            values = _sample(dataset, band, 1 if stamp is None else _PER_AXIS)
    except RasterReadError:
        return False
    shown = values[values > 0]
    if not shown.size:
        return False
    return bool((shown >= _FULL * shown.max()).mean() < _SHARE)


def _sample(dataset: Any, band: int, per_axis: int) -> NDArray[Any]:
    """Read a representative sample of values (n,) of a band."""
    height, width = dataset.shape
    if per_axis > 1 and height * width <= _WHOLE_PIXELS:
        return np.ravel(dataset.read(band))
    if dataset.overviews(band):
        step = max(height, width) / _SMALL_SIDE
        shape = max(1, round(height / step)), max(1, round(width / step))
        return np.ravel(dataset.read(band, out_shape=shape))
    side = min(_SIDE, height), min(_SIDE, width)
    rows, cols = (
        np.linspace(0, n - s, per_axis + 2)[1:-1].astype(int)
        for n, s in zip((height, width), side, strict=True)
    )
    windows = [RasterWindow(int(c), int(r), side[1], side[0]) for r in rows for c in cols]
    return np.concatenate([np.ravel(dataset.read(band, window=window)) for window in windows])


#: Which pages of a file are read.
PageRule = int | tuple[int, ...] | Literal["all"]
# Formats whose first page GDAL opens where several are there.
_PAGED = ("GTiff", "COG", "PDF", "NITF", "HEIF", "AVIF")
_MOST_LISTED = 12

# The Earth has 8 · 10¹² pixels of 10 m, and the equator 4 · 10⁷ of 1 m.
_MOST_PIXELS, _LONGEST_SIDE = 10**13, 5 * 10**7
# A pixel is at least so many steps between neighbouring float64 numbers wide.
_LEAST_STEPS = 64

# The CRS of a VRT, unless it is empty.
_SRS = re.compile(r"<SRS\b[^>]*>(\s*[^<\s][^<]*)</SRS>")

# Ground control points are replaced by the affine map through them if it is this exact.
_GCP_TOLERANCE_PX = 0.5


@dataclass(frozen=True)
class RasterFile:
    """Metadata of a raster file, without its pixels.

    Args:
        path: Path as given, without "GTIFF_RAW:".
        dtypes: numpy dtype name per band.
        descriptions: Band descriptions, "" where there is none.
        nodata: Nodata tag per band; None where there is none.
        hides: Per band, what masks pixels besides the nodata tag: "mask" or "alpha", one for all
            bands; "own mask"; or "".
        alpha: Per band, whether it is an alpha band.
        alpha_tags: Per band, whether the file calls it alpha, which many do whatever it shows.
        colors: Colour interpretation per band, as GDAL calls it ("red", "gray", "undefined" …).
        palette: Colour table of the first band, uint8 (256, 3), or None.
        spec: What GDAL opens: the path, or a form that returns the stored samples (see `stored`).
        color_model: "CMYK", "YCbCr" or "CIELab" where GDAL would convert it to RGB, else "".
        unplaced: Why it has no grid although it has some georeferencing; "" otherwise.
        unreadable: Why its descriptions are taken as absent although it has some; "" otherwise.
    """

    path: str
    grid: Grid
    dtypes: tuple[str, ...]
    descriptions: tuple[str, ...]
    nodata: tuple[float | None, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    hides: tuple[str, ...]
    alpha: tuple[bool, ...]
    alpha_tags: tuple[bool, ...]
    colors: tuple[str, ...] = ()
    palette: NDArray[np.uint8] | None = field(default=None, compare=False)
    spec: str = ""
    color_model: str = ""
    unplaced: str = ""
    unreadable: str = ""

    @property
    def count(self) -> int:
        """Number of bands."""
        return len(self.dtypes)

    @property
    def notices(self) -> dict[str, str]:
        """Notes for the owner on how the file is read, by the doctor's finding code."""
        found = {"color-model": _color_notice(self)} if self.color_model else {}
        if self.alpha != self.alpha_tags:
            band = self.alpha_tags.index(True) + 1
            found["alpha"] = (
                f"band {band} of '{self.path}' is tagged alpha, but taken for data: it hides no "
                "pixels"
            )
        if self.unreadable:
            found["band-names"] = f"'{self.path}' is read without band names: {self.unreadable}"
        return found

    def with_alpha_as_data(self) -> RasterFile:
        """Return the file with its alpha band treated as data."""
        hides = tuple("" if by == "alpha" else by for by in self.hides)
        return replace(self, alpha=(False,) * self.count, hides=hides)

    def with_alpha_judged(self) -> RasterFile:
        """Return the file with its alpha band treated as data if its values suggest so."""
        if any(self.alpha) and alpha_holds_data(self.path, self.alpha.index(True) + 1):
            return self.with_alpha_as_data()
        return self

    def moved_to(self, grid: Grid) -> RasterFile:
        """Return the file with another grid, for rasters that are matched by pixel."""
        return replace(self, grid=grid)


def inspect_raster(path: str | Path, where: str, *, judge_alpha: bool = True) -> RasterFile:
    """Open a raster and collect the metadata that reading it needs.

    Args:
        path: File, URL or GDAL path.
        where: Names the raster in messages ("modality 's1' of scene '0001'").
        judge_alpha: Whether to judge an alpha band by its values; otherwise its tag decides.

    Raises:
        RasterReadError: Missing, not a raster, or a container of several.
    """
    text = plain_path(str(path))
    _forget(text)
    return _inspect(text, where, judge_alpha)


def _forget(path: str) -> None:
    """Drop what is known of a raster: it would show the old pixels of one that was rewritten."""
    pool.forget(gdal_path(path))
    if local_file(path) is None:
        forget(path)


def _inspect(text: str, where: str, judge_alpha: bool) -> RasterFile:
    """Do as `inspect_raster`, of a raster that may be open already."""
    on_disk = local_file(text)
    problem = "" if on_disk is None else obstacle(on_disk, text)
    if problem:
        raise RasterReadError(f"{where}: {problem}")
    try:
        with pool.borrow(gdal_path(text)) as dataset:
            file = _describe(text, dataset, where)
    except RasterReadError as error:
        if str(error).startswith(where):
            raise
        remedy = (
            "Check that the file is complete and a format GDAL reads (GeoTIFF, COG, PNG, JPEG, "
            "VRT …)"
        )
        remedy = (advise(str(error)) if on_disk is None else "") or remedy
        raise RasterReadError(
            f"{where}: '{text}' cannot be opened as a raster: {error}. {remedy}"
        ) from None
    return file.with_alpha_judged() if judge_alpha else file


def _describe(path: str, dataset: Any, where: str) -> RasterFile:
    if dataset.count == 0:
        parts = _listed([_part_name(name) for name in dataset.subdatasets]) or "none"
        raise RasterReadError(
            f"{where}: '{path}' holds no bands itself. Name one of its parts in its place: {parts}"
        )
    if len(_page_names(path, dataset)) > 1:
        raise RasterReadError(f"{where}: {_which_page(path, dataset)}")
    _check_size(path, dataset, where)
    colors = tuple(color.name for color in dataset.colorinterp)
    alpha = tuple(color == "alpha" for color in colors)
    descriptions, unreadable = _descriptions(dataset)
    return RasterFile(
        path=path,
        **_placement(path, dataset, where),
        # GDAL's complex integers arrive as complex64.
        dtypes=tuple("complex64" if "complex_int" in name else name for name in dataset.dtypes),
        descriptions=descriptions,
        nodata=tuple(dataset.nodatavals),
        scales=tuple(dataset.scales),
        offsets=tuple(dataset.offsets),
        hides=tuple(map(_hiding, dataset.mask_flag_enums)),
        alpha=alpha,
        alpha_tags=alpha,
        colors=colors,
        palette=_palette(dataset),
        spec=dataset.name,
        color_model=color_model(dataset),
        unreadable=unreadable,
    )


def _descriptions(dataset: Any) -> tuple[tuple[str, ...], str]:
    """Descriptions of the bands, and why they are taken as absent although there are some."""
    try:
        return tuple(text or "" for text in dataset.descriptions), ""
    except UnicodeDecodeError:
        return ("",) * dataset.count, "its bands' descriptions are not UTF-8"


def inspect_pages(
    path: str | Path, page: PageRule | None, where: str, *, judge_alpha: bool = True
) -> tuple[RasterFile, ...]:
    """The pages of a file, each as a file of its own; without a rule, the file itself.

    A page without georeference that is as large as the first lies where that does.

    Args:
        path: File, URL or GDAL path.
        page: Number from 1 on, several, or "all"; None = the file has one page only.
        where: Names the raster in messages.
        judge_alpha: As for `inspect_raster`.

    Raises:
        RasterReadError: What `inspect_raster` raises, or there is no such page.
    """
    text = plain_path(str(path))
    on_disk = local_file(text)
    if page is None or (on_disk is not None and obstacle(on_disk)):
        return (inspect_raster(text, where, judge_alpha=judge_alpha),)
    _forget(text)
    try:
        with pool.borrow(gdal_path(text)) as dataset:
            names = _page_names(text, dataset) or (text,)
    except RasterReadError:
        names = (text,)  # opening it will tell why
    numbers = (
        range(1, len(names) + 1) if page == "all" else (page,) if isinstance(page, int) else page
    )
    for number in numbers:
        if not 1 <= number <= len(names):
            raise RasterReadError(
                f"{where}: '{text}' has no page {number}; its pages are 1 to {len(names)}. Correct "
                "'page'"
            )
    if len(names) == 1:
        return tuple(_inspect(names[0], where, judge_alpha) for _ in numbers)
    pages = [inspect_raster(names[n - 1], where, judge_alpha=judge_alpha) for n in numbers]
    first = inspect_raster(names[0], where, judge_alpha=False).grid
    return tuple(_on_first(file, first) for file in pages)


def _on_first(file: RasterFile, first: Grid) -> RasterFile:
    own = file.grid
    same = (own.height, own.width) == (first.height, first.width)
    return file.moved_to(first) if own.crs is None and first.crs is not None and same else file


def _page_names(path: str, dataset: Any) -> tuple[str, ...]:
    """GDAL's names of the pages of a file that has several."""
    if dataset.driver not in _PAGED or is_part(path):
        return ()
    return tuple(_part_name(name) for name in dataset.subdatasets)


def _part_name(name: str) -> str:
    """A part as GDAL lists it (rasterio writes the driver in small letters)."""
    driver, colon, rest = name.partition(":")
    return f"{driver.upper()}{colon}{rest}"


def _which_page(path: str, dataset: Any) -> str:
    names = _page_names(path, dataset)
    about = []
    for number, name in enumerate(names[:_MOST_LISTED], 1):
        with pool.borrow(name) as page:
            bands = "1 band" if page.count == 1 else f"{page.count} bands"
            about.append(f"{number} ({page.height} × {page.width} pixels, {bands})")
    return (
        f"'{path}' has {len(names)} pages: {_listed(about, len(names))}. Say in the manifest "
        "which: 'page: 1' takes one, 'page: [1, 2]' some and 'page: all' all of them, as bands "
        f"that follow one another; or name a page in the file's place: {names[0]}"
    )


def _listed(items: Sequence[str], count: int | None = None) -> str:
    more = (len(items) if count is None else count) - len(items[:_MOST_LISTED])
    return ", ".join(items[:_MOST_LISTED]) + (f" … and {more} more" if more > 0 else "")


def _color_notice(file: RasterFile) -> str:
    start = f"'{file.path}' is stored as {file.color_model}; "
    if file.spec == gdal_path(file.path):
        return f"{start}it is read as the RGB that GDAL computes from it"
    many = "1 plain band" if file.count == 1 else f"{file.count} plain bands"
    return f"{start}read as {many} of the stored samples, without its overviews"


def _hiding(flags: Sequence[MaskFlags]) -> str:
    if MaskFlags.alpha in flags:
        return "alpha"
    if MaskFlags.per_dataset in flags:
        return "mask"
    return "" if flags else "own mask"


def _check_size(path: str, dataset: Any, where: str) -> None:
    height, width = dataset.shape
    if max(height, width) > _LONGEST_SIDE or height * width > _MOST_PIXELS:
        raise RasterReadError(
            f"{where}: '{path}' declares {height} × {width} pixels, more than the Earth has at 10 "
            "m, or along the equator at 1 m: its header is wrong. Write the file again, or fetch it"
        )


def _placement(path: str, dataset: Any, where: str) -> dict[str, Any]:
    grid = Grid(dataset.crs, transform_of(dataset), dataset.height, dataset.width)
    gcps, crs = dataset.gcps
    if grid.crs is not None or not (gcps or dataset.rpcs):
        _check_transform(path, grid, where)
        if grid.crs is None and dataset.driver == "VRT":
            _check_srs(path, where)
        return {"grid": grid}
    if not gcps:
        return {"grid": grid, "unplaced": "it is placed by rational polynomials (RPC) only"}
    transform = from_gcps(gcps)
    _check_transform(path, replace(grid, transform=transform), where, of_gcps=len(gcps))
    points = np.array([(p.col, p.row, p.x, p.y) for p in gcps])
    x, y = ~transform * (points[:, 2], points[:, 3])
    error = float(np.hypot(x - points[:, 0], y - points[:, 1]).max())
    if crs is not None and error <= _GCP_TOLERANCE_PX:
        return {"grid": Grid(crs, transform, grid.height, grid.width)}
    return {
        "grid": grid,
        "unplaced": f"it is placed by {len(gcps)} ground control points only, and a grid through "
        f"them is up to {error:.1f} px off",
    }


def _check_srs(path: str, where: str) -> None:
    """Refuse a VRT whose CRS is unknown, which GDAL reads as one without a CRS."""
    file = local_file(path)
    try:
        text = path if file is None else file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    found = _SRS.search(text.partition("<VRTRasterBand")[0])
    if found is not None:
        raise RasterReadError(
            f"{where}: '{path}' has the CRS '{cut(unescape(found[1].strip()))}', which PROJ does "
            "not know. Correct its <SRS>, or remove it if the raster has no CRS"
        )


def _check_transform(path: str, grid: Grid, where: str, of_gcps: int = 0) -> None:
    fault = _fault(grid)
    if not fault:
        return
    through = f" through its {of_gcps} ground control points" if of_gcps else ""
    remedy = (
        "Correct the points (gdal_translate -gcp PIXEL LINE EASTING NORTHING …)"
        if of_gcps
        else "Write the right one into it (rio edit-info --transform '[WIDTH, 0, LEFT, 0, -HEIGHT, "
        "TOP]' FILE, with the size of a pixel), or remove it (… '[1, 0, 0, 0, 1, 0]' FILE)"
    )
    raise RasterReadError(
        f"{where}: '{path}' lies nowhere: its transform{through} {fault}. {remedy}"
    )


def _fault(grid: Grid) -> str:
    """How the transform of a grid fails to tell the places of its pixels, or ""."""
    t = grid.transform
    numbers = ", ".join(f"{value:.6g}" for value in t[:6])
    with np.errstate(all="ignore"):
        x, y = grid.corners()
    if not np.isfinite([*t[:6], t.determinant, *x, *y]).all():
        return f"({numbers}) is not finite, or leads beyond all numbers"
    if t.determinant == 0 or not np.isfinite((~t)[:6]).all():
        return f"({numbers}) puts all pixels on one line or point"
    if min(grid.pixel_size) < _LEAST_STEPS * np.spacing(max(np.abs([*x, *y]))):
        return f"({numbers}) has pixels that coordinates of this size cannot tell apart"
    return ""


def _palette(dataset: Any) -> NDArray[np.uint8] | None:
    try:
        table = dataset.colormap(1)
    except ValueError:
        return None
    palette = np.zeros((256, 3), np.uint8)
    for code, color in table.items():
        if 0 <= code < 256:
            palette[code] = color[:3]
    return palette

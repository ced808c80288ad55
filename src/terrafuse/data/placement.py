"""Choice of a scene's grid, and the placement of its rasters on it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import prod

from affine import Affine

from terrafuse.data.grid import Grid
from terrafuse.data.raster_file import RasterFile
from terrafuse.errors import ConfigError, GridMismatchError, unknown_name
from terrafuse.modalities import MAX_SCALE_TERM, Modality
from terrafuse.samples import Window

# Transforms of rasters without CRS may differ by this much (a pixel's corner or its centre).
TRANSFORM_TOLERANCE_PX = 0.6
# Sizes of rasters that are matched by pixel may differ by this much (rows lost at an edge).
SIZE_TOLERANCE_PX = 2

Files = Mapping[str, tuple[RasterFile, ...]]


@dataclass(frozen=True)
class Placement:
    """The grid of a scene and its files placed on it.

    Args:
        reference: Full grid of which `grid` is a part; the same unless the scene is a window.
        files: Files per modality; those without CRS are placed by their pixels.
        labels: Raster of labels, likewise.
    """

    grid: Grid
    reference: Grid
    files: Files
    labels: RasterFile | None


def place_rasters(
    files: Files,
    labels: RasterFile | None,
    modalities: Mapping[str, Modality],
    *,
    chosen: str | None,
    window: Window | None,
    where: str,
) -> Placement:
    """Choose the scene's grid and place every raster on it.

    The grid is the one chosen (a modality's or the labels'); else the labels'; else the finest
    raster's, among those of scale 1 if there are any. A modality of scale s stands for a grid with
    1/s of its pixel size.

    Args:
        labels: Raster of labels; None without labels, or for polygons.
        chosen: Modality whose grid is wanted, or "labels". Ignored where the scene lacks it.
        window: Part of the grid that is the scene.
        where: Names the scene in messages.

    Raises:
        GridMismatchError: CRS on some rasters only, a raster without grid, sizes that do not match.
        ConfigError: `chosen` is not a modality, or `window` exceeds the grid.
    """
    if chosen not in (None, "labels", *modalities):
        raise ConfigError(unknown_name("name in 'grid'", chosen, ["labels", *modalities]))
    _check_crs(files, labels, where)
    reference = _choose_grid(files, labels, modalities, chosen)
    if reference.crs is None:
        files = {
            name: tuple(_match_by_pixel(file, reference, where, modalities[name]) for file in own)
            for name, own in files.items()
        }
        labels = labels and _match_by_pixel(labels, reference, where)
    return Placement(_crop(reference, window, where), reference, files, labels)


def place_further(file: RasterFile, reference: Grid, where: str) -> RasterFile:
    """Place a raster on a scene whose grid was chosen without it.

    Args:
        reference: Full grid of which the scene is a part.
        where: Names the raster in messages.

    Raises:
        GridMismatchError: Only one of raster and grid has a CRS, or sizes do not match.
    """
    _check_placed(file, where)
    if (file.grid.crs is None) != (reference.crs is None):
        lacking, other = (
            ("has a CRS", "has none") if reference.crs is None else ("has no CRS", "has one")
        )
        raise GridMismatchError(
            f"{where}: '{file.path}' {lacking}, but the scene's grid {other}. Give all rasters of "
            "the scene their CRS; only rasters that all lack one are matched by pixel"
        )
    return file if reference.crs is not None else _match_by_pixel(file, reference, where)


def _check_placed(file: RasterFile, where: str) -> None:
    if file.unplaced:
        raise GridMismatchError(
            f"{where}: '{file.path}' has no grid: {file.unplaced}. Resample it to one first, for "
            "instance with gdalwarp -tps -t_srs EPSG:…"
        )


def _check_crs(files: Files, labels: RasterFile | None, where: str) -> None:
    every = [(f"modality '{name}'", file) for name, own in files.items() for file in own]
    every += [("labels", labels)] if labels else []
    for name, file in every:
        _check_placed(file, f"{where}, {name}")
    placed = [item for item in every if item[1].grid.crs is not None]
    adrift = [item for item in every if item[1].grid.crs is None]
    if placed and adrift:
        (name, file), (other_name, other) = adrift[0], placed[0]
        assert other.grid.crs is not None
        raise GridMismatchError(
            f"{where}: {name} ('{file.path}') has no CRS, but {other_name} ('{other.path}') has "
            f"{other.grid.crs.to_string()[:60]}. Give it its CRS (rio edit-info --crs EPSG:… FILE; "
            "--transform if it lies nowhere); only rasters that all lack one are matched by pixel"
        )


def _choose_grid(
    files: Files,
    labels: RasterFile | None,
    modalities: Mapping[str, Modality],
    chosen: str | None,
) -> Grid:
    if labels is not None and (chosen in (None, "labels") or chosen not in files):
        return labels.grid
    if chosen is not None and chosen in files:
        names = [chosen]
    else:
        names = [name for name in files if modalities[name].scale == 1] or list(files)
    grids = [
        min((file.grid for file in files[name]), key=_pixel_area).scaled(
            1 / modalities[name].scale_ratio
        )
        for name in names
    ]
    return min(grids, key=_pixel_area)


def _pixel_area(grid: Grid) -> float:
    if grid.crs is None:  # the more pixels, the finer
        return -float(grid.height * grid.width)
    size_m = grid.pixel_size_m
    return prod(grid.pixel_size) if size_m is None else size_m**2


def _match_by_pixel(
    file: RasterFile, reference: Grid, where: str, modality: Modality | None = None
) -> RasterFile:
    expected = reference.scaled(modality.scale_ratio) if modality else reference
    own, wanted = (file.grid.height, file.grid.width), (expected.height, expected.width)
    difference = max(abs(a - b) for a, b in zip(own, wanted, strict=True))
    sizes = f"'{file.path}' has {own[0]} × {own[1]} pixels where the scene's grid has "
    sizes += f"{wanted[0]} × {wanted[1]}"
    if difference > SIZE_TOLERANCE_PX:
        raise GridMismatchError(
            f"{where}: {sizes}. Rasters without CRS are matched by pixel: "
            f"{_right_scale(file.grid, reference, modality)} or georeference them"
        )
    if difference:
        warnings.warn(f"{where}: {sizes}; the rest has no data", stacklevel=2)
    apart = _transforms_apart(file.grid, expected)
    if apart:
        warnings.warn(
            f"{where}: the transform of '{file.path}' lies {apart} where it is put. Rasters "
            "without CRS are matched by pixel, whatever their transforms say. Give all rasters of "
            "the scene their CRS (rio edit-info --crs EPSG:… FILE) and they are placed by them; if "
            "the pixels do correspond, remove the transforms (rio edit-info --transform "
            "'[1, 0, 0, 0, 1, 0]' FILE, or delete the world files)",
            stacklevel=2,
        )
    return file.moved_to(Grid(None, expected.transform, *own))


def _right_scale(own: Grid, reference: Grid, modality: Modality | None) -> str:
    """Say how sizes that do not match can be made to."""
    if modality is None:
        return "give equal sizes,"
    height, width = (
        Fraction(theirs, mine).limit_denominator(MAX_SCALE_TERM)
        for theirs, mine in zip(
            (reference.height, reference.width), (own.height, own.width), strict=True
        )
    )
    now = f"'scale' of modality '{modality.name}' is {modality.scale:g}"
    fits = own.height * height - reference.height, own.width * width - reference.width
    if height == width != modality.scale_ratio and not any(fits) and height <= MAX_SCALE_TERM:
        text = f"{now}, these sizes are of 'scale: {float(height):.12g}'"
        return f"{text}; set that in the manifest, give sizes that fit,"
    return f"{now}; give sizes that fit,"


def _transforms_apart(own: Grid, expected: Grid) -> str:
    """Difference of two transforms in pixels of the expected one; "" if it is small, or unknown."""
    if Affine.identity() in (own.transform, expected.transform):
        return ""
    to_expected = ~expected.transform * own.transform
    corners = ((0, 0), (own.width, 0), (0, own.height), (own.width, own.height))
    moves = [(x - col, y - row) for col, row in corners for x, y in [to_expected * (col, row)]]
    if max(max(map(abs, move)) for move in moves) <= TRANSFORM_TOLERANCE_PX:
        return ""
    right, down = moves[0]
    if max(abs(x - right) + abs(y - down) for x, y in moves) > TRANSFORM_TOLERANCE_PX:
        return f"up to {max(max(map(abs, move)) for move in moves):.4g} px off"
    words = [(right, "right", "left"), (down, "below", "above")]
    told = [
        f"{abs(by):.4g} px {more if by > 0 else less}" for by, more, less in words if abs(by) > 1e-3
    ]
    return " and ".join(told) + " of"


def _crop(reference: Grid, window: Window | None, where: str) -> Grid:
    if window is None:
        return reference
    if window.intersection(reference.window) != window:
        raise ConfigError(
            f"{where}: window [{window.row}, {window.col}, {window.height}, {window.width}] (row, "
            f"column, height, width) exceeds the grid of {reference.height} × {reference.width} "
            "pixels"
        )
    return reference.crop(window)

"""Thumbnails of places: the first image and the class map side by side."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rasterio.errors import RasterioError

from terrafuse.classes import channels
from terrafuse.samples import Window
from terrafuse.web.viewer.copies import read_window
from terrafuse.web.viewer.document import ClassEntry, Layer, Place

#: Side of each half in pixels, and what is between them.
SIDE, _GAP = 96, 4
_EMPTY = 160

Picture = NDArray[np.uint8]


def draw_place(
    place: Place,
    image: tuple[Path, Layer] | None,
    classes: tuple[Path, Layer] | None,
    entries: Sequence[ClassEntry],
) -> bytes:
    """Draw a place as a PNG.

    Args:
        place: Of the scene.
        image: Raster and layer of the left half; None: there is none.
        classes: Raster and layer of the right half; None: there is none.
        entries: Classes of the view.
    """
    halves = [_or_empty(partial(_draw_image, place, *image))] if image else []
    if classes:
        halves.append(_or_empty(partial(_draw_classes, place, *classes, entries)))
    width = max(1, len(halves)) * (SIDE + _GAP) - _GAP
    picture = np.zeros((SIDE, width, 4), np.uint8)
    for n, half in enumerate(halves):
        picture[:, n * (SIDE + _GAP) :][:, :SIDE] = half
    out = io.BytesIO()
    Image.fromarray(picture, "RGBA").save(out, format="PNG", optimize=True)
    return out.getvalue()


def _or_empty(draw: Callable[[], Picture]) -> Picture:
    """A half; an empty one of a raster that is damaged there, which the page says by itself."""
    try:
        return draw()
    except RasterioError:
        return np.zeros((SIDE, SIDE, 4), np.uint8)


def _window(place: Place, layer: Layer) -> Window:
    """The place in pixels of a layer."""
    rows, cols = layer.pixels
    row, col = int(place.row / rows), int(place.col / cols)
    row, col = min(row, layer.height - 1), min(col, layer.width - 1)
    height = max(1, min(round(place.height / rows), layer.height - row))
    width = max(1, min(round(place.width / cols), layer.width - col))
    return Window(row, col, height, width)


def _enlarged(picture: Picture) -> Picture:
    rows, cols = (np.arange(SIDE) * size // SIDE for size in picture.shape[:2])
    enlarged: Picture = picture[rows][:, cols]
    return enlarged


def _draw_image(place: Place, path: Path, layer: Layer) -> Picture:
    window = _window(place, layer)
    shape = min(window.height, SIDE), min(window.width, SIDE)
    stored, known = read_window(path, window, shape, layer.nodata_value)
    picture = np.full((*shape, 4), 255, np.uint8)
    rgb = layer.rgb if len(layer.rgb) == 3 else layer.rgb[:1] * 3
    for n, number in enumerate(rgb):
        band = layer.bands[number]
        low, high = band.low or 0.0, band.high or 0.0
        values = stored[number].astype(np.float64) * band.factor + band.summand
        with np.errstate(invalid="ignore"):
            share = np.nan_to_num((values - low) / (high - low if high > low else 1.0))
        picture[..., n] = np.rint(np.clip(share, 0, 1) * 255)
    picture[~known.any(axis=0)] = (_EMPTY, _EMPTY, _EMPTY, 0)
    return _enlarged(picture)


def _draw_classes(place: Place, path: Path, layer: Layer, entries: Sequence[ClassEntry]) -> Picture:
    window = _window(place, layer)
    shape = min(window.height, SIDE), min(window.width, SIDE)
    stored, known = read_window(path, window, shape, layer.nodata_value)
    picture = np.zeros((*shape, 4), np.uint8)
    for entry in entries:
        picture[(stored[0] == entry.value) & known[0]] = (*channels(entry.colour), 255)
    return _enlarged(picture)

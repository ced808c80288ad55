"""`preview.png`: a class map as a small picture with legend and scale, drawn from its overviews."""

from __future__ import annotations

from math import floor, log10
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from terrafuse.errors import cut
from terrafuse.maps.class_raster import ClassRaster
from terrafuse.samples import IGNORE_INDEX

PREVIEW = "preview.png"
#: Largest side of the map in the picture.
MOST_PIXELS = 1000
_INK, _PAPER, _EMPTY = "#1c2126", "#fefefe", (228, 228, 224)
_MARGIN, _LINE, _SWATCH, _FONT = 12, 20, 12, 13
_LONGEST_NAME, _MOST_LISTED = 40, 60
# Length of the scale bar as a share of the map's width, at most.
_SCALE_SHARE = 0.3


def draw_preview(raster: ClassRaster, path: Path) -> None:
    """Write the picture of a map.

    Raises:
        RasterReadError: The map cannot be read.
        OSError: The picture cannot be written.
    """
    indices, step = read_small(raster)
    palette = np.full((256, 3), _EMPTY, np.uint8)
    palette[: len(raster.names)] = [ImageColor.getrgb(color) for color in raster.colors]
    map_ = Image.fromarray(palette[indices])
    present = np.unique(indices[indices != IGNORE_INDEX]).tolist()
    names = [(cut(raster.names[k], _LONGEST_NAME), raster.colors[k]) for k in present]
    if len(names) > _MOST_LISTED:
        names = [*names[:_MOST_LISTED], (f"and {len(names) - _MOST_LISTED} more", _PAPER)]
    font = ImageFont.load_default(_FONT)
    legend = max((font.getlength(name) for name, _ in names), default=0)
    width = map_.width + 3 * _MARGIN + _SWATCH + 8 + int(legend)
    height = max(map_.height + 2 * _MARGIN + 2 * _LINE, 2 * _MARGIN + _LINE * len(names))
    page = Image.new("RGB", (width, height), _PAPER)
    page.paste(map_, (_MARGIN, _MARGIN))
    draw = ImageDraw.Draw(page)
    left = map_.width + 2 * _MARGIN
    for n, (name, color) in enumerate(names):
        top = _MARGIN + n * _LINE
        draw.rectangle((left, top, left + _SWATCH, top + _SWATCH), fill=color)
        draw.text((left + _SWATCH + 8, top - 2), name, fill=_INK, font=font)
    _draw_scale(draw, raster, step, map_, font)
    page.save(path, format="PNG", optimize=True)


def read_small(raster: ClassRaster) -> tuple[NDArray[np.uint8], int]:
    """Class indices of the finest level whose sides are small enough, and its step in pixels.

    Only that overview is read; a raster without overviews is thinned to its size.
    """
    height, width = raster.grid.height, raster.grid.width
    step = 1
    while -(-max(height, width) // step) > MOST_PIXELS:
        step *= 2
    with raster.reading() as reader:
        return reader.thinned(-(-height // step), -(-width // step)), step


def _draw_scale(
    draw: ImageDraw.ImageDraw,
    raster: ClassRaster,
    step: int,
    map_: Image.Image,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """A bar of a round length under the map; of pixels, without CRS."""
    pixel, unit = raster.grid.pixel_size_m, "m"
    if pixel is None:
        pixel, unit = 1.0, "px"
    per_pixel = pixel * step
    length = round_length(per_pixel * max(map_.width * _SCALE_SHARE, 1))
    pixels = max(1, round(length / per_pixel))
    text = f"{length / 1000:g} km" if unit == "m" and length >= 1000 else f"{length:g} {unit}"
    top = _MARGIN + map_.height + 8
    draw.rectangle((_MARGIN, top, _MARGIN + pixels, top + 3), fill=_INK)
    draw.text((_MARGIN, top + 6), text, fill=_INK, font=font)


def round_length(most: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is at most this."""
    power = float(10 ** floor(log10(most)))
    return max(n * power for n in (1, 2, 5) if n * power <= most * (1 + 1e-9))

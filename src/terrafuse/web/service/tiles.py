"""Finished maps as tiles, so that QGIS and any web map can add them by address.

Tiles are those of OGC's WebMercatorQuad, the XYZ scheme; TileJSON 3.0 says where they are.

Reference: https://docs.ogc.org/is/17-083r4/17-083r4.html,
https://github.com/mapbox/tilejson-spec/tree/master/3.0.0
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path as FilePath
from typing import Annotated, Any, cast

import numpy as np
import rasterio
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from PIL import Image
from pydantic import BaseModel
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.transform import from_bounds
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform, transform_bounds
from rio_tiler.colormap import cmap
from rio_tiler.models import ImageData

from terrafuse.classes import hex_color
from terrafuse.data.handles import without_warnings
from terrafuse.errors import cut
from terrafuse.prediction.class_values import NAMES_TAG, VALUES_TAG
from terrafuse.web.access.tokens import User
from terrafuse.web.access.users import current_user
from terrafuse.web.refusals import Refusal
from terrafuse.web.service.state import service_of

SIZE = 256
#: Level of WebMercatorQuad, with pixels of 9 mm.
DEEPEST = 24
#: Metres of the square of Web Mercator.
_SIDE = 2 * math.pi * 6378137
_WEB_MERCATOR = CRS.from_epsg(3857)
_DEGREES = CRS.from_epsg(4326)
#: Where the square of Web Mercator ends.
_MOST_NORTH = 85.05112877980659
#: Finished maps do not change, and another user must not get them from a cache between.
_CACHED = {"cache-control": "private, max-age=86400, immutable"}
_RAMP = "viridis"


class LegendEntry(BaseModel):
    """A class of the layer, or an end of its colour ramp; colour `#rrggbb`."""

    name: str
    colour: str


class TileJson(BaseModel):
    """TileJSON 3.0 of a layer; `legend` is an addition.

    Args:
        bounds: West, south, east, north in degrees; west above east where the map crosses the date
            line.
        center: Longitude, latitude and a zoom level at which the map fills a screen.
    """

    tilejson: str = "3.0.0"
    name: str
    scheme: str = "xyz"
    tiles: list[str]
    minzoom: int
    maxzoom: int
    bounds: tuple[float, float, float, float]
    center: tuple[float, float, int]
    legend: list[LegendEntry]


Layer = Annotated[str, Query(max_length=64, description="A map of the job, such as confidence.")]
Zoom = Annotated[int, Path(ge=0, le=DEEPEST)]
Number = Annotated[int, Path(ge=0, lt=2**DEEPEST)]

router = APIRouter(prefix="/api/jobs/{id}", tags=["tiles"])


def finished_map(
    id: str, request: Request, user: Annotated[User, Depends(current_user)]
) -> FilePath:
    """The folder of the job's finished map; a dependency of the routes."""
    return service_of(request).finished(id, user)


Folder = Annotated[FilePath, Depends(finished_map)]


@router.get("/tilejson.json", summary="Where a map's tiles are")
def describe_tiles(
    id: str, request: Request, folder: Folder, layer: Layer = "class_map"
) -> TileJson:
    """TileJSON of a layer of a finished map."""
    with open_layer(folder, layer) as opened:
        address = str(request.url_for("draw_tile", id=id, layer=layer, z=0, x=0, y=0))
        return TileJson(
            name=f"{layer} of {id}",
            tiles=[address.removesuffix("0/0/0.png") + "{z}/{x}/{y}.png"],
            minzoom=0,  # overviews make the smallest ones cheap
            maxzoom=opened.maxzoom,
            **_extent(opened.dataset),
            legend=_legend(opened.dataset),
        )


@router.get(
    "/tiles/{layer}/{z}/{x}/{y}.png",
    summary="A tile of a map",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
)
def draw_tile(
    folder: Folder,
    layer: Annotated[str, Path(max_length=64)],
    z: Zoom,
    x: Number,
    y: Number,
) -> Response:
    """A tile of 256 × 256 pixels; what has no data is transparent."""
    if max(x, y) >= 2**z:
        raise Refusal(404, f"there is no tile {z}/{x}/{y}: columns and rows end at {2**z - 1}")
    with open_layer(folder, layer) as opened:
        image = opened.tile(z, x, y)
        content = image.render(img_format="PNG", colormap=_colours(opened.dataset)) if image else ""
    return Response(content or _empty(), media_type="image/png", headers=_CACHED)


def tile_bounds(z: int, x: int, y: int) -> tuple[float, float, float, float]:
    """West, south, east, north of a tile in metres of Web Mercator; rows count from the north."""
    side, edge = _SIDE / 2**z, _SIDE / 2
    return (x * side - edge, edge - (y + 1) * side, (x + 1) * side - edge, edge - y * side)


@dataclass(frozen=True)
class OpenLayer:
    """A layer that is open.

    Args:
        dataset: Of rasterio.
        path: Of its file.
        metres: Size of a pixel on Web Mercator, in the middle of the layer.
    """

    dataset: Any
    path: FilePath
    metres: float

    @property
    def maxzoom(self) -> int:
        """The first level whose pixels are not larger than the layer's, but for a few percent."""
        level = math.log2(_SIDE / SIZE / self.metres)
        return min(max(math.ceil(level - 0.05), 0), DEEPEST)

    def tile(self, z: int, x: int, y: int) -> ImageData | None:
        """Values of a tile; None: it has none.

        Classes are those of the nearest pixel, other values lie between pixels. A tile is warped
        by itself, and so costs the same wherever it lies and whatever the map spans.
        """
        bounds = tile_bounds(z, x, y)
        how = Resampling.nearest if _has_palette(self.dataset) else Resampling.bilinear
        level = self._overview(_SIDE / 2**z / SIZE)
        try:
            with (
                rasterio.open(self.path, driver="GTiff", **level) as dataset,
                WarpedVRT(
                    dataset,
                    crs=_WEB_MERCATOR,
                    transform=from_bounds(*bounds, SIZE, SIZE),
                    width=SIZE,
                    height=SIZE,
                    resampling=how,
                    add_alpha=dataset.nodata is None,
                ) as warped,
            ):
                values, valid = warped.read(1), warped.dataset_mask()
        except RasterioError:  # no point of the tile has a place on the map
            return None
        if not valid.any():
            return None
        return ImageData(np.ma.MaskedArray(values[None], valid[None] == 0))

    def _overview(self, metres: float) -> dict[str, int]:
        """The coarsest overview that still has a pixel for each of the tile's."""
        factors = self.dataset.overviews(1)
        fit = [i for i, factor in enumerate(factors) if factor * self.metres <= metres]
        return {"overview_level": fit[-1]} if fit else {}


@contextmanager
def open_layer(folder: FilePath, layer: str) -> Iterator[OpenLayer]:
    """Open a layer of a map: a raster with one band of bytes.

    Raises:
        Refusal: There is none of that name, or it has no CRS.
    """
    names = {path.stem: path for path in sorted(folder.glob("*.tif"))}
    if layer not in names:
        known = ", ".join(names) or "none"
        raise Refusal(404, f"the job has no layer '{cut(layer)}'; there are: {known}")
    with ExitStack() as stack:
        try:
            with without_warnings():
                dataset = stack.enter_context(rasterio.open(names[layer], driver="GTiff"))
        except RasterioError as error:
            raise Refusal(409, f"layer '{layer}' cannot be read. Run the job again") from error
        if dataset.count != 1 or dataset.dtypes[0] != "uint8":
            raise Refusal(
                404,
                f"layer '{layer}' has {dataset.count} bands of {dataset.dtypes[0]}, and tiles are "
                f"made of one band of bytes. Download results/{layer}.tif instead",
            )
        metres = _pixel_metres(dataset) if dataset.crs is not None else None
        if metres is None:
            raise Refusal(
                404,
                "the map has no CRS that leads to a place on a web map. Open the job's page, or "
                f"download results/{layer}.tif",
            )
        yield OpenLayer(dataset, names[layer], metres)


def _pixel_metres(dataset: Any) -> float | None:
    """Size of the middle pixel on Web Mercator; None: it has none."""
    row, col = dataset.height / 2, dataset.width / 2
    corners = [dataset.transform * at for at in ((col, row), (col + 1, row), (col, row + 1))]
    try:
        lon, lat = transform(dataset.crs, _DEGREES, *zip(*corners, strict=True))
    except RasterioError:
        return None
    # In degrees first: across the date line, x of Web Mercator leaps.
    across = [math.remainder(value - lon[0], 360) for value in lon[1:]]
    along = [value - lat[0] for value in lat[1:]]
    stretch = 1 / max(math.cos(math.radians(lat[0])), 1e-3)
    sides = [math.hypot(dx, dy * stretch) for dx, dy in zip(across, along, strict=True)]
    metres = min(sides) * _SIDE / 360
    return metres if math.isfinite(metres) and metres > 0 else None


def _extent(dataset: Any) -> dict[str, Any]:
    try:
        bounds = transform_bounds(dataset.crs, _DEGREES, *dataset.bounds)
    except RasterioError:
        bounds = (math.inf,)
    west, south, east, north = bounds if np.isfinite(bounds).all() else (-180, -90, 180, 90)
    south, north = (min(max(lat, -_MOST_NORTH), _MOST_NORTH) for lat in (south, north))
    width = east - west if west <= east else east + 360 - west
    middle = west + width / 2
    zoom = math.floor(math.log2(360 / max(width, 1e-9)))
    center = (math.remainder(middle, 360), (south + north) / 2, min(max(zoom, 0), 20))
    return {"bounds": (west, south, east, north), "center": center}


def _has_palette(dataset: Any) -> bool:
    return bool(dataset.colorinterp[0] == ColorInterp.palette)


def _colours(dataset: Any) -> dict[int, tuple[int, int, int, int]]:
    """Colour of each value: the map's own for classes, else a ramp over what can occur."""
    if _has_palette(dataset):
        return {value: (*rgba[:3], 255) for value, rgba in dataset.colormap(1).items()}
    top = 255 if dataset.nodata is None else 254
    ramp = cast("dict[int, tuple[int, int, int, int]]", cmap.get(_RAMP))
    return {value: ramp[min(round(value * 255 / top), 255)] for value in range(256)}


def _legend(dataset: Any) -> list[LegendEntry]:
    colours = _colours(dataset)
    tags = dataset.tags()
    if _has_palette(dataset) and NAMES_TAG in tags and VALUES_TAG in tags:
        pairs = zip(json.loads(tags[NAMES_TAG]), json.loads(tags[VALUES_TAG]), strict=True)
        return [LegendEntry(name=name, colour=hex_color(colours[value])) for name, value in pairs]
    top = 255 if dataset.nodata is None else 254
    ends = [(value, dataset.offsets[0] + value * dataset.scales[0]) for value in (0, top)]
    return [
        LegendEntry(name=f"{shown:g}", colour=hex_color(colours[value])) for value, shown in ends
    ]


@cache
def _empty() -> bytes:
    """A tile without anything."""
    file = BytesIO()
    Image.new("LA", (SIZE, SIZE)).save(file, "PNG", optimize=True)
    return file.getvalue()

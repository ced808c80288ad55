"""The raster of one layer: the file as it lies where that suits, else a copy of what is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from terrafuse.classes import DEFAULT_COLORS, DISTINCT_COLORS
from terrafuse.data import Grid, ReadingRules, Scene
from terrafuse.data.handles import without_warnings
from terrafuse.data.raster_file import RasterFile
from terrafuse.data.remote import state
from terrafuse.errors import DataError
from terrafuse.modalities import Modality
from terrafuse.prediction.cog import Encoding
from terrafuse.prediction.product_table import Product
from terrafuse.samples import Window
from terrafuse.web.viewer.copies import (
    Raster,
    Reader,
    Store,
    byte_encoding,
    float_encoding,
    raster_window,
    suits,
    told_damage,
)
from terrafuse.web.viewer.document import Layer, Role
from terrafuse.web.viewer.layers import (
    Channel,
    Look,
    RampName,
    first_bands,
    image_layer,
    names_layer,
    number_layer,
)

_ROLES: Mapping[str, Role] = {
    "class_map": "class_map",
    "confidence": "confidence",
    "confidence_float32": "confidence",
    "entropy": "entropy",
    "probabilities": "probability",
    "probabilities_float32": "probability",
    "attribution": "attribution",
    "attribution_margin": "attribution",
}
_RAMPS: Mapping[str, RampName] = {"entropy": "magma", "confidence": "viridis"}


@dataclass(frozen=True)
class Planned:
    """A layer that is going to be.

    Args:
        look: Of the layer.
        raster: That it is of; it may have to be made.
        describe: Describes it, once its raster is there.
    """

    look: Look
    raster: Raster
    describe: Callable[[Raster, Look], Layer]


def plan_modality(store: Store, scene: Scene, modality: Modality) -> Planned:
    """Plan the layer of a modality: its file where it suits, else a copy of what is read."""
    source = scene.source(modality.name)
    made_of = scene.made_of
    rules = made_of.rules.get(modality.name) or ReadingRules.for_kind(modality.kind)
    title = modality.name
    served = _as_it_lies(scene, modality, rules)
    if served is not None:
        raster, channels, nodata = served
        places = [channels.index(c) for c in channels if c.name in modality.bands]
        order = {channels[n].name: n for n in places}
        rgb = tuple(order[modality.bands[b]] for b in first_bands(modality))
        look = Look(modality.name, title, "modality", nodata)
        return Planned(look, raster, partial(image_layer, channels=channels, rgb=rgb))
    grid = scene.grid.scaled(modality.scale_ratio)
    is_bytes = (
        rules.rescale is None
        and rules.encoding is None
        and all(dtype == "uint8" for file in source.files for dtype in file.dtypes)
        and bool((source.tags == [1, 0]).all())
        and all(grid.offset_in(file.grid) is not None for file in source.files)
    )
    bands = len(modality.bands)
    encoding = byte_encoding(bands) if is_bytes else float_encoding(bands)
    about = (
        modality, rules, [state(file.path) for file in source.files], source.numbers,
        source.tags.tolist(), plain_grid(grid), plain_grid(scene.grid),
    )  # fmt: skip

    @contextmanager
    def reading() -> Iterator[Reader]:
        def read(window: Window) -> NDArray[Any]:
            values, _ = source.read(window)
            if is_bytes:
                return np.where(np.isnan(values), encoding.nodata, values).astype(np.uint16)
            return values

        yield read
        source.close()

    pixels = float(modality.scale_ratio), float(modality.scale_ratio)
    raster = store.copy(
        modality.name, about, grid, encoding, reading, names=modality.bands, pixels=pixels
    )
    channels = [_channel(modality, band) for band in range(bands)]
    look = Look(modality.name, title, "modality", encoding.nodata)
    return Planned(look, raster, partial(image_layer, channels=channels, rgb=first_bands(modality)))


def _channel(modality: Modality, band: int, factor: float = 1.0, summand: float = 0.0) -> Channel:
    waves = modality.wavelengths_um
    um = waves[band] if waves else None
    return Channel(modality.bands[band], modality.unit, um, factor, summand)


def _as_it_lies(
    scene: Scene, modality: Modality, rules: ReadingRules
) -> tuple[Raster, list[Channel], float | None] | None:
    """The file of a modality with all its bands and its nodata value, where the page can read it.

    Bands that are no part of the modality are called as the file calls them.
    """
    source = scene.source(modality.name)
    if len(source.files) != 1 or rules.rescale or rules.encoding or rules.page is not None:
        return None
    (file,) = source.files
    raster = suits(file, scene.grid)
    nodata = set(source.nodata)
    if raster is None or len(nodata) != 1 or any(file.alpha):
        return None
    channels = [
        Channel(f"band {n + 1}" + (f" ({text})" if text else ""), None, None, scale, offset)
        for n, (text, scale, offset) in enumerate(
            zip(file.descriptions, file.scales, file.offsets, strict=True)
        )
    ]
    for band, (number, (factor, summand)) in enumerate(
        zip(source.numbers, source.tags.tolist(), strict=True)
    ):
        channels[number - 1] = _channel(modality, band, factor, summand)
    (found,) = nodata
    if found is None and file.dtypes[0].startswith("float"):
        found = nan
    return raster, channels, found


def stored_encoding(file: RasterFile, reduction: Any) -> Encoding:
    """Encoding of a copy of a raster as it is stored."""
    dtype = file.dtypes[0]
    nodata = file.nodata[0]
    if nodata is None:
        nodata = nan if dtype.startswith("float") else float(np.iinfo(dtype).max)
    predictor = "3" if dtype.startswith("float") else "2" if reduction == "average" else "1"
    creation = {"compress": "DEFLATE", "zlevel": "1", "predictor": predictor}
    return Encoding(dtype, nodata, reduction, creation, file.count)


def copy_stored(
    store: Store, kind: str, file: RasterFile, grid: Grid, encoding: Encoding
) -> Raster:
    """A copy of a raster's stored values."""

    @contextmanager
    def reading() -> Iterator[Reader]:
        path = Path(file.path)
        with told_damage(path), without_warnings(), rasterio.open(path) as dataset:

            def read(window: Window) -> NDArray[Any]:
                place = raster_window(window)
                with told_damage(path):  # before what writes takes it for its own failure
                    return np.asarray(dataset.read(window=place))

            yield read

    about = kind, state(file.path), encoding, plain_grid(grid)
    return store.copy(kind, about, grid, encoding, reading, names=file.descriptions)


def plan_product(
    store: Store, product: Product, path: Path, file: RasterFile, grid: Grid
) -> Planned:
    """Plan the layer of a product of a map.

    Raises:
        DataError: It holds no numbers that can be drawn.
    """
    if file.dtypes[0].startswith("complex"):
        raise DataError(f"it holds {file.dtypes[0]}, and only real numbers are drawn")
    raster = suits(file, grid) or copy_stored(
        store, product.name, file, grid, stored_encoding(file, product.reduction)
    )
    nodata = file.nodata[0]
    if nodata is None:
        nodata = nan if file.dtypes[0].startswith("float") else None
    role = _ROLES.get(product.name, "other")
    look = Look(product.name, product.name.replace("_", " ").capitalize(), role, nodata)
    channels = [
        Channel(text or product.name, None, None, scale, offset)
        for text, scale, offset in zip(file.descriptions, file.scales, file.offsets, strict=True)
    ]
    if product.per_class:
        return Planned(look, raster, partial(image_layer, channels=channels))
    names = _names_of(path) if product.tells else {}
    if names:
        return Planned(look, raster, partial(names_layer, names=names, colours=_colours(names)))
    ramp = _RAMPS.get(role, "blues" if role == "other" else "viridis")
    return Planned(look, raster, partial(number_layer, channel=channels[0], ramp=ramp))


def _names_of(path: Path) -> dict[int, str]:
    """Value → text, as the tags of a product of sets or of modalities say it."""
    with without_warnings(), rasterio.open(path) as dataset:
        tags = dataset.tags()
    try:
        if "class_bits" in tags or path.stem == "sources":
            bits = json.loads(tags.get("class_bits") or tags["modalities"])
            return {
                value: "+".join(n for n, bit in bits.items() if value & int(bit))
                for value in range(1, 2 ** len(bits))
            }
        return {int(value): str(name) for value, name in json.loads(tags["modalities"]).items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def modalities_of(path: Path) -> dict[int, str]:
    """Value of the attribution → its modality; without that of no single one."""
    return {value: name for value, name in _names_of(path).items() if value}


def _colours(names: Mapping[int, str]) -> dict[int, str]:
    """Grey for the value 0, colours for the others."""
    others = [value for value in names if value]
    palette = DISTINCT_COLORS if len(others) <= len(DISTINCT_COLORS) else DEFAULT_COLORS
    found = {value: palette[n % len(palette)] for n, value in enumerate(others)}
    return found | {0: "#c8c8c4"}


def plain_grid(grid: Grid) -> tuple[object, ...]:
    """What pixels of a copy depend on of its grid."""
    crs = grid.crs.to_wkt() if grid.crs else None
    return grid.height, grid.width, *grid.transform[:6], crs

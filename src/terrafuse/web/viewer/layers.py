"""Layers of a scene: what the page must know of a raster to draw it, from its overviews."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terrafuse.classes import DISTINCT_COLORS
from terrafuse.modalities import Modality
from terrafuse.web.viewer.copies import Raster, read_small
from terrafuse.web.viewer.document import Band, ClassEntry, Components, Index, Layer, Role

# Pixels a side of what is measured.
_MEASURED = 512
_LOW, _HIGH = 2, 98
_COMPONENTS = 3
# Wavelengths in micrometres, and names of bands, in lower case.
_SPECTRUM: Mapping[str, tuple[float, float, tuple[str, ...]]] = {
    "green": (0.52, 0.60, ("green", "g", "b03", "b3")),
    "red": (0.62, 0.69, ("red", "r", "b04", "b4")),
    "nir": (0.76, 0.90, ("nir", "n", "near_infrared", "b08", "b8")),
    "swir": (1.55, 1.75, ("swir", "swir1", "swir16", "b11")),
    "swir2": (2.05, 2.35, ("swir2", "swir22", "b12")),
}
_INDICES = (
    ("ndvi", "NDVI (vegetation)", "nir", "red"),
    ("ndwi", "NDWI (open water)", "green", "nir"),
    ("ndmi", "NDMI (moisture)", "nir", "swir"),
    ("ndbi", "NDBI (built-up)", "swir", "nir"),
    ("nbr", "NBR (burnt)", "nir", "swir2"),
)

Float = NDArray[np.float64]
RampName = Literal["viridis", "magma", "gray", "blues"]


@dataclass(frozen=True)
class Channel:
    """A band of a raster.

    Args:
        name: Of the band.
        unit: Of its values; None: unknown.
        wavelength_um: Its middle; None: none.
        factor: value = stored · factor + summand.
        summand: See `factor`.
    """

    name: str
    unit: str | None = None
    wavelength_um: float | None = None
    factor: float = 1.0
    summand: float = 0.0


@dataclass(frozen=True)
class Look:
    """What a layer is called and how it begins.

    Args:
        id: Of the layer.
        title: As people read it.
        role: What it is of.
        nodata: Stored value without data; None: there is none.
        is_shown: Whether the page begins with it.
    """

    id: str
    title: str
    role: Role
    nodata: float | None = None
    is_shown: bool = False


def image_layer(
    raster: Raster, look: Look, channels: Sequence[Channel], rgb: Sequence[int] = ()
) -> Layer:
    """A layer of bands that are stretched.

    Args:
        raster: It must be there.
        look: Of the layer.
        channels: In the file's order.
        rgb: Bands to begin with; default: the first.
    """
    values = _physical(raster.path, channels, look.nodata)
    many = len(channels) > _COMPONENTS
    return _layer(
        raster,
        look,
        "image",
        _bands(channels, values),
        rgb=tuple(rgb) or (0,),
        indices=find_indices(channels),
        components=find_components(values) if many else None,
    )


def number_layer(raster: Raster, look: Look, channel: Channel, ramp: RampName = "viridis") -> Layer:
    """A layer of one band on a colour ramp."""
    values = _physical(raster.path, [channel], look.nodata)
    return _layer(raster, look, "number", _bands([channel], values), ramp=ramp)


def class_layer(raster: Raster, look: Look) -> Layer:
    """A layer of the view's classes."""
    return _layer(raster, look, "classes", (Band(name="class"),))


def names_layer(
    raster: Raster, look: Look, names: Mapping[int, str], colours: Mapping[int, str] | None = None
) -> Layer:
    """A layer of whole numbers with names, of which those are listed that its overviews hold.

    Args:
        raster: It must be there.
        look: Of the layer.
        names: Value → its text.
        colours: Value → "#rrggbb"; default: one after the other.
    """
    values, known = read_small(raster.path, _MEASURED, look.nodata)
    found, counts = np.unique(values[0][known[0]], return_counts=True)
    share = raster.height * raster.width / max(values[0].size, 1)
    pixels = {int(v): round(int(n) * share) for v, n in zip(found, counts, strict=True)}
    listed = [v for v in names if v in pixels] if len(names) > len(DISTINCT_COLORS) else names
    entries = tuple(
        ClassEntry(
            value=value,
            name=names[value],
            colour=(colours or {}).get(value, DISTINCT_COLORS[n % len(DISTINCT_COLORS)]),
            pixels=pixels.get(value, 0),
        )
        for n, value in enumerate(listed)
    )
    return _layer(raster, look, "names", (Band(name=look.id),), names=entries)


def class_entries(
    names: Sequence[str], colours: Sequence[str], values: Sequence[int] | None = None
) -> tuple[ClassEntry, ...]:
    """Classes of a legend.

    Args:
        values: In class layers; default: the positions.
    """
    numbers = range(len(names)) if values is None else values
    return tuple(
        ClassEntry(value=value, name=name, colour=colour.lower())
        for value, name, colour in zip(numbers, names, colours, strict=True)
    )


def _layer(
    raster: Raster,
    look: Look,
    kind: Literal["image", "classes", "number", "names"],
    bands: tuple[Band, ...],
    **further: Any,
) -> Layer:
    nodata = look.nodata
    return Layer(
        id=look.id,
        title=look.title,
        role=look.role,
        kind=kind,
        href=f"rasters/{look.id}.tif",
        height=raster.height,
        width=raster.width,
        pixels=raster.pixels,
        bands=bands,
        nodata="nan" if nodata is not None and isnan(nodata) else nodata,
        is_shown=look.is_shown,
        **further,
    )


def _physical(path: Path, channels: Sequence[Channel], nodata: float | None) -> Float:
    """Values (C, h, w) of a raster's overview, NaN without data."""
    stored, known = read_small(path, _MEASURED, nodata)
    values = np.where(known, stored.astype(np.float64), np.nan)
    for band, channel in zip(values, channels, strict=True):
        band *= channel.factor
        band += channel.summand
    values[~np.isfinite(values)] = np.nan
    return values


def _bands(channels: Sequence[Channel], values: Float) -> tuple[Band, ...]:
    return tuple(_band(one, own[~np.isnan(own)]) for one, own in zip(channels, values, strict=True))


def _band(channel: Channel, values: Float) -> Band:
    plain = {
        "name": channel.name,
        "unit": channel.unit,
        "wavelength_um": channel.wavelength_um,
        "factor": channel.factor,
        "summand": channel.summand,
    }
    if not values.size:
        return Band(**plain)
    low, high = np.percentile(values, (_LOW, _HIGH)).tolist()
    return Band(**plain, least=float(values.min()), most=float(values.max()), low=low, high=high)


def find_indices(channels: Sequence[Channel]) -> tuple[Index, ...]:
    """Normalised differences that bands allow, by their wavelengths, else by their names."""
    places = {colour: _find(colour, channels) for colour in _SPECTRUM}
    return tuple(
        Index(id=id, title=title, a=a, b=b)
        for id, title, first, second in _INDICES
        if (a := places[first]) is not None and (b := places[second]) is not None
    )


def _find(colour: str, channels: Sequence[Channel]) -> int | None:
    low, high, names = _SPECTRUM[colour]
    waves = [one.wavelength_um for one in channels]
    if any(um is not None for um in waves):
        within = [(abs(um - (low + high) / 2), n) for n, um in enumerate(waves)
                  if um is not None and low <= um <= high]  # fmt: skip
        return min(within)[1] if within else None
    own = [one.name.lower() for one in channels]
    return next((own.index(name) for name in names if name in own), None)


def find_components(values: Float) -> Components | None:
    """Three principal components of bands (C, h, w), with signs that do not hang on chance.

    Returns:
        None: there are too few pixels, they are all alike, or too large to be squared.
    """
    pixels = values.reshape(len(values), -1).T
    pixels = pixels[~np.isnan(pixels).any(axis=1)]
    if len(pixels) <= len(values):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        mean, spread = pixels.mean(axis=0), np.cov(pixels, rowvar=False)
    if not (np.isfinite(mean).all() and np.isfinite(spread).all()):
        return None
    variances, vectors = np.linalg.eigh(spread)
    axes = vectors[:, ::-1][:, :_COMPONENTS].T
    if not np.isfinite(axes).all() or variances[-1] <= 0:
        return None
    largest = np.abs(axes).argmax(axis=1)
    axes = axes * np.sign(axes[np.arange(_COMPONENTS), largest])[:, None]
    found = (pixels - mean) @ axes.T
    low, high = np.percentile(found, (_LOW, _HIGH), axis=0).tolist()
    first, second, third = (tuple(axis) for axis in axes.tolist())
    return Components(
        mean=tuple(mean.tolist()), axes=(first, second, third), low=tuple(low), high=tuple(high)
    )


def first_bands(modality: Modality) -> tuple[int, ...]:
    """Bands of a modality that the page begins with: natural colours, else one or three."""
    if modality.rgb_bands is not None:
        return modality.rgb_bands
    return (0, 1, 2) if modality.kind == "optical" and len(modality.bands) >= 3 else (0,)

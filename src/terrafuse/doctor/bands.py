"""Order of optical bands, judged by the spectral signature of vegetation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from terrafuse.classes import ClassScheme
from terrafuse.doctor.findings import Finding
from terrafuse.doctor.summary import ModalitySummary, SceneSummary
from terrafuse.modalities import Modality

_PLANTS = re.compile(
    r"(?<![a-z])(forests?|trees?|wood(s|ed|land)?|canopy|shrubs?|shrubland|vegetation|thicket|"
    r"orchards?|meadows?|grass(land)?|rangeland)(?![a-z])"
)
_NEGATED = re.compile(r"(?<![a-z])(no|non|not|without|bare|dead|burnt|burned)(?![a-z])")
_NEAR_INFRARED_UM, _RED_UM = (0.76, 0.95), (0.62, 0.69)
_FEWEST = 200
# NDVI of leaves is 0.3 to 0.9; bare branches and 8-bit pictures have less.
_LEAST, _CLEAR = 0.0, 0.15
_MOST_BANDS = 6


def check_bands(summary: SceneSummary) -> Iterator[Finding]:
    """Check that near infrared is brighter than red where plants are labelled."""
    plants = _plant_classes(summary.scheme)
    for seen in summary.seen.values():
        pair = infrared_and_red(seen.modality)
        if pair is None or seen.modality.kind != "optical":
            continue
        labels = summary.labels_on(seen)
        where = (
            np.isin(labels, plants)
            if labels is not None and plants
            else np.zeros(seen.mini.shape[1:], bool)
        )
        pixels = _pixels(seen, where)
        if pixels.shape[1] >= _FEWEST:
            yield from _judge_plants(summary, seen, pixels, pair, plants)
        else:
            yield from _judge_all(summary, seen, pair)


def infrared_and_red(modality: Modality) -> tuple[int, int] | None:
    """Find the channels of near infrared and red, by wavelength or else by name; else None."""
    found: list[int | None] = []
    for limits, names in ((_NEAR_INFRARED_UM, ("nir",)), (_RED_UM, ("red",))):
        if modality.wavelengths_um is not None:
            middle = sum(limits) / 2
            inside = [
                (abs(w - middle), i)
                for i, w in enumerate(modality.wavelengths_um)
                if limits[0] <= w <= limits[1]
            ]
            found += [min(inside)[1]] if inside else [None]
        else:
            match = [i for i, band in enumerate(modality.bands) if band.lower() in names]
            found += [match[0] if len(match) == 1 else None]
    infrared, red = found
    return None if infrared is None or red is None else (infrared, red)


def _plant_classes(scheme: ClassScheme) -> list[int]:
    names = [re.sub(r"[_\-]", " ", name.lower()) for name in scheme.names]
    return [i for i, n in enumerate(names) if _PLANTS.search(n) and not _NEGATED.search(n)]


def _pixels(seen: ModalitySummary, where: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return values (C, n) under a mask, of pixels with data in all bands."""
    values = seen.mini[:, where]
    found: NDArray[np.float32] = values[:, ~np.isnan(values).any(axis=0)]
    return found


def _index(pixels: NDArray[np.float32], infrared: int, red: int) -> NDArray[np.float32]:
    """Compute the normalised difference (n,); NaN where both bands are 0."""
    a, b = pixels[infrared], pixels[red]
    total = a + b
    index: NDArray[np.float32] = np.divide(
        a - b, total, out=np.full_like(a, np.nan), where=total > 0
    )
    return index


def _median_index(pixels: NDArray[np.float32], infrared: int, red: int) -> float:
    values = _index(pixels, infrared, red)
    return float(np.nanmedian(values)) if not np.isnan(values).all() else 1.0


def _judge_plants(
    summary: SceneSummary,
    seen: ModalitySummary,
    pixels: NDArray[np.float32],
    pair: tuple[int, int],
    plants: list[int],
) -> Iterator[Finding]:
    index = _median_index(pixels, *pair)
    if index >= _LEAST:
        return
    bands = seen.modality.bands
    names = ", ".join(f"'{summary.scheme.names[i]}'" for i in plants)
    message = (
        f"band '{bands[pair[0]]}' of modality '{seen.name}' is darker than '{bands[pair[1]]}' "
        f"where scene '{summary.id}' is labelled {names} (median NDVI {index:.2f}, of "
        f"{pixels.shape[1]:,} pixels); plants are brighter in the near infrared"
    )
    better = _better_order(pixels, pair)
    if better is None:  # leafless trees, or a picture whose bands were stretched separately
        yield Finding("note", "band-order", message, summary.id, modality=seen.name)
        return
    taken = summary.rules[seen.name].read_bands or summary.scene.source(seen.name).numbers
    order = [taken[i] for i in better]
    fix = {f"modalities.{seen.name}.read_bands": order}
    remedy = "The order of 'bands' is probably not that of the file: correct it, or set "
    remedy += f"'read_bands: {order}'"
    yield Finding("warning", "band-order", message, summary.id, None, remedy, seen.name, fix=fix)


def _better_order(pixels: NDArray[np.float32], pair: tuple[int, int]) -> tuple[int, ...] | None:
    """Try the usual mix-ups: reversed order, infrared first, the two bands swapped."""
    count = len(pixels)
    infrared, red = pair
    swapped = list(range(count))
    swapped[infrared], swapped[red] = red, infrared
    tried = [
        tuple(range(count))[::-1],
        (*range(1, count), 0),  # infrared is first in the file
        (*range(count - 1, 0, -1), 0)[:count],  # infrared, red, green, blue
        tuple(swapped),
    ]
    if count <= _MOST_BANDS:
        tried += list(permutations(range(count)))
    clear = [o for o in tried if _median_index(pixels, o[infrared], o[red]) >= _CLEAR]
    return clear[0] if clear else None


def _judge_all(
    summary: SceneSummary, seen: ModalitySummary, pair: tuple[int, int]
) -> Iterator[Finding]:
    """Judge without labels of plants: land without any is rare, but a scene may be all water."""
    pixels = _pixels(seen, np.ones(seen.mini.shape[1:], bool))
    if pixels.shape[1] < _FEWEST:
        return
    values = _index(pixels, *pair)
    if np.isnan(values).all() or float(np.nanpercentile(values, 95)) >= -0.05:
        return
    bands = seen.modality.bands
    message = (
        f"band '{bands[pair[0]]}' of modality '{seen.name}' is darker than '{bands[pair[1]]}' "
        f"nearly everywhere in scene '{summary.id}', as over open water"
    )
    remedy = "If it shows land, the order of 'bands' is probably not that of the file"
    yield Finding("note", "band-order", message, summary.id, None, remedy, seen.name)

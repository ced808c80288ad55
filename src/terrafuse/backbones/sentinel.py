"""Adaptation of weights made for the bands of Sentinel-1 and Sentinel-2 to other bands.

Where the bands of a first layer are known, each band of an image takes the kernels of its match:
by name ("B8A", "nir", "VV") or by the nearest wavelength.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from terrafuse.backbones.colour import OTHER_BANDS_STD
from terrafuse.backbones.wavelengths import SENSORS
from terrafuse.modalities import Modality

#: Bands of Sentinel-2 in file order: level 1C, and level 2A without the cirrus band.
SENTINEL2_L1C = tuple(SENSORS["Sentinel-2"])
SENTINEL2_L2A = tuple(band for band in SENTINEL2_L1C if band != "B10")
SENTINEL1 = ("VV", "VH")
#: Bands of a first layer, by their count.
BANDS_BY_NUMBER: Mapping[int, tuple[str, ...]] = {
    len(bands): bands for bands in (SENTINEL2_L1C, SENTINEL2_L2A, SENTINEL1)
}

_CENTRES_UM = {band: um for band, (um, _) in SENSORS["Sentinel-2"].items() if um is not None}
_COLOURS = {
    "B": "B2", "BLUE": "B2", "G": "B3", "GREEN": "B3", "R": "B4", "RED": "B4", "N": "B8",
    "NIR": "B8",
}  # fmt: skip
#: Whole names of which a single word would mislead: "red_edge_1" is not red.
_WHOLE = {
    "COASTAL": "B1", "COASTALAEROSOL": "B1", "REDEDGE1": "B5", "REDEDGE2": "B6", "REDEDGE3": "B7",
    "RE1": "B5", "RE2": "B6", "RE3": "B7", "NIRNARROW": "B8A", "NARROWNIR": "B8A", "NIR2": "B8A",
    "WATERVAPOR": "B9", "WATERVAPOUR": "B9", "CIRRUS": "B10", "SWIR1": "B11", "SWIR2": "B12",
}  # fmt: skip
#: Largest distance to a matching band, in micrometres.
_WITHIN_UM = 0.1


def match_bands(modalities: Sequence[Modality], known: Sequence[str]) -> list[int | None]:
    """Match each band of the modalities, stacked in order, to the bands of a first layer.

    Args:
        modalities: Modalities stacked in the image, in order.
        known: Bands that the first layer was made for.

    Returns:
        Indices into `known`; None for a band without a match.
    """
    found: list[int | None] = []
    for modality in modalities:
        waves = modality.wavelengths_um or (None,) * len(modality.bands)
        for band, um in zip(modality.bands, waves, strict=True):
            found.append(place_of(band, um, known))
    return found


def adapt_bands(
    kernels: Tensor, places: Sequence[int | None], *, tell_apart: bool = True
) -> Tensor:
    """Adapt the kernels of a first layer to other bands.

    Each band takes the kernels at its index, an unknown one the mean of all; all are scaled by the
    ratio of the band counts, so that responses keep their magnitude. Bands at one index (two dates
    of a band, several unknown ones) differ by small mixtures of all kernels, which cancel where
    these bands are equal.

    Args:
        kernels: (D, C, h, w) for C known bands.
        places: Per band of the image, its index among them, or None.
        tell_apart: Whether bands at one index differ.

    Returns:
        (D, len(places), h, w).
    """
    mean = kernels.mean(dim=1)
    chosen = [mean if place is None else kernels[:, place] for place in places]
    adapted = torch.stack(chosen, dim=1)
    if tell_apart:
        adapted = adapted + torch.einsum("dkhw,kc->dchw", kernels, _differences(places, kernels))
    return adapted * (kernels.shape[1] / len(chosen))


def _differences(places: Sequence[int | None], kernels: Tensor) -> Tensor:
    """Weights (C, len(places)) whose sum over the bands at one place is 0."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(kernels.shape[1], len(places), generator=generator)
    for place in set(places):
        same = [i for i, other in enumerate(places) if other == place]
        drawn[:, same] -= drawn[:, same].mean(dim=1, keepdim=True)
        drawn[:, same] *= OTHER_BANDS_STD if len(same) > 1 else 0
    return drawn.to(kernels)


def scale_two_sigma(image: Tensor) -> Tensor:
    """Map standardised values (x − mean) / std from ±2 to [0, 1], clipped.

    CROMA and DeCUR scaled images this way in pre-training, with statistics of the batch or of their
    data set.
    """
    return ((image + 2) / 4).clamp(0, 1)


def place_of(band: str, um: float | None, known: Sequence[str]) -> int | None:
    """Index of a band among known ones, by its name, else by its wavelength in micrometres."""
    whole = _WHOLE.get(re.sub(r"[^A-Z0-9]", "", band.upper()))
    if whole is not None:
        return known.index(whole) if whole in known else None
    # "b02", "B2" and "S2_B02" are one band; so are "vv" and "VV_db".
    words = re.split(r"[^A-Z0-9]+", band.upper())
    names = {re.sub(r"^B0", "B", word) for word in words}
    names |= {_COLOURS[word] for word in words if word in _COLOURS}
    by_name = [place for place, name in enumerate(known) if name in names]
    if by_name:
        return by_name[0]
    near = [(abs(_CENTRES_UM[name] - um), place) for place, name in enumerate(known)
            if um is not None and name in _CENTRES_UM]  # fmt: skip
    distance, place = min(near, default=(_WITHIN_UM + 1, None))
    return place if distance <= _WITHIN_UM else None

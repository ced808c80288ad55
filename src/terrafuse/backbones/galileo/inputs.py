"""Inputs of Galileo: groups of channels, their statistics, and mapping of a data set's bands.

Reference: Tseng et al., "Galileo: Learning global and local features in pretrained remote sensing
models", ICML 2025, arXiv 2502.09356; means and standard deviations of its pre-training data (MIT).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from terrafuse.backbones.sentinel import SENTINEL1, SENTINEL2_L1C, place_of
from terrafuse.errors import ModelError
from terrafuse.modalities import Modality

#: Dimensions of a group: "space_time" position and date, "space" position, "time" date.
Kind = Literal["space_time", "space", "time", "static"]
KINDS: tuple[Kind, ...] = ("space_time", "space", "time", "static")


@dataclass(frozen=True)
class Group:
    """Channels that share tokens.

    Args:
        name: As in the published weights.
        kind: Dimensions that it varies over.
        index: Index among the groups of its kind.
        first: Index of its first channel among the channels of its kind.
    """

    name: str
    kind: Kind
    index: int
    channels: tuple[str, ...]
    first: int


_DW = (
    "water", "trees", "grass", "flooded_vegetation", "crops", "shrub_and_scrub", "built", "bare",
    "snow_and_ice",
)  # fmt: skip
_WC = ("temporary_crops", "maize", "winter_cereals", "spring_cereals", "irrigation")
_NAMES: Mapping[Kind, Mapping[str, tuple[str, ...]]] = {
    "space_time": {
        "S1": SENTINEL1,
        "S2_RGB": ("B2", "B3", "B4"),
        "S2_Red_Edge": ("B5", "B6", "B7"),
        "S2_NIR_10m": ("B8",),
        "S2_NIR_20m": ("B8A",),
        "S2_SWIR": ("B11", "B12"),
        "NDVI": ("NDVI",),
    },
    "space": {
        "SRTM": ("elevation", "slope"),
        "DW": tuple(f"DW_{name}" for name in _DW),
        "WC": tuple(f"WC_{name}" for name in _WC),
    },
    "time": {
        "ERA5": ("temperature_2m", "total_precipitation_sum"),
        "TC": ("def", "soil", "aet"),
        "VIIRS": ("avg_rad",),
    },
    "static": {
        "LS": ("population",),
        "location": ("x", "y", "z"),
        "DW_static": tuple(f"DW_static_{name}" for name in _DW),
        "WC_static": tuple(f"WC_static_{name}" for name in _WC),
    },
}


def _all_groups() -> dict[str, Group]:
    found = {}
    for kind, own in _NAMES.items():
        first = 0
        for index, (name, channels) in enumerate(own.items()):
            found[name] = Group(name, kind, index, channels, first)
            first += len(channels)
    return found


#: Every group by its name, in the model's order.
GROUPS: Mapping[str, Group] = _all_groups()
#: Channels of each kind, and number of its groups.
CHANNELS: Mapping[Kind, tuple[str, ...]] = {
    kind: tuple(c for own in _NAMES[kind].values() for c in own) for kind in KINDS
}
NUM_GROUPS: Mapping[Kind, int] = {kind: len(own) for kind, own in _NAMES.items()}

#: Mean and standard deviation of the standardised channels, in the units of pre-training: decibels,
#: reflectance × 10000, metres, degrees, kelvin … The others are kept, or are percentages.
MOMENTS: Mapping[str, tuple[float, float]] = {
    "VV": (-11.728724389184965, 4.887145774840316),
    "VH": (-18.85558188024017, 5.730270320384293),
    "B2": (1395.3408730676722, 917.7041440370853),
    "B3": (1338.4026921784578, 913.2988423581528),
    "B4": (1343.09883810357, 1092.678723527555),
    "B5": (1543.8607982512297, 1047.2206083460424),
    "B6": (2186.2022069512263, 1048.0101611156767),
    "B7": (2525.0932853316694, 1143.6903026819996),
    "B8": (2410.3377187373408, 1098.979177731649),
    "B8A": (2750.2854646886753, 1204.472755085893),
    "B11": (2234.911100061487, 1145.9774063078878),
    "B12": (1474.5311266077113, 980.2429840007796),
    "elevation": (673.0152819503361, 983.0697298296237),
    "slope": (5.930092668915115, 8.167406789813247),
    "temperature_2m": (271.5674963541667, 79.80828940314429),
    "total_precipitation_sum": (0.08554303677156568, 0.11669547098151486),
    "def": (657.3181260091111, 704.0008695557707),
    "soil": (692.1291795806885, 925.0116126406431),
    "aet": (562.781331880633, 453.2434022278578),
    "avg_rad": (1.5647115934036673, 7.513020170832818),
    "population": (188.20315880851746, 1154.5919128300602),
}


def scale_of(channel: str) -> tuple[float, float]:
    """Return (a, b) of x' = a x + b, which maps a channel to its range in pre-training.

    (x − (μ − 2 σ)) / 4 σ where there are moments: μ ± 2 σ becomes 0 to 1. WorldCereal's percentages
    become fractions; NDVI, fractions and coordinates are kept.
    """
    if channel in MOMENTS:
        mean, std = MOMENTS[channel]
        return 1 / (4 * std), (2 * std - mean) / (4 * std)
    return (0.01 if channel.startswith("WC_") else 1.0), 0.0


def moments_of(channel: str) -> tuple[float, float]:
    """Return the mean and deviation that map to 0.5 and 0.25, for standardised images."""
    if channel in MOMENTS:
        return MOMENTS[channel]
    scale, shift = scale_of(channel)
    return (0.5 - shift) / scale, 0.25 / scale


@dataclass(frozen=True)
class Slot:
    """A token that every position of an image has: a group of channels at a date.

    Args:
        date: Index of the date, from 0; 0 for groups without dates.
        bands: Per channel of the group, its index among the image's bands; None: absent.
    """

    group: Group
    date: int
    bands: tuple[int | None, ...]


@dataclass(frozen=True)
class BandPlan:
    """Assignment of the bands of a modality to tokens.

    Args:
        channels: Per band, its channel; None: not used by the model.
        slots: Tokens of a position, by date and then in the model's order of groups.
        dates: T.
    """

    channels: tuple[str | None, ...]
    slots: tuple[Slot, ...]
    dates: int


#: Bands of Sentinel-2 that have no group.
UNUSED = ("B1", "B9", "B10")
_ELEVATION = ("elevation", "dem", "height", "dsm", "dtm", "srtm", "altitude", "z")
_BY_NAME: Mapping[str, str] = {
    **dict.fromkeys(_ELEVATION, "elevation"),
    "slope": "slope",
    "ndvi": "NDVI",
    **{name.lower(): name for name in (*CHANNELS["space"][2:], *SENTINEL1)},
}
#: "B02_t1", "t1_B02": a band at a date.
_DATE = re.compile(r"(_t\d+$|^t\d+_)")


def plan_bands(name: str, modality: Modality, *, ndvi: bool = False) -> BandPlan:
    """Find the groups that a modality has.

    A band that occurs several times is one band at several dates, in order.

    Args:
        name: Name of the backbone, for messages.
        modality: Its bands are identified by name ("B2", "B02", "blue"; "VV"; "dem", "slope" …) or,
            if optical, by wavelength.
        ndvi: Whether to compute NDVI where red and near infrared exist.

    Raises:
        ModelError: A band unknown to the model, or dates with different bands.
    """
    waves = modality.wavelengths_um or (None,) * len(modality.bands)
    found = [find_channel(band, um) for band, um in zip(modality.bands, waves, strict=True)]
    unknown = [band for band, channel in zip(modality.bands, found, strict=True) if not channel]
    if unknown:
        raise ModelError(
            f"backbone '{name}' does not know band {', '.join(map(repr, unknown))} of modality "
            f"'{modality.name}', and never guesses from band order. It reads Sentinel-1 (VV, "
            "VH), Sentinel-2 (B2 or B02 or blue, …, B12), elevation (dem, height) and slope. Name "
            "the bands in the manifest by what they are, or leave them out with 'read_bands'"
        )
    used = tuple(None if channel in UNUSED else channel for channel in found)
    places: dict[str, list[int]] = {}
    for index, channel in enumerate(used):
        if channel is not None:
            places.setdefault(channel, []).append(index)
    if not places:
        raise ModelError(
            f"backbone '{name}' uses none of the bands of modality '{modality.name}' "
            f"({', '.join(modality.bands)}); leave the modality out"
        )
    dates = _count_dates(name, modality, places)
    slots = [slot for date in range(dates) for slot in _slots_at(date, places, ndvi)]
    return BandPlan(used, tuple(slots), dates)


def find_channel(band: str, um: float | None = None) -> str | None:
    """Identify a band as a channel or an unused band; None where neither fits.

    Args:
        band: Its name, with or without a date ("B02_t1").
        um: Its wavelength in micrometres.
    """
    plain = _DATE.sub("", band.lower())
    place = place_of(plain, um, SENTINEL2_L1C)
    if place is not None:
        return SENTINEL2_L1C[place]
    words = (plain, *re.split(r"[^a-z0-9]+", plain))
    return next((_BY_NAME[word] for word in words if word in _BY_NAME), None)


def _count_dates(name: str, modality: Modality, places: Mapping[str, Sequence[int]]) -> int:
    counts = {
        channel: len(own) for channel, own in places.items() if channel in CHANNELS["space_time"]
    }
    still = [c for c, own in places.items() if c not in counts and len(own) > 1]
    if len(set(counts.values())) > 1 or still:
        several = {c: len(own) for c, own in places.items()}
        raise ModelError(
            f"bands of modality '{modality.name}' mean the same to backbone '{name}' several "
            f"times, and not all equally often: {several}. With several dates, each must have the "
            "same bands ('B02_t1', 'B03_t1', 'B02_t2', 'B03_t2'); elevation has no date"
        )
    return next(iter(counts.values()), 1)


def _slots_at(date: int, places: Mapping[str, Sequence[int]], ndvi: bool) -> list[Slot]:
    slots = []
    for group in GROUPS.values():
        if group.kind == "space" and date > 0:
            continue
        bands = tuple(
            places[c][date] if c in places else None
            for c in group.channels
        )  # fmt: skip
        computed = group.name == "NDVI" and ndvi and {"B8", "B4"} <= set(places)
        if computed or any(band is not None for band in bands):
            slots.append(Slot(group, date, bands))
    return slots

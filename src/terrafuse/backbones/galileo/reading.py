"""Bands of a modality → Galileo's input values: units, scales, slope and NDVI.

Images arrive standardised with the statistics of their data set. Galileo has a table of its own,
in physical units, so the standardisation is undone first. Units are converted and checked only
here.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from math import log, pi

import torch
from torch import Tensor, nn

from terrafuse.backbones.galileo.encoder import PIXEL_SIZE_M
from terrafuse.backbones.galileo.inputs import BandPlan, Slot, moments_of, scale_of
from terrafuse.errors import BandError
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.tracing import is_traced

#: Factor to reflectance × 10000, by unit; other units are assumed to be that already.
_REFLECTANCE: Mapping[str, float] = {"reflectance": 10_000.0}
#: Decibels per factor of 10, by unit; other units are assumed to be decibels.
_DECIBELS: Mapping[str, float] = {
    **dict.fromkeys(("linear", "power", "intensity", "sigma0", "gamma0", "beta0"), 10.0),
    "amplitude": 20.0,
}
#: With fewer pixels than this, scales are not checked.
_FEWEST = 64
# Snow and clouds exceed a reflectance of 1; nothing exceeds 3.
_BRIGHTEST, _EIGHT_BITS = 3.0, 255.0
_WEAKEST_DB, _STRONGEST_DB = -70.0, 30.0
_HEIGHTS_M = (-500.0, 9000.0)
_OFFSET = (950.0, 1400.0)
_SMALLEST_POWER = 1e-6


class BandReader(nn.Module):
    """A standardised image of one modality → the values of its groups.

    Until `set_statistics` is called, images are assumed to be standardised with the mean and
    deviation of pre-training.

    Args:
        name: Name of the backbone, for messages.
        plan: Assignment of the modality's bands.
        looks: Whether values are physical: converted from their unit, and checked.
    """

    def __init__(
        self, name: str, modality: Modality, plan: BandPlan, *, looks: bool = True
    ) -> None:
        super().__init__()
        self.name, self.modality, self.plan = name, modality, plan
        unit = modality.unit.strip().lower()
        self.families = tuple(_family(channel) for channel in plan.channels)
        self.decades = _DECIBELS.get(unit, 0.0) if looks else 0.0
        self.factor = _REFLECTANCE.get(unit, 1.0) if looks else 1.0
        usual = [self._usual(channel) if looks else _moments(channel) for channel in plan.channels]
        self.register_buffer("mean", torch.tensor([mean for mean, _ in usual]))
        self.register_buffer("std", torch.tensor([std for _, std in usual]))
        self.register_buffer("pixel_size_m", torch.tensor(PIXEL_SIZE_M))
        table = [(1.0, 0.0) if c is None else scale_of(c) for c in plan.channels]
        scale, shift = torch.tensor(table, dtype=torch.float64).unbind(1)
        self.register_buffer("scale", scale.float(), persistent=False)
        self.register_buffer("shift", shift.float(), persistent=False)
        self.looks = looks

    def set_statistics(self, statistics: BandStatistics) -> None:
        """Set how images are standardised.

        Args:
            statistics: Per band; mean and deviation are those of the standardisation, the
                percentiles those of the data.

        Raises:
            BandError: The data are on another scale than Galileo's.
        """
        check_scale(self.name, self.modality, self.plan, statistics)
        self.get_buffer("mean").copy_(torch.tensor(statistics.mean))
        self.get_buffer("std").copy_(torch.tensor(statistics.std))
        self.looks = max(statistics.count) >= _FEWEST

    def forward(self, image: Tensor) -> list[Tensor]:
        """Standardised (N, C, H, W) → per slot (N, C_g, H, W) in the range of pre-training."""
        raw = self._physical(image)
        if self.looks:
            self._look(image, raw)
        scale, shift = self.get_buffer("scale"), self.get_buffer("shift")
        values = raw * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
        return [self._of_slot(slot, raw, values) for slot in self.plan.slots]

    def _physical(self, image: Tensor) -> Tensor:
        """Values in Galileo's units, float32."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        raw = image.float() * std.view(-1, 1, 1) + mean.view(-1, 1, 1)
        if "s2" in self.families and self.factor != 1:
            of_bands = [self.factor if family == "s2" else 1.0 for family in self.families]
            raw = raw * torch.tensor(of_bands, device=raw.device).view(-1, 1, 1)
        if "s1" in self.families and self.decades:
            radar = torch.tensor([family == "s1" for family in self.families], device=raw.device)
            power = self.decades * raw.clamp(min=_SMALLEST_POWER).log10()
            raw = torch.where(radar.view(-1, 1, 1), power, raw)
        return raw

    def _of_slot(self, slot: Slot, raw: Tensor, values: Tensor) -> Tensor:
        if slot.group.name == "NDVI" and slot.bands == (None,):
            return self._ndvi(slot, raw)
        # An absent channel gets its mean.
        parts = [
            torch.full_like(values[:, 0], 0.5) if band is None else values[:, band]
            for band in slot.bands
        ]
        if slot.group.name == "SRTM" and slot.bands[1] is None and slot.bands[0] is not None:
            scale, shift = scale_of("slope")
            parts[1] = (
                slope_degrees(raw[:, slot.bands[0]], self.get_buffer("pixel_size_m")) * scale
                + shift
            )
        return torch.stack(parts, dim=1)

    def _ndvi(self, slot: Slot, raw: Tensor) -> Tensor:
        near, red = (
            raw[:, [i for i, c in enumerate(self.plan.channels) if c == channel][slot.date]]
            for channel in ("B8", "B4")
        )
        total = near + red
        ndvi = torch.where(total > 0, (near - red) / torch.where(total > 0, total, 1.0), 0.0)
        return ndvi.unsqueeze(1)

    def _usual(self, channel: str | None) -> tuple[float, float]:
        """Pre-training mean and deviation in the modality's unit; for power, to first order."""
        mean, std = _moments(channel)
        if _family(channel) == "s2":
            return mean / self.factor, std / self.factor
        if _family(channel) == "s1" and self.decades:
            power = 10 ** (mean / self.decades)
            return power, power * std * log(10) / self.decades
        return mean, std

    @torch.no_grad()
    def _look(self, image: Tensor, raw: Tensor) -> None:
        """Refuse a first image with values impossible on Earth, whatever the statistics say."""
        if is_traced() or raw.is_meta:
            return
        self.looks = False
        known = (image != 0).any(dim=1, keepdim=True)  # 0 stands for no data
        if int(known.sum()) < _FEWEST:
            return
        for family, worst in (("s2", "amax"), ("s1", "amin")):
            bands = [i for i, own in enumerate(self.families) if own == family]
            if not bands:
                continue
            found = raw[:, bands].where(known, -torch.inf if worst == "amax" else torch.inf)
            extreme = float(found.amax() if worst == "amax" else found.amin())
            if family == "s2" and extreme <= _BRIGHTEST:
                raise BandError(_too_dark(self.name, self.modality, extreme))
            if family == "s1" and extreme >= 0:
                raise BandError(_not_decibels(self.name, self.modality, extreme))


def slope_degrees(height: Tensor, pixel_size_m: Tensor) -> Tensor:
    """Slope (N, H, W) in degrees, from heights in metres by central differences."""
    padded = torch.nn.functional.pad(height[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    down = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / (2 * pixel_size_m)
    right = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / (2 * pixel_size_m)
    return torch.hypot(down, right).atan() * (180 / pi)


def check_scale(name: str, modality: Modality, plan: BandPlan, statistics: BandStatistics) -> None:
    """Refuse values that contradict the modality's unit, or that Galileo never saw.

    Args:
        name: Name of the backbone, for the message.
        modality: Modality of the values, with its unit.
        plan: Assignment of its bands.
        statistics: Measured 2nd and 98th percentiles.

    Raises:
        BandError: Says what the values look like, and what to write in the manifest.
    """
    families = [_family(channel) for channel in plan.channels]
    for family, check in (("s2", _check_optical), ("s1", _check_radar), ("height", _check_heights)):
        ranges = [
            (low, high)
            for own, low, high, count in zip(
                families, statistics.low, statistics.high, statistics.count, strict=True
            )
            if own == family and count >= _FEWEST
        ]
        if ranges:
            check(name, modality, min(low for low, _ in ranges), max(high for _, high in ranges))


def _check_optical(name: str, modality: Modality, low: float, high: float) -> None:
    unit = modality.unit.strip().lower()
    where = f"modality '{modality.name}' has values from {low:g} to {high:g} (2 to 98 %)"
    if unit in _REFLECTANCE:
        if high > _BRIGHTEST:
            raise BandError(
                f"{where} and unit '{modality.unit}', which ranges from 0 to 1. If they are "
                "reflectance × 10000, write 'unit: reflectance_10000' in the manifest"
            )
        return
    if high <= _BRIGHTEST:
        raise BandError(_too_dark(name, modality, high))
    if high <= _EIGHT_BITS or low < -_OFFSET[1]:
        raise BandError(
            f"{where}; backbone '{name}' was pre-trained on reflectance × 10000 (hundreds to "
            "thousands), not on values stretched to 8 bits or standardised. Use the original "
            "files, or backbone option 'scaling: data' to scale them by their own statistics"
        )
    if _OFFSET[0] <= low <= _OFFSET[1]:
        warnings.warn(
            f"{where}: nothing is darker, as with the offset of 1000 of Sentinel-2 since "
            f"processing baseline 04.00 (2022-01-25). Backbone '{name}' was pre-trained without "
            "it; where files have it, subtract it in the manifest ('value_offset: -1000' of the "
            "modality, or of scenes)",
            stacklevel=2,
        )


def _check_radar(name: str, modality: Modality, low: float, high: float) -> None:
    where = f"modality '{modality.name}' has values from {low:g} to {high:g} (2 to 98 %)"
    if modality.unit.strip().lower() in _DECIBELS:
        if low < 0:
            raise BandError(
                f"{where} and unit '{modality.unit}', which is never negative. If they are "
                "decibels, write 'unit: db' in the manifest"
            )
        return
    if low >= 0:
        raise BandError(_not_decibels(name, modality, low))
    if low < _WEAKEST_DB or high > _STRONGEST_DB:
        raise BandError(
            f"{where}; backbone '{name}' was pre-trained on decibels, which lie between "
            f"{_WEAKEST_DB:g} and {_STRONGEST_DB:g}. Use calibrated backscatter"
        )


def _check_heights(name: str, modality: Modality, low: float, high: float) -> None:
    if low < _HEIGHTS_M[0] or high > _HEIGHTS_M[1]:
        raise BandError(
            f"modality '{modality.name}' has heights from {low:g} to {high:g} (2 to 98 %); backbone"
            f" '{name}' takes metres above sea level. Check 'nodata' and the unit"
        )


def _too_dark(name: str, modality: Modality, high: float) -> str:
    return (
        f"values of modality '{modality.name}' reach {high:g} only, as reflectance from 0 to 1 "
        f"does; backbone '{name}' was pre-trained on reflectance × 10000. Write 'unit: "
        "reflectance' for the modality in the manifest, and they are multiplied"
    )


def _not_decibels(name: str, modality: Modality, low: float) -> str:
    return (
        f"values of modality '{modality.name}' are never below {low:g}, as linear power is; "
        f"backbone '{name}' was pre-trained on decibels. Write 'unit: linear' (power, or "
        "'amplitude') for the modality in the manifest, and they are converted. Backscatter "
        "stretched to 8 bits cannot be: use calibrated files, or backbone option 'scaling: data'"
    )


def _moments(channel: str | None) -> tuple[float, float]:
    return (0.0, 1.0) if channel is None else moments_of(channel)


def _family(channel: str | None) -> str:
    """Family of a channel, which determines its unit: "s1", "s2", "height" or ""."""
    if channel is None:
        return ""
    if channel in ("VV", "VH"):
        return "s1"
    if channel == "elevation":
        return "height"
    return "s2" if channel.startswith("B") and channel[1].isdigit() else ""

"""Elevation: fill values, holes, spikes, and grey values in place of metres."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from terrafuse.doctor.findings import Finding
from terrafuse.doctor.summary import ModalitySummary, SceneSummary
from terrafuse.errors import exact_number
from terrafuse.samples import Window

# Dead Sea shore and Everest, with room for buildings, ellipsoids and the sea floor near coasts.
_LOWEST_M, _HIGHEST_M = -600.0, 9200.0
_FILLS = (-9999.0, -32767.0, -32768.0, 32767.0, 65535.0, -999.0, 9999.0, -99999.0)
# Zero is a hole if the land around it is nowhere lower than this.
_ABOVE_ZERO_M = 20.0
_FEWEST_ZEROS = 9
# A spike exceeds all else by this much, and by this many times the range of the scene.
_SPIKE_M, _SPIKE_RANGES = 100.0, 3.0
_MARGIN = 32


def check_elevation(summary: SceneSummary) -> Iterator[Finding]:
    """Check for heights that no ground has."""
    for seen in summary.seen.values():
        if seen.modality.kind != "elevation" or not seen.valid:
            continue
        for band in range(len(seen.low)):
            found = (
                _fill(summary, seen, band)
                or _zeros(summary, seen, band)
                or _spike(summary, seen, band)
            )
            if found is not None:
                yield found
        yield from _check_grey(summary, seen)


def _fill(summary: SceneSummary, seen: ModalitySummary, band: int) -> Finding | None:
    in_metres = seen.modality.unit.strip().lower() in ("m", "metre", "metres", "meter", "meters")
    for value, count, place in (
        (float(seen.low[band]), int(seen.at_low[band]), seen.low_at[band]),
        (float(seen.high[band]), int(seen.at_high[band]), seen.high_at[band]),
    ):
        stored = seen.stored(band, value)
        impossible = in_metres and not _LOWEST_M <= value <= _HIGHEST_M
        if not impossible and (stored not in _FILLS or count < 2):
            continue
        if not (impossible or _stands_apart(seen, band, value)):
            continue
        message = (
            f"modality '{seen.name}' of scene '{summary.id}' has {count} px of "
            f"{exact_number(value)}, which is no height: holes that count as data"
        )
        remedy, fix = seen.declare(stored, "; or fill the holes")
        if count == 1 and stored not in _FILLS:
            remedy, fix = "Remove the value from the file", {}
        return Finding(
            "warning", "elevation-fill", message, summary.id, None, remedy, seen.name,
            _around(seen, place), fix,
        )  # fmt: skip
    return None


def _stands_apart(seen: ModalitySummary, band: int, value: float) -> bool:
    rest = _others(seen, band, value)
    if rest.size < 16:
        return False
    low, high = float(rest.min()), float(rest.max())
    return min(abs(value - low), abs(value - high)) > max(_SPIKE_M, high - low)


def _others(seen: ModalitySummary, band: int, value: float) -> NDArray[np.float32]:
    values = seen.mini[band].ravel()
    others: NDArray[np.float32] = values[~np.isnan(values) & (values != np.float32(value))]
    return others


def _zeros(summary: SceneSummary, seen: ModalitySummary, band: int) -> Finding | None:
    if seen.low[band] != 0 or seen.at_low[band] < _FEWEST_ZEROS:
        return None
    rest = _others(seen, band, 0)
    if rest.size < 16 or float(np.percentile(rest, 0.2)) < _ABOVE_ZERO_M:
        return None
    message = (
        f"modality '{seen.name}' of scene '{summary.id}' is 0 at {int(seen.at_low[band])} px, "
        f"while the ground lies above {np.percentile(rest, 0.2):.0f}: holes filled with 0"
    )
    remedy, fix = seen.declare(seen.stored(band, 0.0), "; or fill the holes")
    hits = seen.mini[band] == 0
    window = seen.mini_window(hits) if hits.any() else _around(seen, seen.low_at[band])
    return Finding(
        "warning", "elevation-holes", message, summary.id, None, remedy, seen.name, window, fix
    )


def _spike(summary: SceneSummary, seen: ModalitySummary, band: int) -> Finding | None:
    values = seen.mini[band][~np.isnan(seen.mini[band])]
    if values.size < 256:
        return None
    low, high = (float(v) for v in np.percentile(values, (0.2, 99.8)))
    limit = max(_SPIKE_M, _SPIKE_RANGES * (high - low))
    for value, place in (
        (seen.high[band], seen.high_at[band]),
        (seen.low[band], seen.low_at[band]),
    ):
        away = float(value) - high if value > high else low - float(value)
        if away > limit:
            message = (
                f"modality '{seen.name}' of scene '{summary.id}' reaches {value:.5g} at row "
                f"{int(place[0])}, column {int(place[1])}, while 99.6 % of it lie between "
                f"{low:.5g} and {high:.5g}: an outlier"
            )
            remedy = "Clip or mask it in the file: it would compress the range of all other values"
            window = _around(seen, place)
            return Finding(
                "warning", "elevation-outlier", message, summary.id, None, remedy, seen.name, window
            )
    return None


def _around(seen: ModalitySummary, place: NDArray[np.int64]) -> Window:
    row, col = (max(0, int(n) - _MARGIN) for n in place)
    return seen.scene_window(row, col, 2 * _MARGIN, 2 * _MARGIN)


def _check_grey(summary: SceneSummary, seen: ModalitySummary) -> Iterator[Finding]:
    if set(seen.dtypes) != {"uint8"} or seen.modality.unit.strip().lower() != "m":
        return
    message = (
        f"modality '{seen.name}' of scene '{summary.id}' has unit metres, but its file holds bytes "
        f"({seen.low.min():g} to {seen.high.max():g}): heights stretched to a picture"
    )
    remedy = (
        "Use the raster in metres; heights of different scenes cannot be compared otherwise. If "
        "a grey value means the same height everywhere, set 'unit: dn'"
    )
    fix = {f"modalities.{seen.name}.unit": "dn"}
    yield Finding(
        "warning", "elevation-8bit", message, summary.id, None, remedy, seen.name, fix=fix
    )

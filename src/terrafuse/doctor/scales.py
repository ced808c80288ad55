"""Scales of values: deviations from the manifest's units, and between scenes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from terrafuse.doctor.findings import Finding
from terrafuse.doctor.summary import PERCENTS, ModalityRecord, SceneRecord
from terrafuse.modalities import LINEAR_UNITS, Modality

Family = Literal["0–1", "0–255", "0–10000", "decibels", "linear"]

_Q_LOW, _Q5, _Q50, _Q90, _Q99 = range(len(PERCENTS))
# Snow and clouds exceed a reflectance of 1.
_REFLECTANCE = 1.6
# Scenes of one sensor differ in brightness, but not by this factor.
_BRIGHTER = 8.0
_REFLECTANCE_UNITS = {"reflectance": ("0–1",), "reflectance_10000": ("0–10000", "0–255")}
# Sentinel-2 since processing baseline 04.00: 1000 is added, so that no value is lower.
_OFFSET, _DARK = (950.0, 1400.0), 600.0
_MOST_DB = 70.0
_FEWEST = 64
_MOST_NAMED = 5


def check_scales(modality: Modality, records: Sequence[SceneRecord]) -> Iterator[Finding]:
    """Compare a modality's values with its unit and between scenes."""
    found = {
        record.id: record.summaries[modality.name]
        for record in records
        if modality.name in record.summaries
        and record.summaries[modality.name].known.max(initial=0) >= _FEWEST
    }
    if modality.kind == "optical" and found:
        yield from _check_unit(modality, found)
        yield from _check_mixed(
            modality, {id: _optical_family(s) for id, s in found.items()}, found
        )
        yield from _check_offset(modality, found)
    if modality.kind == "sar" and found:
        yield from _check_radar(modality, found)
    if modality.kind == "elevation" and found:
        yield from _check_height_units(modality, found)


def _optical_family(summary: ModalityRecord) -> Family:
    top = _brightest(summary, _Q99)
    if top <= _REFLECTANCE:
        return "0–1"
    return "0–255" if summary.high.max() <= 255 else "0–10000"


def _brightest(summary: ModalityRecord, row: int) -> float:
    values = summary.percentiles[row]
    return float(np.nanmax(values)) if not np.isnan(values).all() else 0.0


def _typical(summary: ModalityRecord) -> float:
    values = np.abs(summary.percentiles[_Q90])
    return float(np.nanmedian(values)) if not np.isnan(values).all() else 0.0


def _check_unit(modality: Modality, found: Mapping[str, ModalityRecord]) -> Iterator[Finding]:
    allowed = _REFLECTANCE_UNITS.get(modality.unit.strip().lower())
    if allowed is None:
        return
    wrong = [id for id, summary in found.items() if _optical_family(summary) not in allowed]
    if len(wrong) <= len(found) / 2:
        return  # a few scenes differ from the rest: `_check_mixed` reports them
    top = float(np.median([_brightest(found[id], _Q99) for id in wrong]))
    message = (
        f"modality '{modality.name}' has unit '{modality.unit}', but its values reach {top:.4g} "
        f"(99th percentile) in {_of(wrong, found)}"
    )
    unit = "reflectance" if top <= _REFLECTANCE else "dn" if top <= 255 else "reflectance_10000"
    remedy = f"Set 'unit: {unit}', or give the files a scale tag (gdal_edit.py -scale 0.0001)"
    fix = {f"modalities.{modality.name}.unit": unit}
    yield Finding("warning", "unit", message, None, None, remedy, modality.name, fix=fix)


def _check_mixed(
    modality: Modality, families: Mapping[str, Family], found: Mapping[str, ModalityRecord]
) -> Iterator[Finding]:
    usual = Counter(families.values()).most_common(1)[0][0]
    level = float(np.median([_typical(found[id]) for id, f in families.items() if f == usual]))
    for id, family in families.items():
        own = _typical(found[id])
        if family == usual or min(own, level) <= 0 or max(own, level) < _BRIGHTER * min(own, level):
            continue
        message = (
            f"modality '{modality.name}' of scene '{id}' has values of {_as(family)} (90 % are "
            f"below {own:.4g}), the other scenes of {_as(usual)} (below {level:.4g})"
        )
        remedy = (
            "Convert its file to the scale of the others; a scale tag (gdal_edit.py -scale) will do"
        )
        yield Finding("warning", "mixed-scale", message, id, None, remedy, modality.name)


def _as(family: Family) -> str:
    return {"0–1": "0 to 1", "0–255": "0 to 255", "0–10000": "0 to 10000"}.get(family, family)


def _check_offset(modality: Modality, found: Mapping[str, ModalityRecord]) -> Iterator[Finding]:
    floors = {}
    for id, summary in found.items():
        factor = {"0–1": 10_000.0, "0–10000": 1.0}.get(_optical_family(summary))
        if factor is not None and not np.isnan(summary.percentiles[_Q_LOW]).all():
            floors[id] = factor * float(np.nanmin(summary.percentiles[_Q_LOW]))
    shifted = [id for id, floor in floors.items() if _OFFSET[0] <= floor <= _OFFSET[1]]
    dark = [id for id, floor in floors.items() if floor < _DARK]
    if not shifted or not dark:
        return
    for id in shifted:
        message = (
            f"modality '{modality.name}' of scene '{id}' has no value below {floors[id]:.0f} "
            f"(reflectance × 10000), others go down to {min(floors[d] for d in dark):.0f}: as with "
            "Sentinel-2 since processing baseline 04.00, where 1000 is added"
        )
        remedy = (
            "Subtract 1000 from it, or give its file an offset tag (gdal_edit.py -offset -1000; "
            "-0.1 where the scale tag is 0.0001)"
        )
        yield Finding("warning", "offset", message, id, None, remedy, modality.name)


def _check_radar(modality: Modality, found: Mapping[str, ModalityRecord]) -> Iterator[Finding]:
    families = {id: _radar_family(summary) for id, summary in found.items()}
    unit = modality.unit.strip().lower()
    expected: Family | None = (
        "decibels" if unit == "db" else "linear" if unit in LINEAR_UNITS else None
    )
    usual = Counter(families.values()).most_common(1)[0][0]
    if expected is not None and usual != expected:
        wrong = [id for id, family in families.items() if family != expected]
        message = (
            f"modality '{modality.name}' has unit '{modality.unit}', but its values look like "
            f"{_radar_text(usual)} in {_of(wrong, found)} (median "
            f"{np.median([_middle(found[id]) for id in wrong]):.4g})"
        )
        named = "db" if usual == "decibels" else "linear"
        if usual == "linear" and all(found[id].whole for id in wrong):
            named = "dn"
        remedy = f"Set 'unit: {named}', or convert the files (dB = 10·log10 of power)"
        fix = {f"modalities.{modality.name}.unit": named}
        yield Finding("warning", "unit", message, None, None, remedy, modality.name, fix=fix)
    if expected is None and usual == "decibels":
        message = (
            f"modality '{modality.name}' has unit '{modality.unit}', but its values look like "
            f"{_radar_text(usual)}; without the unit its level and speckle are not varied in "
            "training"
        )
        fix = {f"modalities.{modality.name}.unit": "db"}
        remedy = "Set 'unit: db' if they are decibels"
        yield Finding("note", "unit", message, None, None, remedy, modality.name, fix=fix)
    for id, family in families.items():
        if family != usual:
            message = (
                f"modality '{modality.name}' of scene '{id}' looks like {_radar_text(family)} "
                f"(median {_middle(found[id]):.4g}), the other scenes like {_radar_text(usual)}"
            )
            remedy = "Convert its file to the unit of the others (dB = 10·log10 of power)"
            yield Finding("warning", "mixed-scale", message, id, None, remedy, modality.name)
    far = [id for id, summary in found.items() if abs(_middle(summary)) > _MOST_DB]
    if expected == usual == "decibels" and far:
        message = (
            f"modality '{modality.name}' has unit '{modality.unit}', but its median is "
            f"{_middle(found[far[0]]):.4g} in {_of(far, found)}; backscatter lies between −40 and "
            "10"
        )
        remedy = (
            "The values were probably multiplied by 10 or 100 to store integers: declare it by "
        )
        remedy += "a scale tag (gdal_edit.py -scale 0.01)"
        yield Finding("warning", "unit", message, None, None, remedy, modality.name)


def _radar_family(summary: ModalityRecord) -> Family:
    lowest = summary.percentiles[_Q5]
    return "decibels" if not np.isnan(lowest).all() and np.nanmin(lowest) < 0 else "linear"


def _radar_text(family: Family) -> str:
    return "decibels (mostly negative)" if family == "decibels" else "linear values (none negative)"


def _middle(summary: ModalityRecord) -> float:
    values = summary.percentiles[_Q50]
    return float(np.nanmedian(values)) if not np.isnan(values).all() else 0.0


def _check_height_units(
    modality: Modality, found: Mapping[str, ModalityRecord]
) -> Iterator[Finding]:
    """Find scenes in centimetres or feet among others in metres, by the spread of values."""
    spreads = {
        id: float(s.percentiles[_Q99, 0] - s.percentiles[_Q5, 0])
        for id, s in found.items()
        if s.percentiles[_Q99, 0] > s.percentiles[_Q5, 0]
    }
    usual = float(np.median(list(spreads.values()))) if len(spreads) > 2 else 0.0
    for id, spread in spreads.items():
        if usual > 0 and spread > 30 * usual and spread > 2000:
            message = (
                f"heights of modality '{modality.name}' in scene '{id}' spread over {spread:.0f}, "
                f"those of the other scenes over {usual:.0f}: another unit (centimetres?)"
            )
            remedy = "Convert the file to the unit of the others; a scale tag will do"
            yield Finding("warning", "mixed-scale", message, id, None, remedy, modality.name)


def _of(ids: Sequence[str], found: Mapping[str, ModalityRecord]) -> str:
    listed = ", ".join(f"'{id}'" for id in ids[:_MOST_NAMED])
    more = f" and {len(ids) - _MOST_NAMED} more" if len(ids) > _MOST_NAMED else ""
    return f"{len(ids)} of {len(found)} scenes ({listed}{more})"

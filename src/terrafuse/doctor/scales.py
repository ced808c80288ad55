"""Scales of values: deviations from the manifest's units, and between scenes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

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
# What brings one family to another, and centimetres or millimetres to metres.
_FACTORS: dict[tuple[Family, Family], float] = {
    ("0–1", "0–10000"): 10_000.0,
    ("0–10000", "0–1"): 0.0001,
}
_HEIGHTS = (0.01, 0.001)
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
        factors: dict[str, float] = {}
        families = {id: _optical_family(s) for id, s in found.items()}
        yield from _check_mixed(modality, families, found, factors)
        yield from _check_offset(modality, found, factors)
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
    remedy = f"Say 'unit: {unit}'"
    if unit != "dn":  # how bytes were stretched, nobody knows
        factor = _FACTORS[("0–1", "0–10000") if unit == "reflectance" else ("0–10000", "0–1")]
        remedy += f", or bring them to it: {_mend_all(modality, wrong, found, factor)[0]}"
    fix = {f"modalities.{modality.name}.unit": unit}
    yield Finding("warning", "unit", message, None, None, remedy, modality.name, fix=fix)


def _check_mixed(
    modality: Modality,
    families: Mapping[str, Family],
    found: Mapping[str, ModalityRecord],
    factors: dict[str, float],
) -> Iterator[Finding]:
    """Scenes in another scale than most; fills `factors` with what brings them to it."""
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
        factors[id] = _FACTORS.get((family, usual), 1.0)
        line, fix = _mend_scene(modality, id, found[id], factors[id])
        remedy = "Bring it to the scale of the others: "
        remedy += line or _about(modality, id, found[id], level / own)
        yield Finding("warning", "mixed-scale", message, id, None, remedy, modality.name, fix=fix)


def _as(family: Family) -> str:
    return {"0–1": "0 to 1", "0–255": "0 to 255", "0–10000": "0 to 10000"}.get(family, family)


def _check_offset(
    modality: Modality, found: Mapping[str, ModalityRecord], factors: Mapping[str, float]
) -> Iterator[Finding]:
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
        factor = factors.get(id, 1.0)
        shift = -0.1 if _optical_family(found[id]) == "0–1" else -1000.0
        line, fix = _mend_scene(modality, id, found[id], factor, shift * factor)
        remedy = f"Subtract it: {line}"
        yield Finding("warning", "offset", message, id, None, remedy, modality.name, fix=fix)


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
        factor = 0.1 if abs(_middle(found[far[0]])) * 0.1 <= _MOST_DB else 0.01
        line, fix = _mend_all(modality, far, found, factor)
        remedy = f"They were probably multiplied by {1 / factor:g} to store whole numbers: {line}"
        yield Finding("warning", "unit", message, None, None, remedy, modality.name, fix=fix)


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
            near = [f for f in _HEIGHTS if 0.6 < spread * f / usual < 1.7]
            line, fix = _mend_scene(modality, id, found[id], near[0] if near else 1.0)
            remedy = "Bring it to the unit of the others: "
            remedy += line or _about(modality, id, found[id], usual / spread)
            yield Finding(
                "warning", "mixed-scale", message, id, None, remedy, modality.name, fix=fix
            )


def _mend_scene(
    modality: Modality, id: str, record: ModalityRecord, factor: float, shift: float = 0.0
) -> tuple[str, dict[str, Any]]:
    """The line that brings a scene's values v to factor · v + shift, and the fix that adds it."""
    own = {key: {modality.name: number} for key, number in _scaling(record, factor, shift).items()}
    if not own:
        return "", {}
    text = ", ".join(
        f"{key}: {{{modality.name}: {number}}}"
        for key, numbers in own.items()
        for number in numbers.values()
    )
    return f"in the manifest, add '{text}' to scene '{id}'", {"scenes": {id: own}}


def _about(modality: Modality, id: str, record: ModalityRecord, factor: float) -> str:
    """Say how to scale a scene whose exact factor is not known."""
    line, _ = _mend_scene(modality, id, record, float(f"{factor:.2g}"))
    return f"take its file before it was stretched, or {line}, or what is known to be exact"


def _mend_all(
    modality: Modality, ids: Sequence[str], found: Mapping[str, ModalityRecord], factor: float
) -> tuple[str, dict[str, Any]]:
    """The same for all scenes of a modality at once, or for some of them one by one."""
    wanted = [_scaling(found[id], factor, 0.0) for id in ids]
    if len(ids) == len(found) and all(own == wanted[0] for own in wanted):
        text = ", ".join(f"{key}: {number}" for key, number in wanted[0].items())
        fix = {f"modalities.{modality.name}.{key}": n for key, n in wanted[0].items()}
        return f"in the manifest, add '{text}' to modality '{modality.name}'", fix
    lines = [_mend_scene(modality, id, found[id], factor) for id in ids]
    merged: dict[str, Any] = {}
    for _, fix in lines:
        merged |= fix["scenes"]
    return f"{lines[0][0]}, and likewise to the others", {"scenes": merged}


def _scaling(record: ModalityRecord, factor: float, shift: float) -> dict[str, Any]:
    """`value_scale` and `value_offset` as far as they are not what the files are read with now."""
    tags = np.array([[1.0, 0.0]] * len(record.low)) if record.tags is None else record.tags
    new = {"value_scale": tags[:, 0] * factor, "value_offset": tags[:, 1] * factor + shift}
    old = {"value_scale": tags[:, 0], "value_offset": tags[:, 1]}
    return {key: _plain(new[key]) for key in new if not np.array_equal(new[key], old[key])}


def _plain(numbers: NDArray[np.float64]) -> Any:
    """One number if all are equal, else a list; without the noise of the last digits."""
    exact = [float(f"{number:.12g}") for number in numbers]
    short = [int(n) if n.is_integer() and abs(n) < 1e15 else n for n in exact]
    return short[0] if len(set(short)) == 1 else short


def _of(ids: Sequence[str], found: Mapping[str, ModalityRecord]) -> str:
    listed = ", ".join(f"'{id}'" for id in ids[:_MOST_NAMED])
    more = f" and {len(ids) - _MOST_NAMED} more" if len(ids) > _MOST_NAMED else ""
    return f"{len(ids)} of {len(found)} scenes ({listed}{more})"

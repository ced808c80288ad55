"""Values of one scene: constant, equal, saturated and wrapped bands, and the share with data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from terrafuse.doctor.findings import Finding, Severity
from terrafuse.doctor.nodata import find_border
from terrafuse.doctor.summary import ModalitySummary, SceneSummary

# Fewer pixels can be constant by chance.
_FEWEST = 256
# Displays are stretched until some percent are white; a third is lost information.
_SATURATED, _SATURATED_NOTE = 0.3, 0.05
_FEW_VALUES = 16
_WRAPPED = 0.001
_MOSTLY_EMPTY = 0.5


def check_values(summary: SceneSummary) -> Iterator[Finding]:
    """Check the values of the bands of each modality."""
    for seen in summary.seen.values():
        yield from _check_constant(summary.id, seen)
        yield from _check_identical_bands(summary.id, seen)
        yield from _check_saturated(summary.id, seen)
        yield from _check_wrapped(summary.id, seen)
        yield from _check_share(summary.id, seen)
    yield from _check_identical_modalities(summary)


def _check_constant(id: str, seen: ModalitySummary) -> Iterator[Finding]:
    constant = np.flatnonzero((seen.low == seen.high) & (seen.known >= _FEWEST))
    if not constant.size:
        return
    names = [seen.modality.bands[band] for band in constant]
    values = sorted({f"{seen.low[band]:g}" for band in constant})
    message = (
        f"{_bands(names)} of modality '{seen.name}' in scene '{id}' {_are(names)} "
        f"{' or '.join(values)} at every pixel with data"
    )
    # A lake or the sea is level; a mask may be all 1.
    common = seen.modality.kind in ("elevation", "structure")
    # By the rule "all", one band of fill beside others is data.
    keys = "'nodata'" if constant.size == len(seen.low) else "'nodata' and 'nodata_rule: each'"
    remedy = f"Check that the right file or band is named; if this is fill, set {keys}"
    severity: Severity = "note" if common else "warning"
    yield Finding(severity, "constant-in-scene", message, id, None, remedy, seen.name)


def _check_identical_bands(id: str, seen: ModalitySummary) -> Iterator[Finding]:
    first: dict[bytes, int] = {}
    for band, values in enumerate(seen.mini):
        if not seen.low[band] < seen.high[band]:
            continue
        other = first.setdefault(values.tobytes(), band)
        if other != band:
            names = seen.modality.bands
            message = (
                f"bands '{names[other]}' and '{names[band]}' of modality '{seen.name}' in scene "
                f"'{id}' are equal pixel by pixel"
            )
            remedy = "One of them was probably copied in place of the other; look at the file"
            yield Finding("warning", "identical-bands", message, id, None, remedy, seen.name)


def _check_saturated(id: str, seen: ModalitySummary) -> Iterator[Finding]:
    if seen.modality.kind in ("elevation", "structure"):
        return
    share = seen.at_high / np.maximum(seen.known, 1)
    many = (share >= _SATURATED_NOTE) & (seen.known >= _FEWEST) & (seen.low < seen.high)
    bands = [int(band) for band in np.flatnonzero(many) if not _has_few_values(seen, int(band))]
    border = find_border(seen) if bands else None
    if not bands or (border is not None and seen.physical(border[0]).max() == seen.high.max()):
        return  # fill, not saturation
    names = [seen.modality.bands[band] for band in bands]
    most = bands[int(np.argmax(share[bands]))]
    message = (
        f"{_bands(names)} of modality '{seen.name}' in scene '{id}' {_are(names)} saturated: up to "
        f"{share[most]:.0%} of the pixels have the largest value, {seen.high[most]:g}"
    )
    remedy = "Brighter values are lost; use the raster before it was stretched or clipped"
    severity: Severity = "warning" if share[most] >= _SATURATED else "note"
    yield Finding(severity, "saturated", message, id, None, remedy, seen.name)


def _has_few_values(seen: ModalitySummary, band: int) -> bool:
    values = seen.mini[band]
    return np.unique(values[~np.isnan(values)]).size <= _FEW_VALUES


def _check_wrapped(id: str, seen: ModalitySummary) -> Iterator[Finding]:
    if seen.jumps is None:
        return
    hard, middle = seen.jumps
    share = hard / max(1, seen.valid)
    # Clouds over a dark sea make sharp edges too, but far more moderate ones.
    bands = np.flatnonzero((share >= _WRAPPED) & (hard > 2 * middle))
    if not bands.size:
        return
    names = [seen.modality.bands[band] for band in bands]
    jump = "jumps" if len(names) == 1 else "jump"
    message = (
        f"{_bands(names)} of modality '{seen.name}' in scene '{id}' {jump} between black "
        f"and white from pixel to pixel (at {share.max():.1%} of them): bright values exceeded 255 "
        "and wrapped around to 0"
    )
    remedy = "Convert the original to bytes again, clipping at 255; or leave the scene out"
    yield Finding("warning", "wrap-around", message, id, None, remedy, seen.name)


def _check_share(id: str, seen: ModalitySummary) -> Iterator[Finding]:
    empty = 1 - seen.valid / max(1, seen.pixels)
    if _MOSTLY_EMPTY < empty < 1:
        message = f"{empty:.0%} of modality '{seen.name}' in scene '{id}' have no data"
        remedy = "If that is too much, correct 'nodata' or the extent of the scene ('window')"
        yield Finding("note", "little-data", message, id, None, remedy, seen.name)


def _check_identical_modalities(summary: SceneSummary) -> Iterator[Finding]:
    first: dict[tuple[tuple[int, ...], bytes], str] = {}
    for seen in summary.seen.values():
        if not (seen.low < seen.high).any():
            continue
        other = first.setdefault((seen.mini.shape, seen.mini.tobytes()), seen.name)
        if other != seen.name:
            message = f"modalities '{other}' and '{seen.name}' of scene '{summary.id}' are equal"
            remedy = "One file was probably copied over the other"
            yield Finding(
                "warning", "identical-modalities", message, summary.id, None, remedy, other
            )


def _bands(names: list[str]) -> str:
    listed = ", ".join(f"'{name}'" for name in names[:6]) + (" …" if len(names) > 6 else "")
    return f"band {listed}" if len(names) == 1 else f"bands {listed}"


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"

"""Values of a scene beside those a model was trained on: are they on the same scale?

A model learns from reflectance 0 to 10000 and gets reflectance 0 to 1: it maps one class everywhere
and nothing fails. Places, seasons and events differ too, so that only what they cannot do counts as
another scale: **all** bands brighter or darker by the same large factor, decibels beside power, a
type of file that cannot hold such values, a shift of every band by the offset of Sentinel-2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from terrafuse.data.value_conversion import ValueConversion
from terrafuse.errors import DataError
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.samples import Window, round_up

if TYPE_CHECKING:
    from terrafuse.data.scene import Scene

Float = NDArray[np.float64]
Verdict = Literal["ok", "doubtful", "other scale"]

# Fewer pixels say nothing about a band.
_FEWEST = 64
# A sample is this many windows a side, each of so many scene pixels a side.
_WINDOWS, _SIDE = 6, 48
_MORE_WINDOWS = 24
_LOW, _MIDDLE, _HIGH = range(3)
# Reflectance 0–1: snow and clouds at low sun exceed 1. What is brighter than the second, is none.
_REFLECTANCE, _NO_REFLECTANCE = 2.0, 3.0
_BYTE = 255
# Digital numbers that are no bytes.
_NUMBERS = 300.0
# Snow on dark ground, or a lake after snow: the band that changes least changes by less.
_NATURAL, _IMPOSSIBLE = 30.0, 200.0
# Backscatter of calm water and of a town differ by 20 dB in power.
_NATURAL_POWER, _IMPOSSIBLE_POWER = 150.0, 400.0
# Sentinel-2 since processing baseline 04.00, in reflectance × 10000.
_OFFSET, _DARK, _DARKEST = 1000.0, 700.0, 300.0
_FLOOR, _FLOOR_OF_SURE, _HIGHEST_FLOOR = 950.0, 1600.0, 2600.0
_SHIFT_LOW, _SHIFT_HIGH = 300.0, 800.0
_DB_RATIO = 4.0
_HIGHEST_M, _LOWEST_M = 9000.0, -500.0
_ROUND = (1e-4, 1e-3, 1e-2, 0.1, 10.0, 100.0, 1e3, 1e4)
_MOST_NAMED = 5


@dataclass(frozen=True)
class ValueSample:
    """Values of one modality in one scene.

    Args:
        values: Float32 (C, N), NaN without data.
        dtypes: Types its files hold, where no scale tag turns them into something else.
        tags: What scale and offset tags say, "" where there are none.
    """

    values: NDArray[np.float32]
    dtypes: frozenset[str] = frozenset()
    tags: str = ""


@dataclass(frozen=True)
class ScaleFinding:
    """Relation of a modality's values to those of training.

    Args:
        modality: Its name.
        verdict: "other scale": the model cannot know such values; "doubtful": rare in nature.
        reason: What was seen; empty if all is well.
        conversion: What would bring them to the training's scale, as far as it could be measured.
    """

    modality: str
    verdict: Verdict = "ok"
    reason: str = ""
    conversion: ValueConversion | None = None

    def to_list(self) -> list[str | None]:
        """Plain values, from which `ScaleFinding.from_list` makes it again."""
        given = None if self.conversion is None else str(self.conversion)
        return [self.modality, self.verdict, self.reason, given]

    @classmethod
    def from_list(cls, values: Sequence[Any]) -> ScaleFinding:
        """Inverse of `to_list`."""
        name, verdict, reason, given = values
        return cls(name, verdict, reason, None if given is None else ValueConversion.parse(given))


def sample_values(scene: Scene) -> dict[str, ValueSample]:
    """Values of windows spread over a scene, per modality it has.

    Raises:
        RasterReadError: Pixels cannot be decoded.
    """
    found = _read_windows(scene, _WINDOWS)
    if any((~np.isnan(v)).sum(axis=1).max(initial=0) < _FEWEST for v in found.values()):
        found = _read_windows(scene, _MORE_WINDOWS)  # data in a corner only
    return {name: ValueSample(v, *_stored(scene, name)) for name, v in found.items()}


def _read_windows(scene: Scene, count: int) -> dict[str, NDArray[np.float32]]:
    n = scene.alignment
    side = round_up(_SIDE, n)
    rows, cols = (_starts(size, side, n, count) for size in (scene.grid.height, scene.grid.width))
    parts: dict[str, list[NDArray[np.float32]]] = {}
    for row in rows:
        for col in cols:
            window = Window(row, col, side, side)
            images: Mapping[str, Any] = scene.read(window, labels=False, arrays=True).images
            for modality in scene.modalities:
                if modality.name not in scene.missing:
                    image = images[modality.name]
                    parts.setdefault(modality.name, []).append(image.reshape(len(image), -1))
    return {name: np.concatenate(own, axis=1) for name, own in parts.items()}


def _starts(size: int, side: int, alignment: int, count: int) -> list[int]:
    last = max(0, size - side)
    steps = np.linspace(0, last, min(count, -(-size // side)))
    return sorted({int(step) // alignment * alignment for step in steps})


def _stored(scene: Scene, name: str) -> tuple[frozenset[str], str]:
    """Types of a modality's files, and their scale tags in words."""
    if name in scene.conversions:
        return frozenset(), ""
    files = scene.files[name]
    tags = sorted({t for f in files for t in zip(f.scales, f.offsets, strict=True)} - {(1.0, 0.0)})
    words = ", ".join(f"scale {scale:g}, offset {offset:g}" for scale, offset in tags)
    return frozenset() if tags else frozenset(d for f in files for d in f.dtypes), words


def compare_values(
    modality: Modality, trained: BandStatistics, sample: ValueSample
) -> ScaleFinding:
    """Compare values of a scene with those a model was trained on.

    Args:
        modality: What they are.
        trained: Of the training split. Runs of before `quantiles` were kept have less to go by.
        sample: From the scene.
    """
    ranges = _Ranges.of(trained, sample)
    if ranges is None:
        return ScaleFinding(modality.name)
    for rule in _RULES.get(modality.kind, _OTHER_RULES):
        finding = rule(modality, ranges)
        if finding is not None:
            return finding
    return ScaleFinding(modality.name)


@dataclass(frozen=True)
class _Ranges:
    """2nd percentile, middle and 98th percentile of the bands that both know, (3, C) each."""

    bands: tuple[int, ...]
    old: Float
    new: Float
    upper_quarter: tuple[Float, Float]  # 75th percentiles (C,)
    lowest: float
    highest: float
    whole: bool
    old_dtypes: frozenset[str]
    new_dtypes: frozenset[str]
    tags: str

    @classmethod
    def of(cls, trained: BandStatistics, sample: ValueSample) -> _Ranges | None:
        values = sample.values.astype(np.float64)
        known = (~np.isnan(values)).sum(axis=1)
        low, high = np.array(trained.low, np.float64), np.array(trained.high, np.float64)
        bands = np.flatnonzero((known >= _FEWEST) & np.isfinite(low) & np.isfinite(high))
        if not bands.size:
            return None
        own = np.nanpercentile(values[bands], [2, 50, 98, 75], axis=1)
        quantiles = np.array(trained.quantiles, np.float64)
        middle = (quantiles[:, 2] if len(quantiles) else (low + high) / 2)[bands]
        upper = (quantiles[:, 3] if len(quantiles) else (low + high) / 2)[bands]
        seen = values[bands][~np.isnan(values[bands])]
        return cls(
            bands=tuple(bands.tolist()),
            old=np.stack([low[bands], middle, high[bands]]),
            new=own[:3],
            upper_quarter=(upper, own[3]),
            lowest=float(seen.min()),
            highest=float(seen.max()),
            whole=bool((seen == np.round(seen)).all()),
            old_dtypes=frozenset(trained.dtypes),
            new_dtypes=sample.dtypes,
            tags=sample.tags,
        )

    @property
    def ratios(self) -> Float:
        """Ratio of each band's values to those of training (C,), of bands that are not all 0."""
        old, new = (np.abs(x[[_LOW, _HIGH]]).max(axis=0) for x in (self.old, self.new))
        some = (old > 0) & (new > 0)
        ratios: Float = new[some] / old[some]
        return ratios

    @property
    def are_bytes(self) -> bool:
        """True if the scene's files hold bytes."""
        return self.new_dtypes == {"uint8"} and self.highest <= _BYTE

    @property
    def were_bytes(self) -> bool:
        """True if the training's files held bytes."""
        return self.old_dtypes == {"uint8"} and self.old[_HIGH].max() <= _BYTE

    @property
    def in_words(self) -> str:
        """Both ranges."""
        (old_low, old_high), (new_low, new_high) = (
            (x[_LOW].min(), x[_HIGH].max()) for x in (self.old, self.new)
        )
        text = (
            f"values go from {new_low:.4g} to {new_high:.4g} (2 to 98 %, over the bands), those of "
            f"training from {old_low:.4g} to {old_high:.4g}"
        )
        return f"{text}; its files have the tags {self.tags}" if self.tags else text


def _finding(
    modality: Modality,
    verdict: Verdict,
    ranges: _Ranges,
    likely: str,
    conversion: ValueConversion | None,
) -> ScaleFinding:
    reason = ranges.in_words
    if ranges.ratios.size and (conversion is None or conversion.factor != 1):
        reason += f" (measured factor {1 / float(np.median(ranges.ratios)):.3g})"
    reason += f": {likely}" if likely else ""
    return ScaleFinding(modality.name, verdict, reason, conversion)


def _check_zeros(modality: Modality, ranges: _Ranges) -> ScaleFinding | None:
    """A scene of nothing but zeros."""
    if np.any(ranges.new) or not np.any(ranges.old):
        return None
    likely = "every value is 0, which is probably fill"
    return _finding(modality, "doubtful", ranges, likely, None)


def _check_decibels(modality: Modality, ranges: _Ranges) -> ScaleFinding | None:
    """Decibels beside power: the one is mostly negative, the other never."""
    was_db = bool((ranges.old[_MIDDLE] < 0).all() and (ranges.old[_LOW] < -3).all())
    is_db = bool((ranges.new[_MIDDLE] < 0).all() and (ranges.new[_LOW] < -3).all())
    if is_db and (ranges.old[_LOW] >= 0).all():
        likely = "decibels (mostly negative), where training had linear values"
        return _finding(modality, "other scale", ranges, likely, _by_formula(ranges, "linear"))
    if was_db and ranges.lowest >= 0:
        likely = "linear values (none negative), where training had decibels"
        return _finding(modality, "other scale", ranges, likely, _by_formula(ranges, "db"))
    ratios = ranges.ratios
    if was_db and is_db and (ratios.min() > _DB_RATIO or ratios.max() < 1 / _DB_RATIO):
        likely = "decibels times a factor, as some files store them as whole numbers"
        return _finding(modality, "other scale", ranges, likely, _by_ratio(ratios))
    return None


def _by_formula(ranges: _Ranges, formula: Literal["db", "linear"]) -> ValueConversion | None:
    """The conversion, if its result looks like the training: DN of no known calibration do not."""
    plain = ValueConversion(formula=formula)
    moved = plain.apply(ranges.new.astype(np.float32)).astype(np.float64)
    if not np.isfinite(moved).all():
        return plain
    if formula == "db":
        return plain if np.median(np.abs(moved - ranges.old)[_MIDDLE]) < 20 else None
    return plain if 1 / 100 < np.median(moved[_HIGH] / ranges.old[_HIGH]) < 100 else None


def _check_log_of_light(modality: Modality, ranges: _Ranges) -> ScaleFinding | None:
    """Decibels of digital numbers: all positive, and 10 ** (x / 10) is the training again."""
    if ranges.old[_HIGH].max() < _NUMBERS or ranges.new[_HIGH].max() > 60 or ranges.whole:
        return None
    moved = 10 ** (ranges.new / 10)
    near = np.abs(np.log(np.maximum(moved, 1e-9) / np.maximum(ranges.old, 1)))[_HIGH]
    if ranges.ratios.max() > 1 / 8 or np.median(near) > np.log(8):
        return None
    likely = "10·log10 of the values of training"
    return _finding(modality, "other scale", ranges, likely, ValueConversion(formula="linear"))


def _check_type(modality: Modality, ranges: _Ranges) -> ScaleFinding | None:
    """Bytes beside numbers that no byte can hold."""
    certain: Verdict = "doubtful" if modality.kind == "other" else "other scale"
    if ranges.are_bytes and ranges.old[_HIGH].max() > _NUMBERS:
        likely = "bytes, which cannot hold what training had"
        known = _stretched(ranges)
        if 1 / 3 < np.median(ranges.ratios) * 1e4 / _BYTE < 3:
            known = ValueConversion(round(1e4 / _BYTE, 2))
        return _finding(modality, certain, ranges, likely, known)
    if ranges.were_bytes and ranges.new[_HIGH].max() > 1.02 * _BYTE:
        likely = "training had bytes, which cannot hold these"
        return _finding(modality, certain, ranges, likely, _stretched(ranges))
    small = ranges.new[_HIGH].max() <= _REFLECTANCE and not ranges.whole
    if ranges.were_bytes and small and ranges.ratios.max() < 1 / 20:
        likely = "0–1, where training had bytes"
        return _finding(modality, certain, ranges, likely, ValueConversion(float(_BYTE)))
    if ranges.were_bytes and ranges.are_bytes:
        return ScaleFinding(modality.name)  # stretched by hand, the one so, the other so
    return None


def _check_reflectance(modality: Modality, ranges: _Ranges) -> ScaleFinding | None:
    """Reflectance 0–1 beside numbers, one way or the other."""
    ratios = ranges.ratios
    old_high, new_high = float(ranges.old[_HIGH].max()), float(ranges.new[_HIGH].max())
    if old_high <= _REFLECTANCE and new_high > _NO_REFLECTANCE and ratios.min() > 10:
        bytes_now = ranges.are_bytes or new_high <= _BYTE
        likely = "no reflectance 0–1, which training had"
        if np.all(ranges.new[_LOW] > 6500) and np.all(ranges.old[_LOW] < 0.3):
            likely, known = "as in Landsat Collection 2", ValueConversion(2.75e-5, -0.2)
            return _finding(modality, "other scale", ranges, likely, known)
        known = ValueConversion(1 / _BYTE if bytes_now else 1e-4)
        return _finding(modality, "other scale", ranges, likely, known)
    if new_high <= _REFLECTANCE and not ranges.whole and old_high > 5 and ratios.max() < 1 / 20:
        factor = 1e4 if old_high > _BYTE else float(_BYTE)
        likely = "reflectance 0–1, where training had larger numbers"
        return _finding(modality, "other scale", ranges, likely, ValueConversion(factor))
    return None


def _check_numbers(modality: Modality, ranges: _Ranges) -> ScaleFinding | None:
    """Numbers of 16 bits beside reflectance × 10000, and bytes that are stored as other types."""
    old_high, ratios = float(ranges.old[_HIGH].max()), ranges.ratios
    if not _NUMBERS < old_high < 2 * 1e4:
        return None
    if np.all(ranges.new[_LOW] > 6500) and np.median(ranges.old[_LOW]) < 3000:
        likely = "as in Landsat Collection 2 (reflectance = 2.75e-5 · value − 0.2)"
        sure = ranges.new[_HIGH].max() > 12_000  # snow has as high a floor in visible light
        verdict: Verdict = "other scale" if sure else "doubtful"
        return _finding(modality, verdict, ranges, likely, ValueConversion(0.275, -2000))
    if np.all(ranges.new[_HIGH] > 20_000):
        likely = "brighter than any reflectance × 10000; stretched to 16 bits?"
        return _finding(modality, "other scale", ranges, likely, _stretched(ranges))
    if old_high > 1000 and ranges.highest <= _BYTE and ratios.max() < 1 / 8:
        likely = "stretched to 8 bits?"
        return _finding(modality, "doubtful", ranges, likely, _stretched(ranges))
    return None


def _check_offset(modality: Modality, ranges: _Ranges) -> ScaleFinding | None:
    """Every band shifted by the 1000 that Sentinel-2 adds since baseline 04.00, or lacks."""
    old_high, new_high = float(ranges.old[_HIGH].max()), float(ranges.new[_HIGH].max())
    if max(old_high, new_high) <= _REFLECTANCE:
        unit = 1e-4
    elif min(old_high, new_high) > _NUMBERS:
        unit = 1.0
    else:
        return None
    old, new = ranges.old / unit, ranges.new / unit
    for sign, dark, bright in ((1, old, new), (-1, new, old)):
        floor = bright[_LOW].min()
        below = _DARK if floor <= _FLOOR_OF_SURE else _DARKEST
        if not _FLOOR <= floor <= _HIGHEST_FLOOR or dark[_LOW].min() >= below:
            continue
        quarter = ranges.upper_quarter[0 if sign > 0 else 1] / unit
        spread = (bright[_HIGH] - bright[_LOW]) / np.maximum(dark[_HIGH] - dark[_LOW], 1)
        apart = np.mean(bright[_LOW] > quarter) >= 1 / 3
        # Haze has a floor too, but another spread.
        usual = (spread > 1 / 3) & (spread < 3)
        darkest = np.argsort(bright[_LOW])[: max(1, len(spread) // 4)]
        alike = usual[darkest].mean() >= 0.5 if floor <= _FLOOR_OF_SURE else usual.mean() > 0.75
        if not apart or not alike:
            continue
        low, high = (np.median(np.abs(bright[k] - dark[k] - _OFFSET)) for k in (_LOW, _HIGH))
        shift = float(np.median(bright[_LOW] - dark[_LOW]))
        sure = low <= _SHIFT_LOW and high <= _SHIFT_HIGH
        with_, without = ("this scene", "training") if sign > 0 else ("training", "this scene")
        likely = (
            f"no value of {with_} is below {bright[_LOW].min() * unit:.4g}, those of {without} go "
            f"down to {dark[_LOW].min() * unit:.4g}, as with Sentinel-2 since processing baseline "
            f"04.00, which adds 1000 (0.1); measured offset {shift * unit:.4g}"
        )
        verdict: Verdict = "other scale" if sure else "doubtful"
        known = ValueConversion(1.0, -sign * _OFFSET * unit)
        return _finding(modality, verdict, ranges, likely, known)
    return None


def _check_factor(modality: Modality, ranges: _Ranges) -> ScaleFinding | None:
    """All bands larger or smaller than places and seasons differ."""
    ratios = ranges.ratios
    if not ratios.size:
        return None
    natural, impossible = _NATURAL, _IMPOSSIBLE
    if modality.kind == "sar":
        natural, impossible = _NATURAL_POWER, _IMPOSSIBLE_POWER
    least = max(float(ratios.min()), 1 / float(ratios.max()))
    if least < natural:
        return None
    verdict: Verdict = "other scale" if least >= impossible else "doubtful"
    return _finding(modality, verdict, ranges, "", _by_ratio(ratios))


def _check_one_band(modality: Modality, ranges: _Ranges) -> ScaleFinding | None:
    """A band that differs from the others by a thousand: one file of several in another scale."""
    ratios = ranges.ratios
    if len(ratios) < 2 or len(ratios) < len(ranges.bands):
        return None
    apart = ratios / np.median(ratios)
    off = np.flatnonzero((apart > 1000) | (apart < 1 / 1000))
    if not off.size:
        return None
    names = ", ".join(f"'{modality.bands[ranges.bands[i]]}'" for i in off[:_MOST_NAMED])
    likely = (
        f"only {names} differ{'s' if off.size == 1 else ''}, by a factor of {ratios[off[0]]:.3g}"
    )
    return _finding(modality, "doubtful", ranges, likely, None)


def _check_heights(modality: Modality, ranges: _Ranges) -> ScaleFinding | None:
    """Heights that no ground has, or that were stretched."""
    old_spread, spread = (float((x[_HIGH] - x[_LOW]).max()) for x in (ranges.old, ranges.new))
    was_m = ranges.old[_HIGH].max() <= _HIGHEST_M and ranges.old[_LOW].min() >= _LOWEST_M
    if was_m and (ranges.new[_HIGH].max() > _HIGHEST_M):
        likely = "higher than any ground in metres"
        known = ValueConversion(0.01 if ranges.new[_HIGH].max() < 1e6 else 1e-3)
        return _finding(modality, "other scale", ranges, likely, known)
    if not was_m and ranges.new[_HIGH].max() < ranges.old[_HIGH].max() / 30:
        likely = "training had heights in a smaller unit than metres"
        return _finding(modality, "doubtful", ranges, likely, ValueConversion(100.0))
    stretched = ranges.are_bytes and ranges.highest == _BYTE and ranges.lowest <= 1
    if stretched and not ranges.were_bytes:
        return _finding(modality, "doubtful", ranges, "stretched to 8 bits?", _stretched(ranges))
    shares = ranges.lowest >= 0 and ranges.highest <= 1 and not ranges.whole and spread > 0.3
    if shares and old_spread > 20:
        return _finding(modality, "doubtful", ranges, "stretched to 0–1?", _stretched(ranges))
    if was_m and spread > 4000 and spread > 30 * old_spread:
        return _finding(modality, "doubtful", ranges, "centimetres?", ValueConversion(0.01))
    return None


def _check_mask(modality: Modality, ranges: _Ranges) -> ScaleFinding | None:
    """0 and 255 beside 0 and 1."""
    old_high, new_high = float(ranges.old[_HIGH].max()), float(ranges.new[_HIGH].max())
    if old_high == 1 and new_high == _BYTE:
        return _finding(modality, "other scale", ranges, "", ValueConversion(1 / _BYTE))
    if old_high == _BYTE and new_high == 1:
        return _finding(modality, "other scale", ranges, "", ValueConversion(_BYTE))
    return None


_OTHER_RULES = (_check_zeros, _check_type, _check_factor, _check_one_band)
_RULES = {
    "optical": (
        _check_zeros, _check_decibels, _check_log_of_light, _check_type, _check_reflectance,
        _check_numbers, _check_offset, _check_factor, _check_one_band,
    ),
    "sar": (_check_zeros, _check_decibels, _check_type, _check_factor, _check_one_band),
    "elevation": (_check_heights,),
    "structure": (_check_mask,),
}  # fmt: skip


def _by_ratio(ratios: Float) -> ValueConversion:
    """One over the ratio, as a round number if it is near one."""
    factor = 1 / float(np.exp(np.median(np.log(ratios))))
    near = min(_ROUND, key=lambda value: abs(np.log(value / factor)))
    if abs(np.log(near / factor)) < np.log(2.5):
        return ValueConversion(near)
    return ValueConversion(float(f"{factor:.2g}"))


def _stretched(ranges: _Ranges) -> ValueConversion | None:
    """Factor and offset measured from the percentiles; None if bands were not stretched alike."""
    spread = ranges.new[_HIGH] - ranges.new[_LOW]
    some = (spread > 0) & (ranges.old[_HIGH] > ranges.old[_LOW])
    if not some.any():
        return None
    factors = (ranges.old[_HIGH] - ranges.old[_LOW])[some] / spread[some]
    factor = float(np.median(factors))
    if factors.max() > 4 * factors.min():
        return None
    offset = float(np.median(ranges.old[_LOW][some] - factor * ranges.new[_LOW][some]))
    steps = abs(offset) / factor  # in steps of the stretched values
    return ValueConversion(float(f"{factor:.3g}"), 0.0 if steps < 8 else float(f"{offset:.2g}"))


def check_values(
    scenes: Sequence[Scene],
    trained: Mapping[str, BandStatistics],
    conversions: Mapping[str, ValueConversion] | None = None,
    *,
    trust: bool = False,
) -> list[str]:
    """Compare scenes with what a model was trained on.

    Args:
        scenes: What is to be mapped, with `conversions` applied already.
        trained: Statistics per modality; others are left alone.
        conversions: For the message.
        trust: Whether values of another scale are taken as they are.

    Returns:
        A sentence per doubt; with `trust`, also per refusal that would have been.

    Raises:
        DataError: Values of another scale, with the factor measured and what to do.
    """
    found = list(compare_scenes(scenes, trained, conversions))
    return judge_scales(found, len(scenes), conversions, trust=trust)


def judge_scales(
    found: Sequence[tuple[str, ScaleFinding]],
    scenes: int,
    conversions: Mapping[str, ValueConversion] | None = None,
    *,
    trust: bool = False,
) -> list[str]:
    """Refuse or tell what `compare_scenes` found.

    Args:
        scenes: Number of all scenes.

    Returns:
        As `check_values`.

    Raises:
        DataError: As raised by `check_values`.
    """
    refused = [item for item in found if item[1].verdict == "other scale"]
    if refused and not trust:
        raise DataError(_refusal(refused, scenes, conversions or {}))
    texts = []
    for name in dict.fromkeys(finding.modality for _, finding in found):
        own = [item for item in found if item[1].modality == name]
        texts.append(f"{_where(own, scenes)} {own[0][1].reason}. {_advice(own[0][1])}")
    return texts


def compare_scenes(
    scenes: Iterable[Scene],
    trained: Mapping[str, BandStatistics],
    conversions: Mapping[str, ValueConversion] | None = None,
) -> Iterator[tuple[str, ScaleFinding]]:
    """Yield the id of a scene and what differs, scene by scene; arguments as in `check_values`."""
    conversions = conversions or {}
    for scene in scenes:
        samples = sample_values(scene)
        for modality in scene.modalities:
            if modality.name in samples and modality.name in trained:
                finding = compare_values(modality, trained[modality.name], samples[modality.name])
                before = conversions.get(modality.name)
                if before is not None and finding.conversion is not None:
                    # What is advised is given in its place.
                    finding = replace(finding, conversion=before.then(finding.conversion))
                if finding.verdict != "ok":
                    yield scene.id, finding


def _where(found: Sequence[tuple[str, ScaleFinding]], scenes: int) -> str:
    ids = [f"'{id}'" for id, _ in found]
    more = f" and {len(ids) - _MOST_NAMED} more" if len(ids) > _MOST_NAMED else ""
    of = "scene" if scenes == 1 else f"{len(ids)} of {scenes} scenes:"
    named = ", ".join(ids[:_MOST_NAMED]) + more
    return f"modality '{found[0][1].modality}' of {of} {named} may have another scale:"


def _advice(finding: ScaleFinding) -> str:
    if finding.conversion is None:
        return "Look at the file; it may have been stretched or converted"
    name, conversion = finding.modality, finding.conversion
    return f"If so, map with '--convert {name}={conversion}'{_in_words(conversion)}"


def _in_words(conversion: ValueConversion) -> str:
    if conversion.formula:
        return ""
    return f" (factor {conversion.factor:g}, offset {conversion.offset:g})"


def _refusal(
    found: Sequence[tuple[str, ScaleFinding]],
    scenes: int,
    conversions: Mapping[str, ValueConversion],
) -> str:
    name = found[0][1].modality
    own = [item for item in found if item[1].modality == name]
    finding = own[0][1]
    where = _where(own, scenes).replace(" may have another scale:", " has another scale than the")
    given = f" (after --convert {name}={conversions[name]})" if name in conversions else ""
    remedy = "Give rasters of the training's scale"
    if finding.conversion is not None:
        remedy = f"Convert it with '--convert {name}={finding.conversion}'"
        remedy += _in_words(finding.conversion)
    return (
        f"{where} model was trained on{given}: {finding.reason}. {remedy}, or map it as it is with "
        "'--trust-values'"
    )

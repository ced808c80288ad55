"""Comparison of settings, each with its seeds, on the same blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import ceil, inf, isnan, nan
from typing import Any, Literal

import numpy as np
from scipy import stats

from terrafuse.evaluation.comparison.counts import (
    Rule,
    RunCounts,
    family_of,
    is_higher_better,
    limits_of,
)
from terrafuse.evaluation.comparison.flips import SignFlips
from terrafuse.evaluation.comparison.holm import holm
from terrafuse.evaluation.comparison.spread import RunScores, Spread, Variance
from terrafuse.evaluation.resampling import LEAST_BLOCKS, BlockBootstrap, Interval

LEVEL = 0.05
POWER = 0.8
Verdict = Literal["a is better", "b is better", "cannot be told apart"]


@dataclass(frozen=True)
class Effect:
    """Difference of two settings in one score, A - B.

    Args:
        a: Name of a setting; `b` likewise.
        score: Column: "miou", "iou:water".
        difference: With its 95 % interval.
        p: Probability of such a difference, or a larger one, if there is none.
        p_holm: Corrected for all comparisons of the table.
        detectable: Difference that would be found in four of five times, at the level of one
            comparison; NaN where nothing can be told.
        ground: Standard error from the ground; `seeds` from the seeds.
        freedom: Degrees of freedom of their sum.
        blocks: In which there is something to score; of a class, those where it occurs.
        needs: What would find a difference of this size in four of five times; "" if it is found.
    """

    a: str
    b: str
    score: str
    difference: Interval
    p: float
    p_holm: float
    detectable: float
    ground: float
    seeds: float
    freedom: float
    blocks: int
    needs: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether one is better, after correction."""
        if not self.p_holm <= LEVEL:
            return "cannot be told apart"
        is_more = self.difference.value > 0
        return "a is better" if is_more == is_higher_better(self.score) else "b is better"

    @property
    def better(self) -> str | None:
        """Name of the better one; None if they cannot be told apart."""
        return {"a is better": self.a, "b is better": self.b}.get(self.verdict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; None for NaN."""
        numbers = {
            name: getattr(self, name)
            for name in ("p", "p_holm", "detectable", "ground", "seeds", "freedom")
        }
        return {
            "a": self.a,
            "b": self.b,
            "score": self.score,
            "difference": self.difference.to_dict(),
            **{name: None if isnan(x) or x == inf else float(x) for name, x in numbers.items()},
            "blocks": self.blocks,
            "verdict": self.verdict,
            "better": self.better,
            "needs": self.needs,
        }


@dataclass(frozen=True)
class Comparison:
    """Settings side by side.

    Args:
        columns: Scores that were compared.
        values: Of each setting, the mean over its seeds, by column; the interval is of other ground
            and other seeds.
        effects: Differences of each pair in each score.
        seeds: Runs of each setting.
        paired: Whether seeds of the same number were paired.
        against: Setting that all others were compared with; None: each with each.
        blocks: Number of blocks.
    """

    columns: tuple[str, ...]
    values: Mapping[str, Mapping[str, Interval]]
    effects: tuple[Effect, ...]
    seeds: Mapping[str, int]
    paired: bool
    against: str | None
    blocks: int

    def of(self, column: str) -> tuple[Effect, ...]:
        """Return the differences in one score."""
        return tuple(effect for effect in self.effects if effect.score == column)

    def not_told_from(self, column: str, name: str) -> list[str]:
        """Names of settings that a score does not tell from one."""
        return [
            effect.b if effect.a == name else effect.a
            for effect in self.of(column)
            if name in (effect.a, effect.b) and effect.better is None
        ]

    def ranked(self, column: str) -> list[str]:
        """Names of the settings that have a value, the best one first."""
        sign = -1 if is_higher_better(column) else 1
        values = {name: sign * own[column].value for name, own in self.values.items()}
        known = [name for name, value in values.items() if not isnan(value)]
        return sorted(known, key=lambda name: values[name])

    def best(self, column: str) -> str | None:
        """Name of the setting with the best value; None if none is defined."""
        return next(iter(self.ranked(column)), None)


def compare_settings(
    settings: Mapping[str, Sequence[RunCounts]],
    columns: Sequence[str],
    rule: Rule,
    bootstrap: BlockBootstrap,
    *,
    against: str | None = None,
    paired: bool = False,
) -> Comparison:
    """Compare settings.

    Args:
        settings: Name → counts of its runs, one per seed, on the same blocks.
        columns: Of `Rule.columns`.
        bootstrap: Of these blocks.
        against: Compare all with this one only; default: each with each.
        paired: Whether runs at the same place of two settings belong together (trained from one
            start), so that what they share is no difference.
    """
    scored = {
        name: [RunScores.of(run, columns, rule, bootstrap) for run in runs]
        for name, runs in settings.items()
    }
    spreads = {
        name: Spread.of(runs, bootstrap, number)
        for number, (name, runs) in enumerate(scored.items())
    }
    flips = SignFlips(bootstrap)
    effects = []
    for a, b in _pairs(list(settings), against):
        spread = (
            Spread.of(_differences(scored[a], scored[b]), bootstrap, 0)
            if paired
            else spreads[a].minus(spreads[b])
        )
        effects += list(_effects(a, b, columns, spread, bootstrap, flips))
    values = {
        name: {
            column: interval.within(*limits_of(column))
            for column, interval in zip(columns, _intervals(spread, bootstrap), strict=True)
        }
        for name, spread in spreads.items()
    }
    numbers = {name: len(runs) for name, runs in settings.items()}
    return Comparison(
        tuple(columns), values, _corrected(effects), numbers, paired, against, bootstrap.blocks
    )


def _pairs(names: Sequence[str], against: str | None) -> list[tuple[str, str]]:
    if against is None:
        return list(combinations(names, 2))
    return [(name, against) for name in names if name != against]


def _differences(a: Sequence[RunScores], b: Sequence[RunScores]) -> list[RunScores]:
    return [
        RunScores(
            x.values - y.values,
            x.influence - y.influence,
            x.drawn - y.drawn,
            np.minimum(x.seen, y.seen),
        )
        for x, y in zip(a, b, strict=True)
    ]


def _intervals(spread: Spread, bootstrap: BlockBootstrap) -> list[Interval]:
    """Percentiles of the draws, as wide as the variance and its degrees of freedom ask for."""
    variance = Variance.of(spread, bootstrap.widening)
    found = []
    for m, value in enumerate(spread.values):
        drawn = spread.drawn[:, m] - value
        drawn = drawn[~np.isnan(drawn)]
        if not _can_tell(spread, m) or not drawn.size:
            found.append(Interval(float(value), nan, nan))
            continue
        half = stats.t.ppf(1 - LEVEL / 2, variance.freedom[m]) * np.sqrt(variance.total[m])
        width = stats.norm.ppf(1 - LEVEL / 2) * drawn.std()
        low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])
        factor = half / width if width > 0 else 0.0
        found.append(Interval(float(value), value + factor * low, value + factor * high))
    return found


def _can_tell(spread: Spread, m: int) -> bool:
    return bool(spread.seen[m] >= LEAST_BLOCKS and not isnan(spread.values[m]))


def _effects(
    a: str,
    b: str,
    columns: Sequence[str],
    spread: Spread,
    bootstrap: BlockBootstrap,
    flips: SignFlips,
) -> Iterator[Effect]:
    variance = Variance.of(spread, bootstrap.widening)
    p = flips.p(spread, variance)
    needed = _power_factor(variance.freedom)
    for m, (column, interval) in enumerate(
        zip(columns, _intervals(spread, bootstrap), strict=True)
    ):
        can = _can_tell(spread, m)
        least, most = limits_of(column)
        yield Effect(
            a,
            b,
            column,
            interval.within(least - most, most - least),
            p=float(p[m]) if can else nan,
            p_holm=nan,
            detectable=float(needed[m] * np.sqrt(variance.total[m])) if can else nan,
            ground=float(np.sqrt(variance.ground[m])),
            seeds=float(np.sqrt(variance.seeds[m])) if spread.has_seeds else nan,
            freedom=float(variance.freedom[m]),
            blocks=int(spread.seen[m]) if bootstrap.blocks == bootstrap.size else bootstrap.blocks,
        )


def _power_factor(freedom: Any) -> Any:
    """Standard errors that a difference must have to be found with `POWER`."""
    return stats.t.ppf(1 - LEVEL / 2, freedom) + stats.t.ppf(POWER, freedom)


def _corrected(effects: Sequence[Effect]) -> tuple[Effect, ...]:
    """Correct p over the comparisons of each table, and say what is missing to a finding."""
    families: dict[str, list[int]] = {}
    for number, effect in enumerate(effects):
        families.setdefault(family_of(effect.score), []).append(number)
    found = list(effects)
    for numbers in families.values():
        for number, p in zip(numbers, holm([effects[n].p for n in numbers]), strict=True):
            effect = replace(effects[number], p_holm=float(p))
            found[number] = replace(effect, needs=_needs(effect))
    return tuple(found)


def _needs(effect: Effect) -> str:
    """What more of it would find a difference of this size."""
    if effect.better is not None:
        return ""
    if isnan(effect.p):
        return f"{LEAST_BLOCKS} blocks or more; there are {effect.blocks}"
    size = abs(effect.difference.value)
    seeds = 0.0 if isnan(effect.seeds) else effect.seeds
    if not size or not effect.ground + seeds:
        return "there is no difference"
    allowed = (size / _power_factor(inf)) ** 2
    if effect.ground**2 + seeds**2 <= allowed:
        return "a little more ground or seeds, or fewer comparisons in one table"
    ways = []
    if allowed > seeds**2:
        ways.append(f"{_times(effect.ground**2 / (allowed - seeds**2))} the ground")
    if seeds and allowed > effect.ground**2:
        ways.append(f"{_times(seeds**2 / (allowed - effect.ground**2))} the seeds")
    if len(ways) < 2 and seeds:
        ways.append(f"{_times((effect.ground**2 + seeds**2) / allowed)} of both")
    return " or ".join(ways)


def _times(factor: float) -> str:
    if factor > 99:
        return "more than 99 times"
    return f"{max(factor, 1.1):.1f} times" if factor < 10 else f"{ceil(factor)} times"

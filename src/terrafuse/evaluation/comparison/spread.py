"""Spread of scores: over the ground, over the seeds of training, and draws of both.

A score of a setting is a mean over its seeds, of sums over blocks of ground. Other ground and other
seeds would have given another one, and the two are crossed: every seed is judged on the same
blocks. The variance of a mean or of a difference is

    ground + seeds - what both count

where "ground" is that of the mean over seeds with other blocks (delete-one jackknife, widened by
what correlation blocks leave outside), "seeds" the variance between seeds over their number, and
"what both count" how differently seeds do on the same block: it is in either of the others.

Seeds of two settings are not paired unless that is asked for: the same number starts other weights
of another network, and what it shares (the order of batches) hardly shows in scores.

Reference:
    Jackknife: Efron, Stein: The Jackknife Estimate of Variance. Annals of Statistics 9, 1981.
    Crossed components: Cameron, Gelbach, Miller: Robust Inference with Multiway Clustering. JBES
    29, 2011; Owen: The Pigeonhole Bootstrap. Annals of Applied Statistics 1, 2007. Degrees of
    freedom: Satterthwaite: An Approximate Distribution of Estimates of Variance Components.
    Biometrics Bulletin 2, 1946.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from terrafuse.evaluation.comparison.counts import Rule, RunCounts, score_sums
from terrafuse.evaluation.resampling import BlockBootstrap
from terrafuse.evaluation.scores import Floats

_EVEN = 1e-300


@dataclass(frozen=True)
class RunScores:
    """Scores of a run: as they are, and what other ground would have made of them.

    Args:
        values: (M,), one per column; NaN: not defined.
        influence: How much each group of blocks moves them, (G, M), of mean 0.
        drawn: Of the sums of each draw of blocks, (R, M).
        seen: Groups of blocks in which each occurs, (M,).
    """

    values: Floats
    influence: Floats
    drawn: Floats
    seen: Floats

    @classmethod
    def of(
        cls, counts: RunCounts, columns: Sequence[str], rule: Rule, bootstrap: BlockBootstrap
    ) -> RunScores:
        """Score a run's counts, without each group of blocks, and in each draw."""
        flat = counts.flat()
        total = flat.sum(axis=0, keepdims=True)
        values = score_sums(total, columns, rule)[0]
        without = score_sums(total - flat, columns, rule)
        # A class that is in one group only: without it there is nothing to compare with.
        without = np.where(np.isnan(without), values, without)
        influence = (len(flat) - 1) * (without.mean(axis=0) - without)
        drawn = score_sums(bootstrap.weights @ flat, columns, rule)
        seen = (~np.isnan(score_sums(flat, columns, rule))).sum(axis=0)
        return cls(values, influence, drawn, seen.astype(np.float64))


@dataclass(frozen=True)
class Spread:
    """Mean over the seeds of a setting, or a difference of two, with its variance.

    Args:
        values: Mean over seeds, (M,).
        influence: Likewise, (G, M).
        drawn: Of draws of blocks and seeds, (R, M).
        seen: As in `RunScores`, the least of the runs.
        seeds: Number of runs.
        seed_variance: Of the mean over other seeds, (M,), what the ground counts as well taken off;
            NaN of a single run.
        seed_noise: Square of the variance that this was taken from, over its degrees of freedom,
            (M,).
    """

    values: Floats
    influence: Floats
    drawn: Floats
    seen: Floats
    seeds: int
    seed_variance: Floats
    seed_noise: Floats

    @property
    def has_seeds(self) -> bool:
        """Whether there is a spread of seeds, of its own or of the other one."""
        return not np.isnan(self.seed_variance).all()

    @classmethod
    def of(cls, runs: Sequence[RunScores], bootstrap: BlockBootstrap, number: int) -> Spread:
        """Return the spread of a setting.

        Args:
            runs: One per seed.
            number: Of the setting: others draw other seeds.
        """
        size = len(runs)
        values = np.stack([run.values for run in runs])  # (S, M)
        mean = np.mean([run.influence for run in runs], axis=0)
        rng = np.random.default_rng([bootstrap.seed, 2, number])
        shares = rng.multinomial(size, np.full(size, 1 / size), bootstrap.draws) / size  # (R, S)
        drawn = np.sum([shares[:, [k]] * run.drawn for k, run in enumerate(runs)], axis=0)
        seen = np.min([run.seen for run in runs], axis=0)
        if size == 1:
            unknown = np.full(values.shape[1], np.nan)
            return cls(values[0], mean, drawn, seen, 1, unknown, unknown)
        groups = len(mean)
        crossed = sum(((run.influence - mean) ** 2).sum(axis=0) for run in runs)
        crossed = bootstrap.widening * crossed / (size * (size - 1) * _degrees(groups))
        gross = values.var(axis=0, ddof=1) / size
        net = np.clip(gross - crossed, 0, None)
        return cls(values.mean(axis=0), mean, drawn, seen, size, net, gross**2 / (size - 1))

    def minus(self, other: Spread) -> Spread:
        """Return the spread of the difference from another setting, seeds not paired.

        A single run has no spread of seeds. It takes that of the other one, if that has some.
        """
        own, against = self._with_seeds_of(other), other._with_seeds_of(self)
        return Spread(
            own.values - against.values,
            own.influence - against.influence,
            own.drawn - against.drawn,
            np.minimum(own.seen, against.seen),
            min(own.seeds, against.seeds),
            own.seed_variance + against.seed_variance,
            own.seed_noise + against.seed_noise,
        )

    def _with_seeds_of(self, other: Spread) -> Spread:
        if self.seeds > 1 or other.seeds == 1:
            return self
        factor = other.seeds
        return Spread(
            self.values, self.influence, self.drawn, self.seen, 1,
            factor * other.seed_variance, factor**2 * other.seed_noise,
        )  # fmt: skip


@dataclass(frozen=True)
class Variance:
    """Variance of values, and how well it is known.

    Args:
        ground: Of other ground, (M,).
        seeds: Of other seeds, (M,); 0 where there is one run only.
        freedom: Degrees of freedom of their sum, (M,).
        seed_freedom: Those of their sum if that of the ground were known, (M,).
    """

    ground: Floats
    seeds: Floats
    freedom: Floats
    seed_freedom: Floats

    @property
    def total(self) -> Floats:
        """Of both, (M,)."""
        total: Floats = self.ground + self.seeds
        return total

    @classmethod
    def of(cls, spread: Spread, widening: float) -> Variance:
        """Return the variance of a mean or difference."""
        groups = len(spread.influence)
        squares = (spread.influence**2).sum(axis=0)
        ground = widening * squares / _degrees(groups)
        # Of squares that a few blocks make up, less is known: Var(s²) = (kurtosis - 1) / G.
        fourth = (spread.influence**4).sum(axis=0)
        kurtosis = groups * fourth / np.maximum(squares**2, _EVEN)
        of_ground = np.minimum(groups - 1, 2 * (groups - 1) / np.maximum(kurtosis - 1, 1e-9))
        seeds = np.nan_to_num(spread.seed_variance)
        noise = np.nan_to_num(spread.seed_noise)
        total = ground + seeds
        freedom = total**2 / np.maximum(ground**2 / np.maximum(of_ground, 1) + noise, _EVEN)
        seed_freedom = total**2 / np.maximum(noise, _EVEN)
        return cls(ground, seeds, np.maximum(freedom, 1), np.maximum(seed_freedom, 1))


def _degrees(groups: int) -> int:
    """Divisor of the variance of a mean; of one group there is none, and nothing is told."""
    return groups * max(groups - 1, 1)

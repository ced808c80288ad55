"""Counts of runs per group of blocks, and scores of any number of sums of them at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.errors import ConfigError, unknown_name
from terrafuse.evaluation.blocks import Blocks
from terrafuse.evaluation.evidence import Evidence
from terrafuse.evaluation.resampling import BlockBootstrap
from terrafuse.evaluation.score_table import SCORES
from terrafuse.evaluation.scores import ClassMean, Floats, ratio

#: Score of each class; "iou:water" is that of one.
PER_CLASS = "iou"
#: What is compared unless told otherwise, where it was counted.
DEFAULT_SCORES = ("miou", "mpa", "oa", "boundary_f1", PER_CLASS)


@dataclass(frozen=True)
class Rule:
    """Rule by which counts become scores: classes, and those that means cover.

    Args:
        names: Of the K classes.
        mean_over: Indices.
        class_mean: As in `terrafuse.evaluation.scores`.
    """

    names: tuple[str, ...]
    mean_over: tuple[int, ...]
    class_mean: ClassMean

    @classmethod
    def of(cls, evidence: Evidence) -> Rule:
        """Return the rule that a run was scored by."""
        return cls(evidence.classes, evidence.mean_over, evidence.facts["class_mean"])

    def columns(self, wanted: Sequence[str] | None, has_boundary: bool) -> list[str]:
        """Return the names of the scores to compute, with a class each where it is of one.

        Args:
            wanted: Names of `SCORES`, "iou", or "iou:CLASS"; default: `DEFAULT_SCORES`.

        Raises:
            ConfigError: No such score or class, or boundaries were not compared.
        """
        default = [name for name in DEFAULT_SCORES if has_boundary or name != "boundary_f1"]
        found: dict[str, None] = {}
        for name in default if wanted is None else wanted:
            kind, colon, label = name.partition(":")
            if name in _OVER_CLASSES:
                if name == "boundary_f1" and not has_boundary:
                    raise ConfigError(
                        "boundaries of these runs were not compared, so that there is no "
                        "boundary_f1. Leave it out"
                    )
                found[name] = None
            elif kind != PER_CLASS:
                known = [*_OVER_CLASSES, PER_CLASS]
                raise ConfigError(unknown_name("score to compare", name, known))
            elif not colon:
                found |= {f"{PER_CLASS}:{self.names[k]}": None for k in self.mean_over}
            elif label in self.names:
                found[name] = None
            else:
                raise ConfigError(unknown_name("class", label, self.names))
        return list(found)


@dataclass(frozen=True)
class RunCounts:
    """What scores of a run are summed from, per group of blocks.

    Args:
        confusion: Per class right, reference and mapped pixels, float64 (G, K, 3).
        boundary: As in `BoundaryScore`, float64 (G, K, 4); None: not compared.
    """

    confusion: Floats
    boundary: Floats | None

    @classmethod
    def of(cls, evidence: Evidence, blocks: Blocks, bootstrap: BlockBootstrap) -> RunCounts:
        """Sum the counts of all modalities over groups of blocks."""
        groups = bootstrap.groups[blocks.of_cell]
        confusion = evidence.counts("confusion", groups)
        boundary = None
        if "boundary" in evidence.tables:
            boundary = evidence.counts("boundary", groups).astype(np.float64)
        return cls(tallies(confusion), boundary)

    def flat(self) -> Floats:
        """Both side by side, (G, K · 3 or 7)."""
        parts = [self.confusion] if self.boundary is None else [self.confusion, self.boundary]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def tallies(confusion: NDArray[Any]) -> Floats:
    """Right, reference and mapped pixels per class (…, K, 3) of confusion (…, K, K + 1)."""
    number = confusion.shape[-2]
    hit = np.diagonal(confusion[..., :number], axis1=-2, axis2=-1)
    found = [hit, confusion.sum(axis=-1), confusion.sum(axis=-2)[..., :number]]
    return np.stack(found, axis=-1).astype(np.float64)


@dataclass(frozen=True)
class _Sums:
    """Sums of counts, any number of them."""

    hit: Floats
    pixels: Floats
    mapped: Floats
    boundary: Floats | None
    rule: Rule

    @property
    def iou(self) -> Floats:
        return ratio(self.hit, self.pixels + self.mapped - self.hit)

    @property
    def total(self) -> Floats:
        total: Floats = self.pixels.sum(axis=-1)
        return total

    @property
    def oa(self) -> Floats:
        return ratio(self.hit.sum(axis=-1), self.total)

    def mean(self, values: Floats) -> Floats:
        """Mean over the classes that it covers."""
        covered = np.zeros(values.shape[-1], bool)
        covered[list(self.rule.mean_over)] = True
        known = np.where(covered, values, np.nan)
        if self.rule.class_mean == "reference":
            known = np.where(self.pixels > 0, known, np.nan)
        return nan_mean(known)

    def kappa(self) -> Floats:
        chance = ratio((self.pixels * self.mapped).sum(axis=-1), self.total**2)
        return ratio(self.oa - chance, 1 - chance)

    def fwiou(self) -> Floats:
        weighted = np.where(self.pixels > 0, self.pixels * self.iou, 0)
        return ratio(weighted.sum(axis=-1), self.total)

    def boundary_f1(self) -> Floats:
        assert self.boundary is not None
        hit, mapped, found, reference = np.moveaxis(self.boundary, -1, 0)
        precision, recall = ratio(hit, mapped), ratio(found, reference)
        f1 = np.where(
            precision + recall == 0, 0.0, ratio(2 * precision * recall, precision + recall)
        )
        f1 = np.where(np.isnan(precision), recall, f1)
        return self.mean(np.where(np.isnan(recall), precision, f1))


_OVER_CLASSES: Mapping[str, Callable[[_Sums], Floats]] = {
    "miou": lambda sums: sums.mean(sums.iou),
    "mpa": lambda sums: sums.mean(ratio(sums.hit, sums.pixels)),
    "oa": lambda sums: sums.oa,
    "mf1": lambda sums: sums.mean(ratio(2 * sums.hit, sums.pixels + sums.mapped)),
    "kappa": _Sums.kappa,
    "fwiou": _Sums.fwiou,
    "boundary_f1": _Sums.boundary_f1,
}


def score_sums(flat: Floats, columns: Sequence[str], rule: Rule) -> Floats:
    """Compute scores of sums of counts.

    Args:
        flat: Sums of `RunCounts.flat`, (n, K · 3 or 7).
        columns: Of `Rule.columns`.

    Returns:
        Float64 (n, columns); NaN: not defined.
    """
    number = len(rule.names)
    hit, pixels, mapped = np.moveaxis(flat[:, : 3 * number].reshape(-1, number, 3), -1, 0)
    rest = flat[:, 3 * number :]
    boundary = rest.reshape(-1, number, 4) if rest.shape[1] else None
    sums = _Sums(hit, pixels, mapped, boundary, rule)
    iou = sums.iou
    found = [
        _OVER_CLASSES[name](sums)
        if name in _OVER_CLASSES
        else iou[:, rule.names.index(name.partition(":")[2])]
        for name in columns
    ]
    return np.stack(found, axis=1)


def label_of(column: str) -> str:
    """Heading of a column: "mIoU", "IoU water"."""
    kind, _, name = column.partition(":")
    return f"IoU {name}" if name else SCORES[kind].label


def is_higher_better(column: str) -> bool:
    """Whether larger values of a column are better ones; IoU of classes are."""
    kind = SCORES.get(family_of(column))
    return kind is None or kind.higher_is_better


def limits_of(column: str) -> tuple[float, float]:
    """Smallest and largest possible value of a column."""
    kind = SCORES.get(column)
    return (kind.low, kind.high) if kind else (0.0, 1.0)


def family_of(column: str) -> str:
    """Name of the table that a column's comparisons stand in, over which p is corrected."""
    return column.partition(":")[0]


def nan_mean(values: Floats, axis: int = -1) -> Floats:
    """Mean of what is not NaN; NaN of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        mean: Floats = np.nanmean(values, axis=axis)
    return mean

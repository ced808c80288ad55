"""Games of a run: the scores of every subset of its modalities, as they are and in each draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.evaluation.blocks import Blocks
from terrafuse.evaluation.evidence import Evidence
from terrafuse.evaluation.resampling import BlockBootstrap
from terrafuse.evaluation.scores import ClassMean
from terrafuse.evaluation.synergy.games import Floats


@dataclass(frozen=True)
class Rule:
    """What is summed into means, as in `terrafuse.evaluation.scores`.

    Args:
        mean_over: Indices of the classes that means may cover.
        class_mean: Those in reference or map ("present"), or in the reference.
    """

    mean_over: tuple[int, ...]
    class_mean: ClassMean

    @classmethod
    def of(cls, evidence: Evidence) -> Rule:
        """Return that by which a run was scored."""
        return cls(evidence.mean_over, evidence.facts["class_mean"])


@dataclass(frozen=True)
class Drawn:
    """Confusion of one map, whole and by draws.

    Args:
        counts: Float64 (1 + R, K, K + 1); the first is of all blocks.
    """

    counts: Floats

    @classmethod
    def of(cls, counts: NDArray[np.int64], bootstrap: BlockBootstrap) -> Drawn:
        """Draw from the counts of blocks (B, K, K + 1)."""
        whole = counts.sum(axis=0, keepdims=True).astype(np.float64)
        return cls(np.concatenate([whole, bootstrap.sums(counts)]))

    def constant(self) -> Drawn:
        """That of a map with the most frequent class of the reference everywhere.

        It is the class of all blocks, in draws as well.
        """
        pixels = self.counts.sum(axis=-1)  # (1 + R, K)
        counts = np.zeros_like(self.counts)
        most = int(pixels[0].argmax())
        counts[:, :, most] = pixels
        return Drawn(counts)

    def quantities(self, rule: Rule) -> Floats:
        """IoU of each class, their mean, and bits of information, (1 + R, K + 2)."""
        ious = class_ious(self.counts)
        mean = mean_iou(self.counts, rule)
        return np.concatenate([ious, mean[:, None], information(self.counts)[:, None]], axis=1)


def class_ious(counts: Floats) -> Floats:
    """IoU of each class (…, K) of confusions (…, K, K + 1); NaN in neither reference nor map."""
    classes = counts.shape[-2]
    hit = np.diagonal(counts[..., :classes], axis1=-2, axis2=-1)
    either = counts.sum(axis=-1) + counts[..., :classes].sum(axis=-2) - hit
    return _ratio(hit, either)


def mean_iou(counts: Floats, rule: Rule) -> Floats:
    """MIoU (…) of confusions (…, K, K + 1), as `terrafuse.evaluation.scores` has it."""
    ious = class_ious(counts)
    averaged = np.zeros(ious.shape, bool)
    averaged[..., list(rule.mean_over)] = True
    averaged &= ~np.isnan(ious)
    if rule.class_mean == "reference":
        averaged &= counts.sum(axis=-1) > 0
    number = averaged.sum(axis=-1)
    total = np.where(averaged, ious, 0.0).sum(axis=-1)
    return _ratio(total, number)


def information(counts: Floats) -> Floats:
    """Mutual information (…) of map and reference in bits, of confusions (…, K, K + 1)."""
    total = counts.sum(axis=(-2, -1), keepdims=True)
    shares = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    joint = _entropy(shares.reshape(*shares.shape[:-2], -1))
    found: Floats = _entropy(shares.sum(axis=-1)) + _entropy(shares.sum(axis=-2)) - joint
    # Of rounding.
    return np.maximum(found, 0.0)


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Part / whole; NaN where that is 0."""
    found: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return found


def _entropy(shares: Floats) -> Floats:
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    bits: Floats = -(shares * logs).sum(axis=-1)
    return bits


def game(
    confusions: Mapping[frozenset[str], NDArray[np.int64]],
    names: Sequence[str],
    bootstrap: BlockBootstrap,
    rule: Rule,
) -> Floats:
    """Return the scores of every subset of modalities.

    Args:
        confusions: Of each non-empty subset, counts of blocks (B, K, K + 1).
        names: The N modalities, in the order of the bits of a subset.

    Returns:
        Float64 (2^N, 1 + R, K + 2): as they are and in each draw, of the IoU of each class, mIoU
        and information. Row 0, without any modality, is of the most frequent class everywhere. NaN
        in draws where a class is not in the reference.
    """
    found: list[Any] = [None] * 2 ** len(names)
    for subset, counts in confusions.items():
        drawn = Drawn.of(counts, bootstrap)
        place = sum(1 << names.index(name) for name in subset)
        found[place] = drawn.quantities(rule)
        if found[0] is None:
            found[0] = drawn.constant().quantities(rule)
            absent = drawn.counts.sum(axis=-1) == 0  # (1 + R, K)
    values: Floats = np.stack(found)
    classes = absent.shape[1]
    values[:, :, :classes][:, absent] = np.nan
    return values


def subset_confusions(evidence: Evidence, blocks: Blocks) -> dict[frozenset[str], Any]:
    """Counts of blocks (B, K, K + 1) of each subset that was scored."""
    return {
        frozenset(subset): evidence.counts("confusion", blocks.of_cell, number)
        for number, subset in enumerate(evidence.subsets)
    }

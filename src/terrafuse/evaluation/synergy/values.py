"""Games of a run: the scores of every subset of its modalities, as they are and in each draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.evaluation.blocks import Blocks
from terrafuse.evaluation.comparison.counts import PER_CLASS, Rule, score_sums, tallies
from terrafuse.evaluation.evidence import Evidence
from terrafuse.evaluation.resampling import BlockBootstrap
from terrafuse.evaluation.synergy.games import Floats


def quantities(counts: Floats, rule: Rule) -> Floats:
    """IoU of each class, their mean, and bits of information, (n, K + 2).

    Args:
        counts: Confusions of one map, whole and by draws, (n, K, K + 1).
    """
    columns = [*(f"{PER_CLASS}:{name}" for name in rule.names), "miou"]
    scores = score_sums(tallies(counts).reshape(len(counts), -1), columns, rule)
    return np.concatenate([scores, information(counts)[:, None]], axis=1)


def information(counts: Floats) -> Floats:
    """Mutual information (…) of map and reference in bits, of confusions (…, K, K + 1)."""
    total = counts.sum(axis=(-2, -1), keepdims=True)
    shares = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    joint = _entropy(shares.reshape(*shares.shape[:-2], -1))
    found: Floats = _entropy(shares.sum(axis=-1)) + _entropy(shares.sum(axis=-2)) - joint
    # Of rounding.
    return np.maximum(found, 0.0)


def _entropy(shares: Floats) -> Floats:
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    bits: Floats = -(shares * logs).sum(axis=-1)
    return bits


def _constant(counts: Floats) -> Floats:
    """Confusions of a map with the most frequent class of the reference everywhere.

    It is the class of all blocks, in draws as well.

    Args:
        counts: Those of any map, the first of all blocks, (1 + R, K, K + 1).
    """
    pixels = counts.sum(axis=-1)  # (1 + R, K)
    found = np.zeros_like(counts)
    found[:, :, int(pixels[0].argmax())] = pixels
    return found


def place_of(subset: Iterable[str], names: Sequence[str]) -> int:
    """Row of a subset of modalities in a game: the sum of its bits."""
    return sum(1 << names.index(name) for name in subset)


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
        drawn = bootstrap.drawn(counts)
        found[place_of(subset, names)] = quantities(drawn, rule)
        if found[0] is None:  # the reference is the same in all
            found[0] = quantities(_constant(drawn), rule)
            absent = drawn.sum(axis=-1) == 0  # (1 + R, K)
    values: Floats = np.stack(found)
    values[:, :, : len(rule.names)][:, absent] = np.nan
    return values


def subset_confusions(evidence: Evidence, blocks: Blocks) -> dict[frozenset[str], Any]:
    """Counts of blocks (B, K, K + 1) of each subset that was scored."""
    return {
        frozenset(subset): evidence.counts("confusion", blocks.of_cell, number)
        for number, subset in enumerate(evidence.subsets)
    }

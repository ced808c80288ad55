"""Pairs of pixels at the distances of `LAGS`: how far errors reach.

Pixels are bits: 64 of them, one above the other, are shifted along rows and compared at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from terrafuse.evaluation.evidence import LAGS
from terrafuse.samples import IGNORE_INDEX

_WORD = 64
_ONES_OF_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)


def error_pairs(labels: NDArray[np.uint8], class_map: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count pairs of pixels in rows and columns.

    Args:
        labels: Reference classes of the whole scene, uint8 (H, W); 255 is ignored.
        class_map: Mapped classes, uint8 (H, W).

    Returns:
        Int64 (lags, 3), as in `Evidence.correlation`.
    """
    known = labels != IGNORE_INDEX
    wrong = (labels != class_map) & known
    found = np.zeros((len(LAGS), 3), np.int64)
    if not known.any():
        return found
    for along in (False, True):
        bits = np.stack([_pack(mask.T if along else mask) for mask in (known, wrong)])
        for place, lag in enumerate(LAGS):
            if lag < bits.shape[2]:
                found[place] += _count(bits[:, None, :, :-lag] & bits[None, :, :, lag:])
    return found


def _pack(mask: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Bits of a mask (H, W): uint64 (⌈H / 64⌉, W), each of pixels one above the other."""
    height, width = mask.shape
    packed = np.packbits(mask, axis=0)
    words = -(-height // _WORD)
    whole = np.zeros((words * 8, width), np.uint8)
    whole[: len(packed)] = packed
    found = np.ascontiguousarray(whole.reshape(words, 8, width).transpose(0, 2, 1))
    return found.view(np.uint64)[:, :, 0]


def _count(pairs: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Pairs, those of two errors, and errors in them; from (2, 2, words, n), known and wrong."""
    ((both_known, second), (first, both)) = _ones(pairs)
    return np.array([both_known, both, first + second])


def _ones(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Number of bits over the last two axes."""
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.bitwise_count(words).sum(axis=(2, 3), dtype=np.int64)
    ones: NDArray[np.int64] = _ONES_OF_BYTE[words.view(np.uint8)].sum(axis=(2, 3), dtype=np.int64)
    return ones

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
        own = (known.T, wrong.T) if along else (known, wrong)
        found += _along_rows(*own) if not known.all() else _along_full_rows(own[1])
    return found


def _along_rows(known: NDArray[np.bool_], wrong: NDArray[np.bool_]) -> NDArray[np.int64]:
    bits = np.stack([_pack(known), _pack(wrong)])
    found = np.zeros((len(LAGS), 3), np.int64)
    for place, lag in enumerate(LAGS):
        if lag < bits.shape[2]:
            pairs = bits[:, None, :, :-lag] & bits[None, :, :, lag:]
            ((both_known, second), (first, both)) = _ones(pairs)
            found[place] = both_known, both, first + second
    return found


def _along_full_rows(wrong: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The same where all pixels are known, which takes a quarter of the time."""
    height, width = wrong.shape
    bits = _pack(wrong)
    before = np.r_[0, np.cumsum(np.count_nonzero(wrong, axis=0))]
    found = np.zeros((len(LAGS), 3), np.int64)
    for place, lag in enumerate(LAGS):
        if lag < width:
            errors = before[width - lag] + before[width] - before[lag]
            found[place] = height * (width - lag), _ones(bits[:, :-lag] & bits[:, lag:]), errors
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


def _ones(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Number of bits over the last two axes."""
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.asarray(np.bitwise_count(words).sum(axis=(-2, -1), dtype=np.int64))
    ones = _ONES_OF_BYTE[words.view(np.uint8)]
    return np.asarray(ones.sum(axis=(-2, -1), dtype=np.int64))

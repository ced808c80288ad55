"""Masks of a model → one map of segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.unsignedinteger[Any]]


def paint(
    masks: Sequence[NDArray[np.bool_]], shape: tuple[int, int], *, min_area: int = 0
) -> Labels:
    """A map of segments: masks one over the other, the smallest on top.

    Masks are numbered from 1 on by falling area; among equals the first given is lower. Numbers of
    masks that others hide altogether do not occur.

    Args:
        masks: Bool arrays (H, W) in any order.
        shape: H and W.
        min_area: Masks of fewer pixels are left out.

    Returns:
        Uint16 (H, W), or uint32 where there are more masks than that tells apart; 0 = in no mask.
    """
    areas = np.array([np.count_nonzero(mask) for mask in masks], np.int64)
    order = [n for n in np.argsort(-areas, kind="stable") if areas[n] >= max(1, min_area)]
    labels: Labels = np.zeros(shape, smallest_dtype(len(order)))
    for number, position in enumerate(order, start=1):
        labels[masks[position]] = number
    return labels


def smallest_dtype(largest: int) -> type[np.uint16] | type[np.uint32]:
    """Uint16 if numbers up to `largest`, and one that means "no data", fit; else uint32."""
    return np.uint16 if largest < np.iinfo(np.uint16).max else np.uint32


def as_labels(values: NDArray[Any]) -> Labels:
    """Whole numbers (H, W) from 0 on in the smallest of both types."""
    labels: Labels = values.astype(smallest_dtype(int(values.max(initial=0))))
    return labels

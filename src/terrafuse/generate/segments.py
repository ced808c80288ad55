"""Segment maps painted from the masks of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.unsignedinteger[Any]]


def paint(
    masks: Sequence[NDArray[np.bool_]], shape: tuple[int, int], *, min_area: int = 0
) -> Labels:
    """Paint masks into one segment map, the smallest on top.

    Masks are numbered from 1 by decreasing area, equal ones in the given order. Numbers of masks
    that are completely hidden by others do not occur.

    Args:
        masks: Bool arrays (H, W) in any order.
        shape: H and W.
        min_area: Masks of fewer pixels are left out.

    Returns:
        Uint16 (H, W), or uint32 if there are too many masks for that; 0 = in no mask.
    """
    areas = np.array([np.count_nonzero(mask) for mask in masks], np.int64)
    order = [n for n in np.argsort(-areas, kind="stable") if areas[n] >= max(1, min_area)]
    labels: Labels = np.zeros(shape, smallest_dtype(len(order)))
    for number, position in enumerate(order, start=1):
        labels[masks[position]] = number
    return labels


def smallest_dtype(largest: int) -> type[np.uint16] | type[np.uint32]:
    """Return uint16 if numbers up to `largest` and one for "no data" fit, else uint32."""
    return np.uint16 if largest < np.iinfo(np.uint16).max else np.uint32


def as_labels(values: NDArray[Any]) -> Labels:
    """Convert integers (H, W) from 0 to the smaller of uint16 and uint32 that holds them."""
    labels: Labels = values.astype(smallest_dtype(int(values.max(initial=0))))
    return labels

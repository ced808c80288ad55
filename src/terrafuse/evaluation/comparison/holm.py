"""Correction of p values for the number of comparisons in a table.

Reference:
    Holm: A Simple Sequentially Rejective Multiple Test Procedure. Scandinavian Journal of
    Statistics 6, 1979.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from terrafuse.evaluation.scores import Floats


def holm(values: Sequence[float]) -> Floats:
    """Correct p values so that at most one table in 1 / level has a wrong finding.

    Args:
        values: Of all comparisons of a table; NaN is none.

    Returns:
        In the same order; each is at most the level where its comparison is found.
    """
    found = np.array(values, np.float64)
    known = np.flatnonzero(~np.isnan(found))
    order = known[np.argsort(found[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    found[order] = np.minimum(1, np.maximum.accumulate(found[order] * factors))
    return found

"""Alignment of per-window depth maps, each known up to scale and shift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import spsolve

from terrafuse.generate.windows import WindowPlan

Values = NDArray[np.float64]

# Largest number of pixels of an overlap that are compared.
_SAMPLE = 20_000
_ROUNDS = 8
# Pixels farther off than this many (robust) standard deviations are left out.
_OUTLIER = 2.5
# Candidate lines for the initial fit, and pixels on which they are scored.
_LINES, _JUDGES = 200, 2000
# A spread this small, relative to the values, is rounding error.
_CONSTANT = 1e-6
# Overlaps whose depths correlate less than this say nothing about the scale.
_LEAST_CORRELATION = 0.2


@dataclass(frozen=True)
class Alignment:
    """A positive factor and a shift per window.

    Args:
        scales: Factors, float64 (windows,).
        shifts: Shifts, float64 (windows,).
    """

    scales: Values
    shifts: Values

    @classmethod
    def identity(cls, count: int) -> Alignment:
        """Return the alignment that leaves every window unchanged."""
        return cls(np.ones(count), np.zeros(count))

    def apply(self, number: int, depth: NDArray[np.float32]) -> Values:
        """Return a window's depth on the common scale, float64."""
        return np.asarray(depth.astype(np.float64) * self.scales[number] + self.shifts[number])


@dataclass(frozen=True)
class _Link:
    """Comparison of two overlapping windows: relative scale (first / second) and a common point."""

    first: int
    second: int
    pixels: int
    scale: float | None
    center: tuple[float, float]
    agreement: float


def align_windows(plan: WindowPlan, load: Callable[[int], NDArray[np.float32]]) -> Alignment:
    """Align by least squares over all overlaps at once: no error accumulates across windows.

    Scales are fitted as logarithms: their geometric mean stays 1, and none can shrink to 0.

    Args:
        load: Returns the depth (h, w) of a window, NaN without data.
    """
    links = []
    for first, second in plan.pairs():
        a, b = plan.windows[first], plan.windows[second]
        shared = a.intersection(b)
        assert shared is not None
        link = _compare(
            first, second, load(first)[shared.slices(a)], load(second)[shared.slices(b)]
        )
        links += [link] if link else []
    count = len(plan.windows)
    logs = _solve(
        count,
        # scale_second = scale_first · (units of the second in the first)
        [(x.first, x.second, np.log(x.scale), x.pixels * x.agreement) for x in links if x.scale],
    )
    scales = np.exp(logs)
    shifts = _solve(
        count,
        [
            (
                x.first,
                x.second,
                scales[x.first] * x.center[0] - scales[x.second] * x.center[1],
                x.pixels,
            )
            for x in links
        ],
    )
    return Alignment(scales, shifts)


def fit_line(first: Values, second: Values) -> tuple[float | None, tuple[float, float], float]:
    """Fit a line between two depths of the same pixels, robust to outliers.

    Both are noisy, hence the line through the centre whose slope is the ratio of their spreads
    (reduced major axis), not a regression of one on the other, whose slope is too flat. Pixels far
    from it are left out, starting from the line with the smallest median error.

    Args:
        first: Depth (n,).
        second: Depth (n,) in other units.

    Returns:
        Slope of `first` over `second` (None if they do not rise together), the centre of both, and
        their correlation.
    """
    kept = _start(first, second)
    slope, center, agreement = None, (0.0, 0.0), 0.0
    for _ in range(_ROUNDS):
        x, y = second[kept], first[kept]
        center = float(y.mean()), float(x.mean())
        spread = float(y.std()), float(x.std())
        slope, agreement = None, 0.0
        if all(s > _CONSTANT * abs(c) for s, c in zip(spread, center, strict=True)):
            agreement = float(((y - center[0]) * (x - center[1])).mean() / (spread[0] * spread[1]))
            slope = spread[0] / spread[1] if agreement > _LEAST_CORRELATION else None
        if slope is None:
            break
        near = _near((first - center[0]) - slope * (second - center[1]), _CONSTANT * spread[0])
        if np.array_equal(near, kept):
            break
        kept = near
    return slope, center, agreement


def _start(first: Values, second: Values) -> NDArray[np.bool_]:
    """Return the pixels near the line through two of them that has the smallest median error."""
    rng = np.random.default_rng(0)
    tried = rng.integers(0, len(first), (_LINES, 2))
    x, y = second[tried], first[tried]
    rise, run = y[:, 1] - y[:, 0], x[:, 1] - x[:, 0]
    upward = rise * run > 0
    if not upward.any():
        return np.ones(len(first), bool)
    slopes = rise[upward] / run[upward]
    bases = y[upward, 0] - slopes * x[upward, 0]
    some = rng.integers(0, len(first), min(len(first), _JUDGES))
    errors = np.abs(first[some] - slopes[:, None] * second[some] - bases[:, None])
    best = int(np.median(errors, axis=1).argmin())
    return _near(first - slopes[best] * second - bases[best], _CONSTANT * float(first.std()))


def _near(residual: Values, least: float) -> NDArray[np.bool_]:
    """Return the mask of residuals that are not outliers; at least half."""
    size = np.abs(residual)
    return size <= max(_OUTLIER * 1.4826 * float(np.median(size)), least)


def _compare(
    first: int, second: int, a: NDArray[np.float32], b: NDArray[np.float32]
) -> _Link | None:
    known = np.isfinite(a) & np.isfinite(b)
    pixels = int(known.sum())
    if not pixels:
        return None
    step = -(-pixels // _SAMPLE)
    scale, center, agreement = fit_line(
        a[known][::step].astype(np.float64), b[known][::step].astype(np.float64)
    )
    return _Link(first, second, pixels, scale, center, agreement)


def _solve(count: int, differences: Sequence[tuple[int, int, float, float]]) -> Values:
    """Solve for values x (count,) whose differences x[j] − x[i] best match the given ones.

    Args:
        count: Number of values.
        differences: (i, j, x[j] − x[i], weight).

    Returns:
        The values; their mean is 0 within each group connected by differences.
    """
    values = np.zeros(count)
    if not differences:
        return values
    i, j = (np.array([item[side] for item in differences]) for side in (0, 1))
    wanted, weights = (np.array([item[part] for item in differences]) for part in (2, 3))
    rows, cols = np.concatenate([i, j, i, j]), np.concatenate([i, j, j, i])
    laplacian = coo_array(
        (np.concatenate([weights, weights, -weights, -weights]), (rows, cols)), (count, count)
    ).tocsc()
    right = np.bincount(j, weights * wanted, count) - np.bincount(i, weights * wanted, count)
    _, groups = connected_components(laplacian, directed=False)
    fixed = np.unique(groups, return_index=True)[1]  # one value of each group is fixed at 0
    free = np.setdiff1d(np.arange(count), fixed)
    values[free] = spsolve(laplacian[free][:, free], right[free])
    means = np.bincount(groups, values) / np.bincount(groups)
    return np.asarray(values - means[groups])

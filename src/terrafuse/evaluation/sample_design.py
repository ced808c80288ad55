"""Size and allocation of a stratified reference sample.

Reference:
    Olofsson et al. (2014), Good practices for estimating area and assessing accuracy of land
    change, Remote Sensing of Environment 148:42-57, section 5.1; Cochran (1977), Sampling
    Techniques, equations 5.25 and 5.26.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from terrafuse.errors import ConfigError, unknown_name

Allocation = Literal["good-practice", "proportional", "equal", "neyman"]
ALLOCATIONS: tuple[Allocation, ...] = get_args(Allocation)
#: Share of a mapped class that is expected to be right, where nobody says it.
EXPECTED = 0.8
#: Points of a rare class, as Olofsson et al. recommend, and of any stratum: two give a variance.
RARE, LEAST = 50, 2
_FAINT = 1e-9
Float = NDArray[np.float64]
Int = NDArray[np.int64]


def planned_size(weights: Float, accuracies: Float, standard_error: float, population: int) -> int:
    """Points for a target standard error of the overall accuracy (equation 13 of the paper).

    Args:
        weights: Share of the area of each stratum (H,).
        accuracies: Share of each that is expected to be right (H,).
        standard_error: The target, above 0 and below 0.5.
        population: Number of pixels.

    Raises:
        ConfigError: The target is outside its range, or no error is expected at all.
    """
    if not 0 < standard_error < 0.5:
        raise ConfigError(
            f"--margin is {standard_error:g}; give a standard error above 0 and below 0.5, such "
            "as 0.02"
        )
    deviations = np.sqrt(accuracies * (1 - accuracies))
    spread = float((weights * deviations).sum())
    if spread == 0:
        raise ConfigError(
            "--expect says that nothing is wrong, for which no sample size can be computed; give "
            "a share below 1"
        )
    finite = float((weights * deviations**2).sum()) / population
    return ceil(spread**2 / (standard_error**2 + finite) - 1e-9)


def expected_standard_error(
    weights: Float, accuracies: Float, points: Int, population: Int
) -> float:
    """Standard error of the overall accuracy, were the strata as accurate as expected.

    Args:
        weights: Share of the area of each stratum (H,).
        accuracies: Share of each that is expected to be right (H,).
        points: Sampled in each (H,).
        population: Pixels of each (H,).
    """
    variances = accuracies * (1 - accuracies) * (1 - points / population) / points
    return float(np.sqrt((weights**2 * variances).sum()))


def allocate(
    weights: Float,
    population: Int,
    total: int,
    rule: str = "good-practice",
    *,
    accuracies: Float | None = None,
    minimum: int | None = None,
) -> Int:
    """Points of each stratum (H,); their sum is `total`.

    Args:
        weights: Share of the area of each stratum (H,).
        population: Pixels of each (H,), all above 0.
        total: Points in all.
        rule: "good-practice": in proportion to the area, but 50 at least (where `total` is small,
            half of an equal share); "proportional"; "equal"; "neyman": in proportion to area ×
            expected deviation. No stratum has fewer than two, or more than its pixels.
        accuracies: Share of each that is expected to be right (H,), for "neyman".
        minimum: Points of a stratum at least, instead of the rule's.

    Raises:
        ConfigError: No such rule, or a total that does not suffice for the strata or exceeds them.
    """
    if rule not in ALLOCATIONS:
        raise ConfigError(unknown_name("allocation", rule, ALLOCATIONS))
    count = len(weights)
    if minimum is None:
        minimum = max(LEAST, min(RARE, total // (2 * count))) if rule == ALLOCATIONS[0] else LEAST
    least = np.minimum(population, max(minimum, LEAST))
    if total < least.sum():
        raise ConfigError(
            f"{total} points are too few for {count} strata of {minimum} points or more; give "
            f"-n {int(least.sum())} or more"
        )
    if total > population.sum():
        raise ConfigError(
            f"{total} points are more than the map's {int(population.sum())} pixels; give fewer"
        )
    expected = np.full(count, EXPECTED) if accuracies is None else accuracies
    deviations = np.sqrt(expected * (1 - expected))
    wanted = {
        "equal": np.ones(count),
        "neyman": weights * deviations,
    }.get(rule, weights)
    # A stratum without expected errors still takes what the others have no pixels for.
    wanted = np.maximum(wanted, _FAINT * wanted.max()) if wanted.any() else weights
    return _rounded(_levelled(wanted, least, population, total), least, population, total)


def _levelled(wanted: Float, least: Int, most: Int, total: int) -> Float:
    """Points in proportion to `wanted` between the limits, by bisection of their common factor."""
    low, high = 0.0, float((most / wanted).max())
    for _ in range(200):
        middle = (low + high) / 2
        is_less = np.clip(middle * wanted, least, most).sum() < total
        low, high = (middle, high) if is_less else (low, middle)
    found: Float = np.clip(high * wanted, least, most).astype(np.float64)
    return found


def _rounded(exact: Float, least: Int, most: Int, total: int) -> Int:
    """Whole numbers between the limits with the sum `total`: the largest remainders are raised."""
    found = np.clip(np.floor(exact + 1e-9).astype(np.int64), least, most)
    remainder = exact - found
    while (lacking := total - int(found.sum())) != 0:
        step = 1 if lacking > 0 else -1
        free = found < most if step > 0 else found > least
        chosen = int(np.argmax(np.where(free, step * remainder, -np.inf)))
        found[chosen] += step
        remainder[chosen] -= step
    return found


def expected_accuracies(
    names: Sequence[str], expected: float | dict[str, float] | None, abstained: Sequence[bool]
) -> Float:
    """Share of each stratum that is expected to be right (H,).

    Args:
        names: Of the strata.
        expected: One share, or by class, 0.8 for those that are not named.
        abstained: Whether a stratum is that of pixels without class; half is assumed there, which
            gives the most points.

    Raises:
        ConfigError: A share outside 0 to 1, or of a class that the map does not have.
    """
    by_name = expected if isinstance(expected, dict) else {}
    for name in by_name:
        if name not in names:
            raise ConfigError(unknown_name("class in --expect", name, names))
    base = expected if isinstance(expected, float | int) else EXPECTED
    found = [
        0.5 if is_abstained else float(by_name.get(name, base))
        for name, is_abstained in zip(names, abstained, strict=True)
    ]
    for value in found:
        if not 0 <= value <= 1:
            raise ConfigError(f"--expect has {value:g}; give shares from 0 to 1")
    return np.array(found)

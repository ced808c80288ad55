"""Size and allocation of a reference sample, by the example of Olofsson et al. (2014)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terrafuse.errors import ConfigError
from terrafuse.evaluation import (
    ALLOCATIONS,
    allocate,
    expected_accuracies,
    expected_standard_error,
    planned_size,
)

# Table 5: deforestation, forest gain, stable forest, stable non-forest.
WEIGHTS = np.array([0.020, 0.015, 0.320, 0.645])
ACCURACIES = np.array([0.70, 0.60, 0.90, 0.95])
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])


def test_the_size_of_the_paper() -> None:
    assert planned_size(WEIGHTS, ACCURACIES, 0.01, 10**9) == 641
    # Σ W S = 0.4 for S = 0.4 everywhere: (0.4 / 0.02)² = 400, and of 1,000 pixels
    # 0.16 / (0.0004 + 0.16 / 1000) = 285.7.
    half = np.array([0.5, 0.5])
    assert planned_size(half, np.full(2, 0.8), 0.02, 10**9) == 400
    assert planned_size(half, np.full(2, 0.8), 0.02, 1_000) == 286


def test_the_allocations_of_the_paper() -> None:
    """Equal: 160 each; in proportion: 13, 10, 205, 413."""
    assert allocate(WEIGHTS, PIXELS, 640, "equal").tolist() == [160, 160, 160, 160]
    found = allocate(WEIGHTS, PIXELS, 641, "proportional")
    assert found.tolist() == [13, 10, 205, 413]


def test_good_practice_gives_rare_classes_fifty() -> None:
    """641 - 2 × 50 in the proportion 0.320 : 0.645 are 179.4 and 361.6."""
    assert allocate(WEIGHTS, PIXELS, 641).tolist() == [50, 50, 179, 362]
    # 100 points for 4 classes: half of the equal share of 25.
    assert allocate(WEIGHTS, PIXELS, 100).tolist() == [12, 12, 25, 51]
    assert allocate(WEIGHTS, PIXELS, 641, minimum=100)[:2].tolist() == [100, 100]


def test_neyman_weighs_by_the_expected_deviation() -> None:
    """0.5 × √(0.5 × 0.5) = 0.25 to 0.5 × √(0.9 × 0.1) = 0.15: 5 to 3."""
    weights, accuracies = np.array([0.5, 0.5]), np.array([0.5, 0.9])
    pixels = np.array([10_000, 10_000])
    found = allocate(weights, pixels, 160, "neyman", accuracies=accuracies)
    assert found.tolist() == [100, 60]
    # A stratum without expected errors keeps two points, and takes what others cannot.
    sure = np.array([0.5, 1.0])
    assert allocate(weights, pixels, 160, "neyman", accuracies=sure).tolist() == [158, 2]
    few = np.array([30, 10_000])
    assert allocate(weights, few, 160, "neyman", accuracies=sure).tolist() == [30, 130]


@settings(max_examples=150, deadline=None, database=None)
@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=12),
    st.sampled_from(ALLOCATIONS),
    st.data(),
)
def test_an_allocation_fits(pixels: list[int], rule: str, data: st.DataObject) -> None:
    population = np.array(pixels)
    least = int(np.minimum(population, 2).sum())
    total = data.draw(st.integers(least, min(5_000, int(population.sum()))))
    found = allocate(population / population.sum(), population, total, rule)
    assert found.sum() == total
    assert (found <= population).all()
    assert (found >= np.minimum(population, 2)).all()
    order = np.argsort(population, kind="stable")
    assert (np.diff(found[order]) >= -1).all()  # a larger stratum has no fewer, but for rounding


def test_expected_standard_error_by_hand() -> None:
    """Σ W² U (1 - U) (1 - n / N) / n = 0.25 × (0.16 × 0.9 / 10 + 0.25 × 0.5 / 5)."""
    error = expected_standard_error(
        np.array([0.5, 0.5]), np.array([0.8, 0.5]), np.array([10, 5]), np.array([100, 10])
    )
    assert error**2 == pytest.approx(0.25 * (0.0144 + 0.025))


def test_expectations_by_class() -> None:
    names = ["sea", "ice", "abstained"]
    abstained = [False, False, True]
    assert expected_accuracies(names, None, abstained).tolist() == [0.8, 0.8, 0.5]
    assert expected_accuracies(names, 0.9, abstained).tolist() == [0.9, 0.9, 0.5]
    assert expected_accuracies(names, {"ice": 0.6}, abstained).tolist() == [0.8, 0.6, 0.5]
    with pytest.raises(ConfigError, match=r"unknown class in --expect 'icy'. Did you mean 'ice'"):
        expected_accuracies(names, {"icy": 0.6}, abstained)
    with pytest.raises(ConfigError, match="--expect has 80; give shares from 0 to 1"):
        expected_accuracies(names, 80, abstained)


def test_what_cannot_be_planned() -> None:
    with pytest.raises(ConfigError, match="3 points are too few for 4 strata"):
        allocate(WEIGHTS, PIXELS, 3)
    with pytest.raises(ConfigError, match="more than the map's 5 pixels"):
        allocate(np.array([0.4, 0.6]), np.array([2, 3]), 6)
    with pytest.raises(ConfigError, match=r"unknown allocation 'propotional'. Did you mean"):
        allocate(WEIGHTS, PIXELS, 100, "propotional")
    with pytest.raises(ConfigError, match="--margin is 2; give a standard error above 0"):
        planned_size(WEIGHTS, ACCURACIES, 2, 10**6)
    with pytest.raises(ConfigError, match="--expect says that nothing is wrong"):
        planned_size(WEIGHTS, np.ones(4), 0.02, 10**6)

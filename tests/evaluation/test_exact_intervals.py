"""Intervals of shares and of sums over strata: exact where that can be computed."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from terrafuse.evaluation import ratio_interval, share_interval, sum_interval

ONE = np.array([1.0])
NOTHING = np.array([0.0])


def test_clopper_and_pearson_by_hand() -> None:
    # Nothing of 50: (1 - p)^50 = 0.025. All of 10: p^10 = 0.025.
    assert share_interval(0, 50) == pytest.approx((0, 1 - 0.025 ** (1 / 50)))
    assert share_interval(10, 10) == pytest.approx((0.025**0.1, 1))
    # Of 19 of 20 they are 0.7513 and 0.9987, as tables have them.
    assert share_interval(19, 20) == pytest.approx((0.75127, 0.99873), abs=1e-5)
    low, high = share_interval(1, 4, confidence=0.9)
    assert 1 - (1 - low) ** 4 == pytest.approx(0.05)
    assert (1 - high) ** 4 + 4 * high * (1 - high) ** 3 == pytest.approx(0.05)


def chance(population: int, total: int, sampled: int, found: int) -> float:
    """Probability of `found` of `total` marked ones among `sampled`."""
    if not 0 <= found <= min(total, sampled) or sampled - found > population - total:
        return 0.0
    ways = comb(total, found) * comb(population - total, sampled - found)
    return ways / comb(population, sampled)


@settings(max_examples=40, deadline=None, database=None)
@given(st.data())
def test_few_pixels_are_hypergeometric(data: st.DataObject) -> None:
    """Every total that is not refuted by a tail of the sample is inside, and no other."""
    population = data.draw(st.integers(1, 40))
    sampled = data.draw(st.integers(1, population))
    found = data.draw(st.integers(0, sampled))
    kept = [
        total
        for total in range(found, population - sampled + found + 1)
        if sum(chance(population, total, sampled, n) for n in range(found, sampled + 1)) > 0.025
        and sum(chance(population, total, sampled, n) for n in range(found + 1)) > 0.025
    ]
    low, high = share_interval(found, sampled, population)
    assert (round(low * population), round(high * population)) == (min(kept), max(kept))


def test_a_large_stratum_is_binomial() -> None:
    assert share_interval(3, 50, 50 * 100 + 1) == share_interval(3, 50)
    few = share_interval(3, 50, 200)
    all_ = share_interval(3, 50)
    assert all_[0] < few[0] < 0.06 < few[1] < all_[1]
    assert share_interval(3.5, 50.2, 60) == share_interval(3.5, 50.2)  # pixels weigh differently


@pytest.mark.parametrize(("successes", "sampled"), [(0, 50), (1, 50), (5, 80), (40, 80), (79, 80)])
def test_one_stratum_is_near_clopper_and_pearson(successes: int, sampled: int) -> None:
    counts = np.array([[[successes, sampled - successes]]], float)
    low, high = sum_interval(counts, ONE, NOTHING)
    exact = share_interval(successes, sampled)
    width = exact[1] - exact[0]
    assert float(low[0]) == pytest.approx(exact[0], abs=0.02 * width)
    assert float(high[0]) == pytest.approx(exact[1], abs=0.02 * width)


@pytest.mark.parametrize("found", [0, 1, 4])
def test_rare_events_in_equal_strata_are_one_poisson_count(found: int) -> None:
    """However many strata there are: not one event is added to each of them."""
    strata, sampled = 20, 400
    counts = np.zeros((1, strata, 2))
    counts[..., 1] = sampled
    counts[0, :found] = 1, sampled - 1
    low, high = sum_interval(counts, np.full(strata, 1 / strata), np.zeros(strata))
    events = strata * sampled
    exact_low = stats.chi2.ppf(0.025, 2 * found) / 2 if found else 0.0
    exact_high = stats.chi2.ppf(0.975, 2 * found + 2) / 2
    assert float(high[0]) * events == pytest.approx(exact_high, rel=0.01)
    assert float(low[0]) * events == pytest.approx(exact_low, rel=0.15, abs=0.01)


def test_the_added_event_lies_where_it_changes_most() -> None:
    """A large stratum in which nothing was found still can hold what a pixel of it stands for."""
    counts = np.array([[[48, 2], [0, 100]]], float)
    weights = np.array([0.02, 0.98])
    _, high = sum_interval(counts, weights, np.zeros(2))
    unseen = 0.98 * (1 - 0.025 ** (1 / 100))
    assert 0.95 * 0.02 + unseen < float(high[0]) < 0.02 + unseen
    without = np.array([True, False])  # the class cannot be there
    _, least = sum_interval(counts, weights, np.zeros(2), can_succeed=without)
    assert float(least[0]) < 0.0201


counts_of_strata = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 30)).filter(any), min_size=1, max_size=5
)


@settings(max_examples=60, deadline=None, database=None)
@given(counts_of_strata, st.integers(0, 2**31))
def test_limits_enclose_the_estimate_and_mirror(pairs: list[tuple[int, int]], seed: int) -> None:
    counts = np.array([pairs], float)
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(len(pairs)))
    sampled = rng.uniform(0, 0.9, len(pairs))
    low, high = sum_interval(counts, weights, sampled)
    value = (weights * counts[..., 0] / counts.sum(axis=-1)).sum(axis=-1)
    assert 0 <= low <= value + 1e-9
    assert value - 1e-9 <= high <= 1 + 1e-12
    other_low, other_high = sum_interval(counts[..., ::-1], weights, sampled)
    np.testing.assert_allclose([other_low, other_high], [1 - high, 1 - low], atol=1e-9)
    wide_low, wide_high = sum_interval(counts, weights, sampled, confidence=0.99)
    assert wide_low <= low + 1e-9
    assert wide_high >= high - 1e-9


@pytest.mark.parametrize(("successes", "sampled", "population"), [(30, 60, 80), (2, 50, 100)])
def test_a_small_stratum_is_near_the_hypergeometric(
    successes: int, sampled: int, population: int
) -> None:
    counts = np.array([[[successes, sampled - successes]]], float)
    low, high = sum_interval(counts, ONE, np.array([sampled / population]))
    exact = share_interval(successes, sampled, population)
    assert float(low[0]) == pytest.approx(exact[0], abs=1 / population)
    assert float(high[0]) == pytest.approx(exact[1], abs=1 / population)


def test_a_census_leaves_nothing_open() -> None:
    counts = np.array([[[3, 7], [5, 5]]], float)
    weights = np.array([0.25, 0.75])
    low, high = sum_interval(counts, weights, np.ones(2))
    assert float(low[0]) == float(high[0]) == pytest.approx(0.25 * 0.3 + 0.75 * 0.5)


def test_a_ratio_in_one_stratum_is_a_share() -> None:
    counts = np.array([[[18, 4, 0]]], float)
    low, high = ratio_interval(counts, ONE, NOTHING)
    as_sum = sum_interval(counts[..., :2], ONE, NOTHING)
    np.testing.assert_allclose([low, high], as_sum, atol=1e-9)


def test_a_ratio_without_errors_reaches_one() -> None:
    counts = np.array([[[10, 0, 0], [0, 0, 90]]], float)
    weights = np.array([0.1, 0.9])
    bad = np.array([False, True])
    low, high = ratio_interval(counts, weights, np.zeros(2), can_fail=bad, can_succeed=~bad)
    assert float(high[0]) == 1
    # At most 0.9 (1 - 0.025^(1/90)) of the area was missed, beside the 0.1 that is found.
    missed = 0.9 * (1 - 0.025 ** (1 / 90))
    assert float(low[0]) == pytest.approx(0.1 / (0.1 + missed), abs=0.01)
    none, _ = ratio_interval(counts[..., [1, 0, 2]], weights, np.zeros(2))
    assert float(none[0]) == 0

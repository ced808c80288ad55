"""Areas and accuracies from a sample: published examples, and the formulas written out."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terrafuse.errors import DataError
from terrafuse.evaluation import (
    ANY_CLASS,
    AreaEstimates,
    LabelledPixels,
    Strata,
    estimate_areas,
    share_interval,
)

# Olofsson et al. (2014), table 8: rows = map, columns = reference; Landsat pixels of 0.09 ha.
NAMES = ("deforestation", "forest gain", "stable forest", "stable non-forest")
COUNTS = [[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]
PIXELS = [200_000, 150_000, 3_200_000, 6_450_000]
HECTARE = 0.09
# Stehman (2014), table 2: stratum, map and reference class of 40 pixels.
STRATUM = "A" * 10 + "B" * 10 + "C" * 10 + "D" * 10
MAPPED = "A" * 7 + "B" * 3 + "A" + "B" * 11 + "C" * 6 + "B" * 2 + "D" * 10
TRUTH = "AAAAA" + "CBABCA" + "BBBBB" + "AABB" + "CCCCC" + "DDBBA" + "DDDDDDD" + "CCB"
SIZES = {"A": 40_000, "B": 30_000, "C": 20_000, "D": 10_000}


def from_counts(
    counts: Sequence[Sequence[int]],
    pixels: Sequence[int],
    *,
    names: Sequence[str] = NAMES,
    hectare: float = HECTARE,
    others: Sequence[str] = (),
    own: Sequence[int] | None = None,
) -> AreaEstimates:
    """Estimates where the strata are the rows of the matrix."""
    table = np.array(counts)
    rows, columns = np.indices(table.shape)
    stratum, reference = (np.repeat(x.ravel(), table.ravel()) for x in (rows, columns))
    classes = np.arange(len(pixels)) if own is None else np.array(own)
    strata = Strata(
        (*names, *others), np.array(pixels), np.array(pixels) * hectare, classes
    )  # fmt: skip
    sample = LabelledPixels(stratum, stratum, reference, np.ones(len(stratum)))
    return estimate_areas(strata, sample, names, others=others)


@pytest.fixture(scope="module")
def olofsson() -> AreaEstimates:
    return from_counts(COUNTS, PIXELS)


@pytest.fixture(scope="module")
def stehman() -> AreaEstimates:
    names = sorted(SIZES)
    strata = Strata(
        tuple(names), np.array(list(SIZES.values())), np.array(list(SIZES.values()), float),
        np.full(4, ANY_CLASS),
    )  # fmt: skip
    stratum, mapped, reference = (
        np.array([names.index(letter) for letter in text]) for text in (STRATUM, MAPPED, TRUTH)
    )
    sample = LabelledPixels(stratum, mapped, reference, np.ones(40))
    return estimate_areas(strata, sample, names, unit="px")


def test_areas_of_olofsson(olofsson: AreaEstimates) -> None:
    """Page 54: 21,158 ± 6,158 ha of deforestation; half widths are 1.96 standard errors.

    The paper leaves out the correction for finite strata, which changes them by up to 1 ha.
    """
    found = [one.area for one in olofsson.classes]
    assert [round(e.value) for e in found] == [21_158, 11_686, 285_770, 581_386]
    for e, half in zip(found, (6_158, 3_756, 15_510, 16_282), strict=True):
        assert e.standard_error is not None
        assert 1.96 * e.standard_error == pytest.approx(half, abs=1.5)
    assert found[0].value / HECTARE == pytest.approx(235_086, abs=1)  # pixels
    assert found[0].standard_error is not None
    assert 1.96 * found[0].standard_error / HECTARE == pytest.approx(68_418, abs=5)


def test_accuracies_of_olofsson(olofsson: AreaEstimates) -> None:
    """Two half widths that the paper prints, 0.23 and 0.01, are 0.25 and 0.02 by its equation 7."""
    users = [(0.88, 0.07), (0.73, 0.10), (0.93, 0.04), (0.96, 0.02)]
    producers = [(0.75, 0.21), (0.85, 0.25), (0.93, 0.03), (0.96, 0.02)]
    for one, of_map, of_truth in zip(olofsson.classes, users, producers, strict=True):
        for found, (value, half) in ((one.users, of_map), (one.producers, of_truth)):
            assert found is not None
            assert found.standard_error is not None
            assert found.value == pytest.approx(value, abs=0.005)
            assert 1.96 * found.standard_error == pytest.approx(half, abs=0.0055)
    assert olofsson.overall.value == pytest.approx(0.947, abs=5e-4)
    assert olofsson.overall.standard_error is not None
    assert 1.96 * olofsson.overall.standard_error == pytest.approx(0.018, abs=6e-4)


def test_matrix_of_olofsson(olofsson: AreaEstimates) -> None:
    """Table 9: 0.0176, 0, 0.0013, 0.0011 in the first row."""
    expected = [0.02 * n / 75 for n in COUNTS[0]]
    np.testing.assert_allclose(olofsson.matrix[0], expected)
    assert olofsson.matrix[0].round(4).tolist() == [0.0176, 0, 0.0013, 0.0011]
    assert olofsson.matrix[3].round(4).tolist() == [0.004, 0.002, 0.0179, 0.6212]
    assert olofsson.matrix.sum() == pytest.approx(1)
    assert olofsson.counts.tolist() == COUNTS
    assert olofsson.points == 640


def test_example_1_of_olofsson_2013() -> None:
    """As the R package mapaccuracy has it: the example of its help page."""
    found = from_counts(
        [[97, 0, 3], [3, 279, 18], [2, 1, 97]], [22_353, 1_122_543, 610_228],
        names=("deforestation", "stable forest", "stable non-forest"), hectare=1,
    )  # fmt: skip
    first = found.classes[0]
    # 22,353 × 0.97 + 1,122,543 × 0.01 + 610,228 × 0.02
    assert first.area.value == pytest.approx(45_112.4, abs=0.1)
    # √(22,353² × 0.97 × 0.03 / 99 + 1,122,543² × 0.0099 / 299 + 610,228² × 0.0196 / 99)
    assert first.area.standard_error == pytest.approx(10_751, rel=1e-3)
    assert first.producers is not None
    assert first.producers.value == pytest.approx(0.97 * 22_353 / 45_112.4, rel=1e-5)


def test_values_of_stehman(stehman: AreaEstimates) -> None:
    """Pages 4932 to 4936, and what the R package's examples compute."""
    a, b, c, _ = stehman.classes
    assert b.users is not None
    assert b.producers is not None
    for found, value, error in (
        (a.area.times(1e-5), 0.35, 0.082),
        (c.area.times(1e-5), 0.20, 0.064),
        (stehman.overall, 0.63, 0.085),
        (b.users, 0.574, 0.125),
        (b.producers, 0.794, 0.1165),
    ):
        assert found.value == pytest.approx(value, abs=5e-4)
        assert found.standard_error == pytest.approx(error, abs=5e-4)
    assert stehman.matrix[1, 2] == pytest.approx(0.08)


def by_the_formulas(
    stratum: np.ndarray, part: np.ndarray, whole: np.ndarray, sizes: np.ndarray
) -> tuple[float, float]:
    """Ratio and its standard error, equations 2, 27 and 28 of Stehman (2014) term by term."""
    y_total = x_total = 0.0
    for h, size in enumerate(sizes):
        here = stratum == h
        y_total += size * part[here].mean()
        x_total += size * whole[here].mean()
    ratio = y_total / x_total
    variance = 0.0
    for h, size in enumerate(sizes):
        y, x = part[stratum == h].astype(float), whole[stratum == h].astype(float)
        n = len(y)
        s_y = ((y - y.mean()) ** 2).sum() / (n - 1)
        s_x = ((x - x.mean()) ** 2).sum() / (n - 1)
        s_xy = ((x - x.mean()) * (y - y.mean())).sum() / (n - 1)
        variance += (
            size**2 * (1 - n / size) * (s_y + ratio**2 * s_x - 2 * ratio * s_xy) / n
        )  # fmt: skip
    return ratio, float(np.sqrt(variance)) / x_total


@settings(max_examples=15, deadline=None, database=None)
@given(st.integers(0, 2**31), st.booleans())
def test_estimates_are_the_formulas(seed: int, same_map: bool) -> None:
    rng = np.random.default_rng(seed)
    strata, classes = int(rng.integers(1, 5)), 4
    points = rng.integers(2, 30, strata)
    sizes = points + rng.integers(1, 500, strata)
    stratum = np.repeat(np.arange(strata), points)
    mapped = stratum if same_map else rng.integers(0, classes, len(stratum))
    reference = rng.integers(0, classes, len(stratum))
    found = estimate_areas(
        Strata(
            tuple("abcd"[:strata]), sizes, sizes.astype(float),
            np.arange(strata) if same_map else np.full(strata, ANY_CLASS),
        ),
        LabelledPixels(stratum, mapped, reference, np.full(len(stratum), 7.5)),
        "abcd",
    )  # fmt: skip
    every = np.ones(len(stratum), bool)
    expected = by_the_formulas(stratum, mapped == reference, every, sizes)
    assert (found.overall.value, found.overall.standard_error) == pytest.approx(expected)
    for k, one in enumerate(found.classes):
        is_mapped, is_true = mapped == k, reference == k
        both = is_mapped & is_true
        for estimate, part, whole in (
            (one.area.times(1 / sizes.sum()), is_true, every),
            (one.users, both, is_mapped),
            (one.producers, both, is_true),
        ):
            if not whole.any():
                assert estimate is None
                continue
            assert estimate is not None
            values = estimate.value, estimate.standard_error
            assert values == pytest.approx(by_the_formulas(stratum, part, whole, sizes), abs=1e-9)
            assert estimate.low - 1e-9 <= estimate.value <= estimate.high + 1e-9


def test_users_accuracy_is_exact(olofsson: AreaEstimates) -> None:
    for one, row, k in zip(olofsson.classes, COUNTS, range(4), strict=True):
        assert one.users is not None
        assert (one.users.low, one.users.high) == pytest.approx(share_interval(row[k], sum(row)))
    few = from_counts([[18, 2], [0, 90]], [40, 900], names=("a", "b"))
    users = few.classes[0].users
    assert users is not None
    assert (users.low, users.high) == share_interval(18, 20, 40) != share_interval(18, 20)


def test_intervals_where_no_error_was_found() -> None:
    """Wald's is a point there; a class may still lie in what 50 and 200 pixels have not shown."""
    found = from_counts([[50, 0], [0, 200]], [10_000, 990_000], names=("rare", "rest"), hectare=1)
    rare = found.classes[0]
    assert rare.area.value == 10_000
    assert rare.area.standard_error == 0
    assert rare.area.low == pytest.approx(10_000 * 0.025 ** (1 / 50), rel=0.01)
    unseen = 990_000 * (1 - 0.025 ** (1 / 200))
    assert rare.area.high == pytest.approx(10_000 + unseen, rel=0.01)
    assert rare.producers is not None
    assert rare.producers.value == 1
    assert rare.producers.low == pytest.approx(10_000 / (10_000 + unseen), rel=0.03)
    assert found.overall.high == 1


def test_abstained_pixels_have_a_class_in_truth_only() -> None:
    found = from_counts(
        [[40, 0], [0, 40], [15, 5]], [1_000, 1_000, 2_000], names=("a", "b"),
        others=("abstained",), hectare=1,
    )  # fmt: skip
    assert found.rows == ("a", "b", "abstained")
    assert found.classes[0].area.value == 1_000 + 2_000 * 0.75
    assert found.overall.value == 0.5
    assert found.overall.high == pytest.approx(0.5)  # none of the others can be right
    assert found.overall_of_classed is not None
    assert found.overall_of_classed.value == 1
    assert 0.9 < found.overall_of_classed.low < 0.96
    assert found.classes[0].producers is not None
    assert found.classes[0].producers.value == pytest.approx(1_000 / 2_500)


def test_pixels_of_unequal_area_weigh_by_it() -> None:
    """Of a stratum of 30 ha, sampled pixels of 1 and 2 ha are of the class and one of 3 ha not."""
    strata = Strata(("a",), np.array([1_000]), np.array([30.0]), np.array([0]))
    zeros = np.zeros(3, np.int64)
    sample = LabelledPixels(zeros, zeros, np.array([0, 0, 1]), np.array([1.0, 2.0, 3.0]))
    found = estimate_areas(strata, sample, ("a", "b"))
    assert found.classes[0].area.value == pytest.approx(30 * 3 / 6)
    # e = a / ā × (y - 1/2) = 1/4, 1/2, -3/4; s = √(Σ e² / (3 × 2) × (1 - 3/1000))
    error = np.sqrt((1 / 16 + 1 / 4 + 9 / 16) / 6 * 0.997)
    assert found.classes[0].area.standard_error == pytest.approx(30 * error)
    assert found.matrix.tolist() == [[0.5, 0.5], [0, 0]]


def test_one_point_has_no_variance() -> None:
    found = from_counts([[1, 0], [1, 30]], [500, 900], names=("a", "b"))
    assert found.overall.standard_error is None
    assert found.classes[0].area.standard_error is None
    assert found.classes[0].area.low < found.classes[0].area.value < found.classes[0].area.high
    all_of_it = from_counts([[1, 0], [1, 30]], [1, 900], names=("a", "b"))
    assert all_of_it.overall.standard_error is not None


def test_a_stratum_without_labels_is_refused() -> None:
    with pytest.raises(DataError, match=r"no labelled point lies in 'b', 81 of 126 of the area"):
        from_counts([[30, 2], [0, 0]], [500, 900], names=("a", "b"))


def test_plain_values(olofsson: AreaEstimates) -> None:
    plain = json.loads(json.dumps(olofsson.to_dict()))
    assert plain["unit"] == "ha"
    assert plain["classes"]["forest gain"]["area"]["value"] == pytest.approx(11_686.2, abs=0.1)
    assert plain["counts"]["deforestation"]["stable forest"] == 5
    assert plain["overall_accuracy_of_classed"] is None
    assert set(plain["area_shares"]) == set(NAMES)

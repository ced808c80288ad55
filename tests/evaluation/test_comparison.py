"""Comparison of settings: scores of sums, spreads against known ones, p, correction, letters."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import isnan

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from terrafuse.errors import ConfigError
from terrafuse.evaluation import BoundaryScore
from terrafuse.evaluation.comparison import (
    Comparison,
    Rule,
    RunCounts,
    compare_settings,
    holm,
    letters,
)
from terrafuse.evaluation.comparison.counts import limits_of, score_sums, tallies
from terrafuse.evaluation.comparison.spread import RunScores
from terrafuse.evaluation.resampling import MOST_GROUPS, BlockBootstrap
from terrafuse.evaluation.score_table import SCORES, score_values
from terrafuse.evaluation.scores import ClassMean

NAMES = ("bare", "crop", "water", "wood")
RULE = Rule(NAMES[:2], (0, 1), "present")


@pytest.mark.parametrize("class_mean", ["present", "reference"])
@pytest.mark.parametrize("mean_over", [(0, 1, 2, 3), (1, 3)])
def test_scores_of_sums_are_those_of_the_table(
    class_mean: ClassMean, mean_over: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    confusion = rng.integers(0, 50, (30, 4, 5))
    confusion[:10, 3] = 0  # wood is mapped, but nowhere in the reference
    confusion[5:15, :, 2] = confusion[5:15, 2] = 0  # water is in neither
    confusion[2] = np.diag([5, 6, 7, 8, 9])[:4]
    boundary = rng.integers(0, 9, (30, 4, 2, 2)).cumsum(axis=-1).reshape(30, 4, 4)
    boundary[:5, 1] = boundary[3:8, 0, :2] = 0
    rule = Rule(NAMES, mean_over, class_mean)
    columns = [*SCORES, "iou:water", "iou:bare"]
    flat = RunCounts(tallies(confusion), boundary.astype(np.float64)).flat()
    found = score_sums(flat, columns, rule)
    for row, matrix, own in zip(found, confusion, boundary, strict=True):
        f1 = BoundaryScore(4, 1.0)
        f1.counts = own
        wanted = score_values(matrix, class_mean, f1.f1(), mean_over)
        values = [np.nan if value is None else value for value in wanted.values()]
        assert row[: len(SCORES)] == pytest.approx(values, nan_ok=True)
        for place, k in ((-2, 2), (-1, 0)):
            union = matrix[k].sum() + matrix[:, k].sum() - matrix[k, k]
            iou = matrix[k, k] / union if union else np.nan
            assert row[place] == pytest.approx(iou, nan_ok=True)


def test_what_is_compared_is_named() -> None:
    rule = Rule(NAMES, (0, 2), "present")
    assert rule.columns(None, True) == ["miou", "mpa", "oa", "boundary_f1", "iou:bare", "iou:water"]
    assert rule.columns(["iou:wood", "oa"], False) == ["iou:wood", "oa"]
    assert "boundary_f1" not in rule.columns(None, False)
    with pytest.raises(ConfigError, match="Did you mean 'miou'"):
        rule.columns(["moiu"], True)
    with pytest.raises(ConfigError, match="unknown class 'watr'"):
        rule.columns(["iou:watr"], True)
    with pytest.raises(ConfigError, match="Leave it out"):
        rule.columns(["boundary_f1"], False)


def counts_of(right: NDArray[np.float64], pixels: float = 1000.0) -> RunCounts:
    """Two classes; a share of the pixels of each block is right, of both classes alike."""
    half = np.full_like(right, pixels / 2)
    tally = np.stack([right * half, half, half], axis=-1)
    return RunCounts(np.stack([tally, tally], axis=1), None)


def compare(
    a: list[NDArray[np.float64]],
    b: list[NDArray[np.float64]],
    *,
    widening: float = 1.0,
    paired: bool = False,
    seed: int = 0,
) -> Comparison:
    """Compare shares of right pixels per block, of one run or more."""
    bootstrap = BlockBootstrap(len(a[0]), seed=seed, widening=widening)
    settings = {"A": [counts_of(x) for x in a], "B": [counts_of(x) for x in b]}
    return compare_settings(settings, ["oa"], RULE, bootstrap, paired=paired)


def test_single_runs_are_a_paired_t_test_of_blocks() -> None:
    """Of a score that is linear in blocks of one size."""
    rng = np.random.default_rng(1)
    ground = rng.normal(0.7, 0.1, 60)
    a, b = ground + rng.normal(0.02, 0.05, 60), ground + rng.normal(0, 0.05, 60)
    (effect,) = compare([a], [b]).effects
    t = stats.ttest_rel(a, b)
    wanted = t.confidence_interval()
    assert effect.difference.value == pytest.approx((a - b).mean())
    assert effect.ground == pytest.approx((a - b).std(ddof=1) / np.sqrt(60))
    assert isnan(effect.seeds)
    width = wanted.high - wanted.low
    assert effect.difference.low == pytest.approx(wanted.low, abs=0.06 * width)
    assert effect.difference.high == pytest.approx(wanted.high, abs=0.06 * width)
    assert effect.p == pytest.approx(t.pvalue, abs=0.02)
    # The noncentral t that power is usually computed by, at the difference said to be detectable.
    shift = effect.detectable / effect.ground
    power = stats.nct.sf(stats.t.ppf(0.975, 59), 59, shift)
    assert power == pytest.approx(0.8, abs=0.01)


def test_influence_is_what_a_block_adds_to_the_score() -> None:
    blocks = np.random.default_rng(15).normal(0.7, 0.1, 30)
    found = RunScores.of(counts_of(blocks), ["oa"], RULE, BlockBootstrap(30, draws=10))
    assert found.influence[:, 0] == pytest.approx(blocks - blocks.mean())


def test_seeds_alone_are_a_test_of_welch() -> None:
    """On ground where all blocks are alike."""
    a, b = [0.70, 0.74, 0.69], [0.66, 0.665, 0.67, 0.68, 0.64]
    # Flips count the difference itself as ground, of many blocks next to nothing.
    (effect,) = compare(*([np.full(400, x) for x in own] for own in (a, b))).effects
    welch = stats.ttest_ind(a, b, equal_var=False)
    wanted = welch.confidence_interval()
    assert effect.ground == pytest.approx(0, abs=1e-9)
    assert effect.freedom == pytest.approx(welch.df, rel=1e-6)
    width = wanted.high - wanted.low
    assert effect.difference.high - effect.difference.low == pytest.approx(width, rel=0.15)
    assert effect.p == pytest.approx(welch.pvalue, rel=0.2)


def test_ground_and_seeds_add_up_and_what_both_count_is_taken_off() -> None:
    """The variance said is that of many draws, where seeds differ on each block on their own."""
    rng = np.random.default_rng(2)
    said, values = [], []
    for number in range(150):
        shared = rng.normal(0, 0.04, 40)

        def run(main: float, shared: NDArray[np.float64] = shared) -> NDArray[np.float64]:
            return 0.7 + main + shared + rng.normal(0, 0.08, 40)

        a = [run(x) for x in rng.normal(0, 0.01, 4)]
        shared = np.zeros(40)
        b = [run(x, shared) for x in rng.normal(0, 0.01, 4)]
        bootstrap = BlockBootstrap(40, draws=20, seed=number)
        settings = {"A": [counts_of(x) for x in a], "B": [counts_of(x) for x in b]}
        (effect,) = compare_settings(settings, ["oa"], RULE, bootstrap).effects
        said.append(effect.ground**2 + effect.seeds**2)
        values.append(effect.difference.value)
    ground, seeds, both = 0.04**2 / 40, 2 * 0.01**2 / 4, 2 * 0.08**2 / 4 / 40
    assert np.mean(said) == pytest.approx(ground + seeds + both, rel=0.15)
    assert np.var(values) == pytest.approx(ground + seeds + both, rel=0.3)


def test_paired_seeds_do_not_count_what_they_share() -> None:
    rng = np.random.default_rng(3)
    starts = [0.6, 0.7, 0.65, 0.72]
    blocks = rng.normal(0, 0.01, 50)
    a = [start + 0.02 + blocks + rng.normal(0, 0.01, 50) for start in starts]
    b = [start + blocks + rng.normal(0, 0.01, 50) for start in starts]
    (alone,) = compare(a, b).effects
    (paired,) = compare(a, b, paired=True).effects
    assert alone.difference.value == pytest.approx(paired.difference.value)
    assert alone.better is None
    assert paired.better == "A"
    assert paired.seeds < 0.1 * alone.seeds


def test_a_single_run_takes_the_spread_of_the_other() -> None:
    rng = np.random.default_rng(4)
    many = [np.full(40, x) + rng.normal(0, 1e-4, 40) for x in (0.6, 0.7, 0.65, 0.63)]
    one = [np.full(40, 0.68) + rng.normal(0, 1e-4, 40)]
    (effect,) = compare(one, many).effects
    spread = np.var([x.mean() for x in many], ddof=1)
    assert effect.seeds**2 == pytest.approx(spread * (1 + 1 / 4), rel=0.01)
    assert effect.better is None


def test_correlation_between_blocks_widens() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(0.7, 0.1, 40), rng.normal(0.7, 0.1, 40)
    (narrow,), (wide,) = (compare([a], [b], widening=w).effects for w in (1.0, 4.0))
    own, other = (e.difference for e in (narrow, wide))
    assert wide.ground == pytest.approx(2 * narrow.ground)
    assert other.high - other.low == pytest.approx(2 * (own.high - own.low))
    half = abs(wide.difference.value) / narrow.ground / 2
    assert wide.p == pytest.approx(2 * stats.t.sf(half, 39), abs=0.03)
    assert wide.p > narrow.p + 0.05


def test_few_blocks_tell_nothing() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.normal(0.9, 0.001, 5), rng.normal(0.1, 0.001, 5)
    (effect,) = compare([a], [b]).effects
    assert effect.verdict == "cannot be told apart"
    assert isnan(effect.difference.low)
    assert effect.needs == "6 blocks or more; there are 5"
    assert effect.to_dict()["p"] is None
    (effect,) = compare([np.r_[a, 0.9, 0.9]], [np.r_[b, 0.1, 0.1]]).effects
    assert effect.better == "A"


def test_intervals_end_where_the_score_does() -> None:
    """Of seeds that find a class or do not; Student's t of two reaches beyond all scores."""
    found, missed = np.full(30, 0.9), np.full(30, 0.01)
    compared = compare([found, missed], [missed, found])
    values, (effect,) = compared.values["A"]["oa"], compared.effects
    assert (values.low, values.high) == (0, 1)
    assert (effect.difference.low, effect.difference.high) == (-1, 1)
    assert (limits_of("kappa"), limits_of("iou:bare")) == ((-1, 1), (0, 1))


def test_a_class_in_few_blocks_tells_nothing_of_itself() -> None:
    rng = np.random.default_rng(7)
    tally = np.zeros((40, 2, 3))
    tally[:, 0] = (80, 100, 100)
    tally[:5, 1] = (0, 10, 0)
    other = tally.copy()
    other[:5, 1] = (10, 10, 10)
    other[:, 0, 0] += rng.integers(0, 9, 40)
    settings = {"A": [RunCounts(tally, None)], "B": [RunCounts(other, None)]}
    columns = ["iou:bare", "iou:crop"]
    found = compare_settings(settings, columns, RULE, BlockBootstrap(40)).effects
    assert [effect.blocks for effect in found] == [40, 5]
    assert found[0].better == "B"
    assert found[1].better is None
    assert found[1].difference.value == -1


def test_a_run_is_not_better_than_itself() -> None:
    rng = np.random.default_rng(8)
    a = rng.normal(0.7, 0.1, 30)
    (effect,) = compare([a], [a]).effects
    assert (effect.difference.value, effect.difference.low, effect.difference.high) == (0, 0, 0)
    assert effect.p == 1
    assert effect.needs == "there is no difference"


def test_what_is_missing_would_be_enough() -> None:
    """Of so much more ground as is said, the difference is what is detectable."""
    rng = np.random.default_rng(9)
    difference = rng.normal(0, 0.1, 50)
    difference += 0.02 - difference.mean()
    a, b = np.full(50, 0.7) + difference, np.full(50, 0.7)
    (effect,) = compare([a], [b]).effects
    times = float(effect.needs.split()[0])
    assert effect.needs.endswith("times the ground")
    more = int(times * 10 + 1)
    (again,) = compare([np.resize(a, 5 * more)], [np.resize(b, 5 * more)]).effects
    assert again.detectable == pytest.approx(0.02, rel=0.1)


def test_more_blocks_than_groups_change_no_spread() -> None:
    rng = np.random.default_rng(10)
    number = MOST_GROUPS + 7
    a, b = rng.normal(0.71, 0.1, number), rng.normal(0.7, 0.1, number)
    bootstrap = BlockBootstrap(number, draws=100)
    grouped = {}
    for name, own in {"A": a, "B": b}.items():
        counts = counts_of(own).confusion
        summed = np.zeros((MOST_GROUPS, *counts.shape[1:]))
        np.add.at(summed, bootstrap.groups, counts)
        grouped[name] = [RunCounts(summed, None)]
    (effect,) = compare_settings(grouped, ["oa"], RULE, bootstrap).effects
    assert effect.ground == pytest.approx((a - b).std(ddof=1) / np.sqrt(number), rel=0.05)
    assert effect.difference.value == pytest.approx((a - b).mean())


def test_every_pair_or_all_against_one() -> None:
    rng = np.random.default_rng(11)
    base = rng.normal(0.6, 0.1, 50)
    settings = {
        name: [counts_of(base + gain + rng.normal(0, 0.01, 50))]
        for name, gain in (("low", 0.0), ("same", 0.0), ("high", 0.1))
    }
    bootstrap = BlockBootstrap(50)
    found = compare_settings(settings, ["oa", "miou"], RULE, bootstrap)
    assert [(e.a, e.b) for e in found.of("oa")] == list(combinations(settings, 2))
    assert found.best("oa") == "high"
    assert found.not_told_from("oa", "low") == ["same"]
    assert found.not_told_from("oa", "high") == []
    for own in (found.of("oa"), found.of("miou")):
        assert [e.p_holm for e in own] == pytest.approx(list(holm([e.p for e in own])))
    against = compare_settings(settings, ["oa"], RULE, bootstrap, against="same")
    assert [(e.a, e.b) for e in against.effects] == [("low", "same"), ("high", "same")]
    (low, high) = against.effects
    assert (low.better, high.better) == (None, "high")
    assert (low.verdict, high.verdict) == ("cannot be told apart", "a is better")


def test_what_is_found_is_decided_by_p_over_the_comparisons_of_its_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of moderate p, which a correction changes; IoUs of all classes are one table."""
    given = iter([[0.02, 0.004, 0.03], [0.03, 0.012, 0.02], [0.9, 0.04, 0.5]])
    monkeypatch.setattr(
        "terrafuse.evaluation.comparison.compare.SignFlips.p", lambda *_: np.array(next(given))
    )
    rng = np.random.default_rng(13)
    settings = {name: [counts_of(rng.normal(0.7, 0.1, 20))] for name in "ABC"}
    columns = ["oa", "iou:bare", "iou:crop"]
    found = compare_settings(settings, columns, RULE, BlockBootstrap(20, draws=50))
    for column, corrected in {
        "oa": [0.06, 0.06, 0.9], "iou:bare": [0.024, 0.06, 0.09], "iou:crop": [0.09, 0.08, 0.5],
    }.items():  # fmt: skip
        assert [e.p_holm for e in found.of(column)] == pytest.approx(corrected)
    assert [e.better is None for e in found.of("oa")] == [True] * 3
    assert [e.better is None for e in found.of("iou:bare")] == [False, True, True]


def test_of_errors_less_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = replace(SCORES["oa"], higher_is_better=False)
    blocks = np.random.default_rng(14).normal(0.5, 0.05, 30)
    found = compare([blocks + 0.1], [blocks])
    assert (found.effects[0].better, found.best("oa")) == ("A", "A")
    monkeypatch.setitem(SCORES, "oa", kind)
    assert (found.effects[0].better, found.best("oa")) == ("B", "B")


def test_correction_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, np.nan, 0.7]) == pytest.approx([1, np.nan, 1], nan_ok=True)
    assert holm([]).size == 0


def test_correction_and_t_are_those_of_statsmodels() -> None:
    multitest = pytest.importorskip(
        "statsmodels.stats.multitest", reason="statsmodels is in the extra 'dev'"
    )
    weighted = pytest.importorskip("statsmodels.stats.weightstats")
    rng = np.random.default_rng(12)
    for size in (1, 2, 7, 190):
        p = rng.random(size) ** 3
        assert holm(list(p)) == pytest.approx(multitest.multipletests(p, method="holm")[1])
    a, b = rng.normal(0.7, 0.1, 80), rng.normal(0.66, 0.1, 80)
    (effect,) = compare([a], [b]).effects
    own = weighted.DescrStatsW(a - b)
    low, high = own.tconfint_mean()
    assert effect.ground == pytest.approx(own.std_mean)
    assert effect.difference.low == pytest.approx(low, abs=0.05 * (high - low))
    assert effect.difference.high == pytest.approx(high, abs=0.05 * (high - low))
    assert effect.p == pytest.approx(own.ttest_mean()[1], abs=0.01)


def test_rows_that_share_a_letter_cannot_be_told_apart() -> None:
    found = letters(["p", "q", "r", "s"], [("p", "r"), ("p", "s"), ("q", "s")])
    assert found == {"p": "a", "q": "ab", "r": "bc", "s": "c"}
    assert letters(["p", "q"], []) == {"p": "a", "q": "a"}


@pytest.mark.parametrize("seed", range(5))
def test_letters_say_all_pairs_and_no_others(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"row {k}" for k in range(9)]
    apart = [pair for pair in combinations(names, 2) if rng.random() < 0.4]
    found = letters(names, apart)
    for one, other in combinations(names, 2):
        shared = set(found[one]) & set(found[other])
        assert bool(shared) == ((one, other) not in apart)

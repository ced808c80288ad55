"""What each modality brings: exact on constructed cases, and from evidence."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from small_evidence import IGNORED, evidence_of
from terrafuse.errors import ScoresError
from terrafuse.evaluation import score
from terrafuse.evaluation.blocks import find_blocks
from terrafuse.evaluation.resampling import BlockBootstrap
from terrafuse.evaluation.synergy import (
    PARTS,
    StressTest,
    interactions,
    shapley_shares,
    split_shares,
    synergy_report,
)

GAMES = st.integers(1, 5).flatmap(
    lambda n: arrays(np.float64, (2**n, 2), elements=st.floats(-1, 1))
)


@settings(max_examples=25, deadline=None)
@given(GAMES)
def test_shares_interactions_and_parts_add_up_to_the_gain(values: np.ndarray) -> None:
    gain = values[-1] - values[0]
    shares, parts = shapley_shares(values), split_shares(values)
    assert np.abs(shares.sum(axis=0) - gain).max() < 1e-9
    alone = sum(values[1 << i] - values[0] for i in range(len(shares)))
    assert np.abs(alone + sum(interactions(values).values()) - gain).max() < 1e-9
    together = sum(getattr(parts, name) for name in PARTS)
    assert np.abs(together - shares).max() < 1e-9
    for part in (parts.unique, parts.redundant, parts.synergistic):
        assert part.min() > -1e-9
    assert parts.conflict.sum(axis=0).max() < 1e-9


@settings(max_examples=25, deadline=None)
@given(GAMES, st.integers(0, 2**31))
def test_names_do_not_matter(values: np.ndarray, seed: int) -> None:
    """Symmetry: the shares of renamed modalities are the renamed shares."""
    number = len(values).bit_length() - 1
    new = np.random.default_rng(seed).permutation(number)
    renamed = np.empty_like(values)
    for own in range(len(values)):
        renamed[sum(1 << new[i] for i in range(number) if own >> i & 1)] = values[own]
    assert np.abs(shapley_shares(renamed)[new] - shapley_shares(values)).max() < 1e-9
    ours, theirs = split_shares(values), split_shares(renamed)
    for name in PARTS:
        assert np.abs(getattr(theirs, name)[new] - getattr(ours, name)).max() < 1e-9
    pairs, others = interactions(values), interactions(renamed)
    for (i, j), value in pairs.items():
        one, two = sorted((new[i], new[j]))
        assert np.abs(others[one, two] - value).max() < 1e-9


@settings(max_examples=20, deadline=None)
@given(GAMES, st.integers(0, 4), st.integers(0, 4))
def test_equal_modalities_share_equally_and_an_idle_one_gets_nothing(
    values: np.ndarray, one: int, two: int
) -> None:
    number = len(values).bit_length() - 1
    one, two = one % number, two % number
    for own in range(len(values)):
        a, b = own >> one & 1, own >> two & 1
        if a > b:
            values[own] = values[own ^ 1 << one ^ 1 << two]
    shares = shapley_shares(values)
    assert np.abs(shares[one] - shares[two]).max() < 1e-9
    doubled = np.concatenate([values, values])  # a further modality that changes nothing
    assert np.abs(shapley_shares(doubled)[-1]).max() < 1e-9
    for name in ("unique", "redundant", "synergistic"):
        assert np.abs(getattr(split_shares(doubled), name)[-1]).max() < 1e-9


def test_shares_of_three_are_the_mean_over_orders() -> None:
    values = np.array([0, 3, 5, 11, 2, 8, 7, 20.0])
    expected = np.zeros(3)
    for order in permutations(range(3)):
        own = 0
        for i in order:
            expected[i] += (values[own | 1 << i] - values[own]) / 6
            own |= 1 << i
    assert shapley_shares(values) == pytest.approx(expected, abs=1e-12)
    # 2/3 · (δ(none) / 1 + δ(third) / 2): of the first two 3 and 20 − 8 − 7 + 2.
    assert interactions(values)[0, 1] == pytest.approx(2 / 3 * (3 + 7 / 2), abs=1e-12)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([0.1, 0.7, 0.7, 0.7], (0, 0.6, 0, 0), id="copies"),
        pytest.param([0.1, 0.3, 0.4, 0.6], (0.5, 0, 0, 0), id="parts that add up"),
        pytest.param([0.5, 0.5, 0.5, 1.0], (0, 0, 0.5, 0), id="exclusive or"),
        pytest.param([0, 0.5, 0.6, 0.8], (0.5, 0.3, 0, 0), id="overlap"),
        pytest.param([0, 0.2, 0.3, 0.8], (0.5, 0, 0.3, 0), id="more together"),
        pytest.param([0, 10, 0, 8], (10, 0, 0, -2), id="one disturbs"),
        pytest.param([0, 10, 6, 8], (4, 6, 0, -2), id="overlap and disturbed"),
        pytest.param([0.2, 0.1, 0.2, 0.2], (0, 0, 0, 0), id="useless"),
        pytest.param([0] + [1] * 7, (0, 1, 0, 0), id="three copies"),
        pytest.param([0] * 7 + [1], (0, 0, 1, 0), id="parity of three"),
    ],
)
def test_parts_are_exact(values: list[float], expected: tuple[float, ...]) -> None:
    parts = split_shares(np.array(values, np.float64))
    found = [getattr(parts, name).sum() for name in PARTS]
    assert found == pytest.approx(expected, abs=1e-9)


def test_synergy_of_one_pair_does_not_hide_redundancy_of_another() -> None:
    values = np.array(
        [(0.5 if own & 3 == 3 else 0) + (0.3 if own & 12 else 0) for own in range(16)]
    )
    parts = split_shares(values)
    assert parts.synergistic == pytest.approx([0.25, 0.25, 0, 0], abs=1e-9)
    assert parts.redundant == pytest.approx([0, 0, 0.15, 0.15], abs=1e-9)
    assert np.abs(parts.unique).max() < 1e-9


# --- from evidence ----------------------------------------------------------------------------

NAMES = ("s1", "s2")
SUBSETS = (("s1", "s2"), ("s1",), ("s2",))


def _maps(decide: Callable[[set[str]], np.ndarray]) -> list[list[np.ndarray]]:
    return [[decide(set(subset)).astype(np.uint8)] for subset in SUBSETS]


def _report(labels: np.ndarray, maps: Any, **options: Any) -> dict[str, Any]:
    evidence = evidence_of([labels], maps, subsets=SUBSETS, **options)
    return synergy_report(evidence, draws=50, side_px=64)


def _parts(quantity: dict[str, Any]) -> list[float]:
    return [quantity["parts"][name]["value"] for name in PARTS]


def test_copies_are_redundant_in_scores_and_in_information() -> None:
    labels = np.random.default_rng(0).integers(0, 3, (128, 192)).astype(np.uint8)
    report = _report(labels, _maps(lambda _: labels))
    for quantity in (report["mean"], report["information"]):
        gain = quantity["gain"]["value"]
        assert _parts(quantity) == pytest.approx([0, gain, 0, 0], abs=1e-9)
        assert gain > 0.5


def test_an_exclusive_or_is_synergy_in_scores_and_in_information() -> None:
    """Each bit alone says nothing of the class, so that the best map is a constant one."""
    rng = np.random.default_rng(1)
    one, two = rng.integers(0, 2, (2, 128, 192))
    one[:64], two[:64] = 0, 1  # class 1 is the most frequent one
    labels = (one ^ two).astype(np.uint8)
    maps = _maps(lambda own: labels if len(own) == 2 else np.ones_like(labels))
    report = _report(labels, maps, classes=2)
    assert report["most_frequent_class"] == "crop"
    for quantity in (report["mean"], report["information"], *report["per_class"].values()):
        gain = quantity["gain"]["value"]
        assert _parts(quantity) == pytest.approx([0, 0, gain, 0], abs=1e-9)
    assert report["information"]["gain"]["value"] == pytest.approx(
        -sum(p * np.log2(p) for p in np.bincount(labels.ravel()) / labels.size), abs=1e-9
    )
    share = quantity["shares"]["s1"]
    assert share["value"] == pytest.approx(gain / 2, abs=1e-9)
    assert share["low"] <= share["value"] <= share["high"]


def test_modalities_that_know_different_classes_are_unique() -> None:
    """Class 0 fills half; s1 finds class 1, s2 class 2, and neither takes one for the other."""
    labels = np.zeros((64, 128), np.uint8)
    labels[:, 64:96], labels[:, 96:] = 1, 2

    def decide(own: set[str]) -> np.ndarray:
        found = np.zeros_like(labels)
        for name, known in (("s1", 1), ("s2", 2)):
            if name in own:
                found[labels == known] = known
        return found

    report = _report(labels, _maps(decide))
    for name, owner in (("crop", "s1"), ("water", "s2")):
        quantity = report["per_class"][name]
        assert _parts(quantity) == pytest.approx([1, 0, 0, 0], abs=1e-9)
        assert quantity["parts_of"][owner]["unique"]["value"] == pytest.approx(1, abs=1e-9)


def test_values_are_those_of_the_scores_and_of_the_most_frequent_class() -> None:
    rng = np.random.default_rng(2)
    labels = rng.choice([0, 1, 2, IGNORED], (70, 130), p=[0.5, 0.3, 0.1, 0.1]).astype(np.uint8)
    maps = [[rng.choice([0, 1, 2, IGNORED], labels.shape).astype(np.uint8)] for _ in SUBSETS]
    evidence = evidence_of([labels], maps, subsets=SUBSETS, scored_classes=["bare", "water"])
    report = synergy_report(evidence, draws=20)
    for number, subset in enumerate(SUBSETS):
        matrix = evidence.counts("confusion", subset=number).sum(axis=0)
        expected = score(matrix, mean_over=(0, 2)).miou
        assert report["mean"]["subsets"]["+".join(subset)]["value"] == pytest.approx(expected)
    known = labels[labels != IGNORED]
    assert report["per_class"]["bare"]["none"]["value"] == pytest.approx((known == 0).mean())
    assert report["mean"]["none"]["value"] == pytest.approx((known == 0).mean() / 2)
    assert report["mean"]["last"]["s2"]["value"] == pytest.approx(
        report["mean"]["subsets"]["s1+s2"]["value"] - report["mean"]["subsets"]["s1"]["value"]
    )


def test_intervals_are_of_the_shares_in_draws_of_blocks() -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, (128, 192)).astype(np.uint8)
    share_wrong = rng.random((3, 2, 3)).repeat(64, axis=1).repeat(64, axis=2) / 2
    maps = [[np.where(rng.random(labels.shape) < own, 2, labels)] for own in share_wrong]
    evidence = evidence_of([labels], maps, subsets=SUBSETS)
    found = synergy_report(evidence, draws=25, side_px=64)["mean"]["shares"]["s1"]
    counts = [evidence.counts("confusion", subset=k) for k in range(3)]  # a cell is a block
    drawn = []
    for weights in BlockBootstrap(6, 25).weights:
        matrices = [np.einsum("b,bij->ij", weights, own) for own in counts]
        constant = np.zeros((3, 4))
        constant[:, evidence.counts("confusion").sum(axis=(0, 2)).argmax()] = matrices[0].sum(
            axis=1
        )
        both, one, two, none = (
            np.mean([m[k, k] / (m[k].sum() + m[:, k].sum() - m[k, k]) for k in range(3)])
            for m in (*matrices, constant)
        )
        drawn.append(((one - none) + (both - two)) / 2)
    widening = find_blocks([evidence], 64).widening
    expected = BlockBootstrap(6, 25, widening=widening).interval(found["value"], np.array(drawn))
    assert found["low"] == pytest.approx(expected.low, abs=1e-9)
    assert found["high"] == pytest.approx(expected.high, abs=1e-9)
    assert found["low"] < found["value"] < found["high"]


def test_confidence_that_does_not_fall_is_told() -> None:
    """Alone s2 is right in 3 of 4 pixels and as sure as both are, which are always right."""
    labels = np.zeros((64, 128), np.uint8)
    wrong = labels.copy()
    wrong[:, ::4] = 1
    maps = [[labels], [labels], [wrong]]
    sure = [np.full(labels.shape, c, np.float32) for c in (0.96, 0.5, 0.96)]
    sure[2][:, 1::4] = 0.7
    evidence = evidence_of([labels], maps, [[own] for own in sure], subsets=SUBSETS, classes=2)
    full, _, alone = synergy_report(evidence, draws=20, side_px=64)["confidence"]
    assert full["subset"] == ["s1", "s2"]
    assert full["ece"]["value"] == pytest.approx(0.04, abs=1e-6)
    assert full["confident_errors"]["value"] == 0
    assert alone["accuracy"]["value"] == 0.75
    assert alone["confidence"]["value"] == pytest.approx(0.75 * 0.96 + 0.25 * 0.7, abs=1e-6)
    assert alone["confident_errors"]["value"] == 0.25
    # |2/3 − 0.96| of three quarters, |1 − 0.7| of the rest.
    assert alone["ece"]["value"] == pytest.approx(0.75 * (0.96 - 2 / 3) + 0.25 * 0.3, abs=1e-6)
    assert alone["fall"]["accuracy"]["value"] == 0.25
    assert alone["fall"]["not_noticed"]["value"] == pytest.approx(0.25 - 0.065, abs=1e-6)
    # The most confident half is as good as the three quarters it is of.
    assert alone["abstention"]["0.5"] == pytest.approx(2 / 3)
    assert alone["abstention"]["1"] == pytest.approx(0.75)
    assert sum(row["share"] for row in alone["reliability"]) == pytest.approx(1)


def test_tests_are_paired_with_the_scores() -> None:
    labels = np.random.default_rng(3).integers(0, 2, (64, 512)).astype(np.uint8)
    good = _maps(lambda _: labels)
    evidence = evidence_of([labels], good, subsets=SUBSETS, classes=2)
    half = np.where(np.arange(512) < 256, labels, 0).astype(np.uint8)
    altered = evidence_of([labels], [[half]], subsets=SUBSETS[:1], classes=2)
    test = StressTest("shift", "s2", 4, "px", altered)
    (row,) = synergy_report(evidence, tests=[test], draws=50, side_px=64)["tests"]
    expected = score(altered.counts("confusion").sum(axis=0)).miou
    assert row["scores"]["mean"]["value"] == pytest.approx(expected)
    assert row["change"]["mean"]["value"] == pytest.approx(expected - 1)
    assert row["change"]["mean"]["low"] < row["change"]["mean"]["value"]
    assert set(row["change"]["classes"]) == {"bare", "crop"}


def test_missing_subsets_and_other_scenes_are_refused() -> None:
    labels = np.zeros((64, 64), np.uint8)
    evidence = evidence_of([labels], [[labels], [labels]], subsets=SUBSETS, classes=2)
    with pytest.raises(ScoresError, match=r"s2 were not scored.*--subsets"):
        synergy_report(evidence)
    whole = evidence_of([labels], _maps(lambda _: labels), subsets=SUBSETS, classes=2)
    other = evidence_of([labels + 1], [[labels]], subsets=SUBSETS[:1], classes=2)
    with pytest.raises(ScoresError, match="test 'cloud' of s2 is of other scenes"):
        synergy_report(whole, tests=[StressTest("cloud", "s2", 0.3, "share", other)])
    same = evidence_of([labels], [[labels]], subsets=SUBSETS[:1], classes=2)
    test = StressTest("cloud", "s2", 0.3, "share", same)
    assert synergy_report(whole, tests=[test], draws=5)["tests"][0]["test"] == "cloud"


def test_subsets_are_numbered_by_their_modalities() -> None:
    """A game of three: each subset has its own accuracy, whatever the order it was scored in."""
    rng = np.random.default_rng(5)
    names = ("a", "b", "c")
    subsets = [own for size in (3, 2, 1) for own in combinations(names, size)]
    labels = rng.integers(0, 2, (64, 128)).astype(np.uint8)
    maps = []
    for number, _ in enumerate(subsets):
        flipped = rng.random(labels.shape) < 0.05 * number
        maps.append([np.where(flipped, 1 - labels, labels).astype(np.uint8)])
    report = synergy_report(
        evidence_of([labels], maps, subsets=subsets, classes=2), draws=10, side_px=64
    )
    found = report["mean"]["subsets"]
    assert list(found) == ["+".join(own) for own in subsets]
    assert [v["value"] for v in found.values()] == sorted(
        (v["value"] for v in found.values()), reverse=True
    )
    last = found["a+b+c"]["value"] - found["a+c"]["value"]
    assert report["mean"]["last"]["b"]["value"] == pytest.approx(last)

"""Places worth a look: which cells are chosen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from terrafuse.evaluation import Evidence, find_places

from ..helpers.small_evidence import evidence_of

CELLS = 12


def scene_of(wrong: dict[int, int], sure: dict[int, float] | None = None) -> Evidence:
    """A row of cells with two classes; so many wrong pixels and this confidence in some of them."""
    labels = np.zeros((64, 64 * CELLS), np.uint8)
    labels[:, ::2] = 1
    labels[:, : 64 * 2] = 0  # the first two cells have one class
    found, confidence = labels.copy(), np.full(labels.shape, 0.9, np.float32)
    for cell, number in wrong.items():
        flip(found, cell, number)
    for cell, value in (sure or {}).items():
        confidence[:, 64 * cell : 64 * cell + 64] = value
    own = None if sure is None else [[confidence]]
    return evidence_of([labels], [[found]], own, classes=2, subsets=[("s1",)])


def flip(found: NDArray[np.uint8], cell: int, number: int) -> None:
    block = found[:, 64 * cell : 64 * cell + 64]
    rows = np.arange(number) // 64, np.arange(number) % 64
    block[rows] = 1 - block[rows]


def test_the_most_wrong_come_first_and_neighbours_are_left_out() -> None:
    wrong = {2: 100, 3: 4000, 4: 3000, 9: 200}
    places = find_places(scene_of(wrong), most=2)
    worst = [place for place in places if place.kind == "most wrong"]
    assert [place.col for place in worst] == [3 * 64 + 32, 9 * 64 + 32]  # 4 is beside 3
    assert worst[0].wrong == 4000 / 64**2
    assert worst[0].row == 32
    assert np.isnan(worst[0].confidence)
    assert not [place for place in places if place.kind == "least sure"]


def test_the_best_has_more_than_one_class() -> None:
    wrong = dict.fromkeys(range(2, CELLS), 50) | {7: 3}
    best = [place for place in find_places(scene_of(wrong), most=1) if place.kind == "best"]
    assert [place.col for place in best] == [7 * 64 + 32]


def test_the_least_sure_are_found_where_nothing_is_wrong() -> None:
    places = find_places(scene_of({}, {5: 0.6, 10: 0.55, 0: 0.8}), most=2)
    assert [place.kind for place in places[:2]] == ["least sure", "least sure"]
    assert [place.col for place in places[:2]] == [10 * 64 + 32, 5 * 64 + 32]
    assert abs(places[0].confidence - 0.55) < 1e-6


def test_cells_with_few_labels_are_left_out() -> None:
    labels = np.full((64, 128), 255, np.uint8)
    labels[:10, :64] = 0  # 16 %
    labels[:, 64:] = 0
    found = np.where(labels == 255, 0, labels).astype(np.uint8)
    found[0, :64] = 1
    found[0, 64:80] = 1
    evidence = evidence_of([labels], [[found]], classes=2, subsets=[("s1",)])
    assert [place.col for place in find_places(evidence)] == [96]


def test_chips_smaller_than_a_cell_are_places() -> None:
    labels = np.zeros((20, 20), np.uint8)
    found = labels.copy()
    found[:3] = 1
    evidence = evidence_of([labels], [[found]], classes=2, subsets=[("s1",)])
    (place,) = find_places(evidence)
    assert (place.row, place.col) == (10, 10)

"""The vectors are those of the written definitions; torchmetrics is a second opinion."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics import functional as oracle

from golden_files import load_facts
from terrafuse.evaluation import (
    SCORES,
    ConfusionMatrix,
    score,
    score_classes,
    score_values,
    subset_report,
)

MATRIX = np.array([[50, 10, 0], [5, 30, 5], [0, 0, 0]])


def test_vector_over_all_classes() -> None:
    scores = score(MATRIX)
    assert scores.oa == pytest.approx(0.8)
    assert scores.miou == pytest.approx(0.4564, abs=5e-5)
    assert scores.mpa == pytest.approx(0.7917, abs=5e-5)
    assert scores.mf1 == pytest.approx(0.5399, abs=5e-5)
    assert scores.kappa == pytest.approx(0.6078, abs=5e-5)
    assert scores.fwiou == pytest.approx(0.7015, abs=5e-5)
    assert scores.boundary_f1 is None
    assert scores.averaged == {"miou": 3, "mpa": 2, "mf1": 3, "boundary_f1": 0}


def test_vector_over_classes_of_the_reference() -> None:
    scores = score(MATRIX, "reference")
    assert scores.miou == pytest.approx(0.6846, abs=5e-5)
    assert scores.mf1 == pytest.approx(0.8098, abs=5e-5)
    assert scores.mpa == score(MATRIX).mpa
    assert scores.averaged == {"miou": 2, "mpa": 2, "mf1": 2, "boundary_f1": 0}


def test_vector_per_class() -> None:
    classes = score_classes(MATRIX)
    assert classes.iou == pytest.approx([0.7692, 0.6, 0.0], abs=5e-5)
    assert classes.f1 == pytest.approx([0.8696, 0.75, 0.0], abs=5e-5)
    assert classes.recall == pytest.approx([0.8333, 0.75, np.nan], abs=5e-5, nan_ok=True)
    assert classes.precision == pytest.approx([50 / 55, 0.75, 0.0])
    assert classes.pixels.tolist() == [60, 40, 0]
    assert classes.predicted.tolist() == [55, 40, 5]


def test_only_the_global_matrix_makes_the_mean_iou() -> None:
    a, b = np.array([[90, 10], [0, 0]]), np.array([[0, 0], [50, 50]])
    assert score(a + b).miou == pytest.approx(0.5273, abs=5e-5)
    tiles = [score(m).miou or 0 for m in (a, b)]
    assert np.mean(tiles) == pytest.approx(0.35)
    assert np.mean([score(m, "reference").miou or 0 for m in (a, b)]) == pytest.approx(0.70)


def test_nothing_scored_is_undefined_never_0_or_1() -> None:
    report = subset_report(np.zeros((2, 2), np.int64), ["a", "b"])
    assert set(report["scores"].values()) == {None}
    assert set(report["averaged"].values()) == {0}
    assert report["per_class"]["a"] == {
        "iou": None, "f1": None, "recall": None, "precision": None, "boundary_f1": None,
        "pixels": 0, "predicted": 0,
    }  # fmt: skip


def test_an_absent_class_is_left_out_and_a_wrongly_mapped_one_is_not() -> None:
    absent = score(np.diag([5, 7, 0]))
    assert (absent.miou, absent.averaged["miou"]) == (1.0, 2)
    wrong = score(np.array([[5, 0, 1], [0, 7, 0], [0, 0, 0]]))
    assert wrong.averaged["miou"] == 3
    assert wrong.miou == pytest.approx((5 / 6 + 1 + 0) / 3)


def test_kappa_is_undefined_if_chance_agrees_with_itself() -> None:
    scores = score(np.array([[9, 0], [0, 0]]))
    assert scores.oa == 1
    assert scores.kappa is None


def test_kappa_of_more_pixels_than_int64_can_multiply() -> None:
    assert score(MATRIX * 10**9).kappa == pytest.approx(score(MATRIX).kappa)


def test_boundary_scores_take_part_in_the_rules() -> None:
    boundary = np.array([0.5, np.nan, 0.1])
    assert score(MATRIX, boundary_f1=boundary).boundary_f1 == pytest.approx(0.3)
    scores = score(MATRIX, "reference", boundary)
    assert (scores.boundary_f1, scores.averaged["boundary_f1"]) == (0.5, 1)
    per_class = subset_report(MATRIX, "abc", boundary_f1=boundary)["per_class"]
    assert [per_class[name]["boundary_f1"] for name in "abc"] == [0.5, None, 0.1]


@pytest.mark.parametrize(
    ("rules", "mean_over"), [("isprs", range(5)), ("mmhunan", None), ("mmhunan", range(7))]
)
def test_published_scores(rules: str, mean_over: Any) -> None:
    """Recorded from the MFNet code. ISPRS: clutter, class 5, is in the matrix, not in the means."""
    golden = load_facts("mfnet/protocol")[f"metrics_{rules}"]
    matrix = np.array(golden["confusion_rows_gt_cols_pred"])
    scores, classes = score(matrix, mean_over=mean_over), score_classes(matrix)
    for name in ("OA", "mF1", "mIoU", "kappa"):
        assert getattr(scores, name.lower()) == pytest.approx(golden[name], rel=1e-12)
    assert scores.averaged["miou"] == scores.averaged["mf1"] == golden["classes_in_mean"]
    assert classes.recall == pytest.approx(golden["per_class_recall"], rel=1e-12)
    assert classes.f1 == pytest.approx(golden["F1"], rel=1e-12)
    assert classes.iou == pytest.approx(golden["IoU"], rel=1e-12)


def test_means_over_some_classes_by_hand() -> None:
    # Class 1 and what is wrongly mapped as class 2, which counts against it all the same.
    scores = score(MATRIX, mean_over=[1], boundary_f1=np.array([0.2, 0.4, 0.9]))
    assert scores.miou == pytest.approx(30 / 50)
    assert scores.mpa == pytest.approx(30 / 40)
    assert scores.mf1 == pytest.approx(60 / 80)
    assert scores.boundary_f1 == 0.4
    assert scores.averaged == {"miou": 1, "mpa": 1, "mf1": 1, "boundary_f1": 1}
    whole = score(MATRIX)
    for name in ("oa", "kappa", "fwiou"):
        assert getattr(scores, name) == getattr(whole, name)
    assert score(MATRIX, "reference", mean_over=[1, 2]).averaged["miou"] == 1
    assert score(MATRIX, "reference", mean_over=[2]).miou is None


def test_report_is_plain_json() -> None:
    report = subset_report(MATRIX, ["a", "b", "c"])
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["matrix"] == MATRIX.tolist()
    assert report["per_class"]["c"]["recall"] is None
    assert report["per_class"]["c"]["predicted"] == 5


@given(
    arrays(np.uint8, 40, elements=st.sampled_from([0, 1, 2, 3, 255])),
    arrays(np.uint8, 40, elements=st.integers(0, 3)),
)
def test_torchmetrics_agrees(labels: np.ndarray, class_map: np.ndarray) -> None:
    confusion = ConfusionMatrix(4)
    confusion.update(labels, class_map)
    if not confusion.pixels:
        return
    scores = score(confusion.matrix)
    pair = torch.from_numpy(class_map).long(), torch.from_numpy(labels).long()
    rules: dict[str, Any] = {"task": "multiclass", "num_classes": 4, "ignore_index": 255}
    assert confusion.matrix.tolist() == oracle.confusion_matrix(*pair, **rules).tolist()
    recall = oracle.recall(*pair, average=None, **rules)
    second_opinion = {
        "miou": oracle.jaccard_index(*pair, average="macro", **rules),
        "mf1": oracle.f1_score(*pair, average="macro", **rules),
        "oa": oracle.accuracy(*pair, average="micro", **rules),
        # Its macro accuracy takes a class without reference as 0.
        "mpa": recall[torch.from_numpy(confusion.matrix.sum(axis=1) > 0)].mean(),
        "kappa": oracle.cohen_kappa(*pair, **rules),
    }
    for name, expected in second_opinion.items():
        if getattr(scores, name) is None:
            assert expected.isnan()
        else:
            assert getattr(scores, name) == pytest.approx(expected.item(), abs=1e-5)


def test_pixels_without_class_count_as_wrong() -> None:
    # Four reference pixels of each class; of the second, two are not mapped.
    counts = np.array([[4, 0, 0], [0, 2, 2]])
    scores = score(counts)
    assert scores.oa == pytest.approx(6 / 8)
    assert scores.miou == pytest.approx((1 + 2 / 4) / 2)
    assert scores.mpa == pytest.approx((1 + 2 / 4) / 2)
    assert scores.mf1 == pytest.approx((1 + 4 / 6) / 2)
    assert subset_report(counts, ["a", "b"])["matrix"] == [[4, 0], [0, 2]]


def test_every_score_counts_pixels_without_class_as_wrong_by_hand() -> None:
    # Of 8 reference pixels of the first class 3 are not mapped, of 12 of the second 1.
    counts = np.array([[4, 1, 3], [2, 9, 1]])
    scores, classes = score(counts), score_classes(counts)
    assert classes.pixels.tolist() == [8, 12]
    assert classes.predicted.tolist() == [6, 10]
    assert classes.recall == pytest.approx([4 / 8, 9 / 12])
    assert classes.precision == pytest.approx([4 / 6, 9 / 10])
    assert classes.iou == pytest.approx([4 / 10, 9 / 13])
    assert classes.f1 == pytest.approx([8 / 14, 18 / 22])
    assert scores.oa == pytest.approx(13 / 20)
    assert scores.fwiou == pytest.approx(8 / 20 * 4 / 10 + 12 / 20 * 9 / 13)
    chance = (8 * 6 + 12 * 10) / 20**2
    assert scores.kappa == pytest.approx((13 / 20 - chance) / (1 - chance))


@pytest.mark.parametrize("name", SCORES)
def test_a_hole_never_improves_a_score(name: str) -> None:
    """Pixels rightly mapped, then not mapped: no score may rise."""
    whole = np.array([[40, 6, 0], [3, 25, 0]])
    holes = np.array([[30, 6, 10], [3, 20, 5]])
    if not SCORES[name].is_cheap:
        pytest.skip("is not computed from the matrix")
    before, after = (score_values(counts)[name] for counts in (whole, holes))
    assert before is not None
    assert after is not None
    assert SCORES[name].is_better(before, after)

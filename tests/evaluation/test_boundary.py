import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import distance_transform_edt, gaussian_filter

from terrafuse.evaluation import BoundaryScore
from terrafuse.evaluation.boundary import boundaries

pixels = st.sampled_from([0, 1, 2, 255])
small_maps = arrays(np.uint8, st.tuples(*[st.integers(1, 12)] * 2), elements=pixels)


def f1(labels: np.ndarray, class_map: np.ndarray, tolerance_px: float = 3, classes: int = 3):
    score = BoundaryScore(classes, tolerance_px)
    score.update(labels.astype(np.uint8), class_map.astype(np.uint8))
    return score.f1()


def two_halves(edge: int, size: int = 40) -> np.ndarray:
    classes = np.zeros((size, size), np.uint8)
    classes[:, edge:] = 1
    return classes


def smooth_map(seed: int, size: int = 60, classes: int = 3) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(classes, size, size))
    return np.stack([gaussian_filter(x, 3) for x in noise]).argmax(axis=0).astype(np.uint8)


def test_boundaries_by_hand() -> None:
    classes = np.array([[0, 0, 1], [0, 0, 1], [2, 255, 1]], np.uint8)
    # The frame is none, nor is the neighbour of an unknown pixel, nor a diagonal.
    expected = np.array([[255, 0, 1], [0, 0, 1], [2, 255, 255]], np.uint8)
    assert np.array_equal(boundaries(classes), expected)


def test_identical_maps_score_1_and_a_single_class_is_undefined() -> None:
    classes = smooth_map(0)
    assert f1(classes, classes, classes=4).tolist()[:3] == [1, 1, 1]
    assert np.isnan(f1(classes, classes, classes=4)[3])
    assert np.isnan(f1(np.zeros((9, 9)), np.zeros((9, 9)))).all()


@pytest.mark.parametrize("shift", range(7))
def test_a_shift_is_forgiven_up_to_the_tolerance(shift: int) -> None:
    score = f1(two_halves(20), two_halves(20 + shift))
    assert score[:2].tolist() == ([1, 1] if shift <= 3 else [0, 0])


def test_a_tolerance_is_euclidean_and_need_not_be_whole() -> None:
    labels, class_map = np.zeros((2, 30, 30), np.uint8)
    labels[10, 10] = 1
    class_map[12, 12] = 1  # √8 = 2.83 away
    assert f1(labels, class_map, 2.82)[1] == 0
    assert f1(labels, class_map, 2.83)[1] == 1


def test_a_boundary_on_one_side_only_scores_0() -> None:
    empty = np.zeros((20, 20), np.uint8)
    assert f1(two_halves(10, 20), empty)[:2].tolist() == [0, 0]
    assert f1(empty, two_halves(10, 20))[:2].tolist() == [0, 0]


def test_counts_are_summed_over_scenes() -> None:
    score = BoundaryScore(2, 3)
    score.update(two_halves(20), two_halves(20))
    score.update(two_halves(20), two_halves(30))
    other = BoundaryScore(2, 3)
    other.update(two_halves(20), two_halves(20))
    score.merge(other)
    assert score.counts.tolist() == [[80, 120, 80, 120]] * 2
    assert score.f1() == pytest.approx([2 / 3, 2 / 3])


@settings(max_examples=200)
@given(small_maps, st.data(), st.sampled_from([0.5, 1, 1.5, 3, 4.2]))
def test_what_is_mapped_under_ignored_pixels_does_not_matter(
    labels: np.ndarray, data: st.DataObject, tolerance_px: float
) -> None:
    one, other, class_map = (
        data.draw(arrays(np.uint8, labels.shape, elements=pixels)) for _ in range(3)
    )
    scores = [
        f1(labels, np.where(labels == 255, anything, class_map), tolerance_px)
        for anything in (one, other)
    ]
    assert np.array_equal(*scores, equal_nan=True)
    perfect = f1(labels, np.where(labels == 255, one, labels), tolerance_px)
    assert set(perfect[~np.isnan(perfect)]) <= {1.0}


@settings(max_examples=200, deadline=None)
@given(small_maps, st.data(), st.sampled_from([0.5, 1, 1.5, 3, 4.2]))
def test_counts_are_those_of_distance_transforms(
    labels: np.ndarray, data: st.DataObject, tolerance_px: float
) -> None:
    class_map = data.draw(arrays(np.uint8, labels.shape, elements=pixels))
    score = BoundaryScore(3, tolerance_px)
    score.update(labels, class_map)
    assert score.counts.tolist() == by_distance_transform(labels, class_map, tolerance_px)


def test_larger_maps_with_holes_too() -> None:
    labels, class_map = smooth_map(1), smooth_map(2)
    labels[20:30, 5:50] = 255
    class_map[50:, 50:] = 255
    score = BoundaryScore(3, 5.0)
    score.update(labels, class_map)
    assert score.counts.tolist() == by_distance_transform(labels, class_map, 5.0)


def by_distance_transform(
    labels: np.ndarray, class_map: np.ndarray, tolerance_px: float
) -> list[list[int]]:
    """The written definition, class by class."""
    ignored = (labels == 255) | (class_map == 255)
    labels, class_map = (np.where(ignored, 255, x) for x in (labels, class_map))
    counts = []
    for c in range(3):
        reference, mapped = edge_of(labels, c), edge_of(class_map, c)
        counted_reference = reference & ~neighbours(ignored)
        counted_mapped = mapped & (distance_to(ignored) > tolerance_px)
        counts.append(
            [
                int((counted_mapped & (distance_to(reference) <= tolerance_px)).sum()),
                int(counted_mapped.sum()),
                int((counted_reference & (distance_to(mapped) <= tolerance_px)).sum()),
                int(counted_reference.sum()),
            ]
        )
    return counts


def edge_of(classes: np.ndarray, c: int) -> np.ndarray:
    return (classes == c) & neighbours((classes != c) & (classes != 255))


def neighbours(mask: np.ndarray) -> np.ndarray:
    """The mask and its 4-neighbours."""
    padded = np.pad(mask, 1)
    return (
        mask | padded[2:, 1:-1] | padded[:-2, 1:-1] | padded[1:-1, 2:] | padded[1:-1, :-2]
    )  # fmt: skip


def distance_to(mask: np.ndarray) -> np.ndarray:
    return distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, np.inf)


@given(small_maps, st.sampled_from([1.0, 2.5, 4.0]), st.data())
def test_pixels_are_swept_as_they_are_searched(
    labels: np.ndarray, tolerance_px: float, data: st.DataObject
) -> None:
    elements = arrays(np.uint8, labels.shape, elements=pixels)
    class_map = data.draw(elements)
    found = []
    for share in (0, 2):  # always, never
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("terrafuse.evaluation.boundary._SWEPT", share)
            patch.setattr("terrafuse.evaluation.boundary._SWEPT_BYTES", 3 * labels.shape[1])
            score = BoundaryScore(3, tolerance_px)
            score.update(labels, class_map)
            found.append(score.counts.tolist())
    assert found[0] == found[1]

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from terrafuse.errors import LabelError, ModelError
from terrafuse.evaluation import ConfusionMatrix

labelled = st.sampled_from([0, 1, 2, 255])


def test_by_hand() -> None:
    labels = np.array([[0, 0, 1], [1, 2, 255], [255, 2, 2]], np.uint8)
    class_map = np.array([[0, 1, 1], [1, 255, 0], [255, 0, 2]], np.uint8)
    confusion = ConfusionMatrix(3)
    confusion.update(labels, class_map)
    assert confusion.matrix.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    assert confusion.matrix.dtype == np.int64
    assert confusion.unmapped == 1  # a reference 2 without data; under 255 nothing counts
    assert confusion.pixels == 7


@given(
    arrays(np.uint8, (7, 9), elements=labelled), arrays(np.uint8, (7, 9), elements=labelled),
    st.integers(0, 7),
)  # fmt: skip
def test_parts_add_up_to_the_whole(labels: np.ndarray, class_map: np.ndarray, cut: int) -> None:
    whole = ConfusionMatrix(3)
    whole.update(labels, class_map)
    parts = ConfusionMatrix(3)
    for rows in (slice(0, cut), slice(cut, None)):
        part = ConfusionMatrix(3)
        part.update(labels[rows], class_map[rows])
        parts.merge(part)
    assert np.array_equal(parts.matrix, whole.matrix)
    assert parts.unmapped == whole.unmapped
    assert whole.pixels == (labels != 255).sum()


def test_more_pixels_than_one_chunk_and_than_float32_can_count() -> None:
    confusion = ConfusionMatrix(1)
    confusion.matrix[0, 0] = 2**24
    confusion.update(np.zeros((1, 2**20 + 1), np.uint8), np.zeros((1, 2**20 + 1), np.uint8))
    assert confusion.matrix[0, 0] == 2**24 + 2**20 + 1


def test_all_255_classes_fit() -> None:
    classes = np.arange(256, dtype=np.uint8)[None]
    confusion = ConfusionMatrix(255)
    confusion.update(classes, classes)
    assert np.array_equal(confusion.matrix, np.eye(255))


def test_classes_that_do_not_exist_are_refused() -> None:
    good, bad = np.array([[0, 1]], np.uint8), np.array([[0, 2]], np.uint8)
    with pytest.raises(LabelError, match="labels hold class 2; allowed are 0 to 1"):
        ConfusionMatrix(2).update(bad, good)
    with pytest.raises(ModelError, match="the map holds class 2; allowed are 0 to 1"):
        ConfusionMatrix(2).update(good, bad)

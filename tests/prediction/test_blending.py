from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from terrafuse.errors import ModelError
from terrafuse.prediction import Accumulator, Lattice, Strip, taper
from terrafuse.prediction.blending import largest
from terrafuse.samples import Window

Model = Callable[[Tensor, Window], Tensor]


def blend(
    scene: Tensor, lattice: Lattice, model: Model = lambda x, _: x, valid: Tensor | None = None
) -> tuple[list[Strip], Tensor]:
    """Strips and averaged logits (K, H, W) of a scene (K, H, W) through a model."""
    height, width = lattice.row_starts[-1] + lattice.size, lattice.col_starts[-1] + lattice.size
    padding = (0, width - lattice.width, 0, height - lattice.height)
    padded = torch.nn.functional.pad(scene, padding)
    known = torch.nn.functional.pad(
        torch.ones(scene.shape[1:], dtype=torch.bool) if valid is None else valid, padding
    )
    accumulator = Accumulator(lattice, len(scene))
    strips, averages = [], []
    stops = [*lattice.row_starts[1:], lattice.height]
    for windows, stop in zip(lattice.rows(), stops, strict=True):
        for window in windows:
            rows, cols = window.slices()
            accumulator.add(window, model(padded[:, rows, cols], window), known[rows, cols])
        averages.append(accumulator.average(accumulator.row, stop))
        strips.append(accumulator.advance(stop))
    return strips, torch.cat(averages, dim=1)


def class_map(strips: list[Strip]) -> np.ndarray:
    return np.concatenate([strip.class_map for strip in strips])


@given(st.integers(1, 60), st.integers(0, 30))
def test_taper_is_a_symmetric_ramp_of_whole_numbers(size: int, overlap: int) -> None:
    weights = taper(size, min(overlap, size // 2))
    assert torch.equal(weights, weights.flip(0))
    assert torch.equal(weights, weights.round())
    assert weights.min() == 1
    assert weights.diff().abs().max() <= 1 if size > 1 else True


def test_neighbours_tapers_add_up_to_the_same_everywhere() -> None:
    weights = taper(12, 4)
    assert torch.equal(weights[-4:] + weights[:4], torch.full((4,), 5.0))
    assert weights[4:8].tolist() == [5, 5, 5, 5]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(2, 24), st.floats(0, 0.5),
    st.integers(1, 5), st.integers(0, 2**31),
)  # fmt: skip
def test_averages_of_equal_whole_numbers_are_exact(
    height: int, width: int, crop_size: int, share: float, alignment: int, seed: int
) -> None:
    lattice = Lattice(height, width, crop_size, int(crop_size * share), alignment)
    generator = torch.Generator().manual_seed(seed)
    scene = torch.randint(-1000, 1000, (3, height, width), generator=generator).float()
    strips, average = blend(scene, lattice)
    assert torch.equal(average, scene)
    assert np.array_equal(class_map(strips), scene.argmax(dim=0).numpy())
    assert [strip.row for strip in strips] == list(lattice.row_starts)


def test_no_seam_on_a_ramp() -> None:
    lattice = Lattice(150, 170, crop_size=64, overlap=16)
    rows, cols = torch.meshgrid(torch.arange(150.0), torch.arange(170.0), indexing="ij")
    _, average = blend((0.01 * rows - 0.02 * cols)[None], lattice)
    for dim in (1, 2):
        assert average.diff(n=2, dim=dim).abs().max() < 1e-5


def test_a_model_that_errs_differently_per_window_leaves_no_step() -> None:
    lattice = Lattice(150, 170, crop_size=64, overlap=16)
    signs = {window: (-1.0) ** i for i, window in enumerate(lattice)}
    _, average = blend(torch.zeros(1, 150, 170), lattice, lambda x, window: x + signs[window])
    assert average.max() == 1
    assert average.min() == -1
    # From one window's error to the other's, 2 apart, it takes overlap + 1 pixels per direction.
    for dim in (1, 2):
        assert average.diff(dim=dim).abs().max() < 1.01 * 2 * 2 / 17


def test_confidence_is_the_largest_probability_of_the_average() -> None:
    lattice = Lattice(50, 61, crop_size=16, overlap=5)
    scene = torch.randn(4, 50, 61, generator=torch.Generator().manual_seed(0)) * 3
    strips, average = blend(scene, lattice, lambda x, window: x + 0.01 * window.col)
    expected = average.softmax(dim=0).amax(dim=0) * 254
    confidence = np.concatenate(
        [strip.confidence for strip in strips if strip.confidence is not None]
    )
    assert confidence.dtype == np.uint8
    assert np.abs(confidence - expected.numpy()).max() <= 0.501


def test_pixels_without_data_are_255_in_both() -> None:
    valid = torch.rand(40, 30, generator=torch.Generator().manual_seed(0)) > 0.3
    strips, _ = blend(torch.zeros(2, 40, 30), Lattice(40, 30, 16, 4), valid=valid)
    assert np.array_equal(class_map(strips) == 255, ~valid.numpy())
    assert all(
        strip.confidence is not None
        and np.array_equal(strip.confidence == 255, strip.class_map == 255)
        for strip in strips
    )


def test_a_window_that_was_not_run_has_no_data() -> None:
    lattice = Lattice(16, 24, crop_size=16, overlap=8)
    accumulator = Accumulator(lattice, 2)
    first, second = lattice
    known = torch.ones(16, 16, dtype=torch.bool)
    accumulator.add(first, torch.zeros(2, 16, 16), known)
    accumulator.add(second, None, known)
    strip = accumulator.advance(16, confidence=False)
    assert strip.confidence is None
    assert (strip.class_map[:, :8] == 0).all()
    assert (strip.class_map[:, 8:] == 255).all()


def test_memory_does_not_grow_with_the_height() -> None:
    def held(height: int) -> int:
        accumulator = Accumulator(Lattice(height, 100, 32, 8), 3)
        tensors = [v for v in vars(accumulator).values() if isinstance(v, Tensor) and v.ndim > 1]
        return sum(tensor.nbytes for tensor in tensors)

    assert held(10_000) == held(100)


def test_nan_scores_are_refused_where_there_is_data() -> None:
    lattice = Lattice(4, 4, 4, 0)
    scores = torch.zeros(3, 4, 4)
    scores[1, 2, 2] = torch.nan
    for known, raises in ((True, True), (False, False)):
        accumulator = Accumulator(lattice, 3)
        valid = torch.ones(4, 4, dtype=torch.bool)
        valid[2, 2] = known
        accumulator.add(next(iter(lattice)), scores, valid)
        if raises:
            with pytest.raises(ModelError, match="NaN scores"):
                accumulator.advance(4)
        else:
            assert accumulator.advance(4).class_map[2, 2] == 255


@pytest.mark.parametrize("num_classes", [1, 2, 255])
def test_largest_is_the_first_maximum(num_classes: int) -> None:
    scores = torch.randint(-3, 3, (num_classes, 20, 30), generator=torch.Generator().manual_seed(1))
    best, index = largest(scores.float())
    assert torch.equal(best, scores.float().amax(dim=0))
    assert np.array_equal(index.numpy(), scores.numpy().argmax(axis=0))

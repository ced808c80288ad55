from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from golden_files import load_tensors
from terrafuse.errors import ModelError
from terrafuse.prediction import (
    DEFAULT_PRODUCTS,
    PRODUCTS,
    Accumulator,
    Lattice,
    Part,
    SampledRows,
    Strip,
    find_products,
    taper,
)
from terrafuse.prediction.blending import largest
from terrafuse.prediction.product_table import needs_of
from terrafuse.prediction.torch_arrays import TorchArrays
from terrafuse.samples import Window

CPU = TorchArrays("cpu")
CLASS_MAP = find_products(["class_map"])
Model = Callable[[Tensor, Window], Tensor]


def blend(
    scene: Tensor,
    lattice: Lattice,
    model: Model = lambda x, _: x,
    valid: Tensor | None = None,
    products: Sequence[str] = DEFAULT_PRODUCTS,
) -> tuple[list[Strip], Tensor]:
    """Strips and averaged logits (K, H, W) of a scene (K, H, W) through a model."""
    height, width = lattice.row_starts[-1] + lattice.size, lattice.col_starts[-1] + lattice.size
    padding = (0, width - lattice.width, 0, height - lattice.height)
    padded = torch.nn.functional.pad(scene, padding)
    known = torch.nn.functional.pad(
        torch.ones(scene.shape[1:], dtype=torch.bool) if valid is None else valid, padding
    )
    chosen = find_products(products)
    accumulator = Accumulator(
        Part.whole(lattice),
        len(scene),
        arrays=CPU,
        needs=needs_of(chosen),
        set_threshold=0.4,
        left_out=(0,),
    )
    strips, averages = [], []
    stops = [*lattice.row_starts[1:], lattice.height]
    for windows, stop in zip(lattice.rows(), stops, strict=True):
        for window in windows:
            rows, cols = window.slices()
            here = known[rows, cols]
            accumulator.add(window, model(padded[:, rows, cols], window), here, here.byte())
        averages.append(accumulator.average(accumulator.row, stop))
        strips.append(accumulator.advance(stop, chosen))
    return strips, torch.cat(averages, dim=1)


def class_map(strips: list[Strip]) -> np.ndarray:
    return layer(strips, "class_map")


def layer(strips: list[Strip], name: str) -> np.ndarray:
    return np.concatenate([strip.layers[name] for strip in strips], axis=-2)


@given(st.integers(1, 60), st.integers(0, 30))
def test_taper_is_a_symmetric_ramp_of_whole_numbers(size: int, overlap: int) -> None:
    weights = taper(size, min(overlap, size // 2))
    assert np.array_equal(weights, weights[::-1])
    assert np.array_equal(weights, weights.round())
    assert weights.min() == 1
    assert np.abs(np.diff(weights)).max() <= 1 if size > 1 else True


def test_neighbours_tapers_add_up_to_the_same_everywhere() -> None:
    weights = taper(12, 4)
    assert (weights[-4:] + weights[:4]).tolist() == [5.0] * 4
    assert weights[4:8].tolist() == [5, 5, 5, 5]


@settings(max_examples=90, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(2, 24), st.floats(0, 1, exclude_max=True),
    st.integers(1, 5), st.sampled_from(["taper", "uniform", "repeated"]), st.integers(0, 2**31),
)  # fmt: skip
def test_averages_of_equal_whole_numbers_are_exact(
    height: int, width: int, crop_size: int, share: float, alignment: int, blending: Any, seed: int
) -> None:
    overlap = int(crop_size * share / (2 if blending == "taper" else 1))
    lattice = Lattice(height, width, crop_size, overlap, alignment, blending)
    generator = torch.Generator().manual_seed(seed)
    scene = torch.randint(-1000, 1000, (3, height, width), generator=generator).float()
    strips, average = blend(scene, lattice)
    assert torch.equal(average, scene)
    assert np.array_equal(class_map(strips), scene.argmax(dim=0).numpy())
    assert [strip.row for strip in strips] == list(lattice.row_starts)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 50), st.integers(1, 50), st.integers(2, 16), st.floats(0, 1, exclude_max=True),
    st.sampled_from(["uniform", "repeated"]), st.integers(0, 2**31),
)  # fmt: skip
def test_sums_are_those_of_every_window_on_its_own(
    height: int, width: int, crop_size: int, share: float, blending: Any, seed: int
) -> None:
    """A model that answers differently in every window, added up the plain way in float64."""
    lattice = Lattice(height, width, crop_size, int(crop_size * share), blending=blending)
    generator = torch.Generator().manual_seed(seed)
    answers = {w: torch.randn(2, lattice.size, lattice.size, generator=generator) for w in lattice}
    _, average = blend(torch.zeros(2, height, width), lattice, lambda _, window: answers[window])
    shape = (2, max(height, lattice.size), max(width, lattice.size))
    sums, counts = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape[1:])
    step, size = lattice.step, lattice.size
    seen = set()
    for row in (min(r, max(0, height - size)) for r in range(0, height, step)):
        for col in (min(c, max(0, width - size)) for c in range(0, width, step)):
            window = Window(row, col, size, size)
            if blending == "repeated" or window not in seen:
                rows, cols = window.slices()
                sums[:, rows, cols] += answers[window]
                counts[rows, cols] += 1
            seen.add(window)
    assert seen == set(lattice)
    expected = (sums / counts)[:, :height, :width].float()
    torch.testing.assert_close(average, expected, atol=1e-5, rtol=1e-5)


def test_sums_of_the_published_sliding_window() -> None:
    """Recorded from the MFNet code: stride 8 of 32, border windows repeated, float64 sums."""
    golden = load_tensors("mfnet/sliding_window")
    dsm = golden["in.dsm_raw"]
    elevation = (dsm - dsm.min()) / (dsm.max() - dsm.min())
    torch.testing.assert_close(elevation, golden["mid.dsm_normalised"])
    scene = torch.cat([golden["in.image_hwc"].movedim(-1, 0), elevation[None]])  # (4, H, W)
    lattice = Lattice(48, 60, crop_size=32, overlap=24, blending="repeated")

    def toy(crop: Tensor, _: Window) -> Tensor:
        weight, bias = golden["toy.weight"], golden["toy.bias"]
        return torch.nn.functional.conv2d(crop, weight, bias, padding=1)

    strips, average = blend(scene, lattice, toy)
    visits = torch.zeros(48, 60)
    for window in lattice:
        visits[window.slices()] += lattice.times(window)
    assert torch.equal(visits.double(), golden["out.visit_count"])
    # The average is the sum divided by the visits. Tolerance as given with the recording.
    sums = golden["out.logit_sum_hwc"].movedim(-1, 0).float()
    torch.testing.assert_close(average * visits, sums, rtol=1e-4, atol=1e-5)
    assert np.array_equal(class_map(strips), golden["out.argmax"].numpy())


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
    confidence = layer(strips, "confidence")
    assert confidence.dtype == np.uint8
    assert np.abs(confidence - expected.numpy()).max() <= 0.501


def test_entropy_and_margin_are_those_of_the_average() -> None:
    lattice = Lattice(50, 61, crop_size=16, overlap=5)
    scene = torch.randn(4, 50, 61, generator=torch.Generator().manual_seed(0)) * 2
    scene[1, 7, 9] = 1e30  # beyond what exp can tell from nothing
    strips, average = blend(
        scene, lattice, lambda x, window: x + 0.01 * window.col, products=("entropy", "margin")
    )
    assert set(strips[0].layers) == {"entropy", "margin"}
    probs = average.double().softmax(dim=0)
    entropy = torch.special.entr(probs).sum(dim=0) / np.log(4) * 254
    first, second = probs.sort(dim=0, descending=True).values[:2]
    for name, expected in (("entropy", entropy), ("margin", (first - second) * 254)):
        found = layer(strips, name)
        assert found.dtype == np.uint8
        assert found.std() > 10
        assert np.abs(found - expected.numpy()).max() <= 0.501


def test_entropy_and_margin_by_hand() -> None:
    """Probabilities 1/2, 1/4, 1/4: 1.5 bits of log2 3, margin 1/4; then even ones."""
    scene = torch.zeros(3, 1, 2)
    scene[2, 0, 0] = np.log(2)
    strips, _ = blend(scene, Lattice(1, 2, 2, 0), products=tuple(PRODUCTS))
    assert layer(strips, "entropy").tolist() == [[round(254 * 1.5 / np.log2(3)), 254]]
    assert layer(strips, "margin").tolist() == [[64, 0]]  # 63.5 is rounded to even
    assert layer(strips, "confidence").tolist() == [[127, 85]]
    assert layer(strips, "class_map").tolist() == [[2, 0]]


def test_pixels_without_data_are_nodata_in_all() -> None:
    valid = torch.rand(40, 30, generator=torch.Generator().manual_seed(0)) > 0.3
    strips, _ = blend(
        torch.zeros(2, 40, 30), Lattice(40, 30, 16, 4), valid=valid, products=tuple(PRODUCTS)
    )
    for name, product in PRODUCTS.items():
        found = layer(strips, name)
        empty = np.isnan(found) if np.isnan(product.nodata) else found == product.nodata
        assert empty.ndim == (3 if product.per_class else 2)
        assert np.array_equal(empty, np.broadcast_to(~valid.numpy(), empty.shape))


def test_probabilities_by_hand() -> None:
    scene = torch.zeros(3, 1, 2)
    scene[2, 0, 0] = np.log(2)
    names = ("probabilities", "probabilities_float32")
    strips, _ = blend(scene, Lattice(1, 2, 2, 0), products=names)
    # 1/4 of 254 is 63.5, rounded to even; a third 84.67.
    assert layer(strips, names[0]).tolist() == [[[64, 85]], [[64, 85]], [[127, 85]]]
    expected = [[[1 / 4, 1 / 3]], [[1 / 4, 1 / 3]], [[1 / 2, 1 / 3]]]
    np.testing.assert_allclose(layer(strips, names[1]), expected, rtol=1e-6)


def test_disagreement_by_hand() -> None:
    """Windows of 4 that share 2 of a row's 6 pixels; tapers 1 2 2 1 give each third its weight."""
    lattice = Lattice(1, 6, 4, 2)
    answers = {0: [5.0, 0.0], 2: [0.0, 2.0]}  # class 0 here, class 1 there

    def model(x: Tensor, window: Window) -> Tensor:
        return torch.tensor(answers[window.col]).view(2, 1, 1).expand_as(x)

    strips, average = blend(
        torch.zeros(2, 1, 6), lattice, model, products=("class_map", "disagreement")
    )
    assert taper(4, 2).tolist() == [1, 2, 2, 1]
    # Third pixel: 2 of the first window's weight, 1 of the second's, for class 0; fourth: 1 and 2.
    torch.testing.assert_close(average[:, 0, 3], torch.tensor([5 / 3, 4 / 3]))
    assert layer(strips, "class_map").tolist() == [[0, 0, 0, 0, 1, 1]]
    assert layer(strips, "disagreement").tolist() == [
        [0, 0, round(254 / 3), round(254 * 2 / 3), 0, 0]
    ]


@pytest.mark.parametrize("blending", ["taper", "uniform", "repeated"])
def test_disagreement_is_that_of_windows_compared_one_by_one(blending: Any) -> None:
    lattice = Lattice(41, 53, 16, 8, blending=blending)
    generator = torch.Generator().manual_seed(0)
    size = lattice.size
    answers = {w: torch.randn(3, size, size, generator=generator) for w in lattice}
    strips, average = blend(
        torch.zeros(3, 41, 53), lattice, lambda _, window: answers[window],
        products=("class_map", "disagreement"),
    )  # fmt: skip
    final = average.argmax(dim=0)
    side = taper(size, 8) if blending == "taper" else np.ones(size)
    against, total = torch.zeros(2, 64, 64, dtype=torch.float64)
    for window, answer in answers.items():
        for row in range(window.row, min(window.row_stop, 41)):
            for col in range(window.col, min(window.col_stop, 53)):
                weight = side[row - window.row] * side[col - window.col] * lattice.times(window)
                total[row, col] += weight
                if answer[:, row - window.row, col - window.col].argmax() != final[row, col]:
                    against[row, col] += weight
    expected = (against / total)[:41, :53] * 254
    found = layer(strips, "disagreement")
    assert found.std() > 20
    assert np.abs(found - expected.numpy()).max() <= 0.501


@pytest.mark.parametrize(("skipped", "columns"), [(0, slice(16, 24)), (1, slice(0, 8))])
def test_a_window_that_was_not_run_has_no_data(skipped: int, columns: slice) -> None:
    """Nor have pixels that another one covers too: they lack a part of their score."""
    lattice = Lattice(16, 24, crop_size=16, overlap=8)
    accumulator = Accumulator(Part.whole(lattice), 2, arrays=CPU)
    known = torch.ones(16, 16, dtype=torch.bool)
    for number, window in enumerate(lattice):
        accumulator.add(window, None if number == skipped else torch.zeros(2, 16, 16), known)
    strip = accumulator.advance(16, find_products(["class_map"]))
    assert list(strip.layers) == ["class_map"]
    expected = np.full((16, 24), 255)
    expected[:, columns] = 0
    np.testing.assert_array_equal(strip.layers["class_map"], expected)


def test_memory_grows_with_neither_the_height_nor_the_overlap() -> None:
    def held(height: int, overlap: int = 8) -> int:
        lattice = Lattice(height, 100, 32, overlap, blending="uniform")
        accumulator = Accumulator(Part.whole(lattice), 3, arrays=CPU)
        tensors = [v for v in vars(accumulator).values() if isinstance(v, Tensor) and v.ndim > 1]
        return sum(tensor.nbytes for tensor in tensors)

    assert held(10_000) == held(100) == held(10_000, overlap=31)


def test_nan_scores_are_refused_where_there_is_data() -> None:
    lattice = Lattice(4, 4, 4, 0)
    scores = torch.zeros(3, 4, 4)
    scores[1, 2, 2] = torch.nan
    for known, raises in ((True, True), (False, False)):
        accumulator = Accumulator(Part.whole(lattice), 3, arrays=CPU)
        valid = torch.ones(4, 4, dtype=torch.bool)
        valid[2, 2] = known
        accumulator.add(next(iter(lattice)), scores, valid)
        if raises:
            with pytest.raises(ModelError, match="NaN scores"):
                accumulator.advance(4, CLASS_MAP)
        else:
            assert accumulator.advance(4, CLASS_MAP).layers["class_map"][2, 2] == 255


@pytest.mark.parametrize("num_classes", [1, 2, 255])
def test_largest_is_the_first_maximum(num_classes: int) -> None:
    scores = torch.randint(-3, 3, (num_classes, 20, 30), generator=torch.Generator().manual_seed(1))
    best, index = largest(scores.float())
    assert torch.equal(best, scores.float().amax(dim=0))
    assert np.array_equal(index.numpy(), scores.numpy().argmax(axis=0))
    best, index = largest(scores.float().masked_fill(scores == 2, torch.nan))
    unknown = (scores == 2).any(dim=0)
    assert torch.equal(best.isnan(), unknown)
    assert int(index.max()) < num_classes  # others look up a class there


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 40), st.integers(2, 24), st.floats(0, 0.5),
    st.integers(1, 30), st.integers(0, 2**31),
)  # fmt: skip
def test_sampled_rows_are_those_of_the_whole_products(
    height: int, width: int, crop_size: int, share: float, step: int, seed: int
) -> None:
    names = ("confidence_float32", "entropy", "margin", "disagreement")
    lattice = Lattice(height, width, crop_size, int(crop_size * share))
    sampled = SampledRows(names, step)
    generator = torch.Generator().manual_seed(seed)
    windows = {w: torch.randn(3, w.height, w.width, generator=generator) for w in lattice}
    valid = torch.rand(height + crop_size, width + crop_size, generator=generator) < 0.8
    needs = needs_of(find_products(names))
    whole = Accumulator(Part.whole(lattice), 3, arrays=CPU, needs=needs)
    some = Accumulator(Part.whole(lattice), 3, arrays=CPU, sampled=sampled)
    strips: dict[Accumulator, list[Strip]] = {whole: [], some: []}
    for own, layers in ((whole, find_products(names)), (some, CLASS_MAP)):
        stops = [*lattice.row_starts[1:], lattice.height]
        for row, stop in zip(lattice.rows(), stops, strict=True):
            for window in row:
                own.add(window, windows[window], valid[window.slices()])
            strip = own.advance(stop, layers)
            assert strip is not None
            strips[own].append(strip)
    for name in names:
        found = np.concatenate([strip.sampled[name] for strip in strips[some]])
        assert np.array_equal(found, layer(strips[whole], name)[::step], equal_nan=True)

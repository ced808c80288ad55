from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_scenes import MemoryScene
from terrafuse.errors import ConfigError, DataError, LabelError
from terrafuse.modalities import Modality
from terrafuse.samples import IGNORE_INDEX, Window
from terrafuse.sampling.crops import WindowSampler

ONE = Modality("s2", ("b",), kind="optical")
THREE = Modality("s1", ("b",), kind="sar", scale=3.0)
MODES = ["random", "balanced", "grid", "scene"]
# Those whose windows hold something to learn from in any case.
SURE = MODES[:3]


def make_scene(labels: np.ndarray, image: np.ndarray | None = None, id: str = "a") -> MemoryScene:
    image = np.ones(labels.shape, np.float32) if image is None else image
    return MemoryScene([ONE], {"s2": image[None]}, labels, id=id)


def blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width), IGNORE_INDEX, np.uint8)


@pytest.mark.parametrize("mode", MODES)
def test_a_draw_depends_on_seed_and_index_only(mode):
    rng = np.random.default_rng(0)
    scenes = [make_scene(rng.integers(0, 3, (50, 40))) for _ in range(3)]
    first = WindowSampler(scenes, crop_size=16, mode=mode, seed=1)
    draws = [first.draw(i) for i in range(200)]
    again = WindowSampler(scenes, crop_size=16, mode=mode, seed=1)
    # Backwards, as no state may matter; and through a pickle, as workers get it.
    assert [again.draw(i) for i in reversed(range(200))] == draws[::-1]
    assert pickle.loads(pickle.dumps(first)).draw(77) == draws[77]
    other = WindowSampler(scenes, crop_size=16, mode=mode, seed=2)
    assert [other.draw(i) for i in range(200)] != draws


@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    crop=st.integers(3, 14).map(lambda n: 3 * n),
    read=st.integers(1, 30).map(lambda n: 3 * n),
    mode=st.sampled_from(MODES),
    seed=st.integers(0, 10),
)
@settings(max_examples=60, deadline=None)
def test_windows_are_aligned_and_inside_where_they_can_be(size, crop, read, mode, seed):
    labels = np.random.default_rng(seed).integers(0, 2, size).astype(np.uint8)
    coarse = np.ones((1, size[0] // 3 + 1, size[1] // 3 + 1), np.float32)
    scene = MemoryScene([ONE, THREE], {"s2": np.ones((1, *size)), "s1": coarse}, labels)
    sampler = WindowSampler([scene], crop_size=crop, mode=mode, seed=seed, smallest=min(crop, read))
    for index in range(20):
        _, window = sampler.draw(index, read)
        assert all(n % 3 == 0 for n in (window.row, window.col, window.height, window.width))
        assert window.height == window.width <= max(read, crop)
        assert window.height == read or read > crop
        for start, stop, length in (
            (window.row, window.row_stop, size[0]),
            (window.col, window.col_stop, size[1]),
        ):
            assert start >= 0
            assert start == 0 if stop - start >= length else stop < length + 3


def test_scene_smaller_than_the_crop_is_covered_by_one_window():
    for mode in MODES:
        sampler = WindowSampler([make_scene(np.zeros((10, 30)))], crop_size=32, mode=mode)
        assert {sampler.draw(i)[1] for i in range(20)} == {Window(0, 0, 32, 32)}


def test_zooming_out_does_not_read_more_than_the_scene():
    sampler = WindowSampler([make_scene(np.zeros((40, 100)))], crop_size=32)
    assert sampler.draw(0, 64)[1].height == 40
    assert sampler.draw(0, 36)[1].height == 36


def test_scenes_are_drawn_by_their_usable_area():
    labels = [blank(64, 64), np.zeros((64, 64)), blank(64, 64)]
    labels[0][:16] = 0
    image = np.ones((64, 64), np.float32)
    image[:, 32:] = np.nan
    scenes = [make_scene(labels[0]), make_scene(labels[1], image), make_scene(labels[2])]
    sampler = WindowSampler(scenes, crop_size=16)
    drawn = np.bincount([sampler.draw(i)[0] for i in range(1500)], minlength=3) / 1500
    assert drawn[2] == 0
    # 1024 and 2048 usable pixels; standard deviation 0.012.
    assert drawn[0] == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize(
    ("mode", "require_all"), [*((mode, False) for mode in SURE), ("scene", True)]
)
@pytest.mark.parametrize("read", [4, 16, 24])
def test_every_window_holds_something_to_learn_from(mode, require_all, read):
    rng = np.random.default_rng(5)
    labels, image = blank(90, 70), np.full((90, 70), np.nan, np.float32)
    for row, col in rng.integers(0, 70, (4, 2)):
        labels[row : row + 9, col : col + 9] = rng.integers(3)
        image[row + 2 : row + 6, col + 2 : col + 11] = 1
    sampler = WindowSampler(
        [make_scene(labels, image)], crop_size=16, mode=mode, smallest=4, require_all=require_all
    )
    usable = (labels != IGNORE_INDEX) & ~np.isnan(image)
    held = [usable[sampler.draw(i, read)[1].slices()].any() for i in range(300)]
    assert all(held)


def test_random_covers_the_interior_evenly():
    sampler = WindowSampler([make_scene(np.zeros((80, 80)))], crop_size=16)
    seen = np.zeros((80, 80))
    for index in range(4000):
        seen[sampler.draw(index)[1].slices()] += 1
    inner = seen[20:60, 20:60]
    # A pixel is in 1/25 of the windows or somewhat more; 12 is its standard deviation.
    assert inner.min() > 0.65 * inner.mean()
    assert inner.max() < 1.35 * inner.mean()
    assert seen.min() > 0


def test_balanced_shows_a_rare_class_in_its_share_of_windows():
    rng = np.random.default_rng(1)
    scenes = [make_scene(rng.integers(0, 2, (100, 100)).astype(np.uint8)) for _ in range(3)]
    scenes[1].labels[40:53, 70:93] = 2  # 1 % of all pixels
    balanced = WindowSampler(scenes, crop_size=16, mode="balanced")
    draws = [balanced.draw(i) for i in range(600)]
    share = np.mean([(scenes[s].labels[w.slices()] == 2).any() for s, w in draws])
    assert share > 1 / 3 - 0.06  # three standard deviations
    random = WindowSampler(scenes, crop_size=16)
    draws = [random.draw(i) for i in range(600)]
    assert np.mean([(scenes[s].labels[w.slices()] == 2).any() for s, w in draws]) < 0.15


def test_balanced_places_the_pixel_anywhere_in_the_window():
    labels = np.zeros((100, 100), np.uint8)
    labels[50, 50] = 1
    sampler = WindowSampler([make_scene(labels)], crop_size=16, mode="balanced")
    offsets = {
        50 - window.row
        for _, window in map(sampler.draw, range(800))
        if (labels[window.slices()] == 1).any() and window.row <= 50 < window.row_stop
    }
    assert offsets == set(range(16))


def test_balanced_ignores_classes_that_only_lie_where_there_is_no_data():
    labels, image = np.zeros((40, 40), np.uint8), np.ones((40, 40), np.float32)
    labels[:10], image[:10] = 1, np.nan
    sampler = WindowSampler([make_scene(labels, image)], crop_size=8, mode="balanced")
    starts = [sampler.draw(i)[1].row for i in range(200)]
    assert np.mean([start < 10 for start in starts]) < 0.4


def test_grid_shows_everything_once_per_epoch_in_another_order_and_phase():
    labels = blank(64, 96)
    labels[:, :64] = 0
    scenes = [make_scene(labels), make_scene(np.zeros((20, 32)))]
    sampler = WindowSampler(scenes, crop_size=32, mode="grid", seed=3)
    lengths = [len(lattice) for lattice in sampler._lattices]
    cycle = [sampler.draw(i) for i in range(sum(lengths))]
    # Sixteen phases; the small scene comes once in each.
    assert sum(scene == 1 for scene, _ in cycle) == 16
    for phase in range(16):
        seen = np.zeros((64, 96), int)
        for scene, row, col in sampler._lattices[phase]:
            if scene == 0:
                seen[row : row + 32, col : col + 32] += 1
        assert (seen[:, :64] > 0).all()
    assert sorted(lengths)[0] == 2 * 2 + 1  # phase 0: the unlabelled third column is left out
    expected = sorted((s, r, c) for lattice in sampler._lattices for s, r, c in lattice.tolist())
    assert sorted((s, w.row, w.col) for s, w in cycle) == expected
    following = [sampler.draw(sum(lengths) + i) for i in range(sum(lengths))]
    assert following != cycle
    assert sorted(following) == sorted(cycle)


def test_grid_phases_differ_along_both_axes():
    sampler = WindowSampler([make_scene(np.zeros((80, 96)))], crop_size=16, mode="grid", seed=3)
    phases = set()
    for lattice in sampler._lattices:
        rows, cols = lattice[:, 1], lattice[:, 2]
        inner = {(r % 16, c % 16) for r, c in zip(rows.tolist(), cols.tolist(), strict=True)
                 if 0 < r < 64 and 0 < c < 80}  # fmt: skip
        assert len(inner) == 1  # within an epoch one lattice
        phases |= inner
    assert phases == {(row, col) for row in (0, 4, 8, 12) for col in (0, 4, 8, 12)}


def test_grid_windows_come_in_another_order_each_epoch():
    sampler = WindowSampler([make_scene(np.zeros((64, 64)))], crop_size=16, mode="grid", seed=3)
    lengths = [len(lattice) for lattice in sampler._lattices]
    draws = [sampler.draw(i)[1] for i in range(2 * sum(lengths))]
    # Row by row would make most steps one to the right.
    steps = [(b.row - a.row, b.col - a.col) for a, b in pairwise(draws)]
    assert steps.count((0, 16)) < 0.2 * len(steps)
    # A phase comes back in the next cycle, in another order.
    first = [(w.row, w.col) for w in draws if w.row % 16 == w.col % 16 == 0]
    assert first[: len(first) // 2] != first[len(first) // 2 :]


def test_balanced_draws_classes_alike_however_rare():
    labels = np.zeros((60, 60), np.uint8)
    labels[3, 4] = 1
    labels[20:23, 30:34] = 2
    sampler = WindowSampler([make_scene(labels)], crop_size=4, mode="balanced")
    held = [np.unique(labels[sampler.draw(i)[1].slices()]) for i in range(900)]
    assert np.mean([1 in classes for classes in held]) == pytest.approx(1 / 3, abs=0.06)
    assert np.mean([2 in classes for classes in held]) == pytest.approx(1 / 3, abs=0.07)


def test_by_scene_every_scene_and_every_position_is_as_likely():
    large, small = np.zeros((60, 90)), np.zeros((19, 21))
    small[5:] = IGNORE_INDEX
    scenes = [make_scene(blank(40, 40)), make_scene(large), make_scene(small)]
    sampler = WindowSampler(scenes, crop_size=16, mode="scene", seed=4)
    draws = [sampler.draw(i) for i in range(6000)]
    drawn = np.bincount([scene for scene, _ in draws], minlength=3)
    assert drawn[0] == 0  # nothing is usable in it
    assert drawn[1] / 6000 == pytest.approx(0.5, abs=0.02)  # standard deviation 0.0065
    # Also the last offset, and those without a label.
    positions = [(w.row, w.col) for scene, w in draws if scene == 2]
    counts = np.array([positions.count((row, col)) for row in range(4) for col in range(6)])
    assert counts.sum() == drawn[2]
    # 125 are expected of each; their chi-square has 23 degrees of freedom, 50 is at 0.1 %.
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 50
    rows = {w.row for scene, w in draws if scene == 1}
    cols = {w.col for scene, w in draws if scene == 1}
    assert rows == set(range(60 - 16 + 1))
    assert cols == set(range(90 - 16 + 1))


def test_by_scene_a_window_without_labels_counts_unless_every_modality_is_needed():
    labels = blank(64, 64)
    labels[:10, :10] = 0
    anywhere = WindowSampler([make_scene(labels)], crop_size=16, mode="scene")
    held = [(labels[anywhere.draw(i)[1].slices()] == 0).any() for i in range(500)]
    assert 0.01 < np.mean(held) < 0.12  # 100 of 2401 positions
    needed = WindowSampler([make_scene(labels)], crop_size=16, mode="scene", require_all=True)
    windows = [needed.draw(i)[1] for i in range(500)]
    assert all((labels[window.slices()] == 0).any() for window in windows)
    assert len({(window.row, window.col) for window in windows}) > 20


def test_by_scene_positions_are_aligned():
    scene = MemoryScene([ONE, THREE], {"s2": np.ones((1, 40, 50))}, np.zeros((40, 50)))
    sampler = WindowSampler([scene], crop_size=12, mode="scene")
    windows = [sampler.draw(i)[1] for i in range(800)]
    # Up to the rounding to the alignment: 40 − 12 = 28 → 30.
    assert {window.row for window in windows} == set(range(0, 31, 3))
    assert {window.col for window in windows} == set(range(0, 40, 3))
    zoomed = [sampler.draw(i, 24)[1] for i in range(800)]
    assert {window.row for window in zoomed} == set(range(0, 19, 3))
    assert {window.height for window in zoomed} == {24}


def test_where_every_modality_is_required():
    image = {"s2": np.ones((1, 60, 60)), "s1": np.ones((1, 20, 20))}
    image["s1"][:, :, 8:] = np.nan
    scene = MemoryScene([ONE, THREE], image, np.zeros((60, 60)))
    anywhere = WindowSampler([scene], crop_size=12)
    assert max(anywhere.draw(i)[1].col for i in range(200)) > 36
    both = WindowSampler([scene], crop_size=12, require_all=True)
    assert max(both.draw(i)[1].col for i in range(200)) < 24


def test_images_are_not_read_where_nothing_is_labelled():
    labels = blank(2048, 512)
    labels[:100] = 0
    scene = make_scene(labels)
    WindowSampler([scene], crop_size=64)
    assert scene.image_reads == 1


def test_faults_are_explained():
    with pytest.raises(DataError, match="no scenes to train on"):
        WindowSampler([], crop_size=8)
    with pytest.raises(LabelError, match=r"labels all ignored: in the scenes .*'a'.*void"):
        WindowSampler([make_scene(blank(20, 20))], crop_size=8)
    empty = np.full((20, 20), np.nan, np.float32)
    with pytest.raises(DataError, match="no labelled pixel has data of any modality"):
        WindowSampler([make_scene(np.zeros((20, 20)), empty)], crop_size=8)
    with pytest.raises(LabelError, match="have no labels"):
        WindowSampler([MemoryScene([ONE], {"s2": np.ones((1, 9, 9))})], crop_size=8)
    scene = MemoryScene([ONE, THREE], {"s2": np.ones((1, 60, 60))}, np.zeros((60, 60)))
    with pytest.raises(ConfigError, match=r"crop_size is 64.*multiple of 3, for example 66"):
        WindowSampler([scene], crop_size=64)

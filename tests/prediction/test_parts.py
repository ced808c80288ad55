"""Parts of a scene, mapped on their own: the same pixels, bit by bit, as in the map of all."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from array_scene import ArrayScene, Identity
from terrafuse.methods import create_segmenter
from terrafuse.prediction import (
    PRODUCTS,
    Calibration,
    Lattice,
    MapSettings,
    Part,
    ScenePredictor,
    SubsetCalibration,
    WindowSettings,
)
from terrafuse.samples import Window
from terrafuse.segmenter import Inputs, SegmenterOutput

#: Every product, and all that changes them before the map is whole.
EVERYTHING = MapSettings(tuple(PRODUCTS), ("flips", "turns"), abstain=0.5)


class Placed(Identity):
    """Answers that depend on the place of a pixel in its window."""

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        images = inputs.images["a"]
        ramp = torch.arange(images.shape[-1], dtype=torch.float32).sin()
        return SegmenterOutput(images * ramp + images.mean((2, 3), keepdim=True))


def cut(draw: random.Random, length: int) -> list[int]:
    inner = sorted(draw.sample(range(1, length), min(length - 1, draw.randint(0, 3))))
    return [0, *inner, length]


def assemble(
    predictor: ScenePredictor,
    scene: Any,
    rows: list[int],
    cols: list[int],
    chosen: MapSettings | None = None,
) -> Any:
    """Layers of a scene, mapped rectangle by rectangle."""
    layers: dict[str, np.ndarray] = {}
    for top, bottom in pairwise(rows):
        for left, right in pairwise(cols):
            window = Window(top, left, bottom - top, right - left)
            expected = top
            for strip in predictor.stream(scene, window=window, settings=chosen):
                assert (strip.row, strip.col) == (expected, left)
                for name, values in strip.layers.items():
                    whole = layers.setdefault(
                        name,
                        np.full(
                            (*values.shape[:-2], scene.grid.height, scene.grid.width),
                            77,
                            values.dtype,
                        ),
                    )
                    height, width = values.shape[-2:]
                    assert width == right - left
                    whole[..., strip.row : strip.row + height, left:right] = values
                expected += height
            assert expected == bottom
    return layers


def whole(
    predictor: ScenePredictor, scene: Any, chosen: MapSettings | None = None
) -> dict[str, np.ndarray]:
    return assemble(predictor, scene, [0, scene.grid.height], [0, scene.grid.width], chosen)


class Patchy(Placed):
    """Of two modalities, one coarser; answers depend on which are there."""

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        own = super().segment(inputs)
        return SegmenterOutput(own.logits + inputs.images["b"] * inputs.valid["b"])


@pytest.mark.parametrize("seed", range(8))
def test_cuts_do_not_show_in_any_product(seed: int) -> None:
    draw, rng = random.Random(seed), np.random.default_rng(seed)
    height, width = 2 * draw.randint(20, 50), 2 * draw.randint(20, 50)
    a = rng.normal(size=(3, height, width))
    a[:, draw.randrange(height) :, : draw.randint(1, width)] = np.nan
    b = rng.normal(size=(1, height // 2, width // 2))
    b[:, :, draw.randrange(width // 2) :] = np.nan
    images = {"a": a.astype(np.float32), "b": b.astype(np.float32)}
    scene = ArrayScene(images, scales={"b": 2.0})
    blending: Any = draw.choice(["taper", "uniform", "repeated"])
    windows = WindowSettings(24, draw.randint(4, 12), blending, batch_size=draw.randint(1, 4))
    calibration = Calibration("a+b", {"a+b": SubsetCalibration(1.7, 0.3, 0.9)})
    predictor = ScenePredictor(
        Patchy(scene.modalities), windows, device="cpu", calibration=calibration
    )
    expected = whole(predictor, scene, EVERYTHING)
    assert set(expected) == set(PRODUCTS)
    found = assemble(predictor, scene, cut(draw, height), cut(draw, width), EVERYTHING)
    for name, layer in expected.items():
        np.testing.assert_array_equal(found[name], layer, err_msg=name)


@pytest.mark.parametrize("seed", range(60))
def test_cuts_do_not_show(seed: int) -> None:
    draw = random.Random(seed)
    height, width = draw.randint(2, 110), draw.randint(2, 110)
    image = np.random.default_rng(seed).normal(size=(draw.randint(2, 5), height, width))
    image[:, draw.randrange(height) :, : draw.randint(1, width)] = np.nan
    crop = draw.randint(4, 48)
    blending: Any = draw.choice(["taper", "uniform", "repeated"])
    most = crop // 2 if blending == "taper" else crop - 2
    windows = WindowSettings(crop, draw.randint(0, most), blending, batch_size=draw.randint(1, 5))
    scene = ArrayScene({"a": image.astype(np.float32)})
    predictor = ScenePredictor(Placed(scene.modalities), windows, device="cpu")
    expected = whole(predictor, scene)
    found = assemble(predictor, scene, cut(draw, height), cut(draw, width))
    for name, layer in expected.items():
        np.testing.assert_array_equal(found[name], layer, err_msg=name)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_cuts_do_not_show_in_the_map_of_a_network(batch_size: int) -> None:
    image = np.random.default_rng(0).normal(size=(3, 210, 190)).astype(np.float32)
    scene = ArrayScene({"a": image})
    torch.manual_seed(0)
    model = create_segmenter(
        "single", list(scene.modalities), 5, {"backbone": "resnet10t", "decoder": "segformer"}
    )
    predictor = ScenePredictor(model, WindowSettings(64, 16, batch_size=batch_size), device="cpu")
    expected = whole(predictor, scene)
    for rows, cols in (([0, 100, 210], [0, 190]), ([0, 37, 130, 210], [0, 64, 190])):
        found = assemble(predictor, scene, rows, cols)
        for name, layer in expected.items():
            np.testing.assert_array_equal(found[name], layer, err_msg=name)


def test_every_batch_has_one_size_whatever_is_cut_and_left_out() -> None:
    """A network's rounding may depend on it."""
    # Three windows side by side: their number in the scene, or a part, is no multiple of 4.
    image = np.random.default_rng(0).normal(size=(2, 150, 70)).astype(np.float32)
    image[:, 40:100] = np.nan  # windows without data are not run
    scene = ArrayScene({"a": image})
    for cut_rows in ([0, 150], [0, 30, 31, 150]):
        model = Identity(scene.modalities)
        predictor = ScenePredictor(model, WindowSettings(32, 8, batch_size=4), device="cpu")
        assemble(predictor, scene, cut_rows, [0, 70])
        assert set(model.batches) == {4}
    small = ArrayScene({"a": image[:, :20, :40]})  # two windows in all
    predictor = ScenePredictor(model := Identity(small.modalities), predictor.windows, device="cpu")
    assemble(predictor, small, [0, 7, 20], [0, 40])
    assert set(model.batches) == {2}


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 300), st.integers(4, 64), st.floats(0, 1), st.integers(1, 4), st.data()
)  # fmt: skip
def test_windows_of_a_part_are_those_that_touch_it(
    length: int, crop: int, share: float, alignment: int, data: st.DataObject
) -> None:
    lattice = Lattice(length, length, crop, int(crop * share / 2), alignment)
    first = data.draw(st.integers(0, length - 1))
    window = Window(first, 0, data.draw(st.integers(1, length - first)), length)
    touching = [w for w in lattice if w.intersection(window)]
    part = Part(lattice, window)
    assert list(part) == touching
    assert len(part) == len(touching)


def test_a_part_is_read_where_its_windows_lie_and_nowhere_else() -> None:
    scene = ArrayScene({"a": np.zeros((2, 200, 200), np.float32)})
    predictor = ScenePredictor(Identity(scene.modalities), WindowSettings(32, 8), device="cpu")
    list(predictor.stream(scene, window=Window(100, 60, 30, 20)))
    lattice = predictor.lattice(scene)
    assert set(scene.windows_read) == set(Part(lattice, Window(100, 60, 30, 20)))
    assert len(scene.windows_read) < len(lattice) / 5

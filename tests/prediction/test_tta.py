"""Test-time augmentation: turned and resized views, turned back and averaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from array_scene import ArrayScene, Identity, NeedsAll
from terrafuse.classes import ClassScheme
from terrafuse.errors import ConfigError, OutputError, UnknownNameError
from terrafuse.modalities import Modality
from terrafuse.prediction import MapSettings, ScenePredictor, WindowSettings
from terrafuse.prediction.tta import View, average_views, find_views, resize
from terrafuse.samples import Batch, Window
from terrafuse.segmenter import Inputs, SegmenterOutput

SCHEME = ClassScheme(("x", "y"))
CORNERS = torch.tensor([[0.0, 1.0], [2.0, 3.0]])


class Both(NeedsAll):
    """Two modalities that have to lie on each other, also where one has gaps."""

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        a, b = inputs.images["a"], inputs.images["b"]
        return SegmenterOutput(a * b + inputs.valid["b"])


def layers(
    scene: ArrayScene, model: type[Identity], tta: tuple[str, ...], size: int = 32, **options: Any
) -> Any:
    windows = WindowSettings(size, size // 4, batch_size=2)
    predictor = ScenePredictor(model(scene.modalities, 2), windows, device="cpu")
    names = options.pop("products", ("class_map", "probabilities_float32"))
    strips = list(predictor.stream(scene, settings=MapSettings(names, tta, **options)))
    return {n: np.concatenate([s.layers[n] for s in strips], axis=-2) for n in names}


def test_views_are_all_different_and_turned_back() -> None:
    counts = {"": 1, "flips": 4, "turns": 4, "scales": 3, "flips,turns": 8, "turns,scales": 12}
    for kinds, count in (counts | {"scales,flips,turns": 24}).items():
        views = find_views([kind for kind in kinds.split(",") if kind])
        assert views[0] == View()
        shown = {(view.factor, *view.turn(CORNERS).flatten().tolist()) for view in views}
        assert len(views) == len(shown) == count
        for view in views:
            assert torch.equal(view.turn_back(view.turn(CORNERS)), CORNERS)
    assert View(quarters=1).turn(CORNERS).tolist() == [[1, 3], [0, 2]]  # anticlockwise
    assert View(True, 1).turn(CORNERS).tolist() == [[3, 1], [2, 0]]  # first mirrored up-down
    flips = {tuple(view.turn(CORNERS).flatten().tolist()) for view in find_views(["flips"])}
    assert flips == {(0, 1, 2, 3), (2, 3, 0, 1), (1, 0, 3, 2), (3, 2, 1, 0)}


@pytest.mark.parametrize("tta", [("flips",), ("turns",), ("flips", "turns")])
def test_a_model_that_turns_with_its_input_gives_the_same_map(tta: tuple[str, ...]) -> None:
    """Of two modalities of different size with gaps, bit by bit."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(2, 90, 70)).astype(np.float32)
    b = rng.integers(1, 9, (1, 45, 35)).astype(np.float32)
    a[:, 20:31, 5:60] = np.nan
    b[:, 3:9, 20:] = np.nan
    images = {"a": a, "b": b}
    plain = layers(ArrayScene(images, scales={"b": 2.0}), Both, ())
    found = layers(ArrayScene(images, scales={"b": 2.0}), Both, tta)
    for name, layer in plain.items():
        np.testing.assert_array_equal(found[name], layer, err_msg=name)


def test_an_average_of_turns_by_hand() -> None:
    """A model that marks the upper left pixel: turned back it marks the four corners."""

    class Marks(Identity):
        def segment(self, inputs: Inputs) -> SegmenterOutput:
            scores = torch.zeros_like(inputs.images["a"])
            scores[:, 1, 0, 1] = 8.0
            return SegmenterOutput(scores)

    scene = ArrayScene({"a": np.zeros((2, 4, 4), np.float32)})

    def marked(tta: tuple[str, ...]) -> list[list[float]]:
        shares = layers(scene, Marks, tta, 4)["probabilities_float32"]
        return np.log(shares[1] / shares[0]).round(5).tolist()

    assert marked(()) == [[0, 8, 0, 0], [0] * 4, [0] * 4, [0] * 4]
    assert marked(("flips",)) == [[0, 2, 2, 0], [0] * 4, [0] * 4, [0, 2, 2, 0]]
    assert marked(("turns",)) == [[0, 2, 0, 0], [0, 0, 0, 2], [2, 0, 0, 0], [0, 0, 2, 0]]
    assert marked(("turns", "flips")) == [[0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]]


def test_scales_are_whole_pixels_of_every_modality() -> None:
    """Windows of 32 are shown at 24 and 40; of a modality of half the size at 12 and 20."""
    seen = []

    class Sized(Identity):
        def segment(self, inputs: Inputs) -> SegmenterOutput:
            seen.append(inputs.size)
            return super().segment(inputs)

        def forward(self, images: Any, valid: Any = None) -> SegmenterOutput:
            seen.append(tuple(images["b"].shape[-2:]))
            return super().forward(images, valid)

    images = {"a": np.zeros((2, 40, 40), np.float32), "b": np.zeros((1, 20, 20), np.float32)}
    images["a"][1] = 1.0
    found = layers(ArrayScene(images, scales={"b": 2.0}), Sized, ("scales",))
    assert (found["class_map"] == 1).all()
    sizes = [(16, 16), (32, 32), (12, 12), (24, 24), (20, 20), (40, 40)]
    assert seen == sizes * (len(seen) // 6)


def test_a_constant_is_one_at_any_scale_and_data_keeps_its_place() -> None:
    image = torch.full((1, 2, 40, 40), 3.0)
    image[..., :20] = torch.nan
    for side in (30, 50):
        found = resize(image, side)
        assert torch.equal(found.isnan().all(dim=1)[0, 0], torch.arange(side) < side // 2)
        torch.testing.assert_close(
            found[..., side // 2 :], torch.full((1, 2, side, side // 2), 3.0)
        )
    lone = torch.full((1, 1, 40, 40), torch.nan)
    lone[..., 7, 9] = 5.0
    for nearest in (False, True):  # a method may need every modality
        assert resize(lone, 30, nearest=nearest).nanmean() == 5
    steps = torch.tensor([[1.0, 9.0], [1.0, 9.0]])[None, None]
    assert set(resize(steps, 5, nearest=True).flatten().tolist()) == {1, 9}


def test_segments_are_not_averaged_and_one_band_is_enough_at_scales() -> None:
    segments = Modality("s", ("id",), kind="structure")
    a = Modality("a", ("x", "y"), kind="optical")
    numbers = torch.tensor([1.0, 9.0]).repeat(16).expand(1, 1, 32, 32)
    image = torch.full((1, 2, 32, 32), 3.0)
    image[:, 1] = torch.nan
    valid = torch.ones(1, 32, 32, dtype=torch.bool)
    batch = Batch(
        {"s": numbers, "a": image}, {"s": valid, "a": valid}, None, (Window(0, 0, 32, 32),), ("x",)
    )
    sides = []

    def score(shown: Batch) -> torch.Tensor:
        assert set(shown.images["s"].unique().tolist()) == {1, 9}
        assert shown.valid["a"].all()
        sides.append(shown.windows[0].height)
        return torch.zeros(1, 2, sides[-1], sides[-1])

    average_views(score, batch, find_views(["scales"]), [segments, a], 1)
    assert sides == [32, 24, 40]


def test_scales_keep_a_modality_that_a_method_needs() -> None:
    images = {"a": np.ones((2, 32, 32), np.float32), "b": np.full((1, 32, 32), np.nan, np.float32)}
    images["b"][:, 3, 3] = 1
    found = layers(ArrayScene(images), Both, ("scales",))
    assert (found["class_map"] != 255).all()


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"'flip'\. Did you mean 'flips'"):
        MapSettings(tta=("flip",))
    with pytest.raises(ConfigError, match=r"tta is 'flips,flips'; name each of flips, turns"):
        MapSettings(tta=("flips", "flips"))
    MapSettings(tta=("flips", "turns"))  # as the message says
    scene = ArrayScene({"a": np.zeros((2, 8, 8), np.float32)}, scheme=SCHEME)
    for size, allowed in ((1, False), (8, True)):
        predictor = ScenePredictor(
            Identity(scene.modalities), WindowSettings(size, 0), device="cpu"
        )
        if allowed:
            list(predictor.stream(scene, settings=MapSettings(tta=("scales",))))
            continue
        with pytest.raises(ConfigError, match=r"windows of 1 pixels cannot be resized by 0\.75"):
            predictor.predict(scene, "unused", tta=("scales",))
        list(predictor.stream(scene, settings=MapSettings(tta=("flips",))))  # as the message says


def test_it_is_recorded_and_an_unfinished_map_keeps_it(tmp_path: Path) -> None:
    scene = ArrayScene({"a": np.ones((2, 40, 40), np.float32)}, scheme=SCHEME)
    predictor = ScenePredictor(Identity(scene.modalities), WindowSettings(16, 4), device="cpu")
    made = predictor.predict(scene, tmp_path / "map", tta=("turns", "flips"))
    record = json.loads(made.record.read_text())
    assert (record["tta"], record["passes_per_window"]) == (["turns", "flips"], 8)
    assert (record["abstain"], record["sieve"]) == (None, None)
    units = tmp_path / "begun" / "units"
    units.mkdir(parents=True)
    key = {"tta": ["flips"], "abstain": 0.5, "sieve": 3}
    (units / "job.json").write_text(json.dumps({"key": key}))
    with pytest.raises(OutputError, match=r"differs in: .*tta, passes_per_window, abstain, sieve"):
        predictor.predict(scene, tmp_path / "begun", resume=True)

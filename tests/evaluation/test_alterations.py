"""Altered inputs: the same pixels whatever the window, and what each is to do."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from array_scene import ArrayScene, NeedsAll
from terrafuse.classes import ClassScheme
from terrafuse.config import EvaluationConfig
from terrafuse.errors import ConfigError
from terrafuse.evaluation import evaluate
from terrafuse.evaluation.evidence import Evidence
from terrafuse.evaluation.synergy import Alteration, Averaged, alter_scenes, plan_tests
from terrafuse.evaluation.synergy.alterations import (
    Clouded,
    Noisy,
    Shifted,
    Stripped,
    Unpaired,
)
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.prediction import WindowSettings
from terrafuse.samples import Window

HEIGHT, WIDTH = 92, 130
STATISTICS = BandStatistics((1.0, 2.0), (0.5, 3.0), (0.0, 0.0), (7.0, 8.0), (9, 9))


def scene(id: str = "a", seed: int = 0, **changes: Any) -> ArrayScene:
    """A fine modality, and one of half its pixels a side with a hole."""
    rng = np.random.default_rng(seed)
    fine = rng.normal(size=(1, HEIGHT, WIDTH)).astype(np.float32)
    coarse = rng.normal(size=(2, HEIGHT // 2, WIDTH // 2)).astype(np.float32)
    coarse[:, 5:9, 20:31] = np.nan
    return ArrayScene({"fine": fine, "coarse": coarse}, scales={"coarse": 2.0}, id=id, **changes)


def alterations(scenes: list[Any]) -> dict[str, Alteration]:
    return {
        "shift": Shifted("coarse", 3),
        "noise": Noisy("coarse", (0.5, 3.0)),
        "cloud": Clouded("coarse", (7.0, 8.0), 0.3),
        "strips": Stripped("coarse", 0.3),
        "half": Unpaired("coarse", scenes[:1]),
        "other": Unpaired("coarse", scenes),
        "mean": Averaged("coarse", (1.0, 2.0)),
    }


def read(altered: Any, window: Window) -> np.ndarray:
    image: np.ndarray = altered.read(window, labels=False).images["coarse"].numpy()
    return image


@pytest.mark.parametrize("name", list(alterations([])))
def test_windows_show_parts_of_one_altered_image(name: str) -> None:
    scenes = [scene(), scene("b", 1)]
    own = alterations(scenes)[name]
    (altered, *_) = alter_scenes(scenes, [own])
    whole = read(altered, Window(0, 0, HEIGHT, WIDTH))
    assert whole.shape == (2, HEIGHT // 2, WIDTH // 2)
    for window in (Window(4, 60, 32, 48), Window(60, 0, 32, 32), Window(80, 100, 64, 64)):
        part = read(pickle.loads(pickle.dumps(altered)), window)
        row, col = window.row // 2, window.col // 2
        expected = whole[:, row : row + part.shape[1], col : col + part.shape[2]]
        np.testing.assert_array_equal(part[:, : expected.shape[1], : expected.shape[2]], expected)
        assert np.isnan(part[:, expected.shape[1] :]).all()
        assert np.isnan(part[:, :, expected.shape[2] :]).all()
    plain = scenes[0].read(Window(0, 0, HEIGHT, WIDTH))
    sample = altered.read(Window(0, 0, HEIGHT, WIDTH))
    assert np.array_equal(sample.images["fine"], plain.images["fine"])
    assert not np.array_equal(whole, plain.images["coarse"], equal_nan=True)
    np.testing.assert_array_equal(sample.valid["coarse"], ~np.isnan(whole).all(axis=0))


def whole(own: Alteration, scenes: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """The coarse modality before and after."""
    window = Window(0, 0, HEIGHT, WIDTH)
    before: np.ndarray = scenes[0].images["coarse"]
    return before, read(alter_scenes(scenes, [own])[0], window)


def test_a_shift_moves_to_the_right_by_pixels_of_the_modality() -> None:
    before, after = whole(Shifted("coarse", 3), [scene()])
    np.testing.assert_array_equal(after[..., 3:], before[..., :-3])
    np.testing.assert_array_equal(after[..., :3], before[..., [0, 0, 0]])


def test_noise_has_the_deviation_of_each_band_and_is_of_the_place() -> None:
    scenes = [scene()]
    before, after = whole(Noisy("coarse", (0.5, 3.0)), scenes)
    found = np.nanstd(after - before, axis=(1, 2))
    assert found == pytest.approx([0.5, 3.0], rel=0.1)
    assert np.nanmean(after - before) == pytest.approx(0, abs=0.1)
    np.testing.assert_array_equal(np.isnan(after), np.isnan(before))
    _, elsewhere = whole(Noisy("coarse", (0.5, 3.0)), [scene("elsewhere")])
    assert not np.array_equal(after, elsewhere, equal_nan=True)


def test_clouds_cover_their_share_and_are_bright() -> None:
    large = ArrayScene({"s": np.zeros((2, 512, 512), np.float32)})
    (altered,) = alter_scenes([large], [Clouded("s", (7.0, 8.0), 0.3)])
    image = altered.read(Window(0, 0, 512, 512), labels=False).images["s"].numpy()
    assert (image[0] == 7).mean() == pytest.approx(0.3, abs=1e-3)
    np.testing.assert_array_equal(image[1], image[0] / 7 * 8)
    # Blobs, not noise: a neighbour of a cloud is a cloud.
    cloudy = image[0] > 0
    assert (cloudy[:, 1:] & cloudy[:, :-1]).sum() > 0.9 * cloudy[:, 1:].sum()


def test_strips_take_their_share_of_columns() -> None:
    large = ArrayScene({"s": np.zeros((1, 8, 240), np.float32)})
    (altered,) = alter_scenes([large], [Stripped("s", 0.3)])
    missing = np.isnan(altered.read(Window(0, 0, 8, 240), labels=False).images["s"].numpy())[0]
    assert missing.all(axis=0).sum() == missing.any(axis=0).sum() == 72


def test_images_are_exchanged_between_scenes_of_a_size() -> None:
    scenes = [scene("a", 0), scene("b", 1), scene("c", 2), scene("d", 3, missing={"coarse"})]
    own = Unpaired("coarse", scenes)
    assert [x and x.id for x in map(own.partner, scenes[:3])] == ["c", "a", "a"]
    _, after = whole(own, scenes)
    np.testing.assert_array_equal(after, scenes[2].images["coarse"])


def test_a_single_scene_gets_what_is_half_of_it_away() -> None:
    before, after = whole(Unpaired("coarse", [scene()]), [scene()])
    # 46 × 65 pixels: half of the scene's 92 × 130 pixels, in steps of 2.
    expected = np.roll(before, (-23, -32), axis=(1, 2))
    np.testing.assert_array_equal(after, expected)


def test_tests_suit_the_modalities() -> None:
    modalities = [
        Modality("s2", ("B1", "B2"), wavelengths_um=(0.5, 0.6), kind="optical"),
        Modality("s1", ("VV", "VH"), kind="sar"),
        Modality("sam", ("a", "b"), kind="structure"),
    ]
    statistics = {modality.name: STATISTICS for modality in modalities}
    tests, left_out = plan_tests(["shift", "noise", "cloud"], modalities, statistics, [])
    assert [test.name for test in tests] == [
        *(f"shift-{name}-{px}" for name in ("s2", "s1", "sam") for px in (1, 2, 4, 8)),
        *(f"noise-{name}-{std:g}" for name in ("s2", "s1") for std in (0.5, 1)),
        "cloud-s2-0.3",
    ]
    assert {text.partition(":")[0] for text in left_out} == {
        "noise of sam", "cloud of s1", "cloud of sam",
    }  # fmt: skip
    noise = next(test.alteration for test in tests if test.name == "noise-s1-0.5")
    assert isinstance(noise, Noisy)
    assert noise.deviations == (0.25, 1.5)
    cloud = tests[-1].alteration
    assert isinstance(cloud, Clouded)
    assert cloud.values == (7.0, 8.0)
    with pytest.raises(ConfigError, match=r"stress test 'clouds'.*cloud"):
        plan_tests(["clouds"], modalities, statistics, [])
    with pytest.raises(ConfigError, match="name each once"):
        plan_tests(["shift", "shift"], modalities, statistics, [])


def test_a_method_that_needs_all_is_scored_with_the_mean_instead() -> None:
    """Right with both; alone "b" says the opposite, which the mean of "a" does not change."""
    labels = (np.arange(64)[None] // 16 % 2).repeat(64, 0).astype(np.uint8)
    ground = np.stack([labels == k for k in range(2)]).astype(np.float32)
    images = {"a": 3 * ground + 5, "b": 1 - ground}
    scenes = [ArrayScene(images, labels=labels, scheme=ClassScheme(("dry", "wet")))]
    scenes[0].place = None
    found: list[Evidence] = []
    for own in ([], [Averaged("a", (5.0, 5.0))]):
        evaluate(
            NeedsAll(scenes[0].modalities, 2), alter_scenes(scenes, own), scenes[0].scheme,
            EvaluationConfig(), WindowSettings(32, 8), device="cpu", boundary=False,
            on_evidence=found.append,
        )  # fmt: skip
    both, alone = (own.counts("confusion").sum(axis=0) for own in found)
    assert np.trace(both) == 64 * 64
    assert np.trace(alone) == 0

from pathlib import Path

import numpy as np

from array_scene import ArrayScene, Identity
from terrafuse.classes import ClassScheme
from terrafuse.modalities import BandStatistics
from terrafuse.training.pictures import SamplePicture

SCHEME = ClassScheme(("a", "b", "c"))


def scene(id: str, shares: tuple[int, int, int]) -> ArrayScene:
    labels = np.repeat(np.arange(3), shares).astype(np.uint8).reshape(8, 8)
    image = np.random.default_rng(0).normal(size=(3, 8, 8))
    return ArrayScene({"m": image}, labels, scheme=SCHEME, id=id)


def test_the_scene_with_the_most_even_mix_is_shown(tmp_path: Path) -> None:
    # Three classes, two of them by a pixel, against two halves.
    scenes = [scene("plain", (64, 0, 0)), scene("stray", (62, 1, 1)), scene("mixed", (32, 32, 0))]
    ones = (1.0, 1.0, 1.0)
    statistics = {"m": BandStatistics(ones, ones, (-2.0,) * 3, (2.0,) * 3, (64,) * 3)}
    picture = SamplePicture(scenes, 8, statistics, SCHEME, tmp_path / "figures")
    segmenter = Identity(scenes[0].modalities)
    assert picture._choose(segmenter).scene_id == "mixed"  # type: ignore[union-attr]
    picture(segmenter, 7)
    picture(segmenter, 8)
    picture.finish()
    assert (tmp_path / "figures" / "validation_000008.png").exists()
    assert (tmp_path / "figures" / "validation_000007.png").stat().st_size > 1000
    assert segmenter.norm.training

"""Maps of the modality that decided: by leaving out one after the other."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import rasterio
import torch

from array_scene import ArrayScene, NeedsAll
from terrafuse.classes import ClassScheme
from terrafuse.errors import ConfigError
from terrafuse.prediction import MapSettings, ScenePredictor, WindowSettings

SCHEME = ClassScheme(("bare", "crop", "roof"))
PRODUCTS = ("attribution", "attribution_margin")
NAMES = ("a", "b", "c")


class Sum(NeedsAll):
    supports_missing: ClassVar[bool] = True


def three_sensors() -> ArrayScene:
    """The first covers all, the second lacks the left, the third the right; a corner has none."""
    rng = np.random.default_rng(0)
    images = {n: rng.normal(size=(3, 70, 90)).astype(np.float32) for n in NAMES}
    images["b"][:, :, :30] = np.nan
    images["c"][:, :, 20:] = np.nan
    images["a"][:, 50:, 20:30] = np.nan
    return ArrayScene(images, scheme=SCHEME)


def margin(logits: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Probability of a class less that of the best other one."""
    shares = np.exp(logits.astype(np.float64))
    shares /= shares.sum(axis=0)
    own = np.take_along_axis(shares, index[None], 0)[0]
    np.put_along_axis(shares, index[None], -1, 0)
    found: np.ndarray = own - shares.max(axis=0)
    return found


def by_hand(images: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    known = {n: ~np.isnan(x[0]) for n, x in images.items()}
    parts = {n: np.nan_to_num(x) for n, x in images.items()}
    total = sum(parts.values())
    index = total.argmax(axis=0)
    value, most = np.zeros(index.shape, int), np.full(index.shape, -np.inf)
    lost_most = np.zeros(index.shape)
    for place, name in enumerate(images):
        rest = total - parts[name]
        changes, after = rest.argmax(axis=0) != index, margin(rest, index)
        alone = known[name] & (sum(known.values()) == 1)
        after = np.where(alone, -1, after)
        lost = margin(total, index) - after
        better = (changes | alone) & (lost > most)
        value, most = np.where(better, place + 1, value), np.where(better, lost, most)
        lost_most = np.maximum(lost_most, lost)
    nothing = ~np.logical_or.reduce(list(known.values()))
    return np.where(nothing, 255, value), np.where(nothing, np.nan, lost_most)


def layers(predictor: ScenePredictor, scene: ArrayScene, **options: Any) -> dict[str, np.ndarray]:
    strips = list(predictor.stream(scene, settings=MapSettings(PRODUCTS, **options)))
    return {name: np.concatenate([strip.layers[name] for strip in strips]) for name in PRODUCTS}


@pytest.mark.parametrize("tta", [(), ("flips", "turns")])
def test_it_is_what_leaving_out_each_changes(tta: tuple[str, ...]) -> None:
    scene = three_sensors()
    predictor = ScenePredictor(Sum(scene.modalities, 3), WindowSettings(32, 8), device="cpu")
    found = layers(predictor, scene, tta=tta)
    expected, lost = by_hand(scene.images)
    assert set(np.unique(expected)) == {0, 1, 2, 3, 255}
    np.testing.assert_array_equal(found["attribution"], expected)
    unknown = np.isnan(lost)
    np.testing.assert_array_equal(found["attribution_margin"] == 255, unknown)
    shares = found["attribution_margin"][~unknown] / 127.0
    np.testing.assert_allclose(shares, lost[~unknown], atol=1.1 / 254)


def test_a_method_that_needs_all_gets_the_mean_of_the_training(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    images = {n: rng.normal(size=(3, 40, 40)).astype(np.float32) for n in NAMES[:2]}
    scene = ArrayScene(images, scheme=SCHEME)
    model = NeedsAll(scene.modalities, 3)
    mean = torch.tensor([0.5, -1.0, 2.0])
    model.get_buffer("mean_a").copy_(mean)
    predictor = ScenePredictor(model, WindowSettings(32, 8), device="cpu")
    made = predictor.predict(scene, tmp_path, products=["attribution"])
    shifted = {"a": images["a"] - mean.numpy()[:, None, None], "b": images["b"]}
    expected, _ = by_hand(shifted)
    with rasterio.open(made["attribution"]) as file:
        np.testing.assert_array_equal(file.read(1), expected)
    record = json.loads(made.record.read_text())
    assert record["left_out"] == {
        "modalities": ["a", "b"],
        "by": "replaced by the mean of the training",
    }
    assert record["passes_per_window"] == 3


def test_the_file_names_the_modalities(tmp_path: Path) -> None:
    scene = three_sensors()
    predictor = ScenePredictor(Sum(scene.modalities, 3), WindowSettings(32, 8), device="cpu")
    made = predictor.predict(scene, tmp_path, products=PRODUCTS, tta=("flips",))
    values = {"none alone": 0, "a": 1, "b": 2, "c": 3}
    with rasterio.open(made["attribution"]) as file:
        assert file.nodata == 255
        colors = file.colormap(1)
        assert len({colors[value] for value in values.values()}) == 4
        assert json.loads(file.tags()["modalities"]) == {str(v): n for n, v in values.items()}
    with rasterio.open(made["attribution_margin"]) as file:
        assert file.scales == (2 / 254,)
    root = ElementTree.parse(tmp_path / "attribution.tif.aux.xml").getroot()
    assert [name.text for name in root.iter("Category")] == list(values)
    record = json.loads(made.record.read_text())
    assert record["products"]["attribution"]["values"] == values
    assert record["left_out"] == {"modalities": list(NAMES), "by": "left out"}
    assert record["passes_per_window"] == 4 * 4  # views, and each modality left out


def test_of_one_raster_it_is_that_one() -> None:
    image = np.random.default_rng(2).normal(size=(3, 40, 40)).astype(np.float32)
    scene = ArrayScene({"a": image, "b": image}, missing=frozenset("a"), scheme=SCHEME)
    predictor = ScenePredictor(Sum(scene.modalities, 3), WindowSettings(32, 8), device="cpu")
    assert (layers(predictor, scene)["attribution"] == 2).all()


def test_a_model_of_one_modality_is_refused(tmp_path: Path) -> None:
    scene = ArrayScene({"a": np.zeros((3, 40, 40), np.float32)}, scheme=SCHEME)
    predictor = ScenePredictor(Sum(scene.modalities, 3), WindowSettings(32, 8), device="cpu")
    message = r"'attribution_margin' tells which of several.*has one \(a\)\. Leave it out"
    with pytest.raises(ConfigError, match=message):
        predictor.predict(scene, tmp_path, products=["attribution_margin"])
    predictor.predict(scene, tmp_path, products=["class_map"])

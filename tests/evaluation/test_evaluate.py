import json
from typing import Any

import numpy as np
import pytest

from array_scene import ArrayScene, Identity, NeedsAll
from terrafuse.classes import ClassScheme
from terrafuse.config import EvaluationConfig
from terrafuse.errors import ConfigError, DataError, LabelError, ModelError
from terrafuse.evaluation import evaluate, modality_subsets, scored_classes
from terrafuse.prediction import WindowSettings

SCHEME = ClassScheme(("water", "land"))
WINDOWS: dict[str, Any] = {"crop_size": 32, "overlap": 8, "batch_size": 4}
SETTINGS: dict[str, Any] = {"windows": WindowSettings(**WINDOWS), "device": "cpu"}


def scores_for(class_map: np.ndarray, classes: int = 2) -> np.ndarray:
    """Images whose largest band is the class."""
    return np.stack([class_map == c for c in range(classes)]).astype(np.float32)


def make_scene(id: str, labels: np.ndarray, class_map: np.ndarray, **options: Any) -> ArrayScene:
    return ArrayScene({"s1": scores_for(class_map)}, labels=labels, scheme=SCHEME, id=id, **options)


def random_classes(shape: tuple[int, int], seed: int, share: float = 0.5) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) < share).astype(np.uint8)


def run(scenes: list[ArrayScene], model: type[Identity] = Identity, **options: Any) -> Any:
    segmenter = model(scenes[0].modalities, num_classes=2)
    config = options.pop("config", EvaluationConfig())
    cut = {key: options.pop(key) for key in ("overlap", "blending") if key in options}
    windows = WindowSettings(**(WINDOWS | cut))
    return evaluate(segmenter, scenes, SCHEME, config, windows, device="cpu", **options)


def test_subsets_of_names_come_full_first() -> None:
    assert modality_subsets(["a", "b", "c"]) == [
        ("a", "b", "c"), ("a", "b"), ("a", "c"), ("b", "c"), ("a",), ("b",), ("c",)
    ]  # fmt: skip


def test_one_matrix_over_all_scenes() -> None:
    labels = [random_classes(shape, i) for i, shape in enumerate([(40, 50), (20, 70)])]
    maps = [random_classes(x.shape, i + 7) for i, x in enumerate(labels)]
    labels[0][:5] = 255
    scenes = [make_scene(f"n{i}", x, y) for i, (x, y) in enumerate(zip(labels, maps, strict=True))]
    metrics = run(scenes, config=EvaluationConfig(split="val", boundary_tolerance_px=2))

    expected = np.zeros((2, 2), int)
    for x, y in zip(labels, maps, strict=True):
        np.add.at(expected, (x[x < 2], y[x < 2]), 1)
    full = metrics["subsets"]["s1"]
    assert full["matrix"] == expected.tolist()
    assert metrics["pixels"] == expected.sum() == full["pixels"]
    assert full["scores"]["oa"] == pytest.approx(np.trace(expected) / expected.sum())
    assert full["per_class"]["water"]["pixels"] == expected[0].sum()
    assert 0 < full["scores"]["boundary_f1"] <= 1
    assert (metrics["split"], metrics["scenes"], metrics["full"]) == ("val", 2, "s1")
    assert metrics["settings"]["boundary_tolerance_px"] == 2
    assert metrics["settings"]["boundary_tolerance_m"] == 20  # pixels of 10 m
    assert metrics["settings"]["class_mean"] == "present"
    assert metrics["settings"]["aggregation"] == "global"
    assert list(metrics["per_scene"]) == ["n0", "n1"]
    assert metrics["per_scene"]["n1"]["oa"] == pytest.approx((labels[1] == maps[1]).mean())
    assert metrics["per_scene"]["n0"]["pixels"] == 35 * 50
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_another_reference_and_means_over_some_classes() -> None:
    labels = random_classes((40, 50), 0)
    eroded = np.where(random_classes(labels.shape, 1, share=0.3), 255, labels).astype(np.uint8)
    class_map = random_classes(labels.shape, 2)
    scene = make_scene("a", labels, class_map, labels_eroded=eroded)
    config = EvaluationConfig(reference="labels_eroded", mean_over=("land",))
    metrics = run([scene], config=config)
    known = eroded < 2
    expected = np.zeros((2, 2), int)
    np.add.at(expected, (eroded[known], class_map[known]), 1)
    subset = metrics["subsets"]["s1"]
    assert subset["matrix"] == expected.tolist()
    assert metrics["pixels"] == known.sum() < labels.size
    iou = {name: scores["iou"] for name, scores in subset["per_class"].items()}
    assert subset["scores"]["miou"] == iou["land"] != iou["water"]
    assert subset["averaged"]["miou"] == 1
    assert subset["scores"]["oa"] == pytest.approx(np.trace(expected) / expected.sum())
    assert metrics["per_scene"]["a"]["miou"] == iou["land"]
    assert metrics["classes"] == ["water", "land"]
    assert metrics["settings"]["scored_classes"] == ["land"]
    assert metrics["settings"]["reference"] == "labels_eroded"


def test_scored_classes_are_in_the_order_of_the_scheme() -> None:
    scheme = ClassScheme(("impervious", "building", "car"))
    assert scored_classes(EvaluationConfig(), scheme) == (0, 1, 2)
    chosen = EvaluationConfig(mean_over=("car", "building", "car"))
    assert scored_classes(chosen, scheme) == (1, 2)
    with pytest.raises(ConfigError, match=r"'evaluation.mean_over' 'bilding'.*'building'"):
        scored_classes(EvaluationConfig(mean_over=("bilding",)), scheme)


def test_blending_is_passed_on_and_recorded() -> None:
    labels = random_classes((40, 50), 0)
    scene = make_scene("a", labels, labels)
    metrics = run([scene], overlap=28, blending="repeated")
    assert metrics["settings"]["blending"] == "repeated"
    assert metrics["subsets"]["s1"]["scores"]["oa"] == 1
    assert len(scene.windows_read) == 3 * 6  # starts 0, 4, 8 and 0, 4, … 16, 18
    assert run([scene], overlap=16)["settings"]["blending"] == "taper"
    with pytest.raises(ConfigError, match="overlap is 28"):
        run([scene], overlap=28)


def test_boundaries_can_be_left_out() -> None:
    labels = random_classes((40, 40), 0)
    metrics = run([make_scene("a", labels, labels)], boundary=False)
    assert metrics["subsets"]["s1"]["scores"]["boundary_f1"] is None
    assert metrics["subsets"]["s1"]["scores"]["miou"] == 1
    assert metrics["settings"]["boundary_tolerance_px"] is None


def test_every_subset_is_scored_without_the_others() -> None:
    labels = random_classes((40, 40), 0)
    right, wrong = scores_for(labels), scores_for(1 - labels)
    half = right.copy()
    half[:, :, 20:] = np.nan
    scene = ArrayScene({"s1": wrong, "s2": half}, labels=labels, scheme=SCHEME)

    class Best(Identity):
        def segment(self, inputs: Any) -> Any:
            output = super().segment(inputs)
            output.logits = inputs.images["s1"] + 2 * inputs.images["s2"]
            return output

    metrics = run([scene], Best, subsets=True)
    assert list(metrics["subsets"]) == ["s1+s2", "s1", "s2"] == [metrics["full"], "s1", "s2"]
    accuracy = {name: subset["scores"]["oa"] for name, subset in metrics["subsets"].items()}
    assert accuracy == {"s1+s2": 0.5, "s1": 0.0, "s2": 0.5}
    # Where a subset has no data it is wrong, and says how much that is.
    unmapped = {name: subset["unmapped"] for name, subset in metrics["subsets"].items()}
    assert unmapped == {"s1+s2": 0, "s1": 0, "s2": 800}
    miou = pytest.approx(1 / 3, abs=0.05)
    row = {"oa": 0.5, "miou": miou, "pixels": 1600, "unmapped": 0}
    assert metrics["per_scene"] == {"a": row}


def test_labels_of_an_aligned_window_are_cut_to_the_scene() -> None:
    labels = random_classes((33, 47), 0)
    scene = ArrayScene(
        {"s1": scores_for(labels), "coarse": np.zeros((1, 9, 12))},
        scales={"coarse": 4.0}, labels=labels, scheme=SCHEME,
    )  # fmt: skip
    assert scene.full_window.height == 36
    assert run([scene])["subsets"]["s1+coarse"]["scores"]["oa"] == 1


def test_progress_runs_over_scenes_and_subsets() -> None:
    labels = random_classes((40, 20), 0)
    images = {name: scores_for(labels) for name in ("s1", "s2")}
    scenes = [ArrayScene(images, labels=labels, scheme=SCHEME, id=i) for i in "ab"]
    calls: list[tuple[int, int]] = []
    run(scenes, subsets=True, progress=lambda *x: calls.append(x))
    assert calls == [(i, 12) for i in range(1, 13)]


def test_the_model_gets_its_mode_back() -> None:
    labels = random_classes((20, 20), 0)
    segmenter = Identity(make_scene("a", labels, labels).modalities).train()
    evaluate(segmenter, [make_scene("a", labels, labels)], SCHEME, EvaluationConfig(), **SETTINGS)
    assert segmenter.training


def test_what_cannot_be_evaluated() -> None:
    labels = random_classes((20, 20), 0)
    scene = make_scene("a", labels, labels)
    with pytest.raises(DataError, match="no scenes"):
        evaluate(Identity(scene.modalities), [], SCHEME, EvaluationConfig(), **SETTINGS)
    with pytest.raises(ModelError, match="has 3 classes, but the class scheme has 2"):
        evaluate(Identity(scene.modalities, 3), [scene], SCHEME, EvaluationConfig(), **SETTINGS)
    unlabelled = ArrayScene({"s1": scores_for(labels)}, scheme=SCHEME, id="plain")
    with pytest.raises(LabelError, match="scene 'plain' has no labels"):
        run([scene, unlabelled])
    with pytest.raises(LabelError, match=r"'a' has no labels_eroded to .*evaluation.reference"):
        run([scene], config=EvaluationConfig(reference="labels_eroded"))
    with pytest.raises(ConfigError, match="mean 'land'"):
        run([scene], config=EvaluationConfig(mean_over=("lnd",)))
    assert not scene.windows_read
    foreign = make_scene("b", labels, labels)
    foreign.scheme = ClassScheme(("cat", "dog"))
    with pytest.raises(LabelError, match="'b' have the classes cat, dog; the model has water"):
        run([scene, foreign])
    images = {name: scores_for(labels) for name in ("s1", "s2")}
    pair = ArrayScene(images, labels=labels, scheme=SCHEME)
    with pytest.raises(ModelError, match="NeedsAll needs every modality and cannot be scored"):
        run([pair], NeedsAll, subsets=True)
    assert run([pair], NeedsAll)["subsets"]["s1+s2"]["scores"]["oa"] == 1
    with pytest.raises(LabelError, match="labels of split 'test' are all ignored"):
        run([make_scene("a", np.full_like(labels, 255), labels)])
    with pytest.raises(DataError, match="where there are labels, the rasters have no data"):
        run([make_scene("a", labels, labels, missing=frozenset({"s1"}))])

import random
from typing import Any

import numpy as np
import pytest
import torch

from array_scene import ArrayScene, Identity, NeedsAll, make_modality
from terrafuse.classes import ClassScheme
from terrafuse.errors import (
    BandError,
    ConfigError,
    DataError,
    GridMismatchError,
    MissingModalityError,
    ModelError,
    RasterReadError,
    UnknownNameError,
)
from terrafuse.prediction import (
    Calibration,
    ScenePredictor,
    SubsetCalibration,
    WindowSettings,
)
from terrafuse.samples import Sample, Window
from terrafuse.segmenter import Inputs, SegmenterOutput


def whole_numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Scores that float32 adds exactly; the first class is never NaN."""
    return np.random.default_rng(seed).integers(-500, 500, shape).astype(np.float32)


def predictor_for(scene: ArrayScene, model: type[Identity] = Identity, **options: Any) -> Any:
    defaults: dict[str, Any] = {"crop_size": 32, "overlap": 8, "batch_size": 3}
    device = options.pop("device", "cpu")
    windows = WindowSettings(**(defaults | options))
    return ScenePredictor(model(scene.modalities), windows, device=device)


@pytest.mark.parametrize("seed", range(50))
def test_identity_model_gives_the_scene_back(seed: int) -> None:
    draw = random.Random(seed)
    crop_size = draw.randint(4, 64)
    blending = draw.choice(["taper", "uniform", "repeated"])
    image = whole_numbers(draw.randint(2, 6), draw.randint(1, 150), draw.randint(1, 150), seed=seed)
    predictor = predictor_for(
        scene := ArrayScene({"a": image}),
        crop_size=crop_size,
        overlap=draw.randint(0, crop_size // 2)
        if blending == "taper"
        else crop_size - draw.randint(2, crop_size),
        blending=blending,
        batch_size=draw.randint(1, 9),
    )
    assert np.array_equal(predictor.class_map(scene), image.argmax(axis=0))


@pytest.mark.parametrize("blending", ["taper", "uniform", "repeated"])
def test_a_constant_model_gives_a_constant_map(blending: str) -> None:
    """Without data in places, and with every window's place and repetition."""

    class Constant(Identity):
        def segment(self, inputs: Inputs) -> SegmenterOutput:
            scores = torch.tensor([0.1, 0.7, -1.3]).view(3, 1, 1)
            return SegmenterOutput(scores + 0 * inputs.images["a"])

    image = np.zeros((3, 91, 77), np.float32)
    image[:, 40:60, :30] = np.nan
    predictor = predictor_for(
        scene := ArrayScene({"a": image}), Constant, overlap=13, blending=blending
    )
    strips = list(predictor.stream(scene))
    classes = np.concatenate([strip.layers["class_map"] for strip in strips])
    confidence = np.concatenate([strip.layers["confidence"] for strip in strips])
    assert np.array_equal(classes, np.where(np.isnan(image[0]), 255, 1))
    expected = round(254 * torch.tensor([0.1, 0.7, -1.3]).softmax(0)[1].item())
    assert np.array_equal(confidence, np.where(np.isnan(image[0]), 255, expected))


def test_a_repeated_window_is_run_once() -> None:
    scene = ArrayScene({"a": whole_numbers(2, 40, 40)})
    predictor = predictor_for(scene, overlap=24, blending="repeated", batch_size=5)
    predictor.class_map(scene)
    assert sum(predictor.segmenter.batches) == len(set(scene.windows_read)) == 4
    assert len(scene.windows_read) == 4
    assert sum(predictor.lattice(scene).times(w) for w in scene.windows_read) == 25


@pytest.mark.parametrize(("overlap", "blending"), [(8, "taper"), (24, "uniform"), (28, "repeated")])
def test_the_map_does_not_depend_on_the_batch_size(overlap: int, blending: str) -> None:
    image = np.random.default_rng(0).normal(size=(5, 90, 75))
    scene = ArrayScene({"a": image})
    options = {"overlap": overlap, "blending": blending}
    maps = [list(predictor_for(scene, batch_size=n, **options).stream(scene)) for n in (1, 4, 100)]
    for strips in maps[1:]:
        for one, other in zip(maps[0], strips, strict=True):
            for name, layer in one.layers.items():
                assert np.array_equal(layer, other.layers[name])


def test_a_pixel_has_no_class_where_no_modality_has_data() -> None:
    a, b = whole_numbers(3, 70, 60), whole_numbers(2, 70, 60)
    a[:, 10:40, 5:30] = np.nan
    b[:, 20:60, 10:50] = np.nan
    b[0, 61] = np.nan  # one band is still there
    scene = ArrayScene({"a": a, "b": b})
    model = Identity(scene.modalities, num_classes=3)
    predictor = ScenePredictor(model, WindowSettings(32, 8), device="cpu")
    without_data = np.isnan(a).all(axis=0) & np.isnan(b).all(axis=0)
    assert without_data.any()
    assert np.array_equal(predictor.class_map(scene) == 255, without_data)
    assert np.array_equal(predictor.class_map(scene, without={"b"}) == 255, np.isnan(a).all(axis=0))


@pytest.mark.parametrize(("scale", "size"), [(2.0, (64, 48)), (0.5, (61, 45)), (1.5, (60, 45))])
def test_valid_pixels_of_other_scales_are_found_by_the_nearest(
    scale: float, size: tuple[int, int]
) -> None:
    own = tuple(int(n / scale) for n in size)
    fine = np.full((2, *size), np.nan, np.float32)
    coarse = whole_numbers(2, *own)
    coarse[:, np.random.default_rng(0).random(own) < 0.4] = np.nan
    scene = ArrayScene({"fine": fine, "coarse": coarse}, scales={"coarse": scale})
    predictor = predictor_for(scene, crop_size=24, overlap=6)
    centres = [((np.arange(n) + 0.5) / scale).astype(int) for n in size]
    expected = np.isnan(coarse[0])[np.ix_(*centres)]
    assert np.array_equal(predictor.class_map(scene) == 255, expected)


def test_windows_without_data_are_not_run() -> None:
    image = whole_numbers(2, 64, 96)
    image[:, :, :64] = np.nan
    scene = ArrayScene({"a": image})
    predictor = predictor_for(scene, crop_size=32, overlap=0, batch_size=2)
    assert (predictor.class_map(scene)[:, :64] == 255).all()
    assert sum(predictor.segmenter.batches) == 2
    assert len(scene.windows_read) == 6


def test_a_method_that_needs_all_is_not_run_where_one_is_absent() -> None:
    a, b = whole_numbers(2, 64, 96), whole_numbers(2, 64, 96, seed=1)
    b[:, :, :32] = np.nan
    b[:, 3, 40] = np.nan  # one pixel missing is no reason
    scene = ArrayScene({"a": a, "b": b})
    predictor = predictor_for(scene, NeedsAll, crop_size=32, overlap=0)
    with pytest.warns(UserWarning, match="2 of 6 windows of scene 'a' have no data in one of a, b"):
        class_map = predictor.class_map(scene)
    assert (class_map[:, :32] == 255).all()
    expected = (a + np.nan_to_num(b)).argmax(axis=0)
    assert np.array_equal(class_map[:, 32:], expected[:, 32:])


def test_a_single_fine_pixel_with_data_is_enough_for_a_method_that_needs_all() -> None:
    a, b = whole_numbers(2, 32, 32), np.full((2, 64, 64), np.nan, np.float32)
    b[:, 20, 21] = 0
    scene = ArrayScene({"a": a, "b": b}, scales={"b": 0.5})
    assert np.array_equal(predictor_for(scene, NeedsAll).class_map(scene), a.argmax(axis=0))


def test_modalities_a_scene_lacks_are_left_out() -> None:
    a, b = whole_numbers(2, 20, 20), np.full((2, 20, 20), np.nan, np.float32)
    scene = ArrayScene({"a": a, "b": b}, missing=frozenset({"b"}))
    assert np.array_equal(predictor_for(scene).class_map(scene), a.argmax(axis=0))
    with pytest.raises(MissingModalityError, match="scene 'a' would be mapped without b"):
        predictor_for(scene, NeedsAll).class_map(scene)


def test_a_scene_without_any_of_the_modalities_has_no_class() -> None:
    scene = ArrayScene({"a": whole_numbers(2, 20, 20)}, missing=frozenset({"a"}))
    assert (predictor_for(scene).class_map(scene) == 255).all()
    assert scene.windows_read == []


def test_unknown_and_unsuitable_modalities_are_named() -> None:
    scene = ArrayScene({"optical": whole_numbers(2, 20, 20)})
    with pytest.raises(UnknownNameError, match=r"modality 'opticle'\. Did you mean 'optical'"):
        predictor_for(scene).class_map(scene, without={"opticle"})
    other = ScenePredictor(
        Identity([make_modality("optical", 3)]), WindowSettings(32, 8), device="cpu"
    )
    with pytest.raises(BandError, match="has bands B0, B1; the model was trained on B0, B1, B2"):
        other.class_map(scene)
    coarse = ArrayScene({"optical": whole_numbers(2, 20, 20)}, scales={"optical": 2.0})
    with pytest.raises(GridMismatchError, match="has scale 2; the model was trained with 1"):
        predictor_for(scene).class_map(coarse)


def test_errors_of_reading_arrive() -> None:
    class Broken(ArrayScene):
        def read(self, window: Window, **options: bool) -> Sample:
            if window.row > 30:
                raise RasterReadError("row 31 cannot be decoded")
            return super().read(window, **options)

    scene = Broken({"a": whole_numbers(2, 90, 90)})
    with pytest.raises(RasterReadError, match="row 31"):
        predictor_for(scene).class_map(scene)


def test_a_stream_may_be_left_early_and_every_module_gets_its_mode_back() -> None:
    scene = ArrayScene({"a": whole_numbers(2, 200, 40)})
    predictor = predictor_for(scene, batch_size=1)
    model = predictor.segmenter.train()
    model.norm.eval()  # as a frozen backbone is
    strips = predictor.stream(scene)
    next(strips)
    assert not model.training
    assert not torch.is_inference_mode_enabled()
    strips.close()
    assert model.training
    assert not model.norm.training
    assert len(scene.windows_read) < 12


def test_progress_counts_windows() -> None:
    scene = ArrayScene({"a": whole_numbers(2, 60, 60)})
    calls: list[tuple[int, int]] = []
    predictor_for(scene).class_map(scene, progress=lambda *x: calls.append(x))
    assert calls == [(i, 9) for i in range(1, 10)]


def test_logits_of_a_wrong_size_are_refused() -> None:
    class Wrong(Identity):
        def segment(self, inputs: Inputs) -> SegmenterOutput:
            return SegmenterOutput(inputs.images["a"][:, :1])

    scene = ArrayScene({"a": whole_numbers(2, 20, 20)})
    with pytest.raises(ModelError, match=r"Wrong returns logits \(1, 1, 32, 32\); expected"):
        predictor_for(scene, Wrong).class_map(scene)


def test_precision_is_used_and_averages_stay_float32() -> None:
    class Seen(Identity):
        def segment(self, inputs: Inputs) -> SegmenterOutput:
            image = inputs.images["a"]
            result = torch.einsum("kc,nchw->nkhw", torch.eye(2), image)
            self.dtype = result.dtype
            return SegmenterOutput(result)

    image = np.random.default_rng(0).integers(-128, 128, (2, 40, 40)).astype(np.float32)
    scene = ArrayScene({"a": image})
    predictor = predictor_for(scene, Seen, precision="bf16-mixed")
    assert np.array_equal(predictor.class_map(scene), image.argmax(axis=0))
    assert predictor.segmenter.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "text"),
    [({"precision": "64"}, "precision is '64'; allowed are 32-true, 16-mixed, bf16-mixed"),
     ({"device": "gpu"}, "device 'gpu' cannot be used"),
     ({"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
     ({"batch_size": 0}, "batch_size is 0"),
     ({"overlap": 20}, "overlap is 20 with crop_size 32; allowed is 0 to half"),
     ({"overlap": 32, "blending": "uniform"}, "allowed is 0 to 31")],
)  # fmt: skip
def test_settings_that_cannot_be_used(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        predictor_for(ArrayScene({"a": whole_numbers(2, 4, 4)}), **options)


def test_predict_refuses_another_class_scheme(tmp_path: Any) -> None:
    scene = ArrayScene({"a": whole_numbers(2, 4, 4)}, scheme=ClassScheme(("x", "y", "z")))
    with pytest.raises(ModelError, match=r"has 2 classes, but the class scheme has 3 \(x, y"):
        predictor_for(scene).predict(scene, tmp_path / "map")
    scene.scheme = None
    with pytest.raises(ModelError, match="no class scheme"):
        predictor_for(scene).predict(scene, tmp_path / "map")
    assert not (tmp_path / "map").exists()


def test_predict_refuses_an_all_nodata_scene_and_leaves_nothing(tmp_path: Any) -> None:
    scene = ArrayScene(
        {"a": np.full((2, 40, 40), np.nan, np.float32)}, scheme=ClassScheme(("x", "y"))
    )
    with pytest.raises(DataError, match="all-nodata scene 'a': no pixel has data in a"):
        predictor_for(scene).predict(scene, tmp_path / "deep" / "map")
    assert list(tmp_path.iterdir()) == []


def test_the_same_with_something_else_keeps_the_rest() -> None:
    scene = ArrayScene({"a": whole_numbers(3, 8, 8)})
    calibration = Calibration("a", {"a": SubsetCalibration(1.5, 0.2, 0.9)})
    predictor = ScenePredictor(
        Identity(scene.modalities), WindowSettings(24, 8, batch_size=2), device="cpu",
        calibration=calibration,
    )  # fmt: skip
    other = Calibration("a", {"a": SubsetCalibration(2.0)})
    for made, changed in (
        (predictor.with_batch_size(3), {"windows": WindowSettings(24, 8, batch_size=3)}),
        (predictor.calibrated(other), {"calibration": other}),
    ):
        assert vars(made) == vars(predictor) | changed
    elsewhere = predictor.on("meta")
    assert elsewhere.device == torch.device("meta")
    assert elsewhere.segmenter is predictor.segmenter
    assert vars(elsewhere) == vars(predictor) | {"model": elsewhere.model}

"""Scenes mapped by an ONNX file: the maps of the model that it was made of."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from array_scene import ArrayScene
from small_onnx import SCHEME, STRIDE, info_of, make_model, write_onnx
from terrafuse.errors import (
    ConfigError,
    MissingDependencyError,
    MissingModalityError,
    ModelError,
    WeightsError,
    WeightsMismatchError,
)
from terrafuse.prediction import (
    PRODUCTS,
    Calibration,
    MapSettings,
    ScenePredictor,
    Shard,
    SubsetCalibration,
    WindowSettings,
)
from terrafuse.prediction.leaving_out import leave_out
from terrafuse.prediction.onnx_model import OnnxModel, RuntimeDevice
from terrafuse.samples import Window, collate
from terrafuse.weights.portable import METADATA_KEY

MODEL = make_model()
ALL = MapSettings(tuple(PRODUCTS))
CALIBRATION = Calibration("sar+dsm", {"sar+dsm": SubsetCalibration(1.5, 0.2, 0.9)})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx(tmp_path_factory.mktemp("model") / "flood.onnx", MODEL)


def scene(height: int = 50, width: int = 38, seed: int = 0, **options: Any) -> ArrayScene:
    """Whole numbers, with gaps of one modality and of both."""
    rng = np.random.default_rng(seed)
    images = {
        "sar": rng.integers(-9, 9, (2, height, width)).astype(np.float32),
        "dsm": rng.integers(-9, 9, (1, -(-height // 2), -(-width // 2))).astype(np.float32),
    }
    images["sar"][:, 10:30, 5:20] = np.nan
    images["dsm"][:, :15, :10] = np.nan
    return ArrayScene(images, scales={"dsm": 2.0}, scheme=SCHEME, **options)


def layers(predictor: ScenePredictor, place: ArrayScene, **options: Any) -> dict[str, np.ndarray]:
    strips = list(predictor.stream(place, **options))
    names = strips[0].layers
    return {name: np.concatenate([s.layers[name] for s in strips], axis=-2) for name in names}


def check_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert set(ours) == set(theirs)
    for name, found in theirs.items():
        if name in ("class_map", "sources", "attribution", "class_sets", "disagreement"):
            assert np.array_equal(ours[name], found), name
        else:
            step = 1 if found.dtype == np.uint8 else 1e-5
            difference = np.abs(ours[name].astype(float) - found.astype(float))
            assert np.nanmax(difference) <= step, name


@pytest.mark.parametrize(
    ("windows", "options"),
    [
        (WindowSettings(16, 4, batch_size=3), {}),
        (WindowSettings(16, 10, blending="repeated", batch_size=2), {}),
        # Windows that are no multiple of the stride are padded with what has no data.
        (WindowSettings(18, 6), {}),
        (WindowSettings(16, 4), {"without": {"sar"}}),
        (WindowSettings(16, 4), {"window": Window(13, 7, 22, 18)}),
    ],
)
def test_maps_are_those_of_the_model(file: Path, windows: WindowSettings, options: Any) -> None:
    place, model = scene(), OnnxModel.open(file, "cpu")
    made = [
        layers(ScenePredictor(of, windows, device="cpu", calibration=CALIBRATION), place,
               settings=ALL, **options)
        for of in (MODEL, model)
    ]  # fmt: skip
    assert len(np.unique(made[0]["class_map"])) > 2
    check_same(made[1], made[0])


def test_turned_and_resized_windows_too(file: Path) -> None:
    place, windows = scene(), WindowSettings(16, 4)
    settings = MapSettings(("class_map", "confidence"), tta=("flips", "turns", "scales"))
    made = [
        layers(ScenePredictor(of, windows, device="cpu"), place, settings=settings)
        for of in (MODEL, OnnxModel.open(file))
    ]
    # Weights of resized pixels are rounded otherwise: a tie may fall the other way.
    assert (made[0]["class_map"] != made[1]["class_map"]).mean() < 1e-3
    assert np.abs(made[0]["confidence"].astype(int) - made[1]["confidence"]).max() <= 1


def test_the_graph_gets_sizes_that_it_takes(tmp_path: Path) -> None:
    """Multiples of 6, and 24 at least; what is added is cut off again."""
    info = info_of(MODEL, stride=6, least_size=24)
    model = OnnxModel.open(write_onnx(tmp_path / "m.onnx", MODEL, info), "cpu")
    session, seen = model.session, []

    def run(names: list[str], images: dict[str, np.ndarray]) -> Any:
        seen.append({name: image.shape[-2:] for name, image in images.items()})
        return session.run(names, images)

    vars(model)["session"] = SimpleNamespace(run=run)
    batch = collate([scene().read(Window(0, 0, 10, 32), labels=False)])
    expected = MODEL(batch.images).logits.detach().numpy()
    arrays = collate([scene().read(Window(0, 0, 10, 32), labels=False, arrays=True)])
    assert np.array_equal(model.scores(arrays, "32-true"), expected)
    assert seen == [{"sar": (24, 36), "dsm": (12, 18)}]


def test_an_absent_raster_is_all_without_data(file: Path) -> None:
    place = scene(missing=frozenset({"dsm"}))
    made = [
        layers(
            ScenePredictor(of, WindowSettings(16, 4), device="cpu"), place, settings=MapSettings()
        )
        for of in (MODEL, OnnxModel.open(file))
    ]
    check_same(made[1], made[0])


def test_a_model_that_needs_all_says_so_and_leaves_out_by_the_mean(tmp_path: Path) -> None:
    needy = OnnxModel.open(
        write_onnx(tmp_path / "n.onnx", MODEL, info_of(MODEL, supports_missing=False))
    )
    predictor = ScenePredictor(needy, WindowSettings(16, 4))
    with pytest.raises(MissingModalityError, match=r"'n\.onnx' needs every modality"):
        predictor.class_map(scene(missing=frozenset({"dsm"})))
    sample = scene().read(Window(0, 0, 32, 32), labels=False, arrays=True)
    batch = leave_out(needy, collate([sample]), "sar")
    there = ~np.isnan(np.asarray(sample.images["sar"]))
    assert np.array_equal(batch.images["sar"][0], np.where(there, 3.0, np.nan), equal_nan=True)
    with pytest.warns(UserWarning, match=r"no data in one of sar, dsm, which 'n\.onnx' needs"):
        found = predictor.class_map(scene())
    assert (found == 255).any()


def test_products_on_disk_resume_and_shards(file: Path, tmp_path: Path) -> None:
    place = scene(2100, 70)
    predictor = ScenePredictor(OnnxModel.open(file, "cpu"), WindowSettings(64, 16))
    torch_map = ScenePredictor(MODEL, WindowSettings(64, 16), device="cpu").class_map(place)
    for number in (1, 2):
        made = predictor.predict(place, tmp_path / "map", values="index", shard=Shard(number, 2))
    assert not made.waits_for
    import rasterio

    with rasterio.open(made.class_map) as raster:
        assert np.array_equal(raster.read(1), torch_map)
    record = json.loads((tmp_path / "map" / "prediction.json").read_text())
    assert (record["device"], record["windows"]["size"]) == ("cpu", 64)


def test_it_says_what_it_is_and_can_be_sent(file: Path) -> None:
    model = OnnxModel.open(file)
    assert (model.num_classes, model.stride, model.scheme) == (3, STRIDE, SCHEME)
    assert model.windows == WindowSettings(16, 4, batch_size=2)
    assert not model.windows.is_batch_chosen
    assert model.calibration is None
    assert model.nbytes == file.stat().st_size
    sent = pickle.loads(pickle.dumps(model))
    assert "session" not in vars(sent)
    assert (sent.digest, sent.device) == (model.digest, RuntimeDevice("cpu"))
    assert sent.session is not model.session
    assert model.on("cpu") is model


def test_another_model_has_another_digest(file: Path, tmp_path: Path) -> None:
    other = OnnxModel.open(write_onnx(tmp_path / "o.onnx", make_model(1)))
    assert other.digest != OnnxModel.open(file).digest


def test_weights_beside_the_file_are_part_of_it(file: Path, tmp_path: Path) -> None:
    path = with_external(file, tmp_path / "e.onnx", "e.data")
    model = OnnxModel.open(path)
    assert [own.name for own in model.file.files] == ["e.onnx", "e.data"]
    before = model.digest
    made = [
        layers(ScenePredictor(of, WindowSettings(16, 4), device="cpu"), scene())
        for of in (MODEL, model)
    ]
    check_same(made[1], made[0])
    data = bytearray((tmp_path / "e.data").read_bytes())
    data[3] ^= 1
    (tmp_path / "e.data").write_bytes(data)
    assert OnnxModel.open(path).digest != before


def with_external(file: Path, path: Path, name: str) -> Path:
    """The model with its weights in another file."""
    proto = onnx.load(file)
    onnx.save(
        proto, path, save_as_external_data=True, all_tensors_to_one_file=True, location=name,
        size_threshold=52,  # with the 33 of a `bytes`; the runtime wants factors in the file itself
    )  # fmt: skip
    return path


def test_calibration_of_the_file(tmp_path: Path) -> None:
    sets = {"threshold": 0.2, "coverage": 0.9}
    content = {"full": "sar+dsm", "subsets": {"sar+dsm": {"temperature": 1.5, "class_sets": sets}}}
    path = write_onnx(tmp_path / "c.onnx", MODEL, info_of(MODEL, calibration=content))
    assert OnnxModel.open(path).calibration == CALIBRATION
    broken = info_of(MODEL, calibration={"full": "sar"}, windows={"crop_size": 0})
    model = OnnxModel.open(write_onnx(path, MODEL, broken))
    for part, why in (("calibration", "no 'subsets'"), ("windows", ".*'overlap'")):
        with pytest.raises(WeightsError, match=f"itself is damaged: {why}. Copy the file"):
            getattr(model, part)


def test_files_that_are_none_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(WeightsError, match="there is no ONNX file"):
        OnnxModel.open(path)
    for content in (b"", b"PK\x03\x04 a zip file", b"\x08\x0a"):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="is no ONNX file, or only the beginning of one"):
            OnnxModel.open(path)
    with pytest.raises(WeightsError, match="does not say what it takes and returns"):
        OnnxModel.open(write_onnx(path, MODEL, metadata={"author": "somebody"}))
    newer = json.dumps({**json.loads(info_of(MODEL).to_json()), "format": 99})
    with pytest.raises(WeightsMismatchError, match="has format 99"):
        OnnxModel.open(write_onnx(path, MODEL, metadata={METADATA_KEY: newer}))
    with pytest.raises(WeightsError, match="says about itself is damaged"):
        OnnxModel.open(write_onnx(path, MODEL, metadata={METADATA_KEY: "{"}))
    with pytest.raises(WeightsError, match="made for other programs"):
        OnnxModel.open(write_onnx(path, MODEL, info_of(MODEL, stacked=True)))


def test_inputs_that_do_not_fit(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx", MODEL, rename={"dsm": "height"})
    with pytest.raises(
        WeightsMismatchError,
        match=r"takes sar \(2 bands\), dsm \(1 bands\).*height tensor\(float\)",
    ):
        OnnxModel.open(path)


def test_a_graph_that_the_runtime_does_not_know(tmp_path: Path) -> None:
    node = helper.make_node("Sorcery", ["sar"], ["logits"], domain="elsewhere")
    image = helper.make_tensor_value_info("sar", TensorProto.FLOAT, ["n", 2, "h", "w"])
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3, "h", "w"])
    proto = helper.make_model(
        helper.make_graph([node], "g", [image], [out]),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("elsewhere", 1)],
        ir_version=10,
    )
    helper.set_model_props(proto, {METADATA_KEY: info_of(MODEL).to_json()})
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(WeightsError, match=r"ONNX Runtime .* cannot load .*Sorcery"):
        OnnxModel.open(tmp_path / "m.onnx")


def test_a_graph_that_fails_is_one_message(file: Path) -> None:
    model = OnnxModel.open(file)
    sample = scene().read(Window(0, 0, 32, 32), labels=False, arrays=True)
    broken = collate([sample])
    model.modalities = model.modalities[:1]  # the graph takes two
    with pytest.raises(ModelError, match=r"'flood\.onnx' fails on windows of 32 × 32 pixels"):
        model.scores(broken, "32-true")


def test_precision_and_device_are_those_there_are(file: Path) -> None:
    with pytest.raises(ConfigError, match="computes in that of its export"):
        ScenePredictor(OnnxModel.open(file), WindowSettings(16, 4, precision="bf16-mixed"))
    for name in ("cuda:1", "tpu", "cuda:x"):
        with pytest.raises(ConfigError, match=f"device '{name}' cannot be used: .*Choose cpu, or"):
            OnnxModel.open(file, name)
    ScenePredictor(OnnxModel.open(file, "cpu"), WindowSettings(16, 4))


def test_without_a_runtime_the_extra_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'terrafuse\[runtime\]'"):
        OnnxModel.open(file)

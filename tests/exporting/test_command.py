"""`terrafuse export`: what the file holds, what is refused, and that nothing wrong is left."""

from __future__ import annotations

import copy
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import rasterio
import torch
import yaml

import terrafuse.api.exporting as exporting
from made_runs import STATISTICS, make_run
from remedies import refused, said
from terrafuse import api
from terrafuse.errors import ConfigError, MissingDependencyError, ModelError, OutputError
from terrafuse.exporting import Agreement, compare, read_program_info, to_program
from terrafuse.exporting.graph import OUTPUT, check_names
from terrafuse.modalities import Modality
from terrafuse.prediction import WindowSettings
from terrafuse.weights import PortableInfo
from tiny_segmenter import Tiny

TINY = "tiny_segmenter:Tiny"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """A run that nobody changes."""
    return api.load(make_run(tmp_path_factory.mktemp("made"), TINY, {}))


@pytest.fixture(scope="module")
def exported(made: api.Run) -> api.Exported:
    """The same as an ONNX file."""
    return api.export(made)


@pytest.fixture(scope="module")
def program(made: api.Run) -> torch.export.ExportedProgram:
    return exporting.to_program(made.segmenter)


@pytest.fixture
def recorded(
    exported: api.Exported, program: torch.export.ExportedProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph is the one that `exported` has: recording it takes most of the time."""

    def copied(program: Any, path: Path, *_: Any) -> None:
        del program
        shutil.copy(exported.path, path)

    monkeypatch.setattr(exporting, "to_program", lambda _: program)
    monkeypatch.setattr(exporting, "write_onnx", copied)


@pytest.fixture
def run(made: api.Run, tmp_path: Path) -> api.Run:
    """A copy whose folder and data may be changed."""
    own = tmp_path / "own"
    shutil.copytree(made.folder.parent, own, ignore=shutil.ignore_patterns("*.onnx"))
    config = yaml.safe_load((own / "run" / "config.yaml").read_text())
    config["data"]["manifest"] = str(own / "data" / "dataset.yaml")
    (own / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    return api.load(own / "run")


def open_session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def info_of(path: Path) -> PortableInfo:
    """As a program without torch reads it."""
    found = open_session(path).get_modelmeta().custom_metadata_map
    return PortableInfo.from_json(found["terrafuse"], str(path))


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def read(run: api.Run, name: str) -> np.ndarray:
    with rasterio.open(run.config.data.manifest.parent / name) as file:
        values: np.ndarray = file.read()
    return values


def some_images(batch: int, height: int, width: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "s2": rng.normal(100, 12, (batch, 4, height, width)).astype(np.float32),
        "s1": rng.normal(-12, 3, (batch, 1, height, width)).astype(np.float32),
    }


def torch_scores(run: api.Run, images: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        tensors = {name: torch.from_numpy(image) for name, image in images.items()}
        scores: np.ndarray = run.segmenter(tensors).logits.numpy()
    return scores


def test_the_file_says_all_of_the_model(made: api.Run, exported: api.Exported) -> None:
    assert exported.path == made.folder / "model.onnx"
    info = info_of(exported.path)
    assert info == replace(exported.info, checked=info.checked)
    assert info.model == json.loads((made.folder / "model.json").read_text())
    assert info.run.statistics == STATISTICS
    assert [m.name for m in info.modalities] == ["s2", "s1"]
    assert info.windows["crop_size"] == 32
    assert info.windows["overlap"] == 8  # a quarter of the window
    assert (info.stride, info.supports_missing, info.calibration) == (4, True, None)
    assert (info.licence, info.precision, info.opset) == (None, "float32", 18)
    assert info.checked["equal_labels"] == 1
    assert info.checked["images"] == "1 window of scene2 (split 'val')"
    # As it is, with gaps, and without each modality.
    assert (info.checked["windows"], info.checked["pixels"]) == (4, 4 * 32 * 32)
    onnx.checker.check_model(str(exported.path))
    assert onnx.load(exported.path).producer_name == "terrafuse"


def test_one_input_per_modality(made: api.Run, exported: api.Exported) -> None:
    session = open_session(exported.path)
    assert [(i.name, i.type, i.shape[1]) for i in session.get_inputs()] == [
        ("s2", "tensor(float)", 4),
        ("s1", "tensor(float)", 1),
    ]
    assert [o.name for o in session.get_outputs()] == ["logits"]
    for batch, height, width in ((1, 8, 20), (3, 24, 12)):
        images = some_images(batch, height, width)
        images["s2"][0, :, :3] = np.nan
        images["s2"][-1, 2, 3:] = np.nan  # of one band
        images["s1"][-1] = np.nan
        (scores,) = session.run(["logits"], images)
        np.testing.assert_allclose(scores, torch_scores(made, images), atol=1e-5)
    images["s2"][:] = np.nan
    (scores,) = session.run(["logits"], images)
    np.testing.assert_allclose(scores, torch_scores(made, images), atol=1e-5)


@pytest.mark.usefixtures("recorded")
def test_a_terminal_sees_what_is_done(
    run: api.Run,
    command_line: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr("terrafuse.progress.Display.stage", lambda _, title: told.append(title))
    code, _, error = command_line("export", run.folder, "--half")
    assert (code, error) == (0, "")  # which is no terminal
    assert told[1:] == [
        "recording the graph",
        "writing the graph",
        "halving the weights",
        "comparing with the model",
    ]


@pytest.mark.usefixtures("recorded")
def test_half_of_the_bytes(run: api.Run) -> None:
    half = api.export(run, half=True)
    assert half.path.name == "model_float16.onnx"
    assert info_of(half.path).precision == "float16"
    kinds = Counter(one.data_type for one in onnx.load(half.path).graph.initializer)
    assert kinds[onnx.TensorProto.FLOAT16] == 2  # body, and the larger stem
    images = some_images(2, 16, 16)
    (scores,) = open_session(half.path).run(None, images)
    assert scores.dtype == np.float32
    apart = np.abs(scores - torch_scores(run, images)).max()
    assert 0 < apart < 2e-3
    assert half.info.checked["largest_difference"] > 0


def test_half_of_a_torch_archive(run: api.Run) -> None:
    half = api.export(run, half=True, format="pt2")
    assert half.path.name == "model_float16.pt2"
    program = torch.export.load(half.path)
    stored = Counter(value.dtype for value in program.state_dict.values())
    assert stored[torch.float16] == 2
    found = read_program_info(half.path)
    assert (found.opset, found.precision) == (None, "float16")
    assert found.checked == half.info.checked
    images = some_images(3, 64, 68)
    scores = program.module()(*map(torch.from_numpy, images.values())).detach().numpy()
    np.testing.assert_allclose(scores, torch_scores(run, images), atol=2e-3)
    # The model itself is left as it was.
    own = list(run.segmenter.parameters())
    assert {p.dtype for p in own} == {torch.float32}
    assert all(p.requires_grad for p in own)


@pytest.mark.usefixtures("recorded")
def test_int8_and_what_it_costs(run: api.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, np.ndarray]] = []
    scored: list[str] = []
    quantize, evaluate = exporting.quantize, exporting.evaluate_scenes

    def spied(path: Path, out: Path, inputs: Any, **options: Any) -> None:
        given.extend(inputs)
        quantize(path, out, inputs, **options)

    def spied_scores(model: Any, **options: Any) -> dict[str, Any]:
        scored.append(type(model).__name__)
        return evaluate(model, **options)

    monkeypatch.setattr(exporting, "quantize", spied)
    monkeypatch.setattr(exporting, "evaluate_scenes", spied_scores)
    told: list[object] = []
    made = api.export(run, int8=True, stage=told.append, progress=lambda *done: told.append(done))
    assert told == [
        "reading data to compare on",
        "recording the graph",
        "writing the graph",
        "finding the ranges for int8",
        "comparing with the model",
        "measuring scores",
        (1, 1),  # the model's
        (1, 1),  # the graph's
    ]
    # Ranges are those of the two training scenes, not of the one that is scored.
    assert len(given) == 2
    for number, inputs in enumerate(given):
        assert np.array_equal(inputs["s2"][0, :, :32, :32], read(run, f"s2_{number}.tif"))
    model = onnx.load(made.path)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["DequantizeLinear"] >= kinds["Conv"] == 4
    scales = [i.dims[0] for i in model.graph.initializer if "body" in i.name and i.dims]
    assert 24 in scales  # one per channel
    checked = info_of(made.path).checked
    assert (checked["split"], checked["scenes"]) == ("val", 1)
    # The scene is one window, so that its map is what the graph says.
    images = {"s2": read(run, "s2_2.tif")[None], "s1": read(run, "s1_2.tif")[None]}
    labels = read(run, "labels_2.tif")[0]
    (scores,) = open_session(made.path).run(None, images)
    for own, found in (
        ("scores_of_graph", scores),
        ("scores_of_model", torch_scores(run, images)),
    ):
        expected = (found[0].argmax(axis=0) == labels).mean()
        assert checked[own]["oa"] == pytest.approx(expected)
    assert not np.array_equal(scores, torch_scores(run, images))
    assert len(set(scored)) == 2  # not one model twice; labels may be the same


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({}, "exporting.agreement:Agreement.check | Nothing was written. Please report it"),
        (
            {"format": "pt2"},
            "exporting.agreement:Agreement.check | Nothing was written. Please report it",
        ),
        ({"half": True}, "exporting.agreement:Agreement.check | Export without --half"),
        (
            {"int8": True},
            "exporting.agreement:Agreement.check | Export with --half, or without --int8",
        ),
    ],
)
def test_a_graph_that_does_not_agree_is_not_written(
    run: api.Run, options: dict[str, Any], place: str
) -> None:
    # A model whose answers are the other way round; the recorded graph's are not.
    other = copy.deepcopy(run.segmenter)
    with torch.no_grad():
        other.classifier.weight.neg_()  # type: ignore[union-attr,operator]
    changed = replace(run, segmenter=other)
    earlier = run.folder / f"model.{options.get('format', 'onnx')}"
    earlier.write_bytes(b"earlier")
    before = files(run.folder)
    with refused(place, ModelError) as told:
        api.export(changed, **options)
    assert "the graph does not agree with the model: on 1 window of scene2" in told
    assert files(run.folder) == before
    assert earlier.read_bytes() == b"earlier"
    if "int8" in options:
        api.export(run, half=True)
    if "half" in options:
        api.export(run)


AGREEMENT = Agreement("x", 1, 10_000, 1.0, 5e-5, 0.3)


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({}, ()),
        ({"equal_labels": 0.99985}, ("float32",)),
        ({"equal_labels": 0.98}, ("float32", "float16")),
        ({"equal_labels": 0.79}, ("float32", "float16", "int8")),
        ({"largest_difference": 2e-4}, ("float32",)),
        ({"largest_difference": 2e-4, "largest_logit": 3.0}, ()),
        ({"largest_difference": float("inf")}, ("float32", "float16", "int8")),
    ],
)
def test_how_far_a_graph_may_be_off(changes: dict[str, float], fails: tuple[str, ...]) -> None:
    found = replace(AGREEMENT, **changes)  # type: ignore[arg-type]
    for precision in ("float32", "float16", "int8"):
        if precision in fails:
            with pytest.raises(ModelError, match="does not agree"):
                found.check(precision)  # type: ignore[arg-type]
        else:
            found.check(precision)  # type: ignore[arg-type]


def test_the_comparison_counts_every_pixel(made: api.Run) -> None:
    """Of a graph that is wrong at one pixel, where one modality is absent."""
    batch = {name: torch.from_numpy(v) for name, v in some_images(2, 8, 12).items()}

    def graph(images: Any) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = made.segmenter(images).logits.clone()
        if bool(images["s1"].isnan().all()):
            logits[1, :, 2, 3] = logits[1, :, 2, 3].flip(0)
        return logits

    found = compare(made.segmenter, graph, [batch], "x", unit=4)
    assert (found.windows, found.pixels) == (2 * 4, 2 * 4 * 96)
    assert found.equal_labels == 1 - 1 / found.pixels
    assert found.largest_difference > 0
    nan = compare(made.segmenter, lambda x: graph(x) * torch.nan, [batch], "x", unit=4)
    assert nan.largest_difference == np.inf


def test_windows_of_many_scenes(made: api.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenes that are not needed are not opened; windows of two sizes are not one batch."""
    windows = WindowSettings(crop_size=16, overlap=0)
    first, second, _ = made.dataset(made.config.data.manifest).scenes()
    unopened: Any = None
    find = exporting._windows_of
    found = find(made.segmenter, [first, second, unopened], windows, 2)
    assert [(s.scene_id, s.window.row) for s in found] == [("scene0", 0), ("scene1", 0)]
    found = find(made.segmenter, [first, second], windows, 7)
    assert [s.scene_id for s in found] == ["scene0"] * 4 + ["scene1"] * 3
    large = find(made.segmenter, [first], replace(windows, crop_size=32), 1)
    batches = exporting._in_batches([*found[:3], *large, found[3]], 2)
    assert [tuple(batch["s2"].shape) for batch in batches] == [
        (2, 4, 16, 16), (1, 4, 16, 16), (1, 4, 32, 32), (1, 4, 16, 16),
    ]  # fmt: skip
    monkeypatch.setattr(exporting, "_TRIED", 2)
    assert [s.window.col for s in find(made.segmenter, [first], windows, 9)] == [0, 16]


def test_nodata_of_the_rules_or_the_files(made: api.Run) -> None:
    scene = made.dataset(made.config.data.manifest).scenes()[0]
    rules = {"s2": {"nodata": 3}, "s1": {"nodata": None}}
    run = replace(made, info=replace(made.info, rules=rules))
    assert exporting._nodata_of(run, scene, "s2") == 3
    assert exporting._nodata_of(run, None, "s2") == 3
    assert exporting._nodata_of(run, None, "s1") is None
    assert exporting._nodata_of(run, scene, "s1") is None
    tagged: Any = SimpleNamespace(files={"s1": [SimpleNamespace(nodata=(-9.0, -9.0))]})
    assert exporting._nodata_of(run, tagged, "s1") == -9
    mixed: Any = SimpleNamespace(files={"s1": [SimpleNamespace(nodata=(-9.0, 0.0))]})
    assert exporting._nodata_of(run, mixed, "s1") is None


def test_a_method_that_branches_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, "tiny_segmenter:TinyBranching", {})
    before = files(run)
    place = "exporting.graph:_told | mask instead of asking for values"
    with refused(place, ModelError) as told:
        api.export(run)
    assert "TinyBranching' cannot be recorded as a graph" in told
    assert files(run) == before
    masking = api.load(make_run(tmp_path / "masking", "tiny_segmenter:Tiny", {})).segmenter.train()
    part = masking.get_submodule("body").eval()
    assert to_program(masking)
    assert masking.training
    assert not part.training  # as it was


def test_a_modality_named_as_the_output() -> None:
    def model(name: str) -> Tiny:
        return Tiny([Modality(name, ("a",))], 2)

    with refused("exporting.graph:check_names | Rename it in the manifest", ModelError):
        check_names(model(OUTPUT))
    check_names(model("scores"))


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (RuntimeError("no kernel\nat all"), ModelError, r"graph of Tiny .*\(no kernel\)"),
        (OSError(28, "No space left on device"), OutputError, "cannot be written: No space left"),
    ],
)
def test_what_fails_while_writing(
    run: api.Run,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    kind: type[Exception],
    words: str,
) -> None:
    def fail(*_: Any) -> None:
        raise failure

    monkeypatch.setattr(exporting, "open_onnx", fail)
    before = files(run.folder)
    with pytest.raises(kind, match=words) as told:
        api.export(run)
    assert files(run.folder) == before
    if kind is ModelError:
        said("api.exporting:_writing | Use --format pt2, or report it", str(told.value))
        api.export(run, format="pt2")


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"half": True, "int8": True}, "api.exporting:_precision | give one of --half and --int8"),
        (
            {"int8": True, "format": "pt2"},
            "api.exporting:_precision | Use --format onnx, or --half",
        ),
        ({"stacked": True, "format": "pt2"}, "api.exporting:_precision | or leave out --stacked"),
        ({"format": "tflite"}, "api.exporting:_precision | allowed are"),
        ({"out": "a/model.pt2"}, "api.exporting:_check_name | Name it"),
    ],
)
def test_options_that_do_not_go_together(
    made: api.Run, options: dict[str, Any], place: str
) -> None:
    with refused(place, ConfigError):
        api.export(made, **options)


def test_packages_that_are_not_there(made: api.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'terrafuse\[export\]'"):
        api.export(made)


@pytest.mark.usefixtures("recorded")
def test_options_that_go_together(run: api.Run, exported: api.Exported) -> None:
    """As the messages above have it."""
    assert exported.path.suffix == ".onnx"
    assert api.export(run, half=True).path.name == "model_float16.onnx"
    assert api.export(run, int8=True).path.name == "model_int8.onnx"
    assert api.export(run, format="pt2").path.name == "model.pt2"
    assert api.export(run, out=run.folder / "a" / "model.onnx").path.exists()


@pytest.mark.usefixtures("recorded")
def test_data_that_is_gone(run: api.Run, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "own" / "data").rename(elsewhere)
    made = api.export(run, out=tmp_path / "a" / "model.onnx")
    assert made.info.checked["images"].startswith("random values in the range of the training's")
    place = "api.exporting:_find_data | (--manifest), or export with --half"
    with refused(place, ConfigError):
        api.export(run, int8=True)
    api.export(run, half=True)
    named = api.export(run, int8=True, manifest=elsewhere / "dataset.yaml")
    assert named.info.checked["scenes"] == 1
    with pytest.raises(ConfigError, match="there is no file"):
        api.export(run, manifest=tmp_path / "nowhere.yaml")


@pytest.mark.usefixtures("recorded")
def test_calibration_and_licence_go_along(run: api.Run) -> None:
    fitted = {"format": 1, "model": "x", "subsets": {}}
    (run.folder / "calibration.json").write_text(json.dumps(fitted))
    assert api.export(run).info.calibration is None  # of other weights
    own = {"temperature": 1.5, "class_sets": None}
    fitted |= {"model": run.info.state_sha256, "full": "s2+s1", "subsets": {"s2+s1": own}}
    (run.folder / "calibration.json").write_text(json.dumps(fitted))
    base = ({"backbone": "b", "source": "s", "licence": "CC-BY-4.0"},) * 2
    again = replace(api.load(run.folder), info=replace(run.info, base_weights=base))
    made = api.export(again)
    assert info_of(made.path).calibration == fitted
    assert made.info.licence == "CC-BY-4.0"
    assert api.export(again, licence="MIT").info.licence == "MIT"


@pytest.mark.slow
def test_large_weights_lie_beside(run: api.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "MOST_IN_ONE_FILE", 1000)
    monkeypatch.setattr("terrafuse.exporting.files.MOST_IN_ONE_FILE", 1000)
    made = api.export(run, half=True)
    (beside,) = made.further
    assert beside.name == made.path.name + ".data"
    assert made.size == made.path.stat().st_size + beside.stat().st_size
    images = some_images(1, 8, 8)
    (scores,) = open_session(made.path).run(None, images)
    np.testing.assert_allclose(scores, torch_scores(run, images), atol=2e-3)
    assert files(run.folder) >= {made.path.name, beside.name}


@pytest.mark.usefixtures("recorded")
def test_the_command_prints_what_it_found(
    run: api.Run, command_line: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, printed, error = command_line("export", run.folder, "--int8", "-o", tmp_path / "m.onnx")
    assert code == 0, error
    lines = printed.splitlines()
    assert lines[0] == (
        "inputs: s2 (N, 4, H, W), s1 (N, 1, H, W); H and W are multiples of 4, at least 64"
    )
    assert lines[1].startswith("compared with the model on 1 window of scene2 (split 'val')")
    assert lines[2].startswith("scores on 1 scene of split 'val': miou ")
    said("cli.export:_lines | licence of the weights: unknown; name it with --licence", lines[3])
    assert re.fullmatch(rf"wrote {tmp_path / 'm.onnx'} \(0\.\d MB, int8\)", lines[4])
    code, printed, _ = command_line(
        "export", run.folder, "--format", "pt2", "--licence", "MIT", "--json"
    )
    found = json.loads(printed)
    assert (found["licence"], found["opset"]) == ("MIT", None)
    assert found["file"] == str(run.folder / "model.pt2")

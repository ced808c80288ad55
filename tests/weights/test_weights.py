"""Files of weights and run folders: exact when whole, one clear message when not."""

from __future__ import annotations

import errno
import json
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import terrafuse.weights.files as files
from terrafuse.classes import ClassScheme
from terrafuse.errors import (
    ChecksumError,
    ConfigError,
    OutputError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from terrafuse.methods import create_segmenter, load_segmenter
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.weights import (
    RunInfo,
    check_same_scheme,
    digest,
    load_strict,
    read_run_info,
    read_state,
    read_weights,
    save_model,
    write_metrics,
)

OPTICAL = Modality("s2", ("B4", "B8"), "optical", wavelengths_um=(0.665, 0.842), unit="reflectance")
SAR = Modality("s1", ("VV",), "sar", unit="db", scale=2.5)
STATISTICS = {
    "s2": BandStatistics((0.1, 0.3), (0.05, 0.1), (0.0, 0.1), (0.2, 0.5), (10, 10)),
    "s1": BandStatistics((-12.0,), (3.0,), (math.inf,), (-5.0,), (10,)),
}
OPTIONS: dict[str, Any] = {
    "backbone_options": {"channels": [4, 6, 8, 10], "layers": [1, 1, 1, 1]},
    "decoder_options": {"channels": 8},
}
INFO = RunInfo(
    method="late_fusion",
    method_options=OPTIONS,
    modalities=(OPTICAL, SAR),
    scheme=ClassScheme(("dry", "open water"), ("#c8b48c", "#1f5fd0"), ((0,), (254, 255)), (9,)),
    statistics=STATISTICS | {"s1": replace(STATISTICS["s1"], low=(-20.0,))},
    crop_size=128,
    overlap=32,
    rules={"s2": {"nodata": 0}, "s1": {}},
    grid="s2",
    base_weights=({"backbone": "resnet18", "source": "timm/resnet18", "licence": "apache-2.0"},),
    total_parameters=1234,
)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    segmenter = create_segmenter("late_fusion", INFO.modalities, 2, OPTIONS)
    segmenter.set_statistics(INFO.statistics)
    return segmenter.state_dict()


@pytest.fixture
def run(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    save_model(tmp_path / "run", state, INFO)
    return tmp_path / "run"


def test_a_run_folder_gives_back_what_was_saved(run: Path, state: dict[str, torch.Tensor]) -> None:
    info = read_run_info(run)
    assert info == replace(INFO, state_sha256=digest(run / "model.safetensors"))
    loaded = read_state(run)
    assert set(loaded) == set(state)
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert sorted(p.name for p in run.iterdir()) == ["model.json", "model.safetensors"]
    segmenter, info = load_segmenter(run)
    assert segmenter.modalities == info.modalities == INFO.modalities


def test_a_run_folder_is_replaced_whole(run: Path, state: dict[str, torch.Tensor]) -> None:
    save_model(run, state, replace(INFO, crop_size=64))
    assert read_run_info(run).crop_size == 64


def test_tensors_that_share_memory_are_saved(tmp_path: Path) -> None:
    values = torch.arange(6.0)
    save_model(tmp_path, {"a": values, "b": values.view(2, 3).T}, INFO)
    state = read_state(tmp_path)
    assert state["a"].tolist() == values.tolist()
    assert state["b"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_undefined_statistics_survive_json(tmp_path: Path) -> None:
    save_model(tmp_path, {}, replace(INFO, statistics=STATISTICS))
    text = (tmp_path / "model.json").read_text()
    assert "Infinity" not in text
    assert math.isnan(read_run_info(tmp_path).statistics["s1"].low[0])


def test_the_model_is_described_in_stac_terms(run: Path) -> None:
    """Required fields of the extension, version 1.4.0, with the values of this model."""
    values = json.loads((run / "model.json").read_text())
    assert values["mlm:tasks"] == ["semantic-segmentation"]
    assert values["mlm:framework"] == "PyTorch"
    assert values["mlm:architecture"] == "late_fusion"
    assert values["mlm:name"] == "s2-s1 late_fusion"
    assert values["mlm:pretrained_source"] == "timm/resnet18"
    optical, sar = values["mlm:input"]
    assert optical["name"] == "s2"
    assert optical["bands"] == ["B4", "B8"]
    assert optical["input"] == {
        "shape": [-1, 2, -1, -1],
        "dim_order": ["batch", "channel", "height", "width"],
        "data_type": "float32",
    }
    assert optical["value_scaling"][1] == {"type": "z-score", "mean": 0.3, "stddev": 0.1}
    assert sar["value_scaling"] == [{"type": "z-score", "mean": -12.0, "stddev": 3.0}]
    (output,) = values["mlm:output"]
    assert output["result"]["shape"] == [-1, 2, -1, -1]
    assert output["classification:classes"][1] == {
        "value": 1,
        "name": "open_water",
        "title": "open water",
        "description": "open water",
        "color_hint": "1F5FD0",
    }


def test_metrics_leave_their_scores_with_the_model(run: Path) -> None:
    scores = {"miou": 0.5, "kappa": None, "boundary_f1": math.nan}
    metrics = {"format": 1, "subsets": {"s2+s1": {"scores": scores, "matrix": [[1]]}}}
    write_metrics(run, metrics)
    found = json.loads((run / "metrics.json").read_text())
    assert found["subsets"]["s2+s1"]["scores"] == {"miou": 0.5, "kappa": None, "boundary_f1": None}
    info = read_run_info(run)
    assert info.scores == {"s2+s1": {"miou": 0.5, "kappa": None, "boundary_f1": None}}
    assert replace(info, scores={}, state_sha256=None) == INFO
    assert info.state_sha256 == digest(run / "model.safetensors")
    load_segmenter(run)


def test_weights_of_another_run_are_found(
    run: Path, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """The names and shapes are the same, so that nothing else tells the two apart."""
    other = {n: value + 1 if value.is_floating_point() else value for n, value in state.items()}
    save_model(tmp_path / "other", other, INFO)
    mixed = run / "model.safetensors"
    own = mixed.read_bytes()
    mixed.write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(ChecksumError, match=r"safetensors' is not the file that model\.json"):
        load_segmenter(run)
    # What the message says to do works, and so does a folder of a version without digests.
    (run / "model.json").write_bytes((tmp_path / "other" / "model.json").read_bytes())
    assert all(torch.equal(read_state(run)[name], value) for name, value in other.items())
    for values in ({"state_sha256": None}, {}):
        stored = json.loads((run / "model.json").read_text())
        stored.pop("state_sha256", None)
        (run / "model.json").write_text(json.dumps(stored | values))
        mixed.write_bytes(own)
        load_segmenter(run)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, WeightsNotFoundError, "is not a run folder: it holds no model.json"),
        ("{", WeightsError, "cannot be read: Expecting"),
        ("[1]", WeightsError, "does not describe a model"),
        ("{}", WeightsMismatchError, r"format version None, written by terrafuse \(unknown\)"),
        (
            '{"format_version": 7, "terrafuse_version": "3.1"}',
            WeightsMismatchError,
            r"has format version 7, written by terrafuse 3\.1; this is .* reads version 1\.",
        ),
        ('{"format_version": 1}', WeightsError, "is damaged: no 'method'"),
    ],
)
def test_a_damaged_run_folder_says_what_is_wrong(
    run: Path, content: str | None, error: type[Exception], message: str
) -> None:
    path = run / "model.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=message) as caught:
        load_segmenter(run)
    assert type(caught.value) is error


@pytest.mark.parametrize("key", ["modalities", "classes", "statistics", "crop_size"])
def test_a_wrong_value_in_model_json_is_reported(run: Path, key: str) -> None:
    values = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps(values | {key: [{"x": 1}]}))
    with pytest.raises(WeightsError, match=r"model\.json' is damaged"):
        read_run_info(run)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match="is not a run folder"):
        load_segmenter(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(WeightsNotFoundError, match="is not a run folder"):
        load_segmenter(tmp_path / "file")


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_a_damaged_state_is_reported(run: Path, damage: str) -> None:
    path = run / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(
        {"truncated": whole[: len(whole) // 2], "garbage": b"abc" * 99}.get(damage, b"")
    )
    with pytest.raises(WeightsError, match=r"model\.safetensors' cannot be read as weights"):
        load_segmenter(run)
    path.unlink()
    with pytest.raises(WeightsNotFoundError):
        load_segmenter(run)


def _describe(folder: Path, info: RunInfo) -> None:
    (folder / "model.json").write_text(json.dumps(info.to_dict()))


def test_a_state_of_another_model_is_refused(run: Path, state: dict[str, torch.Tensor]) -> None:
    state.pop("head.decoder.classifier.bias")
    save_model(run, state, INFO)
    with pytest.raises(WeightsMismatchError, match=r"missing: head\.decoder\.classifier\.bias"):
        load_segmenter(run)
    _describe(run, replace(INFO, method="of_tomorrow"))
    with pytest.raises(WeightsMismatchError, match=r"cannot be built by this one: unknown method"):
        load_segmenter(run)


def test_loading_fetches_no_base_weights(run: Path) -> None:
    _describe(run, replace(INFO, method_options=OPTIONS | {"weights": "gone/away.pth"}))
    segmenter, _ = load_segmenter(run)
    assert segmenter.method_options["weights"] == "gone/away.pth"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"model\.safetensors' cannot be written"):
        save_model(tmp_path / "file", {"a": torch.zeros(1)}, INFO)


@pytest.mark.parametrize("failing", ["weights", "description"])
def test_a_full_disk_leaves_the_old_model_whole(
    run: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, *_: Any, **__: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    if failing == "weights":
        monkeypatch.setattr(files, "save_file", lambda state, path, metadata: fail(path))
    else:
        monkeypatch.setattr(Path, "write_text", fail)
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    with pytest.raises(OutputError, match=r"cannot be written: .*No space left"):
        save_model(run, {"a": torch.zeros(1)}, INFO)
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_class_schemes_are_compared_by_name() -> None:
    stored_otherwise = ClassScheme(("dry", "open water"))
    check_same_scheme(INFO, stored_otherwise, "manifest 'a.yaml'")
    with pytest.raises(ConfigError, match=r"'a\.yaml' has the classes dry; the model was trained"):
        check_same_scheme(INFO, ClassScheme(("dry",)), "manifest 'a.yaml'")
    with pytest.raises(ConfigError, match="open water, dry in another order"):
        check_same_scheme(INFO, ClassScheme(("open water", "dry")), "manifest 'a.yaml'")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_are_read_from_either_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    state = {"a.weight": torch.randn(2, 3), "a.bias": torch.arange(2)}
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    found = read_weights(path, sha256=digest(path).upper())
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    with pytest.raises(ChecksumError, match=r"is not the published file: SHA-256 is [0-9a-f]{64}"):
        read_weights(path, sha256="0" * 64)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_weights_are_taken_out_of_a_checkpoint(tmp_path: Path, key: str) -> None:
    content = {key: {"w": torch.ones(1)}, "epoch": 3, "args": {"lr": 0.1}}
    torch.save(content, tmp_path / "checkpoint.pth")
    assert read_weights(tmp_path / "checkpoint.pth") == {"w": torch.ones(1)}


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def test_code_in_a_checkpoint_is_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"w": torch.ones(1), "x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(
        WeightsError, match=r"Python objects besides tensors.*Convert it to safetens"
    ):
        read_weights(tmp_path / "evil.pth")
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_garbage_is_reported(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"garbage{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="garbage"):
        read_weights(path)


@pytest.mark.parametrize("content", [[torch.ones(1)], {"a": 1}, torch.ones(1)])
def test_files_without_named_tensors_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=r"odd\.pth' holds"):
        read_weights(tmp_path / "odd.pth")


def test_the_hub_is_used_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"w": torch.ones(1)}, tmp_path / "w.safetensors")
    asked: list[dict[str, str]] = []

    def download(**request: str) -> str:
        asked.append(request)
        return str(tmp_path / "w.safetensors")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(files, "hub_or_cache", nullcontext)
    assert read_weights("hf://owner/name/sub/w.safetensors") == {"w": torch.ones(1)}
    assert asked == [{"repo_id": "owner/name", "filename": "sub/w.safetensors"}]
    with pytest.raises(WeightsError, match="does not name a file on the hub"):
        read_weights("hf://owner/name")


def test_without_network_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        WeightsNotFoundError, match=r"is not on this machine.*give its path instead"
    ):
        read_weights("hf://owner/name/w.safetensors")


def test_loading_is_strict() -> None:
    module = nn.Linear(2, 3)
    good = {"weight": torch.ones(3, 2), "bias": torch.ones(3)}
    load_strict(module, good, where="weights 'w'")
    assert module.weight.eq(1).all()
    bad = {"weight": torch.ones(2, 2), "bais": torch.ones(3)}
    with pytest.raises(
        WeightsMismatchError,
        match=r"weights 'w' do not fit the model; missing: bias; unexpected: bais; other shape: "
        r"weight is 2×2, expected 3×2\. Choose",
    ):
        load_strict(module, bad, where="weights 'w'")
    assert module.weight.eq(1).all(), "nothing is loaded in part"

"""Weights and run folders: what the message says to do, done."""

from __future__ import annotations

import errno
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import terrafuse.weights.files as files
from remedies import refused
from terrafuse.api import pretrained_weights
from terrafuse.backbones import create_backbone, save_backbone
from terrafuse.backbones.dofa.encoder import hub_location as dofa_location
from terrafuse.backbones.pretrained_files import _KEY
from terrafuse.backbones.registry import hub_location
from terrafuse.classes import ClassScheme
from terrafuse.errors import OutputError
from terrafuse.methods import create_segmenter, load_segmenter
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.weights import RunInfo, load_strict, read_run_info, read_weights, save_model
from terrafuse.writing import written_whole

RESNET = {"channels": [4, 6, 8, 10], "layers": [1, 1, 1, 1]}


# Files


def test_a_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with refused(
        "weights.files:_locate | Give the path of a safetensors or torch checkpoint"
    ) as error:
        read_weights(tmp_path / "gone.pth")
    tensors = {"a": torch.ones(2)}
    save_file(tensors, tmp_path / "w.safetensors")
    torch.save(tensors, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        assert read_weights(tmp_path / name)["a"].sum() == 2

    def fetch(repo_id: str, filename: str) -> str:
        assert (repo_id, filename) == ("owner/repository", "file")
        return str(tmp_path / "w.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    form = error.find(r"or '(hf://[\w/]+)' to fetch it")
    assert read_weights(form)["a"].sum() == 2
    with refused("weights.files:_fetch | does not name a file on the hub; write") as error:
        read_weights("hf://owner/repository")
    assert error.find(r"write '(.*)'$") == form


def test_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/nowhere")
    with refused(
        "weights.files:_fetch | Fetch it where there is a network and give its path instead"
    ):
        read_weights("hf://owner/name/w.safetensors")
    with refused(
        "backbones.timm.models:_fetch | give their path as 'weights', or leave 'weights' out"
    ):
        create_backbone("resnet18", 3, weights="timm")
    path = tmp_path / "w.safetensors"  # as it was fetched elsewhere
    save_file(whole("resnet18"), path)
    assert create_backbone("resnet18", 3, weights=str(path)).pretrained is not None
    assert create_backbone("resnet18", 3).pretrained is None


def whole(name: str, **options: Any) -> dict[str, torch.Tensor]:
    """The values of one of timm's models, under timm's names."""
    import timm

    state: dict[str, torch.Tensor] = timm.create_model(name, **options).state_dict()
    return state


class Odd:
    """No tensor."""


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": torch.ones(2), "odd": Odd()}, path)
    with refused("weights.files:_read_file | Convert it to safetensors if you trust it"):
        read_weights(path)
    content = torch.load(path, weights_only=False)
    tensors = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)}
    save_file(tensors, tmp_path / "w.safetensors")
    assert read_weights(tmp_path / "w.safetensors")["a"].sum() == 2
    cut = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(cut[:-3])
    with refused("weights.files:_read_file | It may be truncated; fetch or train it again"):
        read_weights(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(cut)
    read_weights(tmp_path / "w.safetensors")


def test_a_file_that_is_not_the_published_one(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(2)}, path)
    right, published = path.read_bytes(), files.digest(path)
    save_file({"a": torch.zeros(2)}, path)
    with refused("weights.files:_checked | Fetch it again"):
        read_weights(path, sha256=published)
    path.write_bytes(right)
    read_weights(path, sha256=published)


@pytest.mark.parametrize("way", ["model", "weights"])
def test_weights_of_another_model(way: str) -> None:
    state = nn.Linear(2, 3).state_dict()
    with refused(
        "weights.files:load_strict | Choose the model they were made for, or other weights"
    ):
        load_strict(nn.Linear(2, 4), state, where="weights 'w'")
    model = nn.Linear(2, 3 if way == "model" else 4)
    load_strict(
        model, state if way == "model" else nn.Linear(2, 4).state_dict(), where="weights 'w'"
    )


#: What the system says → place of the remedy.
NOT_WRITTEN = {
    errno.ENOSPC: "errors:write_failure | Free space, or choose another folder",
    errno.EACCES: "errors:write_failure | Give yourself permission to write in",
    errno.EROFS: "errors:write_failure | The file system is read-only; choose another folder",
    errno.ENAMETOOLONG: "errors:write_failure | Choose a shorter name",
    errno.ENOTDIR: "errors:write_failure | Choose another folder",
}


@pytest.mark.parametrize("number", NOT_WRITTEN)
def test_files_that_cannot_be_written(tmp_path: Path, number: int) -> None:
    """A folder in which the system refuses to write, until what it lacks is there."""
    folder, full = tmp_path / "here", tmp_path / "here" / "large.tif"
    folder.mkdir()

    def is_refused(path: Path) -> bool:
        lacking = {
            errno.ENOSPC: full.exists(),
            errno.EACCES: not folder.stat().st_mode & 0o200,
            errno.ENAMETOOLONG: len(path.name) > 20,
        }
        return path.parent == folder and lacking.get(number, True)

    def write(path: Path) -> None:
        with written_whole(path) as (partial,):
            if is_refused(path):
                raise OSError(number, os.strerror(number))
            partial.write_text("a")

    full.touch()
    path = folder / "a_long_name_of_a_map.tif"
    folder.chmod(0o500 if number == errno.EACCES else 0o700)
    with refused(NOT_WRITTEN[number], OutputError) as error:
        write(path)
    if number == errno.ENAMETOOLONG:
        write(folder / "a.tif")
        return
    write(tmp_path / path.name)
    if number == errno.ENOSPC:
        full.unlink()
        write(path)
    if number == errno.EACCES:
        Path(error.find("to write in '(.*?)'")).chmod(0o700)
        write(path)


#: Place → content of what is no file of weights, and what is fetched, converted or found instead.
NO_WEIGHTS: dict[str, bytes] = {
    "weights.files:_what_else | it is empty. Fetch it again": b"",
    "weights.files:_what_else | Fetch the file itself (on Hugging Face": b"<!doctype html>",
    "weights.files:_what_else | 'git lfs pull' in its repository, or fetch the file itself": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 468\n"
    ),
    "weights.files:_what_else | Give the file of weights it belongs to": b'{"hidden_size": 64}',
    "weights.files:_what_else | which is not read. Convert it to safetensors": b"\x89HDF\r\n\x1a\n",
    "weights.files:_what_zip | it is truncated": b"PK\x03\x04broken",
}


@pytest.mark.parametrize("place", NO_WEIGHTS)
def test_files_of_something_else(tmp_path: Path, place: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(NO_WEIGHTS[place])
    with refused(place):
        read_weights(path)
    save_file({"a": torch.ones(2)}, path)
    assert read_weights(path)["a"].sum() == 2


def test_an_archive_is_unpacked(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.write(tmp_path / "model.safetensors", "folder/model.safetensors")
    with refused("weights.files:_what_zip | Unpack it and give the file of weights in it") as error:
        read_weights(tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        path = archive.extract(error.find(r"is a zip archive \((.*?)\)"), tmp_path / "unpacked")
    assert read_weights(path)["a"].sum() == 2


@pytest.mark.filterwarnings(
    "ignore:`torch.jit:DeprecationWarning", "ignore:`torch.jit:FutureWarning"
)
def test_a_program_whose_weights_are_saved_alone(tmp_path: Path) -> None:
    path = tmp_path / "program.pt"
    model = nn.Linear(2, 3)
    torch.jit.save(torch.jit.trace(model, torch.ones(1, 2)), path)
    with refused("weights.files:_what_zip | Save its weights alone: torch.save(") as error:
        read_weights(path)
    command = error.find(r"Save its weights alone: (torch\.save\(.*\))$")
    eval(command, {"torch": torch, "file": path, "new_file": tmp_path / "w.pth"})
    assert torch.equal(read_weights(tmp_path / "w.pth")["weight"], model.weight)


def test_tensors_without_plain_values(tmp_path: Path) -> None:
    value = torch.eye(3)
    torch.save({"w": value.to_sparse()}, tmp_path / "w.pth")
    with refused("weights.files:_unwrap | Save the model's state_dict() as plain tensors"):
        read_weights(tmp_path / "w.pth")
    torch.save({"w": value.to_sparse().to_dense()}, tmp_path / "w.pth")
    assert torch.equal(read_weights(tmp_path / "w.pth")["w"], value)


@pytest.mark.parametrize("way", ["earlier", "other"])
def test_weights_of_a_training_that_failed(tmp_path: Path, way: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", **RESNET)
    save_file(model.state_dict(), tmp_path / "earlier.safetensors")
    with torch.no_grad():
        next(iter(model.parameters())).fill_(torch.nan)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    with refused("weights.files:_check_finite | use an earlier checkpoint of it, or other weights"):
        create_backbone("resnet10t", 3, weights=str(tmp_path / "w.safetensors"), **RESNET)
    torch.manual_seed(1)
    save_file(timm.create_model("resnet10t", **RESNET).state_dict(), tmp_path / "other.safetensors")
    create_backbone("resnet10t", 3, weights=str(tmp_path / f"{way}.safetensors"), **RESNET)


# Run folders


def save(folder: Path) -> Path:
    modality = Modality("m", ("x", "y"))
    options = {"backbone": "resnet18", "backbone_options": RESNET, "decoder": "linear"}
    segmenter = create_segmenter("single", [modality], 2, options)
    numbers = BandStatistics((0.0,) * 2, (1.0,) * 2, (0.0,) * 2, (9.0,) * 2, (1,) * 2)
    info = RunInfo("single", options, (modality,), ClassScheme(("a", "b")), {"m": numbers}, 32, 0)
    save_model(folder, segmenter.state_dict(), info)
    return folder


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    with refused(
        "weights.run_info:_read_json | Give the folder that 'terrafuse train --out' wrote"
    ):
        read_run_info(tmp_path)
    run = save(tmp_path / "run")
    read_run_info(run)
    values = json.loads((run / "model.json").read_text())
    for place, text in {
        "weights.run_info:_read_json | Save the model again": "{",
        "weights.run_info:read_run_info | Save the model again": json.dumps(
            values | {"classes": 7}
        ),
        "weights.run_info:read_run_info | Use the terrafuse that wrote it, or train again": (
            json.dumps(values | {"format_version": "99"})
        ),
    }.items():
        (run / "model.json").write_text(text)
        with refused(place):
            read_run_info(run)
        read_run_info(save(tmp_path / "run"))  # saved again by this version


def test_a_description_that_was_changed(tmp_path: Path) -> None:
    run = save(tmp_path / "run")
    whole = (run / "model.json").read_text()
    values = json.loads(whole)
    values["method"]["options"]["decoder"] = 7
    (run / "model.json").write_text(json.dumps(values))
    with refused("methods.__init__:_build_again | bring it from the run folder as it was trained"):
        load_segmenter(run)
    (run / "model.json").write_text(whole)
    load_segmenter(run)


# Published weights, and whose there are


def test_published_weights(tmp_path: Path) -> None:
    known = (
        "backbones.dofa.encoder:hub_location | Choose one of these, give the path of a checkpoint"
    )
    with refused(known) as error:
        dofa_location("dofa_small_patch16")
    for name in error.find("there are for (.*?)\\. Choose").split(", "):
        assert dofa_location(name).startswith("hf://")
    with refused(
        "backbones.registry:hub_location | choose weights 'timm', or give the path of a"
    ) as e:
        hub_location("resnet18")
    assert e.find("choose weights '(.*?)'") == "timm"
    with refused(
        "backbones.timm.models:_check_published | Leave 'weights' out to train from scratch"
    ):
        create_backbone("vit_base_patch16_18x2_224", 3, weights="timm")
    small = {"depth": 1, "embed_dim": 16, "num_heads": 2}
    assert create_backbone("vit_base_patch16_18x2_224", 3, **small).pretrained is None
    path = tmp_path / "w.safetensors"
    save_file(whole("resnet18", **RESNET), path)
    found = create_backbone("resnet18", 3, weights=str(path), **RESNET)
    assert found.pretrained is not None


def test_names_that_timm_has_no_weights_for() -> None:
    from terrafuse.backbones.timm.models import refuse_timm

    with refused(
        "backbones.timm.models:refuse_timm | for the published ones, give the path of a"
    ) as e:
        refuse_timm("dofa_base_patch16", "timm")
    assert dofa_location("dofa_base_patch16")
    assert e.find("Choose weights '(.*?)' for") == "hub"


def test_checkpoints_in_timms_names(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"cls_token": torch.ones(1)}, path)
    name = "weights.files:load_strict | Choose the model they were made for, or other weights"
    with refused(name):
        create_backbone("resnet18", 3, weights=str(path), **RESNET)
    save_file(whole("resnet18", **RESNET), path)
    create_backbone("resnet18", 3, weights=str(path), **RESNET)


# Weights of `terrafuse pretrain`


def pretrained(path: Path, name: str = "resnet18", bands: tuple[str, ...] = ("r", "g", "b")) -> str:
    from terrafuse.config.base import parse_settings
    from terrafuse.config.pretrain import PretrainConfig
    from terrafuse.pretraining import create_pretrainer

    modality = Modality("rgb", bands, "optical")
    values = {"data": {"manifest": "d.yaml"}, "backbone": name, "backbone_options": RESNET,
              "objective": {"name": "decur", "hidden": 8, "dim": 8, "common": 6}}  # fmt: skip
    pretrainer = create_pretrainer(
        parse_settings(PretrainConfig, values, "p.yaml"), (modality, Modality("sar", ("vv",)))
    )
    found = pretrainer.learned["rgb"]
    save_backbone(path, found.backbone, found.name, found.options, found.images, "decur")
    return str(path)


def create(weights: str, name: str = "resnet18", bands: tuple[str, ...] = ("r", "g", "b")) -> Any:
    options = {
        "backbone": name,
        "backbone_options": RESNET,
        "decoder": "linear",
        "weights": weights,
    }
    return create_segmenter("single", [Modality("rgb", bands, "optical")], 2, options)


def test_files_of_pretrain(tmp_path: Path) -> None:
    path = pretrained(tmp_path / "w.safetensors")
    create(path)
    with refused("backbones.pretrained_files:_load | Choose that backbone, or pre-train") as error:
        create(path, "resnet34")
    create(path, error.find("for backbone '(\\w+)'\\. Choose"))
    create(pretrained(tmp_path / "other.safetensors", "resnet34"), "resnet34")
    with refused(
        "backbones.pretrained_files:_check_bands | Choose weights of these bands, or pre-train"
    ):
        create(path, bands=("r", "b", "g"))
    create(pretrained(tmp_path / "third.safetensors", bands=("r", "b", "g")), bands=("r", "b", "g"))


def test_files_of_pretrain_that_say_nothing(tmp_path: Path) -> None:
    path = pretrained(tmp_path / "w.safetensors")
    assert _KEY in files.read_metadata(path)
    save_file(load_file(path), path, metadata={_KEY: "{}"})
    with refused("backbones.pretrained_files:read_own | Run 'terrafuse pretrain' again"):
        create(path)
    create(pretrained(tmp_path / "w.safetensors"))


def test_folders_of_pretrain(tmp_path: Path) -> None:
    with refused("api.pretraining:pretrained_weights | or finish it with --resume"):
        pretrained_weights(tmp_path)
    # What `terrafuse pretrain` writes last, be it resumed.
    (tmp_path / "pretrain.json").write_text(json.dumps({"weights": "backbone.safetensors"}))
    assert pretrained_weights(tmp_path) == str(tmp_path / "backbone.safetensors")
    whole = (tmp_path / "pretrain.json").read_text()
    (tmp_path / "pretrain.json").write_text("[]")
    with refused("api.pretraining:pretrained_weights | Pre-train again"):
        pretrained_weights(tmp_path)
    (tmp_path / "pretrain.json").write_text(whole)  # as pre-training again leaves it
    pretrained_weights(tmp_path)

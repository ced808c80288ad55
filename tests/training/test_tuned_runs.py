"""Tuned runs through the training: what learns, what is saved, and what it is put together from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import terrafuse
from terrafuse.backbones import create_backbone
from terrafuse.errors import ChecksumError, ConfigError, WeightsNotFoundError
from terrafuse.methods import load_segmenter
from terrafuse.training import train

pytestmark = pytest.mark.usefixtures("without_figures")

VIT: dict[str, Any] = {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Pretrained weights: a small transformer as timm names its values."""
    torch.manual_seed(1)
    path = tmp_path / "vit.safetensors"
    save_file(create_backbone("vit_tiny_patch16_224", 3, **VIT).vit.state_dict(), path)
    return path


@pytest.fixture
def manifest(make_dataset: Any) -> Path:
    path: Path = make_dataset(("train", "val", "test"))
    return path


def _method(base: Path | None, tuning: Any) -> dict[str, Any]:
    return {
        "name": "mfnet",
        "backbone": "vit_tiny_patch16_224",
        "backbone_options": VIT | {"neck_channels": 8},
        "weights": None if base is None else str(base),
        "tuning": tuning,
        "decoder_options": {"channels": 8, "num_heads": 2, "window_size": 4},
    }


@pytest.mark.parametrize("tuning", ["lora", "adapter+lora", "prompt", "frozen", "norms"])
def test_only_what_was_tuned_is_saved(
    tmp_path: Path, base: Path, manifest: Path, make_config: Any, tuning: str
) -> None:
    config = make_config(manifest, method=_method(base, tuning), training={"steps": 2})
    out = train(config, tmp_path / "run")
    saved = load_file(out / "model.safetensors")
    segmenter, info = load_segmenter(out)
    state = segmenter.state_dict()
    frozen = {n for n, p in segmenter.named_parameters() if not p.requires_grad}
    assert frozen
    assert set(saved) == set(state) - frozen
    assert info.base_weights[0]["source"] == str(base)
    assert len(info.base_values_sha256 or "") == 64
    original = load_file(base)
    for name in frozen:
        plain = name.removeprefix("backbone.vit.").replace(".base", "")
        assert torch.equal(state[name], original[plain]), f"{name} was changed by training"
    assert terrafuse.load(out).evaluate(device="cpu")["pixels"] > 0


def test_full_tuning_saves_everything(
    tmp_path: Path, base: Path, manifest: Path, make_config: Any
) -> None:
    config = make_config(manifest, method=_method(base, "full"), training={"steps": 1})
    out = train(config, tmp_path / "run")
    base.unlink()  # not needed any more
    segmenter, info = load_segmenter(out)
    assert info.base_values_sha256 is None
    assert set(load_file(out / "model.safetensors")) == set(segmenter.state_dict())


def test_merged_on_loading_it_maps_the_same(
    tmp_path: Path, base: Path, manifest: Path, make_config: Any
) -> None:
    method = _method(base, {"name": "lora", "mix": False})
    out = train(make_config(manifest, method=method, training={"steps": 4}), tmp_path / "run")
    plain, merged = load_segmenter(out)[0], load_segmenter(out, merge=True)[0]
    assert len(merged.state_dict()) < len(plain.state_dict())
    images = {"a": torch.randn(1, 2, 48, 48), "b": torch.randn(1, 1, 48, 48)}
    with torch.no_grad():
        torch.testing.assert_close(
            merged(images).logits, plain(images).logits, rtol=1e-4, atol=1e-5
        )


def test_base_weights_that_are_gone_or_others(
    tmp_path: Path, base: Path, manifest: Path, make_config: Any
) -> None:
    config = make_config(manifest, method=_method(base, "lora"), training={"steps": 1})
    out = train(config, tmp_path / "run")
    expected = load_segmenter(out)[0].state_dict()
    moved = tmp_path / "elsewhere.safetensors"
    base.rename(moved)
    with pytest.raises(
        WeightsNotFoundError, match=r"holds only what was tuned.*into the run folder"
    ):
        load_segmenter(out)
    shutil.copy(moved, out / base.name)
    found = load_segmenter(out)[0].state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    values = load_file(moved)
    values["blocks.0.attn.qkv.weight"] += 1e-3
    save_file(values, out / base.name)
    with pytest.raises(ChecksumError, match="tuned on other values than the base weights"):
        load_segmenter(out)
    shutil.copy(moved, out / base.name)  # restored
    found = load_segmenter(out)[0].state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_resumed_it_is_the_same(
    tmp_path: Path, base: Path, manifest: Path, make_config: Any
) -> None:
    config = make_config(manifest, method=_method(base, "adapter"), training={"steps": 2})
    out = train(config, tmp_path / "run")
    again = train(config, tmp_path / "again")
    first, second = (load_file(folder / "model.safetensors") for folder in (out, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert json.loads((out / "model.json").read_text())["base_values_sha256"]


def test_a_frozen_backbone_without_weights_is_doubted(
    tmp_path: Path, manifest: Path, make_config: Any
) -> None:
    config = make_config(manifest, method=_method(None, "lora"), training={"steps": 1})
    with pytest.warns(UserWarning, match="no pretrained weights, and with tuning 'lora' it keeps"):
        train(config, tmp_path / "run")


def test_a_random_backbone_that_waits_is_doubted(
    tmp_path: Path, manifest: Path, make_config: Any
) -> None:
    training = {"steps": 2, "head_first_steps": 1}
    config = make_config(manifest, method=_method(None, "full"), training=training)
    with pytest.warns(UserWarning, match="head_first_steps the rest is trained on random features"):
        train(config, tmp_path / "run")


def test_a_tuning_needs_a_learning_backbone(
    tmp_path: Path, base: Path, manifest: Path, make_config: Any
) -> None:
    training = {"steps": 1, "backbone_lr_factor": 0}
    config = make_config(manifest, method=_method(base, "lora"), training=training)
    with pytest.raises(
        ConfigError,
        match="backbone_lr_factor is 0, which also stops the parameters that tuning 'lora'",
    ):
        train(config, tmp_path / "run")


def test_gradient_checkpointing_learns_the_same(
    tmp_path: Path, base: Path, manifest: Path, make_config: Any
) -> None:
    states = []
    for name, checkpointing in (("plain", False), ("checkpointing", True)):
        training = {"steps": 2, "gradient_checkpointing": checkpointing}
        config = make_config(manifest, method=_method(base, "adapter"), training=training)
        states.append(load_file(train(config, tmp_path / name) / "model.safetensors"))
    torch.testing.assert_close(states[0], states[1], rtol=1e-5, atol=1e-6)

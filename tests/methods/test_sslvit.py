"""SSLViT equals the published network: encoders, decoders, logits; files, missing sensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from golden_files import load_golden, part
from terrafuse.describe import without_values
from terrafuse.errors import ModelError, WeightsMismatchError
from terrafuse.methods import create_segmenter
from terrafuse.methods.sslvit import (
    PatchExpansion,
    SSLViT,
    convert_reference_state_dict,
    run_stages,
)
from terrafuse.modalities import Modality
from terrafuse.weights import load_strict

#: As the stored tensors are to be compared.
CLOSE: dict[str, float] = {"rtol": 1e-5, "atol": 1e-5}
#: What the encoders make, and what comes after them, in which processors differ by up to 1.8e-5.
CLOSE_EARLY, CLOSE_LATE = CLOSE | {"atol": 3e-6}, CLOSE | {"atol": 3e-5}
SAR = Modality("s1", ("VV", "VH"), "sar")
BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
MS = Modality("s2", BANDS, "optical")
SIZES: dict[str, Any] = {
    "img_size": 64, "window_size": 4, "embed_dim": 6, "depths": [2, 2, 2, 2],
    "num_heads": [1, 2, 3, 4],
}  # fmt: skip


def _make(*modalities: Modality, **options: Any) -> SSLViT:
    options = {"backbone_options": SIZES} | options
    model = create_segmenter("sslvit", modalities, 5, options)
    assert isinstance(model, SSLViT)
    return model.eval()


def _golden() -> tuple[SSLViT, dict[str, Tensor]]:
    """Our network with the stored weights."""
    stored, _ = load_golden("sslvit/seg")
    model = _make(SAR, MS)
    converted = convert_reference_state_dict(part(stored, "sd."), ("s1", "s2"))
    own = {k: v for k, v in model.state_dict().items() if k.startswith(("mean_", "std_"))}
    load_strict(model, converted | own, where="stored weights")
    return model, stored


@pytest.mark.parity
@torch.no_grad()
def test_every_stage_is_the_original() -> None:
    model, stored = _golden()
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: found.__setitem__(name, output)

    branches: dict[str, Any] = dict(model.branches.items())
    decoders: dict[str, Any] = dict(model.decoders.items())
    for number, name in enumerate(("s1", "s2"), start=1):
        stages, decoder = branches[name].stages, decoders[name]
        for i in range(3):  # the original's stages end with what makes the next one smaller
            inner = getattr(stages[i + 1], f"layers_{i + 1}")
            inner.downsample.register_forward_hook(keep(f"backbone{number}.layers{i}"))
        stages[3].layers_3.blocks.register_forward_hook(keep(f"backbone{number}.layers3"))
        stages[0].layers_0.blocks[1].register_forward_hook(
            keep(f"backbone{number}.layers0.blocks1")
        )
        branches[name].stem.patch_embed.register_forward_hook(keep(f"backbone{number}.patch_embed"))
        decoder.norm_in.register_forward_hook(keep(f"backbone{number}.norm"))
        for i in range(3):
            decoder.join[i].register_forward_hook(keep(f"decoder{number}.concat_back_dim{i + 1}"))
            decoder.expand[i].register_forward_hook(keep(f"decoder{number}.layers_up{i}"))
        decoder.stages[2].register_forward_hook(keep(f"decoder{number}.layers_up3"))
        decoder.norm_out.register_forward_hook(keep(f"decoder{number}.norm_up"))
    model.expand.register_forward_hook(keep("decoder1.up_tokens_0_512"))
    logits = model({"s1": stored["in.s1"], "s2": stored["in.s2"]}).logits
    torch.testing.assert_close(logits, stored["out.logits"], **CLOSE_LATE)
    block = branches["s1"].stages[0].layers_0.blocks[1]
    found["backbone1.layers0.blocks1.attn_mask"] = block.get_attn_mask(torch.zeros(1, 16, 16, 6))
    found["backbone1.layers0.blocks1.relative_position_index"] = (
        block.attn.relative_position_index.int()
    )
    expected = part(stored, "mid.")
    assert len(expected) == 32
    for name, value in expected.items():
        own = found[name]
        own = own.flatten(1, 2) if own.ndim == 4 else own  # the original has rows of tokens
        close = CLOSE_EARLY if name.startswith("backbone") else CLOSE_LATE
        torch.testing.assert_close(own[:, :512], value, **close, msg=name)


@torch.no_grad()
def test_the_comparison_would_see_a_mistake() -> None:
    model, stored = _golden()
    for name in (
        "decoders.s2.stages.0.1.attn.relative_position_bias_table",
        "branches.s1.stages.1.layers_1.downsample.reduction.weight",
        "expand.linear.weight",
    ):
        parameter = model.get_parameter(name)
        parameter.copy_(parameter.flip(0))
        logits = model({"s1": stored["in.s1"], "s2": stored["in.s2"]}).logits
        assert (logits - stored["out.logits"]).abs().max() > 1e-2, name
        parameter.copy_(parameter.flip(0))


@pytest.mark.parity
@torch.no_grad()
def test_pooled_vectors_and_the_classifier_are_the_originals() -> None:
    model, stored = _golden()
    expected, _ = load_golden("sslvit/pretrain")
    for name in ("s1", "s2"):
        branch, decoder = model.branches[name], model.decoders[name]
        _, deep = run_stages(branch, stored[f"in.{name}"])  # type: ignore[arg-type]
        pooled = decoder.get_submodule("norm_in")(deep).mean(dim=(1, 2))
        torch.testing.assert_close(pooled, expected[f"out.{name}_pooled"], **CLOSE)
        if name == "s1":
            head = part(stored, "sd.backbone1.head.")
            found = F.linear(pooled, head["weight"], head["bias"])
            torch.testing.assert_close(found, expected["out.backbone1_head"], **CLOSE)


def test_expansion_by_hand() -> None:
    """One pixel of two values to 2 × 2 of one: values in the order of rows, then columns."""
    expansion = PatchExpansion(2, 1, factor=2)
    torch.nn.init.zeros_(expansion.norm.weight)
    with torch.no_grad():
        expansion.linear.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [2, 0], [0, 2]]))
    x = torch.tensor([[[[1.0, 5.0], [2.0, 7.0]]]])  # 1 × 2 pixels
    expansion.norm = torch.nn.Identity()  # type: ignore[assignment]
    assert expansion(x)[0, :, :, 0].tolist() == [[1, 5, 2, 7], [2, 10, 4, 14]]


def test_mirrored_blocks_start_anew() -> None:
    model = _make(SAR, MS)
    branch: Any = model.branches["s1"]
    decoder: Any = model.decoders["s1"]
    own, mirrored = branch.stages[2].layers_2.blocks, decoder.stages[0]
    assert [b.shift_size for b in own] == [b.shift_size for b in mirrored]
    assert [b.window_size for b in own] == [b.window_size for b in mirrored]
    for a, b in zip(own.parameters(), mirrored.parameters(), strict=True):
        assert a.shape == b.shape
        assert a is not b
    assert not torch.equal(own[0].attn.qkv.weight, mirrored[0].attn.qkv.weight)
    assert mirrored[0].attn.qkv.bias.ne(0).any()  # as torch starts linear layers


def _file(folder: Path) -> tuple[str, dict[str, Tensor]]:
    """Pre-training as published: both encoders, with classifiers that nobody uses."""
    stored, _ = load_golden("sslvit/seg")
    state = {k: v for k, v in part(stored, "sd.").items() if k.startswith("backbone")}
    torch.save({"state_dict": state}, folder / "pretrained.pth")
    return str(folder / "pretrained.pth"), state


def test_files_of_pretraining_are_read(tmp_path: Path) -> None:
    path, state = _file(tmp_path)
    model, _ = _golden()
    loaded = _make(SAR, MS, weights=path)
    for name in ("s1", "s2"):
        for own, expected in zip(
            loaded.branches[name].parameters(), model.branches[name].parameters(), strict=True
        ):
            assert torch.equal(own, expected)
        norm, expected_norm = (m.decoders[name].get_submodule("norm_in") for m in (loaded, model))
        assert torch.equal(norm.weight, expected_norm.weight)  # type: ignore[arg-type]
        assert loaded.branches[name].pretrained.source == path  # type: ignore[union-attr]
    whu = Modality("opt", ("r", "g", "b", "nir"), "optical", (0.66, 0.555, 0.485, 0.83))
    few = _make(SAR, whu, weights={"opt": path})
    found = few.branches["opt"].state_dict()["stem.patch_embed.proj.weight"]
    expected = state["backbone2.patch_embed.proj.weight"][:, [3, 2, 1, 7]] * 13 / 4
    torch.testing.assert_close(found, expected)
    # A file of one encoder, in timm's or the original's names.
    alone = part(state, "backbone2.")
    torch.save(alone, tmp_path / "alone.pth")
    single = _make(MS, weights=str(tmp_path / "alone.pth"))
    key = "stages.2.layers_2.downsample.reduction.weight"
    expected = state["backbone2.layers.1.downsample.reduction.weight"]
    assert torch.equal(single.branches["s2"].state_dict()[key], expected)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path, _ = _file(tmp_path)
    with pytest.raises(WeightsMismatchError, match="of modality 's1' do not fit"):
        _make(SAR, MS, weights=path, backbone_options=SIZES | {"depths": [2, 2, 4, 2]})
    with pytest.raises(ModelError, match="backbone 'resnet18' is not one"):
        _make(SAR, backbone="resnet18", backbone_options={})


@torch.no_grad()
def test_a_missing_modality_adds_nothing() -> None:
    model = _make(SAR, MS)
    images = {"s1": torch.randn(1, 2, 64, 96), "s2": torch.full((1, 13, 64, 96), torch.nan)}
    logits = model(images).logits
    for parameter in (*model.branches["s2"].parameters(), *model.decoders["s2"].parameters()):
        parameter.fill_(0.5)
    assert torch.equal(model(images).logits, logits)


def test_checkpointing_changes_no_gradient() -> None:
    torch.manual_seed(0)
    model = _make(SAR, MS, backbone_options=SIZES | {"drop_path_rate": 0.0}).train()
    images = {"s1": torch.randn(1, 2, 64, 64), "s2": torch.randn(1, 13, 64, 64)}
    found = []
    for wanted in (False, True):
        for branch in model.backbones():
            branch.gradient_checkpointing = wanted
        model.zero_grad()
        model(images).logits.square().mean().backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again)


def test_sizes_are_the_published() -> None:
    model = without_values(lambda: create_segmenter("sslvit", (SAR, MS), 8))
    # The original counts the encoders' classifiers of 1000 classes, if at all, as unused.
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 83.07

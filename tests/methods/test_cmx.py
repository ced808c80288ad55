"""CMX beyond the published tensors: sizes, modalities, weights, messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from golden_files import load_golden, part
from terrafuse.describe import without_values
from terrafuse.describe.costs import forward_flops, saved_activations
from terrafuse.describe.parts import describe_parts
from terrafuse.errors import ModelError, WeightsMismatchError
from terrafuse.methods import create_segmenter
from terrafuse.methods.cmx import (
    CMX,
    ContextExchange,
    FeatureRectification,
    convert_reference_state_dict,
)
from terrafuse.modalities import Modality

RGB = Modality("rgb", ("r", "g", "b"))
X, DSM = Modality("x", ("h", "a", "d"), "other"), Modality("dsm", ("z",), "elevation")
TINY: dict[str, Any] = {
    "backbone_options": {"channels": [8, 16, 20, 32], "depths": [1, 2, 1, 1]},
    "decoder_options": {"channels": 24},
}


def tiny(*modalities: Modality, **options: Any) -> CMX:
    torch.manual_seed(0)
    segmenter = create_segmenter("cmx", modalities or (RGB, X), 7, TINY | options).eval()
    assert isinstance(segmenter, CMX)
    return segmenter


@pytest.mark.parametrize(
    ("backbone", "millions", "digits"),
    [("mit_b2", 66.6, 1), ("mit_b4", 139.9, 1), ("mit_b5", 181.1, 1), ("mit_b0", 12.13, 2)],
)
def test_sizes_are_those_of_the_paper(backbone: str, millions: float, digits: int) -> None:
    segmenter = without_values(
        lambda: create_segmenter("cmx", (RGB, X), 40, {"backbone": backbone})
    )
    # The published decoder has an offset before its norm, which has no effect.
    published = sum(p.numel() for p in segmenter.parameters()) + 512
    assert round(published / 1e6, digits) == millions


@pytest.mark.parametrize(("backbone", "millions"), [("mit_b1", 42.89), ("mit_b3", 104.74)])
def test_sizes_without_decoder(backbone: str, millions: float) -> None:
    segmenter = without_values(
        lambda: create_segmenter("cmx", (RGB, X), 40, {"backbone": backbone})
    )
    parts = [p for n, p in segmenter.named_parameters() if not n.startswith("head.")]
    assert round(sum(p.numel() for p in parts) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("backbone", "millions"),
    [("swin_small_patch4_window7_224", 131.4), ("swin_base_patch4_window12_384", 233.7)],
)
def test_sizes_on_swin(backbone: str, millions: float) -> None:
    segmenter = without_values(
        lambda: create_segmenter("cmx", (RGB, X), 40, {"backbone": backbone})
    )
    parts = [p for n, p in segmenter.named_parameters() if not n.startswith("head.")]
    assert round(sum(p.numel() for p in parts) / 1e6, 1) == millions


def test_further_modalities_are_bands_of_x() -> None:
    three = tiny(RGB, Modality("vv", ("vv",), "sar"), DSM)
    two = tiny(RGB, Modality("both", ("vv", "z"), "other"))
    images = {m: torch.randn(1, b, 50, 70) for m, b in (("rgb", 3), ("vv", 1), ("dsm", 1))}
    stacked = {"rgb": images["rgb"], "both": torch.cat([images["vv"], images["dsm"]], dim=1)}
    with torch.no_grad():
        torch.testing.assert_close(three(images).logits, two(stacked).logits)


def test_both_streams_are_treated_alike() -> None:
    """With weights and inputs exchanged, corrections are exchanged."""
    torch.manual_seed(0)
    module = FeatureRectification(4, channel_weight=0.3, spatial_weight=0.6)
    a, b = torch.randn(2, 4, 5, 6), torch.randn(2, 4, 5, 6)
    to_a, to_b = module(a, b)
    other = FeatureRectification(4, channel_weight=0.3, spatial_weight=0.6)
    state = module.state_dict()
    swap = torch.tensor([*range(4, 8), *range(4)])
    pooled = torch.cat([swap, swap + 8])
    state["channel_mlp.0.weight"] = state["channel_mlp.0.weight"][:, pooled]
    for name in ("channel_mlp.2.weight", "channel_mlp.2.bias"):
        state[name] = state[name][swap]
    state["spatial_mlp.0.weight"] = state["spatial_mlp.0.weight"][:, swap]
    for name in ("spatial_mlp.2.weight", "spatial_mlp.2.bias"):
        state[name] = state[name].flip(0)
    other.load_state_dict(state)
    swapped_b, swapped_a = other(b, a)
    torch.testing.assert_close(swapped_a, to_a)
    torch.testing.assert_close(swapped_b, to_b)


def test_context_of_many_pixels_stays_finite_in_half_precision() -> None:
    exchange = ContextExchange(8, 2)
    tokens = 20 * torch.randn(1, 4096, 8).half().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        matrices = exchange.context(0, tokens)
        found = exchange(tokens, tokens)
    assert matrices.dtype == torch.float32
    torch.testing.assert_close(matrices.sum(dim=2), torch.ones(1, 2, 4))
    assert all(x.isfinite().all() for x in found)


def whole_checkpoint(folder: Path) -> tuple[Path, dict[str, Tensor], dict[str, Tensor]]:
    stored, _ = load_golden("cmx/full_small")
    state = part(stored, "sd.")
    torch.save({"model": dict(state), "epoch": 3}, folder / "epoch-3.pth")
    return folder / "epoch-3.pth", state, stored


def test_a_published_checkpoint_is_all_weights(tmp_path: Path) -> None:
    path, _, stored = whole_checkpoint(tmp_path)
    segmenter = tiny(weights=str(path))
    with torch.no_grad():
        logits = segmenter({"rgb": stored["in.rgb"], "x": stored["in.x"]}).logits
    torch.testing.assert_close(logits, stored["out.logits_head_eps_1e3"], rtol=0, atol=3e-5)
    sources = [b.pretrained for b in segmenter.backbones()]
    assert [s.source for s in sources if s] == [str(path)] * 2


def test_a_checkpoint_for_other_classes_and_bands(tmp_path: Path) -> None:
    path, state, _ = whole_checkpoint(tmp_path)
    options = TINY | {"weights": str(path)}
    segmenter = create_segmenter("cmx", (RGB, DSM), 4, options).eval()
    own = segmenter.state_dict()
    assert own["head.decoder.classifier.weight"].shape[0] == 4
    converted = convert_reference_state_dict(state, bands=(3, 1))
    for name, value in converted.items():
        if "classifier" not in name:
            assert torch.equal(own[name], value), name
    kernel = state["backbone.extra_patch_embed1.proj.weight"].sum(dim=1, keepdim=True)
    first = "encoders.x.stages.0.patch_embeddings.proj.weight"
    torch.testing.assert_close(own[first], kernel)


def test_weights_of_an_encoder_are_used_twice(tmp_path: Path) -> None:
    _, state, _ = whole_checkpoint(tmp_path)
    one = {
        k.removeprefix("backbone."): v
        for k, v in state.items()
        if k.startswith(("backbone.patch", "backbone.block", "backbone.norm"))
    }
    torch.save(one | {"head.weight": torch.zeros(5, 32)}, tmp_path / "mit.pth")
    segmenter = tiny(weights=str(tmp_path / "mit.pth"))
    both = [part(segmenter.state_dict(), f"encoders.{s}.") for s in ("image", "x")]
    assert both[0].keys() == both[1].keys()
    for name, value in both[0].items():
        assert torch.equal(value, both[1][name]), name


def test_a_checkpoint_of_another_size_is_refused(tmp_path: Path) -> None:
    path, _, _ = whole_checkpoint(tmp_path)
    with pytest.raises(WeightsMismatchError, match="for method 'cmx' do not fit"):
        tiny(weights=str(path), decoder_options={"channels": 16})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vit_tiny_patch16_224"}, "'vit_tiny_patch16_224' has none. Choose mit_b0"),
        ({"fusion_heads": [1, 2]}, r"fusion_heads \[1, 2\] and reduction 1 for levels of 8, 16"),
        ({"fusion_heads": [3, 1, 1, 1]}, "3 heads cannot share 8 channels"),
        ({"reduction": 0}, "reduction 0 for levels"),
    ],
)
def test_faults_in_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tiny(**options)


@pytest.mark.parametrize("tuning", [None, "frozen", "adapter", "dora"])
def test_parts_and_cost_are_known_without_values(tuning: str | None) -> None:
    real = tiny(tuning=tuning)
    shapes = without_values(lambda: tiny(tuning=tuning))
    rows = describe_parts(shapes)
    assert rows == describe_parts(real)
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in real.parameters())
    learns = sum(p.numel() for p in real.parameters() if p.requires_grad)
    assert sum(row.trainable for row in rows) == learns
    assert forward_flops(shapes, 64) > forward_flops(shapes, 32) > 0
    assert saved_activations(shapes, 64, 2) > 0


def test_stages_may_be_computed_again() -> None:
    """With less memory the gradients are the same."""
    images = {"rgb": torch.randn(1, 3, 64, 64), "x": torch.randn(1, 3, 64, 64)}
    found = []
    for again in (False, True):
        segmenter = tiny(backbone_options=TINY["backbone_options"] | {"drop_path_rate": 0.0})
        for backbone in segmenter.train().backbones():
            backbone.gradient_checkpointing = again
        segmenter.head.decoder.dropout.p = 0.0  # type: ignore[union-attr, assignment]
        kept: list[int] = []
        with saved_tensors_hooks(lambda x, k=kept: (k.append(x.numel()), x)[1], lambda x: x):
            loss = segmenter(images).logits.square().mean()
        loss.backward()
        found.append((sum(kept), [p.grad for p in segmenter.parameters()]))
    assert found[1][0] < found[0][0]
    torch.testing.assert_close(found[1][1], found[0][1])


def test_it_needs_two_modalities() -> None:
    with pytest.raises(ModelError, match="CMX takes 2 to any number modalities, got 1"):
        tiny(RGB)

"""MiT: sizes, names of published files, equality with `transformers`, tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from terrafuse.backbones import MiT, convert_mit_state_dict, create_backbone, hub_location, is_mit
from terrafuse.errors import (
    ModelError,
    UnknownNameError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from terrafuse.tuning import apply_tuning

TINY: dict[str, Any] = {"channels": [8, 16, 20, 32], "depths": [1, 2, 1, 1]}


def tiny(bands: int = 3, seed: int = 0, **options: Any) -> MiT:
    torch.manual_seed(seed)
    mit = create_backbone("mit_b0", bands, **TINY | options)
    assert isinstance(mit, MiT)
    return mit.eval()


def authors_names(mit: MiT) -> dict[str, Tensor]:
    """State of a MiT as its authors save it, written down independently of our converter."""
    state: dict[str, Tensor] = {"head.weight": torch.zeros(10, 32), "head.bias": torch.zeros(10)}
    for s, stage in enumerate(mit.stages, start=1):
        parts: dict[str, Any] = {
            f"patch_embed{s}.proj": stage.patch_embeddings.proj,
            f"patch_embed{s}.norm": stage.patch_embeddings.layer_norm,
            f"norm{s}": stage.layer_norm,
        }
        for i, block in enumerate(stage.blocks):
            attention, inside = block.attention, f"block{s}.{i}"
            parts |= {
                f"{inside}.norm1": block.layernorm_before,
                f"{inside}.norm2": block.layernorm_after,
                f"{inside}.attn.q": attention.q_proj,
                f"{inside}.attn.proj": attention.o_proj,
                f"{inside}.mlp.fc1": block.mlp.fc1,
                f"{inside}.mlp.fc2": block.mlp.fc2,
                f"{inside}.mlp.dwconv.dwconv": block.mlp.dwconv.dwconv,
            }
            if s < 4:
                parts[f"{inside}.attn.sr"] = attention.sequence_reduction.sequence_reduction
                parts[f"{inside}.attn.norm"] = attention.sequence_reduction.layer_norm
            for kind in ("weight", "bias"):
                both = [getattr(layer, kind) for layer in (attention.k_proj, attention.v_proj)]
                state[f"{inside}.attn.kv.{kind}"] = torch.cat(both).detach()
        for name, layer in parts.items():
            state |= {f"{name}.{k}": v.detach() for k, v in layer.named_parameters()}
    return state


def old_names(name: str) -> str:
    """Name of a value in `transformers` 5 → before 5, as NVIDIA's files have it."""
    first, stage, rest = name.split(".", 2)
    assert first == "stages"
    for new, old in (
        ("layernorm_before", "layer_norm_1"), ("layernorm_after", "layer_norm_2"),
        ("attention.q_proj", "attention.self.query"), ("attention.k_proj", "attention.self.key"),
        ("attention.v_proj", "attention.self.value"),
        ("attention.o_proj", "attention.output.dense"),
        ("attention.sequence_reduction.sequence_reduction", "attention.self.sr"),
        ("attention.sequence_reduction.layer_norm", "attention.self.layer_norm"),
        ("mlp.fc1", "mlp.dense1"), ("mlp.fc2", "mlp.dense2"),
    ):  # fmt: skip
        rest = rest.replace(new, old)
    if rest.startswith("patch_embeddings."):
        rest = f"patch_embeddings.{stage}.{rest.removeprefix('patch_embeddings.')}"
    elif rest.startswith("blocks."):
        rest = f"block.{stage}.{rest.removeprefix('blocks.')}"
    else:
        rest = f"layer_norm.{stage}.{rest.removeprefix('layer_norm.')}"
    return f"segformer.encoder.{rest}"


@pytest.mark.parametrize(
    ("name", "millions"),
    [("mit_b0", 3.32), ("mit_b1", 13.15), ("mit_b2", 24.20), ("mit_b3", 44.07), ("mit_b5", 81.44)],
)
def test_sizes(name: str, millions: float) -> None:
    with torch.device("meta"):
        mit = create_backbone(name, 3)
    assert is_mit(name)
    assert round(sum(p.numel() for p in mit.parameters()) / 1e6, 2) == millions


def test_levels_of_any_bands_and_sizes() -> None:
    mit = tiny(5)
    for height, width in ((32, 32), (64, 160)):
        levels = mit(torch.randn(2, 5, height, width))
        pairs = zip(mit.channels, mit.strides, strict=True)
        expected = [(2, c, height // s, width // s) for c, s in pairs]
        assert [tuple(x.shape) for x in levels] == expected


def test_it_is_the_model_of_transformers() -> None:
    from transformers import SegformerConfig, SegformerModel

    mit = tiny()
    config = SegformerConfig(
        hidden_sizes=TINY["channels"], depths=TINY["depths"], num_attention_heads=[1, 2, 5, 8]
    )
    model = SegformerModel(config).eval()
    model.load_state_dict(mit.state_dict())
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        ours, theirs = mit(image)[-1], model(image).last_hidden_state
        # Their norms have another eps, which shows here and not in the first digits.
        assert 1e-7 < (ours - theirs).abs().max() < 1e-2
        for module in mit.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = 1e-5
        torch.testing.assert_close(mit(image)[-1], theirs)


def test_values_start_as_in_the_original() -> None:
    mit = tiny(channels=[64, 64, 64, 64], num_heads=[1, 1, 1, 1])
    block = mit.stages[1].blocks[0]  # type: ignore[union-attr, index]
    assert 0.017 < block.mlp.fc1.weight.std() < 0.022
    depthwise = block.mlp.dwconv.dwconv.weight
    assert 0.9 < depthwise.std() / (2 / 9) ** 0.5 < 1.1
    assert not block.mlp.fc1.bias.any()
    rates = [m.drop_prob for m in mit.modules() if type(m).__name__ == "SegformerDropPath"]
    torch.testing.assert_close(rates, [0.025, 0.05, 0.075, 0.1])  # the first block has none


@pytest.mark.parametrize("written", ["authors", "old", "new"])
def test_files_by_any_names(written: str, tmp_path: Path) -> None:
    mit = tiny()
    state = {"authors": authors_names(mit), "new": mit.state_dict()}.get(written) or {
        old_names(k): v for k, v in mit.state_dict().items()
    } | {"classifier.weight": torch.zeros(10, 32)}
    torch.save({"state_dict": state}, tmp_path / "mit.pth")
    other = tiny(seed=1, weights=str(tmp_path / "mit.pth"))
    for name, value in mit.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=0, atol=0)
    assert other.pretrained is not None
    assert other.pretrained.licence == "unknown"


def test_the_licence_of_published_files_is_named(tmp_path: Path) -> None:
    torch.save(tiny().state_dict(), tmp_path / "mit_b0.pth")
    mit = tiny(weights=str(tmp_path / "mit_b0.pth"))
    assert mit.pretrained is not None
    assert "non-commercial" in mit.pretrained.licence
    assert hub_location("mit_b3") == "hf://nvidia/mit-b3/pytorch_model.bin"


def test_weights_for_colours_fit_a_single_band(tmp_path: Path) -> None:
    torch.save(tiny().state_dict(), tmp_path / "mit.pth")
    grey = tiny(1, weights=str(tmp_path / "mit.pth"))
    image = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        for ours, thrice in zip(grey(image), tiny()(image.expand(-1, 3, -1, -1)), strict=True):
            torch.testing.assert_close(ours, thrice, rtol=1e-4, atol=1e-5)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    state = convert_mit_state_dict(authors_names(tiny()))
    state["stages.0.blocks.0.attention.bias"] = state.pop("stages.0.layer_norm.weight")
    torch.save(state, tmp_path / "mit.pth")
    with pytest.raises(WeightsMismatchError, match=r"missing: stages\.0\.layer_norm\.weight"):
        tiny(weights=str(tmp_path / "mit.pth"))
    with pytest.raises(WeightsNotFoundError, match="Choose weights 'hub'"):
        tiny(weights="timm")


def test_faults_in_options_are_named() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown backbone 'mit_b7'\. Did you mean 'mit_b"):
        create_backbone("mit_b7", 3)
    with pytest.raises(ModelError, match="heads must divide its channels"):
        tiny(channels=[8, 16, 21, 32])
    with pytest.raises(ModelError, match="'drop_path_rate' of backbone 'mit_b0' is 1"):
        tiny(drop_path_rate=1.0)
    with pytest.raises(UnknownNameError, match="unknown option of backbone 'mit_b0' 'depth'"):
        create_backbone("mit_b0", 3, depth=3)


@pytest.mark.parametrize(
    ("tuning", "changed"),
    [
        (
            {"name": "lora", "rank": 2, "targets": ["q", "v", "proj"]},
            ("q_proj", "v_proj", "o_proj"),
        ),
        ({"name": "adapter", "ratio": 0.5}, ("o_proj", "mlp")),
    ],
)
def test_tuning_finds_the_attention(tuning: dict[str, Any], changed: tuple[str, ...]) -> None:
    mit = tiny()
    apply_tuning(mit, tuning, 1)
    for part in changed:
        assert sum(f"blocks.0.attention.{part}" in n or f"blocks.0.{part}" in n for n in mit.added)
    outputs = mit.train()(torch.randn(1, 3, 32, 32))
    sum(x.square().mean() for x in outputs).backward()
    for name, parameter in mit.named_parameters():
        assert (parameter.grad is not None) == (name in mit.added), name

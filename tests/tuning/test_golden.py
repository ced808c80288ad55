"""MMAdapter and MMLoRA equal the published modules, layer by layer and block by block.

Tolerances are those of the stored tensors: their own error in float32, five times or more.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from golden_files import load_golden, part
from terrafuse.backbones import TokenBackbone, create_backbone
from terrafuse.methods.mfnet import convert_encoder_state_dict
from terrafuse.tuning import apply_tuning
from terrafuse.tuning.adapter import AdaptedMlp, AdaptedProjection, Adapter
from terrafuse.tuning.lora import LoRALinear
from terrafuse.weights import load_strict

pytestmark = pytest.mark.parity


def _adapter(state: dict[str, Tensor]) -> Adapter:
    adapter = Adapter(32, 8)
    renamed = {
        k.replace("D_fc1", "down").replace("D_fc2", "up"): v for k, v in part(state, "sd.").items()
    }
    load_strict(adapter, renamed, where="stored adapter")
    return adapter


@torch.no_grad()
def test_the_adapter_without_residual() -> None:
    stored, _ = load_golden("mfnet/adapter")
    case = part(stored, "noskip.")
    adapter = _adapter(case)
    torch.testing.assert_close(adapter(case["in.x"]), case["out"], rtol=1e-4, atol=1e-5)
    # Beside an MLP that gives nothing, one modality's is the adapter alone.
    nothing = nn.Linear(32, 32)
    nn.init.zeros_(nothing.weight)
    nn.init.zeros_(nothing.bias)
    alone = AdaptedMlp(nothing, nn.ModuleList([adapter]), mix=True)
    torch.testing.assert_close(alone(case["in.x"]), case["out"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_adapter_with_residual_follows_the_projection() -> None:
    stored, _ = load_golden("mfnet/adapter")
    case = part(stored, "skip.")
    projection = AdaptedProjection(nn.Identity(), nn.ModuleList([_adapter(case)]))
    torch.testing.assert_close(projection(case["in.x"]), case["out"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [4, 2])
@pytest.mark.parametrize("kind", ["mlp_linear", "qkv_linear"])
@torch.no_grad()
def test_lora_layers(kind: str, rank: int) -> None:
    """Mixed without scale in the MLP; queries and values apart and scaled by 1 / r."""
    stored, _ = load_golden("mfnet/mmlora_layers")
    case = part(stored, f"{kind}." if rank == 4 else f"{kind}_r2.")
    state = part(case, "sd.")
    is_mlp = kind == "mlp_linear"
    layer = LoRALinear(
        nn.Linear(24, 40 if is_mlp else 72),
        2,
        rank=rank,
        scale=1.0 if is_mlp else 1 / rank,
        rows=((0, 40),) if is_mlp else ((0, 24), (48, 72)),
        mix=is_mlp,
    )
    ours = {
        "base.weight": state["weight"],
        "base.bias": state["bias"],
        "down": torch.stack([state["lora_Ax"], state["lora_Ay"]]),
        "up": torch.stack([state["lora_Bx"], state["lora_By"]]),
    }
    if is_mlp:
        ours["mixing.own"] = torch.cat([state["lora_wx"], state["lora_wy"]])
    load_strict(layer, ours, where="stored layer")
    x, y = layer(torch.cat([case["in.x"], case["in.y"]])).chunk(2)
    torch.testing.assert_close(x, case["out.x"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(y, case["out.y"], rtol=1e-4, atol=1e-5)


def _block(name: str, which: str) -> tuple[TokenBackbone, dict[str, Tensor], dict[str, Any]]:
    """A backbone of one block with stored weights, tuned for two modalities."""
    stored, configs = load_golden(f"mfnet/{name}")
    case, config = part(stored, f"{which}."), configs[which]
    backbone = create_backbone(
        "samvit_base_patch16", 3, neck="none", depth=1, embed_dim=config["dim"],
        num_heads=config["heads"], window_size=config["window"],
        global_attn_indexes=() if config["window"] else (0,),
    )  # fmt: skip
    assert isinstance(backbone, TokenBackbone)
    tuning: Any = {"name": "lora", "rank": config["rank"]} if "lora" in name else "adapter"
    apply_tuning(backbone, tuning, 2)
    state = {f"blocks.0.{k}": v for k, v in part(case, "sd.").items()}
    converted = part(convert_encoder_state_dict(state), "blocks.0.")
    load_strict(backbone.blocks[0], converted, where="stored block")
    return backbone.eval(), case, config


def _watch(module: nn.Module) -> list[Tensor]:
    seen: list[Tensor] = []
    module.register_forward_hook(lambda _, inputs, output: seen.append(output))
    return seen


def _from_windows(windows: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Windows (N · down · across, side, side, D), filled up → real tokens (N, L, D)."""
    height, width = grid
    down, across = -(-height // side), -(-width // side)
    x = windows.view(-1, down, across, side, side, windows.shape[-1])
    x = x.transpose(2, 3).reshape(len(x), down * side, across * side, -1)
    return x[:, :height, :width].flatten(1, 2)


@pytest.mark.parametrize("which", ["win", "glob"])
@pytest.mark.parametrize("name", ["mmadapter_block", "mmlora_block"])
@torch.no_grad()
def test_blocks_and_their_parts(name: str, which: str) -> None:
    backbone, case, config = _block(name, which)
    block: Any = backbone.blocks[0]
    if name == "mmadapter_block":
        attended = _watch(block.attn.proj.base)
        inner = [_watch(adapter) for adapter in block.mlp.adapters]
    else:
        attended, inner = _watch(block.attn.proj), [_watch(block.mlp)]
    grid = tuple(config["hw"])
    tokens = torch.cat([case["in.x"], case["in.y"]]).flatten(1, 2)  # (2 · N, L, D)
    output = backbone.run_block(0, tokens, grid).chunk(2)
    attention = attended[0].chunk(2)
    in_mlp = [seen[0] for seen in inner] if len(inner) == 2 else inner[0][0].chunk(2)
    key = "mlp_adapter" if name == "mmadapter_block" else "mlp"
    for i, letter in enumerate("xy"):
        expected = case[f"mid.attn_{letter}"]
        if config["window"]:
            # The original fills maps up to whole windows, and keeps what that gives.
            expected = _from_windows(expected, grid, config["window"])
        else:
            expected = expected.flatten(1, 2)
        torch.testing.assert_close(attention[i], expected, rtol=1e-4, atol=5e-5)
        expected = case[f"mid.{key}_{letter}"].flatten(1, 2)
        torch.testing.assert_close(in_mlp[i], expected, rtol=1e-4, atol=5e-5)
        expected = case[f"out.out_{letter}"].flatten(1, 2)
        torch.testing.assert_close(output[i], expected, rtol=1e-4, atol=5e-5)

"""MMAdapter and MMLoRA equal the published modules, layer by layer.

Blocks are compared where the whole network is (tests/methods/test_mfnet_reference.py).

Tolerances are those of the stored tensors: their own error in float32, five times or more.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from golden_files import load_golden, part
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
    torch.testing.assert_close(adapter(case["in.x"]), case["out"], rtol=3e-5, atol=3e-6)
    # Beside an MLP that gives nothing, one modality's is the adapter alone.
    nothing = nn.Linear(32, 32)
    nn.init.zeros_(nothing.weight)
    nn.init.zeros_(nothing.bias)
    alone = AdaptedMlp(nothing, nn.ModuleList([adapter]), mix=True)
    torch.testing.assert_close(alone(case["in.x"]), case["out"], rtol=3e-5, atol=3e-6)


@torch.no_grad()
def test_the_adapter_with_residual_follows_the_projection() -> None:
    stored, _ = load_golden("mfnet/adapter")
    case = part(stored, "skip.")
    projection = AdaptedProjection(nn.Identity(), nn.ModuleList([_adapter(case)]))
    torch.testing.assert_close(projection(case["in.x"]), case["out"], rtol=3e-5, atol=3e-6)


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
    torch.testing.assert_close(x, case["out.x"], rtol=3e-5, atol=3e-6)
    torch.testing.assert_close(y, case["out.y"], rtol=3e-5, atol=3e-6)

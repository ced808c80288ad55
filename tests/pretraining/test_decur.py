"""DeCUR's objective equals the published one; its formula by hand and for more sensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from golden_files import load_golden, part
from terrafuse.backbones import create_backbone
from terrafuse.errors import ModelError
from terrafuse.methods.decur import convert_encoder_state_dict
from terrafuse.pretraining import DeCURPretraining
from terrafuse.weights import load_strict

SMALL: dict[str, Any] = {"channels": [4, 8, 16, 32], "layers": [2, 1, 1, 1]}
SENSORS = ("sar", "ms")


def _make(*, widths: tuple[int, ...] = (2, 13), **options: Any) -> DeCURPretraining:
    torch.manual_seed(0)
    names = [*SENSORS, "dsm"][: len(widths)]
    backbones = {n: create_backbone("resnet50", bands, **SMALL)
                 for n, bands in zip(names, widths, strict=True)}  # fmt: skip
    return DeCURPretraining(backbones, **{"hidden": 24, "dim": 16, "common": 14} | options)


@pytest.mark.parity
@pytest.mark.parametrize("shared", [True, False])
def test_losses_and_gradients_are_the_originals(shared: bool) -> None:
    """The original's two projectors are one; in training both wirings compute the same."""
    stored, config = load_golden("decur/pretrain")
    objective = _make(common=config["dim_common"], off_weight=config["lambd"],
                      shared_projector=shared).train()  # fmt: skip
    state = part(stored, "sd.")
    for number, name in enumerate(SENSORS, start=1):
        load_strict(
            objective.backbones[name], convert_encoder_state_dict(state, number), where=name
        )
        projector = part(state, f"projector{number}.")
        load_strict(objective.projectors[name], projector, where=name)
    embeddings = {}
    for number, name in enumerate(SENSORS, start=1):
        views = [stored[f"in.y{number}_{view}_uint8"].float() / 255 for view in (1, 2)]
        embeddings[name] = [objective.embed(name, view) for view in views]
        for view, found in enumerate(embeddings[name], start=1):
            expected = stored[f"mid.z{number}_{view}"]
            torch.testing.assert_close(found, expected, rtol=3e-5, atol=3e-6)
            found.retain_grad()
    losses = objective.losses(embeddings)
    for name, key in (("sar", "loss1"), ("ms", "loss2"), ("sar+ms", "loss12")):
        found = 3 * losses[name][None]
        torch.testing.assert_close(found, stored[f"out.{key}"], rtol=3e-5, atol=3e-6)
    total = sum(losses.values(), torch.zeros(()))
    torch.testing.assert_close(total[None], stored["out.loss"], rtol=3e-5, atol=3e-6)
    total.backward()
    for number, name in enumerate(SENSORS, start=1):
        for view, found in enumerate(embeddings[name], start=1):
            assert found.grad is not None
            expected = stored[f"grad.z{number}_{view}"]
            torch.testing.assert_close(found.grad, expected, rtol=3e-5, atol=3e-6)
    first = objective.get_parameter("backbones.sar.stem.conv1.weight").grad
    assert first is not None
    expected = stored["grad.backbone_1.conv1.weight"]
    # Values up to 21; in float64 they differ by 4e-4 from the stored ones.
    torch.testing.assert_close(first, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parity
def test_single_terms_are_the_originals() -> None:
    stored, config = load_golden("decur/pretrain")
    objective = _make(common=config["dim_common"]).train()
    z1, z2 = stored["mid.z1_1"], stored["mid.z2_1"]
    common = config["dim_common"]
    matrix = objective.correlate(z1, z2)
    for key, block, target in (
        ("c", matrix[:common, :common], 1),
        ("u", matrix[common:, common:], 0),
    ):
        on = (block.diagonal() - target).square().sum()
        off = (block - block.diagonal().diag()).square().sum()
        for name, found in (("on", on), ("off", off), ("loss", on + config["lambd"] * off)):
            expected = stored[f"out.cross_{name}_{key}"]
            torch.testing.assert_close(found[None], expected, rtol=3e-5, atol=3e-6)
    torch.testing.assert_close(stored["out.on_diag12_c"], stored["out.cross_on_c"])
    own = objective.correlate(z1, stored["mid.z1_2"])
    on = (own.diagonal() - 1).square().sum()
    torch.testing.assert_close(on[None], stored["out.single1_on"], rtol=3e-5, atol=3e-6)
    off = (own - own.diagonal().diag()).square().sum()
    torch.testing.assert_close(off[None], stored["out.single1_off"], rtol=3e-5, atol=3e-6)


def _columns(*columns: tuple[float, ...]) -> list[Tensor]:
    return [torch.tensor(columns).T.contiguous()] * 2


def test_the_loss_by_hand() -> None:
    """Four samples, two dimensions: equal views correlate 1, orthogonal columns 0."""
    a, b = (1.0, 1.0, -1.0, -1.0), (1.0, -1.0, 1.0, -1.0)
    objective = _make(hidden=4, dim=2, common=1, off_weight=0.5).train()
    losses = objective.losses({"sar": _columns(a, b), "ms": _columns(a, b)})
    # Each sensor with itself: diagonal 1, beside it 0. Across: common 1 → 0, unique 1 → 1, halved.
    found = {name: round(float(loss), 3) for name, loss in losses.items()}
    assert found == {"sar": 0.0, "ms": 0.0, "sar+ms": round(0.5 / 3, 3)}
    losses = objective.losses({"sar": _columns(a, b), "ms": _columns(a, a)})
    # Optical dimensions are one: 2 × 0.5 beside the diagonal. Across: common 1, unique 0.
    found = {name: round(float(loss), 3) for name, loss in losses.items()}
    assert found == {"sar": 0.0, "ms": round(1 / 3, 3), "sar+ms": 0.0}


def test_more_sensors_meet_in_pairs() -> None:
    objective = _make(widths=(2, 13, 1)).train()
    views = {name: (torch.rand(4, bands, 32, 48), torch.rand(4, bands, 32, 48))
             for name, bands in (("sar", 2), ("ms", 13), ("dsm", 1))}  # fmt: skip
    losses = objective(views)
    assert list(losses) == ["sar", "ms", "dsm", "sar+ms", "sar+dsm", "ms+dsm"]
    sum(losses.values(), torch.zeros(())).backward()
    for name, parameter in objective.named_parameters():
        # The last level only is embedded; nothing of a ResNet lies beside it.
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ModelError, match="'common' is 20; allowed are 1 to 16"):
        _make(common=20)
    backbones = {"a": create_backbone("resnet18", 1), "b": create_backbone("resnet50", 1)}
    with pytest.raises(ModelError, match="set shared_projector to false"):
        DeCURPretraining(backbones, hidden=8, dim=8, common=4)
    objective = DeCURPretraining(backbones, hidden=8, dim=8, common=4, shared_projector=False)
    assert [objective.projectors[n][0].in_features for n in "ab"] == [512, 2048]  # type: ignore[index]

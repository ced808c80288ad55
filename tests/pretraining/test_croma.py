"""CROMA's pre-training equals the published one; what it hides and what it asks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from golden_files import load_golden, part
from terrafuse.backbones import CROMA
from terrafuse.errors import ModelError
from terrafuse.modalities import Modality
from terrafuse.pretraining import CROMAPretraining, Masking
from terrafuse.pretraining.croma import convert_reference_state_dict, reconstruction_loss
from terrafuse.weights import load_strict

SAR = Modality("sar", ("VV", "VH"), "sar")
OPTICAL = Modality("s2", tuple(f"b{i}" for i in range(12)), "optical")
CLOSE: dict[str, float] = {"rtol": 5e-5, "atol": 5e-6}


def _make(published: bool = False, **sizes: int) -> CROMAPretraining:
    torch.manual_seed(0)
    options = {"embed_dim": 16, "depth": 2, "num_heads": 4} | sizes
    backbone = CROMA("croma_base", [SAR], [OPTICAL], neck="none", scaling="none", **options)
    return CROMAPretraining(backbone, decoder_dim=16, published_joint_bias=published)


def _golden() -> tuple[CROMAPretraining, dict[str, Tensor], dict[str, Any]]:
    stored, _ = load_golden("croma/pretrain")
    objective = _make(published=True)
    load_strict(objective, convert_reference_state_dict(part(stored, "sd.")), where="stored")
    images = stored["in.imgs_uint8"].float() / 255
    inputs = {
        "sar": images[:, 12:],
        "optical": images[:, :12],
        "sar_mask": Masking.of(stored["in.radar_ids_keep"].long(), 225),
        "optical_mask": Masking.of(stored["in.optical_ids_keep"].long(), 225),
    }
    return objective, stored, inputs


def _joint(objective: CROMAPretraining, inputs: dict[str, Any]) -> Tensor:
    """Joint encodings of a pass."""
    found: list[Tensor] = []
    hook = objective.backbone.joint.register_forward_hook(lambda *args: found.append(args[-1]))
    with torch.no_grad():
        objective(**inputs)
    hook.remove()
    return found[0]


@pytest.mark.parity
def test_losses_and_gradients_are_the_originals() -> None:
    objective, stored, inputs = _golden()
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: found.__setitem__(name, output)

    for name, module in (
        ("radar_encodings", objective.backbone.sar),
        ("optical_encodings", objective.backbone.optical),
        ("joint_encodings", objective.backbone.joint),
        ("radar_GAP", objective.pool_sar),
        ("optical_GAP", objective.pool_optical),
        ("decoder_out", objective.decoder.norm),
    ):
        module.register_forward_hook(keep(name))
    losses = objective(**inputs)
    for name, value in part(stored, "mid.").items():
        torch.testing.assert_close(found[name], value, **CLOSE, msg=name)
    contrast, pixels = losses["contrast"], losses["reconstruction"]
    torch.testing.assert_close(contrast[None], stored["out.contrastive_loss"], **CLOSE)
    torch.testing.assert_close(pixels[None], stored["out.mae_loss"], **CLOSE)
    (contrast + pixels).backward()
    gradients: dict[str, Any] = {
        "cross_encoder.layers.0.1.create_q.weight": "backbone.joint.blocks.0.cross.q.weight",
        "logit_scale": "contrast.logit_scale",
        "optical_encoder.linear_input.weight_row0": "backbone.optical.patch_embed.weight",
        "radar_encoder.linear_input.weight_row0": "backbone.sar.patch_embed.weight",
    }
    expected = part(stored, "grad.")
    assert expected.keys() == gradients.keys()
    for name, value in expected.items():
        gradient = objective.get_parameter(gradients[name]).grad
        assert gradient is not None
        own = gradient[0] if name.endswith("_row0") else gradient
        torch.testing.assert_close(own, value, rtol=1e-5, atol=1e-5, msg=name)


def test_without_masks_the_joint_transformer_is_that_of_inference() -> None:
    """Nothing hidden: the published bias is ours, and encodings are the backbone's."""
    for published in (True, False):
        objective = _make(published).eval()
        objective.mask_ratio = 0.0
        sar, optical = torch.rand(2, 2, 16, 24), torch.rand(2, 12, 16, 24)
        places = Masking.of(torch.arange(6).expand(2, -1), 6)
        masks = {"sar_mask": places, "optical_mask": places}
        found = _joint(objective, {"sar": sar, "optical": optical} | masks)
        torch.testing.assert_close(found, objective.backbone.encode(sar, optical).joint)


@pytest.mark.parity
def test_masks_are_the_originals() -> None:
    _, stored, inputs = _golden()
    assert torch.equal(inputs["sar_mask"].hidden.float(), stored["in.radar_mask"])
    assert torch.equal(inputs["optical_mask"].hidden.float(), stored["in.optical_mask"])


@pytest.mark.parametrize(("ratio", "kept"), [(0.0, 24), (0.75, 6), (0.9, 2), (0.99, 1)])
def test_a_share_of_the_tokens_is_hidden(ratio: float, kept: int) -> None:
    mask = Masking.draw(3, 24, ratio, torch.device("cpu"))
    assert mask.keep.shape == (3, kept)
    assert (~mask.hidden).sum(dim=1).tolist() == [kept] * 3
    for keep, hidden in zip(mask.keep, mask.hidden, strict=True):
        assert sorted(keep.tolist()) == (~hidden).nonzero().squeeze(1).tolist()


def test_hidden_pixels_are_unseen_and_shown_ones_are_not_asked() -> None:
    """A hidden patch of radar changes no encoding, and only its own target."""
    objective, stored, inputs = _golden()
    hidden = int(inputs["sar_mask"].hidden[0].nonzero()[0])
    kept = int(inputs["sar_mask"].keep[0, 0])

    def encode(patch: int) -> Tensor:
        images = dict(inputs)
        sar = images["sar"].clone()
        row, col = divmod(patch, 15)
        sar[0, :, 8 * row : 8 * row + 8, 8 * col : 8 * col + 8] += 0.3
        images["sar"] = sar
        return _joint(objective, images)

    torch.testing.assert_close(encode(hidden), stored["mid.joint_encodings"], **CLOSE)
    assert (encode(kept) - stored["mid.joint_encodings"]).abs().max() > 1e-2


def test_the_loss_of_pixels_by_hand() -> None:
    """One band each, two pixels per patch: standardised targets are ±√(3)/2 and so on."""
    target = torch.tensor([[[1.0, 1.0, 3.0, 3.0], [0.0, 2.0, 4.0, 6.0]]])  # 2 optical, 2 radar
    pixels = torch.zeros(1, 2, 4)
    # Patch 0: mean 2, unbiased variance 4 / 3: (±1)² / (4 / 3) = 0.75 everywhere.
    first, none = torch.tensor([[True, False]]), torch.tensor([[False, False]])
    second = torch.tensor([[False, True]])
    assert reconstruction_loss(pixels, target, 2, first, none).item() == pytest.approx(0.75)
    assert reconstruction_loss(pixels, target, 2, first, first).item() == pytest.approx(1.5)
    # Patch 1: mean 3, variance 20 / 3; optical (9 + 1) / 2, radar the same.
    expected = 0.75 + 5 / (20 / 3)
    assert reconstruction_loss(pixels, target, 2, first, second).item() == pytest.approx(expected)
    assert reconstruction_loss(pixels, target, 2, none, none).item() == 0


def test_any_size_trains_and_every_value_learns() -> None:
    objective = _make().train()
    losses = objective(torch.rand(3, 2, 24, 40), torch.rand(3, 12, 24, 40))
    assert set(losses) == {"contrast", "reconstruction"}
    sum(losses.values(), torch.zeros(())).backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_share_of_all_is_refused() -> None:
    with pytest.raises(ModelError, match="'mask_ratio' is 1; it must be at least 0 and below 1"):
        CROMAPretraining(_make().backbone, mask_ratio=1.0)

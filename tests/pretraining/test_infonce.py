"""The contrast between sensors equals the published one; three sensors, by hand and in training."""

from __future__ import annotations

from math import exp, log

import pytest
import torch
from torch import Tensor

from golden_files import load_golden
from terrafuse.backbones import create_backbone
from terrafuse.errors import ModelError
from terrafuse.pretraining import SSLViTPretraining, contrast, contrast_logits


@pytest.mark.parity
def test_logits_loss_and_gradient_are_the_originals() -> None:
    stored, config = load_golden("sslvit/pretrain")
    features = stored["in.nce_features"].clone().requires_grad_()
    vectors = features.chunk(config["n_views"])
    logits = contrast_logits(vectors, config["temperature"])
    torch.testing.assert_close(logits, stored["out.nce_logits"], rtol=1e-5, atol=1e-5)
    loss = contrast(vectors, config["temperature"])
    torch.testing.assert_close(loss[None], stored["out.nce_loss"], rtol=1e-5, atol=1e-5)
    loss.backward()
    torch.testing.assert_close(features.grad, stored["grad.nce_features"], rtol=1e-5, atol=1e-5)


def test_the_loss_by_hand() -> None:
    """Two places at right angles: of three cosines 1, 0, 0 the first is meant."""
    a = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    expected = -log(exp(1 / 0.5) / (exp(1 / 0.5) + 2))
    assert contrast([a, a], 0.5).item() == pytest.approx(expected)
    assert contrast([a, a.flip(0)], 0.5).item() > expected


def test_three_sensors_are_compared_with_each_other_and_other_places() -> None:
    torch.manual_seed(0)
    vectors = [torch.randn(4, 5) for _ in range(3)]
    logits = contrast_logits(vectors, 0.2)
    assert logits.shape == (3 * 2 * 4, 1 + 3 * 3)
    x = [v / v.norm(dim=1, keepdim=True) for v in vectors]
    rows = []
    for step in (1, 2):
        for m in range(3):
            for i in range(4):
                other = x[(m + step) % 3]
                negatives = [x[n][j] @ x[m][i] for n in range(3) for j in range(4) if j != i]
                rows.append(torch.stack([other[i] @ x[m][i], *negatives]) / 0.2)
    torch.testing.assert_close(logits, torch.stack(rows))


def test_every_value_learns() -> None:
    backbones = {name: create_backbone("resnet18", bands) for name, bands in (("a", 1), ("b", 3))}
    objective = SSLViTPretraining(backbones).train()
    images: dict[str, Tensor] = {"a": torch.rand(3, 1, 64, 64), "b": torch.rand(3, 3, 64, 64)}
    objective(images)["contrast"].backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_what_cannot_be_compared_is_refused() -> None:
    small, large = create_backbone("resnet18", 1), create_backbone("resnet50", 1)
    for backbones, temperature in (({"a": small}, 0.2), ({"a": small, "b": large}, 0.2)):
        with pytest.raises(ModelError, match="two or more sensors whose backbones end"):
            SSLViTPretraining(backbones, temperature=temperature)
    with pytest.raises(ModelError, match=r"a temperature above 0; got .* and 0"):
        SSLViTPretraining({"a": small, "b": small}, temperature=0.0)

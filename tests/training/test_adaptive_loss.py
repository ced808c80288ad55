"""Adaptive class weighting: equal to the original over several batches, gradients included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from golden_files import load_golden
from terrafuse.training.losses import AdaptiveClassWeighting


@pytest.mark.parity
@pytest.mark.parametrize(("form", "suffix"), [("released", ""), ("published", "_published")])
def test_three_batches_are_the_originals(form: Any, suffix: str) -> None:
    """The third depends on the class frequencies of the first two."""
    stored, config = load_golden("pagnet/acw_loss")
    loss = AdaptiveClassWeighting(torch.zeros(config["num_classes"]), form=form)
    for i in range(config["calls"]):
        logits = stored[f"in.logits{i}"].requires_grad_()
        logits.grad = None
        value = loss(logits, stored[f"in.target{i}"])
        value.backward()
        torch.testing.assert_close(
            value[None], stored[f"out.loss{suffix}{i}"], rtol=1e-6, atol=1e-6
        )
        expected = stored[f"grad.logits{suffix}{i}"]
        assert logits.grad is not None
        torch.testing.assert_close(logits.grad, expected, rtol=1e-5, atol=1e-8)
        frequencies = stored[f"mid.running_freq{i}"]
        torch.testing.assert_close(loss.frequencies, frequencies, rtol=1e-5, atol=1e-7)


def _batch(pixels: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(pixels)]).view(1, 1, -1)
    return torch.zeros(1, len(pixels), *labels.shape[1:]), labels


def test_weights_by_hand() -> None:
    """Frequencies 3/4, 1/4, then 1/2, 1/2: the means are 5/8, 3/8, the weights 3/8, 5/8."""
    loss = AdaptiveClassWeighting(torch.tensor([1, 1]))
    for pixels in ((3, 1), (2, 2)):
        loss(*_batch(pixels))
    assert loss.frequencies.tolist() == pytest.approx([5 / 8, 3 / 8])
    # Logits 0: p = 1/2, so that both classes of a pixel have e = 1/4, a = (3/2 or 5/2) m.
    logits, labels = _batch((2, 2))
    loss.eval()
    m = torch.tensor([3 / 8, 5 / 8])
    term = 1 / 4 - torch.tensor(3 / 4 / (5 / 4)).log()
    negative_classes = (5 / 2 * m.mean() + 3 / 2 * m.mean()) * term
    expected = negative_classes * torch.tensor(2.0).log() - torch.tensor(1 / 2).log()
    torch.testing.assert_close(loss(logits, labels), expected, rtol=1e-4, atol=1e-4)


def test_validation_does_not_move_frequencies() -> None:
    loss = AdaptiveClassWeighting(torch.tensor([1, 1]))
    loss(*_batch((3, 1)))
    loss.eval()
    loss(*_batch((0, 4)))
    assert loss.frequencies.tolist() == pytest.approx([3 / 4, 1 / 4])
    assert loss.batches == 1


def test_frequencies_are_part_of_the_state() -> None:
    loss, other = (AdaptiveClassWeighting(torch.tensor([1, 1])) for _ in range(2))
    loss(*_batch((3, 1)))
    other.load_state_dict(loss.state_dict())
    assert torch.equal(loss(*_batch((1, 1))), other(*_batch((1, 1))))

"""Steps of several batches: each counts by its labelled pixels, as in one large batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from terrafuse.classes import ClassScheme
from terrafuse.config import LossConfig
from terrafuse.samples import Batch, Window
from terrafuse.segmenter import SegmenterOutput
from terrafuse.training.losses import WeightedSum, create_loss
from terrafuse.training.task import StepBatches

COUNTS = torch.tensor([600, 300, 100])
SCHEME = ClassScheme(("a", "b", "c"))
#: Losses that are a mean over pixels, so that a step has exactly the gradient of one batch.
OVER_PIXELS = [
    LossConfig(name="cross_entropy"),
    LossConfig(name="cross_entropy", class_weights=[1.0, 5.0, 0.25], label_smoothing=0.1),
    LossConfig(name="cross_entropy", class_weights="balanced"),
    LossConfig(name="focal"),
    LossConfig(name="focal", alpha="balanced", gamma=1.0),
]


def batch_of(labels: Tensor) -> Batch:
    window = Window(0, 0, *labels.shape[1:])
    return Batch({}, {}, labels, (window,) * len(labels), ("s",) * len(labels))


def uneven(seed: int, batches: int = 3) -> tuple[list[Tensor], list[Tensor]]:
    """Scores (2, 3, 5, 7) and labels (2, 5, 7), of which other shares are void; one is all void."""
    generator = torch.Generator().manual_seed(seed)
    logits, labels = [], []
    for void in [0.05, 0.9, 1.0, 0.5][:batches]:
        logits.append(2 * torch.randn(2, 3, 5, 7, generator=generator))
        truth = torch.randint(0, 3, (2, 5, 7), generator=generator)
        truth[torch.rand(2, 5, 7, generator=generator) < void] = 255
        labels.append(truth)
    return logits, labels


def step_gradient(
    loss: WeightedSum, logits: list[Tensor], labels: list[Tensor], **options: int
) -> tuple[float, Tensor]:
    """Loss and gradient of a step in batches, as Lightning adds them: divided by their number."""
    total, gradients = 0.0, []
    steps = StepBatches(map(batch_of, labels), len(labels), loss.denominators, **options)
    for scores, batch in zip(logits, steps, strict=True):
        scores = scores.clone().requires_grad_()
        aux = (0.5 * scores,)
        terms = loss(SegmenterOutput(scores, aux), batch.labels, 0.4, batch.factors)
        (terms["total"] / len(labels)).backward()
        total += terms["total"].item() / len(labels)
        assert scores.grad is not None
        gradients.append(scores.grad)
    return total, torch.cat(gradients)


@pytest.mark.parametrize("config", OVER_PIXELS, ids=lambda config: str(config.options))
@pytest.mark.parametrize("seed", range(3))
def test_a_step_has_the_gradient_of_one_large_batch(config: LossConfig, seed: int) -> None:
    loss = create_loss([config], SCHEME, COUNTS)
    logits, labels = uneven(seed, batches=3 + seed % 2)
    whole = torch.cat(logits).requires_grad_()
    terms = loss(SegmenterOutput(whole, (0.5 * whole,)), torch.cat(labels), 0.4)
    terms["total"].backward()
    total, gradient = step_gradient(loss, logits, labels)
    assert total == pytest.approx(terms["total"].item(), rel=1e-5)
    torch.testing.assert_close(gradient, whole.grad, rtol=1e-5, atol=1e-8)


def test_terms_with_different_denominators_each_keep_their_own() -> None:
    loss = create_loss(OVER_PIXELS[1:4:2], SCHEME, COUNTS)
    logits, labels = uneven(7)
    whole = torch.cat(logits).requires_grad_()
    loss(SegmenterOutput(whole, (0.5 * whole,)), torch.cat(labels), 0.4)["total"].backward()
    torch.testing.assert_close(step_gradient(loss, logits, labels)[1], whole.grad)


def test_gradient_by_hand() -> None:
    """Two classes, scores 0: each labelled pixel pulls its own class by 1/2 of its weight.

    Batch 1 has one labelled pixel, batch 2 three: each counts 1/4, where a mean of means would give
    1/2 and 1/6.
    """
    loss = create_loss([LossConfig(name="cross_entropy")], ClassScheme(("a", "b")), COUNTS[:2])
    labels = [torch.tensor([[[0, 255, 255]]]), torch.tensor([[[1, 1, 0]]])]
    zeros = [torch.zeros(1, 2, 1, 3) for _ in labels]
    _, gradient = step_gradient(loss, zeros, labels)
    of_heads = 1 + 0.4 * 0.5
    first = torch.tensor([[-1.0, 0, 0], [1, 0, 0]]) / 8 * of_heads
    second = torch.tensor([[1.0, 1, -1], [-1, -1, 1]]) / 8 * of_heads
    torch.testing.assert_close(gradient[:, :, 0], torch.stack([first, second]))


def test_a_step_without_labels_is_0() -> None:
    loss = create_loss(OVER_PIXELS[:1], SCHEME, COUNTS)
    total, gradient = step_gradient(
        loss, [torch.ones(1, 3, 2, 2)] * 2, [torch.full((1, 2, 2), 255)] * 2
    )
    assert total == 0
    assert not gradient.any()


def test_factors_of_processes_average_to_those_of_one() -> None:
    """Two processes with two batches each: the sums of both make the denominator."""
    loss = create_loss(OVER_PIXELS[1:2], SCHEME, COUNTS)
    _, labels = uneven(2, batches=4)
    alone = [b.factors for b in StepBatches(map(batch_of, labels), 4, loss.denominators)]
    total = sum(loss.denominators(truth) for truth in labels)
    shared = [
        batch.factors
        for part in (labels[:2], labels[2:])
        for batch in StepBatches(
            map(batch_of, part), 2, loss.denominators, lambda _: total, processes=2
        )
    ]
    torch.testing.assert_close(shared, alone)
    assert sum(shared).item() == pytest.approx(4)


class Mean(nn.Module):
    """A loss of a plug-in without a word on its denominator."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        known = (labels != 255).unsqueeze(1)
        return (logits * known).sum() / known.sum().clamp(min=1)


def test_other_losses_count_by_labelled_pixels() -> None:
    loss = WeightedSum({"mean": Mean(), "dice": Mean()}, [1.0, 1.0])
    labels = torch.tensor([[[0, 255, 2]]])
    assert loss.denominators(labels).tolist() == [2, 2]
    assert create_loss([LossConfig(name="acw")], SCHEME, COUNTS).denominators(labels) == 3

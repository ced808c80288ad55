"""Small models learn, by the project's own optimiser, schedule and loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from influence import Images
from terrafuse.classes import ClassScheme
from terrafuse.config import TrainingConfig
from terrafuse.config.options import option_names
from terrafuse.methods import METHODS
from terrafuse.modalities import Modality
from terrafuse.segmenter import Segmenter
from terrafuse.training.losses import create_loss
from terrafuse.training.optim import create_optimizer, create_schedule, parameter_groups

#: Images in physical units and labels (N, H, W).
Labelled = tuple[Images, Tensor]
#: Side of an area of one sign, in pixels: two of the largest patches.
BLOCK = 32
_OF_CHOICE = {"frozen", "bitfit", "norms", "full"}


def with_all_learning(method: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return options with which every parameter of a backbone is trained."""
    if "tuning" not in option_names(METHODS[method]):
        return options
    added = [name for name in (options.get("tuning") or "").split("+") if name]
    return options | {"tuning": "+".join([*(n for n in added if n not in _OF_CHOICE), "full"])}


def signs_of(
    modalities: Sequence[Modality],
    target: tuple[str, int],
    generator: torch.Generator,
    *,
    batch: int = 8,
    size: int = 2 * BLOCK,
) -> Labelled:
    """Images whose labels are the signs of one band; all bands are alike, and independent.

    Args:
        modalities: Of the images, at the pixels of the scene.
        target: Modality, and band in it.
        generator: Of the signs and the noise.
        batch: Samples.
        size: Height and width.
    """
    images, labels = {}, torch.empty(0)
    for m in modalities:
        shape = (batch, len(m.bands), size // BLOCK, size // BLOCK)
        signs = torch.randint(0, 2, shape, generator=generator) * 2.0 - 1
        wide = signs.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)
        # Mean 3 and deviation 2, nearly: those of `statistics_of`.
        images[m.name] = 3 + 2 * (wide + 0.3 * torch.randn(wide.shape, generator=generator))
        if m.name == target[0]:
            labels = (wide[:, target[1]] > 0).long()
    return images, labels


def accuracy(segmenter: Segmenter, labelled: Labelled) -> float:
    """Share of pixels that are right, in evaluation mode."""
    images, labels = labelled
    segmenter.eval()
    with torch.no_grad():
        share = (segmenter(images).logits.argmax(dim=1) == labels).float().mean()
    segmenter.train()
    return float(share)


def train_until(
    segmenter: Segmenter,
    config: TrainingConfig,
    draw: Callable[[], Labelled],
    score: Callable[[], float],
    enough: float,
    *,
    every: int = 5,
) -> tuple[int | None, list[float]]:
    """Learn until a score is above `enough`, or all steps are done.

    Args:
        segmenter: What learns.
        config: Optimiser, schedule, loss, steps.
        draw: Makes the batch of a step.
        score: Judges.
        enough: The score that is wanted.
        every: Steps between scores.

    Returns:
        The step after which it was reached, or None; and all scores.
    """
    counts = torch.ones(segmenter.num_classes, dtype=torch.long)
    scheme = ClassScheme(tuple(f"class {k}" for k in range(segmenter.num_classes)))
    loss = create_loss(config.losses, scheme, counts)
    groups = parameter_groups(segmenter, config)
    optimizer = create_optimizer(dict(segmenter.named_parameters()), groups, config)
    schedule = create_schedule(optimizer, config)
    scores: list[float] = []
    segmenter.train()
    for step in range(1, config.steps + 1):
        images, labels = draw()
        optimizer.zero_grad()
        loss(segmenter(images), labels, config.aux_weight)["total"].backward()
        if config.gradient_clip is not None:
            nn.utils.clip_grad_norm_(segmenter.parameters(), config.gradient_clip)
        optimizer.step()
        schedule.step()
        if step % every == 0:
            scores.append(score())
            if scores[-1] > enough:
                return step, scores
    return None, scores

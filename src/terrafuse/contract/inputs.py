"""A method with its options, and images to try it on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from terrafuse.methods import create_segmenter, find_method
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.segmenter import Segmenter

Images = dict[str, Tensor]

#: Of several kinds and scales, with and without wavelengths.
MODALITIES = (
    Modality("rgb", ("r", "g", "b"), kind="optical", wavelengths_um=(0.665, 0.56, 0.49)),
    Modality("sar", ("vv", "vh"), kind="sar", scale=2.0),
    Modality("dsm", ("z",), kind="elevation", scale=0.5),
)
CLASSES = 3


@dataclass(frozen=True)
class Case:
    """A method with options and as many modalities as it takes.

    Args:
        method: Its name.
        options: Of its constructor.
        modalities: What it receives; empty: as many of `MODALITIES` as it takes, two where it takes
            any number.
        rounding: How far equal results may differ, in parts of the largest logit, of a method that
            divides by sums as small as rounding.
        sees_distances_only: Whether modalities beside the first are but distances between pixels
            to it, so that their bands may be swapped.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    modalities: tuple[Modality, ...] = ()
    rounding: float = 0.0
    sees_distances_only: bool = False

    @property
    def inputs(self) -> tuple[Modality, ...]:
        """Inputs of a method under check."""
        return self.modalities or _as_many_as_it_takes(*find_method(self.method).num_modalities)

    def start(self, modalities: Sequence[Modality] | None = None, classes: int = CLASSES) -> Any:
        """The method as its constructor leaves it, in evaluation mode."""
        torch.manual_seed(0)
        chosen = tuple(modalities or self.inputs)
        segmenter = create_segmenter(self.method, chosen, classes, self.options)
        segmenter.set_statistics(statistics_of(chosen))
        return segmenter.eval()

    def make(self, modalities: Sequence[Modality] | None = None) -> Segmenter:
        """The method with values that training would reach, in evaluation mode.

        At its start, a norm or a gate may hide a mistake.
        """
        segmenter: Segmenter = self.start(modalities)
        for name, parameter in segmenter.named_parameters():
            if parameter.ndim == 1:
                # Scales around 1: many of one half in a row would hide what comes in.
                mean = 0.5 if name.endswith("bias") else 1.0
                torch.nn.init.normal_(parameter, mean=mean, std=0.2)
            elif not parameter.any():
                torch.nn.init.normal_(parameter, std=0.2)
        return segmenter


def _as_many_as_it_takes(least: int, most: int | None) -> tuple[Modality, ...]:
    wanted = max(least, min(most or 2, len(MODALITIES)))
    further = range(wanted - len(MODALITIES))
    return (*MODALITIES, *(Modality(f"further_{i}", ("value",)) for i in further))[:wanted]


def statistics_of(modalities: Sequence[Modality]) -> dict[str, BandStatistics]:
    """Mean 3 and deviation 2 of every band."""
    result = {}
    for m in modalities:
        n = len(m.bands)
        result[m.name] = BandStatistics((3.0,) * n, (2.0,) * n, (0.0,) * n, (9.0,) * n, (1,) * n)
    return result


def random_images(
    modalities: Sequence[Modality], size: tuple[int, int], batch: int = 2, seed: int = 1
) -> Images:
    """Noise in physical units, as `statistics_of` describes it."""
    generator = torch.Generator().manual_seed(seed)
    return {
        m.name: 3 + 2 * torch.randn(
            batch, len(m.bands), m.size_at(size[0]), m.size_at(size[1]), generator=generator
        )
        for m in modalities
    }  # fmt: skip

"""Influence of every band, date and modality on the logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from terrafuse.contract.inputs import Images, random_images
from terrafuse.modalities import Modality

#: Two dates of the same three wavelengths, two polarisations, and two bands without a wavelength.
MODALITIES = (
    Modality(
        "rgb",
        ("red_1", "green_1", "blue_1", "red_2", "green_2", "blue_2"),
        kind="optical",
        wavelengths_um=(0.665, 0.56, 0.49, 0.665, 0.56, 0.49),
    ),
    Modality("sar", ("VV", "VH"), kind="sar"),
    Modality("terrain", ("elevation", "slope"), kind="other"),
)
DATES = {"rgb": ((0, 1, 2), (3, 4, 5))}
#: Least change, in deviations of what changes. Rounding alone made up to 5e-7, and the smallest
#: influence that any small model has at its start is 7e-5 (a band in DFormer v2's distances).
LEAST = 1e-5


def in_groups(most: int | None) -> list[tuple[Modality, ...]]:
    """Divide all modalities among models that take at most `most`."""
    first, *others = MODALITIES
    if most is None or most >= len(MODALITIES):
        return [MODALITIES]
    return [(m,) for m in MODALITIES] if most == 1 else [(first, m) for m in others]


def changed_images(modalities: Sequence[Modality], images: Images) -> Iterator[tuple[str, Images]]:
    """Images with a band, a date or a modality replaced by noise, or with two bands swapped.

    Yields:
        Name of the change ("rgb red_1, green_1, blue_1", "sar VV ↔ VH"), and all images.
    """
    noise = random_images(modalities, _size(images), batch=1, seed=2)
    for m in modalities:
        every = range(len(m.bands))
        # A set: of a single band, the modality is the band.
        parts = {*((i,) for i in every), *DATES.get(m.name, ()), tuple(every)}
        for part in sorted(parts):
            image = images[m.name].clone()
            image[:, list(part)] = noise[m.name][:, list(part)]
            yield f"{m.name} {', '.join(m.bands[i] for i in part)}", images | {m.name: image}
        for i, j in combinations(every, 2):
            order = list(every)
            order[i], order[j] = j, i
            swapped = images[m.name][:, order]
            yield f"{m.name} {m.bands[i]} ↔ {m.bands[j]}", images | {m.name: swapped}


def change(before: Tensor, after: Tensor) -> float:
    """Root mean square of a change, in deviations of what changes."""
    return float((after - before).square().mean().sqrt() / before.std())


def too_small(changes: Mapping[str, float]) -> set[str]:
    """Names whose influence is not above `LEAST`."""
    return {name for name, value in changes.items() if not value > LEAST}


def stack(samples: Sequence[Images]) -> Images:
    """Images of one sample each as a batch."""
    return {name: torch.cat([images[name] for images in samples]) for name in samples[0]}


def _size(images: Images) -> tuple[int, int]:
    height, width = next(iter(images.values())).shape[-2:]
    return height, width

"""Tokenization of images for Galileo: slots, values, visibility, and means over tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from terrafuse.backbones.galileo.encoder import GalileoEncoder
from terrafuse.backbones.galileo.inputs import Slot
from terrafuse.backbones.galileo.reading import BandReader
from terrafuse.errors import InputShapeError, ModelError
from terrafuse.modalities import Modality
from terrafuse.tracing import is_traced

_MOST_PATCH = 8


@dataclass(frozen=True)
class TokenizedImage:
    """Values of the groups that an image has, and where they are visible.

    Args:
        slots: Tokens of each position, over all modalities.
        values: Per slot (N, C_g, H, W).
        counts: Number of slots per modality, in order.
        codes: Per slot, the position codes (D, h, w) of its modality.
        seen: Bool (N, h · w, slots); None: all.
    """

    slots: tuple[Slot, ...]
    values: tuple[Tensor, ...]
    counts: tuple[int, ...]
    codes: tuple[Tensor, ...]
    seen: Tensor | None = None


def tokenize_image(
    encoder: GalileoEncoder, readers: Sequence[BandReader], image: Tensor, patch_size: int
) -> TokenizedImage:
    """Split an image (N, C, H, W) of stacked modalities into the values of its groups.

    Raises:
        InputShapeError: Wrong number of bands, or sides not divisible by the patch size.
    """
    counts = [len(reader.plan.channels) for reader in readers]
    height, width = image.shape[-2:]
    encoder.check_grid(height, width, patch_size, 1)
    if image.shape[1] != sum(counts):
        raise InputShapeError(
            f"the image has shape {tuple(image.shape)}; for "
            f"{', '.join(reader.modality.name for reader in readers)} Galileo takes "
            f"(N, {sum(counts)}, H, W)"
        )
    grid = (height // patch_size, width // patch_size)
    values: list[Tensor] = []
    codes: list[Tensor] = []
    for reader, part in zip(readers, torch.split(image, counts, dim=1), strict=True):
        values += reader(part)
        own = encoder.places(grid, reader.get_buffer("pixel_size_m") * patch_size)
        codes += [own] * len(reader.plan.slots)
    slots = tuple(slot for reader in readers for slot in reader.plan.slots)
    lengths = tuple(len(reader.plan.slots) for reader in readers)
    return TokenizedImage(slots, tuple(values), lengths, tuple(codes))


def join_images(parts: Sequence[TokenizedImage], masks: Sequence[Tensor]) -> TokenizedImage:
    """Join several modalities into one sequence of tokens.

    Args:
        parts: One per modality.
        masks: Per modality, bool (N, 1, h, w): positions where it is visible.
    """
    seen: Tensor | None = torch.cat(
        [
            mask.flatten(1)[:, :, None].expand(-1, -1, len(part.slots))
            for mask, part in zip(masks, parts, strict=True)
        ],
        dim=2,
    )  # (N, h · w, slots)
    if seen is not None and not is_traced() and bool(seen.all()):
        seen = None
    return TokenizedImage(
        tuple(slot for part in parts for slot in part.slots),
        tuple(x for part in parts for x in part.values),
        tuple(count for part in parts for count in part.counts),
        tuple(x for part in parts for x in part.codes),
        seen,
    )


def mean_maps(
    tokens: Tensor, grid: tuple[int, int], tokenized: TokenizedImage
) -> tuple[Tensor, list[Tensor]]:
    """Average the visible tokens of each position: over all modalities, and over each.

    Args:
        tokens: (N, h · w, slots, D).
        grid: h and w.
        tokenized: The image that the tokens come from.

    Returns:
        Maps (N, D, h, w); 0 where no token is visible.
    """

    def mean(first: int, last: int) -> Tensor:
        own = tokens[:, :, first:last]
        if tokenized.seen is None:
            means = own.mean(dim=2)
        else:
            there = tokenized.seen[:, :, first:last, None]
            total = torch.where(there, own, 0.0).sum(dim=2)
            means = total / there.sum(dim=2).clamp(min=1)
        return means.transpose(1, 2).reshape(means.shape[0], -1, *grid)

    ends = list(accumulate(tokenized.counts))
    own = [mean(end - count, end) for end, count in zip(ends, tokenized.counts, strict=True)]
    return mean(0, ends[-1]), own


def less(x: Tensor, reference: Tensor) -> Tensor:
    """Subtract from a map (M · N, D, h, w) that of its modality (M, D, h, w), or of its sample."""
    parts = x.reshape(reference.shape[0], -1, *x.shape[1:])
    return (parts - reference.unsqueeze(1)).flatten(0, 1)


def in_order(own: Sequence[Tensor], names: Sequence[str], wanted: Iterable[str]) -> Tensor:
    """Stack the maps of all `wanted` modalities (N, M, D, h, w), 0 for absent ones."""
    there = dict(zip(names, own, strict=True))
    nothing = torch.zeros_like(own[0])
    return torch.stack([there.get(name, nothing) for name in wanted], dim=1)


def months_of(name: str, month: int | Sequence[int], dates: int) -> tuple[int, ...]:
    """Return the month of each date, January = 0.

    Raises:
        ModelError: Neither one month nor one per date.
    """
    given = (month,) * dates if isinstance(month, int) else tuple(month)
    if len(given) == 1:
        given *= dates
    if len(given) != dates or not all(1 <= m <= 12 for m in given):
        raise ModelError(
            f"option 'month' of backbone '{name}' is {month}; allowed is a month from 1 to 12, or "
            f"one for each of the {dates} dates"
        )
    return tuple(m - 1 for m in given)


def check_image_options(
    name: str,
    in_channels: int,
    modalities: Sequence[Modality],
    patch_size: int,
    input_resolution_m: float | None,
) -> None:
    """Refuse options that do not suit the images of the modalities.

    Raises:
        ModelError: Names the option.
    """
    bands = sum(len(m.bands) for m in modalities)
    if bands != in_channels:
        raise ModelError(
            f"backbone '{name}' would get {in_channels} channels, but "
            f"{', '.join(m.name for m in modalities)} have {bands} bands; every channel must "
            "be known"
        )
    if not 1 <= patch_size <= _MOST_PATCH:
        raise ModelError(
            f"option 'patch_size' of backbone '{name}' is {patch_size}; it was trained with 1 to "
            f"{_MOST_PATCH}"
        )
    if input_resolution_m is not None and not input_resolution_m > 0:
        raise ModelError(
            f"option 'input_resolution_m' of backbone '{name}' is {input_resolution_m:g}; it must "
            "be above 0, or left out"
        )

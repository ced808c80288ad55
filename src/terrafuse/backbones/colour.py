"""Any number of bands → the three that an encoder of colour images sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from terrafuse.modalities import Modality

#: Bands that an encoder of colour images sees.
RGB = 3
#: What such an encoder takes every modality for.
COLOUR = Modality("colour", ("R", "G", "B"), "optical", wavelengths_um=(0.665, 0.56, 0.49))


#: Size of the weights that a band beyond red, green and blue starts with, and the learning rate of
#: the weights relative to that of the rest. docs/methods/mfnet.md has the measurement.
OTHER_BANDS_STD = 0.3
LR_FACTOR = 30.0


class ToRGB(nn.Module):
    """Any number of bands → the three that the encoder was made for.

    One band is repeated, and three stay (both as published), in the order red, green, blue where
    the modality tells which is which. Two, or more than three, pass through a learnt 1×1
    convolution. It starts as: two bands and their mean; or red, green and blue (where they are not
    known, the first three bands), to which every other band is added with small weights of its own.
    These are drawn once and for all: weights of a pre-training and a run after it start alike.

    Args:
        modality: Whose bands come in.
    """

    order: Tensor

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        self.bands = bands = len(modality.bands)
        colours = colour_bands([modality])
        self.is_reordered = bands == RGB and colours != tuple(range(RGB))
        if self.is_reordered:
            self.register_buffer("order", torch.tensor(colours))
        self.is_learnt = bands not in (1, RGB)
        if self.is_learnt:
            self.mix = nn.Conv2d(bands, RGB, kernel_size=1)
            with torch.no_grad():
                self.mix.weight.copy_(_start(modality)[:, :, None, None])
                nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]  # has one

    def lr_factors(self) -> dict[str, float]:
        """The few weights that choose what is seen at all learn faster than all that see it."""
        return {"mix": LR_FACTOR} if self.is_learnt else {}

    def values_before(self) -> dict[str, Tensor]:
        """The order that runs without one mean: that of the bands."""
        return {"order": torch.arange(RGB)} if self.is_reordered else {}

    def forward(self, image: Tensor) -> Tensor:
        """Image (N, C, H, W) → (N, 3, H, W)."""
        if self.is_learnt:
            mixed: Tensor = self.mix(image)
            return mixed
        if self.is_reordered:
            return image[:, self.order]
        return image.expand(-1, RGB, -1, -1)


def colour_bands(modalities: Sequence[Modality]) -> tuple[int, int, int]:
    """Which of the stacked bands are red, green and blue.

    Those of the first modality that knows them; where none does, the first three bands.
    """
    before = 0
    for modality in modalities:
        if modality.rgb_bands is not None:
            red, green, blue = modality.rgb_bands
            return before + red, before + green, before + blue
        before += len(modality.bands)
    return 0, 1, 2


def start_weights(bands: int, known: Sequence[int]) -> Tensor:
    """First weights with which any bands become the ones that an encoder knows.

    Args:
        bands: C of the image, more than the encoder knows.
        known: Per band of the encoder, its place in the image. It is taken as it is, and every
            other band added with small weights of its own, drawn once and for all.

    Returns:
        (len(known), C); no column is 0 or that of another band.
    """
    generator = torch.Generator().manual_seed(0)
    weights = OTHER_BANDS_STD * torch.randn(len(known), bands, generator=generator)
    weights[:, list(known)] = torch.eye(len(known))
    return weights


def _start(modality: Modality) -> Tensor:
    """First weights (3, C) of `ToRGB`."""
    bands = len(modality.bands)
    if bands < RGB:
        return torch.cat([torch.eye(bands), torch.full((RGB - bands, bands), 1 / bands)])
    return start_weights(bands, colour_bands([modality]))

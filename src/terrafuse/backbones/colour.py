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
        colours = modality.rgb_bands or tuple(range(RGB))
        self.is_reordered = bands == RGB and colours != tuple(range(RGB))
        if self.is_reordered:
            self.register_buffer("order", torch.tensor(colours))
        self.is_learnt = bands not in (1, RGB)
        if self.is_learnt:
            self.mix = nn.Conv2d(bands, RGB, kernel_size=1)
            with torch.no_grad():
                self.mix.weight.copy_(_start(bands, colours)[:, :, None, None])
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


def _start(bands: int, colours: Sequence[int]) -> Tensor:
    """First weights (3, C); no column is 0 or that of another band."""
    if bands < RGB:
        return torch.cat([torch.eye(bands), torch.full((RGB - bands, bands), 1 / bands)])
    generator = torch.Generator().manual_seed(0)
    weights = OTHER_BANDS_STD * torch.randn(RGB, bands, generator=generator)
    weights[:, list(colours)] = torch.eye(RGB)
    return weights

"""Any number of bands → the three that an encoder of colour images sees."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from terrafuse.modalities import Modality

#: Bands that an encoder of colour images sees.
RGB = 3
#: What such an encoder takes every modality for.
COLOUR = Modality("colour", ("R", "G", "B"), "optical", wavelengths_um=(0.665, 0.56, 0.49))


class ToRGB(nn.Module):
    """Any number of bands → the three that the encoder was made for.

    Three bands stay, one is repeated (both as published). Two, or more than three, pass through a
    learnt 1×1 convolution that starts as: two bands and their mean; the first three bands.

    Args:
        bands: Bands of the modality.
    """

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.bands = bands
        if bands in (1, RGB):
            return
        self.mix = nn.Conv2d(bands, RGB, kernel_size=1)
        start = torch.eye(RGB, bands)
        if bands < RGB:
            start[bands:] = 1 / bands
        with torch.no_grad():
            self.mix.weight.copy_(start[:, :, None, None])
            nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]  # has one

    def forward(self, image: Tensor) -> Tensor:
        """Image (N, C, H, W) → (N, 3, H, W)."""
        if self.bands == 1:
            return image.expand(-1, RGB, -1, -1)
        if self.bands == RGB:
            return image
        mixed: Tensor = self.mix(image)
        return mixed

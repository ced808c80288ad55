"""Any number of bands → the three of an RGB encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from terrafuse.modalities import Modality

#: Bands that an RGB encoder sees.
RGB = 3
#: The modality that such an encoder takes every input for.
COLOUR = Modality("colour", ("R", "G", "B"), "optical", wavelengths_um=(0.665, 0.56, 0.49))

#: Standard deviation of the initial weights of bands beyond red, green and blue, and learning rate
#: of all mixing weights relative to the rest. docs/methods/mfnet.md has the measurement.
OTHER_BANDS_STD = 0.3
LR_FACTOR = 30.0


class ToRGB(nn.Module):
    """Any number of bands of one modality → the three that the encoder was made for.

    One band is repeated and three stay (both as published), in the order red, green, blue where
    the modality identifies them. Two, or more than three, pass through a trained 1×1 convolution.
    It starts as: two bands and their mean; or red, green and blue (if unknown, the first three
    bands), with every other band added by small weights of its own. These weights come from a
    fixed seed, so that a pre-training and the run after it start alike.
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
        """Train the few mixing weights faster than the encoder behind them."""
        return {"mix": LR_FACTOR} if self.is_learnt else {}

    def values_before(self) -> dict[str, Tensor]:
        """Band order implied by runs saved without one."""
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
    """Find red, green and blue among the stacked bands.

    They are taken from the first modality that identifies them, else the first three bands.
    """
    before = 0
    for modality in modalities:
        if modality.rgb_bands is not None:
            red, green, blue = modality.rgb_bands
            return before + red, before + green, before + blue
        before += len(modality.bands)
    return 0, 1, 2


def start_weights(bands: int, known: Sequence[int]) -> Tensor:
    """Return initial mixing weights from the bands of an image to those of an encoder.

    Args:
        bands: C of the image, more than the encoder has.
        known: Per band of the encoder, its index in the image. This band enters unchanged; every
            other band is added with small weights of its own from a fixed seed.

    Returns:
        (len(known), C); no column is 0 or equals that of another band.
    """
    generator = torch.Generator().manual_seed(0)
    weights = OTHER_BANDS_STD * torch.randn(len(known), bands, generator=generator)
    weights[:, list(known)] = torch.eye(len(known))
    return weights


def _start(modality: Modality) -> Tensor:
    """Initial weights (3, C) of `ToRGB`."""
    bands = len(modality.bands)
    if bands < RGB:
        return torch.cat([torch.eye(bands), torch.full((RGB - bands, bands), 1 / bands)])
    return start_weights(bands, colour_bands([modality]))

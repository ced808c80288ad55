"""Masked autoencoding: reconstruction of the pixels of hidden patches from the visible ones.

Reference: He, Chen, Xie, Li, Dollár, Girshick: "Masked autoencoders are scalable vision learners",
CVPR 2022, arXiv 2111.06377. One encoder for images of several sensors: Xiong et al., "Neural
plasticity-inspired foundation model for observing the Earth crossing modalities" (DOFA), 2024,
arXiv 2403.15356.

Ours, not the papers': images of any size, pixels without data, a plain transformer for several
sensors, which then sees three bands of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from terrafuse.backbones import TokenBackbone, ToRGB
from terrafuse.backbones.croma.encoder import cut_patches
from terrafuse.errors import ModelError
from terrafuse.modalities import Modality
from terrafuse.pretraining.masking import Masking, TokenDecoder, take_kept

_EPS = 1e-6


class MaskedAutoencoding(nn.Module):
    """A loss per sensor, on the pixels of its hidden patches; each sensor is masked independently.

    Sensors do not see each other. Encoders run on visible patches only; one light decoder serves
    all sensors, and a linear layer per sensor maps its tokens to pixels.

    Args:
        encoders: Trained encoders by sensor, all of the same sizes; the same transformer under
            several names is shared.
        as_colour: Whether encoders see three bands of every sensor, derived from its own.
        mask_ratio: Share of patches that are hidden; at least one is visible.
        decoder_dim: Width of the decoder.
        decoder_depth: Number of its layers.
        decoder_heads: Number of its heads.
        normalize_pixels: Whether a patch is standardised over its values before the comparison.

    Raises:
        ModelError: A transformer whose blocks need all patches, or invalid options.
    """

    def __init__(
        self,
        encoders: Mapping[str, TokenBackbone],
        modalities: Sequence[Modality],
        as_colour: bool = False,
        *,
        mask_ratio: float = 0.75,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        normalize_pixels: bool = True,
    ) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise ModelError(
                f"option 'mask_ratio' is {mask_ratio:g}; it must be above 0 and below 1"
            )
        for encoder in encoders.values():
            _check_takes_any_tokens(encoder)
        self.mask_ratio, self.normalize_pixels = mask_ratio, normalize_pixels
        self.encoders = nn.ModuleDict(encoders)
        self.to_rgb = nn.ModuleDict({m.name: ToRGB(m) for m in modalities} if as_colour else {})
        first = next(iter(encoders.values()))
        # Published encoders without a norm after the last block need one for pre-training only.
        self.norm = nn.Identity() if first.has_final_norm else nn.LayerNorm(first.embed_dim)
        self.decoder = TokenDecoder(
            first.embed_dim, decoder_dim, num_heads=decoder_heads, depth=decoder_depth
        )
        self.pixels = nn.ModuleDict(
            {m.name: nn.Linear(decoder_dim, len(m.bands) * first.patch_size**2) for m in modalities}
        )

    def forward(
        self,
        images: Mapping[str, Tensor],
        known: Mapping[str, Tensor],
        masks: Mapping[str, Masking] | None = None,
    ) -> dict[str, Tensor]:
        """Compute a loss per sensor; their sum is the mean over the sensors.

        Args:
            images: By sensor, normalised (N, C, H, W), sides multiples of the patch; samples may
                lack sensors.
            known: Bool (N, 1, H, W): pixels with data. Others are ignored.
            masks: Visible patches by sensor; None: drawn at random.
        """
        losses = {}
        for name, image in images.items():
            rows = known[name].flatten(1).any(dim=1)
            mask = (masks or {}).get(name)
            if bool(rows.any()):
                loss = self._loss(name, image[rows], known[name][rows], mask)
            else:  # unused parameters would stall distributed training
                parts = (self.encoders[name], self.norm, self.decoder, self.pixels[name])
                loss = sum((p.sum() * 0 for x in parts for p in x.parameters()), torch.zeros(()))
            losses[name] = loss / len(images)
        return losses

    def reconstruct(
        self, name: str, image: Tensor, mask: Masking | None = None
    ) -> tuple[Tensor, Masking]:
        """Reconstruct all patches (N, L, C · p²) of an image (N, C, H, W), and return the mask."""
        tokens, grid = self._embed(name, image)
        encoder = self._encoder(name)
        prefix = encoder.num_prefix_tokens
        count = tokens.shape[1] - prefix
        mask = mask or Masking.draw(len(tokens), count, self.mask_ratio, tokens.device)
        seen = torch.cat([tokens[:, :prefix], take_kept(tokens[:, prefix:], mask)], dim=1)
        encoded = self.norm(encoder.run_blocks(seen, grid))[:, prefix:]
        pixels: Tensor = self.pixels[name](self.decoder(encoded, mask, grid))
        return pixels, mask

    def _loss(self, name: str, image: Tensor, known: Tensor, mask: Masking | None) -> Tensor:
        pixels, mask = self.reconstruct(name, image, mask)
        patch = self._encoder(name).patch_size
        target = cut_patches(image, patch)  # (N, L, C p²)
        weight = cut_patches(known.expand_as(image).to(target.dtype), patch)
        if self.normalize_pixels:
            target = _standardize(target, weight)
        weight = weight * mask.hidden.unsqueeze(2)
        errors = (pixels.float() - target).square() * weight
        return errors.sum() / weight.sum().clamp(min=1)

    def _embed(self, name: str, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        encoder = self._encoder(name)
        if encoder.band_sets:
            embed: Any = encoder.embed  # takes the name of a band set
            found: tuple[Tensor, tuple[int, int]] = embed(
                image, bands=name if name in encoder.band_sets else None
            )
            return found
        return encoder.embed(self.to_rgb[name](image) if name in self.to_rgb else image)

    def _encoder(self, name: str) -> TokenBackbone:
        encoder = self.encoders[name]
        assert isinstance(encoder, TokenBackbone)
        return encoder


def _standardize(values: Tensor, weight: Tensor) -> Tensor:
    """Standardise values of patches (N, L, V) over those where `weight` is 1."""
    count = weight.sum(dim=2, keepdim=True).clamp(min=1)
    mean = (values * weight).sum(dim=2, keepdim=True) / count
    apart = (values - mean) * weight
    variance = apart.square().sum(dim=2, keepdim=True) / (count - 1).clamp(min=1)
    return apart / (variance + _EPS).sqrt()


def _check_takes_any_tokens(encoder: TokenBackbone) -> None:
    if not encoder.takes_any_tokens:
        raise ModelError(
            f"objective 'mae' hides patches, but the blocks of {type(encoder).__name__} need all "
            "of them in place (windows, rotary or relative positions). Choose dofa_*, or a plain "
            "vit_*, deit_* or vit_*_dinov2; for CROMA, objective 'croma'"
        )

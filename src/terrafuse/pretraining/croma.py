"""CROMA's pre-training: contrast between sensors, and reconstruction of both from radar's tokens.

Reference: Fuller, Millard, Green: "CROMA: Remote sensing representations with contrastive
radar-optical masked autoencoders", NeurIPS 2023, arXiv 2311.00566. Masked autoencoding: He et al.,
"Masked autoencoders are scalable vision learners", CVPR 2022, arXiv 2111.06377.

Own code, written from a description of the published code and numerically equal to it; images may
have any size and bands.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from terrafuse.backbones import CROMA, convert_croma_state_dict
from terrafuse.backbones.croma.encoder import PooledHead, cut_patches
from terrafuse.backbones.croma.weights import rename_transformer
from terrafuse.errors import ModelError
from terrafuse.pretraining.masking import Masking, TokenDecoder, take_kept

_EPS = 1e-6


class CROMAPretraining(nn.Module):
    """Two losses on images of both sensors, each partly hidden.

    Args:
        backbone: The trained backbone; its neck is unused.
        mask_ratio: Share of tokens that are hidden, independently per sensor.
        decoder_dim: Width of the pixel decoder.
        decoder_heads: Number of its heads.
        decoder_depth: Number of its layers.
        published_joint_bias: Whether self-attention of radar's tokens in the joint transformer uses
            the distances from radar's to optical's visible positions, which differ, as in the
            published code. Otherwise it uses their own distances, as without masks.
    """

    def __init__(
        self,
        backbone: CROMA,
        *,
        mask_ratio: float = 0.75,
        decoder_dim: int = 512,
        decoder_heads: int = 8,
        decoder_depth: int = 1,
        published_joint_bias: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= mask_ratio < 1:
            raise ModelError(
                f"option 'mask_ratio' is {mask_ratio:g}; it must be at least 0 and below 1"
            )
        dim = backbone.joint.norm.normalized_shape[0]
        self.backbone = backbone
        self.mask_ratio = mask_ratio
        self.published_joint_bias = published_joint_bias
        self.pool_sar, self.pool_optical = PooledHead(dim), PooledHead(dim)
        self.contrast = Contrast(dim)
        patch = backbone.sar.patch_size
        values = (backbone.bands["sar"] + backbone.bands["optical"]) * patch**2
        self.decoder = PixelDecoder(
            dim, decoder_dim, values, num_heads=decoder_heads, depth=decoder_depth
        )

    def forward(
        self,
        sar: Tensor,
        optical: Tensor,
        sar_mask: Masking | None = None,
        optical_mask: Masking | None = None,
    ) -> dict[str, Tensor]:
        """Compute the losses of images; every sample must have both sensors.

        Args:
            sar: (N, C, H, W), standardised, before the backbone's `scaling`.
            optical: Likewise, of the same size.
            sar_mask: Tokens visible to radar's encoder; None: drawn at random.
            optical_mask: Likewise for the optical encoder.

        Returns:
            "contrast" and "reconstruction"; their sum is the loss.
        """
        sar, optical = self.backbone.rescale(sar), self.backbone.rescale(optical)
        tokens, grid = self.backbone.sar.embed(sar)
        others, _ = self.backbone.optical.embed(optical)
        shape = (*tokens.shape[:2], self.mask_ratio, tokens.device)
        sar_mask = sar_mask or Masking.draw(*shape)
        optical_mask = optical_mask or Masking.draw(*shape)
        bias = self.backbone.bias(grid, tokens)
        own, between = _pairs(bias, sar_mask, sar_mask), _pairs(bias, sar_mask, optical_mask)
        radar = self.backbone.sar(take_kept(tokens, sar_mask), own)  # (N, K, D)
        theirs = _pairs(bias, optical_mask, optical_mask)
        colour = self.backbone.optical(take_kept(others, optical_mask), theirs)
        among = between if self.published_joint_bias else own
        joint = self.backbone.joint(radar, colour, among, between)
        pixels = self.decoder(joint, sar_mask, grid)  # (N, L, (C + C') p²)
        patch = self.backbone.sar.patch_size
        target = cut_patches(torch.cat([optical, sar], dim=1), patch)
        return {
            "contrast": self.contrast(self.pool_sar(radar), self.pool_optical(colour)),
            "reconstruction": reconstruction_loss(
                pixels, target, optical.shape[1] * patch**2, optical_mask.hidden, sar_mask.hidden
            ),
        }


class Contrast(nn.Module):
    """Contrastive loss that matches optical images to radar images, and vice versa.

    Both vectors are projected by a linear layer and scaled to unit length; the logits are cosines
    of all pairs times exp(s); the loss is the mean of the cross-entropies over rows and columns.
    Vectors of the other sensor, gathered from all processes, carry no gradient, as published.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.sar, self.optical = nn.Linear(dim, dim), nn.Linear(dim, dim)
        # Not a 0-dimensional tensor, which FSDP cannot shard.
        self.logit_scale = nn.Parameter(torch.full((1,), log(1 / 0.07)))

    def forward(self, sar: Tensor, optical: Tensor) -> Tensor:
        """Pooled vectors (N, D) of both sensors → loss."""
        a, b = F.normalize(self.sar(sar), dim=1), F.normalize(self.optical(optical), dim=1)
        scale = self.logit_scale.exp()
        (all_a, first), (all_b, _) = gather_rows(a.detach()), gather_rows(b.detach())
        own = torch.arange(len(a), device=a.device) + first
        terms = [F.cross_entropy(scale * x @ all_y.T, own) for x, all_y in ((a, all_b), (b, all_a))]
        return (terms[0] + terms[1]) / 2


class PixelDecoder(TokenDecoder):
    """Joint encodings of visible tokens → pixels of both sensors everywhere.

    Its layers have no distance bias.

    Args:
        dim: D of the encodings.
        width: D' of the decoder.
        values: Values of a patch, over all bands.
    """

    def __init__(self, dim: int, width: int, values: int, *, num_heads: int, depth: int) -> None:
        super().__init__(dim, width, num_heads=num_heads, depth=depth)
        self.leave = nn.Linear(width, values)

    def forward(self, joint: Tensor, mask: Masking, grid: tuple[int, int]) -> Tensor:
        """Encodings (N, K, D) at the positions `mask.keep` → pixels (N, L, values)."""
        pixels: Tensor = self.leave(super().forward(joint, mask, grid))
        return pixels


def reconstruction_loss(
    pixels: Tensor, target: Tensor, optical: int, hidden_optical: Tensor, hidden_sar: Tensor
) -> Tensor:
    """Squared error of hidden patches: mean over optical ones plus mean over radar's.

    A patch is standardised over all its bands together, as published.

    Args:
        pixels: (N, L, values), the optical ones first.
        target: Likewise.
        optical: Number of optical values.
        hidden_optical: Bool (N, L).
        hidden_sar: Bool (N, L).
    """
    variance, mean = torch.var_mean(target, dim=2, keepdim=True)
    errors = (pixels.float() - (target - mean) / (variance + _EPS).sqrt()).square()
    parts = ((errors[..., :optical], hidden_optical), (errors[..., optical:], hidden_sar))
    losses = [
        (error.mean(dim=2) * hidden).sum() / hidden.sum().clamp(min=1) for error, hidden in parts
    ]
    return losses[0] + losses[1]


#: Original names of the heads → ours.
_HEADS = {
    "decoder.encoder_to_decoder.": "decoder.enter.",
    "decoder.linear_output.": "decoder.leave.",
    "global_contrast_loss.radar_proj.": "contrast.sar.",
    "global_contrast_loss.optical_proj.": "contrast.optical.",
    "global_contrast_loss.logit_scale": "contrast.logit_scale",
}


def convert_reference_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of the original's pre-training class; its fixed positions are dropped.

    Args:
        state: Original names ("radar_encoder.linear_input.weight").
    """
    converted = {}
    for name, value in convert_croma_state_dict(state).items():
        if name.endswith("decoder_pos_embed"):
            continue
        if name.startswith("decoder.decoder."):
            name = "decoder." + rename_transformer(name.removeprefix("decoder.decoder."))
        elif name.startswith(("sar.", "optical.", "joint.")):
            name = f"backbone.{name}"
        for original, ours in _HEADS.items():
            name = name.replace(original, ours)
        converted[name] = value.reshape(1) if name.endswith("logit_scale") else value
    return converted


def _pairs(bias: Tensor, asking: Masking, answering: Masking) -> Tensor:
    """Select the bias of visible pairs (N, heads, K, K') from (1, heads, L, L)."""
    rows, cols = asking.keep[:, :, None], answering.keep[:, None, :]
    return bias[0][:, rows, cols].transpose(0, 1)


def gather_rows(x: Tensor) -> tuple[Tensor, int]:
    """Gather rows (N, …) of all processes in order, and return the index of the first own row.

    Without gradient, except with a single process. Processes must have equally many rows.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return x, 0
    parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, x.contiguous())
    return torch.cat(parts), distributed.get_rank() * len(x)

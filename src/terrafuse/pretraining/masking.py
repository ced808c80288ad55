"""Masking of image tokens, and a decoder that predicts tokens at every position.

Reference: He, Chen, Xie, Li, Dollár, Girshick: "Masked autoencoders are scalable vision learners",
CVPR 2022, arXiv 2111.06377.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from terrafuse.backbones.croma.encoder import EncoderLayer
from terrafuse.backbones.dofa.encoder import wave_positions
from terrafuse.errors import ModelError


@dataclass(frozen=True)
class Masking:
    """Tokens of each sample that an encoder sees.

    Args:
        keep: Positions of the visible tokens, int64 (N, K).
        hidden: Bool (N, L): tokens that it does not see.
    """

    keep: Tensor
    hidden: Tensor

    @classmethod
    def draw(cls, samples: int, tokens: int, ratio: float, device: torch.device) -> Self:
        """Draw random positions, of which a share `ratio` is hidden; at least one is kept."""
        count = max(1, int(tokens * (1 - ratio)))
        order = torch.rand(samples, tokens, device=device).argsort(dim=1)
        return cls.of(order[:, :count], tokens)

    @classmethod
    def of(cls, keep: Tensor, tokens: int) -> Self:
        """Create a mask from the kept positions (N, K) of `tokens`."""
        hidden = torch.ones(len(keep), tokens, dtype=torch.bool, device=keep.device)
        return cls(keep, hidden.scatter(1, keep, False))


class TokenDecoder(nn.Module):
    """Encodings of visible tokens → tokens at every position, by a small transformer.

    Args:
        dim: D of the encodings.
        width: D' of the decoder.

    Raises:
        ModelError: Heads that do not divide the width, or a width that is no multiple of 4.
    """

    def __init__(self, dim: int, width: int, *, num_heads: int, depth: int) -> None:
        super().__init__()
        if width % 4 or num_heads < 1 or width % num_heads:
            raise ModelError(
                f"a decoder of width {width} with {num_heads} heads cannot be built; "
                "'decoder_dim' must be a multiple of 4 and of 'decoder_heads'"
            )
        self.width = width
        self.enter = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        nn.init.normal_(self.mask_token, std=0.02)
        self.blocks = nn.ModuleList(EncoderLayer(width, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, encodings: Tensor, mask: Masking, grid: tuple[int, int]) -> Tensor:
        """Encodings (N, K, D) at the positions `mask.keep` → tokens (N, L, D'), normalised."""
        seen = self.enter(encodings)
        places = mask.keep.unsqueeze(2).expand(-1, -1, self.width)
        tokens = self.mask_token.to(seen.dtype).expand(*mask.hidden.shape, -1)
        tokens = tokens.scatter(1, places, seen) + self._positions(grid, seen)
        for block in self.blocks:
            tokens = block(tokens, None)
        result: Tensor = self.norm(tokens)
        return result

    def _positions(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        """Fixed positions (1, L, D')."""
        side = max(grid)
        table = wave_positions(self.width, side)[:, 1:].reshape(1, side, side, self.width)
        return table[:, : grid[0], : grid[1]].flatten(1, 2).to(like.device, like.dtype)


def take_kept(tokens: Tensor, mask: Masking) -> Tensor:
    """Select the visible tokens (N, K, D) of (N, L, D)."""
    return tokens.gather(1, mask.keep.unsqueeze(2).expand(-1, -1, tokens.shape[2]))

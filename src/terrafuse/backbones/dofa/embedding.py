"""DOFA's patch embedding: kernels generated from the wavelengths of an image's bands.

Written from a description of the published model, with torchgeo's parameter names.

Reference: Xiong et al., "Neural plasticity-inspired foundation model for observing the Earth
crossing modalities" (DOFA), 2024, arXiv 2403.15356.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Trained tokens beside the bands' tokens, heads and hidden width of the generator, and the factor
#: on its output, all as published.
WEIGHT_TOKENS = 128
HEADS = 4
HIDDEN = 2048
SCALE = 0.01


def encode_wavelengths(um: Tensor, dim: int) -> Tensor:
    """Encode wavelengths: sines, then cosines, of t · 10000^(−i / (dim / 2)), t in nanometres.

    Angles reach 3750 rad, too large for half precision: always float32, even under autocast.

    Args:
        um: (C,) in micrometres.
        dim: d, even.

    Returns:
        (C, d), float32.
    """
    steps = torch.arange(dim // 2, dtype=torch.float32, device=um.device) / (dim / 2)
    angles = (um.float() * 1000)[:, None] * (1.0 / 10000**steps)  # (C, d / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class WaveEmbedding(nn.Module):
    """Wavelengths → embeddings → kernels of the patch convolution.

    Args:
        width: d, of the embeddings.
        patch_size: p.
        embed_dim: D.
    """

    def __init__(self, width: int, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.fclayer = ResidualLayer(width)
        self.weight_generator = WeightGenerator(width, patch_size**2 * embed_dim, embed_dim)

    def embed_wavelengths(self, um: Tensor) -> Tensor:
        """Wavelengths (C,) in micrometres → embeddings (C, d)."""
        weight = self.fclayer.w1.weight
        result: Tensor = self.fclayer(encode_wavelengths(um, weight.shape[1]).to(weight.dtype))
        return result

    def make_kernel(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of all bands of an image (C, d) → kernel (D, C, p, p) and bias (D).

        A band's kernel depends on the other bands; their order does not matter.
        """
        p = self.patch_size
        weights, bias = self.weight_generator(waves)
        # The token dimension varies fastest. Files published before September 2024 had it first;
        # they are not marked as such, and would give wrong features here.
        kernel = weights.reshape(len(waves), p, p, -1).permute(3, 0, 1, 2)  # (D, C, p, p)
        return kernel * SCALE, bias * SCALE

    def forward(self, image: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        """Image (N, C, H, W) → patches (N, D, H / p, W / p).

        As published, padding by one shifts every patch up and left by a pixel: the last row and
        column of the image are never read.
        """
        return F.conv2d(image, kernel, bias, stride=self.patch_size, padding=1)


class ResidualLayer(nn.Module):
    """x + ReLU(W₂ ReLU(W₁ x)), with x of width d."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, width)
        self.w2 = nn.Linear(width, width)
        _init_linear(self.w1, self.w2)

    def forward(self, x: Tensor) -> Tensor:
        """(C, d) → (C, d)."""
        return x + F.relu(self.w2(F.relu(self.w1(x))))


class WeightGenerator(nn.Module):
    """Band embeddings → weights, by a transformer layer over trained tokens and bands.

    Args:
        width: d.
        out_features: Weights per band.
        embed_dim: D, size of the bias.
    """

    def __init__(self, width: int, out_features: int, embed_dim: int) -> None:
        super().__init__()
        self.weight_tokens = nn.Parameter(torch.empty(WEIGHT_TOKENS, width))
        self.bias_token = nn.Parameter(torch.empty(1, width))
        self.transformer_encoder = nn.ModuleDict({"layers": nn.ModuleList([PostNormLayer(width)])})
        self.fc_weight = nn.Linear(width, out_features)
        self.fc_bias = nn.Linear(width, embed_dim)
        nn.init.normal_(self.weight_tokens, std=0.02)
        nn.init.normal_(self.bias_token, std=0.02)
        _init_linear(self.fc_weight, self.fc_bias)

    def forward(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        """(C, d) → weights (C, out_features) and bias (D)."""
        x = torch.cat([self.weight_tokens, waves, self.bias_token])  # (128 + C + 1, d)
        for layer in self.transformer_encoder["layers"]:  # type: ignore[attr-defined]  # a list
            x = layer(x)
        return self.fc_weight(x[WEIGHT_TOKENS:-1] + waves), self.fc_bias(x[-1])


class PostNormLayer(nn.Module):
    """Attention and MLP, each followed by the residual sum and a norm.

    torch's equivalent takes different code paths with and without gradients, so that cached kernels
    would not equal those of training to the last bit.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(width)
        self.linear1 = nn.Linear(width, HIDDEN)
        self.linear2 = nn.Linear(HIDDEN, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        _init_linear(self.linear1, self.linear2)

    def forward(self, x: Tensor) -> Tensor:
        """(L, d) → (L, d)."""
        x = self.norm1(x + self.self_attn(x))
        result: Tensor = self.norm2(x + self.linear2(F.gelu(self.linear1(x))))
        return result


class SelfAttention(nn.Module):
    """Self-attention with torch's parameter names.

    Args:
        width: d, a multiple of `HEADS`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        _init_linear(self.out_proj)

    def forward(self, x: Tensor) -> Tensor:
        """(L, d) → (L, d)."""
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # (L, 3 d)
        qkv = qkv.reshape(len(x), 3, HEADS, -1).permute(1, 2, 0, 3)  # (3, heads, L, d / heads)
        q, k, v = qkv[:, None].unbind(0)  # (1, heads, L, d / heads): ONNX has it with a batch alone
        (x,) = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (L, d)
        result: Tensor = self.out_proj(x)
        return result


def _init_linear(*layers: nn.Linear) -> None:
    """Initialise linear layers as published."""
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.constant_(layer.bias, 0.01)

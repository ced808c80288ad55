"""Blocks of PAGNet: pyramid attention fusion, and the gate between the streams.

Reference: Liu, Kampffmeyer, Jenssen, Salberg: Multi-modal land cover mapping of remote sensing
images using pyramid attention and gated fusion networks, International Journal of Remote Sensing
43(9), 2022, DOI 10.1080/01431161.2022.2098078, arXiv 2111.03845; as the authors' code computes it.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.decoders.layers import BatchNorm2d, ConvNorm, full_precision, resize, size_of
from terrafuse.errors import ModelError, UnknownNameError, unknown_name
from terrafuse.tracing import split_dim

#: Forms of the gate that combines the second stream's map y with the first stream's g; see
#: `GatedFusionUnit`.
GateName = Literal["tanh", "mixed", "added", "replaced"]

#: Views of the deepest map: unchanged, mirrored, transposed.
MOST_VIEWS = 3

_EPS = 1e-7


class PyramidAttentionFusion(nn.Module):
    """Three levels of a stream → one map at the size of the finest ("PAF").

    A graph between the pixels of the finest and of the deepest level, with edges from all three
    levels, in parallel to a convolution of the maps that the edges derive from. The original
    reshapes maps (N, C, H, W) in memory order to (N, H·W, C), without moving the channels to the
    end, which mixes channels and positions; so do we (`_reread`), to reproduce its results.

    Args:
        channels: C of the three levels, fine → coarse.
        out_channels: Channels of the map ("hidden").
        key_channels: d, of queries and keys ("kernel").
        num_heads: Number of relations read from the middle level.
        views: Number of views of the deepest level, 1 to 3.
        dropout: Share of values, and of channels, dropped in training.
        graph: Whether there is a graph; False leaves only the convolution.

    Raises:
        ModelError: `views` out of range.
    """

    def __init__(
        self,
        channels: tuple[int, int, int],
        out_channels: int,
        *,
        key_channels: int,
        num_heads: int,
        views: int,
        dropout: float,
        graph: bool = True,
    ) -> None:
        super().__init__()
        if not 1 <= views <= MOST_VIEWS:
            raise ModelError(
                f"option 'views' of method 'pagnet' is {views}; allowed is 1 to {MOST_VIEWS}"
            )
        self.num_heads, self.views, self.key_channels = num_heads, views, key_channels
        fine, middle, deep = channels
        d = key_channels
        self.query = nn.Conv2d(fine, d, kernel_size=3, padding=1)
        self.middle = nn.Conv2d(middle, num_heads * d, kernel_size=3, padding=1)
        self.key = nn.Conv2d(deep, d, kernel_size=3, padding=1)
        self.has_graph = graph
        if graph:
            self.relations = nn.Parameter(torch.eye(d))
            self.graph = nn.Linear(deep, out_channels)
            self.graph_norm = nn.BatchNorm1d(out_channels)
            self.graph_dropout = nn.Dropout(dropout)
        width = d + num_heads * d + views * num_heads * d
        self.smooth = nn.Conv2d(width, out_channels, kernel_size=3, padding=1, bias=False)
        self.smooth_norm = BatchNorm2d(out_channels, momentum=0.01)
        self.smooth_dropout = nn.Dropout2d(dropout)
        initialize(self)

    def forward(self, fine: Tensor, middle: Tensor, deep: Tensor, slope: Tensor) -> Tensor:
        """Fuse three levels into one map.

        Args:
            fine: (N, C, H, W).
            middle: (N, C', H', W').
            deep: (N, C'', H'', W'').
            slope: Slope of the network's shared PReLU (1,).

        Returns:
            (N, out_channels, H, W).
        """
        size = size_of(fine)
        queries, between = self.query(fine), self.middle(middle)
        keys = [self._look(deep, view) for view in range(self.views)]  # (N, d, H'', W'') each
        seen = torch.cat(
            [queries, resize(between, size), resize(self._stack(keys), size)], dim=1
        )  # (N, d (1 + heads + views · heads), H, W)
        graph: Tensor | None = None
        if self.has_graph:
            edges = self._edges(queries, between, keys)
            passed = self._pass_on(edges, deep, slope)  # (N, H·W, out_channels)
            graph = split_dim(passed.flatten(1), 1, (passed.shape[2], *size))
        smooth = self.smooth_norm(_activate(self.smooth(seen), slope))
        result: Tensor = self.smooth_dropout(smooth)
        return result if graph is None else graph + result

    def _look(self, deep: Tensor, view: int) -> Tensor:
        """Keys of a view, mapped back to the positions of the deep map."""
        if view == 1:
            mirrored: Tensor = self.key(deep.flip(-1)).flip(-1)
            return mirrored
        if view == 2:
            swapped: Tensor = self.key(deep.transpose(-2, -1)).transpose(-2, -1)
            return swapped
        keys: Tensor = self.key(deep)
        return keys

    def _stack(self, keys: list[Tensor]) -> Tensor:
        """Keys of all views, once per head, reshaped to one map (N, views · heads · d, h, w)."""
        height, width = size_of(keys[0])
        read = torch.stack([_reread(k, self.key_channels) for k in keys], dim=1)  # (N, V, L, d)
        repeated = read.repeat_interleave(self.num_heads, dim=1)
        channels = repeated.shape[1] * keys[0].shape[1]
        return split_dim(repeated.flatten(1), 1, (channels, height, width))

    def _edges(self, queries: Tensor, between: Tensor, keys: list[Tensor]) -> Tensor:
        """Edges (N, H·W, H''·W'') whose rows sum to 1, or to 0 where no edge is positive."""
        with full_precision(queries):  # the division below is by sums of tiny values
            queries = _reread(queries.float(), self.key_channels)  # (N, P, d)
            flat = between.float().flatten(1)
            places = flat.shape[1] // (self.num_heads * self.key_channels)
            middle = split_dim(flat, 1, (self.num_heads, places, self.key_channels))
            relations = (middle.transpose(2, 3) @ middle).tanh() + self.relations  # (N, m, d, d)
            edges: Tensor | None = None
            for view in keys:
                read = _reread(view.float(), self.key_channels).transpose(1, 2)  # (N, d, L)
                for head in range(self.num_heads):
                    weights = (queries @ relations[:, head] @ read).tanh()
                    edges = weights if edges is None else edges + weights
            assert edges is not None
            edges = edges.relu()
            return edges / (edges.sum(dim=-1, keepdim=True) + _EPS)

    def _pass_on(self, edges: Tensor, deep: Tensor, slope: Tensor) -> Tensor:
        """Features that the fine pixels gather along the edges (N, H·W, out_channels)."""
        read = _reread(deep, deep.shape[1])  # (N, L, C'')
        # The linear layer first: the result is the same, and cheaper than products of all of C''.
        passed = edges @ F.linear(read, self.graph.weight).to(edges.dtype) + self.graph.bias
        normed = self.graph_norm(passed.flatten(0, 1)).view_as(passed)
        result: Tensor = self.graph_dropout(_activate(normed, slope))
        return result


class GatedFusionUnit(nn.Module):
    """Gate the second stream's early map y by the first stream ("GFU").

    With g from the first stream, s = sigmoid(g) and g' = norm(W g):

    | form | result | published in |
    |---|---|---|
    | tanh | y (1 − s) + tanh(g) | the network `mobile` |
    | mixed | y s + (1 − s) g' | `rx50` |
    | added | y (1 − s) + g | the network for Vaihingen |
    | replaced | y (1 − s) + (1 − s) g' | a comment, as the paper's form |

    Args:
        in_channels: C of the first stream's map.
        channels: C' of the second stream's.
        reduction: Factor by which the first stream's map is larger, in rows and in columns.
        form: A form of the table.

    Raises:
        UnknownNameError: Another form.
    """

    def __init__(self, in_channels: int, channels: int, *, reduction: int, form: GateName) -> None:
        super().__init__()
        if form not in get_args(GateName):
            raise UnknownNameError(unknown_name("gate of PAGNet", form, get_args(GateName)))
        self.form, self.reduction = form, reduction
        self.gate = ConvNorm(in_channels, channels, kernel_size=1, norm="batch")
        self.mix: nn.Module | None = None
        if form in ("mixed", "replaced"):
            self.mix = ConvNorm(channels, channels, kernel_size=1, norm="batch")
        initialize(self)

    def forward(self, y: Tensor, found: Tensor) -> Tensor:
        """Compute the gated map.

        Args:
            y: Early map of the second stream (N, C', H, W).
            found: Map of the first stream (N, C, r H, r W).

        Returns:
            (N, C', H, W).
        """
        g: Tensor = self.gate(found)
        if self.reduction > 1:
            g = F.max_pool2d(g, self.reduction)
        s = g.sigmoid()
        if self.mix is None:
            return y * (1 - s) + (g.tanh() if self.form == "tanh" else g)
        mixed: Tensor = (1 - s) * self.mix(g)
        return y * (s if self.form == "mixed" else 1 - s) + mixed


def initialize(module: nn.Module) -> None:
    """Initialise as published: Xavier-normal weights, zero biases, identity norms."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _activate(x: Tensor, slope: Tensor) -> Tensor:
    return F.prelu(x, slope.to(x.dtype))


def _reread(x: Tensor, channels: int) -> Tensor:
    """Reshape a map (N, C, H, W) in memory order to (N, C·H·W / channels, channels)."""
    flat = x.flatten(1)
    return split_dim(flat, 1, (flat.shape[1] // channels, channels))

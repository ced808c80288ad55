"""The Variance Enhancement Module of UPSeg's reconstruction: the unique part of each modality.

Its name, its purpose and its use of cross-modal attention are known [K]; every formula here is a
choice of the reconstruction [R]. Whether the authors use any of the kinds is not public [?]. See
`terrafuse.methods.upseg.site` for the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from terrafuse.errors import ModelError
from terrafuse.methods.upseg.tokens import (
    TokenMap,
    attend,
    join_keys,
    mean_at,
    merge_heads,
    split_heads,
)

VarianceKind = Literal["innovation", "content", "project", "differential", "none"]

_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class VarianceSettings:
    """Settings of the Variance Enhancement Module. All values are [R].

    Args:
        kind: "innovation" subtracts what the others predict; "content" is the usual cross-attention
            (closest to the abstract's wording; it also removes what is unique); "project" keeps the
            part orthogonal to the prediction; "differential" takes the difference of a self- and a
            cross-attention map; "none" passes everything on.
        dim: Width of queries, keys and values.
        detach: Whether to stop gradients into the predictor's inputs. Otherwise the predictor's
            loss rewards an encoder that makes modalities alike.
        aux_weight: Weight of the predictor's loss; not used by "differential" and "none".
    """

    kind: VarianceKind = "innovation"
    dim: int = 256
    heads: int = 4
    detach: bool = True
    aux_weight: float = 0.1

    def __post_init__(self) -> None:
        if self.heads < 1 or self.dim < 1 or self.dim % self.heads:
            raise ModelError(
                f"vem has dim {self.dim} and heads {self.heads}; dim must be a multiple of heads"
            )
        if self.aux_weight < 0:
            raise ModelError(f"vem has aux_weight {self.aux_weight:g}; it must be at least 0")


class VarianceEnhancement(nn.Module):
    """The part of each modality that the others cannot predict, at each position ("VEM").

    "innovation", with x = LN(X_m), y_n = sg(LN(X_n)), ȳ their mean at the same position:

        q = ȳ W_q,  k = y W_k,  v = y W_v
        C = [softmax(q kᵀ / √d) v + ȳ W_v] W_o
        U = x − λ C,  loss: mean (sg(x) − C)²

    Queries do not depend on x: otherwise the attention could reconstruct x, including its unique
    part, from tokens of the others, and U would lack it. With its own loss C is the best
    prediction, and U is what no function of the others explains.

    | kind | U |
    |---|---|
    | content | as above with q = sg(x) W_q and without ȳ W_v |
    | project | x − α C, α = ⟨x, C⟩ / (⟨C, C⟩ + 10⁻⁶) per token |
    | differential | x + W_o [softmax(q k_xᵀ) v − λ mean_n softmax(q k_nᵀ) v]; q, k_x, v from x |
    | none | x |

    Where no guest has data, C = 0.

    Args:
        embed_dim: D.
    """

    def __init__(self, embed_dim: int, settings: VarianceSettings) -> None:
        super().__init__()
        self.settings = settings
        self.norm = nn.LayerNorm(embed_dim)
        if settings.kind == "none":
            return
        self.query, self.key, self.value = (nn.Linear(embed_dim, settings.dim) for _ in range(3))
        self.output = nn.Linear(settings.dim, embed_dim)
        for layer in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        if settings.kind != "project":  # not a 0-dimensional tensor, which FSDP cannot shard
            self.scale = nn.Parameter(torch.ones(1))

    def forward(self, maps: Sequence[TokenMap]) -> tuple[list[TokenMap], list[Tensor]]:
        """Compute the unique parts of all modalities.

        Args:
            maps: X per modality, two or more (N, L_m, D).

        Returns:
            U per modality (N, L_m, D), and the predictor's losses, one per modality.
        """
        own = [replace(x, values=self.norm(x.values)) for x in maps]
        if self.settings.kind == "none":
            return own, []
        others = own
        if self.settings.detach:
            others = [replace(x, values=x.values.detach()) for x in own]
        if self.settings.kind == "differential":
            return [self._difference(m, own, others) for m in range(len(own))], []
        keys, values = ([replace(y, values=f(y.values)) for y in others] for f in self._kv)
        uniques, losses = [], []
        for m, x in enumerate(own):
            common, place = self._predict(m, x, others, keys, values)
            losses.append(_mean_square(x.values.detach() - common, _both(x.seen, place)))
            uniques.append(replace(x, values=self._without(x.values, common)))
        return uniques, losses

    @property
    def _kv(self) -> tuple[nn.Module, nn.Module]:
        return self.key, self.value

    def _predict(
        self,
        m: int,
        x: TokenMap,
        others: Sequence[TokenMap],
        keys: Sequence[TokenMap],
        values: Sequence[TokenMap],
    ) -> tuple[Tensor, Tensor | None]:
        """Prediction C (N, L, D), and where it exists, bool (N, L); None = everywhere."""
        key, value = _without_host(keys, m), _without_host(values, m)
        seen, whole = join_keys(key)
        k, v = (self._split(torch.cat([y.values for y in ys], dim=1)) for ys in (key, value))
        if self.settings.kind == "content":
            q = self._split(self.query(x.values.detach()))
            common = self.output(merge_heads(attend(q, k, v, seen, whole)))
            place = (
                None if seen is None else seen.any(dim=1, keepdim=True).expand(x.values.shape[:2])
            )
        else:
            here = mean_at(_without_host(others, m), x.grid)
            q = self._split(self.query(here.values))
            # W_v of the mean is the mean of W_v, which is already computed.
            at_place = mean_at(value, x.grid).values
            common = self.output(merge_heads(attend(q, k, v, seen, whole)) + at_place)
            place = here.seen
        if place is not None:
            common = torch.where(place.unsqueeze(2), common, 0.0)
        return common, place

    def _without(self, x: Tensor, common: Tensor) -> Tensor:
        if self.settings.kind != "project":
            return x - self.scale * common
        common = common.float()
        along = (x * common).sum(dim=2, keepdim=True)
        return x - along / (common.square().sum(dim=2, keepdim=True) + _EPS) * common

    def _difference(self, m: int, own: Sequence[TokenMap], others: Sequence[TokenMap]) -> TokenMap:
        x = own[m]
        q, k, v = (self._split(f(x.values)) for f in (self.query, self.key, self.value))
        result = merge_heads(attend(q, k, v, *join_keys([x])))
        crossed, count = torch.zeros_like(result), torch.zeros_like(result[:, :1, :1])
        for guest in _without_host(others, m):
            y = mean_at([guest], x.grid)
            k = self._split(self.key(y.values))
            # Keys are the guest's, values the host's: both must cover data.
            seen = _both(x.seen, y.seen)
            crossed = crossed + merge_heads(attend(q, k, v, seen, x.whole and y.whole))
            there = None if seen is None else seen.any(dim=1)[:, None, None]
            count = count + (1 if there is None else there.to(count.dtype))
        result = result - self.scale * crossed / count.clamp(min=1)
        return replace(x, values=x.values + self.output(result))

    def _split(self, x: Tensor) -> Tensor:
        return split_heads(x, self.settings.heads)


def _without_host(maps: Sequence[TokenMap], host: int) -> list[TokenMap]:
    return [x for n, x in enumerate(maps) if n != host]


def _both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a & b


def _mean_square(x: Tensor, where: Tensor | None) -> Tensor:
    """Mean of squares over the tokens in `where` (N, L); 0 if there are none."""
    squares = x.float().square().mean(dim=2)  # (N, L)
    if where is None:
        return squares.mean()
    return torch.where(where, squares, 0.0).sum() / where.sum().clamp(min=1)

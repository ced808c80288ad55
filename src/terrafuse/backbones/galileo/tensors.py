"""Galileo in its original form: tensors of every kind of group, masks, and tokens in its order.

Reference: as in `terrafuse.backbones.galileo.encoder`. Backbones for maps build only the tokens of
the groups that an image has (`terrafuse.backbones.galileo`); this is the full model, for groups
that are not rasters (weather, location …), months that differ between samples, and comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from terrafuse.backbones.galileo.encoder import PIXEL_SIZE_M, GalileoEncoder
from terrafuse.backbones.galileo.inputs import KINDS, NUM_GROUPS, Group, Kind
from terrafuse.tracing import is_traced


@dataclass(frozen=True)
class GalileoInput:
    """Input of the encoder: samples with channels last, normalised (`scale_of`).

    Args:
        values: "space_time" (N, H, W, T, 13), "space" (N, H, W, 16), "time" (N, T, 6), "static"
            (N, 18).
        hidden: Bool, per group instead of per channel: (N, H, W, T, 7), (N, H, W, 3), (N, T, 3),
            (N, 4); the first pixel of a patch decides.
        months: Int64 (N, T), January = 0.
    """

    values: Mapping[Kind, Tensor]
    hidden: Mapping[Kind, Tensor]
    months: Tensor


@dataclass(frozen=True)
class GalileoOutput:
    """Output of the encoder: tokens at their positions.

    Args:
        tokens: (N, h, w, T, 7, D), (N, h, w, 3, D), (N, T, 3, D), (N, 4, D); where hidden, the
            norm's offset, or 0 without a norm.
        hidden: Bool, as in the input, per token.
    """

    tokens: Mapping[Kind, Tensor]
    hidden: Mapping[Kind, Tensor]

    def mean(self) -> Tensor:
        """Mean of all visible tokens (N, D)."""
        return _visible_mean(*(self._flat(kind) for kind in KINDS))

    def _flat(self, kind: Kind) -> tuple[Tensor, Tensor]:
        return self.tokens[kind].flatten(1, -2), self.hidden[kind].flatten(1)


def encode(
    encoder: GalileoEncoder,
    given: GalileoInput,
    *,
    patch_size: int,
    input_resolution_m: float = PIXEL_SIZE_M,
    exit_after: int | None = None,
    final_norm: bool = True,
) -> GalileoOutput:
    """Encode samples of all groups.

    Args:
        encoder: An encoder with all groups.
        patch_size: p; H and W are multiples of it.
        exit_after: Number of blocks to run; None: all. 0 also omits the codes added to the tokens.
    """
    height, width, dates = given.values["space_time"].shape[1:4]
    encoder.check_grid(height, width, patch_size, dates)
    tokens = project_tokens(encoder, given, patch_size)
    hidden = {kind: _per_token(given.hidden[kind], kind, patch_size) for kind in KINDS}
    depth = len(encoder.blocks) if exit_after is None else exit_after
    if depth:
        codes = added_codes(encoder, given.months, tokens, patch_size * input_resolution_m)
        tokens = {kind: tokens[kind] + codes[kind] for kind in KINDS}
    lengths = [hidden[kind][0].numel() for kind in KINDS]
    x = torch.cat([tokens[kind].flatten(1, -2) for kind in KINDS], dim=1)  # (N, L, D)
    seen = ~torch.cat([hidden[kind].flatten(1) for kind in KINDS], dim=1)  # (N, L)
    for block in encoder.blocks[:depth]:
        x = block(x, None if not is_traced() and bool(seen.all()) else seen)
    x = torch.where(seen.unsqueeze(2), x, 0.0)
    x = encoder.norm(x) if final_norm else x
    parts = x.split(lengths, dim=1)
    placed = {
        kind: part.reshape(*hidden[kind].shape, -1) for kind, part in zip(KINDS, parts, strict=True)
    }
    return GalileoOutput(placed, hidden)


def project_tokens(
    encoder: GalileoEncoder, given: GalileoInput, patch_size: int
) -> dict[Kind, Tensor]:
    """Tokens before any code is added, as in `GalileoOutput`."""
    found: dict[Kind, list[Tensor]] = {kind: [] for kind in KINDS}
    for group in encoder.groups:
        first, count = group.first, len(group.channels)
        values = given.values[group.kind][..., first : first + count]
        found[group.kind].append(_project(encoder, group, values, patch_size))
    return {kind: torch.stack(parts, dim=-2) for kind, parts in found.items()}


def added_codes(
    encoder: GalileoEncoder, months: Tensor, tokens: Mapping[Kind, Tensor], patch_size_m: float
) -> dict[Kind, Tensor]:
    """Codes of group, date, month and position to add to tokens; shaped like them."""
    grid = (tokens["space"].shape[1], tokens["space"].shape[2])
    side = torch.tensor(patch_size_m, device=months.device)
    places = encoder.places(grid, side).movedim(0, 2)  # (h, w, D)
    result: dict[Kind, Tensor] = {}
    for kind in KINDS:
        own = [group for group in encoder.groups if group.kind == kind]
        if kind in ("space_time", "time"):
            of_dates = [
                torch.stack([encoder.code(g, t, month) for g in own], dim=1)
                for t, month in enumerate(months.T)
            ]  # T × (N, G, D)
            codes = torch.stack(of_dates, dim=1)  # (N, T, G, D)
        else:
            codes = torch.stack([encoder.code(g, None, None) for g in own])[None]  # (1, G, D)
        if kind == "space_time":
            codes = codes[:, None, None] + places[:, :, None, None]
        elif kind == "space":
            codes = codes[:, None, None] + places[:, :, None]
        result[kind] = codes.expand_as(tokens[kind])
    return result


def _project(encoder: GalileoEncoder, group: Group, values: Tensor, patch_size: int) -> Tensor:
    """Tokens (N, h, w[, T], D) of images, (N[, T], D) of groups without a position."""
    if group.kind in ("time", "static"):
        return encoder.project(group, values)
    dated = group.kind == "space_time"
    images = values.permute(0, 3, 4, 1, 2) if dated else values.permute(0, 3, 1, 2)[:, None]
    maps = encoder.project(group, images.flatten(0, 1), patch_size)  # (N · T, D, h, w)
    maps = maps.reshape(*images.shape[:2], *maps.shape[1:]).permute(0, 3, 4, 1, 2)
    # (N, h, w, T, D)
    return maps if dated else maps[:, :, :, 0]


def _per_token(hidden: Tensor, kind: Kind, patch_size: int) -> Tensor:
    assert hidden.shape[-1] == NUM_GROUPS[kind]
    return hidden if kind in ("time", "static") else hidden[:, ::patch_size, ::patch_size]


def _visible_mean(*parts: tuple[Tensor, Tensor]) -> Tensor:
    """Mean over L of the tokens (…, L, D) that are not hidden (…, L)."""
    tokens = torch.cat([x for x, _ in parts], dim=-2)
    shown = ~torch.cat([x for _, x in parts], dim=-1).unsqueeze(-1)
    return torch.where(shown, tokens, 0.0).sum(dim=-2) / shown.sum(dim=-2).clamp(min=1)

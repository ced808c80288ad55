"""CROMA: transformers for radar and optical images, and one in which radar attends to optical.

Reference: Fuller, Millard, Green: "CROMA: Remote sensing representations with contrastive
radar-optical masked autoencoders", NeurIPS 2023, arXiv 2311.00566. Weights are MIT.

Ours, not the authors': images of any size and aspect ratio, any bands, maps of single layers, and
the substitute for joint encodings where a sensor is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.backbones.base import Backbone, TokenBackbone, as_map
from terrafuse.backbones.croma.encoder import (
    CROMAVariant,
    DistanceBias,
    JointEncoder,
    SensorEncoder,
    even_layers,
)
from terrafuse.backbones.croma.weights import (
    CROMA_PREFIX,
    SENSOR_BANDS,
    find_variant,
    hub_location,
    load_published,
    split_name,
)
from terrafuse.backbones.family import Family, Request
from terrafuse.backbones.necks import NeckName, choose_out_indices, create_neck
from terrafuse.backbones.sentinel import match_bands, scale_two_sigma
from terrafuse.backbones.timm.models import find_published, refuse_timm
from terrafuse.config.options import check_options
from terrafuse.modalities import Modality
from terrafuse.weights import pretrained_wanted

#: "two_sigma" maps standardised values from ±2 to [0, 1], as in pre-training; "none" keeps them.
Scaling = Literal["two_sigma", "none"]


class CROMASensor(TokenBackbone):
    """The transformer of one sensor, with a neck.

    Args:
        name: "croma_base_optical", "croma_base_sar", or their "large" counterparts.
        modalities: Modalities of the bands, in order; they select the columns of a published stem.
            None: the published bands if their number is equal.
        weights: None = from scratch, "hub" = the published file, else a path.
        out_indices: Blocks whose output is used, counted from 0 (negative: from the end). Default:
            four evenly spaced including the last; with neck "map" the last only.
        neck: "pyramid" makes four levels of strides 2, 4, 8, 16; "map" one of stride 8; "none"
            returns the chosen maps unchanged, all of stride 8.
        neck_channels: Channels of the neck's levels.
        final_norm: Whether the chosen maps pass through the transformer's final norm.
        scaling: Mapping of standardised values, see `Scaling`.
        patch_size: p; default: by name, as for the following, which serve for small models.
        embed_dim: D.
        depth: Layers of the optical transformer; radar's has half as many.
        num_heads: Heads.

    Raises:
        UnknownNameError: No such CROMA.
        ModelError: A block that does not exist, or impossible sizes.
        WeightsError: The weights are missing or do not fit.
    """

    num_prefix_tokens = 0

    def __init__(
        self,
        name: str,
        in_channels: int,
        modalities: Sequence[Modality] | None = None,
        *,
        weights: str | None = None,
        out_indices: Sequence[int] | None = None,
        neck: NeckName = "pyramid",
        neck_channels: int = 256,
        final_norm: bool = True,
        scaling: Scaling = "two_sigma",
        patch_size: int | None = None,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
    ) -> None:
        super().__init__()
        base, sensor = split_name(name)
        refuse_timm(name, weights)
        variant = find_variant(
            base, patch_size=patch_size, embed_dim=embed_dim, depth=depth, num_heads=num_heads
        )
        self.scaling, self.final_norm = scaling, final_norm
        self.patch_size, self.embed_dim = variant.patch_size, variant.embed_dim
        self.out_indices = choose_out_indices(name, variant.layers(sensor), out_indices, neck)
        self.vit = SensorEncoder(in_channels, variant, depth=self.out_indices[-1] + 1)
        self.bias = DistanceBias(variant.num_heads)
        if weights is not None and pretrained_wanted():
            places = {sensor: places_of_bands(sensor, in_channels, modalities)}
            self.pretrained = load_published({sensor: self.vit}, places, name, weights)
        if not final_norm:
            self.vit.norm = nn.Identity()  # type: ignore[assignment]
        made = create_neck(neck, self.embed_dim, self.patch_size, self.out_indices, neck_channels)
        self.pyramid = made.layers
        self.channels, self.strides, self.stride = made.channels, made.strides, made.stride

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks up to the last of `out_indices`."""
        return self.vit.blocks

    def embed(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens (N, L, D) of an image (N, C, H, W), and their grid (h, w)."""
        return self.vit.embed(rescale(image, self.scaling))

    def run_block(self, index: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (N, L, D) after block `index`."""
        bias = self.bias(grid, tokens)
        more = 0 if self.prompts is None else self.prompts(index, tokens.shape[0]).shape[1]
        if more:  # prompts have no position, and so no distance
            bias = F.pad(bias, (more, 0, more, 0))
        return self._beside_prompts(index, tokens, partial(self.blocks[index], bias=bias))

    def to_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens as a map (N, D, h, w), after the final norm if `final_norm`."""
        return self._patches_as_map(self.vit.norm(tokens), grid)

    def neck(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of `out_indices` → levels."""
        return maps if self.pyramid is None else self.pyramid(maps)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The stem, then one group per block; the final norm belongs to the last."""
        return _groups(self.vit.patch_embed, [*self.vit.blocks], self.vit.norm)


@dataclass(frozen=True)
class Encodings:
    """Encodings of a radar and an optical image by CROMA.

    Args:
        sar: Tokens of the radar image (N, L, D).
        optical: Tokens of the optical image (N, L, D).
        joint: Radar tokens after attention to the optical ones (N, L, D).
        grid: Rows and columns of tokens.
    """

    sar: Tensor
    optical: Tensor
    joint: Tensor
    grid: tuple[int, int]


class CROMA(Backbone):
    """Both sensors and the joint transformer, with a neck.

    Args:
        name: "croma_base" or "croma_large".
        sar: Modalities whose stacked bands the radar transformer sees.
        optical: Modalities whose stacked bands the optical transformer sees.
        weights: None = from scratch, "hub" = the published file, else a path.
        features: Source of the levels: "joint" takes layers of the joint transformer, "concat" the
            last maps of radar, optical and joint, concatenated.
        out_indices: Layers of the joint transformer whose output is used, counted from 0; the last
            is normalised. Default: four evenly spaced. Not with "concat".
        neck: As in `CROMASensor`.
        neck_channels: Channels of the neck's levels.
        scaling: Mapping of standardised values, see `Scaling`.
        patch_size: p; default: by name, as for the following, which serve for small models.
        embed_dim: D.
        depth: Layers of the optical transformer; the two others have half as many.
        num_heads: Heads.
    """

    def __init__(
        self,
        name: str,
        sar: Sequence[Modality],
        optical: Sequence[Modality],
        weights: str | None = None,
        features: Literal["joint", "concat"] = "joint",
        *,
        out_indices: Sequence[int] | None = None,
        neck: NeckName = "pyramid",
        neck_channels: int = 256,
        scaling: Scaling = "two_sigma",
        patch_size: int | None = None,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
    ) -> None:
        super().__init__()
        refuse_timm(name, weights)
        variant = find_variant(
            name, patch_size=patch_size, embed_dim=embed_dim, depth=depth, num_heads=num_heads
        )
        self.features, self.scaling = features, scaling
        joint = variant.layers("joint")
        self.out_indices = choose_out_indices(
            name, joint, [-1] if features == "concat" else out_indices, neck
        )
        bands = {
            "sar": sum(len(m.bands) for m in sar),
            "optical": sum(len(m.bands) for m in optical),
        }
        self.bands = bands
        self.sar, self.optical = (
            SensorEncoder(bands[part], variant, variant.layers(part)) for part in bands
        )
        self.joint = JointEncoder(variant, self.out_indices[-1] + 1)
        self.bias = DistanceBias(variant.num_heads)
        self._set_neck(variant, neck, neck_channels)
        if weights is not None and pretrained_wanted():
            places = {
                part: places_of_bands(part, bands[part], own)
                for part, own in (("sar", sar), ("optical", optical))
            }
            parts = {"sar": self.sar, "optical": self.optical, "joint": self.joint}
            self.pretrained = load_published(parts, places, name, weights)

    def _set_neck(self, variant: CROMAVariant, neck: NeckName, channels: int) -> None:
        width = variant.embed_dim * (3 if self.features == "concat" else 1)
        made = create_neck(neck, width, variant.patch_size, self.out_indices, channels)
        self.pyramid = made.layers
        self.channels, self.strides, self.stride = made.channels, made.strides, made.stride

    def forward(self, image: Tensor) -> list[Tensor]:
        """Levels of an image of both sensors: radar bands first, then optical."""
        sar, optical = torch.tensor_split(image, (self.bands["sar"],), dim=1)
        everywhere = image.new_ones(image.shape[0], dtype=torch.bool)
        return self.see(sar, optical, everywhere, everywhere)

    def see(
        self, sar: Tensor, optical: Tensor, has_sar: Tensor, has_optical: Tensor
    ) -> list[Tensor]:
        """Levels where samples may lack a sensor.

        For a sample that lacks one, "joint" takes the maps of the other sensor's own layers,
        "concat" zeros for the missing parts.

        Args:
            sar: Standardised (N, C, H, W).
            optical: Likewise.
            has_sar: Bool (N,).
            has_optical: Bool (N,).

        Returns:
            Levels, fine → coarse.
        """
        count = len(self.out_indices)
        tokens, grid = self.sar.embed(self.rescale(sar))
        radar = self._run_layers(self.sar, tokens, grid, count)
        tokens, _ = self.optical.embed(self.rescale(optical))
        colour = self._run_layers(self.optical, tokens, grid, count)
        joint = self._run_layers(self.joint, radar[-1], grid, count, colour[-1])
        has = [flags[:, None, None] for flags in (has_sar, has_optical, has_sar & has_optical)]
        if self.features == "concat":
            last = (radar[-1], colour[-1], joint[-1])
            shown = [torch.where(there, x, 0.0) for there, x in zip(has, last, strict=True)]
            chosen = [torch.cat(shown, dim=2)]
        else:
            chosen = [
                torch.where(has[2], j, torch.where(has[0], r, o))
                for r, o, j in zip(radar, colour, joint, strict=True)
            ]
        maps = [as_map(x, grid) for x in chosen]
        return maps if self.pyramid is None else self.pyramid(maps)

    def encode(self, sar: Tensor, optical: Tensor) -> Encodings:
        """Final encodings of both sensors and the joint ones, for images (N, C, H, W)."""
        tokens, grid = self.sar.embed(self.rescale(sar))
        bias = self.bias(grid, tokens)
        radar = self.sar(tokens, bias)
        colour = self.optical(self.optical.embed(self.rescale(optical))[0], bias)
        return Encodings(radar, colour, self.joint(radar, colour, bias), grid)

    def rescale(self, image: Tensor) -> Tensor:
        """Map standardised values (N, C, H, W) according to `scaling`."""
        return rescale(image, self.scaling)

    def _run_layers(
        self,
        encoder: SensorEncoder | JointEncoder,
        tokens: Tensor,
        grid: tuple[int, int],
        count: int,
        *context: Tensor,
    ) -> list[Tensor]:
        """Tokens (N, L, D) after `count` layers, the last of them normalised."""
        bias = self.bias(grid, tokens)
        wanted = self.out_indices if context else even_layers(len(encoder.blocks), count)
        kept = {}
        for index, block in enumerate(encoder.blocks):
            tokens = self._run(block, tokens, *context, bias)
            kept[index] = tokens
        return [*(kept[index] for index in wanted[:-1]), encoder.norm(tokens)]

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Stems, layers of both sensors, layers of the joint transformer; norms with the last."""
        stems = [*self.sar.patch_embed.parameters(), *self.optical.patch_embed.parameters()]
        own = [list(block.parameters()) for block in self.optical.blocks]
        # Radar has half as many layers; both end together.
        for index, block in enumerate(reversed(self.sar.blocks)):
            own[-1 - min(2 * index, len(own) - 1)] += block.parameters()
        own[-1] += [*self.sar.norm.parameters(), *self.optical.norm.parameters()]
        joint = [list(block.parameters()) for block in self.joint.blocks]
        joint[-1] += self.joint.norm.parameters()
        return [stems, *own, *joint]


def rescale(image: Tensor, scaling: Scaling) -> Tensor:
    """Map standardised values (N, C, H, W) to CROMA's range, or return them unchanged."""
    return scale_two_sigma(image) if scaling == "two_sigma" else image


def places_of_bands(
    sensor: str, in_channels: int, modalities: Sequence[Modality] | None
) -> list[int | None]:
    """Index of each band of an image among the bands of a published stem, or None."""
    known = SENSOR_BANDS[sensor]
    same = list(range(len(known))) if in_channels == len(known) else [None] * in_channels
    if modalities is None:
        return list(same)
    found = match_bands(modalities, known)
    # Unidentified bands are taken for the published ones if their number is equal.
    return found if any(place is not None for place in found) else list(same)


def _groups(
    stem: nn.Module, blocks: Sequence[nn.Module], norm: nn.Module
) -> list[list[nn.Parameter]]:
    groups = [list(block.parameters()) for block in blocks]
    groups[-1] += norm.parameters()
    return [list(stem.parameters()), *groups]


def _create(request: Request) -> CROMASensor:
    checked = check_options("backbone", request.name, CROMASensor, request.options)
    return CROMASensor(
        request.name, request.in_channels, request.modalities, weights=request.weights, **checked
    )


#: Transformers of single sensors; names of both together are for method "croma".
FAMILY = Family(
    examples={"CROMA": ("croma_base_optical", "croma_base_sar", "croma_large_optical")},
    kind="tokens",
    backbone=CROMASensor,
    owns=lambda name: name.startswith(CROMA_PREFIX),
    create=_create,
    licence=lambda name: find_published(hub_location(name))[1],
    hub_location=hub_location,
)

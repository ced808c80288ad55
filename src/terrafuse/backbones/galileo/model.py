"""Galileo as levels: one pass per modality, or all modalities in one sequence of tokens.

Reference: Tseng et al., "Galileo: Learning global and local features in pretrained remote sensing
models", ICML 2025, arXiv 2502.09356. Weights are MIT.

Ours, not the authors': levels and necks, maps of single modalities, images of any size and aspect
ratio, hidden positions, the reference response, slope from elevation, conversion of units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, cast

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm2d
from torch import Tensor, nn

from terrafuse.backbones.base import TokenBackbone
from terrafuse.backbones.family import Family, Request
from terrafuse.backbones.galileo.encoder import GalileoEncoder
from terrafuse.backbones.galileo.inputs import plan_bands
from terrafuse.backbones.galileo.reading import BandReader
from terrafuse.backbones.galileo.tokenize import (
    TokenizedImage,
    check_image_options,
    in_order,
    join_images,
    less,
    mean_maps,
    months_of,
    tokenize_image,
)
from terrafuse.backbones.galileo.weights import (
    GALILEO_PREFIX,
    find_variant,
    hub_location,
    load_published,
)
from terrafuse.backbones.necks import NeckName, RawStem, choose_out_indices, create_neck
from terrafuse.backbones.timm.models import find_published, refuse_timm
from terrafuse.config.options import check_options
from terrafuse.errors import UnknownNameError, unknown_name
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.tracing import is_traced
from terrafuse.weights import pretrained_wanted

#: Value of every channel in the reference image: the mean of pre-training.
_NOTHING = 0.5


class Galileo(TokenBackbone):
    """Galileo's transformer with a neck.

    A position (patch) has a token per group of channels and date; maps are the mean over them.
    Images arrive standardised; `set_statistics` gives the statistics, by default those of
    pre-training.

    Args:
        name: "galileo_nano", "galileo_tiny" or "galileo_base".
        modalities: Modalities of the bands, in order; bands are identified by name or wavelength.
            A band at several dates is several bands ("B02_t1", "B02_t2"), dates in order.
        weights: None = from scratch, "hub" = the published file, else its path or folder.
        out_indices: Blocks whose output is used, counted from 0 (negative: from the end). Default:
            four evenly spaced including the last; with neck "map" the last only.
        neck: "pyramid" makes four levels of strides p/2, p, 2p, 4p (from 1 with p = 1); "map" one
            of stride p; "none" returns the chosen maps unchanged, all of stride p.
        neck_channels: Channels of the neck's levels.
        final_norm: Whether the last of `out_indices` passes through the transformer's final norm.
            Earlier ones have norms of their own, or with neck "none" the final one too.
        patch_size: p, 1 to 8: smaller is finer, at four times the cost per halving.
        month: Month of the images, 1 to 12; with several dates one for all or one each. Default:
            July, as in the authors' evaluation.
        input_resolution_m: Pixel size of the images; None: from the scenes' grids.
        ndvi: Whether to compute NDVI as a further channel where red and near infrared exist.
        subtract_reference: Whether to subtract from every map the response to an image that is
            constant at the mean of pre-training: most of a token's content is its position.
        stem_channels: Channels of an additional first level of stride 1, computed from the image
            itself; 0: none.
        scaling: "published" scales physical values by the table of pre-training and refuses values
            on another scale; "data" uses the data set's own mean and standard deviation instead,
            for values that are not reflectances or decibels.
        drop_path_rate: Probability of skipping a branch of a block in training; the authors
            fine-tune with 0.1.
        embed_dim: D; default: by name, as for the following, which serve for small models.
        depth: Number of blocks.
        num_heads: Heads.
        mlp_ratio: Hidden width of the MLPs, relative to D.

    Raises:
        UnknownNameError: No such Galileo.
        ModelError: Unknown bands, or an impossible block, size, patch size or month.
        WeightsError: The weights are missing or do not fit.
    """

    num_prefix_tokens = 0

    def __init__(
        self,
        name: str,
        in_channels: int,
        modalities: Sequence[Modality],
        *,
        weights: str | None = None,
        out_indices: Sequence[int] | None = None,
        neck: NeckName = "pyramid",
        neck_channels: int = 256,
        final_norm: bool = True,
        patch_size: int = 4,
        month: int | tuple[int, ...] = 7,
        input_resolution_m: float | None = None,
        ndvi: bool = False,
        subtract_reference: bool = False,
        stem_channels: int = 0,
        scaling: Literal["published", "data"] = "published",
        drop_path_rate: float = 0.0,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        mlp_ratio: float | None = None,
    ) -> None:
        super().__init__()
        refuse_timm(name, weights)
        variant = find_variant(
            name, embed_dim=embed_dim, depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio
        )
        plans = {m.name: plan_bands(name, m, ndvi=ndvi) for m in modalities}
        self.readers = nn.ModuleDict(
            {
                m.name: BandReader(name, m, plans[m.name], looks=scaling == "published")
                for m in modalities
            }
        )
        check_image_options(name, in_channels, modalities, patch_size, input_resolution_m)
        self.scaling = scaling
        self.patch_size, self.embed_dim = patch_size, variant.embed_dim
        self.subtract_reference, self.fixed_pixel_size = subtract_reference, input_resolution_m
        self.months = months_of(name, month, max(plan.dates for plan in plans.values()))
        self.out_indices = choose_out_indices(name, variant.depth, out_indices, neck)
        groups = {slot.group.name for plan in plans.values() for slot in plan.slots}
        self.vit = GalileoEncoder(variant, groups, self.out_indices[-1] + 1, drop_path_rate)
        self.vit.check_grid(0, 0, patch_size, len(self.months))
        if weights is not None and pretrained_wanted():
            self.pretrained = load_published(self.vit, name, variant, weights)
        if not final_norm:
            self.vit.norm = nn.Identity()  # type: ignore[assignment]
        own = 0 if neck == "none" else len(self.out_indices) - final_norm
        self.tap_norms = nn.ModuleList(LayerNorm2d(self.embed_dim) for _ in range(own))
        scales = (2.0, 1.0, 0.5, 0.25) if patch_size > 1 else (1.0, 0.5, 0.25, 0.125)
        made = create_neck(
            neck, self.embed_dim, patch_size, self.out_indices, neck_channels, scales=scales
        )
        self.pyramid, self.stride = made.layers, made.stride
        self.stem = RawStem(in_channels, stem_channels) if stem_channels else None
        first = (stem_channels,) if stem_channels else ()
        self.channels = (*first, *made.channels)
        self.strides = (*(1 for _ in first), *made.strides)
        self.set_pixel_sizes({})

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks up to the last of `out_indices`."""
        return self.vit.blocks

    def set_statistics(self, statistics: Mapping[str, BandStatistics]) -> None:
        """Set how images were standardised, and check that their values are on Galileo's scale.

        Raises:
            BandError: They are not; says what they look like and what to write in the manifest.
        """
        for name in self.readers:
            if name in statistics and self.scaling == "published":
                self._reader(name).set_statistics(statistics[name])

    def set_pixel_sizes(self, metres: Mapping[str, float]) -> None:
        """Set the pixel size of the images, unless the option fixes it."""
        for name in self.readers:
            size = self.fixed_pixel_size or metres.get(name)
            if size:
                self._reader(name).get_buffer("pixel_size_m").fill_(size)

    def forward(self, image: Tensor, bands: str | None = None) -> list[Tensor]:
        """Levels, fine → coarse, of an image of all modalities, or of the named one."""
        maps = [joint for joint, _ in self._maps(self.tokenize(image, bands))]
        return self.to_levels(maps, image)

    def see(
        self, images: Mapping[str, Tensor], valid: Mapping[str, Tensor], *, apart: bool = False
    ) -> list[Tensor]:
        """Maps before the neck, of all modalities in one sequence of tokens.

        Missing data are masked: their tokens are neither keys of the attention nor part of a mean.

        Args:
            images: Per modality standardised (N, C_m, H, W), all of one size.
            valid: Per modality bool (N, 1, H, W); a patch is seen where any of its pixels is valid.
            apart: Whether each modality gets a map of its own.

        Returns:
            Per entry of `out_indices` (N, D, h, w), or (N, M, D, h, w) if `apart`; 0 where nothing
            is seen.
        """
        masks = {name: F.max_pool2d(v.float(), self.patch_size) > 0 for name, v in valid.items()}
        names = list(self.readers)
        if not is_traced():
            names = [name for name in names if bool(masks[name].any())] or names
        parts = [self.tokenize(images[name], name) for name in names]
        out_indices = self._maps(join_images(parts, [masks[name] for name in names]))
        maps = [
            in_order(own, names, self.readers) if apart else joint for joint, own in out_indices
        ]
        if self.training and len(names) < len(self.readers):
            # Distributed training waits for gradients of parts that no sample used.
            maps[0] = maps[0] + sum((p.sum() * 0 for p in self.vit.parameters()), 0.0)
        return maps

    def to_levels(self, maps: Sequence[Tensor], image: Tensor) -> list[Tensor]:
        """Maps of `out_indices` (N, D, h, w) and their image → levels."""
        levels = self.neck(list(maps))
        return levels if self.stem is None else [self.stem(image), *levels]

    def tokenize(self, image: Tensor, bands: str | None = None) -> TokenizedImage:
        """Split an image (N, C, H, W) into the values of its groups; see `embed`."""
        names = list(self.readers) if bands is None else [bands]
        if not set(names) <= set(self.readers):
            raise UnknownNameError(unknown_name("modality", names[0], list(self.readers)))
        readers = [self._reader(name) for name in names]
        return tokenize_image(self.vit, readers, image, self.patch_size)

    def embed(self, image: Tensor, bands: str | None = None) -> tuple[Tensor, tuple[int, int]]:
        """Embed an image as tokens with codes of group, date, month and position.

        Args:
            image: Standardised (N, C, H, W); H and W multiples of `patch_size`.
            bands: Name of the image's modality; None: all of them, stacked.

        Returns:
            Tokens (N, h · w · G, D), the G of a position consecutive, and the grid (h, w).
        """
        return self._embed(self.tokenize(image, bands))

    def run_block(
        self,
        index: int,
        tokens: Tensor,
        grid: tuple[int, int],  # noqa: ARG002
        seen: Tensor | None = None,
    ) -> Tensor:
        """Tokens (N, L, D) after block `index`; only tokens in `seen`, bool (N, L), are keys."""
        if seen is not None and self.prompts is not None:
            more = self.prompts(index, tokens.shape[0]).shape[1]
            seen = F.pad(seen, (more, 0), value=True)
        return self._beside_prompts(index, tokens, partial(self.blocks[index], seen=seen))

    def at_places(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Mean of the tokens of each position between blocks, (N, h · w, D)."""
        return _by_place(tokens, grid).mean(dim=2)

    def add_at_places(self, tokens: Tensor, added: Tensor, grid: tuple[int, int]) -> Tensor:
        """Add `added` (N, h · w, D) to all tokens of each position."""
        return (_by_place(tokens, grid) + added.unsqueeze(2)).flatten(1, 2)

    def to_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Mean of the tokens of each position as a map (N, D, h, w), after the final norm."""
        places = self.at_places(self._normalize(tokens), grid)
        return places.transpose(1, 2).reshape(places.shape[0], -1, *grid)

    def neck(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of `out_indices` → levels."""
        early = [norm(x) for norm, x in zip(self.tap_norms, maps, strict=False)]
        maps = [*early, *maps[len(early) :]]
        return maps if self.pyramid is None else self.pyramid(maps)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Embeddings, then one group per block; the final norm belongs to the last."""
        blocks = [list(block.parameters()) for block in self.blocks]
        blocks[-1] += self.vit.norm.parameters()
        later = {id(parameter) for group in blocks for parameter in group}
        return [[p for p in self.vit.parameters() if id(p) not in later], *blocks]

    def no_weight_decay(self) -> set[str]:
        """Return the names of the group embeddings."""
        return {n for n, _ in self.named_parameters() if n.endswith("_channel_embed")}

    def _normalize(self, tokens: Tensor) -> Tensor:
        normalized: Tensor = self.vit.norm(tokens)
        return normalized

    def _reader(self, name: str) -> BandReader:
        return cast(BandReader, self.readers[name])

    def _embed(self, shown: TokenizedImage) -> tuple[Tensor, tuple[int, int]]:
        maps = []
        for slot, values, places in zip(shown.slots, shown.values, shown.codes, strict=True):
            patches = self.vit.project(slot.group, values, self.patch_size)  # (N, D, h, w)
            dated = slot.group.kind == "space_time"
            when = (slot.date, self.months[slot.date]) if dated else (None, None)
            code = self.vit.code(slot.group, *when)
            maps.append(patches + (code[:, None, None] + places))
        together = torch.stack(maps, dim=1)  # (N, G, D, h, w)
        grid = (together.shape[3], together.shape[4])
        return together.permute(0, 3, 4, 1, 2).flatten(1, 3), grid

    def _maps(self, shown: TokenizedImage) -> list[tuple[Tensor, list[Tensor]]]:
        """Per entry of `out_indices`, the joint map (N, D, h, w), and one per modality."""
        maps = self._plain_maps(shown)
        if not self.subtract_reference:
            return maps
        reference = self._reference(shown)
        return [
            (less(joint, none), [less(*pair) for pair in zip(own, nones, strict=True)])
            for (joint, own), (none, nones) in zip(maps, reference, strict=True)
        ]

    def _plain_maps(self, shown: TokenizedImage) -> list[tuple[Tensor, list[Tensor]]]:
        tokens, grid = self._embed(shown)
        keys = None if shown.seen is None else shown.seen.flatten(1)
        found = []
        for index in range(len(self.blocks)):
            tokens = self._run(self.run_block, index, tokens, grid, keys)
            if index in self.out_indices:
                early = self.out_indices.index(index) < len(self.tap_norms)
                x = tokens if early else self._normalize(tokens)
                found.append(mean_maps(_by_place(x, grid), grid, shown))
        return found

    @torch.no_grad()
    def _reference(self, shown: TokenizedImage) -> list[tuple[Tensor, list[Tensor]]]:
        """Maps of a constant image, in evaluation mode and without gradients.

        One sample per modality side by side in the batch, or all samples where data are missing.
        """
        samples = self.num_modalities if shown.seen is None else shown.values[0].shape[0]
        same = tuple(
            torch.full_like(x[:1], _NOTHING).expand(samples, -1, -1, -1) for x in shown.values
        )
        drops = [m for m in self.vit.modules() if isinstance(m, DropPath) and m.training]
        for module in drops:
            module.eval()
        maps = self._plain_maps(
            TokenizedImage(shown.slots, same, shown.counts, shown.codes, shown.seen)
        )
        for module in drops:
            module.train()
        return maps


def _by_place(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (N, L, D) as (N, h · w, G, D)."""
    return tokens.reshape(tokens.shape[0], grid[0] * grid[1], -1, tokens.shape[2])


def _create(request: Request) -> Galileo:
    known = request.known_modalities()
    checked = check_options("backbone", request.name, Galileo, request.options)
    channels = request.in_channels if request.one_image else sum(len(m.bands) for m in known)
    return Galileo(request.name, channels, known, weights=request.weights, **checked)


FAMILY = Family(
    examples={"Galileo": ("galileo_nano", "galileo_tiny", "galileo_base")},
    kind="tokens",
    backbone=Galileo,
    owns=lambda name: name.startswith(GALILEO_PREFIX),
    create=_create,
    licence=lambda name: find_published(hub_location(name))[1],
    hub_location=hub_location,
    knows_bands=True,
)

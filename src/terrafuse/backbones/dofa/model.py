"""DOFA: one transformer for images of any bands, identified by their wavelengths.

Reference: Xiong et al., "Neural plasticity-inspired foundation model for observing the Earth
crossing modalities" (DOFA), 2024, arXiv 2403.15356. Own code on timm's blocks, written from a
description of the published model and numerically equal to it; the weights are CC-BY-4.0.

Ours, not the authors': positions for images of any size, bands without a wavelength, `wave_delta`,
one radar band repeated as two, and wavelengths snapped to those of pre-training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from math import sqrt
from typing import Any, Self

import torch
from torch import Tensor, nn

from terrafuse.backbones.base import TokenBackbone
from terrafuse.backbones.dofa.encoder import (
    DOFA_PREFIX,
    DOFAEncoder,
    check_weights,
    find_variant,
    hub_location,
    licence_of,
    load_published,
)
from terrafuse.backbones.family import ALL_BANDS, Family, Request
from terrafuse.backbones.necks import NeckName, choose_out_indices, create_neck
from terrafuse.backbones.wavelengths import (
    SAR_UM,
    SEEN_UM,
    START_UM,
    WavelengthPolicy,
    band_codes,
    snap_wavelength,
)
from terrafuse.config.options import check_options
from terrafuse.errors import InputShapeError, ModelError, UnknownNameError, unknown_name
from terrafuse.tracing import is_traced
from terrafuse.weights import pretrained_wanted

#: Standard deviation of the initial offset of a band that DOFA could not distinguish from another:
#: from scratch, and with pretrained weights as a share of the RMS of the embeddings.
#: docs/methods/dofa.md has the measurement.
OFFSET_STD = 1.0
PUBLISHED_OFFSET_STD = 0.1
#: Learning rate of offsets, relative to the rest.
OFFSET_LR_FACTOR = 10.0


class DOFA(TokenBackbone):
    """One encoder for several band sets, with a neck.

    A set's kernels are cached while they cannot change: if everything they depend on is frozen, and
    during prediction.

    Args:
        name: One of `VARIANTS`.
        band_sets: Per band set that images may have, by name, the code of each band: a wavelength
            in micrometres (radar: `SAR_UM`), or None for a band without one. Such a band's
            embedding is a parameter; it starts as red light and is always trained, whatever the
            tuning. See `band_codes`.
        weights: None = from scratch, "hub" = the published file, else a path.
        out_indices: Blocks whose output is used, counted from 0 (negative: from the end). Default:
            four evenly spaced including the last; with neck "map" the last only. Maps have no
            final norm: published files do not contain it.
        neck: "pyramid" makes four levels of strides p/4, p/2, p, 2p; "map" one of stride p;
            "none" returns the chosen maps unchanged, all of stride p.
        neck_channels: Channels of the neck's levels.
        wave_delta: Whether each band of a set has an offset to its embedding, always trained,
            whatever the tuning; None: only in sets where bands share a wavelength (VV and VH, two
            dates), which otherwise enter as their sum, as published. The first band of a
            wavelength starts at 0, the others at random values with standard deviation
            `OFFSET_STD` (from scratch) or `PUBLISHED_OFFSET_STD` × the RMS of the embeddings.
        repeat_single_sar: Whether a single radar band enters as two equal ones, divided by √2:
            pre-training always had two.
        wavelengths: "snap" replaces wavelengths by those of pre-training (`snap_wavelength`),
            "exact" keeps them.
        img_size: Side of the images for which positions are stored, as in the published weights;
            for other sizes they are interpolated.
        patch_size: p; default: by name, as for the following, which serve for small models.
        embed_dim: D.
        depth: Number of blocks.
        num_heads: Heads of the blocks.
        dynamic_embed_dim: Width of the band embeddings.

    Raises:
        UnknownNameError: No such DOFA.
        ModelError: A block that does not exist, or an impossible size or wavelength.
        WeightsError: The weights are missing or do not fit.
    """

    has_final_norm = False
    takes_any_tokens = True

    def __init__(
        self,
        name: str,
        band_sets: Mapping[str, Sequence[float | None]],
        *,
        weights: str | None = None,
        out_indices: Sequence[int] | None = None,
        neck: NeckName = "pyramid",
        neck_channels: int = 256,
        wave_delta: bool | None = False,
        repeat_single_sar: bool = True,
        wavelengths: WavelengthPolicy = "snap",
        img_size: int = 224,
        patch_size: int | None = None,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        dynamic_embed_dim: int | None = None,
    ) -> None:
        super().__init__()
        check_weights(name, weights)
        sizes: dict[str, int | None] = {
            "img_size": img_size, "patch_size": patch_size, "embed_dim": embed_dim,
            "depth": depth, "num_heads": num_heads, "width": dynamic_embed_dim,
        }  # fmt: skip
        given: dict[str, Any] = {key: size for key, size in sizes.items() if size is not None}
        variant = replace(find_variant(name), **given)
        self.band_sets = _check_sets(name, band_sets, wavelengths)
        self.patch_size, self.embed_dim = variant.patch_size, variant.embed_dim
        self.num_prefix_tokens = 1
        self.out_indices = choose_out_indices(name, variant.depth, out_indices, neck)
        self.vit = DOFAEncoder(variant, depth=self.out_indices[-1] + 1)
        if weights is not None and pretrained_wanted():
            self.pretrained = load_published(self.vit, name, variant, weights)
        sar = (SAR_UM[variant.version],)
        self.repeated = {
            n for n, set_ in self.band_sets.items() if repeat_single_sar and set_ == sar
        }
        self.pseudo_bands = self._start_pseudo_bands()
        self.wave_delta = nn.ParameterDict(
            {
                n: self._start_offsets(set_)
                for n, set_ in self.band_sets.items()
                if wave_delta or (wave_delta is None and self.alike_bands(n))
            }
        )
        made = create_neck(neck, self.embed_dim, self.patch_size, self.out_indices, neck_channels)
        self.pyramid = made.layers
        self.channels, self.strides, self.stride = made.channels, made.strides, made.stride
        # Per set: state of the values it depends on, kernel, bias.
        self._kept: dict[str, tuple[object, Tensor, Tensor]] = {}

    def tells_apart(self, bands: str) -> bool:
        """Tell whether the bands of a set have offsets."""
        return bands in self.wave_delta

    def values_of_bands(self) -> dict[str, dict[str, Sequence[int]]]:
        """Embeddings of bands without a wavelength, and offsets of all bands of some sets."""
        sets = self.band_sets
        pseudo = {n: [i for i, um in enumerate(sets[n]) if um is None] for n in self.pseudo_bands}
        return {
            "pseudo_bands.": dict(pseudo),
            "wave_delta.": {n: range(len(sets[n])) for n in self.wave_delta},
        }

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks up to the last of `out_indices`."""
        return self.vit.blocks

    def forward(self, image: Tensor, bands: str | None = None) -> list[Tensor]:
        """Levels, fine → coarse, of an image with the band set `bands`; None: the only set."""
        return self._levels(*self.embed(image, bands))

    def embed(self, image: Tensor, bands: str | None = None) -> tuple[Tensor, tuple[int, int]]:
        """Tokens with positions.

        Args:
            image: Normalised (N, C, H, W); H and W multiples of `patch_size`.
            bands: Name of its band set; None: the only one.

        Returns:
            Tokens (N, 1 + h · w, D), the class token first, and the grid (h, w).

        Raises:
            InputShapeError: Wrong number of bands, or sides not divisible by the patch size.
            ModelError: No name given where there are several sets.
        """
        chosen = self._set_of(bands)
        self._check_image(image, chosen)
        kernel, bias = self.kernel(chosen)
        if chosen in self.repeated:
            image = image.expand(-1, 2, -1, -1) / sqrt(2)
        patches = self.vit.patch_embed(image, kernel, bias)  # (N, D, h, w)
        return self.vit.add_positions(patches), (patches.shape[2], patches.shape[3])

    def kernel(self, bands: str | None = None) -> tuple[Tensor, Tensor]:
        """Kernel (D, C, p, p) and bias (D) for a band set; a repeated band counts twice."""
        chosen = self._set_of(bands)
        values = [*self.vit.patch_embed.parameters(), *self._own_values(chosen)]
        if not self._may_keep(values):
            return self._make_kernel(chosen)
        state = tuple((v.data_ptr(), v._version, v.dtype, v.device) for v in values)
        kept = self._kept.get(chosen)
        if kept is None or kept[0] != state:
            # A kernel cached during prediction may serve a training step later.
            with torch.inference_mode(False), torch.no_grad():
                kept = (state, *self._make_kernel(chosen))
            self._kept[chosen] = kept
        return kept[1], kept[2]

    def run_block(self, index: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:  # noqa: ARG002
        """Tokens (N, L, D) after block `index`."""
        return self._beside_prompts(index, tokens, self.blocks[index])

    def to_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patch tokens as a map (N, D, h, w), without a norm."""
        return self._patches_as_map(tokens, grid)

    def neck(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of `out_indices` → levels."""
        return maps if self.pyramid is None else self.pyramid(maps)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The embedding, then one group per block; our additions (bands, deltas) are in none."""
        named = self.vit.named_parameters()
        embedding = [p for name, p in named if not name.startswith("blocks.")]
        return [embedding, *(list(block.parameters()) for block in self.blocks)]

    def no_weight_decay(self) -> set[str]:
        """Return the names of the band embeddings and offsets."""
        return {n for n, _ in self.named_parameters() if n.startswith(("pseudo_", "wave_delta"))}

    def lr_factors(self) -> dict[str, float]:
        """Train band offsets faster: kernels respond only to large ones."""
        return {"wave_delta": OFFSET_LR_FACTOR} if self.wave_delta else {}

    def values_before(self) -> dict[str, Tensor]:
        """Offsets implied by runs saved without them: 0."""
        return {f"wave_delta.{n}": torch.zeros_like(p) for n, p in self.wave_delta.items()}

    def train(self, mode: bool = True) -> Self:
        """Set the mode and drop cached kernels.

        Averaged weights are swapped in place between the two modes, which the tensors' versions do
        not show.
        """
        self._kept.clear()
        return super().train(mode)

    def _make_kernel(self, bands: str) -> tuple[Tensor, Tensor]:
        device = self.vit.cls_token.device
        is_cast = torch.amp.is_autocast_available(device.type)
        with torch.autocast(device.type, enabled=False) if is_cast else nullcontext():
            return self.vit.patch_embed.make_kernel(self._waves(bands))

    def _waves(self, bands: str) -> Tensor:
        """Embeddings (C, d) of the bands of a set."""
        codes = self.band_sets[bands]
        known = [um for um in codes if um is not None]
        device = self.vit.cls_token.device
        # Even without wavelengths, the layers that embed them get a gradient, of 0.
        waves = self.vit.patch_embed.embed_wavelengths(torch.tensor(known, device=device))
        if bands in self.pseudo_bands:
            of_known, of_pseudo = iter(range(len(known))), iter(range(len(known), len(codes)))
            order = [next(of_pseudo if um is None else of_known) for um in codes]
            waves = torch.cat([waves, self.pseudo_bands[bands]])[order]
        if bands in self.wave_delta:
            waves = waves + self.wave_delta[bands]
        return waves.expand(2, -1) if bands in self.repeated else waves

    def _may_keep(self, values: Sequence[Tensor]) -> bool:
        if is_traced() or values[0].is_meta or values[0].is_inference():
            return False
        predicts = not self.training and not torch.is_grad_enabled()
        return predicts or not any(value.requires_grad for value in values)

    def _own_values(self, bands: str) -> list[Tensor]:
        return [found[bands] for found in (self.pseudo_bands, self.wave_delta) if bands in found]

    @torch.no_grad()
    def _start_pseudo_bands(self) -> nn.ParameterDict:
        """Initial embeddings (bands, d) of bands without a wavelength, per set that has some."""
        start = self.vit.patch_embed.embed_wavelengths(torch.tensor([START_UM]))  # (1, d)
        found = {}
        for name, set_ in self.band_sets.items():
            alike = [a for a, um in zip(find_alike(set_), set_, strict=True) if um is None]
            if alike:
                found[name] = start + self._draw_offsets(alike)
        return nn.ParameterDict(found)

    def _start_offsets(self, codes: Sequence[float | None]) -> Tensor:
        """Initial offsets (C, d) of a set; 0 for bands without a wavelength."""
        alike = find_alike(codes)
        return self._draw_offsets(
            [a and um is not None for a, um in zip(alike, codes, strict=True)]
        )

    @torch.no_grad()
    def _draw_offsets(self, alike: Sequence[bool]) -> Tensor:
        """Draw offsets (C, d): random for bands that are `alike` an earlier one, else 0."""
        width = self.vit.patch_embed.fclayer.w1.in_features
        offsets = torch.zeros(len(alike), width)
        if any(alike):
            std = OFFSET_STD
            if self.pretrained is not None:
                typical = self.vit.patch_embed.embed_wavelengths(torch.tensor(SEEN_UM))
                std = PUBLISHED_OFFSET_STD * typical.square().mean().sqrt().item()
            offsets[torch.tensor(alike)] = std * torch.randn(sum(alike), width)
        return offsets

    def _set_of(self, bands: str | None) -> str:
        if bands is None and len(self.band_sets) == 1:
            return next(iter(self.band_sets))
        if bands is None:
            raise ModelError(
                f"this DOFA has several sets of bands ({', '.join(self.band_sets)}); say which "
                "one the image has"
            )
        if bands not in self.band_sets:
            raise UnknownNameError(unknown_name("set of bands", bands, self.band_sets))
        return bands

    def _check_image(self, image: Tensor, bands: str) -> None:
        wanted, p = len(self.band_sets[bands]), self.patch_size
        height, width = image.shape[-2:]
        if image.ndim == 4 and image.shape[1] == wanted and height % p == 0 == width % p:
            return
        raise InputShapeError(
            f"the image has shape {tuple(image.shape)}; for the set of bands '{bands}' DOFA takes "
            f"(N, {wanted}, H, W) with H and W multiples of {p}. Pad the image"
        )


def find_alike(codes: Sequence[float | None]) -> list[bool]:
    """Tell for each band whether its code equals that of an earlier one.

    A band without a wavelength starts as red light and comes after those that have one.
    """
    seen: set[float] = set()
    alike = [False] * len(codes)
    for index in sorted(range(len(codes)), key=lambda i: codes[i] is None):
        code = codes[index]
        um = START_UM if code is None else code
        alike[index] = um in seen
        seen.add(um)
    return alike


def _check_sets(
    name: str, band_sets: Mapping[str, Sequence[float | None]], policy: WavelengthPolicy
) -> dict[str, tuple[float | None, ...]]:
    """Check the band sets and return them with the wavelengths given to DOFA."""
    empty = [key for key, values in band_sets.items() if not values]
    if empty or not band_sets:
        raise ModelError(
            f"backbone '{name}' needs sets of bands with a wavelength (or None) for each band; "
            + (f"set '{empty[0]}' is empty" if empty else "there are none")
        )
    return {
        key: tuple(None if um is None else snap_wavelength(um, policy) for um in values)
        for key, values in band_sets.items()
    }


def _owns(name: str) -> bool:
    if not name.startswith(DOFA_PREFIX):
        return False
    find_variant(name)  # raises if it does not exist
    return True


def _create(request: Request) -> DOFA:
    checked = check_options("backbone", request.name, DOFA, request.options)
    # By default, offsets distinguish bands of one wavelength in every model built by name.
    options = {"wave_delta": None, **checked}
    return DOFA(request.name, _band_sets(request), weights=request.weights, **options)


def _band_sets(request: Request) -> Mapping[str, Sequence[float | None]]:
    """Codes of the bands of each image."""
    version = find_variant(request.name).version
    codes = {m.name: band_codes(m, version, "exact") for m in request.known_modalities()}
    if not request.one_image:
        return codes
    together = [code for own in codes.values() for code in own]
    if len(together) != request.in_channels:
        raise ModelError(
            f"backbone '{request.name}' would get {request.in_channels} channels, but "
            f"{', '.join(codes)} have {len(together)} bands; every channel must be known"
        )
    return {ALL_BANDS: together}


FAMILY = Family(
    examples={
        "DOFA": ("dofa_base_patch16", "dofa_large_patch16"),
        "DOFA 2": ("dofa_v2_base_patch14", "dofa_v2_large_patch14"),
    },
    kind="tokens",
    backbone=DOFA,
    owns=_owns,
    create=_create,
    licence=licence_of,
    hub_location=hub_location,
    knows_bands=True,
    has_band_sets=True,
)

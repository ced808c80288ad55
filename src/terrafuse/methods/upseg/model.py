"""UPSeg, reconstructed: modalities guide each other by prompts inside one foundation model.

Ao Sun, Fang Xu, Shuguo Jiang, Wen Yang, Gui-Song Xia: "UPSeg: Unleashing the power of multi-modal
synergy in remote sensing semantic segmentation"; in Chinese in Acta Aeronautica et Astronautica
Sinica 47(10), 2026, 532910, DOI 10.7527/S1000-6893.2025.32910.

This is neither the authors' code, none of which is public, nor based on the article's full text,
figures or equations, which were not available. Marks: known from public sources [K], inferred [I],
chosen for this reconstruction [R], not public [?].

| part | mark | here |
|---|---|---|
| built on the DOFA code base | K | any plain transformer, shared by all modalities (R) |
| its size; frozen or tuned | ? | `backbone`, `tuning`; frozen by default (R) |
| features of one modality guide parsing of another's, both ways, in the base model | K | |
| the guidance has the form of visual prompts | I | |
| Variance Enhancement Module, with cross-modal attention | K | formula R: `synergy_variance` |
| prompts: form, number, place, gates | R | `terrafuse.methods.upseg.prompts` |
| fusion of modalities | R | `terrafuse.methods.upseg.fusion` |
| neck, UPerNet, auxiliary head | K of DOFA's own recipe, R that UPSeg uses them | |
| loss, schedule, crops, splits | ? | `common` loss R |

Streams of all modalities run the same blocks in lock-step. At the entrance of a stage, the VEM
computes for each what the others cannot predict (U) and offers it to them: as a hint at the same
position, and as prompts that their attention sees through gates. All start at 0, so that training
starts exactly from the plain encoder. With only one modality present, none of this is active.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from terrafuse.backbones import (
    COLOUR,
    RGB,
    TokenBackbone,
    ToRGB,
    as_map,
    has_option,
    is_token_backbone,
    knows_modalities,
)
from terrafuse.config.options import check_options
from terrafuse.decoders import FCNHead, create_decoder
from terrafuse.decoders.layers import resize, size_of
from terrafuse.errors import ModelError
from terrafuse.methods.parts import build_backbone
from terrafuse.methods.upseg.fusion import STREAM_FUSIONS
from terrafuse.methods.upseg.prompts import PromptSettings
from terrafuse.methods.upseg.streams import GateSettings, GuidedStreams, Schedule, Stream
from terrafuse.methods.upseg.tokens import see_tokens
from terrafuse.methods.upseg.variance import VarianceSettings
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput
from terrafuse.tracing import has_symbols, is_traced, times
from terrafuse.tuning import TuningOption

_T = TypeVar("_T")

#: Meaning of "lora" here [R]: in the attention only, shared by all modalities.
LORA: dict[str, Any] = {
    "name": "lora", "rank": 8, "alpha": 8.0, "targets": ["qkv", "proj"]
}  # fmt: skip
#: Backbone options for parts after the blocks, which do not run here.
_OWN = {"neck", "neck_channels", "stem_channels", "subtract_reference"}
#: Channels of neck and decoder of "light" [R].
LIGHT = 256


class UPSeg(Segmenter):
    """One shared encoder, a stream per modality, guidance between streams, one decoder.

    All defaults are choices of the reconstruction [R].

    Args:
        modalities: Any number.
        num_classes: K.
        backbone: A DOFA or Galileo, or another plain transformer (vit_*, deit_*, vit_*_dinov2),
            which sees three bands of every modality.
        weights: Pretrained weights: "hub" (DOFA's), "timm", a path, or None to train from scratch.
        backbone_options: Options of `create_backbone`; `out_indices` end the stages (default: four
            of equal depth).
        tuning: Tuning of the encoder (`terrafuse.tuning`), shared by all modalities. "frozen" and
            "full" as elsewhere, "lora" with rank 8 on queries, keys, values and projection.
        wave_delta: Whether DOFA's bands have a trained offset to their embedding; None: all of
            them, or, if the whole encoder is trained, those of modalities in which bands share a
            wavelength.
        interact_stages: Stages, counted from 1, at whose entrance modalities interact; None = all
            but the first, whose input is not yet a feature. Empty: streams meet in the fusion only.
        schedule: "lock-step", or "two-pass": each modality first passes alone, and is then guided
            by the others' features of that pass. Twice the cost.
        vem: Options of the Variance Enhancement Module (`VarianceSettings`).
        prompt: Options of prompts (`PromptSettings`).
        gate: Options of gates (`GateSettings`).
        fusion: "gated_mean", "mean", "concat1x1", or "mean_unique" (the mean plus a VEM's U).
        grid: "common" resamples every modality to the scene grid; with "own" each has tokens of its
            own pixels, and the finest grid is that of the result.
        neck_channels: Channels of the neck's levels; None = D.
        decoder: Name of the decoder; "light" is UPerNet and neck with 256 channels.
        decoder_options: Options of `create_decoder`.
        aux: Adds an auxiliary head on the last level.

    Raises:
        ModelError: The backbone is not a plain transformer, or options do not fit it.
    """

    title = "Prompts between modalities in one foundation model (a reconstruction)"
    paper = "Sun et al., Acta Aeronaut. Astronaut. Sin. 47(10), 2026, 10.7527/S1000-6893.2025.32910"
    own_scales = True
    supports_missing = True

    def __init__(
        self,
        modalities: Sequence[Modality],
        num_classes: int,
        *,
        backbone: str = "dofa_base_patch16",
        weights: str | None = None,
        backbone_options: dict[str, Any] | None = None,
        tuning: TuningOption = "frozen",
        wave_delta: bool | None = None,
        interact_stages: tuple[int, ...] | None = None,
        schedule: Schedule = "lock-step",
        vem: dict[str, Any] | None = None,
        prompt: dict[str, Any] | None = None,
        gate: dict[str, Any] | None = None,
        fusion: Literal["gated_mean", "mean", "concat1x1", "mean_unique"] = "gated_mean",
        grid: Literal["common", "own"] = "common",
        neck_channels: int | None = None,
        decoder: str = "upernet",
        decoder_options: dict[str, Any] | None = None,
        aux: bool = True,
    ) -> None:
        super().__init__(modalities, num_classes)
        names, self.grid = [m.name for m in self.modalities], grid
        self.variance = _settings("vem", VarianceSettings, vem)
        self.to_rgb = nn.ModuleDict()  # DOFA and Galileo see every band
        options = dict(backbone_options or {})
        if has_option(backbone, "wave_delta"):
            learns = tuning in (None, "full")
            options["wave_delta"] = wave_delta if wave_delta is not None or learns else True
        else:
            _check_wave_delta(backbone, wave_delta)
        self.knows_modalities = knows_modalities(backbone)
        if not self.knows_modalities:
            self.to_rgb.update({m.name: ToRGB(m) for m in self.modalities})
        self.backbone = _build_encoder(backbone, weights, options, tuning, self.modalities)
        self.interaction = GuidedStreams(
            self.backbone,
            backbone,
            names,
            stages=interact_stages,
            schedule=schedule,
            variance=self.variance,
            prompt=_settings("prompt", PromptSettings, prompt),
            gate=_settings("gate", GateSettings, gate),
        )
        # A single modality needs no fusion weights.
        create = STREAM_FUSIONS[fusion if len(names) > 1 else "mean"]
        width = self.backbone.embed_dim
        self.fusions = nn.ModuleList(
            create(len(names), width, self.variance) for _ in self.backbone.out_indices
        )
        self._set_decoder(neck_channels, decoder, dict(decoder_options or {}), aux)
        self.stride = self.backbone.stride

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """A stream per modality, guided by the others → fused maps → levels → logits."""
        maps, losses = self.encode(inputs)
        levels = self.neck(maps)
        output = SegmenterOutput(self.decoder(levels))
        if self.training:
            if self.aux is not None:
                output.aux_logits = (self.aux(levels[-1]),)
            output.losses = self._weigh(losses, maps[0])
        return output

    def encode(self, inputs: Inputs) -> tuple[list[Tensor], list[Tensor]]:
        """Fused maps of the stages (N, D, h, w), and losses of the VEMs, unweighted."""
        streams = self.embed(inputs)
        out_indices, losses = self.interaction(self.backbone, streams)
        patch = self.backbone.patch_size
        # Over all modalities, present or not: a sample's result must not depend on its batch.
        grids = [(x.shape[-2] // patch, x.shape[-1] // patch) for x in inputs.images.values()]
        if is_traced():  # the same, in the form in which a graph knows that of the tokens
            grids = [stream.grid for stream in streams]
        grid = max(grids, key=lambda g: g[0] * g[1])
        fused = []
        for fusion, maps in zip(self.fusions, out_indices, strict=True):
            tokens, own = fusion(maps, [stream.index for stream in streams], grid)
            fused.append(as_map(tokens, grid))  # (N, D, h, w)
            losses = [*losses, *own]
        if self.training and len(streams) < len(self.modalities):
            fused[0] = fused[0] + self._nothing()
        return fused, losses

    def embed(self, inputs: Inputs) -> list[Stream]:
        """Start a stream for each modality that some sample has; for all if none has any."""
        indices = [
            i
            for i, m in enumerate(self.modalities)
            if is_traced() or bool(inputs.present(m.name).any())
        ]
        streams = []
        for index in indices or range(len(self.modalities)):
            name = self.modalities[index].name
            tokens, grid = self._embed(name, inputs.images[name])
            seen, whole = see_tokens(inputs.valid[name], self.backbone.patch_size)
            streams.append(Stream(index, tokens, grid, seen, whole))
        return streams

    def _embed(self, name: str, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        if self.knows_modalities:
            embed: Any = self.backbone.embed
            tokens, grid = embed(image, bands=name)
            return tokens, grid
        return self.backbone.embed(self.to_rgb[name](image))

    def lr_factors(self) -> dict[str, float]:
        """Train gates faster."""
        if self.interaction.gates is None:
            return {}
        return {"interaction.gates": self.interaction.gate.lr_factor}

    def _target_size(self, modality: Modality, padded: tuple[int, int]) -> tuple[int, int]:
        return padded if self.grid == "common" else super()._target_size(modality, padded)

    def _at_own_scale(self) -> bool:
        return self.grid == "own"

    def _set_decoder(
        self, neck_channels: int | None, name: str, options: dict[str, Any], aux: bool
    ) -> None:
        if name == "light":
            name, neck_channels = "upernet", neck_channels or LIGHT
            options.setdefault("channels", LIGHT)
        channels = neck_channels or self.backbone.embed_dim
        self.neck = LevelNeck(self.backbone.embed_dim, channels, len(self.backbone.out_indices))
        levels = [channels] * len(LevelNeck.SCALES)
        strides = [self.backbone.patch_size / scale for scale in LevelNeck.SCALES]
        self.decoder = create_decoder(name, levels, strides, self.num_classes, **options)
        self.aux = FCNHead(channels, self.num_classes) if aux else None

    def _weigh(self, losses: list[Tensor], like: Tensor) -> dict[str, Tensor]:
        """Weighted mean of the predictors' losses over positions and modalities."""
        weight = self.variance.aux_weight
        if weight == 0 or self.variance.kind in ("none", "differential"):
            return {}
        mean = torch.stack(losses).mean() if losses else like.new_zeros(())
        return {"common": weight * mean}

    def _nothing(self) -> Tensor:
        """0 from all parameters before the neck: distributed training waits for their gradients."""
        parts = (self.to_rgb, self.backbone, self.interaction, self.fusions)
        learning = [p for part in parts for p in part.parameters() if p.requires_grad]
        return sum((p.sum() * 0 for p in learning), torch.zeros(()).to(learning[0]))


class LevelNeck(nn.Module):
    """Maps of the stages (N, D, h, w) → levels of 4, 2, 1 and 1/2 times their size.

    A 1×1 convolution, bilinear resizing and a 3×3 convolution each, without norm or activation:
    DOFA's own segmentation recipe [K]. With fewer than four maps, each level takes the one at its
    depth.

    Args:
        in_channels: D.
        out_channels: Channels of every level.

    Raises:
        ModelError: More than four maps.
    """

    SCALES: ClassVar[tuple[float, ...]] = (4, 2, 1, 0.5)

    def __init__(self, in_channels: int, out_channels: int, num_maps: int) -> None:
        super().__init__()
        if num_maps > len(self.SCALES):
            raise ModelError(
                f"the backbone has {num_maps} out_indices; allowed are 1 to {len(self.SCALES)}"
            )
        self.sources = [i * num_maps // len(self.SCALES) for i in range(len(self.SCALES))]
        self.before = nn.ModuleList(
            nn.Conv2d(in_channels, out_channels, kernel_size=1) for _ in self.SCALES
        )
        self.after = nn.ModuleList(
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1) for _ in self.SCALES
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Levels (N, out_channels, h · scale, w · scale), fine → coarse."""
        levels = []
        for scale, source, before, after in zip(
            self.SCALES, self.sources, self.before, self.after, strict=True
        ):
            x = before(maps[source])
            height, width = (times(length, Fraction(scale)) for length in size_of(x))
            if not has_symbols(height, width):  # a graph takes no maps so small
                height, width = max(1, height), max(1, width)
            levels.append(after(resize(x, (height, width))))
        return levels


def _build_encoder(
    name: str,
    weights: str | None,
    options: Mapping[str, Any],
    tuning: TuningOption,
    modalities: Sequence[Modality],
) -> TokenBackbone:
    """Build the transformer that all modalities share, without a neck."""
    if not is_token_backbone(name):
        raise ModelError(
            f"method 'upseg' runs on a plain transformer (dofa_*, galileo_*, vit_*, deit_*), and "
            f"backbone '{name}' has levels of its own"
        )
    refused = sorted(set(options) & _OWN)
    if refused:
        raise ModelError(
            f"method 'upseg' has a neck of its own and joins its streams between blocks: leave "
            f"'{refused[0]}' out of backbone_options; the method's option neck_channels sets the "
            "neck's channels"
        )
    backbone = build_backbone(
        name,
        RGB,
        weights,
        {**options, "neck": "none"},
        tuning=LORA if tuning == "lora" else tuning,
        modalities=modalities if knows_modalities(name) else [COLOUR],
        one_image=False,
    )
    assert isinstance(backbone, TokenBackbone)
    return backbone


def _check_wave_delta(name: str, wave_delta: bool | None) -> None:
    if wave_delta:
        raise ModelError(
            f"option 'wave_delta' of method 'upseg' offsets DOFA's band embeddings; backbone "
            f"'{name}' does not use wavelengths. Leave it out, or choose dofa_base_patch16"
        )


def _settings(name: str, settings: type[_T], values: Mapping[str, Any] | None) -> _T:
    checked = check_options(f"{name} of method", "upseg", settings, values or {})
    return settings(**checked)

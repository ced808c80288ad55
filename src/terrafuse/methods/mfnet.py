"""MFNet: one tuned foundation-model encoder for all modalities, followed by deep fusion.

Xianping Ma, Xiaokang Zhang, Man-On Pun, Bo Huang: "A unified framework with multimodal fine-tuning
for remote sensing semantic segmentation", IEEE Transactions on Geoscience and Remote Sensing 63,
2025, DOI 10.1109/TGRS.2025.3585238, arXiv 2410.11160.

| paper | here |
|---|---|
| Fig. 2, whole network | `MFNet` |
| Fig. 3, MMAdapter | `terrafuse.tuning.adapter` |
| Fig. 4, MMLoRA | `terrafuse.tuning.lora` |
| Fig. 5, Deep Fusion Module | `terrafuse.fusion.DeepFusion` |
| UNetFormer decoder | `terrafuse.decoders.UNetFormerDecoder` |

More general than the paper, and identical for its two modalities on SAM: any number of modalities
and bands, any backbone, any tuning, images of any size. docs/methods/mfnet.md compares the paper,
the published code and this one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from terrafuse.backbones import COLOUR, RGB, ToRGB, is_token_backbone
from terrafuse.config.options import check_options
from terrafuse.decoders import convert_unetformer_state_dict, create_decoder
from terrafuse.errors import ModelError, WeightsMismatchError
from terrafuse.fusion import DeepFusion, LevelSqueezeFusion, convert_deep_fusion_state_dict
from terrafuse.methods.parts import build_backbone
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput
from terrafuse.tracing import parts_of_batch
from terrafuse.tuning import TuningOption
from terrafuse.weights import rename


class MFNet(Segmenter):
    """One encoder for every modality, mixed by its tuning; levels are fused and decoded.

    Args:
        modalities: Any number; the paper has an optical image and a surface model, in this order.
        num_classes: K.
        backbone: Its name. A plain transformer gives one map per modality, from which the Deep
            Fusion Module makes levels; a pyramid's own levels are fused by the same gates.
        weights: Pretrained weights: "timm", a path (`sam_vit_b_01ec64.pth`), or None to train from
            scratch.
        backbone_options: Options of `create_backbone`; "rel_pos: zero" is as published.
        tuning: Tuning of the backbone (`terrafuse.tuning`); the paper has "adapter" and "lora".
        deep_fusion: If false, maps are summed and decoded without skip connections (the paper's
            ablation "w/o DFM"); needs a plain transformer.
        fusion_options: Options of the Deep Fusion Module (`reduction`, `norms`).
        decoder: Name of the decoder.
        decoder_options: Options of `create_decoder`.
    """

    title = "One tuned foundation model for all modalities, followed by deep fusion"
    paper = "Ma et al., IEEE TGRS 63, 2025, DOI 10.1109/TGRS.2025.3585238"

    def __init__(
        self,
        modalities: Sequence[Modality],
        num_classes: int,
        *,
        backbone: str = "samvit_base_patch16",
        weights: str | None = None,
        backbone_options: dict[str, Any] | None = None,
        tuning: TuningOption = "adapter",
        deep_fusion: bool = True,
        fusion_options: dict[str, Any] | None = None,
        decoder: str = "unetformer",
        decoder_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(modalities, num_classes)
        count = len(self.modalities)
        options = dict(backbone_options or {})
        if is_token_backbone(backbone):
            options.setdefault("neck", "map")
        self.to_rgb = nn.ModuleDict({m.name: ToRGB(m) for m in self.modalities})
        self.backbone = build_backbone(
            backbone,
            RGB,
            weights,
            options,
            tuning=tuning,
            num_modalities=count,
            modalities=[COLOUR],
        )
        channels, strides = self.backbone.channels, self.backbone.strides
        decoder_options = dict(decoder_options or {})
        self.fusion: DeepFusion | LevelSqueezeFusion | None = None
        if deep_fusion:
            self.fusion = _create_fusion(channels, count, fusion_options or {})
        else:
            _check_one_map(backbone, channels)
            if decoder == "unetformer":
                decoder_options.setdefault("doublings", 3)
        if isinstance(self.fusion, DeepFusion):
            strides = tuple(strides[0] * s for s in self.fusion.relative_strides)
            channels = self.fusion.channels
        self.decoder = create_decoder(decoder, channels, strides, num_classes, **decoder_options)
        # The coarsest level of the pyramid has twice the map's stride.
        self.stride = max(self.backbone.stride, int(max(strides)))

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """All modalities through one encoder → fused levels → logits."""
        images = [self.to_rgb[m.name](inputs.images[m.name]) for m in self.modalities]
        levels = self.backbone(torch.cat(images))  # (M · N, C_l, h_l, w_l), modality by modality
        by_level = [parts_of_batch(level, len(images)) for level in levels]
        return SegmenterOutput(self.decoder(self._fuse(by_level)))

    def _fuse(self, by_level: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Per level the maps of the modalities → fused levels."""
        if self.fusion is None:
            return [torch.stack(list(maps)).sum(dim=0) for maps in by_level]
        one_map = isinstance(self.fusion, DeepFusion)
        maps = by_level[0] if one_map else list(zip(*by_level, strict=True))
        fused: list[Tensor] = self.fusion(maps)
        return fused


def _create_fusion(
    channels: Sequence[int], count: int, options: Mapping[str, Any]
) -> DeepFusion | LevelSqueezeFusion:
    """Create the Deep Fusion Module for one map per modality, or its gates for levels."""
    if len(channels) == 1:
        checked = check_options("fusion", "DeepFusion", DeepFusion, options)
        return DeepFusion(channels[0], count, **checked)
    checked = check_options("fusion", "LevelSqueezeFusion", LevelSqueezeFusion, options)
    return LevelSqueezeFusion(channels, count, **checked)


def _check_one_map(backbone: str, channels: Sequence[int]) -> None:
    if len(channels) > 1:
        raise ModelError(
            f"option 'deep_fusion' of method 'mfnet' is false, which needs one map per modality; "
            f"backbone '{backbone}' gives {len(channels)} levels. Choose a plain transformer "
            "(samvit_*, vit_*) with neck 'map', or leave deep_fusion on"
        )


def convert_reference_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of the original MFNet on SAM (MMAdapter or MMLoRA, two modalities).

    Duplicates of the encoder (`sam.image_encoder.*`) and SAM's prompt encoder and mask decoder,
    which the original stores but never runs, are dropped. Normalisation statistics are not part
    of the original; add those of the data.

    Args:
        state: Original names, as in its saved state dict.

    Raises:
        WeightsMismatchError: The two copies of the encoder differ, or one of a pair is missing.
    """
    _check_copies(state)
    encoder = _without_prefix(state, "image_encoder.")
    decoder = _without_prefix(state, "decoder.")
    fusion = {k: v for k, v in state.items() if k.startswith(("fpn", "fusion"))}
    parts = {
        "backbone.vit.": convert_encoder_state_dict(encoder),
        "fusion.": convert_deep_fusion_state_dict(fusion),
        "decoder.": convert_unetformer_state_dict(decoder, skips=bool(fusion)),
    }
    converted = {prefix + k: v for prefix, part in parts.items() for k, v in part.items()}
    known = ("image_encoder.", "decoder.", "fpn", "fusion", "sam.")
    return converted | {k: v for k, v in state.items() if not k.startswith(known)}


#: Original names inside a block → ours, in this order. x is the first modality, y the second.
_RENAMES = (
    (r"^Img_Adapter\.", "attn.proj.adapters.0."),
    (r"^DSM_Adapter\.", "attn.proj.adapters.1."),
    (r"^MLPx_Adapter\.", "mlp.adapters.0."),
    (r"^MLPy_Adapter\.", "mlp.adapters.1."),
    (r"\.D_fc1\.", ".down."),
    (r"\.D_fc2\.", ".up."),
    (r"^mlp\.lin", "mlp.fc"),
    (r"\.rel_([hw])$", r".rel_pos_\1"),
)
#: Pretrained layers that a tuning wraps.
_WRAPPED_BY_LORA = (r"^(attn\.qkv|mlp\.fc[12])\.(weight|bias)$", r"\1.base.\2")
_WRAPPED_BY_ADAPTER = (
    (r"^attn\.proj\.(?=weight|bias)", "attn.proj.base."),
    (r"^mlp\.fc", "mlp.base.fc"),
)

# The original keeps these per modality; we stack them. "wx_Adapter" is a gate of MMAdapter.
_PER_MODALITY = re.compile(r"^(.*\.)(lora_A|lora_B|lora_w|w)([xy])(_Adapter)?$")
_STACKED = {"lora_A": "down", "lora_B": "up", "lora_w": "mixing.own", "w": "mlp.mixing.own"}


def convert_encoder_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of the original's encoder, tuned by MMAdapter or MMLoRA.

    Args:
        state: Original names without "image_encoder.".

    Raises:
        WeightsMismatchError: The second of a pair for two modalities is missing.
    """
    renames = list(_RENAMES)
    if any(".lora_A" in name for name in state):
        renames.append(_WRAPPED_BY_LORA)
    if any("_Adapter" in name for name in state):
        renames += _WRAPPED_BY_ADAPTER
    converted: dict[str, Tensor] = {}
    for name, value in state.items():
        found = _PER_MODALITY.match(name)
        if found is None:
            converted[_rename_in_block(name, renames)] = value
        elif found[3] == "x":
            other = f"{found[1]}{found[2]}y{found[4] or ''}"
            if other not in state:
                raise WeightsMismatchError(
                    f"'{name}' is present but '{other}' is not, though each modality has its own. "
                    "The file is damaged"
                )
            join = torch.cat if found[2].endswith("w") else torch.stack
            ours = found[1].replace(".lin", ".fc") + _STACKED[found[2]]
            converted[ours] = join((value, state[other]))
    return converted


def _rename_in_block(name: str, renames: Sequence[tuple[str, str]]) -> str:
    found = re.match(r"^(blocks\.\d+\.)(.*)$", name)
    if found is None:
        return name
    return found[1] + rename(found[2], renames)


def _check_copies(state: Mapping[str, Tensor]) -> None:
    for name, value in _without_prefix(state, "sam.image_encoder.").items():
        other = state.get(f"image_encoder.{name}")
        if other is None or not torch.equal(value, other):
            raise WeightsMismatchError(
                f"'sam.image_encoder.{name}' differs from 'image_encoder.{name}', though the "
                "original stores one encoder under both names. The file is damaged"
            )


def _without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

"""SSLViT: a Swin-UNet per sensor with contrastively pre-trained encoders, joined at the classifier.

Linus Scheibenreif, Joëlle Hanna, Michael Mommert, Damian Borth: "Self-supervised vision
transformers for land-cover segmentation and classification", CVPR Workshops (EarthVision) 2022,
1422-1431, DOI 10.1109/CVPRW56347.2022.00148. The label "SSLViT" comes from a comparison table; that
it refers to this paper is likely, not certain.

| paper | here |
|---|---|
| contrastive pre-training | `terrafuse.pretraining.SSLViTPretraining` |
| Swin-T encoder of a sensor | `branches` |
| decoder of a Swin-UNet | `StreamDecoder`, `PatchExpansion` |
| two streams joined, classes | `SSLViT` |

More general than the published code: any number of modalities and bands, any Swin (version 1) of
timm, images of any size, samples that lack modalities. docs/methods/sslvit.md compares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from terrafuse.backbones import PretrainedSource, PyramidBackbone, find_published, fit_bands
from terrafuse.backbones.timm.models import check_name, module_of
from terrafuse.config.options import by_modality
from terrafuse.errors import ModelError
from terrafuse.methods.parts import build_backbone
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput
from terrafuse.tuning import TuningOption, apply_tuning
from terrafuse.weights import load_strict, pretrained_wanted, read_foreign, rename

#: Prefix of a sensor's encoder, counted from 1, in files of the authors.
_ENCODER = "backbone{}."


class SSLViT(Segmenter):
    """An encoder and a decoder of Swin blocks per modality; their maps, concatenated → classes.

    Args:
        modalities: Any number; the paper has radar and optical, in this order.
        num_classes: K.
        backbone: Name of a Swin transformer (version 1) for all modalities, or one by modality.
        weights: Pretrained weights for all, or by modality: "timm", None, or a file of a single
            encoder or of the authors' pre-training ("backbone1", "backbone2").
        backbone_options: Options of `create_backbone`, for all (`img_size`, `window_size`, …).
        tuning: Tuning of the encoders (`terrafuse.tuning`); None = everything is trained.

    Raises:
        UnknownNameError: A backbone or weights for an unknown modality.
        ModelError: A backbone is not a Swin transformer, or the first levels differ in width.
    """

    title = "A Swin-UNet per sensor, pre-trained by contrast between sensors"
    paper = "Scheibenreif et al., CVPR Workshops 2022, DOI 10.1109/CVPRW56347.2022.00148"
    supports_missing = True

    def __init__(
        self,
        modalities: Sequence[Modality],
        num_classes: int,
        *,
        backbone: str | dict[str, str] = "swin_tiny_patch4_window7_224",
        weights: str | dict[str, str | None] | None = None,
        backbone_options: dict[str, Any] | None = None,
        tuning: TuningOption = None,
    ) -> None:
        super().__init__(modalities, num_classes)
        names = [m.name for m in self.modalities]
        chosen = by_modality("backbone", backbone, names)
        sources = by_modality("weights", weights, names, default=None)
        branches, decoders = {}, {}
        for number, m in enumerate(self.modalities, start=1):
            branch = _build_branch(chosen[m.name], m, backbone_options)
            decoder = StreamDecoder(branch)
            source = sources[m.name]
            if source is not None and pretrained_wanted():
                branch = _load(branch, decoder, chosen[m.name], source, m, number, backbone_options)
            apply_tuning(branch, tuning)
            branches[m.name], decoders[m.name] = branch, decoder
        self.branches, self.decoders = nn.ModuleDict(branches), nn.ModuleDict(decoders)
        width = sum(branch.channels[0] for branch in branches.values())
        self.expand = PatchExpansion(width, width, factor=4)
        self.classifier = nn.Conv2d(width, num_classes, kernel_size=1, bias=False)
        self.stride = max(branch.stride for branch in branches.values())

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """A stream per modality → concatenated → upsampled → logits at full size."""
        streams = []
        for m in self.modalities:
            branch = cast(PyramidBackbone, self.branches[m.name])
            entered, deep = run_stages(branch, inputs.images[m.name])
            stream = self.decoders[m.name](entered, deep)  # (N, h, w, C)
            streams.append(torch.where(inputs.present(m.name)[:, None, None, None], stream, 0.0))
        x = self.expand(torch.cat(streams, dim=3)).permute(0, 3, 1, 2)  # (N, C, H, W)
        return SegmenterOutput(self.classifier(x))


class StreamDecoder(nn.Module):
    """Decoder of one stream: mirrored blocks, joined with the inputs of the encoder's stages.

    Args:
        branch: The encoder; its blocks are copied and re-initialised.
    """

    def __init__(self, branch: PyramidBackbone) -> None:
        super().__init__()
        channels = branch.channels
        self.norm_in = nn.LayerNorm(channels[-1])
        self.expand = nn.ModuleList(
            PatchExpansion(c, c // 2, factor=2) for c in reversed(channels[1:])
        )
        self.join = nn.ModuleList(nn.Linear(2 * c, c) for c in reversed(channels[:-1]))
        self.stages = nn.ModuleList(
            _mirror(_inside(stage).blocks) for stage in reversed(branch.stages[:-1])
        )
        self.norm_out = nn.LayerNorm(channels[0])

    def forward(self, entered: Sequence[Tensor], deep: Tensor) -> Tensor:
        """Decode to a map at the finest stage.

        Args:
            entered: Inputs of the stages (N, h, w, C), fine → coarse.
            deep: Output of the last stage.

        Returns:
            (N, h_0, w_0, C_0).
        """
        y = self.norm_in(deep)
        skips = reversed(entered[:-1])
        for expand, join, blocks, skip in zip(
            self.expand, self.join, self.stages, skips, strict=True
        ):
            y = blocks(join(torch.cat([expand(y), skip], dim=3)))
        result: Tensor = self.norm_out(y)
        return result


class PatchExpansion(nn.Module):
    """Each pixel to factor × factor pixels by a linear layer, then a norm."""

    def __init__(self, in_channels: int, out_channels: int, *, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.linear = nn.Linear(in_channels, factor**2 * out_channels, bias=False)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, h, w, C) → (N, h · factor, w · factor, C')."""
        samples, height, width, _ = x.shape
        f = self.factor
        x = self.linear(x).reshape(samples, height, width, f, f, -1)
        x = x.transpose(2, 3).reshape(samples, height * f, width * f, -1)
        result: Tensor = self.norm(x)
        return result


def run_stages(branch: PyramidBackbone, image: Tensor) -> tuple[list[Tensor], Tensor]:
    """Inputs of the stages of a Swin transformer (N, h, w, C), and the output of the last."""
    x = branch.stem(image).permute(0, 2, 3, 1)  # (N, h, w, C)
    again = branch.gradient_checkpointing and branch.training and torch.is_grad_enabled()
    entered = []
    for stage in branch.stages:
        x = _inside(stage).downsample(x)
        entered.append(x)
        blocks = _inside(stage).blocks
        x = checkpoint(blocks, x, use_reentrant=False) if again else blocks(x)
    return entered, x


def convert_reference_state_dict(
    state: Mapping[str, Tensor], modalities: Sequence[str]
) -> dict[str, Tensor]:
    """Rename weights of the original's segmentation network.

    Values that it never runs are dropped: copies of encoders in decoders, replaced layers and heads
    of decoders, classifiers of encoders.

    Args:
        state: Original names ("backbone1.patch_embed.proj.weight").
        modalities: Our modality names, in the original's order.
    """
    converted: dict[str, Tensor] = {}
    for number, name in enumerate(modalities, start=1):
        encoder, norm = convert_encoder_state_dict(_part(state, _ENCODER.format(number)))
        converted |= {f"branches.{name}.{key}": value for key, value in encoder.items()}
        decoder = _part(state, f"decoder{number}.")
        found = _convert_decoder(decoder) | {f"norm_in.{k}": v for k, v in norm.items()}
        converted |= {f"decoders.{name}.{key}": value for key, value in found.items()}
    last = _part(state, "decoder1.")
    converted["expand.linear.weight"] = last["up.expand.weight"]
    converted |= {f"expand.norm.{k}": v for k, v in _part(last, "up.norm.").items()}
    converted["classifier.weight"] = last["output.weight"]
    return converted


def convert_encoder_state_dict(
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Convert weights of an original Swin transformer: our backbone's, and those of its last norm.

    Args:
        state: Original names ("layers.0.blocks.0.norm1.weight"), where a stage ends with the
            downsampling before the next.
    """
    converted, norm = {}, {}
    for key, value in state.items():
        if key.startswith("patch_embed."):
            converted[f"stem.{key}"] = value
        elif key.startswith("norm."):
            norm[key.removeprefix("norm.")] = value
        elif (found := re.match(r"^layers\.(\d+)\.(.*)$", key)) and _is_trained(key):
            # Our stages begin with the downsampling.
            index = int(found[1]) + found[2].startswith("downsample.")
            converted[f"stages.{index}.layers_{index}.{found[2]}"] = value
    return converted, norm


def _convert_decoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renames = (
        (r"^layers_up\.0\.expand\.", "expand.0.linear."),
        (r"^layers_up\.0\.norm\.", "expand.0.norm."),
        (r"^layers_up\.(\d)\.upsample\.expand\.", r"expand.\1.linear."),
        (r"^layers_up\.(\d)\.upsample\.norm\.", r"expand.\1.norm."),
        (r"^norm_up\.", "norm_out."),
    )
    converted = {}
    for key, value in state.items():
        if found := re.match(r"^(layers_up|concat_back_dim)\.([1-9])\.(.*)$", key):
            part = "join." if found[1] == "concat_back_dim" else "stages."
            inner = found[3].removeprefix("blocks.")
            name = f"{part}{int(found[2]) - 1}.{inner}"
        if found is None or "upsample" in key:
            name = rename(key, renames)
        if name.startswith(("expand.", "join.", "stages.", "norm_out.")) and _is_trained(key):
            converted[name] = value
    return converted


def _build_branch(
    name: str, modality: Modality, options: dict[str, Any] | None, weights: str | None = None
) -> PyramidBackbone:
    check_name(name)
    if module_of(name) != "swin_transformer":
        raise ModelError(
            f"method 'sslvit' mirrors the blocks of a Swin transformer, and backbone '{name}' is "
            "not one. Choose swin_tiny_patch4_window7_224 or another swin_*"
        )
    branch = build_backbone(name, len(modality.bands), weights, options, modalities=[modality])
    assert isinstance(branch, PyramidBackbone)
    return branch


def _load(
    branch: PyramidBackbone,
    decoder: StreamDecoder,
    name: str,
    weights: str,
    modality: Modality,
    number: int,
    options: dict[str, Any] | None,
) -> PyramidBackbone:
    """Return the branch with pretrained weights; those of its last norm go to the decoder."""
    state, note = dict[str, Tensor](), ""
    sha256, licence = find_published(weights)
    if weights != "timm":
        start = _ENCODER.format(number)
        read = read_foreign(weights, partial(_number_under, start), sha256=sha256)
        state, note = _part(read.values, start), read.note
    if not state:  # timm's, or a file of one encoder
        return _build_branch(name, modality, options, weights)
    where = f"weights '{weights}' for backbone '{name}' of modality '{modality.name}'"
    encoder, norm = convert_encoder_state_dict(state)
    first = "stem.patch_embed.proj.weight"
    if first in encoder:
        encoder[first] = fit_bands(encoder[first], len(modality.bands), [modality])
    load_strict(branch, encoder, where=where)
    load_strict(decoder.norm_in, norm, where=f"{where}, last norm,")
    branch.pretrained = PretrainedSource(name, weights, licence, note)
    return branch


def _number_under(start: str, state: Mapping[str, Tensor]) -> int:
    return len(_part(state, start))


def _mirror(blocks: nn.Module) -> nn.Module:
    """Copy blocks and re-initialise them as torch and Swin do."""
    copied = deepcopy(blocks)
    for name, parameter in copied.named_parameters():
        if name.endswith("relative_position_bias_table"):
            nn.init.trunc_normal_(parameter, std=0.02)
    for module in copied.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            module.reset_parameters()
    return copied


def _inside(stage: nn.Module) -> Any:
    """Return timm's stage inside one of ours."""
    (inner,) = stage.children()
    return inner


def _is_trained(key: str) -> bool:
    return not key.endswith(("relative_position_index", "attn_mask"))


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

"""AMM-FuseNet: an encoder per modality, channel attention, dense ASPP on the finest level.

Ma, Karakus, Rosin: "AMM-FuseNet: Attention-based multi-modal image fusion network for land cover
mapping", Remote Sensing 14(18), 2022, 4458, DOI 10.3390/rs14184458.

| paper | here |
|---|---|
| whole network | `AMMFuseNet` |
| channel attention, "CA" | timm's `EcaModule` with a kernel of 3 |
| DenseASPP with channel attention | `AttentiveDenseASPP` |
| fusion of a modality's levels | `ModalityHead` |

Written from what the authors' code computes (oktaykarakus/ReSIF), which differs from the paper's
figure: the pooled branch sees the input alone, and the classifier has a norm. Its unused layers
are left out. More general: any number of modalities and bands, any pyramid, images of any size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from timm.layers import EcaModule
from torch import Tensor, nn

from terrafuse.decoders import PooledContext
from terrafuse.decoders.layers import ConvNorm, ConvNormAct, NormName, resize, size_of
from terrafuse.methods.parts import build_branches
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput
from terrafuse.tuning import TuningOption
from terrafuse.weights import rename


class AttentiveDenseASPP(nn.Module):
    """3×3 convolutions of increasing dilation, each on all maps before it ("CADenseASPP").

    t_i = ReLU(attention(norm(conv_i [x; t_1; …; t_(i−1)]))), with attention over channels; then x,
    all t_i and the mean of x through a 1×1 convolution.

    Args:
        in_channels: C.
        channels: C' of every map.
        rates: Dilations.
        dropout: Share of output values dropped in training.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        rates: Sequence[int],
        dropout: float,
        norm: NormName,
    ) -> None:
        super().__init__()
        widths = [in_channels + i * channels for i in range(len(rates) + 1)]
        self.convolutions = nn.ModuleList(
            nn.Sequential(
                *ConvNorm(width, channels, kernel_size=3, norm=norm, dilation=rate),
                EcaModule(kernel_size=3),
                nn.ReLU(inplace=True),
            )
            for width, rate in zip(widths, rates, strict=False)
        )
        self.pooled = PooledContext(in_channels, channels, norm=norm)
        self.project = nn.Sequential(
            *ConvNormAct(widths[-1] + channels, channels, kernel_size=1, norm=norm),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) → (N, C', H, W)."""
        maps = [x]
        for convolution in self.convolutions:
            maps.append(convolution(torch.cat(maps, dim=1)))
        result: Tensor = self.project(torch.cat([*maps, self.pooled(x)], dim=1))
        return result


class ModalityHead(nn.Module):
    """Levels of a modality → one map at the finest level's size.

    Args:
        level_channels: Per level, fine → coarse.
        projection_channels: Channels to which each level is projected before its attention.
        context: Dense ASPP of the finest level.
    """

    def __init__(
        self,
        level_channels: Sequence[int],
        projection_channels: int,
        context: AttentiveDenseASPP,
        *,
        norm: NormName,
    ) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Sequential(
                *ConvNormAct(channels, projection_channels, kernel_size=1, norm=norm),
                EcaModule(kernel_size=3),
            )
            for channels in level_channels
        )
        self.context = context

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels (N, C_l, H_l, W_l) → (N, levels · projection + context channels, H_0, W_0)."""
        size = size_of(levels[0])
        projected = [
            resize(project(level), size)
            for project, level in zip(self.projections, levels, strict=True)
        ]
        return torch.cat([*projected, self.context(levels[0])], dim=1)


class AMMFuseNet(Segmenter):
    """Modalities concatenated once, at the finest level.

    Args:
        modalities: Two as published, or more; all resampled to the scene grid.
        num_classes: K.
        backbone: Name of any pyramid.
        weights: Pretrained weights ("timm", a path, None = from scratch, as published), for
            all or by modality.
        backbone_options: Options of `create_backbone`, for all.
        tuning: Tuning of the backbones (`terrafuse.tuning`); None = everything is trained.
        output_stride: Pixels of the image per pixel of the coarsest level. 8 and 16 dilate the last
            stages, which ResNets support; 32 leaves the backbone unchanged.
        projection_channels: Channels to which each level is projected.
        context_channels: Channels of the dense ASPP ("growth").
        hidden_channels: Channels inside the classifier.
        rates: Dilations of the dense ASPP.
        dropout: Dropout at the end of the dense ASPP.
        norm: Norm after every convolution of the head.
    """

    title = "A backbone per modality, channel attention, dense ASPP on the finest level"
    paper = "Ma et al., Remote Sensing 14(18), 2022, DOI 10.3390/rs14184458"
    num_modalities = (2, None)

    def __init__(
        self,
        modalities: Sequence[Modality],
        num_classes: int,
        *,
        backbone: str = "resnet50",
        weights: str | dict[str, str | None] | None = None,
        backbone_options: dict[str, Any] | None = None,
        tuning: TuningOption = None,
        output_stride: Literal[8, 16, 32] = 16,
        projection_channels: int = 48,
        context_channels: int = 256,
        hidden_channels: int = 256,
        rates: tuple[int, ...] = (3, 6, 12, 18),
        dropout: float = 0.1,
        norm: NormName = "batch",
    ) -> None:
        super().__init__(modalities, num_classes)
        options = dict(backbone_options or {})
        if output_stride != 32:  # two stages then share a stride; not all backbones support this
            options = {"output_stride": output_stride, "every_stage": True} | options
        self.branches = build_branches(self.modalities, backbone, weights, options, tuning=tuning)
        first = self.backbones()[0]
        self.stride = first.stride
        finest = first.channels[0]
        self.heads = nn.ModuleDict(
            {
                m.name: ModalityHead(
                    first.channels,
                    projection_channels,
                    AttentiveDenseASPP(
                        finest, context_channels, rates=rates, dropout=dropout, norm=norm
                    ),
                    norm=norm,
                )
                for m in self.modalities
            }
        )
        width = len(first.channels) * projection_channels + context_channels
        self.classifier = nn.Sequential(
            *ConvNormAct(len(self.modalities) * width, hidden_channels, kernel_size=3, norm=norm),
            nn.Conv2d(hidden_channels, num_classes, kernel_size=1),
        )
        for layer in (*self.heads.modules(), *self.classifier.modules()):
            if isinstance(layer, nn.Conv1d | nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """Levels of each modality → one map each → logits from all maps."""
        maps = [
            self.heads[m.name](self.branches[m.name](inputs.images[m.name]))
            for m in self.modalities
        ]
        return SegmenterOutput(self.classifier(torch.cat(maps, dim=1)))


#: Original names → ours, in this order; "<1>" and "<2>" stand for the modalities.
_RENAMES = (
    (r"^backbone([12])\.(?=conv1|bn1)", r"branches.<\1>.stem."),
    (
        r"^backbone([12])\.layer([1-4])\.",
        lambda m: f"branches.<{m[1]}>.stages.{int(m[2]) - 1}.layer{m[2]}.",
    ),
    (r"^classifier\.(project|dense_aspp|eca_net_\d|project_block\d)_image\.", r"heads.<1>.\1."),
    (r"^classifier\.(project|dense_aspp|eca_net_\d|project_block\d)_dsm\.", r"heads.<2>.\1."),
    (r"(?<!dense_aspp)\.project\.", ".projections.0."),
    (r"\.project_block([2-4])\.", lambda m: f".projections.{int(m[1]) - 1}."),
    (r"\.eca_net_(\d)\.", lambda m: f".projections.{int(m[1]) - 1}.3."),
    (r"\.dense_aspp\.project\.", ".context.project."),
    (r"\.dense_aspp\.asppConv_(\d)\.", lambda m: f".context.convolutions.{int(m[1]) - 1}."),
    (r"\.dense_aspp\.asppPooling\.1\.", ".context.pooled.0."),
    (r"\.dense_aspp\.asppPooling\.2\.", ".context.pooled.1."),
    (r"^classifier\.classifier\.", "classifier."),
)
#: A layer of the dense ASPP that the original never runs.
_UNUSED = re.compile(r"\.dense_aspp_(image|dsm)\.conv1\.")


def convert_reference_state_dict(
    state: Mapping[str, Tensor], modalities: Sequence[str] = ("optical", "sar")
) -> dict[str, Tensor]:
    """Rename weights of the authors' network on ResNet-50.

    Normalisation statistics are not included: add those of the data.

    Args:
        state: Original names ("model_state" of a checkpoint).
        modalities: Names of the first and the second modality.
    """
    converted = {}
    for name, value in state.items():
        if not _UNUSED.search(name):
            converted[rename(name, _RENAMES, modalities)] = value
    return converted

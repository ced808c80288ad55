"""PAGNet ("MultiModNet"): attention of the first stream gates the second; both are classified.

Liu, Kampffmeyer, Jenssen, Salberg: "Multi-modal land cover mapping of remote sensing images using
pyramid attention and gated fusion networks", International Journal of Remote Sensing 43(9), 2022,
DOI 10.1080/01431161.2022.2098078, arXiv 2111.03845.

| paper | here |
|---|---|
| whole network, "MultiModNet" | `PAGNet` |
| pyramid attention fusion, "PAF" | `PyramidAttentionFusion` |
| gated fusion unit, "GFU" | `GatedFusionUnit` |
| encoders | `terrafuse.methods.pagnet.streams` |
| loss, "ACW" | `terrafuse.training.losses` |

Written from what the authors' code computes (samleoqh/MultiModNet). More general: two modalities of
any bands instead of an image of 4, images of any size, pretrained first convolutions for any bands.
docs/methods/pagnet.md lists its oddities and how each is handled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from terrafuse.backbones import TIMM_WEIGHTS, refuse_own
from terrafuse.decoders.layers import resize, size_of
from terrafuse.errors import ModelError, WeightsMismatchError
from terrafuse.methods.pagnet.blocks import (
    GatedFusionUnit,
    GateName,
    PyramidAttentionFusion,
    initialize,
)
from terrafuse.methods.pagnet.streams import VariantName, build_streams
from terrafuse.methods.parts import read_reference_model, start_from
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput
from terrafuse.tuning import TuningOption
from terrafuse.weights import pretrained_wanted, rename

#: Initial slope of the PReLU that the whole network shares.
START_SLOPE = 0.25
#: Guards the vegetation index against division by 0.
INDEX_EPS = 1e-5

_GATES: Mapping[VariantName, GateName] = {"mobile": "tanh", "rx50": "mixed"}


class PAGNet(Segmenter):
    """Two streams, each with pyramid attention; the first gates the second.

    Args:
        modalities: Two: the primary one (optical), and the one it gates (SAR, elevation, NIR).
        num_classes: K.
        variant: "rx50" has SE-ResNeXt50 for the first stream and an attention per stream; "mobile"
            has MobileNetV3 for both and one shared attention.
        weights: "timm" starts the encoders from ImageNet, in timm's form of MobileNetV3; a path is
            a file of the authors' whole network; None starts from scratch.
        tuning: Tuning of the encoders (`terrafuse.tuning`); None = everything is trained.
        channels: Channels of each stream's map ("hidden"; 24 for Vaihingen).
        key_channels: Channels of the attention's queries and keys ("kernel"; 6 for Vaihingen).
        num_heads: Number of relations read from the middle level.
        views: Number of views of the deepest level: 1 to 3.
        dropout: Dropout in the attention.
        graph: Whether fine pixels gather from deep ones, as published; False omits the attention's
            graph, for an ablation.
        gate: Form of the gate (`GatedFusionUnit`); default: by variant.
        ndvi: Whether the second stream sees, instead of its band (near infrared), the vegetation
            index with the first band of the primary modality (red), as published for
            Agriculture-Vision.

    Raises:
        ModelError: Not two modalities, or `ndvi` with more than one band.
        WeightsError: A file that is not of a whole PAGNet, or does not fit.
    """

    title = "Pyramid attention in two streams, the first of which gates the second"
    paper = "Liu et al., IJRS 43(9), 2022, DOI 10.1080/01431161.2022.2098078"
    num_modalities = (2, 2)

    def __init__(
        self,
        modalities: Sequence[Modality],
        num_classes: int,
        *,
        variant: VariantName = "rx50",
        weights: str | None = None,
        tuning: TuningOption = None,
        channels: int = 32,
        key_channels: int = 8,
        num_heads: int = 1,
        views: int = 3,
        dropout: float = 0.3,
        graph: bool = True,
        gate: GateName | None = None,
        ndvi: bool = False,
    ) -> None:
        super().__init__(modalities, num_classes)
        self.ndvi = ndvi
        bands = [len(m.bands) for m in self.modalities]
        if ndvi and bands[1] != 1:
            raise ModelError(
                f"option 'ndvi' of method 'pagnet' is true, but modality "
                f"'{self.modalities[1].name}' has {bands[1]} bands; the index needs one, near "
                "infrared"
            )
        self.primary, self.secondary = build_streams(
            variant, self.modalities, pretrained=weights == TIMM_WEIGHTS, tuning=tuning
        )
        self.stride = max(self.primary.stride, self.secondary.stride)
        shared = variant == "mobile"
        self.attentions = nn.ModuleList(
            PyramidAttentionFusion(
                (stream.channels[0], stream.channels[1], stream.channels[2]),
                channels,
                key_channels=key_channels,
                num_heads=num_heads,
                views=views,
                dropout=dropout,
                graph=graph,
            )
            for stream in ([self.primary] if shared else [self.primary, self.secondary])
        )
        self.gate = GatedFusionUnit(
            channels,
            self.secondary.channels[0],
            reduction=round(self.secondary.strides[0] / self.primary.strides[0]),
            form=gate or _GATES[variant],
        )
        self.slope = nn.Parameter(torch.full((1,), START_SLOPE))
        self.classifier = nn.Conv2d(2 * channels, num_classes, kernel_size=1, bias=False)
        initialize(self.classifier)
        if weights not in (None, TIMM_WEIGHTS) and pretrained_wanted():
            refuse_own(weights, "pagnet", "'timm', or a file of its published code")
            read = read_reference_model(weights, r"^paf_1\.")
            if read is None:
                raise WeightsMismatchError(
                    f"weights '{weights}' for method 'pagnet' hold no whole PAGNet (no 'paf_1.…'). "
                    "For its two encoders choose 'timm', or leave 'weights' out to start from "
                    "scratch"
                )
            converted = convert_reference_state_dict(read.values)
            start_from(self, converted, variant, str(weights), read.note)

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """First stream → gate → second stream → both classified."""
        image, other = (inputs.images[m.name] for m in self.modalities)
        if self.ndvi:
            other = self._index(image, other)
        first = self.attentions[0](*self.primary(image), self.slope)
        early = self.secondary.stages[0](self.secondary.stem(other))
        fine = self.gate(early, first)
        middle = self.secondary.stages[1](fine)
        deep = self.secondary.stages[2](middle)
        second = self.attentions[-1](fine, middle, deep, self.slope)
        both = torch.cat([first, resize(second, size_of(first))], dim=1)
        return SegmenterOutput(self.classifier(both))

    def _index(self, image: Tensor, other: Tensor) -> Tensor:
        """NDVI, (NIR − red) / (NIR + red), from physical values, (N, 1, H, W)."""
        values = []
        for modality, x in zip(self.modalities, (image, other), strict=True):
            mean = self.get_buffer(f"mean_{modality.name}")[0]
            std = self.get_buffer(f"std_{modality.name}")[0]
            values.append(x[:, :1] * std + mean)
        red, infrared = values
        return (infrared - red) / (infrared + red + INDEX_EPS)


#: Original names → ours, in this order.
_RENAMES = (
    (r"^m1_l", "primary.l"),
    (r"^m2_l", "secondary.l"),
    (r"^primary\.l0\.(?=conv1|bn1)", "primary.stem.layer0."),
    (r"^primary\.l([1-3])\.(?=\d+\.(?:conv\d|bn\d|se_module|downsample)\.)", r"SE\1."),
    (r"\.l0\.0\.0\.", ".stem.conv_stem."),
    (r"\.l0\.0\.1\.", ".stem.bn1."),
    (r"\.l0\.(?=[123]\.)", ".stem."),
    (r"\.l0\.(?=4\.)", ".stages.0."),
    (r"\.l([12])\.(?=\d)", lambda m: f".stages.{int(m[1]) - 1}."),
    (r"\.l3\.0\.(?=\d)", ".stages.2."),
    (r"\.l3\.1\.0\.", ".stages.2.16.conv."),
    (r"\.l3\.1\.1\.", ".stages.2.16.bn1."),
    (r"^SE([1-3])\.", lambda m: f"primary.stages.{int(m[1]) - 1}.layer{m[1]}."),
    # The first block has no expansion.
    (r"(\.stem\.1)\.conv\.0\.", r"\1.conv_dw."),
    (r"(\.stem\.1)\.conv\.1\.", r"\1.bn1."),
    (r"(\.stem\.1)\.conv\.4\.", r"\1.conv_pw."),
    (r"(\.stem\.1)\.conv\.5\.", r"\1.bn2."),
    (r"\.conv\.0\.(?=weight)", ".conv_pw."),
    (r"\.conv\.1\.", ".bn1."),
    (r"\.conv\.3\.", ".conv_dw."),
    (r"\.conv\.4\.", ".bn2."),
    (r"\.conv\.5\.fc\.0\.", ".se.gate.conv_reduce."),
    (r"\.conv\.5\.fc\.2\.", ".se.gate.conv_expand."),
    (r"\.conv\.7\.", ".conv_pwl."),
    (r"\.conv\.8\.", ".bn3."),
    (r"^paf_([12])\.", lambda m: f"attentions.{int(m[1]) - 1}."),
    (r"\.qzk_A\.q\.", ".query."),
    (r"\.qzk_A\.z\.", ".middle."),
    (r"\.qzk_A\.k\.", ".key."),
    (r"\.qzk_A\.label_coef$", ".relations"),
    (r"\.gcn_k\.0\.fc\.0\.", ".graph."),
    (r"\.gcn_k\.0\.fc\.1\.", ".graph_norm."),
    (r"\.rs\.0\.", ".smooth."),
    (r"\.rs\.2\.", ".smooth_norm."),
    (r"^gate\.", "gate.gate."),
    (r"^gate2\.", "gate.mix."),
    (r"^final\.0\.", "classifier."),
    (r"^activation\.weight$", "slope"),
)
#: Further names of the shared PReLU and the second stem.
_COPIES = re.compile(r"^paf_\d\.(activation|rs\.1|gcn_k\.0\.fc\.2)\.|^conv0\.")


def convert_reference_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of the authors' `PAGNet_mobile` or `PAGNet_rx50`.

    The original stores its PReLU up to seven times and one stem twice; one of each is kept.
    Normalisation statistics are not included: add those of the data.

    Args:
        state: Original names.
    """
    converted = {}
    for name, value in state.items():
        if _COPIES.match(name):
            continue
        name = rename(name, _RENAMES)
        if ".se.gate.conv_" in name and value.ndim == 2:
            value = value[:, :, None, None]
        converted[name] = value
    return converted

"""Parts shared by methods: backbones from options, stems, a segmentation head."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from terrafuse.backbones import (
    HUB_WEIGHTS,
    TIMM_WEIGHTS,
    Backbone,
    PretrainedSource,
    create_backbone,
    find_published,
)
from terrafuse.config.options import by_modality
from terrafuse.decoders import FCNHead, SegFormerDecoder, create_decoder
from terrafuse.decoders.layers import NormName, create_norm
from terrafuse.errors import UnknownNameError, unknown_name
from terrafuse.modalities import Modality
from terrafuse.segmenter import Segmenter, SegmenterOutput
from terrafuse.tuning import TuningOption, apply_tuning
from terrafuse.weights import ForeignWeights, load_strict, pretrained_wanted, read_foreign


def build_backbone(
    name: str,
    in_channels: int,
    weights: str | None,
    options: Mapping[str, Any] | None,
    *,
    tuning: TuningOption = None,
    num_modalities: int = 1,
    modalities: Sequence[Modality] | None = None,
    one_image: bool = True,
) -> Backbone:
    """Create a backbone with the options of a run file, then `apply_tuning`."""
    backbone = create_backbone(
        name,
        in_channels,
        weights=weights,
        modalities=modalities,
        one_image=one_image,
        **(options or {}),
    )
    apply_tuning(backbone, tuning, num_modalities)
    return backbone


def build_branches(
    modalities: Sequence[Modality],
    name: str,
    weights: str | Mapping[str, str | None] | None,
    options: Mapping[str, Any] | None,
    *,
    tuning: TuningOption = None,
) -> nn.ModuleDict:
    """Build one backbone per modality, alike except for their bands, by modality name.

    `weights` apply to all, or are given by modality.
    """
    names = [m.name for m in modalities]
    sources = by_modality("weights", weights, names, default=None)
    return nn.ModuleDict(
        {
            m.name: build_backbone(
                name, len(m.bands), sources[m.name], options, tuning=tuning, modalities=[m]
            )
            for m in modalities
        }
    )


def weights_by_stream(
    weights: str | Mapping[str, str | None] | None, streams: Mapping[str, Sequence[Modality]]
) -> dict[str, str | None]:
    """Assign pretrained weights to streams.

    Args:
        weights: For all streams, by stream, or by modality.
        streams: Modalities of each stream; only a stream of one modality may be named by it.

    Raises:
        UnknownNameError: Neither a stream nor such a modality.
    """
    if not isinstance(weights, Mapping):
        return dict.fromkeys(streams, weights)
    stream_of = {own[0].name: stream for stream, own in streams.items() if len(own) == 1}
    found: dict[str, str | None] = dict.fromkeys(streams)
    for name, source in weights.items():
        stream = name if name in streams else stream_of.get(name)
        if stream is None:
            allowed = [*streams, *stream_of]
            raise UnknownNameError(unknown_name("stream in option 'weights'", name, allowed))
        found[stream] = source
    return found


def read_reference_model(
    weights: str | Mapping[str, str | None] | None, mark: str
) -> ForeignWeights | None:
    """Read the values of a whole model saved by the published code, under its names.

    Args:
        weights: The method's option `weights`.
        mark: Regular expression of a name found only in such a file, not in one of an encoder.

    Returns:
        None if there is no file, it holds no whole model, or weights are not to be loaded.
    """
    is_file = isinstance(weights, str) and weights not in (TIMM_WEIGHTS, HUB_WEIGHTS)
    if not is_file or not pretrained_wanted():
        return None

    def number_of_marks(state: Mapping[str, Tensor]) -> int:
        return sum(re.search(mark, name) is not None for name in state)

    sha256, _ = find_published(str(weights))
    read = read_foreign(str(weights), number_of_marks, sha256=sha256)
    return read if number_of_marks(read.values) else None


def start_from(
    segmenter: Segmenter, state: Mapping[str, Tensor], backbone: str, weights: str, note: str = ""
) -> None:
    """Load a converted checkpoint of a whole model into a segmenter; everything must fit.

    Normalisation statistics keep their values, as do classifiers of decoder and auxiliary head
    for another number of classes.

    Args:
        segmenter: Changed in place.
        state: Values under our names.
        backbone: Name of the encoders.
        weights: Origin of the values.
        note: What was recognised and changed while reading them.

    Raises:
        WeightsMismatchError: Values are missing, unknown or of another shape.
    """
    own = segmenter.state_dict()
    kept = {
        name: value
        for name, value in own.items()
        if name.startswith(("mean_", "std_"))
        or (".classifier." in name and name in state and state[name].shape != value.shape)
    }
    where = f"weights '{weights}' for method '{type(segmenter).__name__.lower()}'"
    load_strict(segmenter, {**state, **kept}, where=where)
    for part in segmenter.backbones():
        part.pretrained = PretrainedSource(backbone, weights, find_published(weights)[1], note)


class SegmentationHead(nn.Module):
    """Levels → logits, optionally with an auxiliary head on the middle level.

    Args:
        backbone: Backbone that gives the levels.
        num_classes: K.
        aux: Whether to add the auxiliary head; it runs in training only.
        aux_channels: Width of the auxiliary head.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        decoder: str,
        decoder_options: Mapping[str, Any] | None,
        aux: bool,
        *,
        aux_channels: int = 256,
    ) -> None:
        super().__init__()
        self.decoder = create_decoder(
            decoder, backbone.channels, backbone.strides, num_classes, **(decoder_options or {})
        )
        # The third of four levels, as in UPerNet's and PSPNet's published settings.
        self.aux_level = len(backbone.channels) // 2
        level = backbone.channels[self.aux_level]
        self.aux = FCNHead(level, num_classes, channels=aux_channels) if aux else None

    def forward(self, levels: Sequence[Tensor]) -> SegmenterOutput:
        """Logits at the finest level's size, auxiliary ones at their own level's."""
        logits = self.decoder(levels)
        if self.aux is None or not self.training:
            return SegmenterOutput(logits)
        return SegmenterOutput(logits, aux_logits=(self.aux(levels[self.aux_level]),))


def start_as_published(head: nn.Module, norm_eps: float = 1e-3) -> None:
    """Initialise a head as CMX's code and its descendants do.

    Convolutions N(0, 2 / n) with n the fan-in; biases, and SegFormer's linear layers, keep torch's
    initialisation. Batch norms get `norm_eps` instead of torch's 1e-5.

    Args:
        head: Changed in place.
    """
    decoders = [m for m in head.modules() if isinstance(m, SegFormerDecoder)]
    linears = {id(layer) for decoder in decoders for layer in decoder.linears}
    for layer in head.modules():
        if isinstance(layer, nn.Conv2d) and id(layer) not in linears:
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            layer.eps = norm_eps


class QuarterStem(nn.Sequential):
    """Image → map of a quarter of its size: two 3×3 convolutions of stride 2, each with a norm.

    Args:
        channels: C of the map; the first convolution has C / 2.
    """

    def __init__(self, bands: int, channels: int, *, norm: NormName = "batch") -> None:
        half = channels // 2
        super().__init__(
            nn.Conv2d(bands, half, kernel_size=3, stride=2, padding=1),
            create_norm(norm, half),
            nn.GELU(),
            nn.Conv2d(half, channels, kernel_size=3, stride=2, padding=1),
            create_norm(norm, channels),
        )


class HalvingConv(nn.Sequential):
    """A map → half of its size, rounded up: norm, then a 3×3 convolution of stride 2."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: NormName = "batch") -> None:
        super().__init__(
            create_norm(norm, in_channels),
            nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1),
        )

"""Written graphs, run as the model that they came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from terrafuse.errors import ModelError
from terrafuse.modalities import Modality
from terrafuse.samples import round_up
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput
from terrafuse.weights.portable import STACKED_INPUT

#: Images (N, C_m, H_m, W_m) of every modality in physical units, NaN = no data → logits
#: (N, K, H, W). Sizes are those that the graph takes.
Graph = Callable[[Mapping[str, Tensor]], Tensor]

_ERRORS_ONLY = 3  # of ONNX Runtime's severities: it warns of its own choices


def open_onnx(
    path: Path,
    modalities: Sequence[Modality],
    stack: Callable[[Mapping[str, Tensor]], Tensor] | None = None,
) -> Graph:
    """Open an ONNX file on the CPU.

    Args:
        path: Of the file.
        modalities: Of the model, in its order.
        stack: Where the graph takes all bands as one image and returns probabilities: what makes
            the image. Their logarithm stands for the logits.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [modality.name for modality in modalities]

    def run(images: Mapping[str, Tensor]) -> Tensor:
        inputs = {name: images[name].cpu() for name in names}
        if stack:
            inputs = {STACKED_INPUT: stack(inputs)}
        (found,) = session.run(None, {name: image.numpy() for name, image in inputs.items()})
        scores = torch.from_numpy(found)
        # A probability of 0 in float32 is a logit of about −103.
        return scores.clamp_min(1e-45).log() if stack else scores

    return run


def open_program(path: Path, modalities: Sequence[Modality]) -> Graph:
    """Open a `.pt2` archive of torch on the CPU.

    Args:
        path: Of the file.
        modalities: Of the model, in its order.
    """
    module = torch.export.load(str(path)).module()
    names = [modality.name for modality in modalities]

    def run(images: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            scores: Tensor = module(*(images[name] for name in names))
        return scores

    return run


def fit_to_graph(
    images: Mapping[str, Tensor], modalities: Sequence[Modality], unit: int, least: int = 0
) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """Pad images with NaN to a window that a graph takes, and add those that are absent.

    Args:
        images: Per modality (N, C_m, H_m, W_m); one at least.
        modalities: Of the model, in its order.
        unit: Sizes of the scene window are multiples of it.
        least: Smallest size.

    Returns:
        Every modality, and the height and width of the scene window before.
    """
    like = next(m for m in modalities if m.name in images)
    known = images[like.name]
    height, width = (round(float(n * like.scale_ratio)) for n in known.shape[-2:])
    rows, cols = (round_up(max(n, least), unit) for n in (height, width))
    padded = {}
    for modality in modalities:
        size = (modality.size_at(rows), modality.size_at(cols))
        if modality.name in images:
            image = images[modality.name].float()
            missing = (0, size[1] - image.shape[-1], 0, size[0] - image.shape[-2])
            padded[modality.name] = F.pad(image, missing, value=torch.nan)
        else:
            shape = (len(known), len(modality.bands), *size)
            padded[modality.name] = torch.full(shape, torch.nan, device=known.device)
    return padded, (height, width)


class GraphSegmenter(Segmenter):
    """A graph in the place of the model that it was made of, so that it can map and be scored.

    Args:
        segmenter: The model.
        graph: What computes instead.
        unit: Sizes of the scene window are multiples of it.
        least: Smallest size.
    """

    def __init__(self, segmenter: Segmenter, graph: Graph, unit: int, least: int = 0) -> None:
        super().__init__(segmenter.modalities, segmenter.num_classes)
        self.stride = segmenter.stride
        self._graph, self._unit, self._least = graph, unit, least

    @classmethod
    def of(cls, segmenter: Segmenter, graph: Graph, unit: int, least: int = 0) -> GraphSegmenter:
        """Put a graph in the place of a model that takes, or does not take, missing modalities."""
        kind = _WithMissing if segmenter.supports_missing else cls
        return kind(segmenter, graph, unit, least)

    def forward(
        self, images: Mapping[str, Tensor], valid: Mapping[str, Tensor] | None = None
    ) -> SegmenterOutput:
        """Compute the class scores of a batch; see `Segmenter.forward`."""
        masked = dict(images)
        for name, mask in (valid or {}).items():
            if name in masked:
                masked[name] = masked[name].masked_fill(~mask.unsqueeze(1), torch.nan)
        padded, (height, width) = fit_to_graph(masked, self.modalities, self._unit, self._least)
        return SegmenterOutput(self._graph(padded)[..., :height, :width])

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        """Refuse: a graph takes what is not prepared yet.

        Raises:
            ModelError: Always.
        """
        del inputs
        raise ModelError("a graph has its normalisation inside and takes no prepared inputs")


class _WithMissing(GraphSegmenter):
    supports_missing = True

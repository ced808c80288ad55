"""One graph per model: physical values in, class scores out.

Normalisation, filling and resampling are inside. The batch and the size of the window stay open:
height and width are multiples of `Segmenter.size_unit`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from terrafuse.segmenter import Segmenter

#: Name of the output of an ONNX graph; its inputs are named as the modalities.
LOGITS = "logits"
#: Version of ONNX' operators; 18 brought those that torch's exporter writes.
OPSET = 18

_LARGEST = 4096  # samples of a batch, and units along a window
_MOST_IN_ONE_FILE = 1_900_000_000  # bytes; a protobuf message ends at 2 GiB


class ExportGraph(nn.Module):
    """A segmenter as a function of one tensor per modality.

    Args:
        segmenter: A trained model.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, *images: Tensor) -> Tensor:
        """Logits (N, K, H, W).

        Args:
            images: Per modality, in order, (N, C_m, H_m, W_m) in physical units; NaN = no data, all
                NaN where a modality is absent.
        """
        names = [modality.name for modality in self.segmenter.modalities]
        return self.segmenter.scores_of_whole(dict(zip(names, images, strict=True)))


def example_images(segmenter: Segmenter, batch: int = 2) -> dict[str, Tensor]:
    """Images of the smallest window whose sizes are not taken for constants."""
    unit, least = segmenter.size_unit, max(2, segmenter.least_units)
    device = next(segmenter.buffers()).device
    return {
        m.name: torch.zeros(
            batch, len(m.bands), m.size_at((least + 1) * unit), m.size_at(least * unit)
        ).to(device)
        for m in segmenter.modalities
    }


def to_program(
    segmenter: Segmenter, example: Mapping[str, Tensor] | None = None
) -> torch.export.ExportedProgram:
    """Record a model as a graph of torch.

    Args:
        segmenter: A trained model; it is recorded in evaluation mode.
        example: A batch of at least two samples, every modality; None: of zeros.
    """
    images = example or example_images(segmenter)
    inputs = tuple(images[m.name] for m in segmenter.modalities)
    with _evaluating(segmenter), torch.no_grad():
        return torch.export.export(
            ExportGraph(segmenter),
            inputs,
            dynamic_shapes={"images": _open_sizes(segmenter)},
            strict=False,
        )


def to_onnx(
    segmenter: Segmenter, path: str | Path, example: Mapping[str, Tensor] | None = None
) -> Path:
    """Write a model as an ONNX file.

    Inputs are named as the modalities, the output `LOGITS`. Weights of more than 1.9 GB are written
    beside the file, as `<name>.data`.

    Args:
        segmenter: A trained model; it is recorded in evaluation mode.
        path: Of the file.
        example: A batch of at least two samples, every modality; None: of zeros.
    """
    program = to_program(segmenter, example)
    size = sum(x.numel() * x.element_size() for x in program.state_dict.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        torch.onnx.export(
            program,
            (),
            str(path),
            dynamo=True,
            opset_version=OPSET,
            input_names=[m.name for m in segmenter.modalities],
            output_names=[LOGITS],
            external_data=size > _MOST_IN_ONE_FILE,
            verbose=False,
        )
    return Path(path)


def _open_sizes(segmenter: Segmenter) -> tuple[dict[int, object], ...]:
    """Per modality, what stays open of its size: all grow by whole units of the scene window."""
    batch = torch.export.Dim("batch", min=1, max=_LARGEST)
    rows, cols = (
        torch.export.Dim(name, min=segmenter.least_units, max=_LARGEST) for name in ("rows", "cols")
    )
    sizes = []
    for modality in segmenter.modalities:
        own = modality.size_at(segmenter.size_unit)
        sizes.append({0: batch, 2: own * rows, 3: own * cols} if own > 1 else {0: batch, 2: rows, 3: cols})
    return tuple(sizes)


@contextmanager
def _evaluating(segmenter: Segmenter) -> Iterator[None]:
    was_training = segmenter.training
    segmenter.eval()
    try:
        yield
    finally:
        segmenter.train(was_training)

"""One graph per model: physical values in, class scores out.

Normalisation, filling and resampling are inside. The batch and the size of the window stay open:
height and width are multiples of `Segmenter.size_unit`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from terrafuse.errors import ModelError
from terrafuse.exporting.files import write_onnx
from terrafuse.segmenter import Segmenter, evaluating
from terrafuse.weights.portable import OUTPUT

_LARGEST = 4096  # samples of a batch, and units along a window


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


def to_program(segmenter: Segmenter) -> torch.export.ExportedProgram:
    """Record a model as a graph of torch.

    Args:
        segmenter: A trained model; it is recorded in evaluation mode.

    Raises:
        ModelError: The method asks for pixel values, or takes sizes for constants.
    """
    try:
        with evaluating(segmenter), torch.no_grad():
            return torch.export.export(
                ExportGraph(segmenter),
                _example_images(segmenter),
                dynamic_shapes={"images": _open_sizes(segmenter)},
                strict=False,
            )
    except Exception as error:  # of many classes, also the method's own
        raise ModelError(_told(segmenter, error)) from error


def to_onnx(segmenter: Segmenter, path: str | Path) -> Path:
    """Write a model as an ONNX file.

    Inputs are named as the modalities, the output `OUTPUT`. Weights of more than 1.9 GB are written
    beside the file, as `<name>.data`.

    Args:
        segmenter: A trained model; it is recorded in evaluation mode.
        path: Of the file.

    Raises:
        ModelError: The method cannot be recorded, or a modality has the name of the output.
    """
    check_names(segmenter)
    write_onnx(to_program(segmenter), Path(path), [m.name for m in segmenter.modalities], OUTPUT)
    return Path(path)


def check_names(segmenter: Segmenter) -> None:
    """Refuse a modality that has the name of the output.

    Raises:
        ModelError: There is one.
    """
    if any(m.name == OUTPUT for m in segmenter.modalities):
        raise ModelError(
            f"a modality is named '{OUTPUT}', as the output of a graph is. Rename it in the "
            "manifest and train again"
        )


def _example_images(segmenter: Segmenter) -> tuple[Tensor, ...]:
    """Images of the smallest window whose sizes are not taken for constants."""
    unit, least = segmenter.size_unit, segmenter.least_units
    device = next(segmenter.buffers()).device
    return tuple(
        torch.zeros(
            2, len(m.bands), m.size_at((least + 1) * unit), m.size_at(least * unit), device=device
        )
        for m in segmenter.modalities
    )


def _open_sizes(segmenter: Segmenter) -> tuple[dict[int, torch.export.Dim], ...]:
    """Per modality, what stays open of its size: all grow by whole units of the scene window."""
    batch = torch.export.Dim("batch", min=1, max=_LARGEST)
    rows, cols = (
        torch.export.Dim(name, min=segmenter.least_units, max=_LARGEST) for name in ("rows", "cols")
    )
    sizes: list[dict[int, torch.export.Dim]] = []
    for modality in segmenter.modalities:
        own = modality.size_at(segmenter.size_unit)
        sizes.append(
            {0: batch, 2: own * rows, 3: own * cols} if own > 1 else {0: batch, 2: rows, 3: cols}
        )
    return tuple(sizes)


def _told(segmenter: Segmenter, error: Exception) -> str:
    """Which line of a method a graph cannot hold, and what can stand there."""
    name = segmenter.method_name or type(segmenter).__name__
    first = str(error).strip().partition("\n\n")[0].replace("\n", " ")
    return (
        f"method '{name}' cannot be recorded as a graph: {type(error).__name__}: {first}. A graph "
        "holds any pixel values and sizes: mask instead of asking for values, write x.shape[0] "
        "instead of len(x) and int(…), and use terrafuse.tracing where sizes decide"
    )

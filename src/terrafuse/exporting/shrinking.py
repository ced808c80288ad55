"""Smaller weights: float16, and int8 by ONNX Runtime."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from terrafuse.segmenter import Segmenter

# What holds most of the weights and of the work. Everything else keeps float32: values before
# they are normalised may be NaN, which has no int8.
_QUANTIZED = ["Conv", "MatMul", "Gemm"]
# Fewer values are not worth a conversion.
_LEAST_VALUES = 1024


class _AsFloat32(nn.Module):
    """Float32 of stored float16."""

    def forward(self, stored: Tensor) -> Tensor:
        return stored.float()


def with_half_weights(segmenter: Segmenter) -> Segmenter:
    """Return a copy whose larger weights are stored as float16; it computes in float32.

    Statistics, and what else is in buffers, keep float32.
    """
    copied = copy.deepcopy(segmenter).requires_grad_(False)
    for module in list(copied.modules()):
        if isinstance(module, nn.ParameterList | nn.ParameterDict):
            continue  # their members are items, not attributes
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.dtype == torch.float32 and parameter.numel() >= _LEAST_VALUES:
                parametrize.register_parametrization(module, name, _AsFloat32(), unsafe=True)
                stored = module.get_parameter(f"parametrizations.{name}.original")
                stored.data = stored.data.half()
    return copied


def halve(path: Path, out: Path, *, external: bool = False) -> None:
    """Write an ONNX file with its larger weights as float16; it computes in float32.

    Args:
        path: The file in float32.
        out: The file to write.
        external: Whether weights go into a file beside, `NAME.data`.
    """
    import onnx

    model = onnx.load(str(path))
    kept, casts = [], []
    for weights in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weights)
        with np.errstate(over="ignore"):
            halved = values.astype(np.float16)
        # What float16 cannot hold stays as it is.
        if (
            values.dtype == np.float32
            and values.size >= _LEAST_VALUES
            and np.isfinite(halved).all()
        ):
            stored = f"{weights.name}_float16"
            kept.append(onnx.numpy_helper.from_array(halved, stored))
            casts.append(
                onnx.helper.make_node("Cast", [stored], [weights.name], to=onnx.TensorProto.FLOAT)
            )
        else:
            kept.append(weights)
    nodes = [*casts, *model.graph.node]
    for field, values in (("initializer", kept), ("node", nodes)):
        held = list(values)  # some are of the list that is emptied
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(held)
    onnx.save(model, str(out), save_as_external_data=external, location=f"{out.name}.data")


class _Windows:
    """Inputs of a graph, one after the other, as the calibration of ONNX Runtime asks for them."""

    def __init__(self, inputs: Sequence[dict[str, NDArray[Any]]]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._inputs, None)


def quantize(
    path: Path, out: Path, inputs: Sequence[dict[str, NDArray[Any]]], *, external: bool = False
) -> None:
    """Write an ONNX file with int8 weights and activations, one scale per channel of a weight.

    Args:
        path: The file in float32.
        out: The file to write.
        inputs: Windows by whose values the range of each activation is found.
        external: Whether weights go into a file beside.
    """
    from onnxruntime import quantization

    with _silenced():
        quantization.quantize_static(
            str(path),
            str(out),
            _Windows(inputs),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_QUANTIZED,
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            use_external_data_format=external,
        )


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep the library's advice on its own options out of the user's sight."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

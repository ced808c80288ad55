"""Model metadata as fields of the STAC machine learning model extension.

Reference: https://github.com/stac-extensions/mlm, version 1.4.0 (fields of an item's properties).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from terrafuse.classes import ClassScheme
from terrafuse.modalities import BandStatistics, Modality

MLM_SCHEMA = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
CLASSIFICATION_SCHEMA = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
TASK = "semantic-segmentation"
_DIMENSIONS = ["batch", "channel", "height", "width"]


def stac_fields(
    *,
    method: str,
    modalities: Sequence[Modality],
    scheme: ClassScheme,
    statistics: Mapping[str, BandStatistics],
    base_weights: Sequence[Mapping[str, str]],
    total_parameters: int,
) -> dict[str, Any]:
    """Return the `mlm:*` fields of a segmentation model.

    Args:
        modalities: One input each.
        statistics: Mean and standard deviation per band, by modality.
        base_weights: Pretrained weights the model started from.
        total_parameters: Number of trainable and frozen values.
    """
    sources = [weights["source"] for weights in base_weights]
    return {
        "stac_extensions": [MLM_SCHEMA, CLASSIFICATION_SCHEMA],
        # Letters, digits, dots, dashes and spaces only; the last must be a letter or a digit.
        "mlm:name": f"{'-'.join(m.name for m in modalities)} {method}",
        "mlm:architecture": method,
        "mlm:tasks": [TASK],
        "mlm:framework": "PyTorch",
        "mlm:framework_version": _torch_version(),
        "mlm:total_parameters": total_parameters,
        "mlm:pretrained": bool(sources),
        "mlm:pretrained_source": ", ".join(sources) or None,
        "mlm:input": [_input(m, statistics.get(m.name)) for m in modalities],
        "mlm:output": [_output(scheme)],
    }


def _torch_version() -> str | None:
    """Version of torch; None where models run without it."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return None


def _input(modality: Modality, statistics: BandStatistics | None) -> dict[str, Any]:
    scaling = None
    if statistics is not None:
        scaling = [
            {"type": "z-score", "mean": mean, "stddev": std}
            for mean, std in zip(statistics.mean, statistics.std, strict=True)
        ]
    return {
        "name": modality.name,
        "description": f"{modality.kind}, {modality.unit}; pixels of {modality.scale:g} × the "
        "scene's. The model applies the scaling itself; NaN = no data",
        "bands": list(modality.bands),
        "input": {
            "shape": [-1, len(modality.bands), -1, -1],
            "dim_order": _DIMENSIONS,
            "data_type": "float32",
        },
        "value_scaling": scaling,
        "resize_type": None,
    }


def _output(scheme: ClassScheme) -> dict[str, Any]:
    return {
        "name": "logits",
        "tasks": [TASK],
        "result": {
            "shape": [-1, scheme.num_classes, -1, -1],
            "dim_order": _DIMENSIONS,
            "data_type": "float32",
        },
        "classification:classes": describe_classes(
            scheme.names, scheme.colors, range(scheme.num_classes)
        ),
    }


def describe_classes(
    names: Sequence[str], colors: Sequence[str], values: Sequence[int]
) -> list[dict[str, Any]]:
    """Return the classes as the classification extension has them.

    Args:
        colors: "#rrggbb" each.
        values: In pixels or in scores.
    """
    return [
        {
            "value": value,
            # The extension allows letters, digits, - and _ in a name; a title is free text.
            "name": re.sub(r"[^0-9A-Za-z_-]+", "_", name),
            "title": name,
            # Version 1.1, which the MLM extension refers to, requires it.
            "description": name,
            "color_hint": color.removeprefix("#").upper(),
        }
        for value, name, color in zip(values, names, colors, strict=True)
    ]

"""Overview of a model: parts, trainable parameters, operations, memory, licences.

One function, for the command line and for notebooks:

    overview = terrafuse.api.describe_model("run.yaml")
    overview["total"]["trainable"], overview["cost"]["training_bytes"]["total"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from terrafuse.classes import ClassScheme
from terrafuse.config import RunConfig, load_run_config
from terrafuse.config.base import STORED_CONFIG
from terrafuse.data import open_dataset
from terrafuse.describe.costs import without_values
from terrafuse.describe.exported import describe_exported
from terrafuse.describe.parts import describe_segmenter, mean_gates
from terrafuse.errors import ConfigError
from terrafuse.methods import create_segmenter
from terrafuse.modalities import Modality
from terrafuse.sampling import describe_augmentation
from terrafuse.segmenter import Segmenter
from terrafuse.weights import read_run_info, read_state, run_folder
from terrafuse.weights.onnx_file import names_onnx, refuse_exported


def describe_model(path: str | Path, overrides: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Describe the model of a `run.yaml` or a run folder, without reading pixels or computing.

    Memory is what a training step holds at once: weights, gradients, optimiser state and tensors
    saved for the backward pass of a batch, and what is alive beside them at the peak.

    Args:
        path: A run file, a run folder, or an ONNX file, of which `describe_exported`
            says what is returned.
        overrides: Dotted keys → YAML values that replace those of the settings; for a run folder,
            those of the method cannot be replaced.

    Returns:
        "method", "classes", "modalities", "backbones" (weights and their licences), "parts",
        "total", "saved_values", "cost" and "augmentation" (transforms of training samples, line by
        line); for a run folder also "scores" per subset of modalities and "gates" (per modality
        the share of its own features, where a tuning mixes them).

    Raises:
        ConfigError: Invalid settings.
        DataError: Invalid manifest.
        ModelError: The method cannot be built with these options.
        WeightsError: Not a run folder, damaged, or of another version.
    """
    if names_onnx(path):
        return describe_exported(path)
    path = run_folder(path)
    if path.is_dir():
        return _describe_folder(path, overrides or {})
    config = load_run_config(path, overrides or {})
    dataset = open_dataset(config.data)
    modalities, scheme = list(dataset.modalities.values()), dataset.scheme
    segmenter = _shapes(config.method.name, modalities, scheme, config.method.options)
    return {
        "classes": list(scheme.names),
        **describe_segmenter(segmenter, config),
        "augmentation": describe_augmentation(config.data.augment, modalities),
    }


def build_shapes(
    path: str | Path, overrides: Mapping[str, str] | None = None
) -> tuple[Segmenter, RunConfig]:
    """Build the model of a `run.yaml` or a run folder as shapes without values.

    Args:
        path: As in `describe_model`, and so are `overrides`.

    Returns:
        The model, and the settings of its run.

    Raises:
        ConfigError: An ONNX file, which has no settings; others are as of `describe_model`.
    """
    refuse_exported(path)
    path = run_folder(path)
    if path.is_dir():
        _check_overrides(path, overrides or {})
        info = read_run_info(path)
        config = load_run_config(path / STORED_CONFIG, overrides)
        return _shapes(info.method, info.modalities, info.scheme, info.method_options), config
    config = load_run_config(path, overrides or {})
    dataset = open_dataset(config.data)
    modalities, method = list(dataset.modalities.values()), config.method
    return _shapes(method.name, modalities, dataset.scheme, method.options), config


def _describe_folder(folder: Path, overrides: Mapping[str, str]) -> dict[str, Any]:
    info = read_run_info(folder)
    _check_overrides(folder, overrides)
    config = load_run_config(folder / STORED_CONFIG, overrides)
    segmenter = _shapes(info.method, info.modalities, info.scheme, info.method_options)
    return {
        "classes": list(info.scheme.names),
        **describe_segmenter(segmenter, config, info.base_weights),
        "augmentation": describe_augmentation(config.data.augment, info.modalities),
        "scores": info.scores,
        "gates": mean_gates(segmenter, read_state(folder, info)),
    }


def _check_overrides(folder: Path, overrides: Mapping[str, str]) -> None:
    changed = [key for key in overrides if key.partition(".")[0] == "method"]
    if changed:
        raise ConfigError(
            f"'{changed[0]}' cannot be set: '{folder}' holds a model with a method of its own. "
            "Set keys of data and training, or describe a run.yaml"
        )


def _shapes(
    method: str,
    modalities: Sequence[Modality],
    scheme: ClassScheme,
    options: Mapping[str, Any],
) -> Segmenter:
    return without_values(lambda: create_segmenter(method, modalities, scheme.num_classes, options))

"""Whether run.yaml and pretrain.yaml are right, before anything is read or learnt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from terrafuse.config import load_run_config
from terrafuse.config.base import read_yaml
from terrafuse.config.pretrain import load_pretrain_config
from terrafuse.data import Manifest, open_dataset

if TYPE_CHECKING:
    from terrafuse.segmenter import SensorModel


def validate(config: str | Path, overrides: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Check `run.yaml` or `pretrain.yaml`, its manifest and options, without reading pixels.

    Returns:
        Facts about the run: method, modalities, classes, scenes per split, parameters; of a
        pre-training its objective, and no classes.

    Raises:
        ConfigError: The settings are invalid.
        DataError: The manifest is invalid.
        ModelError: The method or objective cannot be built with these options.
    """
    if "objective" in read_yaml(Path(config), overrides):
        return _validate_pretraining(config, overrides or {})
    return _validate_run(config, overrides or {})


def _validate_run(config: str | Path, overrides: Mapping[str, str]) -> dict[str, Any]:
    settings = load_run_config(config, overrides)
    # What the settings alone show is said before the libraries below take seconds to import.
    from terrafuse.describe.memory import check_small_batch
    from terrafuse.evaluation import scored_classes
    from terrafuse.methods import create_segmenter
    from terrafuse.sampling.augment import ModalityDropout
    from terrafuse.training import check_crop_size, check_settings

    check_settings(settings)
    dataset = open_dataset(settings.data)
    check_crop_size(settings.data, dataset)
    scored_classes(settings.evaluation, dataset.scheme)  # refuses unknown class names
    ModalityDropout(settings.data.modality_dropout, list(dataset.modalities))  # likewise
    segmenter = create_segmenter(
        settings.method.name,
        list(dataset.modalities.values()),
        dataset.scheme.num_classes,
        settings.method.options,
    )
    check_small_batch(segmenter, settings)
    facts: dict[str, Any] = {"classes": list(dataset.scheme.names)}
    if dataset.painted is not None:
        facts["painted"] = dataset.painted.summary()
    return {"method": settings.method.name} | _facts(dataset, segmenter, facts)


def _validate_pretraining(config: str | Path, overrides: Mapping[str, str]) -> dict[str, Any]:
    settings = load_pretrain_config(config, overrides)
    from terrafuse.pretraining import create_pretrainer
    from terrafuse.training import check_crop_size, check_pretrain_settings

    check_pretrain_settings(settings)
    dataset = open_dataset(settings.data, is_labelled=False)
    check_crop_size(settings.data, dataset)
    pretrainer = create_pretrainer(settings, list(dataset.modalities.values()))
    return {"objective": settings.objective.name} | _facts(dataset, pretrainer, {})


def _facts(dataset: Manifest, model: SensorModel, further: dict[str, Any]) -> dict[str, Any]:
    return {
        "modalities": {m.name: list(m.bands) for m in dataset.modalities.values()},
        **further,
        "scenes": dataset.splits,
        "parameters": sum(p.numel() for p in model.parameters()),
    }

"""Settings of `terrafuse pretrain` as one pydantic model: data + objective + backbone.

Like `run.yaml` without labels: settings that need labels are missing here or refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from terrafuse.config.base import (
    NamedOptions,
    Settings,
    check_free_values,
    find_code_beside,
    parse_settings,
    read_yaml,
)
from terrafuse.config.paths import exists
from terrafuse.config.run import MOST_STEPS, DataConfig, LearningConfig

#: Data settings that need labels or a method → the value they must have here.
_WITHOUT_LABELS: Mapping[str, Any] = {
    "modality_dropout": 0.0,
    "label_share": 1.0,
    "label_seed": 0,
}


class PretrainTrainingConfig(LearningConfig):
    """Optimisation settings of pre-training."""

    save_every: int | None = Field(
        None,
        ge=1,
        le=MOST_STEPS,
        description="Steps between checkpoints; default: ten over the run.",
    )


class PretrainConfig(Settings):
    """All settings of a pre-training run."""

    data: DataConfig
    objective: NamedOptions
    backbone: str | dict[str, str] = Field(
        description="Name of a backbone, one for all modalities or by modality."
    )
    backbone_options: dict[str, Any] = Field(
        default_factory=dict, description="Like a method's `backbone_options`."
    )
    weights: str | None = Field(
        None, description="Initial weights, like a method's `weights`; default: random values."
    )
    training: PretrainTrainingConfig = Field(default_factory=PretrainTrainingConfig)

    @field_validator("backbone_options")
    @classmethod
    def _options_are_plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_free_values(value)
        return value

    @model_validator(mode="after")
    def _needs_no_labels(self) -> PretrainConfig:
        for key, neutral in _WITHOUT_LABELS.items():
            value = getattr(self.data, key, neutral)
            if value != neutral:
                raise ValueError(
                    f"'data.{key}' is {value!r}, which has no meaning without labels; leave it out"
                )
        if self.data.sampling == "balanced":
            raise ValueError(
                "'data.sampling' is 'balanced', which balances classes, and labels are not read; "
                "choose random, grid or scene"
            )
        return self


def load_pretrain_config(
    path: Path | str, overrides: Mapping[str, str] | None = None
) -> PretrainConfig:
    """Read the settings of a pre-training run.

    Args:
        path: The file. `data.manifest` is resolved relative to it, and so is `weights` if such a
            file exists.
        overrides: Dotted keys → YAML values, as given by `-s training.lr=1e-3`. A `data.manifest`
            among them is relative to the working directory.

    Raises:
        ConfigError: Missing or invalid file; unknown key (the nearest valid one is named); a value
            of the wrong type, or without effect.
    """
    path = Path(path)
    config = parse_settings(PretrainConfig, read_yaml(path, overrides), str(path))
    find_code_beside(path, config.backbone, overrides)
    weights = config.weights
    if weights is not None and exists(path.parent / weights) and (path.parent / weights).is_file():
        weights = str((path.parent / weights).resolve())
    data = config.data.beside(path.parent, overrides)
    return config.model_copy(update={"data": data, "weights": weights})


def without_labels(data: DataConfig) -> DataConfig:
    """Return a run's data settings with those that need labels reset, for pre-training."""
    neutral = {key: value for key, value in _WITHOUT_LABELS.items() if hasattr(data, key)}
    sampling = "random" if data.sampling == "balanced" else data.sampling
    return data.model_copy(update={**neutral, "sampling": sampling})

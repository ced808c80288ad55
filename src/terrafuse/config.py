"""`run.yaml` as one pydantic model: data + method + training + evaluation + prediction.

Settings only: nothing here knows a room. A method, backbone or loss is a name with options; the
room that owns the name checks the options.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from terrafuse.errors import ConfigError, unknown_name

_S = TypeVar("_S", bound=BaseModel)


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, values are fixed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NamedOptions(BaseModel):
    """A thing known by name; every further key is an option of its constructor."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The keys beside `name`."""
        return dict(self.model_extra or {})


class AugmentConfig(Settings):
    """Random changes of training samples, in register over all modalities."""

    flip: bool = Field(True, description="Mirror rows and columns, each with probability 0.5.")
    rotate: bool = Field(True, description="Quarter turns, uniformly 0 to 3.")
    scale: tuple[float, float] = Field(
        (1.0, 1.0), description="Range of the zoom factor; 2 shows the ground at double size."
    )
    gain: float = Field(
        0.1, ge=0, le=1, description="Optical: factor drawn from 1 ± gain, per band and in common."
    )
    offset: float = Field(
        0.1, ge=0, description="Optical: shift in standard deviations of the band, drawn from ±."
    )
    blur_sigma_px: float = Field(
        0.0, ge=0, description="Optical: Gaussian blur up to this, on half of the samples."
    )
    speckle: float = Field(
        0.1,
        ge=0,
        description="SAR: standard deviation of multiplicative noise (additive, × 4.34, in dB).",
    )
    shift_db: float = Field(1.0, ge=0, description="SAR: radiometric shift drawn from ± this.")
    elevation_shift_m: float = Field(
        0.0, ge=0, description="Elevation: constant drawn from ± this many of its units."
    )

    @field_validator("scale")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0.1 <= value[0] <= value[1] <= 10:
            raise ValueError("the range of 'scale' is two ascending factors between 0.1 and 10")
        return value


class DataConfig(Settings):
    """Which data, and how samples are drawn from it."""

    manifest: Path = Field(description="dataset.yaml, relative to run.yaml.")
    modalities: tuple[str, ...] | None = Field(
        None, description="Modalities to use, in this order; default: all of the manifest."
    )
    crop_size: int = Field(256, ge=8, description="Height and width of crops, in scene pixels.")
    batch_size: int = Field(8, ge=1, description="Samples per step and device.")
    workers: int | None = Field(
        None, ge=0, description="Reading processes per device; default: by the number of cores."
    )
    sampling: Literal["random", "balanced", "grid"] = Field(
        "random",
        description="Where crops come from: anywhere with data and labels, around pixels of "
        "classes drawn evenly, or a regular grid.",
    )
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    modality_dropout: float | dict[str, float] = Field(
        0.0,
        description="Share of samples that keep only some modalities (a proper non-empty subset, "
        "drawn evenly), or a weight per subset: {'s1': 1, 's2': 1, 's1+s2': 8}.",
    )

    @field_validator("modality_dropout")
    @classmethod
    def _weights(cls, value: float | dict[str, float]) -> float | dict[str, float]:
        weights = value.values() if isinstance(value, dict) else [value]
        if any(w < 0 for w in weights) or (not isinstance(value, dict) and value > 1):
            raise ValueError("give a share between 0 and 1, or weights that are not negative")
        if isinstance(value, dict) and not sum(value.values()) > 0:
            raise ValueError("the weights of the subsets sum to nothing")
        return value


class LossConfig(NamedOptions):
    """One term of the loss: its name, weight and options."""

    weight: float = Field(1.0, ge=0)


class TrainingConfig(Settings):
    """How the model learns."""

    steps: int = Field(2000, ge=1, description="Optimiser steps.")
    lr: float = Field(3e-4, gt=0, description="Peak learning rate.")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = Field(0.01, ge=0, description="Not applied to norms and biases.")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD only.")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Factor on the learning rate per backbone stage, from the top."
    )
    backbone_lr_factor: float = Field(
        1.0, ge=0, description="Learning rate of the backbone relative to the rest."
    )
    schedule: Literal["poly", "cosine", "constant"] = "cosine"
    warmup_steps: int = Field(0, ge=0, description="Linear rise from nothing to `lr`.")
    poly_power: float = Field(0.9, gt=0)
    gradient_clip: float | None = Field(1.0, gt=0, description="Norm; null switches it off.")
    accumulate: int = Field(1, ge=1, description="Batches per optimiser step.")
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="Exponential moving average of the weights, used to judge."
    )
    losses: tuple[LossConfig, ...] = Field(
        (LossConfig(name="cross_entropy"),), description="Weighted sum.", min_length=1
    )
    aux_weight: float = Field(0.4, ge=0, description="Weight of auxiliary heads, if there are any.")
    validate_every: int | None = Field(
        None, ge=1, description="Steps between validations; default: ten over the run."
    )
    monitor: str = Field("miou", description="Validation score that decides which weights to keep.")
    early_stop: int | None = Field(
        None, ge=1, description="Stop after this many validations without a better score."
    )
    seed: int = Field(0, ge=0)
    accelerator: str = Field("auto", description="As in Lightning: auto, cpu, gpu.")
    devices: int | str = Field("auto", description="As in Lightning.")
    nodes: int = Field(1, ge=1)
    strategy: str = Field("auto", description="As in Lightning: auto, ddp, fsdp.")
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (), description="Beside log.csv; need the extra 'track'."
    )

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainingConfig:
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) must be fewer than steps ({self.steps})"
            )
        return self


class EvaluationConfig(Settings):
    """What is scored, and by which rule."""

    split: str = "test"
    boundary_tolerance_px: float = Field(
        3.0, gt=0, description="Distance at which two boundary pixels still match."
    )
    class_mean: Literal["present", "reference"] = Field(
        "present",
        description="Classes in a mean: in reference or prediction, or in the reference only.",
    )


class PredictionConfig(Settings):
    """How a scene is cut into windows and put together again."""

    crop_size: int | None = Field(None, ge=8, description="Default: the training's.")
    overlap: int | None = Field(
        None, ge=0, description="Scene pixels shared by neighbours; default: a quarter of the crop."
    )
    batch_size: int | None = Field(None, ge=1, description="Default: the training's.")

    @model_validator(mode="after")
    def _overlap_fits(self) -> PredictionConfig:
        if self.crop_size and self.overlap is not None and self.overlap * 2 > self.crop_size:
            raise ValueError("overlap must be at most half of crop_size")
        return self


class RunConfig(Settings):
    """Everything a run is: `run.yaml`."""

    data: DataConfig
    method: NamedOptions
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    prediction: PredictionConfig = Field(default_factory=PredictionConfig)

    @property
    def predict_crop_size(self) -> int:
        """Window size of prediction in scene pixels."""
        return self.prediction.crop_size or self.data.crop_size

    @property
    def predict_overlap(self) -> int:
        """Overlap of prediction windows in scene pixels."""
        overlap = self.prediction.overlap
        return self.predict_crop_size // 4 if overlap is None else overlap

    @property
    def predict_batch_size(self) -> int:
        """Windows per forward pass of prediction."""
        return self.prediction.batch_size or self.data.batch_size


def load_run_config(path: Path | str, overrides: Mapping[str, str] | None = None) -> RunConfig:
    """Read `run.yaml`.

    Args:
        path: The file. `data.manifest` is resolved relative to it.
        overrides: Dotted keys → YAML values, as given by `-s training.lr=1e-3`.

    Raises:
        ConfigError: Missing or invalid file; unknown key (the nearest valid one is named); a value
            of the wrong kind.
    """
    path = Path(path)
    values = read_yaml(path)
    for key, value in (overrides or {}).items():
        _set_dotted(values, key, _parse_value(value))
    config = parse_settings(RunConfig, values, str(path))
    manifest = (path.parent / config.data.manifest.expanduser()).resolve()
    data = config.data.model_copy(update={"manifest": manifest})
    return config.model_copy(update={"data": data})


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        ConfigError: Not there, not YAML, or something else than a mapping.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506
    except FileNotFoundError:
        raise ConfigError(f"there is no file '{path}'") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"'{path}' is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"'{path}' must hold keys and values, not {type(values).__name__}")
    return values


def parse_settings(model: type[_S], values: Mapping[str, Any], where: str) -> _S:
    """`values` as `model`, with every fault in one readable message.

    Args:
        model: The settings class.
        values: Keys and values.
        where: Names the file in the message.

    Raises:
        ConfigError: Lists each faulty key, the value received and what is allowed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_explain(model, dict(item)) for item in error.errors()]
        raise ConfigError("\n".join(f"{where}: {line}" for line in lines)) from None


def _explain(model: type[BaseModel], item: dict[str, Any]) -> str:
    location = [str(part) for part in item["loc"]]
    key = ".".join(location)
    if item["type"] == "extra_forbidden":
        parent = ".".join(location[:-1])
        kind = f"key in '{parent}'" if parent else "key"
        return unknown_name(kind, location[-1], _keys_at(model, location[:-1]))
    if item["type"] == "missing":
        return f"'{key}' is missing"
    message = re.sub(r"^Value error, ", "", item["msg"])
    return f"'{key}' is {item['input']!r}: {message}" if key else message


def _keys_at(model: type[BaseModel], location: list[str]) -> list[str]:
    for part in location:
        if part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return list(model.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)


def _set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"'{key}' cannot be set: '{parent}' holds a value, not keys")
        values = inner
    values[last] = value


def _parse_value(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506
    except yaml.YAMLError as error:
        raise ConfigError(f"'{text}' is not a YAML value: {error}") from None


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads `1e-3` as a number, as YAML 1.2 and every user do."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+"
        r"|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
    ),
    list("-+0123456789."),
)

"""`run.yaml` as one pydantic model: data + method + training + evaluation + prediction.

Settings only, independent of all other subpackages. A method, backbone or loss is a name with
options; the subpackage that defines the name checks the options.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from terrafuse.config.base import (
    NamedOptions,
    Settings,
    find_code_beside,
    parse_settings,
    read_yaml,
)
from terrafuse.config.paths import exists, expand_home

#: Limits of what any run can mean: larger values are slips, and would end in an overflow.
MOST_STEPS = 100_000_000
_MOST_PIXELS = 1 << 16
_MOST_SAMPLES = 1 << 16
_MOST_PROCESSES = 1024
_MOST_CACHE_MB = 1 << 24
_MOST_MINUTES = 60 * 24 * 366
_MOST_WEIGHT = 1e6
_MOST_SEED = 2**32 - 1
_MOST_STATISTIC = 1e15
_LEAST_STD = 1e-15
#: Lightning's strategies that checkpoints and validation are written for.
_STRATEGY = re.compile(
    r"auto|ddp(_spawn|_fork|_notebook)?(_find_unused_parameters_(true|false))?|fsdp(_cpu_offload)?"
)


#: Where samples are augmented, once the device is known.
AugmentPlace = Literal["reader", "device"]


class AugmentConfig(Settings):
    """Random augmentation of training samples, in register over all modalities."""

    flip: Literal[True, False, "horizontal", "vertical"] = Field(
        True,
        description="Flip with probability 0.5: 'horizontal' left-right, 'vertical' top-bottom, "
        "true: each.",
    )
    rotate: bool = Field(True, description="Quarter turns, uniformly 0 to 3.")
    scale: tuple[float, float] = Field(
        (1.0, 1.0), description="Range of the zoom factor; 2 shows the ground at double size."
    )
    zoom_out: Literal["ground", "pad"] = Field(
        "ground",
        description="Surroundings of a crop shrunk by a zoom below 1: more ground, or a border "
        "without data and labels, as published with CMX, DFormer and VSGNet.",
    )
    gain: float = Field(
        0.1, ge=0, le=1, description="Optical: factor drawn from 1 ± gain, per band and overall."
    )
    offset: float = Field(
        0.1,
        ge=0,
        le=100,
        description="Optical: shift in standard deviations of the band, drawn from ±.",
    )
    blur_sigma_px: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Optical: largest sigma of Gaussian blur, on half of the samples.",
    )
    speckle: float | None = Field(
        None,
        ge=0,
        le=10,
        description="SAR: standard deviation of multiplicative noise (additive, × 4.34, in dB); "
        "default: 0.1 where the unit is db or linear, else 0 (dn).",
    )
    shift_db: float | None = Field(
        None,
        ge=0,
        le=100,
        description="SAR: radiometric shift drawn from ± this; default: 1 where the unit is db or "
        "linear, else 0 (dn).",
    )
    elevation_shift_m: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="Elevation: constant shift drawn from ± this, in the band's unit.",
    )

    @field_validator("scale")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0.1 <= value[0] <= value[1] <= 10:
            raise ValueError("the range of 'scale' is two ascending factors between 0.1 and 10")
        return value


class FixedStatistics(Settings):
    """Mean and standard deviation for normalising a modality, instead of measured ones."""

    mean: float | tuple[float, ...] = Field(0.0, description="One for all bands, or one per band.")
    std: float | tuple[float, ...] = Field(1.0, description="One for all bands, or one per band.")

    @field_validator("std")
    @classmethod
    def _positive(cls, value: float | tuple[float, ...]) -> float | tuple[float, ...]:
        if not all(v >= _LEAST_STD for v in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"standard deviations must be above 0, from {_LEAST_STD:g} on")
        return value

    @field_validator("mean", "std")
    @classmethod
    def _single(cls, value: float | tuple[float, ...]) -> float | tuple[float, ...]:
        values = value if isinstance(value, tuple) else (value,)
        if not all(abs(v) < _MOST_STATISTIC for v in values):
            raise ValueError(f"give finite numbers below {_MOST_STATISTIC:g}")
        return value


class DataConfig(Settings):
    """Data settings: the dataset and how samples are drawn from it."""

    manifest: Path = Field(
        description="dataset.yaml, relative to run.yaml; with -s, to the working directory."
    )
    modalities: tuple[str, ...] | None = Field(
        None, description="Modalities to use, in this order; default: all of the manifest."
    )
    train_splits: tuple[str, ...] = Field(
        ("train",), description="Splits to train on.", min_length=1
    )
    painted: Literal["auto", "ignore"] | Path = Field(
        "auto",
        description="Polygons painted over scenes of these splits, which count more than their "
        "labels: 'auto' (the file DATASET.painted.gpkg beside the manifest, if there is one), "
        "'ignore', or a path as of `manifest`.",
    )
    normalization: dict[str, Literal["measured", "scene_range"] | FixedStatistics] = Field(
        default_factory=dict,
        description="By modality: 'measured' (mean and deviation of the training splits, the "
        "default), {mean, std}, or 'scene_range' (each scene's own minimum → 0, maximum → 1).",
    )
    crop_size: int = Field(
        256, ge=8, le=_MOST_PIXELS, description="Height and width of crops, in scene pixels."
    )
    batch_size: int = Field(8, ge=1, le=_MOST_SAMPLES, description="Samples per step and device.")
    workers: int | None = Field(
        None,
        ge=0,
        le=_MOST_PROCESSES,
        description="Data-loading processes per device; default: by number of cores.",
    )
    block_cache_mb: int | None = Field(
        None,
        ge=0,
        le=_MOST_CACHE_MB,
        description="Memory for decoded blocks of compressed rasters, in MB, of all data-loading "
        "processes of a device together, each of which has at least 64; default: by free memory.",
    )
    sampling: Literal["random", "balanced", "grid", "scene"] = Field(
        "random",
        description="Where crops come from: anywhere with data and labels; around pixels of "
        "uniformly drawn classes; a regular grid; or anywhere in a uniformly drawn scene.",
    )
    crop_order: Literal["random", "near"] = Field(
        "random",
        description="Order of crops: as they are drawn; or those of up to 4,096 in a row by their "
        "places, so that blocks of compressed files that do not fit into memory are decoded less "
        "often.",
    )
    label_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the labelled training pixels to train on, by whole scenes if there "
        "are many, else by blocks; all other labels are void. A smaller share is a subset of a "
        "larger one of the same seed.",
    )
    label_seed: int = Field(
        0, ge=0, le=_MOST_SEED, description="Seed of the choice that `label_share` makes."
    )
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    augment_on: Literal["auto", "reader", "device"] = Field(
        "auto",
        description="Where samples are flipped, turned and changed in value: one by one in the "
        "data-loading processes, or in batches on the device that trains; auto: on the device if "
        "it is a GPU with CUDA. Zoom is always done by the processes.",
    )
    modality_dropout: float | dict[str, float] = Field(
        0.0,
        description="Share of samples that keep only some modalities (a proper non-empty subset, "
        "drawn uniformly), or a weight per subset: {'s1': 1, 's2': 1, 's1+s2': 8}.",
    )

    @field_validator("modality_dropout")
    @classmethod
    def _weights(cls, value: float | dict[str, float]) -> float | dict[str, float]:
        weights = value.values() if isinstance(value, dict) else [value]
        if any(not 0 <= w <= _MOST_WEIGHT for w in weights) or (
            not isinstance(value, dict) and value > 1
        ):
            raise ValueError(
                f"give a share between 0 and 1, or weights between 0 and {_MOST_WEIGHT:,.0f}"
            )
        if isinstance(value, dict) and not sum(value.values()) > 0:
            raise ValueError("the weights of the subsets sum to 0")
        return value

    def beside(self, folder: Path, overrides: Mapping[str, str] | None = None) -> Self:
        """Return the settings with the paths of files resolved relative to `folder`.

        A path given as an override is relative to the working directory instead.
        """
        start = Path.cwd() if "data.manifest" in (overrides or {}) else folder
        found: dict[str, Path] = {"manifest": (start / expand_home(self.manifest)).resolve()}
        if isinstance(self.painted, Path):
            start = Path.cwd() if "data.painted" in (overrides or {}) else folder
            found["painted"] = (start / expand_home(self.painted)).resolve()
        return self.model_copy(update=found)


class MethodConfig(NamedOptions):
    """The method: its name and its constructor's options."""

    options_elsewhere = frozenset(
        {"backbone", "backbone_options", "decoder", "decoder_options", "weights", "tuning", "aux"}
    )


class LossConfig(NamedOptions):
    """One term of the loss: its name, weight and options."""

    weight: float = Field(1.0, ge=0, le=_MOST_WEIGHT)


class LearningConfig(Settings):
    """Optimisation settings common to training and pre-training."""

    steps: int = Field(2000, ge=1, le=MOST_STEPS, description="Optimiser steps.")
    lr: float = Field(3e-4, gt=0, le=1000, description="Peak learning rate.")
    optimizer: Literal["adamw", "adam", "sgd"] = Field(
        "adamw", description="Adam adds the weight decay to the gradient, AdamW decouples it."
    )
    amsgrad: bool = Field(
        False, description="Adam and AdamW: divide by the largest second moment so far."
    )
    weight_decay: float = Field(0.01, ge=0, le=1000, description="Not applied to norms and biases.")
    decay_all: bool = Field(False, description="Decay norms, biases and position embeddings too.")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD only.")
    schedule: Literal["poly", "poly_whole", "cosine", "constant", "multistep"] = Field(
        "cosine",
        description="Learning rate after the warm-up; poly_whole decays as if there had been none, "
        "as in the code of CMX and DFormer.",
    )
    milestones: tuple[Annotated[int, Field(ge=1, le=MOST_STEPS)], ...] = Field(
        (), description="Multistep only: steps at which the rate is multiplied by `gamma`."
    )
    gamma: float = Field(0.1, gt=0, le=1, description="Multistep only: factor per milestone.")
    warmup_steps: int = Field(0, ge=0, le=MOST_STEPS, description="Linear rise from 0 to `lr`.")
    poly_power: float = Field(0.9, gt=0, le=100)
    gradient_clip: float | None = Field(
        1.0, gt=0, le=1e12, description="Largest gradient norm; null: no clipping."
    )
    accumulate: int = Field(1, ge=1, le=_MOST_SAMPLES, description="Batches per optimiser step.")
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, slower."
    )
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    seed: int = Field(0, ge=0, le=_MOST_SEED)
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field(
        "auto", description="As in Lightning."
    )
    devices: Annotated[int, Field(ge=1, le=_MOST_PROCESSES)] | str = Field(
        "auto", description="How many per node, their numbers ('0,1'), or 'auto'."
    )
    nodes: int = Field(1, ge=1, le=_MOST_PROCESSES)
    sync_batchnorm: bool = Field(
        True,
        description="With several processes: batch norms see the batches of all of them, as if "
        "there were one.",
    )
    strategy: str = Field("auto", description="As in Lightning: auto, ddp, fsdp and their forms.")
    backend: Literal["auto", "gloo", "nccl"] = Field(
        "auto",
        description="How the processes of ddp and fsdp exchange tensors; auto: nccl between GPUs, "
        "gloo between processors.",
    )
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (), description="In addition to log.csv; need the extra 'track'."
    )

    @field_validator("devices")
    @classmethod
    def _are_devices(cls, value: int | str) -> int | str:
        if isinstance(value, str) and not re.fullmatch(r"auto|[0-9]{1,4}(,[0-9]{1,4})*,?", value):
            raise ValueError("give a number from 1 on, numbers of devices ('0,1'), or 'auto'")
        return value

    @field_validator("strategy")
    @classmethod
    def _is_strategy(cls, value: str) -> str:
        if not _STRATEGY.fullmatch(value):
            raise ValueError("give auto, ddp or fsdp, or a form of them that Lightning knows")
        return value

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) must be fewer than steps ({self.steps})"
            )
        if (self.schedule == "multistep") != bool(self.milestones):
            raise ValueError("schedule 'multistep' and 'milestones' must be given together")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("'milestones' must be steps in ascending order")
        return self


class TrainingConfig(LearningConfig):
    """Optimisation and validation settings of training."""

    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Factor on the learning rate per backbone stage, from the top."
    )
    backbone_lr_factor: float = Field(
        1.0, ge=0, le=1000, description="Learning rate of the backbone relative to the rest."
    )
    head_first_steps: int = Field(
        0,
        ge=0,
        le=MOST_STEPS,
        description="Steps at the start in which the backbone is frozen.",
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decay of an exponential moving average of the weights; validation uses it.",
    )
    losses: tuple[LossConfig, ...] = Field(
        (LossConfig(name="cross_entropy"),), description="Terms of the weighted sum.", min_length=1
    )
    aux_weight: float = Field(
        0.4, ge=0, le=_MOST_WEIGHT, description="Weight of auxiliary heads, if there are any."
    )
    compile: bool | Literal["auto"] = Field(
        False,
        description="Compile the model for training with torch.compile; auto: where it was "
        "measured to save time.",
    )
    cache_features: bool = Field(
        False,
        description="Keep what frozen backbones make of each window, where nothing random is "
        "before them.",
    )
    cache_features_mb: int | None = Field(
        None,
        ge=0,
        le=_MOST_CACHE_MB,
        description="Memory for these features, in MB; default: a quarter of what is free.",
    )
    validate_every: int | None = Field(
        None,
        ge=1,
        le=MOST_STEPS,
        description="Steps between validations; default: ten over the run.",
    )
    validate_minutes: float | None = Field(
        None,
        gt=0,
        le=_MOST_MINUTES,
        description="Minutes of training after a validation that make the next one due, if its "
        "step has not come before.",
    )
    validation_split: str = Field("val", description="Split that chooses the weights to keep.")
    validation_overlap: int | None = Field(
        None,
        ge=0,
        le=_MOST_PIXELS,
        description="Overlap of windows in validation; default: prediction's.",
    )
    monitor: str = Field("miou", description="Validation score that selects the weights to keep.")
    early_stop: int | None = Field(
        None,
        ge=1,
        le=MOST_STEPS,
        description="Stop after this many validations without a better score.",
    )

    @model_validator(mode="after")
    def _backbone_learns(self) -> Self:
        if self.head_first_steps and self.head_first_steps >= self.steps:
            raise ValueError(
                f"head_first_steps ({self.head_first_steps}) must be fewer than steps "
                f"({self.steps}); to freeze the backbone throughout, write 'tuning: frozen'"
            )
        return self


class EvaluationConfig(Settings):
    """Evaluation settings: the split and the scoring rules."""

    split: str = "test"
    reference: Literal["labels", "labels_eroded"] = Field(
        "labels", description="Labels of a scene to compare with."
    )
    mean_over: tuple[str, ...] | None = Field(
        None, description="Classes included in class means; default: all.", min_length=1
    )
    boundary_tolerance_px: float = Field(
        3.0, gt=0, le=_MOST_PIXELS, description="Distance at which two boundary pixels still match."
    )
    class_mean: Literal["present", "reference"] = Field(
        "present",
        description="Classes that count in a mean: those in reference or prediction, or those in "
        "the reference only.",
    )


class PredictionConfig(Settings):
    """Prediction settings: how a scene is cut into windows and stitched."""

    crop_size: int | None = Field(
        None, ge=8, le=_MOST_PIXELS, description="Default: the training's."
    )
    overlap: int | None = Field(
        None,
        ge=0,
        le=_MOST_PIXELS,
        description="Scene pixels shared by neighbours; default: a quarter of the window.",
    )
    batch_size: int | None = Field(
        None, ge=1, le=_MOST_SAMPLES, description="Default: the training's."
    )
    blending: Literal["taper", "uniform", "repeated"] = Field(
        "taper",
        description="Weights of overlapping windows: falling towards their edges, equal, or equal "
        "with windows at the scene's end counted as often as published sliding windows repeat "
        "them.",
    )

    @model_validator(mode="after")
    def _overlap_fits(self) -> PredictionConfig:
        if self.crop_size is None or self.overlap is None:
            return self
        if self.blending == "taper" and self.overlap * 2 > self.crop_size:
            raise ValueError("overlap must be at most half of crop_size with blending 'taper'")
        if self.overlap >= self.crop_size:
            raise ValueError("overlap must be less than crop_size")
        return self


class RunConfig(Settings):
    """All settings of a run: `run.yaml`."""

    data: DataConfig
    method: MethodConfig
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
        path: The file. `data.manifest` is resolved relative to it, and so is `method.weights` where
            such a file lies beside it; modules that it names may lie there, too.
        overrides: Dotted keys → YAML values, as given by `-s training.lr=1e-3`. A `data.manifest`
            among them is relative to the working directory.

    Raises:
        ConfigError: Missing or invalid file; unknown key (the nearest valid one is named); a value
            of the wrong type.
    """
    path = Path(path)
    config = parse_settings(RunConfig, read_yaml(path, overrides), str(path))
    names = [config.method.model_dump(), [loss.name for loss in config.training.losses]]
    find_code_beside(path, names, overrides)
    data = config.data.beside(path.parent, overrides)
    method = config.method.model_copy(update=_found_weights(config.method, path.parent))
    return config.model_copy(update={"data": data, "method": method})


def _found_weights(method: MethodConfig, folder: Path) -> dict[str, Any]:
    """Option `weights` with whole paths where files or folders of these names lie there."""

    def whole(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: whole(inner) for key, inner in value.items()}
        names_a_place = isinstance(value, str) and value not in ("hub", "timm")
        found = names_a_place and exists(folder / value)
        return str((folder / value).resolve()) if found else value

    return {"weights": whole(method.options["weights"])} if "weights" in method.options else {}

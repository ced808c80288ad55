"""Exported models as what maps scenes, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from terrafuse.api.mapping import TrainedModel
from terrafuse.data import Scene
from terrafuse.errors import ConfigError
from terrafuse.prediction import (
    Calibration,
    MapSettings,
    ScenePredictor,
    WindowSettings,
    WorkerSettings,
)
from terrafuse.prediction.onnx_model import OnnxModel
from terrafuse.prediction.scene_model import SceneModel
from terrafuse.weights.onnx_file import names_onnx


class ExportedModel(TrainedModel):
    """A model in an ONNX file that `terrafuse export` wrote.

    Args:
        model: On the processor, or on the GPU.
    """

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        self.info = model.info.run

    @property
    def place(self) -> Path:
        """The file."""
        return self.model.file.path

    @property
    def model_file(self) -> Path:
        """See `TrainedModel`."""
        return self.model.file.path

    @property
    def description(self) -> Mapping[str, Any]:
        """See `TrainedModel`."""
        return self.model.info.model

    @property
    def calibration(self) -> Calibration | None:
        """See `TrainedModel`."""
        return self.model.calibration

    def windows(self, **given: Any) -> WindowSettings:
        """See `TrainedModel`."""
        return self.model.windows.changed(**given)

    def _model_on(self, device: str, workers: WorkerSettings) -> SceneModel:
        """See `TrainedModel`."""
        if workers.devices is not None:
            raise ConfigError(
                "devices counts the GPUs of torch, and an exported model runs on one device. Leave "
                "out --devices; let runs with --device cuda:0, cuda:1 … map a --shard each"
            )
        return self.model if device == "auto" else self.model.on(device)

    def unchanging(self) -> AbstractContextManager[str]:
        """See `TrainedModel`."""
        return nullcontext(self.model.digest)

    def _suit_memory(
        self,
        predictor: ScenePredictor,
        scene: Scene,
        settings: MapSettings,
        workers: WorkerSettings,
        out: Path,
        *,
        goes_on: bool,
    ) -> tuple[ScenePredictor, str]:
        """What a graph needs is not known before it runs."""
        del scene, settings, workers, out, goes_on
        return predictor, "setting" if predictor.windows.is_batch_chosen else "training"


def open_model(path: str | Path, overrides: Mapping[str, str] | None = None) -> TrainedModel:
    """Open what maps scenes: a run folder, or an ONNX file that `terrafuse export` wrote.

    An ONNX file needs ONNX Runtime, and no torch.

    Args:
        overrides: Of a run folder, as of `load`.

    Raises:
        ConfigError: No such setting.
        WeightsError: It is neither, damaged, or of another version.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    if names_onnx(path):
        if overrides:
            raise ConfigError(
                f"-s {next(iter(overrides))}: '{path}' is an exported model, which has no "
                "settings of a run. Give --crop-size, --overlap, --blending or --batch-size"
            )
        return ExportedModel(OnnxModel.open(path))
    from terrafuse.api.runs import load  # torch takes seconds to import

    return load(path, overrides=overrides)

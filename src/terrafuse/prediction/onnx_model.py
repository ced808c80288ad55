"""`OnnxModel`: an exported model as what maps scenes, through ONNX Runtime and without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.classes import ClassScheme
from terrafuse.cores import computing_threads, usable_cores
from terrafuse.errors import (
    ConfigError,
    ModelError,
    WeightsError,
    WeightsMismatchError,
    cut,
    first_line,
)
from terrafuse.extras import from_extra
from terrafuse.prediction.arrays import NUMPY
from terrafuse.prediction.calibrated import Calibration
from terrafuse.prediction.scene_model import SceneModel
from terrafuse.prediction.windows import Precision, WindowSettings
from terrafuse.samples import Batch, round_up
from terrafuse.weights.digests import digest
from terrafuse.weights.onnx_file import OnnxFile, read_onnx
from terrafuse.weights.portable import OUTPUT, PortableInfo, damaged
from terrafuse.weights.run_info import fault_of

EXTRA = "runtime"
_CUDA = "CUDAExecutionProvider"
_FLOATS = "tensor(float)"
_ERRORS_ONLY = 3  # severity of messages of ONNX Runtime


@dataclass(frozen=True)
class RuntimeDevice:
    """Where ONNX Runtime computes.

    Args:
        type: "cpu" or "cuda".
        number: Of a GPU.
    """

    type: str
    number: int = 0

    def __str__(self) -> str:
        return self.type if self.type == "cpu" else f"{self.type}:{self.number}"


class OnnxModel(SceneModel):
    """A model in an ONNX file that `terrafuse export` wrote.

    Windows are padded to what the graph's strides need, with pixels without data. It can be sent to
    other processes, each of which opens the file for itself.

    Args:
        file: The file.
        info: What it says about itself.
        device: Where it runs.
    """

    arrays = NUMPY
    device: RuntimeDevice

    def __init__(self, file: OnnxFile, info: PortableInfo, device: RuntimeDevice) -> None:
        self.file = file
        self.info = info
        self.device = device
        self.name = f"'{file.path.name}'"
        self.modalities = info.modalities
        self.num_classes = info.run.scheme.num_classes
        self.supports_missing = info.supports_missing

    @classmethod
    def open(cls, path: str | Path, device: str = "auto") -> OnnxModel:
        """Open a file.

        Args:
            device: "auto" (a GPU, if ONNX Runtime can use one), "cpu", "cuda", "cuda:1" …

        Raises:
            WeightsNotFoundError: There is no such file.
            WeightsError: It is no ONNX file, damaged, or not ours.
            WeightsMismatchError: A newer terrafuse wrote it, or its inputs are not those it names.
            MissingDependencyError: ONNX Runtime is not installed.
            ConfigError: The device cannot be used.
        """
        file = read_onnx(path)
        info = PortableInfo.of_onnx(file)
        if info.stacked:
            raise WeightsError(
                f"'{path}' is made for other programs: it takes all bands as one image. Export the "
                "run without --stacked to map with it here"
            )
        model = cls(file, info, _find_device(device))
        _check_fits(model.session, info, file.path)
        return model

    @property
    def scheme(self) -> ClassScheme:
        """Its classes."""
        return self.info.run.scheme

    @property
    def stride(self) -> int:
        """Sides of windows that the graph takes are multiples of it."""
        return self.info.stride

    @cached_property
    def windows(self) -> WindowSettings:
        """Settings of windows that the run maps with.

        Raises:
            WeightsError: They are damaged.
        """
        return WindowSettings.of_export(self.info, str(self.file.path))

    @cached_property
    def calibration(self) -> Calibration | None:
        """Of the confidence, if the run was calibrated.

        Raises:
            WeightsError: It is damaged.
        """
        if self.info.calibration is None:
            return None
        try:
            return Calibration.from_dict(self.info.calibration)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise damaged(str(self.file.path), fault_of(error)) from None

    @cached_property
    def digest(self) -> str:
        """Of the file and those of its weights."""
        digests = [digest(path) for path in self.file.files]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256(json.dumps(digests).encode()).hexdigest()

    @property
    def nbytes(self) -> int:
        """See `SceneModel`."""
        return self.file.nbytes

    @cached_property
    def session(self) -> Any:
        """ONNX Runtime's session, with as many threads as this process computes with.

        Raises:
            WeightsError: It cannot load the file.
            MissingDependencyError: It is not installed.
        """
        runtime = _runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = max(1, min(usable_cores(), computing_threads()))
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        # Threads that wait must not take the cores from the one that reads, nor from other workers.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = ["CPUExecutionProvider"]
        if self.device.type == "cuda":
            providers.insert(0, (_CUDA, {"device_id": self.device.number}))
        try:
            session = runtime.InferenceSession(str(self.file.path), options, providers=providers)
        except Exception as error:  # of many classes of its own
            raise WeightsError(
                f"ONNX Runtime {runtime.__version__} cannot load '{self.file.path}': "
                f"{cut(first_line(error), 300)}. Copy the file again, or use a newer onnxruntime"
            ) from None
        if self.device.type == "cuda" and _CUDA not in session.get_providers():
            raise _no_device(str(self.device), "CUDA could not be started")
        return session

    def on(self, device: str) -> OnnxModel:
        """See `SceneModel`."""
        found = _find_device(device)
        return self if found == self.device else OnnxModel(self.file, self.info, found)

    def on_cpu(self) -> AbstractContextManager[None]:
        """Other processes open the file."""
        return nullcontext()

    def running(self) -> AbstractContextManager[None]:
        """It is always ready."""
        return nullcontext()

    def check_precision(self, precision: Precision) -> None:
        """That of the file is the one there is.

        Raises:
            ConfigError: Another one is asked for.
        """
        if precision != "32-true":
            raise ConfigError(
                f"precision is '{precision}', and {self.name} computes in that of its export "
                f"({self.info.precision}). Leave out --precision, or export the run with --half"
            )

    def mean_of(self, name: str) -> NDArray[np.float32]:
        """See `SceneModel`."""
        return np.asarray(self.info.run.statistics[name].mean, np.float32)

    def scores(self, batch: Batch, precision: Precision) -> NDArray[np.float32]:
        """See `SceneModel`."""
        del precision
        window = batch.windows[0]
        height, width = (
            round_up(max(length, self.info.least_size), self.stride)
            for length in (window.height, window.width)
        )
        given: Mapping[str, Any] = batch.images
        images = {}
        for modality in self.modalities:
            shape = (modality.size_at(height), modality.size_at(width))
            whole = (len(batch.windows), len(modality.bands), *shape)
            images[modality.name] = _padded(given.get(modality.name), whole)
        try:
            (logits,) = self.session.run([OUTPUT], images)
        except Exception as error:  # of many classes of its own
            raise ModelError(
                f"{self.name} fails on windows of {height} × {width} pixels: "
                f"{cut(first_line(error), 300)}. Choose another --crop-size, a smaller "
                "--batch-size, or --device cpu"
            ) from None
        found: NDArray[np.float32] = logits[..., : window.height, : window.width]
        return found

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: a session cannot be sent."""
        return {key: value for key, value in vars(self).items() if key != "session"}


def _padded(image: NDArray[np.float32] | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Add pixels without data at the bottom and right; None is one without any.

    Where a mask says that there is no data, all bands are NaN already (`Sample`).
    """
    if image is not None and image.shape == shape:
        return np.ascontiguousarray(image)
    whole = np.full(shape, np.nan, np.float32)
    if image is not None:
        whole[..., : image.shape[-2], : image.shape[-1]] = image
    return whole


def _runtime() -> Any:
    with from_extra(EXTRA, "a model in an ONNX file"):
        import onnxruntime
    return onnxruntime


def _find_device(name: str) -> RuntimeDevice:
    """Find a device by name.

    Raises:
        ConfigError: ONNX Runtime has none of this name.
    """
    has_cuda = _CUDA in _runtime().get_available_providers()
    if name == "auto":
        return RuntimeDevice("cuda" if has_cuda else "cpu")
    kind, _, number = name.partition(":")
    if name == "cpu":
        return RuntimeDevice("cpu")
    if kind != "cuda" or (number and not number.isdecimal()):
        raise _no_device(name, "there is no such device")
    if not has_cuda:
        raise _no_device(name, "the installed ONNX Runtime has no CUDA")
    return RuntimeDevice("cuda", int(number or 0))


def _no_device(name: str, reason: str) -> ConfigError:
    return ConfigError(
        f"device '{name}' cannot be used: {reason}. Choose cpu, or install onnxruntime-gpu "
        "instead of onnxruntime"
    )


def _check_fits(session: Any, info: PortableInfo, path: Path) -> None:
    """Refuse a graph that does not take and return what the file says.

    Raises:
        WeightsMismatchError: Names what differs.
    """
    bands, classes = info.inputs, info.run.scheme.num_classes
    found = {one.name: (one.type, one.shape) for one in session.get_inputs()}
    result = {one.name: (one.type, one.shape) for one in session.get_outputs()}
    expected: Mapping[str, int] = bands
    fits = list(found) == list(expected) and all(
        _is_image(*found[name], channels) for name, channels in expected.items()
    )
    if fits and OUTPUT in result and _is_image(*result[OUTPUT], classes):
        return
    wanted = ", ".join(f"{name} ({channels} bands)" for name, channels in expected.items())
    said = ", ".join(f"{name} {kind}{shape}" for name, (kind, shape) in (found | result).items())
    raise WeightsMismatchError(
        f"'{path}' says that it takes {wanted} and returns '{OUTPUT}' of {classes} classes, as "
        f"float32 (N, C, H, W), but its graph has {cut(said, 400)}. Export the run again "
        "(terrafuse export RUN --format onnx)"
    )


def _is_image(kind: str, shape: list[Any], channels: int) -> bool:
    """Whether values are float32 (N, C, H, W), with so many channels if their number is known."""
    is_open = len(shape) == 4 and not isinstance(shape[1], int)
    return kind == _FLOATS and len(shape) == 4 and (is_open or shape[1] == channels)

"""`training.compile`: what a segmenter makes of a batch as one compiled graph."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from terrafuse.config import RunConfig
from terrafuse.errors import ConfigError
from terrafuse.samples import Batch
from terrafuse.segmenter import Segmenter

#: A compiled step must spare this part of a plain one to be worth it: rates vary by less.
_LEAST_GAIN = 0.1


@dataclass(frozen=True)
class Measured:
    """What compiling a small model of a method came to, on a processor.

    Args:
        seconds: CPU time of the first step, most of which is compiling.
        step_ms: Of a step of the model as it is written, without the optimiser.
        share: Of a compiled step in it.
    """

    seconds: float
    step_ms: float
    share: float

    def pays_after(self) -> int:
        """Steps after which compiling has been made up for."""
        return round(1e3 * self.seconds / (self.step_ms * (1 - self.share)))


#: What "auto" goes by: `python benchmarks/train.py --compile`, in the documentation with date and
#: machine. Methods that are not here, and GPUs, were not measured.
ON_PROCESSORS = {
    "late_fusion": Measured(129, 265, 0.77),
    "single": Measured(43, 222, 0.77),
}


def decide_compile(config: RunConfig, processes: int, device: torch.device) -> tuple[bool, str]:
    """Settle `training.compile`.

    Args:
        processes: Of the run.
        device: That the run trains on.

    Returns:
        Whether to compile, and why, for "auto"; else an empty reason.
    """
    wanted, method = config.training.compile, config.method.name
    if wanted != "auto":
        return wanted, ""
    if against := _stands_against(config, processes):
        return False, f"off: {against}"
    if config.data.modality_dropout:
        return False, "off: with data.modality_dropout many batches would run as written"
    if device.type != "cpu":
        return False, "off: not measured on such a device"
    found = ON_PROCESSORS.get(method)
    if found is None:
        return False, f"off: not measured for method '{method}'"
    if found.share > 1 - _LEAST_GAIN:
        return False, f"off: for method '{method}' a compiled step takes {found.share:.2f} of one"
    if not find_compiler():
        return False, "off: no C++ compiler is found"
    if config.training.steps < found.pays_after():
        return False, f"off: compiling is made up for after about {found.pays_after()} steps"
    return True, f"on: a compiled step takes {found.share:.2f} of one, as measured"


def find_compiler() -> str | None:
    """The C++ compiler that torch's compiler calls on a processor; None if it is not there."""
    default = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    program, *_ = shlex.split(os.environ.get("CXX", "")) or [default]
    return shutil.which(program)


def check_compile(config: RunConfig, processes: int) -> None:
    """Refuse to compile what a run does otherwise in its steps.

    Raises:
        ConfigError: Names the setting that excludes it.
    """
    reason = _stands_against(config, processes)
    if reason and config.training.compile is True:
        raise ConfigError(
            f"training.compile cannot be used here: {reason}. Leave that out, or set "
            "training.compile to false"
        )


def _stands_against(config: RunConfig, processes: int) -> str:
    training = config.training
    if training.strategy.startswith("fsdp"):
        return "with training.strategy 'fsdp' parameters are joined only while a step runs"
    if training.cache_features:
        return "training.cache_features looks at the values that a backbone sees"
    if processes > 1 and training.sync_batchnorm:
        return "training.sync_batchnorm exchanges statistics within a step"
    return ""


class CompiledSegment:
    """A compiled `segment` of a segmenter, used while it is trained.

    Parameters, modules and their names stay as they are; so do validation, whose windows have other
    sizes, and copies of the model. Batches in which a sample lacks a modality run as written: a
    graph would mask what is absent instead of skipping it, so that zeros entered batch norms, and
    every set of modalities would be one more graph.

    Args:
        device: That it is trained on.
    """

    def __init__(self, segmenter: Segmenter, device: torch.device) -> None:
        self.segmenter = segmenter
        # On processors torch's compiler would lay images out with channels last. In torch 2.15 the
        # backward pass of strided 1 x 1 convolutions with less than 16 channels writes beyond its
        # memory, and the process ends sooner or later.
        options: dict[str, Any] = {"layout_optimization": False} if device.type == "cpu" else {}
        self._compiled = torch.compile(segmenter.segment, dynamic=False, options=options)

    @contextmanager
    def training(self, batch: Batch) -> Iterator[None]:
        """Run the compiled form within this block, if it suits the batch."""
        if not all(mask.flatten(1).any(dim=1).all() for mask in batch.valid.values()):
            yield
            return
        self.segmenter.segment = self._compiled  # type: ignore[method-assign]  # of the instance
        try:
            yield
        finally:
            vars(self.segmenter).pop("segment", None)


@contextmanager
def explaining_compilation(method: str) -> Iterator[None]:
    """Say which method could not be compiled, in the forward or the backward pass.

    Raises:
        ConfigError: With torch's reason.
    """
    try:
        yield
    except RuntimeError as error:
        compiler = sys.modules.get("torch._dynamo.exc")  # takes seconds to import
        if compiler is None or not isinstance(error, compiler.TorchDynamoException):
            raise
        # A first line of "backend='…' raised:" says nothing of the cause.
        lines = [line.strip() for line in str(error).splitlines()]
        reason = next((line for line in lines if line and not line.endswith("raised:")), "")
        raise ConfigError(
            f"method '{method}' cannot be compiled here: {type(error).__name__}: "
            f"{reason[:200]}. Set training.compile to false"
        ) from error

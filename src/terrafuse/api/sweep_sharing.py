"""Division of a sweep: by shards on a disk that all see, and over the slots of a Ray cluster."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from terrafuse.api.sweep_plan import SweepRun
from terrafuse.cores import usable_cores
from terrafuse.errors import ConfigError, InUseError
from terrafuse.locking import folder_lock, is_first_process
from terrafuse.prediction import Shard
from terrafuse.prediction.ray_engine import connect, import_ray
from terrafuse.writing import written_whole

#: How often a run is tried whose process or machine is lost.
_MOST_TRIES = 3
_LOOK_SECONDS = 2.0
# Values of training.devices: their number, or that of one device before a comma.
_ONE_DEVICE = re.compile(r"1|auto|[0-9]+,")


@dataclass(frozen=True)
class Trial:
    """A run to train, and to score unless it only helps to choose a setting."""

    job: SweepRun
    scores: bool


def check_alone(jobs: Sequence[SweepRun], option: str) -> None:
    """Refuse runs on several processes where runs are divided already.

    Raises:
        ConfigError: Names the run.
    """
    for job in jobs:
        training = job.config.training
        is_one = _ONE_DEVICE.fullmatch(str(training.devices)) is not None
        if training.nodes > 1 or not is_one or not is_first_process():
            raise ConfigError(
                f"{option} gives each run one process, and '{job.title}' wants training.devices "
                f"{training.devices} on training.nodes {training.nodes}. Set both to 1, or leave "
                f"out {option}"
            )


def of_shard(trials: Sequence[Trial], shard: Shard | None) -> list[Trial]:
    """Trials of a shard: every n-th."""
    if shard is None:
        return list(trials)
    return list(trials[shard.number - 1 :: shard.of])


@contextmanager
def claim(job: SweepRun, shard: Shard | None) -> Iterator[bool]:
    """Keep other shards from a run; yields whether no other has it."""
    if shard is None:
        yield True
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(folder_lock(job.folder, f"sweep --shard {shard}"))
        except InUseError:
            is_ours = False
        else:
            is_ours = True
        yield is_ours


def when_free(work: Callable[[], Path]) -> Path:
    """Do what another shard may be doing in the same folder, once it has done so."""
    while True:
        try:
            return work()
        except InUseError:
            time.sleep(_LOOK_SECONDS)


def note_failure(job: SweepRun, message: str | None) -> None:
    """Leave the message of a failed run for other shards; None: it has not failed."""
    path = _failure_file(job)
    if message is None:
        path.unlink(missing_ok=True)
        return
    with written_whole(path) as (partial,):
        partial.write_text(json.dumps({"message": message}, indent=2), encoding="utf-8")


def noted_failure(job: SweepRun) -> str | None:
    """Message of a failed run; None if it has not failed."""
    try:
        return str(json.loads(_failure_file(job).read_text(encoding="utf-8"))["message"])
    except (OSError, ValueError, KeyError):
        return None


def _failure_file(job: SweepRun) -> Path:
    return job.folder.with_name(f"{job.name}.failed.json")


class RaySlots:
    """Slots of a Ray cluster: a GPU each where it has some and they are wanted, else a CPU.

    Args:
        address: Of a running cluster; None: RAY_ADDRESS, else this machine alone.
        uses_gpus: Whether trials may have GPUs.

    Raises:
        MissingDependencyError: Ray is not installed.
        ConfigError: The cluster cannot be reached.
    """

    def __init__(self, address: str | None, *, uses_gpus: bool) -> None:
        ray = import_ray()
        self._ray: Any = ray
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            found = address or os.environ.get("RAY_ADDRESS") or None
            connect(ray, found, cpus=usable_cores())
        has_gpus = uses_gpus and ray.cluster_resources().get("GPU", 0) >= 1
        self._options = {"num_cpus": 1, "num_gpus": 1 if has_gpus else 0, "max_retries": 0}

    def __enter__(self) -> RaySlots:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_ours:
            self._ray.shutdown()

    def run(
        self,
        trials: Sequence[Trial],
        work: Callable[[Trial], str | None],
        say: Callable[[str], None],
    ) -> Iterator[tuple[Trial, str | None]]:
        """Run trials, one in each slot; a trial whose process is lost is run again, and resumes.

        Args:
            work: Runs a trial; returns the message of its failure.
            say: Called with a line per lost trial.

        Yields:
            Each trial when it has ended, with the message of its failure.
        """

        def call(trial: Trial) -> str | None:  # Ray takes functions only
            return work(trial)

        remote = self._ray.remote(**self._options)(call)
        pending = {remote.remote(trial): (trial, 1) for trial in trials}
        while pending:
            done, _ = self._ray.wait(list(pending), num_returns=1)
            trial, tries = pending.pop(done[0])
            try:
                yield trial, self._ray.get(done[0])
            except self._ray.exceptions.RayTaskError as error:  # not even begun
                reason = str(error).strip().splitlines()[-1]
                yield trial, f"a node of the Ray cluster cannot run it: {reason}"
            except self._ray.exceptions.RayError as error:
                if tries == _MOST_TRIES:
                    yield trial, f"its process was lost {tries} times ({type(error).__name__})"
                    continue
                say(f"{trial.job.name}: its process was lost; it is resumed")
                pending[remote.remote(trial)] = trial, tries + 1

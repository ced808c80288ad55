"""Division of one scene's map: by shards, which know nothing of each other, and by workers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, get_args

from terrafuse.errors import ConfigError, unknown_name
from terrafuse.prediction.devices import Device
from terrafuse.prediction.units import UnitPlan
from terrafuse.samples import Window

EngineName = Literal["local", "ray"]
# Tasks per worker, so that all are busy to the end.
_TASKS_EACH = 4


@dataclass(frozen=True)
class Shard:
    """One of several runs that map a scene together, into one folder.

    Args:
        number: From 1.
        of: Number of shards.

    Raises:
        ConfigError: There is no such shard.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            allowed = f"1/{self.of} to {self.of}/{self.of}" if self.of > 0 else "1/1, 1/2, 2/2 …"
            raise ConfigError(f"shard is '{self}'; allowed are {allowed}")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "2/8".

        Raises:
            ConfigError: It is no such text, or there is no such shard.
        """
        found = re.fullmatch(r"(-?\d{1,9})/(-?\d{1,9})", text.strip(), re.ASCII)
        if found is None:
            raise ConfigError(
                f"shard is '{text}'; give its number and how many there are, such as 2/8"
            )
        return cls(int(found[1]), int(found[2]))


@dataclass(frozen=True)
class WorkerSettings:
    """How many processes map a scene, and where.

    Args:
        count: Processes, each with a model of its own; with `devices`: for each device.
        devices: GPUs to use; None: the device of the predictor.
        engine: "local", or "ray" for actors of a cluster.
        address: Of a Ray cluster; None: RAY_ADDRESS, or else a cluster of this machine alone.

    Raises:
        ConfigError: A number below 1, or an unknown engine.
    """

    count: int = 1
    devices: int | None = None
    engine: EngineName = "local"
    address: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("workers", self.count), ("devices", self.devices)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; allowed are numbers from 1")
        if self.engine not in get_args(EngineName):
            raise ConfigError(unknown_name("engine", self.engine, get_args(EngineName)))
        if self.address is not None and self.engine != "ray":
            raise ConfigError("an address of a Ray cluster needs the engine 'ray' (--engine ray)")

    @property
    def total(self) -> int:
        """Number of processes."""
        return self.count * (self.devices or 1)

    @property
    def is_alone(self) -> bool:
        """Whether the process that asks does all."""
        return self.engine == "local" and self.total == 1

    @property
    def cluster(self) -> str | None:
        """Address of the Ray cluster to join; None: all work on this machine."""
        if self.engine != "ray":
            return None
        return self.address or os.environ.get("RAY_ADDRESS") or None

    def device_names(self, device: Device) -> list[str]:
        """Device of each process.

        Args:
            device: Of the predictor.

        Raises:
            ConfigError: This machine has fewer, or another device is asked for.
        """
        if self.devices is None:
            return [str(device)] * self.total
        import torch

        if device.type == "cpu" and torch.cuda.is_available():
            raise ConfigError("devices counts GPUs, and the device is 'cpu'. Leave out one of both")
        found = torch.cuda.device_count()
        if self.devices > found:
            remedy = (
                f"Give at most {found}" if found else "Leave out --devices; --workers uses CPUs"
            )
            raise ConfigError(
                f"devices is {self.devices}, but this machine has {found} CUDA devices. {remedy}"
            )
        return [f"cuda:{number % self.devices}" for number in range(self.total)]


def units_of(plan: UnitPlan, shard: Shard | None) -> set[int]:
    """Units of a shard: as many pixels as the others have, in as few columns as possible.

    Where there are too many shards for windows run twice to stay within `MOST_TWICE`, the last
    ones have none.
    """
    if shard is None:
        return set(range(len(plan)))
    pieces = _shares(plan, shard.of)
    return set(pieces[shard.number - 1]) if shard.number <= len(pieces) else set()


def cut_tasks(
    plan: UnitPlan, missing: Iterable[int], *, workers: int = 1, shards: int = 1
) -> list[Window]:
    """Cut missing units into rectangles for workers, the largest first.

    Each edge between two of a column runs windows twice: over all shards, the share of these stays
    within `MOST_TWICE`, so that there may be fewer rectangles than workers.

    Args:
        plan: Units of the scene.
        missing: Positions of the units to map.
        workers: That take a rectangle each whenever they are free.
        shards: That map the scene.
    """
    wanted = sorted(missing)
    least = plan.runs(set(wanted))
    if workers == 1 or not least:
        return least
    spare = plan.allowance - _twice(plan, _shares(plan, shards))
    spare *= _pixels(least) / (plan.lattice.height * plan.lattice.width)
    base = plan.windows(least)
    for pieces in _fewer(min(_TASKS_EACH * workers, len(wanted))):
        tasks = _runs(plan, _pieces(plan, wanted, pieces))
        if plan.windows(tasks) - base <= spare:
            return sorted(tasks, key=lambda task: -len(plan.part(task)))
    return least


def _shares(plan: UnitPlan, shards: int) -> list[list[int]]:
    every = range(len(plan))
    for pieces in _fewer(min(shards, len(plan))):
        found = _pieces(plan, every, pieces)
        if pieces == 1 or _twice(plan, found) <= plan.allowance:
            return found
    return [list(every)]


def _twice(plan: UnitPlan, pieces: Sequence[Sequence[int]]) -> int:
    return plan.windows(_runs(plan, pieces)) - len(plan.lattice)


def _runs(plan: UnitPlan, pieces: Sequence[Sequence[int]]) -> list[Window]:
    return [run for piece in pieces for run in plan.runs(set(piece))]


def _fewer(pieces: int) -> Iterable[int]:
    """Numbers of pieces to try, descending to 1."""
    while pieces > 0:
        yield pieces
        pieces = min(pieces - 1, pieces * 9 // 10)


def _pieces(plan: UnitPlan, numbers: Sequence[int], pieces: int) -> list[list[int]]:
    """Cut units, in their order, into pieces of about equally many pixels; none is empty."""
    units = list(plan)
    areas = [units[number].height * units[number].width for number in numbers]
    total, before, places = sum(areas), 0, []
    for area in areas:
        places.append(int((before + area / 2) * pieces / total))
        before += area
    pairs = zip(places, numbers, strict=True)
    return [[n for _, n in group] for _, group in groupby(pairs, key=lambda pair: pair[0])]


def _pixels(windows: Iterable[Window]) -> int:
    return sum(window.height * window.width for window in windows)

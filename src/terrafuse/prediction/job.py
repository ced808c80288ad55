"""State of a map that is being made: finished units beside the products, until all are there.

`units/job.json` says what is mapped and how; `units/000012.class_map` and the like are the blocks
of unit 12, and `units/000012.json` its record, with the digests of these files. A unit and its
record appear together; a killed job goes on with the units that have none.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from terrafuse.errors import OutputError
from terrafuse.prediction.cog import Block
from terrafuse.prediction.sharing import Shard, cut_tasks, units_of
from terrafuse.prediction.units import UnitPlan
from terrafuse.samples import Window
from terrafuse.weights import digest
from terrafuse.writing import (
    clear_leftovers,
    is_own_folder,
    remove_files,
    write_json,
    written_whole,
)

#: Folder of unfinished maps, beside the products.
UNITS = "units"
_JOB = "job.json"
_UNIT = re.compile(r"\d{6,}\.\w+")
_FORMAT = 1


class MapJob:
    """Units of a map, of which some may be done.

    Args:
        folder: Of the products.
        plan: Units of the scene.
        products: Names of the products.
        key: What must be equal for a unit to be of the same map: name → value.
        shard: Which part of the map is to be made; None: all of it.
    """

    def __init__(
        self,
        folder: Path,
        plan: UnitPlan,
        products: Sequence[str],
        key: Mapping[str, Any],
        *,
        shard: Shard | None = None,
    ) -> None:
        self.folder = folder / UNITS
        self.plan = plan
        self.shard = shard
        self._products = tuple(products)
        self._out = folder
        self._key = json.loads(json.dumps(key))
        #: Units that are done → whether any pixel of theirs has data.
        self.done: dict[int, bool] = {}
        self._own = units_of(plan, shard)
        #: Called with the number of a unit that is kept now, and whether it has data.
        self.on_commit: Callable[[int, bool], None] | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of what the map is made of, and how."""
        text = json.dumps([_FORMAT, self._key], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def look(self, *, resume: bool = False, hint: str | None = None) -> None:
        """Find out what is done.

        A shard always goes on with what it finds: other shards made it.

        Args:
            resume: True: go on with what is there.
            hint: What could be done instead of beginning anew.

        Raises:
            OutputError: The folder holds units of another map, or a folder of that name that is
                not of a map.
        """
        self._check_ours()
        if resume or self.shard:
            self._check_same()
            self.done = self.sound(self._own)
        elif self.folder.exists():
            instead = f"; {hint}" if hint else ""
            warnings.warn(
                f"'{self._out}' held an unfinished map, which is begun anew{instead}",
                stacklevel=5,
            )

    @staticmethod
    def begun_with(folder: Path, name: str) -> Any:
        """A value of the key of an unfinished map in a folder of products; None if there is none.

        Args:
            folder: Of the products.
            name: Of the value.
        """
        try:
            content = json.loads((folder / UNITS / _JOB).read_text(encoding="utf-8"))
            return content["key"][name]
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def look_at_others(self) -> None:
        """Find out what other shards have done; their units are checked once all are there."""
        others = self.left
        if all(self._record(number).exists() for number in others):
            self.done |= self.sound(others)

    def sound(self, numbers: set[int]) -> dict[int, bool]:
        """Of these units, those that are kept, and whether they have data."""
        return dict(self._find_sound(numbers))

    def is_here(self) -> bool:
        """Whether this machine sees the folder, with this map's description in it."""
        try:
            content = json.loads((self.folder / _JOB).read_text(encoding="utf-8"))
            return bool(content["key"] == self._key)
        except (OSError, ValueError, LookupError, TypeError):
            return False

    def begin(self) -> None:
        """Make the folder of the units, without those that are not gone on with.

        Raises:
            OutputError: It cannot be written.
        """
        if not self.done and not self.shard:
            self.discard()
        with written_whole(self.folder / _JOB) as (partial,):
            content = {"format": _FORMAT, "units": len(self.plan), "key": self._key}
            write_json(partial, content)

    @property
    def missing(self) -> set[int]:
        """Units to be done, of the shard if there are shards."""
        return self._own - set(self.done)

    @property
    def left(self) -> set[int]:
        """Units of all shards that are not known to be done."""
        return set(range(len(self.plan))) - set(self.done)

    def tasks(self, workers: int = 1) -> list[Window]:
        """Rectangles to be mapped."""
        shards = self.shard.of if self.shard else 1
        return cut_tasks(self.plan, self.missing, workers=workers, shards=shards)

    @property
    def has_data(self) -> bool:
        """Whether any pixel of the units done has data."""
        return any(self.done.values())

    def commit(
        self, unit: Window, blocks: Mapping[str, Mapping[str, NDArray[Any]]], has_data: bool
    ) -> None:
        """Keep a finished unit: its blocks by product.

        Raises:
            OutputError: The disk is full or fails.
        """
        number = self.plan.number(unit)
        paths = [self._block(number, name) for name in self._products]
        with written_whole(*paths, self._record(number)) as (*partials, record):
            digests = {}
            for name, partial in zip(self._products, partials, strict=True):
                file = save({k: np.ascontiguousarray(v) for k, v in blocks[name].items()})
                partial.write_bytes(file)
                digests[name] = hashlib.sha256(file).hexdigest()
            record.write_text(json.dumps({"has_data": has_data, "sha256": digests}))
        self.done[number] = has_data
        if self.on_commit:
            self.on_commit(number, has_data)

    def blocks(self, product: str) -> list[list[Block]]:
        """Blocks of a product, row by row from the top, each from left to right."""
        grid: list[list[Block]] = [[] for _ in self.plan.rows]
        for number, unit in enumerate(self.plan):
            row = number % len(self.plan.rows)
            grid[row].append(Block(self._block(number, product), unit))
        return grid

    def discard(self) -> None:
        """Remove the units, and the folder if nothing else is in it."""
        if self.folder.exists():
            clear_leftovers(self.folder)  # of workers that outlived their killed parent for a while
        remove_files(self.folder, self._own_files())

    def _own_files(self) -> list[Path]:
        """Files of units, and job.json last."""
        names = [path for path in self.folder.glob("[0-9]*.*") if _UNIT.fullmatch(path.name)]
        return [*names, self.folder / _JOB]

    def _check_ours(self) -> None:
        """Refuse a folder or file of somebody else's that has the name of ours.

        Raises:
            OutputError: There is one.
        """
        if not is_own_folder(self.folder, lambda _: (self.folder / _JOB).exists()):
            raise OutputError(
                f"'{self.folder}' is needed for a map that is being made, and is no such folder. "
                "Choose another --out, or move it"
            )

    def _block(self, number: int, product: str) -> Path:
        return self.folder / f"{number:06d}.{product}"

    def _record(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"

    def _check_same(self) -> None:
        """Refuse units of another map.

        Raises:
            OutputError: Names what differs.
        """
        path = self.folder / _JOB
        begin_anew = (
            f"delete '{self.folder}'" if self.shard else "leave out --resume"
        ) + " to begin anew"
        try:
            key = json.loads(path.read_text(encoding="utf-8"))["key"]
            differing = [name for name in self._key if key.get(name) != self._key[name]]
        except FileNotFoundError:
            return
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            differing = ["its description, which cannot be read"]
        if differing:
            raise OutputError(
                f"'{self._out}' holds an unfinished map that differs in: {', '.join(differing)}. "
                f"Give what it was begun with, or {begin_anew}"
            )

    def _find_sound(self, numbers: set[int]) -> Iterator[tuple[int, bool]]:
        """Units whose files are as they were written, and whether they have data."""
        for number in sorted(numbers):
            record = self._record(number)
            if not record.exists():
                continue
            try:
                content = json.loads(record.read_text(encoding="utf-8"))
                has_data, digests = bool(content["has_data"]), dict(content["sha256"])
                is_sound = set(digests) == set(self._products) and all(
                    digest(self._block(number, name)) == expected
                    for name, expected in digests.items()
                )
            except (OSError, ValueError, LookupError, TypeError):
                is_sound = False
            if is_sound:
                yield number, has_data
            else:
                warnings.warn(
                    f"unit {number} in '{self.folder}' is not as it was written and is done again",
                    stacklevel=5,
                )

"""Published facts about data sets: class names, codes, colours and splits, from `tables.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from terrafuse.errors import UnknownNameError, unknown_name


@dataclass(frozen=True)
class PublishedFacts:
    """Published facts of one data set.

    Args:
        name: Name of the layout, as users type it.
        title: Title of the data set, for messages.
        classes: Classes as in a manifest.
        void: Raw label values that belong to no class.
        splits: Name of the lists → split → ids of scenes.
        more: Facts that only this data set has.
    """

    name: str
    title: str
    classes: list[dict[str, Any]]
    void: list[int | str]
    splits: Mapping[str, Mapping[str, list[str]]]
    more: Mapping[str, Any]

    def split(self, name: str, further: Iterable[str] = ()) -> dict[str, str]:
        """Map ids to splits, from the lists of this name.

        Args:
            further: Names of splits that the layout builds itself, for the message.

        Raises:
            UnknownNameError: There are no such lists; the nearest name is given.
        """
        if name not in self.splits:
            known = [*self.splits, *further]
            raise UnknownNameError(unknown_name(f"split of layout '{self.name}'", name, known))
        return {id: split for split, ids in self.splits[name].items() for id in ids}

    def colored_classes(self) -> list[dict[str, Any]]:
        """Return the classes for labels that hold the display colours instead of codes."""
        return [item | {"code": item["color"]} for item in self.classes]


@cache
def _tables() -> dict[str, Any]:
    text = files("terrafuse.layouts").joinpath("tables.json").read_text(encoding="utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables


def read_facts(name: str) -> PublishedFacts:
    """Read the published facts of the data set of a layout."""
    table = dict(_tables()[name])
    own = {key: table.pop(key) for key in ("title", "classes", "void", "splits")}
    return PublishedFacts(name=name, more=table, **own)


def draw_by_name(ids: Iterable[str], share: float) -> set[str]:
    """Draw a share of ids by their names alone, where no list is published.

    The draw of an id is the same in every copy of a data set, whatever else the copy holds. At
    least one id is drawn.
    """
    numbers = {id: int(hashlib.sha256(id.encode()).hexdigest()[:8], 16) / 2**32 for id in ids}
    drawn = {id for id, number in numbers.items() if number < share}
    return drawn or set(sorted(numbers, key=lambda id: numbers[id])[:1])

"""Choice of the files that are opened, where opening all of them would take minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from terrafuse.layouts.options import choice
from terrafuse.layouts.published import warn

_V = TypeVar("_V")
#: Up to so many scenes all are opened, of more a sample.
FEW = 1000
SAMPLE = 100
#: Files of labels that may bring no new value before no more are read: a class may be rare.
PATIENCE = 300
# Steps of the golden ratio around a circle: any beginning of them is spread evenly.
_STEP = 0.6180339887498949


@dataclass(frozen=True)
class Look:
    """The scenes that are opened to find out what all of them hold.

    Args:
        order: All scenes; any number of the first ones are spread evenly over all.
        is_sample: Whether only some of the first ones are opened.
    """

    order: tuple[str, ...]
    is_sample: bool = False

    @property
    def patience(self) -> int | None:
        """Files of labels without a new value after which no more are read; None: all are."""
        return PATIENCE if self.is_sample else None

    @classmethod
    def at(cls, ids: Sequence[str], options: Mapping[str, str]) -> Look:
        """Choose by the option "look": some (the default), or all.

        Raises:
            DataError: The option has another value.
        """
        if choice(options, "look", ("some", "all")) == "all" or len(ids) <= FEW:
            return cls(tuple(ids))
        places = sorted(range(len(ids)), key=lambda place: place * _STEP % 1)
        return cls(tuple(ids[place] for place in places), is_sample=True)

    def choose(self, files: Mapping[str, _V]) -> dict[str, _V]:
        """Choose of the files of a modality by scene, in their order."""
        most = SAMPLE if self.is_sample else None
        chosen = set([id for id in self.order if id in files][:most])
        return {id: file for id, file in files.items() if id in chosen}

    def tell(self, labels_read: int | None = None) -> None:
        """Warn that not all is known.

        Args:
            labels_read: Files of labels that were read to find their values; None: there was no
                need to.
        """
        if not self.is_sample:
            return
        values = (
            ""
            if labels_read is None
            else f" and {labels_read:,} for the values of labels, of which the last "
            f"{PATIENCE:,} had no new one"
        )
        warn(
            f"of {len(self.order):,} scenes, evenly spread ones were opened: {SAMPLE:,} for "
            f"bands and sizes{values}. To open all: -O look=all"
        )

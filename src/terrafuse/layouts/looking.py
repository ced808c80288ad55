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
        most: Scenes opened per modality; None: no limit.
        patience: Files of labels without a new value after which no more are read; None: all are.
    """

    order: tuple[str, ...]
    most: int | None = None
    patience: int | None = None

    @classmethod
    def at(cls, ids: Sequence[str], options: Mapping[str, str]) -> Look:
        """Choose by the option "look": some (the default), or all.

        Raises:
            DataError: The option has another value.
        """
        if choice(options, "look", ("some", "all")) == "all" or len(ids) <= FEW:
            return cls(tuple(ids))
        places = sorted(range(len(ids)), key=lambda place: place * _STEP % 1)
        return cls(tuple(ids[place] for place in places), SAMPLE, PATIENCE)

    def choose(self, files: Mapping[str, _V]) -> dict[str, _V]:
        """Choose of the files of a modality by scene, in their order."""
        chosen = set([id for id in self.order if id in files][: self.most])
        return {id: file for id, file in files.items() if id in chosen}

    def tell(self, labels_read: int | None = None) -> None:
        """Warn that not all is known.

        Args:
            labels_read: Files of labels that were read to find their values; None: there was no
                need to.
        """
        if self.most is None or self.patience is None:
            return
        values = (
            ""
            if labels_read is None
            else f" and {labels_read:,} for the values of labels, of which the last "
            f"{self.patience:,} had no new one"
        )
        warn(
            f"of {len(self.order):,} scenes, evenly spread ones were opened: {self.most:,} for "
            f"bands and sizes{values}. To open all: -O look=all"
        )

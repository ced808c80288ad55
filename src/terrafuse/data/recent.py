"""Windows of a scene that were read last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np

_T = TypeVar("_T")
# Holds the windows of a chip, or the last ones of a large scene.
_MOST_BYTES = 64 << 20


class RecentWindows:
    """What was read last, within a bound, the least recently used going first.

    Args:
        most_bytes: Of all arrays kept; a larger one is not kept.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, read: Callable[[], _T]) -> _T:
        """Return what is kept of `key`, an array or a tuple of arrays, or read it."""
        if key in self._kept:
            self._kept.move_to_end(key)
            found: _T = self._kept[key][0]
            return found
        value = read()
        size = sum(part.nbytes for part in _arrays(value))
        if size <= self.most_bytes:
            self._kept[key] = value, size
            self._bytes += size
        while self._bytes > self.most_bytes:
            self._bytes -= self._kept.popitem(last=False)[1][1]
        return value


def _arrays(value: object) -> tuple[np.ndarray[Any, Any], ...]:
    return value if isinstance(value, tuple) else (value,)

"""What the page shows of a map, a run or a data set."""

from __future__ import annotations

__all__: list[str] = []

"""What the page shows of a map, a run or a data set."""

from __future__ import annotations

from terrafuse.web.viewer.document import View, ViewIndex

__all__ = ["View", "ViewIndex"]

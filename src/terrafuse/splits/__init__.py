"""Assignment of scenes, or parts of scenes, to training, validation and test splits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from terrafuse.splits.balance import SplitReport, report_split
    from terrafuse.splits.splitting import move_paths, split_manifest
else:  # each with the libraries that it needs, and no others
    from terrafuse.lazy import import_on_use

    __getattr__ = import_on_use(
        __name__,
        {
            "terrafuse.splits.balance": (
                "SplitReport",
                "report_split",
            ),
            "terrafuse.splits.splitting": (
                "move_paths",
                "split_manifest",
            ),
        },
    )

__all__ = [
    "SplitReport",
    "move_paths",
    "report_split",
    "split_manifest",
]

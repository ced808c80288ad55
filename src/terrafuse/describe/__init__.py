"""Description of a model before training: parts, parameters, FLOPs, licences."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from terrafuse.describe.costs import without_values
    from terrafuse.describe.exported import describe_exported
    from terrafuse.describe.overview import describe_model
    from terrafuse.describe.parts import describe_segmenter, mean_gates
else:  # imported on use, each with only the libraries that it needs
    from terrafuse.lazy import import_on_use

    __getattr__ = import_on_use(
        __name__,
        {
            "terrafuse.describe.costs": ("without_values",),
            "terrafuse.describe.exported": ("describe_exported",),
            "terrafuse.describe.overview": ("describe_model",),
            "terrafuse.describe.parts": (
                "describe_segmenter",
                "mean_gates",
            ),
        },
    )

__all__ = [
    "describe_exported",
    "describe_model",
    "describe_segmenter",
    "mean_gates",
    "without_values",
]

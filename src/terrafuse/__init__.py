"""terrafuse: rasters in, map out.

Multimodal land-cover segmentation on vision and remote-sensing foundation models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from terrafuse.version import VERSION

if TYPE_CHECKING:
    from terrafuse.api import Run, load, train

__version__ = VERSION
__all__ = ["Run", "__version__", "load", "train"]


def __getattr__(name: str) -> Any:
    # The verbs need torch and rasterio, which take seconds to import; `--help` must not wait.
    if name in __all__:
        from terrafuse import api

        return getattr(api, name)
    raise AttributeError(f"module 'terrafuse' has no attribute '{name}'")

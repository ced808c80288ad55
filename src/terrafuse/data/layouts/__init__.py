"""Folder layouts → manifest values; nothing is copied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terrafuse.data.layouts.folder import describe_folder
from terrafuse.errors import RasterReadError, UnknownNameError, unknown_name

__all__ = ["LAYOUTS", "LayoutSummary", "describe", "list_layouts"]

#: (root, folder of the manifest, options as text) → manifest values. The first line of the
#: docstring is shown by `terrafuse layouts`.
LAYOUTS: dict[str, Callable[[Path, Path, dict[str, str]], dict[str, Any]]] = {
    "folder": describe_folder,
}


@dataclass(frozen=True)
class LayoutSummary:
    """A row of `terrafuse layouts`."""

    name: str
    description: str


def list_layouts() -> list[LayoutSummary]:
    """Every layout, with what it is for."""
    return [
        LayoutSummary(name, (function.__doc__ or "").splitlines()[0])
        for name, function in LAYOUTS.items()
    ]


def describe(
    root: Path | str, layout: str, *, manifest_folder: Path | str | None = None, **options: str
) -> dict[str, Any]:
    """Manifest values of a folder of rasters.

    Args:
        root: The folder.
        layout: Name of the layout.
        manifest_folder: Where the manifest will be; paths are relative to it. Default: `root`.
        options: Options of the layout, as text.

    Raises:
        UnknownNameError: No such layout.
        RasterReadError: No such folder.
        DataError: The folder does not have this layout.
    """
    if layout not in LAYOUTS:
        raise UnknownNameError(unknown_name("layout", layout, LAYOUTS))
    folder = Path(root).expanduser().absolute()
    if not folder.is_dir():
        raise RasterReadError(f"there is no folder '{root}'")
    beside = folder if manifest_folder is None else Path(manifest_folder).expanduser().absolute()
    return LAYOUTS[layout](folder, beside, options)

"""Folder layouts → manifest values; nothing is copied."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terrafuse.data.layouts.dfc2020 import describe_dfc2020
from terrafuse.data.layouts.folder import describe_folder
from terrafuse.data.layouts.forests import describe_forests
from terrafuse.data.layouts.gid import (
    describe_five_billion_pixels,
    describe_gid5,
    describe_gid15,
)
from terrafuse.data.layouts.items import describe_items
from terrafuse.data.layouts.mmhunan import describe_mmhunan
from terrafuse.data.layouts.ombria import describe_ombria
from terrafuse.data.layouts.potsdam import describe_potsdam
from terrafuse.data.layouts.sen1floods11 import describe_sen1floods11
from terrafuse.data.layouts.vaihingen import describe_vaihingen
from terrafuse.data.layouts.whu_opt_sar import describe_whu_opt_sar
from terrafuse.errors import RasterReadError, UnknownNameError, unknown_name

__all__ = ["LAYOUTS", "LayoutSummary", "describe", "list_layouts"]

#: (root, options as text) → manifest values with paths relative to the root. The first line of the
#: docstring is shown by `terrafuse layouts`.
LAYOUTS: dict[str, Callable[[Path, dict[str, str]], dict[str, Any]]] = {
    "folder": describe_folder,
    "items": describe_items,
    "whu-opt-sar": describe_whu_opt_sar,
    "gid-5": describe_gid5,
    "gid-15": describe_gid15,
    "five-billion-pixels": describe_five_billion_pixels,
    "vaihingen": describe_vaihingen,
    "potsdam": describe_potsdam,
    "mmhunan": describe_mmhunan,
    "forests": describe_forests,
    "sen1floods11": describe_sen1floods11,
    "ombria": describe_ombria,
    "dfc2020": describe_dfc2020,
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
        manifest_folder: Where the manifest will be, to name `root` from there. Default: `root`.
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
    values = LAYOUTS[layout](folder, options)
    beside = folder if manifest_folder is None else Path(manifest_folder).expanduser()
    way = os.path.relpath(folder.resolve(), beside.resolve())
    return values if way == "." else {"root": Path(way).as_posix(), **values}

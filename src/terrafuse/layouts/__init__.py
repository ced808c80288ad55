"""Folder layouts → manifest values; nothing is copied."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terrafuse.errors import RasterReadError, UnknownNameError, unknown_name
from terrafuse.layouts import (
    dfc2020,
    folder,
    forests,
    gid,
    items,
    mmhunan,
    ombria,
    potsdam,
    sen1floods11,
    vaihingen,
    whu_opt_sar,
)
from terrafuse.layouts.layout import Layout
from terrafuse.layouts.recognising import Recognised, recognise
from terrafuse.layouts.summary import summarise

__all__ = [
    "LAYOUTS",
    "LayoutSummary",
    "Recognised",
    "describe",
    "list_layouts",
    "recognise_layout",
    "summarise",
]


@dataclass(frozen=True)
class _Entry:
    """A registered layout.

    Args:
        describe: (root, options as text) → manifest values with paths relative to the root. The
            first line of the docstring is shown by `terrafuse layouts`.
        forms: Known forms of a published data set, by which it is recognised.
    """

    describe: Callable[[Path, dict[str, str]], dict[str, Any]]
    forms: tuple[Layout, ...] = ()


#: Every layout by its name; a new one is one line here.
LAYOUTS: dict[str, _Entry] = {
    "folder": _Entry(folder.describe_folder),
    "items": _Entry(items.describe_items),
    "whu-opt-sar": _Entry(whu_opt_sar.describe_whu_opt_sar, whu_opt_sar.EDITIONS),
    "gid-5": _Entry(gid.describe_gid5, gid.GID5_EDITIONS),
    "gid-15": _Entry(gid.describe_gid15, gid.GID15_EDITIONS),
    "five-billion-pixels": _Entry(gid.describe_five_billion_pixels, gid.BILLIONS_EDITIONS),
    "vaihingen": _Entry(vaihingen.describe_vaihingen, vaihingen.EDITIONS),
    "potsdam": _Entry(potsdam.describe_potsdam, potsdam.EDITIONS),
    "mmhunan": _Entry(mmhunan.describe_mmhunan, mmhunan.EDITIONS),
    "forests": _Entry(forests.describe_forests),
    "sen1floods11": _Entry(sen1floods11.describe_sen1floods11, sen1floods11.EDITIONS),
    "ombria": _Entry(ombria.describe_ombria, ombria.EDITIONS),
    "dfc2020": _Entry(dfc2020.describe_dfc2020, dfc2020.EDITIONS),
}


@dataclass(frozen=True)
class LayoutSummary:
    """A row of `terrafuse layouts`."""

    name: str
    description: str


def list_layouts() -> list[LayoutSummary]:
    """List every layout with its description."""
    return [
        LayoutSummary(name, (entry.describe.__doc__ or "").splitlines()[0])
        for name, entry in LAYOUTS.items()
    ]


def recognise_layout(root: Path | str) -> Recognised:
    """Recognise the layout of a folder from the names in it.

    Raises:
        RasterReadError: No such folder.
        DataError: The folder holds more than one published data set.
    """
    return recognise(_folder(root), {name: entry.forms for name, entry in LAYOUTS.items()})


def describe(
    root: Path | str, layout: str, *, manifest_folder: Path | str | None = None, **options: str
) -> dict[str, Any]:
    """Return the manifest values of a folder of rasters.

    Args:
        layout: Name of the layout, as listed by `list_layouts`.
        manifest_folder: Folder of the manifest, from which `root` is named. Default: `root`.
        options: Options of the layout, as text.

    Raises:
        UnknownNameError: No such layout.
        RasterReadError: No such folder.
        DataError: The folder does not have this layout.
    """
    if layout not in LAYOUTS:
        raise UnknownNameError(unknown_name("layout", layout, LAYOUTS))
    base = _folder(root)
    values = LAYOUTS[layout].describe(base, options)
    beside = base if manifest_folder is None else Path(manifest_folder).expanduser()
    way = os.path.relpath(base.resolve(), beside.resolve())
    return values if way == "." else {"root": Path(way).as_posix(), **values}


def _folder(root: Path | str) -> Path:
    base = Path(root).expanduser().absolute()
    if not base.is_dir():
        raise RasterReadError(f"there is no folder '{root}'")
    return base

"""Folder layouts → manifest values; nothing is copied."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terrafuse.errors import DataError, RasterReadError
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
from terrafuse.plugins import find, list_plugins

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
    """A row of `terrafuse layouts`.

    Args:
        name: Of the layout.
        description: Empty of a plug-in, which is not imported to be listed.
        source: "terrafuse", or the distribution that provides it.
    """

    name: str
    description: str
    source: str = "terrafuse"


def list_layouts() -> list[LayoutSummary]:
    """List every layout with its description."""
    own = [
        LayoutSummary(name, (entry.describe.__doc__ or "").splitlines()[0])
        for name, entry in LAYOUTS.items()
    ]
    return [*own, *(LayoutSummary(p.name, "", p.source) for p in list_plugins("layout"))]


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
        layout: Name of the layout, of an installed plug-in, or `module:function`.
        manifest_folder: Where the manifest will be, to name `root` from there. Default: `root`.
        options: Options of the layout, as text.

    Raises:
        UnknownNameError: No such layout.
        PluginError: It is from outside the package, and cannot be imported or is no layout.
        RasterReadError: No such folder.
        DataError: The folder does not have this layout.
    """
    own = {name: entry.describe for name, entry in LAYOUTS.items()}
    describe_as = find(
        "layout", layout, own, _is_layout, "a function of (root, options) that returns the values "
        "of a manifest",
    )  # fmt: skip
    base = _folder(root)
    values = describe_as(base, options)
    if not isinstance(values, dict):
        raise DataError(
            f"layout '{layout}' returned {type(values).__name__}; it has to return the values of "
            "a manifest as a dict, with paths relative to the folder"
        )
    beside = base if manifest_folder is None else Path(manifest_folder).expanduser()
    way = os.path.relpath(base.resolve(), beside.resolve())
    return values if way == "." else {"root": Path(way).as_posix(), **values}


def _is_layout(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def _folder(root: Path | str) -> Path:
    base = Path(root).expanduser().absolute()
    if not base.is_dir():
        raise RasterReadError(f"there is no folder '{root}'")
    return base

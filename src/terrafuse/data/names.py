"""Names of rasters and vectors as users write them: paths, URLs, and GDAL's names.

GDAL names what lies inside a file by more than its path: "NETCDF:a.nc:ndvi", `HDF5:"a.h5"://x`,
"SENTINEL2_L2A:MTD.xml:10m:EPSG_32632", "GTIFF_DIR:2:a.tif", "/vsizip/a.zip/b.tif". All of them are
taken wherever a path is, and a relative path within one is relative to what a path alone would be.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from terrafuse.config.paths import exists, expand_home
from terrafuse.data.on_disk import is_file
from terrafuse.data.stored import plain_path

_SCHEMES = {
    "https://": "/vsicurl/",
    "http://": "/vsicurl/",
    "s3://": "/vsis3/",
    "gs://": "/vsigs/",
    "az://": "/vsiaz/",
    "file://": "",
}
# Archives as rasterio and fiona write them: zip://archive!inner, zip+https://archive!inner.
_ARCHIVE = re.compile(r"^(zip|tar|gzip)(?:\+(\w+))?://(.*)$", re.IGNORECASE)
_WITHIN_ARCHIVE = re.compile(r"^(/vsi(?:zip|tar|gzip|7z|rar)/)(.*)$", re.DOTALL)
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar", ".kmz")
# One letter is a drive.
_PREFIX = re.compile(r"^([A-Za-z][A-Za-z0-9_]+:)(?!//)(.*)$", re.DOTALL)
_QUOTED = re.compile(r'^([^"]*")([^"]+)(".*)$', re.DOTALL)
# A layer after the file, as QGIS writes it.
_LAYER = re.compile(r"^(.*)\|layername=([^|]+)$", re.IGNORECASE | re.DOTALL)
_VRT = "vrt://"
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


class Name(NamedTuple):
    """A name around the path of a file on this disk.

    Args:
        before: What stands before the path ("NETCDF:").
        file: The path.
        after: What follows it (":ndvi").
    """

    before: str
    file: str
    after: str

    def __str__(self) -> str:
        return "".join(self)


def gdal_path(name: str) -> str:
    """`name` as GDAL writes it: URLs become /vsi paths; "GTIFF_RAW:" is left to `open_stored`."""
    name = plain_path(name)
    if "://" not in name:  # nearly all, of which there may be 10⁵
        return name
    found = _ARCHIVE.match(name)
    if found:
        kind, scheme, rest = found.groups()
        archive, _, inner = rest.partition("!")
        archive = gdal_path(f"{scheme}://{archive}") if scheme else archive
        return f"/vsi{kind.lower()}/{archive}" + (f"/{inner.lstrip('/')}" if inner else "")
    for scheme, prefix in _SCHEMES.items():
        if name.startswith(scheme):
            return prefix + (name if scheme.startswith("http") else name[len(scheme) :])
    return name


def is_remote(name: str) -> bool:
    """Tell whether `name` is of something that is not read from a file on this disk."""
    return _parse(gdal_path(name), Path()) is None


def local_file(name: str) -> Path | None:
    """The file on this disk that `name` is read from: itself, or what holds it; None if remote."""
    parts = _parse(gdal_path(name), Path())
    return None if parts is None else Path(parts.file)


def absolute_name(name: str, folder: Path) -> str:
    """`name` as GDAL writes it, with the path in it absolute.

    Args:
        name: As a user wrote it.
        folder: Where relative paths start.
    """
    spec = gdal_path(name)
    parts = _parse(spec, folder)
    if parts is None:
        return spec
    return str(parts._replace(file=str(folder / expand_home(parts.file))))


def moved_name(name: str, old: Path, new: Path) -> str:
    """`name` as it is to be written where relative paths start from `new` instead of `old`."""
    spec = gdal_path(name)
    parts = _parse(spec, old)
    if parts is None or expand_home(parts.file).is_absolute():
        return name if parts is None else plain_path(name)
    file = os.path.relpath((old / parts.file).absolute(), new.absolute())
    return str(parts._replace(file=Path(file).as_posix()))


def is_part(name: str) -> bool:
    """Tell whether `name` is more than the path of a file on this disk: a part of it, or a URL."""
    parts = _parse(gdal_path(name), Path())
    return parts is None or bool(parts.before or parts.after)


def with_option(name: str, option: str) -> str:
    """Return the name by which GDAL reads a raster with an option of vrt:// ("bands=1,2")."""
    given = ""
    if name.startswith(_VRT):
        name, _, given = name.removeprefix(_VRT).partition("?")
    key = option.partition("=")[0]
    kept = [own for own in given.split("&") if own and own.partition("=")[0] != key]
    return f"{_VRT}{name}?{'&'.join([*kept, option])}"


def split_layer(name: str) -> tuple[str, str | None]:
    """A file and the layer named with it: "a.gpkg|layername=fields" → ("a.gpkg", "fields")."""
    found = _LAYER.match(name)
    return (found[1], found[2]) if found else (name, None)


def _parse(spec: str, folder: Path) -> Name | None:
    """A GDAL name taken apart; None where it names no file on this disk."""
    if not ("/vsi" in spec or ":" in spec or "|" in spec):  # nearly all
        return Name("", spec, "")
    archive = _WITHIN_ARCHIVE.match(spec)
    if archive:
        return _parse_archive(archive[1], archive[2], folder)
    if spec.startswith(_VRT):
        path, mark, options = spec[len(_VRT) :].partition("?")
        return _around(_VRT, path, mark + options, folder)
    if spec.startswith("/vsi") or _URL.match(spec):
        return None
    path, layer = split_layer(spec)
    if layer is not None:
        return _around("", path, spec[len(path) :], folder)
    prefixed = _PREFIX.match(spec)
    if prefixed is None or _exists(spec, folder):
        return Name("", spec, "")
    before, rest = prefixed.groups()
    quoted = _QUOTED.match(rest)
    if quoted:
        return _around(before + quoted[1], quoted[2], quoted[3], folder)
    start, stop = _find_path(rest, folder)
    return _around(before + rest[:start], rest[start:stop], rest[stop:], folder)


def _around(before: str, inner: str, after: str, folder: Path) -> Name | None:
    """The name that lies within another."""
    found = _parse(gdal_path(inner), folder)
    return None if found is None else Name(before + found.before, found.file, found.after + after)


def _parse_archive(before: str, rest: str, folder: Path) -> Name | None:
    if rest.startswith("{"):
        path, _, inner = rest[1:].partition("}")
        return _around(before + "{", path, "}" + inner, folder)
    if rest.startswith(("/vsi", "vsi")):  # an archive in an archive, or on a server
        nested = "" if rest.startswith("/") else "/"
        found = _parse(nested + rest, folder)
        return (
            None if found is None else found._replace(before=before + found.before[len(nested) :])
        )
    ends = [*(m.start() for m in re.finditer("/", rest)), len(rest)]
    here = [end for end in ends if end and is_file(folder / expand_home(rest[:end]))]
    named = [end for end in ends if rest[:end].lower().endswith(_ARCHIVES)]
    end = (here or named or [len(rest)])[0]
    return Name(before, rest[:end], rest[end:])


def _find_path(rest: str, folder: Path) -> tuple[int, int]:
    """Find the path in "x:path:y": an existing one, else what looks like one."""
    starts = [0, *(m.end() for m in re.finditer(":", rest))]
    stops = [*(m.start() for m in re.finditer(":", rest)), len(rest)]
    for n, start in enumerate(starts):
        if rest[start:].startswith(("/vsi", *_SCHEMES)):
            return start, len(rest)
        for stop in reversed(stops[n:]):
            if stop > start and _exists(rest[start:stop], folder):
                return start, stop
    for start, stop in zip(starts, stops, strict=True):
        if "." in rest[start:stop] or "/" in rest[start:stop]:
            return start, stop
    return starts[0], stops[0]


def _exists(path: str, folder: Path) -> bool:
    return exists(folder / expand_home(path))

"""Results of reading a data set, kept beside its manifest and found again while nothing changed.

They lie in the hidden folder `.terrafuse/` beside the manifest, which may be removed at any time;
where that folder cannot be written, in the user's cache (`$XDG_CACHE_HOME/terrafuse`).

A result is found by a digest of all that it depends on: the manifest, the settings of what was
measured, the versions of the libraries, and of every file that is read, and of those beside it that
begin with its name, size, times of the last change of content and of state, device and inode. The
time of the last change of state cannot be set by programs, so that a file which is written again
with its old size and time is still told apart. As in git's index, nothing is kept of a data set of
which a file was changed within the last seconds: its next change might have the same time.

Not seen: changes below the file system, or while the clock was set back; and, where the system
gives no time of the last change of state (Windows), a rewrite in place with equal size and time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from terrafuse.data.manifest import Manifest
from terrafuse.data.names import local_file
from terrafuse.errors import TerrafuseError
from terrafuse.version import VERSION
from terrafuse.writing import written_whole

#: Hidden folder beside a manifest.
FOLDER = ".terrafuse"
# Part of every digest: a new number where the content of what is kept changes its meaning.
_FORMAT = 1
# Name of the plain values, with the arrays' names, among the arrays of a file.
_PLAIN = "plain"
# A file that changed so recently may change again within the resolution of file times.
_SETTLED_NS = 2_000_000_000
# Results kept of a manifest: the last ones used.
_MOST_KEPT, _MOST_BYTES = 48, 1 << 30
# Formats of which everything lies in the file and in those that begin with its name.
_WHOLE = frozenset(
    {
        *(".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".j2k", ".bmp", ".gif", ".webp"),
        *(".bil", ".bip", ".bsq", ".dat", ".bin", ".raw", ".asc", ".grb", ".grib"),
        *(".nc", ".nc4", ".h5", ".hdf5", ".hdf", ".he5", ".zip", ".tar", ".gz", ".tgz"),
        *(".gpkg", ".geojson", ".shp", ".fgb", ".parquet", ".geoparquet"),
    }
)
_LIST = ".vrt"
# Texts of a VRT that may name a file, with the attributes of their elements.
_NAMING = re.compile(
    r"<(?!SourceBand\b)\w*(?:Source|Dataset|Filename)\w*\b([^>]*)>([^<]*)", re.IGNORECASE
)
_BESIDE = re.compile(r"relativeToVRT\s*=\s*[\"']1", re.IGNORECASE)
# What makes names that are not found that way.
_UNCLEAR = ("<ProcessingSteps", "<![CDATA[", "<!ENTITY")
# Environment that changes what GDAL and PROJ read.
_SETTINGS = ("GDAL_", "OGR_", "PROJ_", "VRT_", "GTIFF_", "CPL_", "OSR_", "VSI_")
# Rooms whose code makes what is kept.
_ROOMS = ("data", "doctor", "sampling", "splits")

Values = Mapping[str, NDArray[Any]]


class _NotKeptError(Exception):
    """Why nothing can be kept of a data set."""


@dataclass
class Keeper:
    """Results kept of one data set, as it is now.

    Args:
        folder: Folder of the files; None: results live as long as this object.
        digest: State of the data set.
        notice: Why nothing is kept on disk, for the user; "" if it is.
        fresh: Whether results of earlier processes are ignored; new ones replace them.
    """

    folder: Path | None = None
    digest: str = ""
    notice: str = ""
    fresh: bool = False
    _own: dict[str, dict[str, Any]] = field(default_factory=dict)

    def load(self, kind: str, *settings: object) -> dict[str, Any] | None:
        """Return what was kept under these settings: values and arrays by name; None: nothing.

        A damaged file is as good as none.
        """
        name = self._name(kind, settings)
        if name in self._own or self.folder is None or self.fresh:
            return self._own.get(name)
        path = self.folder / name
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                found = {key: stored[key] for key in stored.files}
            values, names = json.loads(found.pop(_PLAIN).tobytes().decode())
            os.utime(path)  # the last ones used stay
        except Exception:  # one error or another for each kind of damage
            return None
        if sorted(found) != names:
            return None
        self._own[name] = values | found
        return self._own[name]

    def save(
        self, kind: str, *settings: object, values: Mapping[str, Any], arrays: Values | None = None
    ) -> None:
        """Keep plain values (of JSON) and arrays by name; warn once where they cannot be."""
        name, arrays = self._name(kind, settings), arrays or {}
        self._own[name] = {**values, **arrays}
        if self.folder is None:
            return
        plain = json.dumps([dict(values), sorted(arrays)])
        text = np.frombuffer(plain.encode(), np.uint8)
        every = {_PLAIN: text, **arrays}
        try:
            with written_whole(self.folder / name) as (partial,), partial.open("wb") as file:
                np.savez(file, **every)  # type: ignore[arg-type]  # its stub takes names for flags
            _thin_out(self.folder)
        except OSError as error:
            self.folder = None
            warnings.warn(f"what was read of the data cannot be kept: {error}", stacklevel=2)

    def _name(self, kind: str, settings: tuple[object, ...]) -> str:
        return f"{kind}-{_hash((self.digest, kind, settings))}.npz"


def open_keeper(manifest: Manifest, *, fresh: bool = False) -> Keeper:
    """Look at every file of a data set, without opening any, and return what is kept of it.

    Args:
        manifest: With the modalities and rules that are used.
        fresh: Whether results of earlier processes are ignored; new ones replace them.
    """
    if os.environ.get("TERRAFUSE_KEEP", "").lower() in ("0", "no", "off"):
        return Keeper()
    started = time.time_ns()
    try:
        states = _States()
        for path in _files_of(manifest):
            states.add(path)
    except (_NotKeptError, OSError, TerrafuseError) as error:
        # A missing file is told by whoever opens it.
        told = isinstance(error, _NotKeptError)
        return Keeper(notice=f"what is read of the data is not kept: {error}" if told else "")
    if states.newest > started - _SETTLED_NS:
        return Keeper()  # they have just been written
    about = (_FORMAT, _environment(), _description(manifest), sorted(states.found.items()))
    folder = _writable_folder(manifest.path)
    notice = ""
    if folder is None:
        notice = (
            f"what is read of the data is not kept: neither '{manifest.path.parent}' nor the "
            "user's cache can be written. Make one of them writable, or name another cache with "
            "XDG_CACHE_HOME"
        )
    return Keeper(folder, _hash(about), notice, fresh)


def forget(manifest: Path) -> None:
    """Drop all that earlier processes have kept beside a manifest."""
    folder = _writable_folder(manifest)
    for path in folder.glob("*.npz") if folder else ():
        path.unlink(missing_ok=True)


def _hash(value: object) -> str:
    return hashlib.sha256(repr(value).encode(errors="surrogateescape")).hexdigest()[:32]


def _description(manifest: Manifest) -> tuple[object, ...]:
    """All of a manifest that reading depends on."""
    # The classes' own equality leaves `unknown` out; their plain values have it.
    scheme = json.dumps(manifest.scheme.to_dict(), sort_keys=True), manifest.scheme.unknown
    return (
        str(manifest.path),
        str(manifest.folder.absolute()),
        scheme,
        manifest.modalities,
        manifest.known,
        manifest.rules,
        manifest.label_rules,
        manifest.grid,
        manifest.entries,
        manifest.painted and manifest.painted.digest,
    )


def _files_of(manifest: Manifest) -> Iterator[str]:
    for entry in manifest.entries:
        yield from manifest.files_named(entry)
    area = manifest.area_file
    if area is not None:
        yield area


class _States:
    """States of files and of those beside them.

    Args:
        found: Path → device, inode, size and times.
        newest: Last time at which one was changed, in ns.
    """

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, ...]] = {}
        self.newest = 0
        self._beside: dict[str, dict[str, list[str]]] = {}

    def add(self, name: str) -> None:
        """Add a raster or vector as users name it, with all that it is read from.

        Raises:
            _NotKeptError: It cannot be told whether that has changed.
            OSError: It is missing.
        """
        file = local_file(name)
        if file is None:
            raise _NotKeptError(f"'{name}' is not read from this disk")
        if _LIST in name.lower() and file.suffix.lower() != _LIST:
            raise _NotKeptError(f"'{name}' names further files, within an archive")
        self._add_file(str(file))

    def _add_file(self, path: str) -> None:
        if path in self.found:
            return
        folder, name = os.path.split(path)
        stem, suffix = os.path.splitext(name)  # noqa: PTH122  (10⁵ of them)
        suffix = suffix.lower()
        if suffix != _LIST and suffix not in _WHOLE:
            raise _NotKeptError(
                f"whether '{path}' has changed cannot be told for files of its kind"
            )
        self._look(path)
        if suffix == _LIST:
            self._add_named(path)
        if folder not in self._beside:
            self._beside[folder] = _by_beginning(folder)
        for other in self._beside[folder].get(stem, ()):
            self._look(os.path.join(folder, other))  # noqa: PTH118  (10⁵ of them)

    def _look(self, path: str) -> None:
        if path in self.found:
            return
        about = os.stat(path)  # noqa: PTH116  (10⁵ of them)
        if not stat.S_ISREG(about.st_mode):
            raise _NotKeptError(f"'{path}' is no plain file")
        changed = about.st_mtime_ns, about.st_ctime_ns
        self.found[path] = (about.st_dev, about.st_ino, about.st_size, *changed)
        self.newest = max(self.newest, *changed)

    def _add_named(self, path: str) -> None:
        """Add the files that a VRT names."""
        text = Path(path).read_text(encoding="utf-8", errors="replace")
        if any(mark in text for mark in _UNCLEAR):
            raise _NotKeptError(f"what '{path}' is made from cannot be told for certain")
        for attributes, found in _NAMING.findall(text):
            name = unescape(found).strip()
            if not name:
                continue
            file = local_file(name)
            if file is None:
                raise _NotKeptError(f"'{path}' names '{name}', which is not read from this disk")
            folder = Path(path).absolute().parent if _BESIDE.search(attributes) else Path.cwd()
            self._add_file(str(folder / file))


def _by_beginning(folder: str) -> dict[str, list[str]]:
    """Files in a folder by each beginning of their names that ends before a dot."""
    beside: dict[str, list[str]] = {}
    with os.scandir(folder or ".") as items:
        names = [item.name for item in items if not item.is_dir()]
    for name in names:
        end = name.find(".", 1)
        while end > 0:
            beside.setdefault(name[:end], []).append(name)
            end = name.find(".", end + 1)
    return beside


@cache
def _environment() -> tuple[object, ...]:
    """Versions and settings that reading depends on, this package's own code among them."""
    gdal = rasterio.__version__, rasterio.__gdal_version__
    versions = VERSION, sys.version, np.__version__, *gdal
    settings = sorted((k, v) for k, v in os.environ.items() if k.startswith(_SETTINGS))
    package = Path(__file__).parent.parent
    sources = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for room in (".", *_ROOMS)
        for path in sorted((package / room).glob("*.py"))
    ]
    return versions, settings, sources


def _writable_folder(manifest: Path) -> Path | None:
    """The folder beside a manifest, or else in the user's cache; None: neither can be written."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cached = Path(home) / "terrafuse" / _hash(str(manifest))
    for folder in (manifest.parent / FOLDER, cached):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                continue
            ignored = folder / ".gitignore"
            if not ignored.exists():
                ignored.write_text("*\n", encoding="utf-8")
        except OSError:
            continue
        return folder
    return None


def _thin_out(folder: Path) -> None:
    """Remove what was not used for the longest time."""
    about = []
    for path in folder.glob("*.npz"):
        try:
            status = path.stat()
        except OSError:  # another process removed it
            continue
        about.append((status.st_mtime_ns, status.st_size, path))
    size = 0
    for number, (_, own, path) in enumerate(sorted(about, reverse=True)):
        size += own
        if number and (number >= _MOST_KEPT or size > _MOST_BYTES):
            path.unlink(missing_ok=True)

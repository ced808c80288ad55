"""Samples as a TIFF stores them, where GDAL would convert them to colours.

GDAL converts a TIFF whose samples are tagged CMYK, CIELab or YCbCr to RGB. Imagery often carries
such a tag only because it has four bands, or through a mistake of the writing software; its values
would be lost. Such files are opened with GDAL's prefix "GTIFF_RAW:", which returns what they store.
Their overviews are skipped: GDAL makes them from the computed colours, and does not read them as
stored samples. YCbCr within JPEG is part of the compression and is still read as RGB.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET
from xml.sax.saxutils import unescape

import rasterio
from rasterio.errors import RasterioError, RasterioIOError

from terrafuse.data.on_disk import is_stream, obstacle, shown

RAW_PREFIX = "GTIFF_RAW:"
#: GDAL's open option for files with the prefix.
RAW_OPTIONS = {"OVERVIEW_LEVEL": "NONE"}

# Metadata domain of the documents that replace VRT files.
_DOMAIN = "terrafuse"
# Given by the first band, except for CIELab, for which GDAL has no name.
_MODELS = {"cyan": "CMYK", "Y": "YCbCr"}
_Stamp = tuple[int, int] | None
# Files that a VRT names, and how much of it is searched for them.
_NAMED = re.compile(rb"<Source(?:Filename|Dataset)\b[^>]*>([^<]+)<")
_MOST_SEARCHED = 1 << 20
# The VRT files on the way to the one that is looked at.
_followed: ContextVar[frozenset[str]] = ContextVar("followed", default=frozenset())
_DEEPEST = 20
# GDAL's names of parts of files ("NETCDF:a.nc:v").
_PREFIX = re.compile(r"^[A-Za-z][A-Za-z0-9_]+:")


class _EndlessError(RasterioIOError):
    """VRT files name one another without end."""


def plain_path(path: str) -> str:
    """Strip "GTIFF_RAW:" from `path`; stored samples are read wherever it makes a difference."""
    return path[len(RAW_PREFIX) :] if path.upper().startswith(RAW_PREFIX) else path


def open_stored(spec: str) -> Any:
    """Open a rasterio dataset of the stored samples.

    Its `name` is what GDAL opens: `spec`, `spec` with the prefix, or a VRT document in which the
    files of a VRT have the prefix.

    Args:
        spec: Path, GDAL path or VRT document.

    Raises:
        RasterioError: The file cannot be opened.
    """
    spec = plain_path(spec)
    _check_named(spec)
    dataset = rasterio.open(spec)
    if dataset.driver == "VRT":
        return dataset if spec.startswith("<") else _open_vrt(spec, dataset)
    model = color_model(dataset)
    if not model or dataset.driver != "GTiff":
        return dataset
    try:
        raw = rasterio.open(RAW_PREFIX + spec, **RAW_OPTIONS)
    except RasterioIOError:
        if model != "YCbCr":
            raise
        return dataset  # several pixels share one Cb and Cr: there is no sample per pixel
    dataset.close()
    return raw


def color_model(dataset: Any) -> str:
    """Return the colour model that GDAL would convert to RGB: "CMYK", "YCbCr" or "CIELab".

    Args:
        dataset: Dataset opened by `open_stored`.

    Returns:
        "" for all other files.
    """
    if dataset.name.startswith(RAW_PREFIX):
        return _MODELS.get(dataset.colorinterp[0].name, "CIELab")
    if dataset.driver == "VRT":
        return str(dataset.tags(ns=_DOMAIN).get("COLOR_MODEL", ""))
    if dataset.driver not in ("GTiff", "JPEG"):
        return ""
    tags = dataset.tags(ns="IMAGE_STRUCTURE")
    model = tags.get("SOURCE_COLOR_SPACE", "")
    compressed = dataset.driver == "JPEG" or "JPEG" in tags.get("COMPRESSION", "")
    if model == "YCbCr" and compressed:
        return ""
    return "CIELab" if model == "CIELAB" else str(model)


class _Stored(NamedTuple):
    """Replacement of a file within a VRT; without a model, the file itself."""

    spec: str
    model: str = ""
    bands: int = 0


def _open_vrt(spec: str, dataset: Any) -> Any:
    """Open the VRT itself, or a document with the stored samples of its files."""
    try:
        root = ET.fromstring(dataset.tags(ns="xml:VRT")["xml:VRT"])  # noqa: S314  (GDAL wrote it)
    except (ET.ParseError, KeyError) as error:
        raise RasterioIOError(f"its XML cannot be read: {error}") from None
    with _followed_by(spec):
        models = sorted(set(_replace_sources(root, spec)))
    if not models:
        return dataset
    for band in root.iter("ColorInterp"):  # "Alpha" was the fourth of the computed colours
        band.text = "Undefined"
    about = ET.Element("Metadata", domain=_DOMAIN)
    # With its path, so that the handle pool finds what reads it.
    for key, value in (("COLOR_MODEL", ", ".join(models)), ("PATH", spec)):
        ET.SubElement(about, "MDI", key=key).text = value
    root.insert(0, about)
    dataset.close()
    return rasterio.open(ET.tostring(root, encoding="unicode"))


def _replace_sources(root: ET.Element, spec: str) -> Iterator[str]:
    """Replace the files that a VRT names by their stored samples; yield the colour models met.

    Of remote files only the first is inspected: each costs a request, and all are of one kind.
    """
    far: _Stored | None = None
    for parent in list(root.iter()):
        for element in [*parent.findall("SourceFilename"), *parent.findall("SourceDataset")]:
            text = element.text or ""
            if text.startswith("<"):
                continue
            path = plain_path(text)
            if element.get("relativeToVRT") == "1":
                path = _beside(spec, path)
                element.set("relativeToVRT", "0")
            if path.startswith("/vsi"):
                far = far or _find_stored(path, None)
                found = far._replace(spec=RAW_PREFIX + path) if far.model else _Stored(path)
            else:
                found = _find_stored(path, _stamp(path))
            element.text = found.spec
            if found.model:
                _check_band(parent, path, found)
                _add_options(parent, element, found.spec)
                yield found.model


def _beside(spec: str, path: str) -> str:
    if spec.startswith("/vsi"):
        return posixpath.join(posixpath.dirname(spec), path)
    return str(Path(spec).absolute().parent / path)


def _stamp(path: str) -> _Stamp:
    try:
        about = Path(path).stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size


@lru_cache(maxsize=1 << 14)
def _find_stored(path: str, stamp: _Stamp) -> _Stored:
    """Find the replacement of a file; `stamp` distinguishes a rewritten file of the same name.

    A file on this disk that is missing, or names itself, is an error here: GDAL tells it at the
    first read only, and reads it as 0 from then on.

    Raises:
        RasterioError: It cannot be opened.
    """
    if path.startswith("/vsi"):
        try:
            return _describe_stored(path)
        except (RasterioError, OSError):
            return _Stored(path)  # reading it will raise
    if stamp is None:
        if _PREFIX.match(path):
            return _Stored(path)
        raise RasterioIOError(f"it names '{shown(path)}', which is not there")
    return _describe_stored(path)


def _describe_stored(path: str) -> _Stored:
    try:
        with open_stored(path) as dataset:
            model = "" if dataset.name == path else color_model(dataset)
            return _Stored(dataset.name, model, dataset.count)
    except _EndlessError:
        raise
    except RasterioIOError as error:
        raise RasterioIOError(f"it names '{shown(path)}': {error}") from error


@contextmanager
def _followed_by(spec: str) -> Iterator[None]:
    """Note that the files which a VRT names are followed.

    Raises:
        RasterioIOError: It is one of them, or too many lie between it and the first.
    """
    path, before = str(Path(spec).resolve()), _followed.get()
    if path in before:
        raise _EndlessError(f"it names '{shown(path)}', which names itself")
    if len(before) >= _DEEPEST:
        raise _EndlessError(f"it names files that name files, more than {_DEEPEST} deep")
    token = _followed.set(before | {path})
    try:
        yield
    finally:
        _followed.reset(token)


def _check_named(spec: str) -> None:
    """Refuse a VRT on this disk that names a pipe or a device: GDAL would wait for it.

    Raises:
        RasterioIOError: It names one.
    """
    if spec.startswith(("<", "/vsi")) or not spec.lower().endswith(".vrt") or obstacle(spec):
        return
    try:
        with Path(spec).open("rb") as file:
            start = file.read(_MOST_SEARCHED)
    except OSError:  # a folder
        return
    for name in set(_NAMED.findall(start)):
        path = Path(spec).absolute().parent / unescape(name.decode(errors="replace")).strip()
        if is_stream(path):
            raise RasterioIOError(f"it names '{path}'; {obstacle(path)}")


def _check_band(parent: ET.Element, path: str, found: _Stored) -> None:
    band = parent.findtext("SourceBand", "1")
    if band.isdigit() and int(band) > found.bands:
        raise RasterioIOError(
            f"it takes band {band} of '{path}', which stores {found.bands} ({found.model}); the "
            "others are colours that GDAL computes. Name the file itself instead of the VRT"
        )


def _add_options(parent: ET.Element, element: ET.Element, spec: str) -> None:
    if spec.startswith(RAW_PREFIX):
        parent.insert(list(parent).index(element) + 1, raw_options())


def raw_options() -> ET.Element:
    """Build the open options of a VRT source that has the prefix."""
    options = ET.Element("OpenOptions")
    for key, value in RAW_OPTIONS.items():
        ET.SubElement(options, "OOI", key=key).text = value
    return options

"""Files that do not open or cannot be read to their end, and what they are instead."""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rasterio.windows import Window as RasterWindow

from terrafuse.data.handles import pool
from terrafuse.data.manifest import Manifest
from terrafuse.data.names import gdal_path, is_part, is_remote, local_file
from terrafuse.data.on_disk import obstacle
from terrafuse.data.rasters import ReadingRules
from terrafuse.data.scene import Scene
from terrafuse.data.schema import SceneEntry
from terrafuse.doctor.findings import Finding, Severity
from terrafuse.errors import (
    BandError,
    GridMismatchError,
    LabelError,
    MissingModalityError,
    RasterReadError,
    TerrafuseError,
)

_CODES: dict[type[TerrafuseError], str] = {
    RasterReadError: "unreadable",
    GridMismatchError: "grid",
    BandError: "bands",
    MissingModalityError: "modality",
    LabelError: "labels",
}

# Training reads windows of this side; decoding more than so many times their pixels
# makes reading the slowest part.
_WINDOW = 512
_MOST_DECODED = 12

_ALPHA_REMEDY = "To read it too (near infrared, say), add its name to 'bands' of the modality"
_LFS = b"version https://git-lfs"
_MARKUP = (b"<!doctype html", b"<html", b"<?xml", b"<head")
_LOSSY = (".jpg", ".jpeg")
# GDAL's warnings: what stands before the text, and words of those that tell of damage.
_CPL = re.compile(r"^CPLE_\w+(?:: ?| in )")
_DAMAGE = re.compile(r"corrupt|premature|damaged|truncated|bogus|invalid|cannot|failed", re.I)
_LONGEST_WARNING, _MOST_WARNINGS = 300, 5


def from_error(error: TerrafuseError, id: str) -> Finding:
    """Convert an error raised by the check to a finding."""
    code = next((c for kind, c in _CODES.items() if isinstance(error, kind)), "data")
    message = str(error)
    if id not in message:
        message = f"scene '{id}': {message}"
    return Finding("error", code, message, id)


class _Warnings(logging.Handler):
    """The warnings that GDAL gives in this thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.thread = threading.get_ident()
        self.texts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            text = " ".join(_CPL.sub("", record.getMessage()).split())
            self.texts[text[:_LONGEST_WARNING]] += 1


@contextmanager
def gdal_warnings() -> Iterator[Counter[str]]:
    """Collect what GDAL warns of in this thread; it does not reach the terminal."""
    handler, logger = _Warnings(), logging.getLogger("rasterio")
    logger.addHandler(handler)
    try:
        yield handler.texts
    finally:
        logger.removeHandler(handler)


def from_gdal(said: Counter[str], id: str) -> Iterator[Finding]:
    """Convert warnings of GDAL to a finding each, the first few of them."""
    for text in list(said)[:_MOST_WARNINGS]:
        times = f" ({said[text]} times)" if said[text] > 1 else ""
        severity: Severity = "warning" if _DAMAGE.search(text) else "note"
        message = f"scene '{id}': GDAL warns on reading its files: {text}{times}"
        remedy = "If pixels are damaged, copy or download the file again"
        yield Finding(severity, "gdal", message, id, remedy=remedy if severity == "warning" else "")
    if len(said) > _MOST_WARNINGS:
        more = len(said) - _MOST_WARNINGS
        yield Finding("note", "gdal", f"scene '{id}': GDAL gives {more} more warnings", id)


def explain_unreadable(manifest: Manifest, entry: SceneEntry) -> Iterator[Finding]:
    """Find files of a scene that are not rasters at all, by their first bytes."""
    try:
        files = manifest.local_files(entry)
    except TerrafuseError:
        return
    for name, paths in files.items():
        for path in paths:
            found = _what_it_is(path)
            if found is not None:
                what, remedy = found
                message = f"'{path}' (modality '{name}' of scene '{entry.id}') {what}"
                if name.startswith("labels"):
                    message = f"'{path}' ({name} of scene '{entry.id}') {what}"
                yield Finding("error", "unreadable", message, entry.id, path, remedy, name)


def _what_it_is(path: Path) -> tuple[str, str] | None:
    if obstacle(path):
        return None  # opening it tells
    try:
        with path.open("rb") as file:
            start = file.read(256)
    except OSError:  # a folder
        return None
    if not start:
        return "is empty (0 bytes)", "The copy or download was interrupted; fetch it again"
    if start.startswith(_LFS):
        return "is a Git LFS pointer, not the raster", "Run 'git lfs pull' where it came from"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_MARKUP) and path.suffix.lower() not in (".vrt", ".xml", ".svg"):
        remedy = "The server sent a page (a login or an error); sign in and download it again"
        return "is a web page saved under the name of a raster", remedy
    return None


def check_ends(scene: Scene) -> Iterator[Finding]:
    """Read the first and the last block of every raster: a truncated file fails at the last."""
    # Labels may be vectors, and are read whole in any case.
    for name, files in scene.files.items():
        for file in files:
            if is_remote(file.path):
                continue  # reading the scene will tell
            try:
                with pool.borrow(gdal_path(file.path)) as dataset:
                    _decode_ends(dataset)
            except RasterReadError as error:
                message = f"'{file.path}' (modality '{name}' of scene '{scene.id}'): {error}"
                remedy = "The file is damaged or cut off; copy or download it again"
                path = local_file(file.path)
                yield Finding("error", "unreadable", message, scene.id, path, remedy, name)


def _decode_ends(dataset: Any) -> None:
    rows, cols = dataset.block_shapes[0]
    last = ((dataset.height - 1) // rows * rows, (dataset.width - 1) // cols * cols)
    for row, col in {(0, 0), last}:
        height, width = min(rows, dataset.height - row), min(cols, dataset.width - col)
        for band in dataset.indexes:  # one by one: dtypes may differ
            dataset.read(band, window=RasterWindow(col, row, width, height))


def check_stored(scene: Scene, rules: Mapping[str, ReadingRules]) -> Iterator[Finding]:
    """Find files whose bands differ from their tags: stored colours, and alpha that is data.

    Args:
        rules: Reading rules per modality.
    """
    for modality in scene.modalities:
        files = scene.files.get(modality.name, ())
        unread = sum(file.count for file in files) > len(modality.bands)
        asked = rules[modality.name].read_bands is not None
        for file in files:
            path = local_file(file.path)
            about = f"modality '{modality.name}' of scene '{scene.id}': "
            color, alpha = file.notices.get("color-model"), file.notices.get("alpha")
            names = file.notices.get("band-names")
            if color:
                message = about + color
                yield Finding("note", "color-model", message, scene.id, path, "", modality.name)
            if names:
                message = about + names
                yield Finding("note", "band-names", message, scene.id, path, "", modality.name)
            if alpha:
                message = about + alpha
                remedy = _ALPHA_REMEDY if unread and not asked else ""
                yield Finding("note", "alpha", message, scene.id, path, remedy, modality.name)


def check_storage(scene: Scene) -> Iterator[Finding]:
    """Find storage that makes reading slow, or labels inexact."""
    paths = scene.paths()
    for name, files in scene.files.items():
        for file in files:
            if not is_part(file.path):
                yield from _check_blocks(scene.id, name, Path(file.path))
    for name in ("labels", "labels_eroded"):
        for path in paths.get(name, ()):
            if path.suffix.lower() in _LOSSY:
                message = f"{name} of scene '{scene.id}' are a JPEG ('{path}'), which alters values"
                remedy = "Use the original labels (PNG or TIFF)"
                yield Finding("warning", "lossy-labels", message, scene.id, path, remedy, "labels")


def _check_blocks(id: str, name: str, path: Path) -> Iterator[Finding]:
    with pool.borrow(str(path)) as dataset:
        rows, cols = dataset.block_shapes[0]
        shape = dataset.shape
    wanted = min(_WINDOW, shape[0]) * min(_WINDOW, shape[1])
    decoded = 1
    for block, size in ((rows, shape[0]), (cols, shape[1])):
        touched = min(-(-min(_WINDOW, size) // block) + 1, -(-size // block))
        decoded *= min(touched * block, size)
    if decoded > _MOST_DECODED * wanted:
        message = (
            f"'{path}' (modality '{name}') is stored in blocks of {rows} × {cols} pixels: for a "
            f"window of {_WINDOW} pixels {decoded / wanted:.0f} times as much is decoded"
        )
        options = ("TILED=YES", "BLOCKXSIZE=256", "BLOCKYSIZE=256", "COMPRESS=DEFLATE")
        command = " ".join(["rio convert", *(f"--co {option}" for option in options), "FILE COPY"])
        remedy = f"{command} makes one that reads faster"
        yield Finding("note", "slow-blocks", message, id, path, remedy, name)

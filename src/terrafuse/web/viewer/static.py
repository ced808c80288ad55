"""The page as a folder: for any static server, or to be opened from disk.

Pages that are opened from disk may not fetch files. So every document and raster is there a second
time as a classic script, which hands it to the page:
`terrafuseData("v/a/view.json", {…})`, `terrafuseData("v/a/rasters/b.tif", "base64 …")`.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from terrafuse.errors import DataError, OutputError, TerrafuseError, write_failure
from terrafuse.locking import file_lock
from terrafuse.progress import Progress
from terrafuse.stopping import deferred
from terrafuse.web.built_page import page_files
from terrafuse.web.viewer.document import FORMAT
from terrafuse.web.viewer.preparing import Preparer
from terrafuse.web.viewer.shown import Shown
from terrafuse.writing import is_trace, partial_folder, write_json

#: Rasters of more bytes have no script: pages opened from disk cannot show them.
MOST_EMBEDDED = 64 << 20
#: File that lists the files of such a folder, by which it is known.
CONTENT = "terrafuse-page.json"
_FUNCTION = "terrafuseData"
# Whole groups of three bytes, so that the texts of pieces follow one another.
_PIECE = 3 << 20
_NO_PAGE = (
    "<!doctype html><meta charset=utf-8><title>terrafuse</title><p>The page is not part of the "
    "installation that wrote this folder; its documents and rasters are here."
)


def write_page(
    preparer: Preparer,
    out: str | Path,
    *,
    progress: Progress | None = None,
    most_embedded: int = MOST_EMBEDDED,
) -> list[str]:
    """Write a page into a folder, which shows itself by relative addresses alone.

    Args:
        preparer: Of its scenes.
        out: The folder; created, or one that was written this way, which is replaced.
        progress: Called with (scenes done, scenes in all).
        most_embedded: Bytes of rasters that pages opened from disk show, at most.

    Returns:
        What pages opened from disk cannot show, and scenes that are left out.

    Raises:
        OutputError: The folder holds something else, or cannot be written.
        DataError: No scene can be shown.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 - links are refused, not followed
    notes: list[str] = []
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(out, "view"), partial_folder(out.parent, out.name) as partial:
            _check_own(out)
            folder = partial / "page"
            _copy_page(folder)
            subjects = preparer.collection.subjects
            written: set[str] = set()
            for n, (id, subject) in enumerate(subjects.items()):
                try:
                    shown = preparer.shown(id)
                except DataError as error:
                    if n + 1 == len(subjects) and not written:
                        raise
                    notes.append(f"{subject.title} is left out: {error}")
                else:
                    written.add(id)
                    notes += _write_scene(folder, f"v/{id}", shown, most_embedded)
                if progress:
                    progress(n + 1, len(subjects))
            index = preparer.index(is_static=True)
            views = tuple(entry for entry in index.views if entry.id in written)
            index = index.model_copy(update={"views": views})
            _write_document(folder, "index.json", index.model_dump(mode="json"))
            names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
            write_json(folder / CONTENT, {"format": FORMAT, "files": sorted(names)})
            _put(folder, out, partial / "old")
    except TerrafuseError:  # some are also OSErrors
        raise
    except OSError as error:
        raise OutputError(
            f"'{out}' cannot be written: {write_failure(error, out.parent)}"
        ) from error
    return notes


def _check_own(out: Path) -> None:
    """Refuse to replace what is no folder of a page.

    Raises:
        OutputError: Names what is in the way.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise OutputError(f"'{out}' is no folder. Choose another name for --static")
    listed = _listed(out)
    for path in sorted(out.rglob("*")) if out.exists() else ():
        name = path.relative_to(out).as_posix()
        if not path.is_dir() and name not in listed and not is_trace(path):
            raise OutputError(
                f"'{out}' holds '{name}', which is no part of a page, and is not replaced. Choose "
                "another folder for --static"
            )


def _listed(out: Path) -> frozenset[str]:
    """Names of the files of a page that lies in a folder; none of anything else."""
    try:
        values = json.loads((out / CONTENT).read_text(encoding="utf-8"))
        return frozenset((CONTENT, *map(str, values["files"])))
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def _put(folder: Path, out: Path, old: Path) -> None:
    """Put a finished folder into its place."""
    with deferred():
        if out.exists():
            out.rename(old)
        folder.rename(out)


def _copy_page(folder: Path) -> None:
    files = page_files("index.html")
    for name, file in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    if "index.html" not in files:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.html").write_text(_NO_PAGE, encoding="utf-8")


def _write_scene(folder: Path, place: str, shown: Shown, most: int) -> list[str]:
    """Write a scene's document, rasters and thumbnails; return what is too big to be embedded."""
    notes, layers = [], []
    for layer in shown.view.layers:
        name = f"{place}/{layer.href}"
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shown.rasters[layer.id], target)
        size = target.stat().st_size
        is_embedded = size <= most
        if is_embedded:
            _embed(folder, name)
        else:
            notes.append(
                f"{layer.title} ({size / 1e6:,.0f} MB) cannot be shown by a page opened from "
                "disk. Run: python -m http.server"
            )
        embedded = f"{layer.href}.js" if is_embedded else None
        layers.append(layer.model_copy(update={"embedded": embedded}))
    for address in shown.thumbnails:
        target = folder / place / address
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(shown.thumbnail(address) or b"")
    view = shown.view.model_copy(
        update={
            "layers": tuple(layers),
            "why": None,
            "pixel": None,
            "labelling": None,
            "sampling": None,
            "notes": (*shown.view.notes, *notes),
        }
    )
    _write_document(folder, f"{place}/view.json", view.model_dump(mode="json"))
    return [f"{shown.view.title}: {note}" for note in notes]


def _write_document(folder: Path, name: str, values: Mapping[str, Any]) -> None:
    """Write a document, and the same as a script."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    script = target.with_suffix(".js")
    script.write_text(f"{_FUNCTION}({json.dumps(name)}, {text});\n", encoding="utf-8")


def _embed(folder: Path, name: str) -> None:
    """Write a raster as a script."""
    target = folder / name
    script = target.with_name(f"{target.name}.js")
    with target.open("rb") as raster, script.open("w", encoding="ascii") as out:
        out.write(f'{_FUNCTION}({json.dumps(name)}, "')
        while piece := raster.read(_PIECE):
            out.write(base64.b64encode(piece).decode("ascii"))
        out.write('");\n')

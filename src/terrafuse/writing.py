"""Atomic writing: files appear whole or not at all, and those of one product together.

Files are written into a hidden folder beside their place, whose name tells the process
(`.model.json.HOST+….partial`), and moved out at the end. Several files are first listed in a
journal (`.HOST+….journal`): if the process is killed between two moves, whoever reads or writes
there next completes them.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from terrafuse.errors import OutputError, TerrafuseError, write_failure
from terrafuse.locking import file_lock, folder_lock, is_left_behind, is_lock, is_mark, mark
from terrafuse.stopping import deferred

_JOURNAL = ".journal"
#: Files that GDAL writes beside a raster, for what its format cannot hold.
SIDE_CAR = ".aux.xml"
#: Ends of names of files that may be removed for others.
_REMOVABLE = (SIDE_CAR, ".tif", ".vrt", ".vrt.ovr")
#: Folders in which this process has looked for what others left.
_cleared: set[Path] = set()


@contextmanager
def written_whole(*paths: Path) -> Iterator[list[Path]]:
    """Yield temporary names to write under; the files get their own once all are written.

    They have the names of the files in a folder of their own. Several files belong together: they
    are all replaced, or none of them, even if the process is killed in between.

    Args:
        paths: Files in one folder, which is created if needed. Earlier content stays until then,
            and for good if writing fails. A raster's side-car file goes with it.

    Raises:
        OutputError: The folder cannot be written, the disk is full, or a path is a link, a folder
            or a device.
    """
    for path in paths:
        refuse_special(path)
    try:
        with partial_folder(paths[0].parent, paths[0].name) as folder:
            partials = [folder / path.name for path in paths]
            yield partials
            replace_together(dict(zip(partials, paths, strict=True)))
    except TerrafuseError:
        raise
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise OutputError(
            f"'{paths[0]}' cannot be written: {write_failure(error, paths[0].parent)}"
        ) from error


@contextmanager
def partial_folder(folder: Path, name: str) -> Iterator[Path]:
    """Create a hidden folder in another one, for files that are not whole yet.

    It does not outlive the block, nor its process: the next one that writes there removes it.

    Args:
        folder: Created if needed.
        name: Name that the hidden one contains.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _clear_once(folder)
    partial = folder / mark(name)
    try:
        partial.mkdir()
        yield partial
    except BaseException:
        if not _is_awaited(partial):
            shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(partial, ignore_errors=True)


def _is_awaited(partial: Path) -> bool:
    """Tell whether files in it are to replace others, which has failed so far."""
    return any(
        partial.name in journal.read_text(encoding="utf-8") for journal in _journals(partial.parent)
    )


def replace_together(moves: Mapping[Path, Path], stale: Iterable[Path] = ()) -> None:
    """Move files to their places, all of them or none.

    They get the mode that the umask gives to new files, whatever wrote them.

    Args:
        moves: File in a `partial_folder` of the target's folder → target, there or in a folder in
            it; likewise the file itself may be in a folder of the partial one.
        stale: Rasters there that go with it, as they belong to what is replaced.

    Raises:
        OSError: A file is missing, or cannot be moved.
    """
    folder = min((path.parent for path in moves.values()), key=lambda path: len(path.parts))
    removed = [path.relative_to(folder).as_posix() for path in stale]
    for partial, path in list(moves.items()):
        side_car = partial.with_name(partial.name + SIDE_CAR)
        if side_car.exists():
            moves = {**moves, side_car: path.with_name(path.name + SIDE_CAR)}
        elif (beside := path.with_name(path.name + SIDE_CAR)).exists():
            removed.append(beside.relative_to(folder).as_posix())
    for partial in moves:
        # The hidden folder has the umask's mode; some libraries write files for their owner only.
        if not partial.is_dir():
            partial.chmod(stat.S_IMODE(partial.parent.stat().st_mode) & 0o666)
    if len(moves) == 1 and not removed:
        ((partial, path),) = moves.items()
        partial.replace(path)
        return
    relative = [
        (partial.relative_to(folder).as_posix(), path.relative_to(folder).as_posix())
        for partial, path in moves.items()
    ]
    with deferred():
        journal = _write_journal(folder, {"moves": relative, "removed": removed})
        _complete(journal)


def _write_journal(folder: Path, content: Mapping[str, object]) -> Path:
    partial = folder / mark("journal")
    journal = folder / mark("", _JOURNAL)
    try:
        partial.write_text(json.dumps(content), encoding="utf-8")
        partial.replace(journal)
    finally:
        partial.unlink(missing_ok=True)
    return journal


def complete(folder: str | Path) -> None:
    """Complete what a killed process had begun to replace in a folder; read files after it.

    Raises:
        OutputError: There is such a group of files, and they cannot be moved.
    """
    folder = Path(folder)
    for journal in _journals(folder):
        try:
            _complete(journal)
        except OSError as error:
            raise OutputError(
                f"a process was killed while it replaced files in '{folder}', and they cannot be "
                f"completed: {write_failure(error, folder)}"
            ) from error


def _journals(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.suffix == _JOURNAL and is_mark(p.name))
    except OSError:
        return []


def _complete(journal: Path) -> None:
    """Carry out a journal; what is done already, by whomever, is passed over."""
    folder = journal.parent
    try:
        content = json.loads(journal.read_text(encoding="utf-8"))
        moves = [(str(partial), str(name)) for partial, name in content["moves"]]
        removed = [str(name) for name in content["removed"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return
    for name in removed:
        if _is_inside(folder, name) and name.endswith(_REMOVABLE):
            (folder / name).unlink(missing_ok=True)
            _remove_empty(folder, name)
    for partial, name in moves:
        if _stays_inside(folder, partial, name):
            with suppress(FileNotFoundError):
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / partial).replace(folder / name)
    for partial, name in moves:
        if _stays_inside(folder, partial, name):
            _remove_empty(folder, partial)
    journal.unlink(missing_ok=True)


def _remove_empty(folder: Path, name: str) -> None:
    """Remove the folders between a folder and a name in it, but for those that hold something."""
    for parent in list(PurePath(name).parents)[:-1]:
        with suppress(OSError):  # gone, or there is more in it
            (folder / parent).rmdir()


def _stays_inside(folder: Path, partial: str, name: str) -> bool:
    """Tell whether a move is one of ours: a journal may come with a folder from anywhere."""
    first, _, rest = partial.partition("/")
    is_own = is_mark(first) and _is_plain(first) and not (folder / first).is_symlink()
    return is_own and _is_inside(folder / first, rest) and _is_inside(folder, name)


def _is_inside(folder: Path, name: str) -> bool:
    """Tell whether a name is one of a folder, or of a folder in it that is no link."""
    first, *inner = name.split("/")
    return (
        len(inner) <= 1
        and all(map(_is_plain, (first, *inner)))
        and not (inner and (folder / first).is_symlink())
    )


def _is_plain(name: str) -> bool:
    return PurePath(name).parts == (name,) and name != ".."


def clear_leftovers(folder: str | Path) -> None:
    """Complete or remove what processes that have ended left unfinished in a folder.

    What belongs to a living process stays, as does that of another machine.

    Raises:
        OutputError: Files cannot be moved.
    """
    folder = Path(folder)
    complete(folder)
    _cleared.add(folder.resolve())
    try:
        left = [path for path in folder.iterdir() if is_left_behind(path.name)]
    except OSError:
        return
    for path in left:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def _clear_once(folder: Path) -> None:
    """Look at each folder once: a folder of windows has thousands of files."""
    if folder.resolve() not in _cleared:
        clear_leftovers(folder)


def is_trace(path: Path) -> bool:
    """Tell whether a file is a lock, or something unfinished: no content of its folder."""
    return is_lock(path) or is_mark(path.name)


def is_own_folder(folder: Path, is_ours: Callable[[Path], bool]) -> bool:
    """Tell whether a folder is free to be used: not there yet, or with nothing of others in it.

    Args:
        is_ours: Judges what is in it, but for traces.
    """
    return not os.path.lexists(folder) or (
        folder.is_dir()
        and not folder.is_symlink()
        and all(is_trace(path) or is_ours(path) for path in folder.iterdir())
    )


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a record as readable JSON."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def remove_files(folder: Path, paths: Iterable[Path]) -> None:
    """Remove files of a folder, and it too if nothing else is in it; what cannot be, stays."""
    for path in paths:
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):  # never made, or not empty
        folder.rmdir()


@contextmanager
def claimed(
    folder: str | Path, verb: str, *, takes_part: bool = True, part: str | None = None
) -> Iterator[None]:
    """`folder_lock`, and what ended processes left unfinished in the folder is cleared.

    Raises:
        OutputError: Another process or thread holds the lock, or the folder cannot be written.
    """
    with folder_lock(folder, verb, takes_part=takes_part, part=part):
        if takes_part:
            clear_leftovers(folder)
        yield


@contextmanager
def claimed_file(path: str | Path, verb: str) -> Iterator[None]:
    """`file_lock`, and what ended processes left unfinished beside the file is cleared.

    Raises:
        OutputError: Another process or thread holds the lock, or the folder cannot be written; or
            the path is a link, a folder or a device.
    """
    path = Path(path)
    refuse_special(path)
    with file_lock(path, verb):
        clear_leftovers(path.parent)
        yield


def refuse_special(path: Path) -> None:
    """Refuse to replace what is no file.

    Raises:
        OutputError: The path is a symbolic link, a folder, a pipe or a device.
    """
    try:
        mode = path.lstat().st_mode
    except OSError:  # there is nothing, or what follows will fail and say why
        return
    if stat.S_ISLNK(mode):
        raise OutputError(
            f"'{path}' cannot be written: it is a link to '{path.readlink()}', which is not "
            "replaced. Give that path itself, or remove the link"
        )
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise OutputError(f"'{path}' cannot be written: it is {kind}. Choose another name")


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse to write over what is read, by whatever name or link it is given.

    Raises:
        OutputError: Names both.
    """
    existing = {found: path for path in outputs if (found := _inode(path)) is not None}
    for path in inputs if existing else ():
        target = existing.get(_inode(path) or (0, 0))
        if target is not None:
            other = "" if target == path else f", the same file as '{target}',"
            raise OutputError(
                f"'{path}'{other} is read and would be overwritten. Choose another output"
            )


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino

"""Files appear whole or not at all, several of one product together, with the umask's mode."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from children import kill_at_rename, run, running, wait_for_ever
from terrafuse import writing
from terrafuse.errors import ConfigError, OutputError
from terrafuse.locking import mark, process_start
from terrafuse.weights.files import read_metadata, read_weights, write_tensors
from terrafuse.writing import (
    claimed,
    claimed_file,
    clear_leftovers,
    complete,
    is_trace,
    partial_folder,
    refuse_inputs,
    replace_together,
    written_whole,
)

GONE = 2**22 + 1  # beyond the largest number of a process


def of_a_dead(name: str) -> str:
    return name.replace(f"+{os.getpid()}+", f"+{GONE}+")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_all_files_appear_at_the_end_and_not_before(tmp_path: Path) -> None:
    one, two = tmp_path / "new" / "one", tmp_path / "new" / "two"
    with written_whole(one, two) as partials:
        for partial in partials:
            partial.write_text(partial.name)
        assert not one.exists()
        assert not two.exists()
        assert all(map(is_trace, (tmp_path / "new").iterdir()))
    assert names(tmp_path / "new") == ["one", "two"]


@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError("write failed")])
def test_after_a_failure_the_old_file_stands_alone(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "best.pt"
    path.write_text("before")

    def write() -> None:
        with written_whole(path) as (partial,):
            partial.write_text("half")
            raise error

    with pytest.raises(OutputError, match=r"best.pt' cannot be written: .*Free space"):
        write()
    assert path.read_text() == "before"
    assert names(tmp_path) == ["best.pt"]


def test_other_errors_pass_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mine"), written_whole(tmp_path / "a"):
        raise ConfigError("mine")
    with pytest.raises(KeyError), written_whole(tmp_path / "a"):
        raise KeyError("x")
    assert not list(tmp_path.iterdir())


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="Choose another folder"):  # noqa: SIM117
        with written_whole(tmp_path / "file" / "a"):
            pass
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "Give yourself permission to write in '{}', or choose another folder"),
        (errno.EPERM, "Give yourself permission"),
        (errno.EROFS, "read-only; choose another folder"),
        (errno.ENOSPC, "Free space, or choose another folder"),
        (errno.EDQUOT, "Free space"),
        (errno.ENAMETOOLONG, "Choose a shorter name"),
    ],
)
def test_the_remedy_suits_the_failure(tmp_path: Path, number: int, remedy: str) -> None:
    with pytest.raises(OutputError, match=remedy.format(tmp_path)):  # noqa: SIM117
        with written_whole(tmp_path / "a"):
            raise OSError(number, os.strerror(number))


def test_a_library_that_hides_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch reports everything as RuntimeError."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="Give yourself permission"):  # noqa: SIM117
        with written_whole(tmp_path / "a"):
            raise RuntimeError("cannot open file")


def test_a_file_that_was_not_written_is_none_of_a_group(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("old")
    with pytest.raises(OutputError, match="No such file"):  # noqa: SIM117
        with written_whole(tmp_path / "a", tmp_path / "b") as (one, _):
            one.write_text("new")
    assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["old", "old"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002])
def test_files_have_the_mode_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with written_whole(tmp_path / "a", tmp_path / "b", tmp_path / "c") as (one, two, three):
            write_tensors(one, {"x": torch.zeros(3)}, {})  # safetensors makes it the owner's only
            two.write_text("text")
            three.touch(mode=0o700)
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask}


def test_weights_have_the_same_bytes_each_time(tmp_path: Path) -> None:
    facts = {"terrafuse": "1", "a": 'ü "quoted"', "z": "3"}
    for n in range(8):
        write_tensors(
            tmp_path / f"{n}.safetensors", {"x": torch.arange(3.0), "a": torch.zeros(2, 2)}, facts
        )
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert read_metadata(tmp_path / "0.safetensors") == {"format": "pt", **facts}
    assert torch.equal(read_weights(tmp_path / "7.safetensors")["x"], torch.arange(3.0))


def replace_group(folder: Path) -> None:
    with written_whole(*(folder / name for name in "abc")) as partials:
        for partial in partials:
            partial.write_text("new")
        partials[0].with_name("a.aux.xml").write_text("new")


# The first rename is that of the journal, from which on the group counts.
@pytest.mark.parametrize(("at", "content"), [(1, "old"), (2, "new"), (3, "new"), (5, "new")])
def test_a_group_survives_a_kill_between_two_renames(tmp_path: Path, at: int, content: str) -> None:
    for name in ("a", "b", "c", "a.aux.xml", "b.aux.xml"):
        (tmp_path / name).write_text("old")

    def work() -> None:
        kill_at_rename(at)
        replace_group(tmp_path)

    assert run(work) == -9
    complete(tmp_path)  # as reading does
    assert {(tmp_path / name).read_text() for name in ("a", "b", "c", "a.aux.xml")} == {content}
    assert (tmp_path / "b.aux.xml").exists() == (content == "old")
    clear_leftovers(tmp_path)
    assert names(tmp_path) == sorted(["a", "a.aux.xml", "b", "c"] + ["b.aux.xml"] * (at == 1))


def test_a_group_that_cannot_be_moved_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, moved = Path.replace, []

    def fail_late(self: Path, target: Path) -> Path:
        if len(moved) == 2:
            raise OSError(errno.EIO, "input/output error")
        moved.append(target)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_late)
    with pytest.raises(OutputError, match="input/output error"):
        replace_group(tmp_path)
    with pytest.raises(OutputError, match=r"killed while it replaced files.*completed: input/"):
        complete(tmp_path)
    monkeypatch.undo()
    complete(tmp_path)
    assert names(tmp_path) == ["a", "a.aux.xml", "b", "c"]


def replace_tiles(folder: Path) -> None:
    """A raster gives way to two files in a folder, and a third one there goes."""
    with partial_folder(folder, "x") as partial:
        (partial / "m").mkdir()
        moves = {partial / name: folder / name for name in ("m.vrt", "m/0.tif", "m/1.tif")}
        for path in moves:
            path.write_text("new")
        replace_together(moves, [folder / "m.tif", folder / "m" / "2.tif"])


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_files_in_folders_survive_a_kill_too(tmp_path: Path, at: int) -> None:
    (tmp_path / "m").mkdir()
    for name in ("m.tif", "m/1.tif", "m/2.tif"):
        (tmp_path / name).write_text("old")

    def work() -> None:
        kill_at_rename(at)
        replace_tiles(tmp_path)

    assert run(work) == -9
    complete(tmp_path)
    clear_leftovers(tmp_path)
    found = {p.relative_to(tmp_path).as_posix(): p.read_text() for p in tmp_path.rglob("*.*")}
    old = dict.fromkeys(("m.tif", "m/1.tif", "m/2.tif"), "old")
    assert found == (old if at == 1 else dict.fromkeys(("m.vrt", "m/0.tif", "m/1.tif"), "new"))


def test_side_cars_go_with_their_file(tmp_path: Path) -> None:
    with written_whole(tmp_path / "a.tif") as (partial,):
        partial.write_text("1")
        partial.with_name("a.tif.aux.xml").write_text("1")
    assert names(tmp_path) == ["a.tif", "a.tif.aux.xml"]
    with written_whole(tmp_path / "a.tif") as (partial,):
        partial.write_text("2")
    assert names(tmp_path) == ["a.tif"]


def test_what_the_dead_left_is_removed_and_the_living_keep_theirs(tmp_path: Path) -> None:
    def work(tell: Callable[[], None]) -> None:
        with written_whole(tmp_path / "a") as (partial,):
            partial.write_text("x")
            tell()
            wait_for_ever()

    elsewhere = f".b.elsewhere+0+{GONE}+1+00.partial"
    with running(work):
        for name in (of_a_dead(mark("b")), elsewhere, "north.partial", ".hidden"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "b").write_text("half")
        (tmp_path / of_a_dead(mark("journal"))).write_text("{")
        writing._cleared.discard(tmp_path)
        with written_whole(tmp_path / "b") as (partial,):
            partial.write_text("whole")
        kept = names(tmp_path)
        assert sorted(kept)[-2:] == ["b", "north.partial"]
        assert len([n for n in kept if n.startswith(".a.")]) == 1
        assert {elsewhere, ".hidden"} <= set(kept)
        assert len(kept) == 5
    with claimed(tmp_path, "train"):  # the one above was killed
        assert not [n for n in names(tmp_path) if n.startswith(".a.")]


def test_a_journal_from_anywhere_moves_nothing_out_of_its_folder(tmp_path: Path) -> None:
    folder, secret = tmp_path / "run", tmp_path / "secret"
    folder.mkdir()
    secret.write_text("mine")
    (tmp_path / "s.tif").write_text("mine")
    (folder / "link").symlink_to(tmp_path)
    inside = of_a_dead(mark("x"))
    (folder / mark("y")).symlink_to(tmp_path)
    linked = next(p.name for p in folder.iterdir() if p.name != "link")
    (folder / inside).mkdir()
    (folder / inside / "a").write_text("new")
    (folder / inside / "link").symlink_to(tmp_path)
    moves = [
        ["../secret", "a"], [str(secret), "a"], ["link/secret", "a"], [f"{linked}/secret", "a"],
        [f"{inside}/a", "../b"], [f"{inside}/a", str(tmp_path / "b")],
        [f"{inside}/../../secret", "a"], [f"{inside}/a", "link/b"], [f"{inside}/a", "x/y/b"],
        [f"{inside}/link/secret", "a"],
    ]  # fmt: skip
    journal = folder / mark("", ".journal")
    removed = ["../s.tif", "link", "link/s.tif"]
    for content in ({"moves": moves, "removed": removed}, {"moves": 3}, [], {}):
        journal.write_text(json.dumps(content))
        complete(folder)
    assert secret.read_text() == "mine"
    assert (tmp_path / "s.tif").read_text() == "mine"
    assert not (tmp_path / "b").exists()
    assert not (folder / "a").exists()
    assert (folder / "link").is_symlink()


def test_links_pipes_and_folders_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = names(tmp_path)
    messages = {
        "link": rf"is a link to '{tmp_path}/target', which is not replaced. Give that path itself",
        "dangling": "is a link to",
        "folder": "is a folder",
        "pipe": "is a pipe or a device",
    }
    for name, message in messages.items():
        with (
            pytest.raises(OutputError, match=message),
            written_whole(tmp_path / "a", tmp_path / name),
        ):
            pytest.fail("replaced")
        with pytest.raises(OutputError, match=message), claimed_file(tmp_path / name, "x"):
            pytest.fail("replaced")
    assert names(tmp_path) == before
    with pytest.raises(OutputError, match="device"), written_whole(Path("/dev/null")):
        pytest.fail("replaced")
    with written_whole((tmp_path / "link").readlink()) as (partial,):  # the remedies
        partial.write_text("new")
    assert (tmp_path / "link").read_text() == "new"
    (tmp_path / "dangling").unlink()
    for name in ("dangling", "another"):
        with written_whole(tmp_path / name) as (partial,):
            partial.write_text(name)
        assert (tmp_path / name).read_text() == name


def test_what_is_read_is_not_written_over(tmp_path: Path) -> None:
    photo, other = tmp_path / "photo.png", tmp_path / "other.png"
    photo.write_text("1")
    other.write_text("2")
    (tmp_path / "hard.png").hardlink_to(photo)
    (tmp_path / "soft.png").symlink_to(photo)
    refuse_inputs([other, tmp_path / "new.png"], [photo, tmp_path / "gone.png"])
    for name in ("photo.png", "hard.png", "soft.png", "./photo.png"):
        with pytest.raises(OutputError, match=r"photo.png'.* is read and would be overwritten"):
            refuse_inputs([other, tmp_path / name], [photo])


def test_the_start_of_a_process_is_part_of_its_name() -> None:
    assert f"+{os.getpid()}+{process_start(os.getpid())}+" in mark("a")

"""One process writes into a folder; the others are told who it is."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from children import end_of, fork, running, wait_for_ever
from terrafuse import locking
from terrafuse.errors import OutputError
from terrafuse.locking import (
    Holder,
    Machine,
    file_lock,
    folder_lock,
    is_left_behind,
    is_lock,
    is_process_gone,
    machine,
    mark,
    process_start,
)

LOCK = ".terrafuse.lock"
GONE = 2**22 + 1  # beyond the largest number of a process


def holding(folder: Path, verb: str = "train") -> Callable[[Callable[[], None]], None]:
    def work(tell: Callable[[], None]) -> None:
        with folder_lock(folder, verb):
            tell()
            wait_for_ever()

    return work


def left_by(**changes: Any) -> Holder:
    """A holder on this machine that does not exist any more."""
    found = Holder("train", GONE, "12", machine(), "2026-11-30T01:02:03+00:00", has_flock=False)
    return replace(found, **changes)


def put(folder: Path, holder: Holder) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / LOCK
    path.write_bytes(holder.to_bytes())
    return path


def test_the_second_process_is_told_who_holds_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with running(holding(out)) as number:
        with (
            pytest.raises(
                OutputError,
                match=rf"'{out}' is in use by terrafuse train \(process {number} on "
                rf"'{machine().host}', since \d{{4}}-.*stop it \(kill {number}\), or choose",
            ),
            folder_lock(out, "evaluate"),
        ):
            pytest.fail("two processes hold one lock")
        os.kill(number, signal.SIGTERM)  # the remedy
        while not is_process_gone(number, process_start(number)):
            time.sleep(0.001)
        ended = rf"process {number}.*ended without unlocking"
        with pytest.warns(UserWarning, match=ended), folder_lock(out, "evaluate"):
            assert json.loads((out / LOCK).read_text())["verb"] == "evaluate"
    assert list(out.iterdir()) == []


def test_a_kill_frees_it_at_once_even_if_a_child_lives_on(tmp_path: Path) -> None:
    """What `train` forks to read data has the lock's file open, and must not keep it."""
    reading, writing = os.pipe()

    def work(tell: Callable[[], None]) -> None:
        with folder_lock(tmp_path / "run", "train"):
            child = fork(wait_for_ever)
            os.write(writing, f"{child} ".encode())
            tell()
            wait_for_ever()

    with running(work):
        pass
    child = int(os.read(reading, 20))
    try:
        with pytest.warns(UserWarning, match="ended without"), folder_lock(tmp_path / "run", "x"):
            assert not is_process_gone(child, "")
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("is_left", [False, True])
def test_of_many_at_once_exactly_one_works(tmp_path: Path, is_left: bool) -> None:
    start, done = os.pipe(), os.pipe()

    def work() -> None:
        os.close(start[1])
        os.close(done[1])
        os.read(start[0], 1)  # all start when the pipe is closed
        try:
            with warnings.catch_warnings(action="ignore"), folder_lock(tmp_path / "run", "train"):
                os.read(done[0], 1)
        except OutputError:
            raise SystemExit(7) from None

    if is_left:
        put(tmp_path / "run", left_by())
    children = [fork(work) for _ in range(8)]
    os.close(start[1])
    refused = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in children[1:]]
    os.close(done[1])  # the one that holds the lock may end
    assert refused == [7] * 7
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    assert not (tmp_path / "run" / LOCK).exists()
    os.close(start[0])
    os.close(done[0])


def test_it_is_removed_at_every_end_but_not_a_level_too_early(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    with folder_lock(out, "sweep"):
        with folder_lock(out, "train"):
            assert is_lock(out / LOCK)
        assert json.loads((out / LOCK).read_text())["verb"] == "sweep"
    assert list(tmp_path.iterdir()) == []

    def fail() -> None:
        with folder_lock(out, "train"):
            (out / "mine").write_text("")
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert [path.name for path in out.iterdir()] == ["mine"]


def test_another_thread_is_refused(tmp_path: Path) -> None:
    found: list[Exception] = []

    def work(folder: Path) -> None:
        try:
            with folder_lock(folder, "train"):
                pass
        except OutputError as error:
            found.append(error)

    def work_beside(folder: Path) -> None:
        thread = threading.Thread(target=work, args=(folder,))
        thread.start()
        thread.join()

    with folder_lock(tmp_path / "run", "train"):
        work_beside(tmp_path / "run")
        work_beside(tmp_path / "another")  # the remedies
    work_beside(tmp_path / "run")
    assert ["in use by another thread" in str(error) for error in found] == [True]


def test_by_another_name_it_is_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with (
        running(holding(tmp_path / "run")),
        pytest.raises(OutputError, match="link' is in use"),
        folder_lock(tmp_path / "link", "train"),
    ):
        pytest.fail("two processes hold one lock")


def test_files_of_one_folder_are_locked_one_by_one(tmp_path: Path) -> None:
    def work(tell: Callable[[], None]) -> None:
        with file_lock(tmp_path / "a.yaml", "data split"):
            tell()
            wait_for_ever()

    with running(work):
        with file_lock(tmp_path / "b.yaml", "data split"):
            pass
        with (
            pytest.raises(OutputError, match=r"a.yaml' is in use by terrafuse data split"),
            file_lock(tmp_path / "a.yaml", "data split"),
        ):
            pytest.fail("two processes hold one lock")


@pytest.mark.parametrize(
    ("changes", "is_left"),
    [
        ({}, True),
        ({"pid": 10**30}, True),
        ({"pid": os.getppid(), "started": "0"}, True),  # its number is another's now
        ({"pid": os.getppid(), "started": process_start(os.getppid())}, False),
        ({"machine": replace(machine(), kernel="before", boot="0")}, True),  # started again since
        ({"machine": Machine("elsewhere", "0", "other")}, False),
        ({"machine": replace(machine(), boot="0")}, False),  # a container
        ({"machine": replace(machine(), boot="0"), "has_flock": True}, True),  # which has ended
    ],
)
@pytest.mark.filterwarnings("ignore:terrafuse train:UserWarning")
@pytest.mark.parametrize("has_flock", [True, False])
def test_whose_lock_is_left_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    is_left: bool,
    has_flock: bool,
) -> None:
    if not has_flock:
        monkeypatch.setattr(locking, "_flock", lambda _: None)
        is_left = is_left and not changes.get("has_flock")
    path = put(tmp_path / "run", left_by(**changes))
    if is_left:
        with folder_lock(tmp_path / "run", "train"):
            assert Holder.from_bytes(path.read_bytes()).pid == os.getpid()  # type: ignore[union-attr]
    else:
        with pytest.raises(OutputError, match="in use"), folder_lock(tmp_path / "run", "train"):
            pytest.fail("a lock was taken from its holder")
    assert path.exists() != is_left
    assert [p for p in (tmp_path / "run").iterdir() if p != path] == [] if path.exists() else True


def test_the_lock_of_another_user_is_removed_instead_of_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "run", left_by())
    access = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: p != path and access(p, mode))
    with folder_lock(tmp_path / "run", "train"):
        assert Holder.from_bytes(path.read_bytes()).pid == os.getpid()  # type: ignore[union-attr]
    assert list((tmp_path / "run").iterdir()) == []


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", fail)
    with (
        pytest.raises(OutputError, match=r"No space left on device. Free space"),
        folder_lock(tmp_path / "run", "train"),
    ):
        pytest.fail("locked")
    assert list(tmp_path.iterdir()) == []


def test_the_remedy_for_another_machine_helps(tmp_path: Path) -> None:
    path = put(tmp_path / "run", left_by(machine=Machine("elsewhere", "0", "other")))
    with (
        pytest.raises(OutputError, match=rf"'elsewhere'.*If it has died, delete '{path}'"),
        folder_lock(tmp_path / "run", "train"),
    ):
        pytest.fail("a lock was taken from its holder")
    path.unlink()
    with folder_lock(tmp_path / "run", "train"):
        pass


@pytest.mark.parametrize("content", ["", "[]", '{"pid": []}', '{"pid": 1, "machine": 3}', "\0"])
def test_a_lock_that_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK).write_text(content)
    with (
        pytest.raises(OutputError, match=r"does not say by whom.*delete that file"),
        folder_lock(tmp_path, "train"),
    ):
        pytest.fail("a lock was taken from its holder")
    (tmp_path / LOCK).unlink()
    with folder_lock(tmp_path, "train"):
        pass


def test_a_disk_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    with (
        running(holding(tmp_path)),
        pytest.raises(OutputError, match="in use by"),
        folder_lock(tmp_path, "train"),
    ):
        pytest.fail("two processes hold one lock")
    with pytest.warns(UserWarning, match="ended without"), folder_lock(tmp_path, "train"):
        assert (tmp_path / LOCK).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As /proc, which its owner may write as far as its mode says."""
    monkeypatch.setattr(locking, "_ORPHANS_SECONDS", 0.0)
    tries = []

    def nowhere(path: Path, holder: Holder) -> None:
        tries.append(path)
        assert len(tries) < 1000
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    monkeypatch.setattr(locking, "_create", nowhere)
    with (
        pytest.raises(OutputError, match=r"out' cannot be written: No such file or directory"),
        file_lock(tmp_path / "out", "view"),
    ):
        pass


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with (
            pytest.raises(
                OutputError, match=rf"'{tmp_path}/file' is not a writable folder. Choose another"
            ),
            folder_lock(folder, "train"),
        ):
            pytest.fail("locked")
    assert (tmp_path / "file").read_text() == "mine"


def test_names_tell_whose_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = mark("model.json")
    assert mine.startswith(".model.json.")
    assert mine != mark("model.json")
    assert not is_left_behind(mine)
    assert is_left_behind(mine.replace(f"+{os.getpid()}+", f"+{GONE}+"))
    assert is_left_behind(mine.replace(f"+{process_start(os.getpid())}+", "+1+"))
    assert not is_left_behind("elsewhere".join(mine.rsplit(mine.split(".")[-2].split("+")[0], 1)))
    assert not is_left_behind("north.partial")
    assert len(os.fsencode(mark("ü" * 200))) < 255


def test_a_killed_process_nobody_waited_for_is_gone() -> None:
    number = fork(wait_for_ever)
    assert not is_process_gone(number, process_start(number))
    os.kill(number, signal.SIGKILL)
    os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    assert is_process_gone(number, "")
    end_of(number)

"""Locks on output folders and files: one process writes at a time, others learn who it is.

A lock is a small file that names its holder. It is created by linking, which exactly one of several
processes can do, also on network disks. Where the disk has `flock`, the holder keeps the file
locked as well, so that the lock of a killed process is free at once.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cache
from pathlib import Path

from terrafuse.errors import InUseError, OutputError, TerrafuseError, write_failure
from terrafuse.stopping import deferred

if sys.platform != "win32":
    import fcntl

_LOCK = ".terrafuse.lock"
_PART = f".shard{_LOCK}"
_PARTIAL = ".partial"
_MARK = re.compile(r"\.(?:.*\.)?([\w-]+)\+([0-9a-f]*)\+(\d+)\+(\d*)\+[0-9a-f]+\.\w+", re.ASCII)
#: What a killed process started may hold its lock for a moment longer.
_ORPHANS_SECONDS = 5.0
_LONGEST_NAME = 100


def is_first_process() -> bool:
    """Tell whether this is the only process of a run, or the one that writes files.

    The launcher's environment tells it before the processes are connected.
    """
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


@contextmanager
def one_voice() -> Iterator[None]:
    """Let the first process of a run on each machine tell an error; the others end.

    Raises:
        SystemExit: This is not the first one, and the error is theirs as well.
    """
    try:
        yield
    except TerrafuseError as error:
        is_first = all(os.environ.get(n, "0") == "0" for n in ("LOCAL_RANK", "SLURM_LOCALID"))
        if is_first or error.is_told_by_all:
            raise
        raise SystemExit(2) from error


def is_lock(path: Path) -> bool:
    """Tell whether a file is a lock."""
    return path.name.startswith(".") and path.name.endswith(_LOCK)


@contextmanager
def folder_lock(
    folder: str | Path, verb: str, *, takes_part: bool = True, part: str | None = None
) -> Iterator[None]:
    """Keep other processes from writing into a folder; the same thread may lock it again.

    Args:
        folder: Created if needed, and removed again if it is empty at the end.
        verb: Command that writes, for the message of others.
        takes_part: False: do nothing, as in all but the first process of a run.
        part: Share of the work, such as "2/8": locks of other shares are allowed beside it.

    Raises:
        InUseError: Another process or thread holds the lock.
        OutputError: The folder cannot be written.
    """
    if not takes_part:
        yield
        return
    folder = Path(folder)
    name = _LOCK if part is None else f".{part.replace('/', '-of-')}{_PART}"
    # First lock, then look: of two that begin at once, one sees the other.
    with _locked(folder, name, folder, verb if part is None else f"{verb} --shard {part}"):
        _look_beside(folder / _LOCK, folder, is_allowed=part is None)
        for path in folder.glob(f".*-of-*{_PART}"):
            _look_beside(path, folder, is_allowed=part is not None)
        yield


@contextmanager
def file_lock(path: str | Path, verb: str) -> Iterator[None]:
    """Keep other processes from writing a file; otherwise like `folder_lock`.

    Raises:
        InUseError: Another process or thread holds the lock.
        OutputError: The folder cannot be written.
    """
    path = Path(path)
    with _locked(path.parent, f".{_shortened(path.name)}{_LOCK}", path, verb):
        yield


@dataclass(frozen=True)
class Machine:
    """Where processes have their numbers.

    Args:
        boot: Changes when the machine starts again, and differs between containers.
        kernel: Changes when the machine starts again.
    """

    host: str
    boot: str
    kernel: str


@dataclass(frozen=True)
class Holder:
    """Content of a lock.

    Args:
        started: Start of the process in ticks of its kernel; "" where unknown.
        since: Local time with its offset to UTC.
        has_flock: Whether the file is also locked by `flock` as long as the process lives.
    """

    verb: str
    pid: int
    started: str
    machine: Machine
    since: str
    has_flock: bool = True
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def to_bytes(self) -> bytes:
        """The lock file's content."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"

    @classmethod
    def from_bytes(cls, content: bytes) -> Holder | None:
        """Inverse of `to_bytes`; None if it is not a holder."""
        try:
            values = json.loads(content)
            found = cls(**{**values, "machine": Machine(**values["machine"])})
            return replace(found, pid=int(found.pid), since=str(found.since))
        except (ValueError, TypeError, KeyError):
            return None

    def __str__(self) -> str:
        since = self.since[:19].replace("T", " ")
        return f"terrafuse {self.verb} (process {self.pid} on '{self.machine.host}', since {since})"

    def is_gone(self, *, is_unlocked: bool) -> bool:
        """Tell whether the process has ended for certain.

        Args:
            is_unlocked: Whether its file could be locked by `flock`.
        """
        here = machine()
        if self.machine.kernel != here.kernel or not here.kernel:
            if self.machine.host != here.host:
                return False
            if here.kernel:  # started again since
                return True
        if is_unlocked and self.has_flock:
            return True
        return self.machine.boot == here.boot and is_process_gone(self.pid, self.started)


@cache
def machine() -> Machine:
    """The machine, or container, of this process."""
    kernel = _first_line("/proc/sys/kernel/random/boot_id")
    try:
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  # not a file
    except OSError:
        space = ""
    boot = hashlib.sha256(f"{kernel} {space}".encode()).hexdigest()[:8] if kernel else ""
    return Machine(socket.gethostname(), boot, kernel)


def process_start(pid: int) -> str:
    """Start of a process in ticks of its kernel; "" where unknown."""
    return _stat(pid)[1]


def is_process_gone(pid: int, started: str) -> bool:
    """Tell whether a process of this machine has ended, even if another has its number now."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # of another user
        pass
    state, start = _stat(pid)
    return state in ("Z", "X") or bool(started and start and started != start)


def mark(name: str, kind: str = _PARTIAL) -> str:
    """A hidden name that nothing else has, from which `is_left_behind` tells its process."""
    pid = os.getpid()
    owner = f"{_host()}+{machine().boot}+{pid}+{process_start(pid)}+{secrets.token_hex(4)}"
    return f".{_shortened(name)}.{owner}{kind}"


def is_mark(name: str) -> bool:
    """Tell whether a name is one of `mark`."""
    return _MARK.fullmatch(name) is not None


def is_left_behind(name: str) -> bool:
    """Tell whether a name is that of `mark`, of a process that has ended for certain."""
    found = _MARK.fullmatch(name)
    if found is None:
        return False
    host, boot, pid, started = found.groups()
    if host != _host():
        return False
    return boot != machine().boot or is_process_gone(int(pid), started)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "_", machine().host)[:60] or "host"


@dataclass
class _Held:
    descriptor: int
    thread: int
    times: int = 1


_held: dict[Path, _Held] = {}
_guard = threading.Lock()


def _forget() -> None:
    """In a forked process: the locks are its parent's, who alone keeps them."""
    global _guard
    _guard = threading.Lock()
    for held in _held.values():
        with contextlib.suppress(OSError):
            os.close(held.descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def _locked(folder: Path, name: str, target: Path, verb: str) -> Iterator[None]:
    made = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    entered: Path | None = None
    try:
        with deferred():
            _make(folder, target)
            path = folder.resolve() / name
            before = _enter(path, target, verb)
            entered = path
        if before is not None:
            warnings.warn(
                f"{before} ended without unlocking '{target}'; what it had not finished is removed",
                stacklevel=5,
            )
        yield
    finally:
        with deferred():
            if entered is not None:
                _leave(entered)
            for one in made:
                with contextlib.suppress(OSError):  # never created, or not empty
                    one.rmdir()


def _make(folder: Path, target: Path) -> None:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            return
    raise OutputError(
        f"'{target}' cannot be written: '{existing}' is not a writable folder. Choose another "
        "folder, or make it writable"
    )


def _enter(path: Path, target: Path, verb: str) -> Holder | None:
    """Lock; return whose lock was left behind there."""
    with _guard:
        held = _held.get(path)
        if held is not None:
            if held.thread != threading.get_ident():
                raise InUseError(
                    f"'{target}' is in use by another thread of this process. Wait for it, or "
                    "choose another output"
                )
            held.times += 1
            return None
        here = machine()
        pid = os.getpid()
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        holder = Holder(verb, pid, process_start(pid), here, now)
        try:
            descriptor, before = _acquire(path, target, holder)
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(
                f"'{target}' cannot be written: {write_failure(error, path.parent)}"
            ) from error
        _held[path] = _Held(descriptor, threading.get_ident())
        return before


def _leave(path: Path) -> None:
    with _guard:
        held = _held.get(path)
        if held is None:  # in a forked process
            return
        held.times -= 1
        if held.times:
            return
        del _held[path]
        if _is_still(path, held.descriptor):
            with contextlib.suppress(OSError):
                path.unlink()  # while locked: whoever opened it sees that it is no more the lock
        os.close(held.descriptor)


def _acquire(path: Path, target: Path, holder: Holder) -> tuple[int, Holder | None]:
    """Lock.

    Returns:
        The open file, which keeps the lock, and the process that left it behind.

    Raises:
        InUseError: Another process holds it.
    """
    give_up = time.monotonic() + _ORPHANS_SECONDS
    while True:
        try:
            descriptor = _create(path, holder)
        except FileNotFoundError:  # the last one has just removed the empty folder
            if time.monotonic() > give_up:  # a folder that takes no files, as /proc
                raise
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        if descriptor is not None:
            return descriptor, None
        descriptor, other = _take_over(path, target, holder)
        if descriptor is not None:
            return descriptor, other
        if other is not None and time.monotonic() > give_up:
            raise _in_use(path, target, other)
        time.sleep(0.05)


def _create(path: Path, holder: Holder) -> int | None:
    """Create the lock, complete from its first moment; None if there is one."""
    own = path.with_name(mark(path.name))
    descriptor = os.open(own, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    is_locked = False
    try:
        has_flock = _flock(descriptor) is not None
        os.write(descriptor, replace(holder, has_flock=has_flock).to_bytes())
        is_locked = _link(own, path)
    finally:
        own.unlink(missing_ok=True)
        if not is_locked:
            os.close(descriptor)
    return descriptor if is_locked else None


def _link(own: Path, path: Path) -> bool:
    try:
        os.link(own, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        if path.exists():  # a disk without links
            return False
        own.replace(path)
    return True


def _take_over(path: Path, target: Path, holder: Holder) -> tuple[int | None, Holder | None]:
    """Take the lock of a process that has ended.

    Returns:
        The open file, or None to try again; and the process that has ended or is about to.

    Raises:
        InUseError: Its process lives, or may live.
    """
    can_write = os.access(path, os.W_OK)  # it may be another user's
    try:
        descriptor = os.open(path, os.O_RDWR if can_write else os.O_RDONLY)
    except FileNotFoundError:
        return None, None
    except PermissionError:
        raise _in_use(path, target, None) from None
    is_ours = False
    try:
        is_free = _flock(descriptor)
        content = os.read(descriptor, 10_000)
        other = Holder.from_bytes(content)
        if is_free is False:
            if other is None or not other.is_gone(is_unlocked=False):
                raise _in_use(path, target, other)
            return None, other
        if not _is_still(path, descriptor):
            return None, None
        if other is None or not other.is_gone(is_unlocked=bool(is_free)):
            raise _in_use(path, target, other)
        if is_free is None or not can_write:
            _remove(path, content)
            return None, None
        own = holder.to_bytes()
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, own.ljust(len(content)))
        os.ftruncate(descriptor, len(own))
        is_ours = True
        return descriptor, other
    finally:
        if not is_ours:
            os.close(descriptor)


def _look_beside(path: Path, target: Path, *, is_allowed: bool) -> None:
    """Refuse the lock of a process that lives; remove that of one that has ended.

    Args:
        is_allowed: True: it may live.

    Raises:
        InUseError: Its process lives, or may live.
    """
    if path.resolve() in _held:  # our own
        return
    try:
        descriptor = os.open(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)
    except FileNotFoundError:
        return
    except PermissionError:
        raise _in_use(path, target, None) from None
    try:
        is_free = _flock(descriptor)
        content = os.read(descriptor, 10_000)
        other = Holder.from_bytes(content)
        if is_free is False or other is None or not other.is_gone(is_unlocked=bool(is_free)):
            if not is_allowed:
                raise _in_use(path, target, other)
        elif is_free is None:
            _remove(path, content)
        elif _is_still(path, descriptor):
            with contextlib.suppress(OSError):
                path.unlink()
    finally:
        os.close(descriptor)


def _remove(path: Path, content: bytes) -> None:
    """Remove the lock of an ended process where the disk has no `flock`."""
    aside = path.with_name(mark(path.name))
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        if aside.read_bytes() != content:  # somebody was faster, and holds it now
            with contextlib.suppress(OSError):
                os.link(aside, path)
        aside.unlink()


def _flock(descriptor: int) -> bool | None:
    """Lock an open file; False: another process has; None: the disk knows no such locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Tell whether the path is still that of an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def _in_use(path: Path, target: Path, other: Holder | None) -> InUseError:
    if other is None:
        return InUseError(
            f"'{target}' is in use: its lock '{path}' does not say by whom. If no other terrafuse "
            "is writing there, delete that file"
        )
    if other.machine.kernel == machine().kernel and other.machine.boot == machine().boot:
        remedy = f"Wait for it, stop it (kill {other.pid}), or choose another output"
    else:
        remedy = f"Wait for it, or choose another output. If it has died, delete '{path}'"
    return InUseError(f"'{target}' is in use by {other}. {remedy}")


def _shortened(name: str) -> str:
    return os.fsencode(name)[:_LONGEST_NAME].decode(errors="ignore")


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, str]:
    """State and start of a process, from Linux; empty texts elsewhere."""
    fields = _first_line(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (fields[0], fields[19]) if len(fields) > 19 else ("", "")

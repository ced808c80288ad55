"""Main memory: how much of it is free, and one message where it does not suffice."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from terrafuse.errors import NotEnoughMemoryError

# Parameters of glibc's mallopt, and the values at which it ends by itself in a long run.
_TRIM, _MMAP = -1, -3
_OWN = {_TRIM: 64 << 20, _MMAP: 32 << 20}
# Blocks from this size on go back to the system at once, so that gaps between them waste nothing.
_LARGE = 64 << 20

# Words of libraries that raise RuntimeError or errors of their own when memory ends.
_WORDS = re.compile(
    r"not enough memory: you tried to allocate|DefaultCPUAllocator|CUDA out of memory"
    r"|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED|std::bad_alloc|bad allocation"
    r"|Cannot allocate memory|out of shared memory|is killed by signal: Killed"
)
# Characters of a library's own words; the rest is statistics of its allocator.
_LONGEST = 160
# Limits of a control group (versions 2 and 1): limit, use, and the key of what can be reclaimed.
_GROUPS = {
    "2": ("memory.max", "memory.current", "inactive_file"),
    "1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def free_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes of main memory that this process can still get; None if unknown.

    The least of what the system has available, of what the limits of its control groups (of
    containers and job schedulers) leave, and of the limit of the process (`ulimit -v`).

    Args:
        root: Folder in which "proc" and "sys" lie.
    """
    found = [_available(root), *_left_in_groups(root), _left_of_process(root)]
    known = [value for value in found if value is not None]
    return max(0, min(known)) if known else None


def in_words(size: float) -> str:
    """A number of bytes for a message: "820 MB", "41 GB"."""
    if size < 1e9:
        return f"{max(1, round(size / 1e6))} MB"
    return f"{size / 1e9:.1f} GB" if size < 1e10 else f"{size / 1e9:,.0f} GB"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory, of the machine or of an accelerator, did not suffice."""
    if isinstance(error, NotEnoughMemoryError):
        return False  # has its message
    named = any(kind.__name__.endswith("OutOfMemoryError") for kind in type(error).__mro__)
    return isinstance(error, MemoryError) or named or _says_so(error)


def _says_so(error: BaseException) -> bool:
    return isinstance(error, RuntimeError | OSError) and _WORDS.search(str(error)) is not None


@contextmanager
def explaining_memory(what: str, remedy: str | Callable[[], str]) -> Iterator[None]:
    """Turn the many errors of exhausted memory into one with a remedy.

    Args:
        what: The work, as the start of a sentence ("training").
        remedy: A sentence on what to do, or a function that makes it.

    Raises:
        NotEnoughMemoryError: Memory did not suffice.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = " ".join((str(error).strip() or type(error).__name__).split())
        told = reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]} …"
        advice = remedy if isinstance(remedy, str) else remedy()
        raise NotEnoughMemoryError(
            f"{what} needs more memory than there is: {told}. {advice}"
        ) from None


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Let the C library keep what is freed within this block, to hand it out again.

    By itself glibc gives the end of its heap back to the system, and asks for it again in the next
    step of training: the system then clears page after page. Other C libraries are left alone.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt"):
        yield
        return
    library.mallopt(_MMAP, _LARGE)
    library.mallopt(_TRIM, 2**31 - 1)
    try:
        yield
    finally:
        for parameter, value in _OWN.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)


def _available(root: Path) -> int | None:
    text = _read(root / "proc/meminfo")
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _left_of_process(root: Path) -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = re.search(r"^VmSize:\s+(\d+) kB", _read(root / "proc/self/status"), re.MULTILINE)
    if limit == resource.RLIM_INFINITY or used is None:
        return None
    return limit - int(used[1]) * 1024


def _left_in_groups(root: Path) -> Iterator[int]:
    """What each control group leaves that this process is in, from its own to the topmost."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, kinds, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not kinds:
            yield from _left_up_from(root / "sys/fs/cgroup", path, "2")
        elif "memory" in kinds.split(","):
            yield from _left_up_from(root / "sys/fs/cgroup/memory", path, "1")


def _left_up_from(mount: Path, path: str, version: str) -> Iterator[int]:
    limit_file, use_file, reclaimable = _GROUPS[version]
    # In a container the path may be the host's: the mounted folder then is the group itself.
    own = mount / path.lstrip("/")
    group = own if own.is_dir() else mount
    for folder in (group, *group.parents):
        limit, used = _read(folder / limit_file).strip(), _read(folder / use_file).strip()
        if limit.isdigit() and used.isdigit():
            cached = re.search(
                rf"^{reclaimable} (\d+)", _read(folder / "memory.stat"), re.MULTILINE
            )
            yield int(limit) - int(used) + (int(cached[1]) if cached else 0)
        if folder == mount:
            return


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

"""Mutations of sound inputs, and the judgement of what a verb makes of one.

A verb works, or raises one of our errors with a short message: no other exception, no hang.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import faulthandler
import math
import resource
import signal
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from terrafuse.errors import TerrafuseError

SECONDS = 10
LONGEST_MESSAGE = 2_000


def few(count: int) -> settings:
    """The default run: always the same inputs, so that a red test is one of the change."""
    return settings(
        max_examples=count, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate),  # an input is small as it is
    )  # fmt: skip


#: Behind the marker `fuzz`: other inputs at each run; `pytest --fuzz-inputs N` changes how many.
many = settings(max_examples=2_000, deadline=None, suppress_health_check=list(HealthCheck))


def set_many(count: int) -> None:
    """Change how many inputs `many` tries, before the tests are imported."""
    global many
    many = settings(many, max_examples=count)


class HangError(BaseException):
    """An input that takes longer than a user waits."""


@contextlib.contextmanager
def in_time(seconds: float = SECONDS) -> Iterator[None]:
    """Raise `HangError` after some seconds; if code below Python hangs, end the process."""

    rung = []

    def ring(*_: object) -> None:
        rung.append(seconds)
        raise HangError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(6 * seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if rung:  # in a destructor, which swallowed it
        raise HangError(f"longer than {seconds} s")


@contextlib.contextmanager
def limited_memory(gigabytes: float = 6.0) -> Iterator[None]:
    """Let allocations beyond so much address space fail, rather than take the machine down."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def judge(act: Callable[[], Any]) -> str:
    """Run an act on a mutated input; return our message, or "" if it worked.

    Warnings of ours are none of its faults; numpy's and GDAL's would reach the terminal and are.
    """
    with in_time(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", RuntimeWarning)
        try:
            act()
            return ""
        except TerrafuseError as error:
            message = str(error)
    assert message.strip(), "an error without a message"
    assert len(message) < LONGEST_MESSAGE, f"{len(message)} characters: {message[:300]} …"
    assert "Traceback" not in message, message
    return message


def assert_silent(captured: pytest.CaptureFixture[str]) -> None:
    """Fail on what GDAL and its libraries print to stderr by themselves."""
    lines = captured.readouterr().err.splitlines()
    # rasterio prints of warnings that are not UTF-8; the command line keeps it to itself.
    assert [line for line in lines if not line.startswith("UnicodeDecodeError: ")] == []


# Bytes ------------------------------------------------------------------------------------------

_NUMBERS = (0, 1, 2, 7, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
_FLOATS = (0.0, -1.0, 1e-300, 1e308, math.inf, -math.inf, math.nan)


class _Change(NamedTuple):
    """A change of bytes: its kind, a place from 0 to 1, and two numbers that it may use."""

    kind: str
    place: float
    a: int
    b: int


_KINDS = (
    "flip", "flip", "set", "number16", "number32", "number64", "float", "cut", "delete", "repeat",
    "zero", "insert",
)  # fmt: skip
_changes = st.builds(
    _Change,
    st.sampled_from(_KINDS),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 255),
    st.integers(0, 255),
)
#: Changes of the bytes of a file, one to four.
byte_changes = st.lists(_changes, min_size=1, max_size=4)


def change_bytes(data: bytes, changes: Sequence[_Change], start: float = 0.0) -> bytes:
    """Apply changes to bytes.

    Args:
        start: Part at the beginning, from 0 to 1, that most of the changes fall into; 0 = anywhere.
            Headers are small, and what they say is what breaks readers.
    """
    for change in changes:
        if not data:
            break
        reach = start if start and change.a % 4 else 1.0
        at = int(change.place * reach * len(data))
        data = _changed(data, at, change)
    return data


def _changed(data: bytes, at: int, change: _Change) -> bytes:
    length = 1 + change.b
    order = "<" if change.b % 2 else ">"
    number = _NUMBERS[change.a % len(_NUMBERS)]
    float_ = struct.pack(order + "d", _FLOATS[change.a % len(_FLOATS)])
    new = {
        "flip": bytes([data[at] ^ (1 << change.a % 8)]),
        "set": bytes([change.a]),
        "number16": struct.pack(order + "H", number % 2**16),
        "number32": struct.pack(order + "I", number % 2**32),
        "number64": struct.pack(order + "Q", number),
        "float": float_,
        "zero": bytes(length),
    }
    if change.kind in new:
        return data[:at] + new[change.kind] + data[at + len(new[change.kind]) :]
    if change.kind == "cut":
        return data[:at]
    if change.kind == "delete":
        return data[:at] + data[at + length :]
    if change.kind == "repeat":
        return data[:at] + data[at : at + length] * 2 + data[at + length :]
    return data[:at] + bytes([change.a]) * (1 + change.b % 16) + data[at:]


# Trees of YAML and JSON -------------------------------------------------------------------------

#: What stands in files where something else is meant.
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, 10**30, -(2**63), math.nan, math.inf,
    -math.inf, "", " ", "0010", "12:30:45", "yes", "null", "1e3", "a\nb", "a\0b", "\x1b[31m",
    "é", "x" * 3000, "9" * 5000, "#ff0000", "#", "../..", "~nobody/a.tif", "/dev/null", "*", "**[",
    "/vsicurl/", "NETCDF:a:b", "<VRTDataset", "train ", "Train", [], {}, [[]], [None], {"": 1},
    {"a": {"b": []}}, [1, "a", None], [0] * 500, datetime.date(2024, 2, 29),
    datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC), b"bytes", {1: 2}, {None: 1},
)  # fmt: skip


class _Edit(NamedTuple):
    """A change of a tree: its kind, which of the places, and what it uses."""

    kind: str
    place: int
    other: int
    value: Any


_edits = st.builds(
    _Edit,
    st.sampled_from(("value", "value", "value", "delete", "rename", "wrap", "swap", "add", "type")),
    st.integers(0, 10_000),
    st.integers(0, 10_000),
    st.sampled_from(ODD_VALUES),
)
#: Changes of a tree, one to three.
tree_edits = st.lists(_edits, min_size=1, max_size=3)


def change_tree(tree: Any, edits: Sequence[_Edit]) -> Any:
    """Apply changes to a tree of dicts, lists and scalars; the tree itself stays."""
    holder = [copy.deepcopy(tree)]
    for edit in edits:
        places = list(_places(holder))
        owner, key = places[edit.place % len(places)]
        _edit(owner, key, edit, places[edit.other % len(places)])
        if not holder:
            return None
    return holder[0]


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every (dict or list, key) of a tree."""
    keys: Sequence[Any] = range(len(node)) if isinstance(node, list) else list(node)
    for key in keys:
        yield node, key
        if isinstance(node[key], dict | list):
            yield from _places(node[key])


def _edit(owner: Any, key: Any, edit: _Edit, other: tuple[Any, Any]) -> None:
    old = owner[key]
    value = copy.deepcopy(edit.value)
    if edit.kind == "delete":
        del owner[key]
    elif edit.kind == "rename" and isinstance(owner, dict):
        owner[_as_key(edit.value)] = owner.pop(key)
    elif edit.kind == "wrap":
        owner[key] = [old] if edit.other % 2 else {"a": old}
    elif edit.kind == "swap":
        owner[key] = copy.deepcopy(other[0][other[1]])
    elif edit.kind == "add" and isinstance(old, dict):
        old[_as_key(edit.value)] = value
    elif edit.kind == "add" and isinstance(old, list):
        old.append(copy.deepcopy(old[0]) if old and edit.other % 2 else value)
    elif edit.kind == "type":
        owner[key] = _of_another_type(old)
    else:
        owner[key] = value


def _as_key(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _of_another_type(old: Any) -> Any:
    if isinstance(old, str):
        return [old]
    if isinstance(old, bool) or old is None:
        return str(old)
    if isinstance(old, int | float):
        return str(old) if old == int(old) else int(old)
    if isinstance(old, list):
        return {str(n): item for n, item in enumerate(old)}
    return list(old.items()) if isinstance(old, Mapping) else old


# Text of YAML and JSON ---------------------------------------------------------------------------

_LINES = (
    "a: [1, 2", "b: }", "\tc: 1", "? [d]", "e: &x [*x]", "f: *none", "h: !none 1", "i: !!binary x",
    "g: !!python/object/apply:os.getcwd []", "j: 2024-99-99", "k: 1:99", "l: |\n", "m: 'open",
    "--- 1", "...", "- 1", "%YAML 9.9", "n: \0", "\ufeff", "\x85", "o: 1e999999", "p: 0x", "<<: 1",
    "<<: *none", "q: 0o9", "r: " + "9" * 6000, "s: " + "[" * 2000, "t: " + "{a: " * 400,
    "u: \x1b[2J", "v: =", "w: ~", "scenes: 1",
    "\n".join(["x: &a [1, 1, 1, 1]", *(f"x{n}: &{b} [{', '.join([f'*{a}'] * 9)}]"
                                       for n, (a, b) in enumerate(pairwise("abcdefghij")))]),
)  # fmt: skip
#: Changes of the lines of a text, one or two.
text_edits = st.lists(
    st.tuples(
        st.sampled_from(("double", "drop", "add", "indent", "join", "move")),
        st.integers(0, 10_000),
        st.integers(0, 10_000),
    ),
    min_size=1,
    max_size=2,
)


def change_text(text: str, edits: Sequence[tuple[str, int, int]]) -> str:
    """Apply changes to the lines of a text."""
    lines = text.split("\n")
    for kind, place, other in edits:
        at = place % len(lines)
        if kind == "double":
            lines.insert(other % len(lines), lines[at])
        elif kind == "drop":
            lines.pop(at)
        elif kind == "add":
            lines.insert(at, _LINES[other % len(_LINES)])
        elif kind == "indent":
            lines[at] = " " * (other % 5) + lines[at].lstrip()
        elif kind == "join":
            lines[at] += lines[other % len(lines)]
        else:
            lines.insert(other % len(lines), lines.pop(at))
        lines = lines or [""]
    return "\n".join(lines)


# Files ------------------------------------------------------------------------------------------


def linked_copy(folder: Path, source: Path, changed: Mapping[str, bytes | None]) -> Path:
    """A folder with links to the files of another, except for those that are changed.

    Args:
        folder: Made anew.
        changed: Content by name; None leaves the file out.
    """
    for old in folder.iterdir() if folder.exists() else ():
        old.unlink()
    folder.mkdir(exist_ok=True)
    for path in source.iterdir():
        if path.name not in changed:
            (folder / path.name).symlink_to(path)
    for name, content in changed.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return folder

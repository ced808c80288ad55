"""YAML files → plain values: the core schema of YAML 1.2, read strictly and within limits.

The constructor stands on parser events: libyaml's where PyYAML has it, else PyYAML's own, which are
slower and equal. What differs from PyYAML's `SafeLoader`:

- Scalars are those of YAML 1.2: `12:30:45`, `2021-01-01`, `yes`, `on`, `1_000` and `0b11` are text,
  `1e-3` is a number. Beyond the standard, a number with a zero in front (`0010`) is text, for that
  is an id. Keys are text.
- A key that stands twice in a mapping is an error, as are unknown tags.
- Aliases are copied, so that a change of one place is none of another; the copies are counted.
- `<<` merges mappings as in YAML 1.1, which 1.2 left out and everyone uses.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

from yaml.error import MarkedYAMLError, YAMLError
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

from terrafuse.errors import ConfigError, cut, shown

try:
    from yaml._yaml import CParser
except ImportError:  # PyYAML was built without libyaml
    CParser = None  # type: ignore[assignment, misc]

#: No settings are as large: 20,000 scenes take 4 MB.
MOST_BYTES = 64 << 20
_MOST_DEPTH = 40
# Values that aliases stand for, in all.
_MOST_COPIED = 500_000
_MOST_DIGITS = 100

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{sign + word: math.inf for sign in ("", "+") for word in (".inf", ".Inf", ".INF")},
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
#: Everything but text begins so.
_FIRST_OF_OTHERS = frozenset("0123456789+-.~nNtTfF")
_CORE = "tag:yaml.org,2002:"
_TYPES: dict[str, tuple[type, ...]] = {
    f"{_CORE}null": (type(None),),
    f"{_CORE}bool": (bool,),
    f"{_CORE}int": (int,),
    f"{_CORE}float": (float, int),
}
_UNREADABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
# Escapes may write what files cannot hold: NUL, which ends names, and halves of characters.
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_OTHER_FORMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x00\x00": "UTF-32"}
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)

Keys = Sequence[str | int]
# libyaml's and PyYAML's are different classes.
_Event = Any
_Mark = Any


class Place(NamedTuple):
    """Line and column in a text, from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"


class NotYamlError(Exception):
    """A text is not YAML, or not such as is read.

    Args:
        place: Where.
        problem: What, with what to do.
    """

    def __init__(self, place: Place, problem: str) -> None:
        super().__init__(f"{place}: {problem}")
        self.place, self.problem = place, problem


class YamlValues(dict[str, Any]):
    """Keys and values of a file, which know where in it they stand.

    Args:
        values: Keys and values.
        text: Content of the file.
        typed: Dotted keys that the command line has set instead.
    """

    def __init__(self, values: dict[str, Any], text: str, typed: Collection[str] = ()) -> None:
        super().__init__(values)
        self._text, self._typed = text, typed

    def place(self, keys: Keys) -> str:
        """Where a value stands, " (line 3, column 5)"; of what is absent, what would hold it.

        Args:
            keys: See `keys_in`.
        """
        real = keys_in(self, keys)
        dotted = ".".join(map(str, real))
        if any(dotted == typed or dotted.startswith(f"{typed}.") for typed in self._typed):
            return " (set on the command line)"
        wanted = {real[:n] for n in range(1, len(real) + 1)}
        found = dict(_find_places(self._text, wanted)) if wanted else {}
        return f" ({found[max(found, key=len)]})" if found else ""


def keys_in(values: Any, keys: Keys) -> tuple[str | int, ...]:
    """The keys and positions that lead to a value, of those that pydantic gives.

    Members of unions, which pydantic names too, and what does not exist are passed over.
    """
    real: list[str | int] = []
    for key in keys:
        is_index = isinstance(values, list) and isinstance(key, int) and 0 <= key < len(values)
        if is_index or (isinstance(values, dict) and key in values):
            values = values[key]
            real.append(key)
    return tuple(real)


def read_file(path: Path, text_keys: Collection[str] = ()) -> tuple[Any, str]:
    """Read a YAML file.

    Args:
        text_keys: See `parse_yaml`.

    Returns:
        Its value, and its text.

    Raises:
        ConfigError: No such file, no regular file, too large, not UTF-8, or not YAML.
    """
    text = _read_text(path)
    try:
        return parse_yaml(text, text_keys), text
    except NotYamlError as fault:
        raise ConfigError(f"'{cut(path, 1000)}' is not valid YAML: {fault}") from None


def parse_yaml(text: str, text_keys: Collection[str] = (), *, plain: bool = False) -> Any:
    """Parse the YAML document in a text; None if there is none.

    Args:
        text_keys: Keys whose values are text as they stand, without quotes too: an id `1e3` is no
            number. Only null is no text.
        plain: Use PyYAML's own parser even where libyaml is there.

    Raises:
        NotYamlError: It is not YAML, or not such as is read.
    """
    text = text.removeprefix("\ufeff")
    found = _UNREADABLE.search(text)
    if found:
        raise NotYamlError(
            _place_at(text, found.start()),
            f"the character U+{ord(found[0]):04X} cannot stand in YAML. Remove it",
        )
    try:
        return _Builder(_open(text, plain), text_keys).document()
    except MarkedYAMLError as error:
        raise _fault_of(error, text) from None
    except YAMLError as error:
        raise NotYamlError(Place(1, 1), cut(error, 200)) from None


def _read_text(path: Path) -> str:
    name = cut(path, 1000)
    try:
        about = path.stat()
        kind = next((name for matches, name in _KINDS if matches(about.st_mode)), None)
        if kind is not None:
            raise ConfigError(f"'{name}' is {kind}, not a file. Name a YAML file")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"there is no file '{name}'") from None
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise ConfigError(f"'{name}' cannot be read: {reason}") from None
    if len(content) > MOST_BYTES:
        raise ConfigError(
            f"'{name}' is too large for settings: {max(about.st_size, len(content)):,} bytes, of "
            f"at most {MOST_BYTES:,}. Is it another file?"
        )
    form = _OTHER_FORMS.get(content[:2])
    if form is not None:
        raise ConfigError(f"'{name}' cannot be read: it is {form}. Save it as UTF-8")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        place = _place_at(before, len(before))
        raise ConfigError(
            f"'{name}' cannot be read: {place}: byte 0x{content[error.start]:02x} is not UTF-8. "
            "Save the file as UTF-8"
        ) from None


class _Events(Protocol):
    def get_event(self) -> _Event: ...


class _PlainParser(Reader, Scanner, Parser):
    """PyYAML's parser in Python."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)


def _open(text: str, plain: bool = False) -> _Events:
    return _PlainParser(text) if plain or CParser is None else CParser(text)


class _Builder:
    """Constructor of the values that events describe."""

    def __init__(self, events: _Events, text_keys: Collection[str]) -> None:
        self._next = events.get_event
        self._text_keys = text_keys
        self._anchors: dict[str, Any] = {}
        self._copied = 0
        # Most scalars are met many times: kinds, splits, sizes of windows.
        self._known: dict[str, Any] = {}

    def document(self) -> Any:
        """Build the only document; None if there is none."""
        self._next()  # the stream's start
        event = self._next()
        if type(event) is StreamEndEvent:
            return None
        value = self._build(self._next(), 0)
        self._next()  # the document's end
        event = self._next()
        if type(event) is DocumentStartEvent:
            _refuse(event, "a second document begins. Keep one in a file")
        return value

    def _build(self, event: _Event, depth: int) -> Any:
        kind = type(event)
        if kind is AliasEvent:
            return self._copy_of(event, depth)
        if depth > _MOST_DEPTH:
            _refuse(event, f"values are nested deeper than {_MOST_DEPTH} levels")
        value: Any
        if kind is ScalarEvent:
            value = self._scalar(event)
        elif kind is MappingStartEvent:
            _check_tag(event, "map")
            value = self._mapping(depth + 1)
        else:
            _check_tag(event, "seq")
            value = []
            while type(item := self._next()) is not SequenceEndEvent:
                value.append(self._build(item, depth + 1))
        if event.anchor is not None:
            self._anchors[event.anchor] = value
        return value

    def _mapping(self, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        places: dict[str, _Mark] = {}
        merged: list[dict[str, Any]] = []
        while type(event := self._next()) is not MappingEndEvent:
            key = self._key(event)
            if key in places:
                first = _place(places[key])
                _refuse(event, f"key {shown(key)} stands twice, first in {first}. Delete one")
            places[key] = event.start_mark
            inner = self._next()
            if key == "<<" and event.implicit[0]:
                merged += _mappings(self._build(inner, depth), inner)
            elif key in self._text_keys and type(inner) is ScalarEvent and inner.implicit[0]:
                values[key] = None if _WORDS.get(inner.value, "") is None else inner.value
                if inner.anchor is not None:
                    self._anchors[inner.anchor] = values[key]
            else:
                values[key] = self._build(inner, depth)
        for other in merged:
            values = other | values
        return values

    def _key(self, event: _Event) -> str:
        if type(event) is AliasEvent:
            value = self._copy_of(event, 0)
        elif type(event) is ScalarEvent:
            value = event.value
            if event.anchor is not None:
                self._anchors[event.anchor] = value
        else:
            value = None
        if not isinstance(value, str):
            _refuse(event, "a key must be a text, not keys and values or a list")
        if not value:
            _refuse(event, "a key is missing before ':'")
        return value

    def _scalar(self, event: _Event) -> Any:
        text: str = event.value
        if not event.implicit[0]:
            if _NO_TEXT.search(text):
                _refuse(event, f"{shown(text)} holds a character that no text has. Remove it")
            return text if event.implicit[1] else self._tagged(event)
        if text and text[0] not in _FIRST_OF_OTHERS:
            return text
        if text not in self._known:
            self._known[text] = _resolve(event)
        return self._known[text]

    def _tagged(self, event: _Event) -> Any:
        if event.tag == f"{_CORE}str":
            return event.value
        if event.tag == "!":  # which PyYAML has read over already
            return _resolve(event)
        if event.tag not in _TYPES:
            _check_tag(event, "str")
        value = _resolve(event)
        if type(value) not in _TYPES[event.tag]:
            kind = event.tag.removeprefix(_CORE)
            _refuse(event, f"{shown(event.value)} is not of the type that its tag '!!{kind}' names")
        return float(value) if event.tag == f"{_CORE}float" else value

    def _copy_of(self, event: _Event, depth: int) -> Any:
        if event.anchor not in self._anchors:
            _refuse(
                event,
                f"the alias {shown('*' + event.anchor)} stands for nothing complete before it. "
                f"Mark that with {shown('&' + event.anchor)}",
            )
        return self._copy(self._anchors[event.anchor], event, depth)

    def _copy(self, value: Any, event: _Event, depth: int) -> Any:
        self._copied += 1
        if self._copied > _MOST_COPIED:
            _refuse(event, f"the aliases stand for more than {_MOST_COPIED:,} values")
        if depth > _MOST_DEPTH:
            _refuse(event, f"values are nested deeper than {_MOST_DEPTH} levels")
        if isinstance(value, dict):
            return {key: self._copy(inner, event, depth + 1) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._copy(inner, event, depth + 1) for inner in value]
        return value


def _resolve(event: _Event) -> Any:
    """The value of a scalar without quotes by the core schema."""
    text: str = event.value
    if text in _WORDS:
        return _WORDS[text]
    is_integer = _INTEGER.fullmatch(text) or _BASED.fullmatch(text)
    if not is_integer and not _FLOAT.fullmatch(text):
        return text
    if len(text) > _MOST_DIGITS:
        _refuse(
            event,
            f"{shown(text)} is a number of {len(text):,} characters, of at most {_MOST_DIGITS}. "
            "Write a text in quotes",
        )
    if is_integer:
        return int(text, 0)
    value = float(text)
    if math.isinf(value):
        _refuse(event, f"the number {shown(text)} is too large")
    return value


def _mappings(value: Any, event: _Event) -> list[dict[str, Any]]:
    """The mappings that a `<<` names."""
    found = value if isinstance(value, list) else [value]
    if not all(isinstance(item, dict) for item in found):
        _refuse(event, "'<<' takes keys and values from a mapping, and this is none")
    return found


def _check_tag(event: _Event, own: str) -> None:
    if event.tag not in (None, "!", f"{_CORE}{own}"):
        tag = event.tag.replace(_CORE, "!!")
        _refuse(event, f"the tag {shown(tag)} is not known. Remove it")


def _refuse(event: _Event, problem: str) -> NoReturn:
    raise NotYamlError(_place(event.start_mark), problem)


def _place(mark: _Mark) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _place_at(text: str, offset: int) -> Place:
    start = max(text.rfind("\n", 0, offset), text.rfind("\r", 0, offset)) + 1
    line = len(re.findall("\r\n|\r|\n", text[:start])) + 1
    return Place(line, offset - start + 1)


def _fault_of(error: MarkedYAMLError, text: str) -> NotYamlError:
    """A parser's error in one line, with what to do about the usual ones."""
    mark = error.problem_mark or error.context_mark
    place = Place(1, 1) if mark is None else _place(mark)
    problem = cut(error.problem or error.context or "it cannot be parsed", 200)
    if error.context and error.context_mark and error.context_mark.line + 1 != place.line:
        problem += f" {cut(error.context, 100)} that begins in line {error.context_mark.line + 1}"
    lines = text.splitlines()
    line = lines[place.line - 1] if place.line <= len(lines) else ""
    character = line[place.column - 1 : place.column]
    if character == "\t":
        problem += ". Indent with blanks, not with tabs"
    elif "mapping values are not allowed" in problem:
        problem += ". Put a text that holds ': ' into quotes, and indent keys alike"
    elif "cannot start any token" in problem:
        problem += f". Put a text that begins with {character!r} into quotes"
    return NotYamlError(place, problem)


def _find_places(
    text: str, wanted: Collection[tuple[str | int, ...]]
) -> Iterator[tuple[tuple[str | int, ...], Place]]:
    """Where values stand in a valid document: keys and positions → place of key or item."""
    events = _open(text.removeprefix("\ufeff"))

    def walk(event: _Event, keys: tuple[str | int, ...]) -> Iterator[Any]:
        if type(event) is SequenceStartEvent:
            number = 0
            while type(item := events.get_event()) is not SequenceEndEvent:
                yield from here(item, (*keys, number))
                yield from walk(item, (*keys, number))
                number += 1
        elif type(event) is MappingStartEvent:
            while type(item := events.get_event()) is not MappingEndEvent:
                key = (*keys, getattr(item, "value", ""))
                yield from here(item, key)
                yield from walk(events.get_event(), key)

    def here(event: _Event, keys: tuple[str | int, ...]) -> Iterator[Any]:
        if keys in wanted:
            yield keys, _place(event.start_mark)

    events.get_event(), events.get_event()  # the starts of the stream and of the document
    yield from walk(events.get_event(), ())

"""Instructions in the package's messages, found in the source, and the tests that follow them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from terrafuse.errors import TerrafuseError

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "terrafuse"

# Verbs by which messages tell what to do.
_VERBS = (
    "accept|add|align|allow|ask|assign|begin|bring|buffer|build|call|change|check|choose|clip|"
    "close|collect|compare|complete|continue|convert|copy|correct|create|crop|cut|declare|"
    "define|delete|describe|disable|divide|do|download|draw|drop|enable|enter|evaluate|"
    "exchange|exclude|export|expand|extract|fetch|fill|fix|free|generate|georeference|get|"
    "give|go|ignore|increase|indent|insert|install|join|keep|label|leave|let|list|load|look|lower|make|"
    "map|mark|mask|mend|merge|mount|move|name|omit|open|order|pass|pick|pre-train|predict|prepare|"
    "pretrain|provide|put|quote|raise|read|reduce|register|remove|rename|repair|repeat|"
    "replace|reproject|request|resample|rescale|resize|restore|resume|run|save|say|scale|see|"
    "select|separate|set|sign|sort|specify|spell|split|start|state|stop|store|subtract|swap|"
    "switch|take|tile|train|translate|try|turn|unpack|uninstall|update|upgrade|use|validate|"
    "wait|warp|write"
)
_BEFORE = r"(?:^|[.;:,(!?—–]\s|→\s|\n\s*)"
_LINKS = (
    r"(?:or |and |then |otherwise |else |if [^.;:]*?, |to [^,.;:]*?, |either |first |only |instead "
    r"|also |just |do not |not )*"
)
_INSTRUCTION = re.compile(
    rf"(?:{_BEFORE}{_LINKS}|\b(?:or|and) )(?:{_VERBS})\b(?!['-])"
    # Options of commands stand for themselves: "to use others: -O labels=FOLDER".
    r"|[:,] (?:'?terrafuse |-O |--[a-z])",
    re.IGNORECASE,
)
#: Keywords of texts that explain commands and settings.
_HELP = ("help", "description", "epilog", "title")
# "module:function | fragment of the text"
_PLACE = re.compile(r"[a-z_0-9.]+:[\w.]* \| .+")


@dataclass(frozen=True)
class Instruction:
    """A text in the source that tells the user to do something.

    Args:
        module: Where, without the package.
        function: Qualified name, "" at the top of the module.
        text: The text, with {…} for what is filled in.
        line: Of the file.
    """

    module: str
    function: str
    text: str
    line: int = field(compare=False)
    is_instruction: bool = True

    def __str__(self) -> str:
        return f"{self.module}:{self.function} | {self.text}"

    def is_named_by(self, place: str) -> bool:
        """Tell whether "module:function | fragment" is this one."""
        where, _, fragment = place.partition(" | ")
        return where == f"{self.module}:{self.function}" and fragment in self.text


def instructions() -> list[Instruction]:
    """List the texts of the package that tell what to do, apart from helps and docstrings."""
    return [text for text in every_text() if text.is_instruction]


@cache
def every_text() -> list[Instruction]:
    """List all texts of the package of three words or more, but helps and docstrings."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found += texts_of(path.read_text("utf-8"), module)
    return found


def texts_of(source: str, module: str) -> list[Instruction]:
    """List the texts of a module."""
    found = []
    for function, text, line, is_remedy in _texts(ast.parse(source), ""):
        words = " ".join(text.split())
        tells = is_remedy or _INSTRUCTION.search(words) is not None
        if len(words.split()) > 2:
            found.append(Instruction(module, function, words, line, tells))
    return found


def claims(folder: Path) -> dict[str, list[str]]:
    """Find the places that tests under a folder name: test (or constant of it) → places."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            texts = [_text(inner) for inner in ast.walk(node)]
            places = [text for text in texts if text and _PLACE.fullmatch(text)]
            if places:
                name = f"{path.relative_to(ROOT).as_posix()}::{getattr(node, 'name', '')}"
                found.setdefault(name, []).extend(places)
    return found


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def _texts(node: ast.AST, function: str) -> Iterator[tuple[str, str, int, bool]]:
    """Yield (function, text, line, whether it is called a remedy)."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inner = f"{function}.{child.name}".lstrip(".")
            yield from _texts(child, inner)
        elif not _is_explanation(child):
            yield from _texts_of(child, function, _is_remedy(child))


def _texts_of(
    node: ast.AST, function: str, is_remedy: bool
) -> Iterator[tuple[str, str, int, bool]]:
    text = _text(node)
    if text is None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                yield from _texts(child, f"{function}.{child.name}".lstrip("."))
            elif not _is_explanation(child):
                yield from _texts_of(child, function, is_remedy or _is_remedy(child))
        return
    yield function, text, getattr(node, "lineno", 0), is_remedy
    for inner in ast.walk(node):
        if isinstance(inner, ast.FormattedValue):
            yield from _texts_of(inner.value, function, is_remedy)


def _text(node: ast.AST) -> str | None:
    """A literal, with {…} for what is filled in; None for other expressions."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or "{…}" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = _text(node.left), _text(node.right)
        return None if parts == (None, None) else "".join(part or "{…}" for part in parts)
    return None


def _is_remedy(node: ast.AST) -> bool:
    """Tell whether a statement or keyword gives a remedy: by its name, in the doctor."""
    if isinstance(node, ast.keyword):
        return node.arg == "remedy"
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return any(isinstance(t, ast.Name) and t.id == "remedy" for t in targets)


def _is_explanation(node: ast.AST) -> bool:
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)  # docstrings
    if isinstance(node, ast.keyword):
        return node.arg in _HELP
    return isinstance(node, ast.Call) and _called(node) in ("Argument", "Option")


class Said:
    """What was said, once it is known."""

    text = ""

    def __contains__(self, part: str) -> bool:
        return part in self.text

    def find(self, pattern: str) -> str:
        """Return the one group, or whole match, of a pattern."""
        (found,) = re.findall(pattern, self.text)
        return str(found)


def _fragment(place: str) -> str:
    assert _PLACE.fullmatch(place), place
    return place.partition(" | ")[2]


@contextmanager
def refused(place: str, kind: type[Exception] = TerrafuseError) -> Iterator[Said]:
    """Expect an error that says the instruction at a place."""
    found = Said()
    with pytest.raises(kind) as error:
        yield found
    found.text = " ".join(str(error.value).split())
    assert _fragment(place) in found.text, found.text


@contextmanager
def warned(place: str, kind: type[Warning] = UserWarning) -> Iterator[Said]:
    """Expect a warning that says the instruction at a place."""
    found = Said()
    with pytest.warns(kind) as record:
        yield found
    texts = [" ".join(str(item.message).split()) for item in record]
    found.text = next((text for text in texts if _fragment(place) in text), "")
    assert found.text, texts


def said(place: str, text: str) -> Said:
    """Expect the instruction at a place in a text."""
    found = Said()
    found.text = " ".join(text.split())
    assert _fragment(place) in found.text, found.text
    return found


def told(place: str, findings: Iterable[Any], code: str | None = None) -> Any:
    """Find the first finding that says the instruction at a place."""
    every: Sequence[Any] = list(findings)
    for finding in every:
        if _fragment(place) in str(finding) and code in (None, finding.code):
            return finding
    raise AssertionError(f"{place} is not among {[str(finding) for finding in every]}")

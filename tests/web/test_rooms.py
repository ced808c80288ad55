"""The parts of `web`: imports run downwards, as between the rooms of the package."""

from __future__ import annotations

import ast
from pathlib import Path

import terrafuse
from architecture import imports

WEB = Path(terrafuse.__file__).parent / "web"
#: Part → the others that it may know; "" are the modules beside them, which all may.
KNOWS: dict[str, set[str]] = {
    "": {"access", "viewer"},  # the command's functions import the viewer when they are called
    "access": set(),
    "viewer": {"access"},
    "service": {"access", "viewer"},
}


def test_parts_know_only_parts_below_them() -> None:
    parts = {path.parent.name for path in WEB.glob("*/__init__.py")}
    assert parts == set(KNOWS) - {""}
    found: dict[str, set[str]] = {part: set() for part in KNOWS}
    for path in WEB.rglob("*.py"):
        own, *_ = (*path.relative_to(WEB).parts[:-1], "")
        for item in imports(ast.parse(path.read_text("utf-8")), []):
            whole = f"{item.module}.{item.name or ''}".removeprefix("terrafuse.web.")
            found[own] |= {whole.partition(".")[0]} & parts - {own}
    assert found == KNOWS

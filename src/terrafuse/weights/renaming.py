"""Renaming of parameters in third-party checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

#: Pattern of a part of a name, and its replacement, as for `re.sub`.
Rename = tuple[str, str | Callable[[re.Match[str]], str]]


def rename(name: str, renames: Sequence[Rename], numbered: Sequence[str] | None = None) -> str:
    """Apply all renames to a name; one that none matches stays, for `load_strict` to report.

    Args:
        name: Name of a parameter or buffer.
        renames: Applied one after the other.
        numbered: What "<1>", "<2>" … in a replacement stand for; default: 0, 1 …, for originals
            that count from 1.
    """
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)

    def resolve(found: re.Match[str]) -> str:
        index = int(found[1]) - 1
        return str(index) if numbered is None else numbered[index]

    return re.sub(r"<(\d)>", resolve, name)

"""Names of values in foreign checkpoints → ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

#: Pattern of a part of a name, and what takes its place, as for `re.sub`.
Rename = tuple[str, str | Callable[[re.Match[str]], str]]


def rename(name: str, renames: Sequence[Rename], numbered: Sequence[str] | None = None) -> str:
    """A name after all renames; one that none of them meets stays, for `load_strict` to report.

    Args:
        name: Of a value.
        renames: Applied one after the other.
        numbered: What "<1>", "<2>" … of a replacement stand for at the end; default: 0, 1 …, for
            originals that count from 1.
    """
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)

    def resolve(found: re.Match[str]) -> str:
        index = int(found[1]) - 1
        return str(index) if numbered is None else numbered[index]

    return re.sub(r"<(\d)>", resolve, name)

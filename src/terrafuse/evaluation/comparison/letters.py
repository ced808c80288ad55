"""Letters beside the rows of a table: rows that share one cannot be told apart.

Reference:
    Piepho: An Algorithm for a Letter-Based Representation of All-Pairwise Comparisons. Journal of
    Computational and Graphical Statistics 13, 2004 (insert and absorb).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from string import ascii_lowercase


def letters(names: Sequence[str], told_apart: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the letters of each row.

    Args:
        names: Rows, the best first: it gets "a".
        told_apart: Pairs of which one is better.
    """
    columns = [frozenset(names)]
    for one, other in told_apart:
        split = []
        for column in columns:
            both = one in column and other in column
            split += [column - {one}, column - {other}] if both else [column]
        unique = list(dict.fromkeys(split))
        columns = [c for c in unique if not any(c < bigger for bigger in unique)]
    columns.sort(key=lambda column: [name not in column for name in names])
    own = {name: [k for k, column in enumerate(columns) if name in column] for name in names}
    return {name: "".join(_letter(k) for k in found) for name, found in own.items()}


def _letter(number: int) -> str:
    """Return a … z, then a1, b1 and so on."""
    round_, place = divmod(number, len(ascii_lowercase))
    return ascii_lowercase[place] + (str(round_) if round_ else "")

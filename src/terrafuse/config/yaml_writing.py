"""Plain values → YAML that every reader takes for the same values.

A text is put into quotes wherever YAML 1.1 or 1.2 would take it for something else: an id `0010`
is an octal number to one, a decimal one to another, and text to ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from terrafuse.errors import OutputError, shown

# Not a text to YAML 1.1 or 1.2: numbers, also to the base of 60, dates, and words.
_OTHER_TYPE = re.compile(
    r"[-+.]?[0-9][0-9_.]*(?:[eE][-+]?[0-9]+)?|[-+]?0[xob][0-9a-f_]+"
    r"|[-+]?[0-9][0-9_]*(?::[0-9_.]+)+|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*|[-+]?\.(?:inf|nan)"
    r"|\.\.\.|null|true|false|yes|no|on|off|y|n",
    re.IGNORECASE,
)
# Texts that mean the same without quotes, between braces and brackets too, and outside of them.
_PLAIN = re.compile(r"[\w./$();^](?:[^\s,\[\]{}:?#]|[ ](?=[^\s,\[\]{}:?#]))*")
_PLAIN_IN_BLOCK = re.compile(r"[\w./$();^](?:[^\s:#]|:(?=\S)|(?<=\S)#|[ ](?=[^\s#]))*")
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")


def to_yaml(values: Mapping[str, Any], *, flow_leaves: bool = True) -> str:
    """Write keys and values as blocks.

    Args:
        flow_leaves: Write what holds only scalars in one line: `bands: [red, green]`.

    Raises:
        OutputError: A text cannot be written: it holds NUL, or is no valid Unicode.
    """
    return "".join(f"{line}\n" for line in _block(values, "", flow_leaves)) or "{}\n"


def to_flow(value: Any) -> str:
    """Write a value in one line: `{id: a, window: [0, 0, 8, 8]}`.

    Raises:
        OutputError: As of `to_yaml`.
    """
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_text(k)}: {to_flow(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(to_flow, value))}]"
    return _text(value) if isinstance(value, str) else _scalar(value)


def _block(
    value: Mapping[str, Any] | Sequence[Any], indent: str, flow_leaves: bool
) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            start = f"{indent}{_text(key)}:"
            if _is_inline(inner, flow_leaves):
                yield f"{start} {_inline(inner)}"
            else:
                yield start
                deeper = f"{indent}  " if isinstance(inner, Mapping) else indent
                yield from _block(inner, deeper, flow_leaves)
        return
    for inner in value:
        if _is_inline(inner, flow_leaves):
            yield f"{indent}- {_inline(inner)}"
        else:
            first, *others = _block(inner, f"{indent}  ", flow_leaves)
            yield f"{indent}- {first[len(indent) + 2 :]}"
            yield from others


def _is_inline(value: Any, flow_leaves: bool) -> bool:
    if not isinstance(value, Mapping | list | tuple) or not value:
        return True
    inner = value.values() if isinstance(value, Mapping) else value
    return flow_leaves and not any(isinstance(item, Mapping | list | tuple) for item in inner)


def _inline(value: Any) -> str:
    return _text(value, _PLAIN_IN_BLOCK) if isinstance(value, str) else to_flow(value)


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, float):
        raise TypeError(f"{type(value).__name__} is no plain value")
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    text = float.__repr__(value)
    # To YAML 1.1 a number with an exponent has a point.
    return text if "." in text else text.replace("e", ".0e")


def _text(text: str, plain: re.Pattern[str] = _PLAIN) -> str:
    if not text.isprintable():
        if _UNWRITABLE.search(text):
            raise OutputError(
                f"{shown(text)} cannot be written into a YAML file: it is not valid Unicode, or "
                "holds NUL. Rename what is called so"
            )
        return f'"{"".join(map(_escaped, text))}"'
    if plain.fullmatch(text) and not _OTHER_TYPE.fullmatch(text):
        return text
    return "'" + text.replace("'", "''") + "'"


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    code = ord(character)
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )

"""Stored tensors and facts of published implementations (tests/golden).

What a test takes out of a file is noted by file and name, so that `tests/test_golden.py` finds what
nobody compares: with the environment variable GOLDEN_READ, it is written there at the end.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import ItemsView, Iterator, ValuesView
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"
#: File ("mfnet/adapter.safetensors") → names that were taken out of it.
READ: dict[str, set[str]] = {}


class Stored(dict[str, Any]):
    """Content of a file, which notes what is taken out of it; looking at names takes nothing out.

    Args:
        values: By name.
        file: Where they are stored.
        prefix: What their names begin with there.
    """

    def __init__(self, values: dict[str, Any], file: str, prefix: str = "") -> None:
        super().__init__(values)
        self.file, self.prefix = file, prefix

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        READ.setdefault(self.file, set()).add(self.prefix + name)
        return value

    def __iter__(self) -> Iterator[str]:  # otherwise dict(self) would bypass `__getitem__`
        return super().__iter__()

    def __or__(self, other: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        return self.plain() | dict(other)

    def __ror__(self, other: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        return dict(other) | self.plain()

    def get(self, name: str, default: Any = None) -> Any:  # type: ignore[override]
        if name not in self:
            return default
        return self[name]

    def pop(self, name: str, *default: Any) -> Any:  # type: ignore[override]
        return super().pop(name, *default)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        return self.plain().items()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        return self.plain().values()

    def plain(self) -> dict[str, Any]:
        """All of it."""
        return {name: self[name] for name in self}


def load_tensors(name: str) -> dict[str, Tensor]:
    """Tensors of a file ("mfnet/adapter") by name."""
    file = f"{name}.safetensors"
    return Stored(load_file(GOLDEN / file), file)


def load_metadata(name: str) -> dict[str, str]:
    """Texts stored beside the tensors of a file."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        return dict(file.metadata() or {})


def load_golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a file ("mfnet/adapter") by name, and its settings."""
    return load_tensors(name), json.loads(load_metadata(name)["config"])


def load_facts(name: str) -> dict[str, Any]:
    """Facts of a file ("mfnet/protocol") by name."""
    file = f"{name}.json"
    return Stored(json.loads((GOLDEN / file).read_text(encoding="utf-8")), file)


def load_rows(name: str) -> list[Any]:
    """Rows of a file ("mfnet/state_dict_keys_vit_b_lora"), which count as one."""
    file = f"{name}.json"
    rows: list[Any] = Stored({"rows": json.loads((GOLDEN / file).read_text())}, file)["rows"]
    return rows


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names begin with a prefix, without it."""
    if isinstance(tensors, Stored):
        inner = {k.removeprefix(prefix): dict.__getitem__(tensors, k) for k in tensors
                 if k.startswith(prefix)}  # fmt: skip
        return Stored(inner, tensors.file, tensors.prefix + prefix)
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@atexit.register
def _write() -> None:
    if os.environ.get("GOLDEN_READ"):
        found = {file: sorted(names) for file, names in READ.items()}
        Path(os.environ["GOLDEN_READ"]).write_text(json.dumps(found))

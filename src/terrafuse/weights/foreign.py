"""Weights of other programs: prefixes, averages and number formats, recognised and recorded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from terrafuse.errors import WeightsMismatchError
from terrafuse.weights.files import read_content

#: Under these names training programs hold a model inside another one.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.")
#: Likewise, an average of its weights over the steps.
AVERAGES = ("ema.", "model_ema.", "ema_model.")
# Prefixes in one name, one inside the other.
_MOST_NESTED = 5

Convert = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class ForeignWeights:
    """Values of a file of another program.

    Args:
        values: By the names that the caller's conversion gives them.
        note: What was recognised and changed while reading, in words; empty where nothing was.
    """

    values: dict[str, Tensor]
    note: str = ""


def read_foreign(
    source: str | Path,
    wanted: Collection[str] | Callable[[Mapping[str, Tensor]], int],
    *,
    convert: Convert = dict,
    sha256: str | None = None,
) -> ForeignWeights:
    """Read weights that another program saved.

    Names may have one of `PREFIXES` or `AVERAGES` in front, or several, one inside the other. Those
    are dropped under which most of the wanted names lie, with all names beside them; an average is
    preferred to the weights beside it. Nothing is dropped inside a name. Floating-point values of
    any kind become float32.

    Args:
        source: As in `read_weights`.
        wanted: Names that the model looks for, or a function that counts them in converted weights.
        convert: Names of the file, without prefixes → those of the model. It may raise
            `WeightsMismatchError` for names that it does not know.
        sha256: As in `read_weights`.

    Raises:
        WeightsError: As `read_weights`, and of `convert`.
    """
    state, place = read_content(source, sha256=sha256)
    stored = sorted({str(v.dtype).removeprefix("torch.") for v in state.values() if _is_other(v)})
    state = {name: v.float() if _is_other(v) else v for name, v in state.items()}
    prefix, values = _best(state, wanted, convert)
    notes = [f"averaged weights '{place}'"] if place else []
    if prefix:
        beside = sum(not name.startswith(prefix) for name in state)
        others = f", {beside} others left out" if beside else ""
        notes.append(f"names under '{prefix}'{others}")
    if stored:
        notes.append(f"{', '.join(stored)} read as float32")
    return ForeignWeights(dict(values), "; ".join(notes))


def _best(
    state: dict[str, Tensor],
    wanted: Collection[str] | Callable[[Mapping[str, Tensor]], int],
    convert: Convert,
) -> tuple[str, Mapping[str, Tensor]]:
    """The prefix under which most wanted names lie, and the converted values under it."""
    prefixes = prefixes_in(state)
    if not prefixes:
        return "", convert(state)
    found: dict[str, Mapping[str, Tensor]] = {}
    refused: dict[str, WeightsMismatchError] = {}
    for prefix in ("", *prefixes):
        inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        try:
            found[prefix] = convert(inner)
        except WeightsMismatchError as error:
            refused[prefix] = error
    counts = {prefix: _count(wanted, values) for prefix, values in found.items()}
    most = max(counts, key=lambda p: (counts[p], _is_average(p), -len(p)), default="")
    enough = 1 if callable(wanted) else len(wanted) / 2
    if counts.get(most, 0) >= enough:
        return most, found[most]
    if refused:
        raise next(iter(refused.values()))
    return "", found[""]


def prefixes_in(names: Collection[str]) -> list[str]:
    """List the prefixes that names begin with: "model.", "model.encoder." …, shorter first."""
    found: set[str] = set()
    for name in names:
        prefix = ""
        for _ in range(_MOST_NESTED):
            rest = name[len(prefix) :]
            word = next((w for w in (*PREFIXES, *AVERAGES) if rest.startswith(w)), None)
            if word is None:
                break
            prefix += word
            found.add(prefix)
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def _count(
    wanted: Collection[str] | Callable[[Mapping[str, Tensor]], int], values: Mapping[str, Tensor]
) -> int:
    return wanted(values) if callable(wanted) else sum(name in values for name in wanted)


def _is_average(prefix: str) -> bool:
    return any(f".{word}" in f".{prefix}" for word in AVERAGES)


def _is_other(value: Tensor) -> bool:
    return value.is_floating_point() and value.dtype != torch.float32

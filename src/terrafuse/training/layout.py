"""Order of a model's numbers in memory while it trains: by channel, or by pixel."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import log
from typing import Any

import torch
from torch import nn

from terrafuse.config import TrainingConfig
from terrafuse.segmenter import Segmenter

#: Part of the time that the other order must spare for "auto" to choose it.
_LEAST_GAIN = 0.05


@dataclass(frozen=True)
class Layout:
    """Order of the numbers of images, maps and kernels.

    Args:
        channels_last: Whether all channels of a pixel lie side by side.
        reason: Why, in words.
    """

    channels_last: bool
    reason: str

    def apply(self, segmenter: Segmenter) -> None:
        """Bring the kernels into this order; maps follow those of the layers that make them."""
        if self.channels_last:
            segmenter.to(memory_format=torch.channels_last)


def choose_layout(
    segmenter: Segmenter,
    config: TrainingConfig,
    *,
    device: str,
    processes: int = 1,
    begun: bool | None = None,
) -> Layout:
    """Choose the order in which a run computes.

    Results are equal but for rounding. "auto" follows what was measured (`layouts.json`, by
    `benchmarks/train.py --layouts`) of the method, with weights of the same kind, at the nearest
    number of parameters.

    Args:
        device: Type of the device.
        processes: Of the run.
        begun: As the run was begun, if it is resumed: it goes on so, to the last bit.
    """
    if begun is not None:
        return Layout(begun, "as the run was begun")
    if config.channels_last != "auto":
        return Layout(config.channels_last, "by training.channels_last")
    table = read_table()
    if device != table["device"]:
        return Layout(False, f"not measured on {device}")
    if processes > 1:
        return Layout(False, "not measured with several processes")
    row = _nearest(table["rows"], segmenter)
    if row is None:
        named = f"method '{segmenter.method_name}' of mostly {kind_of(segmenter)}"
        return Layout(False, f"not measured with {named}")
    share = row["channels_last"]
    told = (
        f"a step of {row['method']} with {row['parameters'] / 1e6:.3g} million parameters took "
        f"{share:.2f} of the time so ({table['machine']}, {table['date']})"
    )
    return Layout(share <= 1 - _LEAST_GAIN, told)


def kind_of(segmenter: Segmenter) -> str:
    """Return what most of a model's weights are: "convolutions" or "products" of matrices."""
    kernels = sum(m.weight.numel() for m in segmenter.modules() if isinstance(m, nn.Conv2d))
    return "convolutions" if 2 * kernels > _count(segmenter) else "products"


def _count(segmenter: Segmenter) -> int:
    return sum(p.numel() for p in segmenter.parameters())


@cache
def read_table() -> dict[str, Any]:
    """Return what was measured, where and when."""
    text = files("terrafuse.training").joinpath("layouts.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _nearest(rows: Iterable[Mapping[str, Any]], segmenter: Segmenter) -> Mapping[str, Any] | None:
    wanted = (segmenter.method_name, kind_of(segmenter))
    own = [row for row in rows if (row["method"], row["kind"]) == wanted]
    size = log(max(1, _count(segmenter)))
    return min(own, key=lambda row: abs(log(row["parameters"]) - size), default=None)

"""MCANet's attention without subnormal numbers, beside softmaxes as they are.

    python benchmarks/attention.py

CPU seconds of a forward and a backward pass of one sample, one thread, both ways in one run. Maps
are rectified normal values; convolutions are started as the method starts them.
"""

from __future__ import annotations

import time
from datetime import date
from unittest.mock import patch

import torch
from torch import Tensor

from machine import processor
from terrafuse import __version__ as VERSION
from terrafuse.methods import mcanet
from terrafuse.methods.mcanet import CrossAttention

#: Channels and side of the maps: of the low level at 256 px, of the high level at 256 px.
SIZES = ((256, 64), (2048, 32))


def cpu_seconds(channels: int, side: int, renormalized: bool) -> float:
    """One forward and one backward pass."""
    torch.manual_seed(0)
    maps = [torch.randn(1, channels, side, side).relu() for _ in range(2)]
    attention = CrossAttention(channels, renormalized=renormalized)
    start = time.process_time()
    attention(maps).abs().mean().backward()
    return time.process_time() - start


def softmax(scores: Tensor, factors: int) -> Tensor:
    """What stands in for ours."""
    del factors
    return scores.softmax(dim=-1)


def main() -> None:
    torch.set_num_threads(1)
    print(f"{date.today()}, {processor()}, torch {torch.__version__}, terrafuse {VERSION}")
    print("| channels | side | renormalized | as it is, s | ours, s | ratio |")
    print(f"|{'---|' * 3}{'---:|' * 3}")
    for channels, side in SIZES:
        for renormalized in (False, True):
            ours = cpu_seconds(channels, side, renormalized)
            with (
                patch.object(mcanet, "_attention", softmax),
                patch.object(mcanet, "_normal_gradients", lambda x: x),
                patch.object(mcanet, "_LEAST_SHARE", 0.0),
            ):
                plain = cpu_seconds(channels, side, renormalized)
            print(
                f"| {channels} | {side} | {renormalized} | {plain:.1f} | {ours:.1f} "
                f"| {plain / ours:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

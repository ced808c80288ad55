"""MCANet's attention without subnormal numbers, beside one with them.

    python benchmarks/attention.py

CPU seconds of a forward and a backward pass of one sample, one thread, both ways in one run: of the
attention alone, on maps of rectified normal values; and of the network with its defaults as it
starts, in a batch of two windows of 256 px, divided by two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import date
from functools import partial
from unittest.mock import patch

import torch

from machine import processor
from terrafuse import __version__ as VERSION
from terrafuse.contract import MODALITIES, random_images
from terrafuse.methods import create_segmenter, mcanet
from terrafuse.methods.mcanet import CrossAttention

#: Channels and side of the maps: of the low level at 256 px, of the high level at 256 px.
SIZES = ((256, 64), (2048, 32))


def attention_seconds(channels: int, side: int, renormalized: bool) -> float:
    """A forward and a backward pass of the attention."""
    torch.manual_seed(0)
    maps = [torch.randn(1, channels, side, side).relu() for _ in range(2)]
    attention = CrossAttention(channels, renormalized=renormalized)
    start = time.process_time()
    attention(maps).abs().mean().backward()
    return time.process_time() - start


def network_seconds(renormalized: bool) -> float:
    """A forward and a backward pass of the network, per sample."""
    torch.manual_seed(0)
    options = {"renormalized": renormalized}
    segmenter = create_segmenter("mcanet", MODALITIES[:2], 7, options).train()
    images = random_images(segmenter.modalities, (256, 256), 2)
    start = time.process_time()
    segmenter(images).logits.logsumexp(1).mean().backward()
    return (time.process_time() - start) / 2


@contextmanager
def plain() -> Iterator[None]:
    """Shares and gradients as they come."""
    with (
        patch.object(mcanet, "_shares", torch.exp),
        patch.object(mcanet, "_normal_gradients", lambda x: x),
    ):
        yield


def row(what: str, renormalized: bool, measure: Callable[[], float]) -> str:
    seconds = []
    for way in (plain, nullcontext):
        with way():
            seconds.append(measure())
    before, ours = seconds
    return f"| {what} | {renormalized} | {before:.1f} | {ours:.1f} | {before / ours:.1f} |"


def main() -> None:
    torch.set_num_threads(1)
    print(f"{date.today()}, {processor()}, torch {torch.__version__}, terrafuse {VERSION}")
    print("| what | renormalized | as it is, s | ours, s | ratio |\n|---|---|---:|---:|---:|")
    for renormalized in (False, True):
        for channels, side in SIZES:
            what = f"attention, {channels} channels, {side} × {side}"
            measure = partial(attention_seconds, channels, side, renormalized)
            print(row(what, renormalized, measure), flush=True)
        measure = partial(network_seconds, renormalized)
        print(row("network, 256 px", renormalized, measure), flush=True)


if __name__ == "__main__":
    main()

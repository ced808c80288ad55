"""What channels-last tensors, bfloat16 and torch.compile do to the model's share of mapping.

    python benchmarks/forward.py [--methods early_fusion cmx] [--rounds 5] [--compile]

The pass is that of a map: evaluation mode, windows of 256 pixels, a batch of four, one thread.
CPU-seconds of the thread are counted, so that other work on the machine matters little; the ways
take turns, and the medians of all rounds are compared.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from machine import processor
from terrafuse.methods import create_segmenter
from terrafuse.modalities import Modality
from terrafuse.segmenter import Segmenter
from terrafuse.version import VERSION

MODALITIES = (
    Modality("optical", ("red", "green", "blue", "nir"), kind="optical"),
    Modality("dsm", ("height",), kind="elevation", unit="m"),
)
OPTIONS = {
    "early_fusion": {"backbone": "resnet18", "decoder": "upernet"},
    "late_fusion": {"backbone": "resnet18", "decoder": "upernet"},
}
Images = dict[str, Tensor]


def ways(segmenter: Segmenter, *, compiled: bool) -> dict[str, Callable[[Images], Tensor]]:
    """Name → pass."""
    last = copy.deepcopy(segmenter).to(memory_format=torch.channels_last)

    def plain(images: Images) -> Tensor:
        return segmenter(images).logits

    def channels_last(images: Images) -> Tensor:
        moved = {k: x.contiguous(memory_format=torch.channels_last) for k, x in images.items()}
        return last(moved).logits

    def bfloat16(images: Images) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return segmenter(images).logits.float()

    found = {"as it is": plain, "channels-last": channels_last, "bf16-mixed": bfloat16}
    if compiled:
        whole = torch.compile(segmenter)
        found["torch.compile"] = lambda images: whole(images).logits
    return found


def measure(name: str, args: argparse.Namespace) -> None:
    torch.manual_seed(0)
    segmenter = create_segmenter(name, MODALITIES, 6, OPTIONS.get(name, {})).eval()
    images = {
        m.name: torch.rand(args.batch, len(m.bands), args.crop, args.crop) for m in MODALITIES
    }
    passes = ways(segmenter, compiled=args.compile)
    seconds: dict[str, list[float]] = {way: [] for way in passes}
    with torch.inference_mode() if not args.compile else nullcontext(), torch.no_grad():
        expected = passes["as it is"](images)
        largest = {way: float((run(images) - expected).abs().max()) for way, run in passes.items()}
        for _ in range(args.rounds):
            for way, run in passes.items():
                start = time.process_time()
                run(images)
                seconds[way].append(time.process_time() - start)
    plain = statistics.median(seconds["as it is"])
    for way, own in seconds.items():
        each = statistics.median(own)
        print(
            f"| {name} | {way} | {1e3 * each / args.batch:.0f} | {plain / each:.2f} | "
            f"{largest[way]:.1g} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="*", default=["early_fusion", "cmx"])
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also torch.compile: minutes more")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"terrafuse {VERSION}, torch {torch.__version__}, {datetime.date.today()}, {processor()}")
    print("| method | way | CPU-ms per window | times as fast | largest difference of logits |")
    print("|---|---|---:|---:|---:|")
    for name in args.methods:
        measure(name, args)


if __name__ == "__main__":
    main()

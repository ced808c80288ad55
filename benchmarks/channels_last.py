"""Which strided 1 × 1 convolutions end the process in channels last, by a fault of torch's.

    python benchmarks/channels_last.py

Forward and backward passes of convolutions by their channels, each in a process of its own, under
glibc's check of the heap (`malloc.check`), which finds writes beyond a tensor's memory at once;
without it the process may go on for a while. Needs Linux with glibc.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date

import torch

from machine import processor

CHANNELS = (1, 2, 3, 4, 5, 8, 12, 15, 16, 24, 32, 64)
CHECKED = {"GLIBC_TUNABLES": "glibc.malloc.check=3", "LD_PRELOAD": "libc_malloc_debug.so.0"}
PASS = """
import sys, torch
channels, layout = int(sys.argv[1]), getattr(torch, sys.argv[2])
convolution = torch.nn.Conv2d(channels, 8, 1, stride=2).to(memory_format=layout)
images = torch.rand(2, channels, 128, 64, requires_grad=True)
convolution(images.to(memory_format=layout)).sum().backward()
"""


def ending(channels: int, layout: str) -> str:
    """How the process of one convolution ends."""
    command = [sys.executable, "-c", PASS, str(channels), layout]
    code = subprocess.run(command, env=os.environ | CHECKED, stderr=subprocess.DEVNULL).returncode
    return "passes" if code == 0 else f"ends with code {code}"


def main() -> None:
    print(f"{date.today()}, {processor()}, torch {torch.__version__}")
    print("| channels | channels last | torch's own layout |\n|---:|---|---|")
    for channels in CHANNELS:
        last, own = ending(channels, "channels_last"), ending(channels, "contiguous_format")
        print(f"| {channels} | {last} | {own} |", flush=True)


if __name__ == "__main__":
    main()

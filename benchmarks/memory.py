"""Derived and measured memory of training steps and of mapping, on a CPU.

    python benchmarks/memory.py [--only METHOD]

Each row is a process of its own: it builds the model, runs two steps (or maps two batches of
windows) of noise, and takes the highest resident memory, without files mapped into it, above that
before the model was built. What the check before a start counts with is printed beside it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from machine import processor
from terrafuse.config import TrainingConfig
from terrafuse.describe import without_values
from terrafuse.describe.costs import inference_peak, optimizer_values, step_peak
from terrafuse.describe.memory import CPU_ONCE, CPU_PART, build_again
from terrafuse.methods import create_segmenter
from terrafuse.modalities import Modality
from terrafuse.segmenter import Segmenter
from terrafuse.training.optim import create_optimizer, parameter_groups

MODALITIES = (
    Modality("rgb", ("r", "g", "b"), kind="optical"),
    Modality("dsm", ("z",), kind="elevation"),
)
CLASSES = 6


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Args:
        method: As in run.yaml.
        options: Of the method.
        batch: Samples.
        crop: Height and width of samples.
        learns: Whether it trains; else it maps.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 4
    crop: int = 256
    learns: bool = True


_VIT = {"backbone": "vit_tiny_patch16_224", "decoder": "segformer"}
CASES = (
    Case("single", {"backbone": "resnet18", "decoder": "segformer"}, batch=8),
    Case("late_fusion", {"backbone": "convnext_atto"}, crop=192),
    Case("mfnet", _VIT),
    Case("cmx", {"backbone": "mit_b0"}, batch=2),
    Case("single", {"backbone": "resnet18", "decoder": "segformer"}, batch=8, learns=False),
    Case("cmx", {"backbone": "mit_b0"}, batch=8, learns=False),
    Case("mfnet", _VIT, batch=8, learns=False),
)


def derived(segmenter: Segmenter, case: Case) -> float:
    """Bytes that the check before a start counts with, and the weights."""
    shapes = without_values(partial(build_again, segmenter))
    weights = sum(x.nbytes for x in (*segmenter.parameters(), *segmenter.buffers()))
    if not case.learns:
        return weights + inference_peak(shapes, case.crop, case.batch) * (1 + CPU_PART) + CPU_ONCE
    learning = sum(p.nbytes for p in segmenter.parameters() if p.requires_grad)
    held = weights + optimizer_values(TrainingConfig()) * learning
    return held + step_peak(shapes, case.crop, case.batch) * (1 + CPU_PART) + CPU_ONCE


def measured(case: Case) -> tuple[float, Segmenter]:
    """Highest memory of two steps, in bytes, and the model."""
    modalities = MODALITIES[: 1 if case.method == "single" else 2]
    F.conv2d(torch.randn(1, 3, 32, 32), torch.randn(4, 3, 3, 3))  # loads the kernels
    before, files = _resident()
    segmenter = create_segmenter(case.method, modalities, CLASSES, case.options)
    images = {
        m.name: torch.randn(case.batch, len(m.bands), case.crop, case.crop) for m in modalities
    }
    for _ in range(2):
        _map(segmenter, images) if not case.learns else _learn(segmenter, images, case)
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return highest - before - (_resident()[1] - files), segmenter


def _map(segmenter: Segmenter, images: dict[str, torch.Tensor]) -> None:
    with torch.inference_mode():
        segmenter.eval()(images)


def _learn(segmenter: Segmenter, images: dict[str, torch.Tensor], case: Case) -> None:
    optimizer = _optimizers.setdefault(id(segmenter), _optimizer(segmenter))
    output = segmenter.train()(images)
    labels = torch.randint(0, CLASSES, (case.batch, case.crop, case.crop))
    terms = [F.cross_entropy(x, labels) for x in (output.logits, *output.aux_logits)]
    loss = torch.stack([*terms, *output.losses.values()]).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


_optimizers: dict[int, torch.optim.Optimizer] = {}


def _optimizer(segmenter: Segmenter) -> torch.optim.Optimizer:
    config = TrainingConfig()
    groups = parameter_groups(segmenter, config)
    return create_optimizer(dict(segmenter.named_parameters()), groups, config)


def _resident() -> tuple[int, int]:
    """Resident bytes of this process, and those of files among them."""
    pages = Path("/proc/self/statm").read_text().split()
    return int(pages[1]) * resource.getpagesize(), int(pages[2]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="the rows of one method")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        case = Case(**json.loads(args.case))
        found, segmenter = measured(case)
        print(json.dumps([found, derived(segmenter, case)]))
        return
    print(f"{processor()}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| method | work | batch | crop | measured, MB | derived, MB | derived / measured |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for case in CASES:
        if args.only not in (None, case.method):
            continue
        command = [sys.executable, __file__, "--case", json.dumps(asdict(case))]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found, expected = json.loads(done.stdout.splitlines()[-1])
        cells = [
            case.method, "training" if case.learns else "mapping", str(case.batch), str(case.crop),
            f"{found / 1e6:,.0f}", f"{expected / 1e6:,.0f}", f"{expected / found:.2f}",
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

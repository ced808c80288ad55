"""Every method as a graph: how far from the model, how long to make, how large.

    python benchmarks/exports.py [--methods mfnet upseg] [--all-options] [--markdown]

Small models of the contract tests, on one thread; difference and labels over windows of several
sizes with and without gaps, and with each modality absent where the method takes that. Seconds are
of CPU time.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from machine import processor
from terrafuse.contract import Case, random_images
from terrafuse.exporting import open_onnx, open_program, program_to_onnx, to_program
from terrafuse.exporting.running import Graph
from terrafuse.methods import METHODS
from terrafuse.segmenter import Segmenter
from terrafuse.version import VERSION

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
from small_methods import SMALL

Images = dict[str, Tensor]
_COLUMNS = ("method", "torch: difference", "s", "MB", "ONNX: difference", "s", "MB", "other labels")


@dataclass
class Row:
    """A line of the table; differences are per unit of the largest logit, at least of 1."""

    name: str
    program: tuple[float, float, float]
    onnx: tuple[float, float, float]
    other: float

    def cells(self) -> list[str]:
        """The columns as text."""
        parts = [self.name]
        for difference, seconds, size in (self.program, self.onnx):
            parts += [f"{difference:.1e}", f"{seconds:.1f}", f"{size:.2f}"]
        return [*parts, f"{100 * self.other:.4f} %"]


def measure(name: str, number: int, options: dict[str, object]) -> Row:
    """Make both graphs of a method, and compare them with it."""
    segmenter = Case(name, options).make()
    with TemporaryDirectory() as folder:
        start = time.process_time()
        program = to_program(segmenter)
        made = time.process_time()
        archive = Path(folder) / "model.pt2"
        torch.export.save(program, archive)
        saved = time.process_time()
        path = program_to_onnx(program, segmenter, Path(folder) / "model.onnx")
        written = time.process_time()
        seconds = (made - start, made - start + written - saved)
        sizes = [file.stat().st_size / 1e6 for file in (archive, path)]
        modalities = segmenter.modalities
        graphs = [open_program(archive, modalities), open_onnx(path, modalities)]
        found = [compare(segmenter, graph) for graph in graphs]
    one, two = (
        (difference, own, size)
        for (difference, _), own, size in zip(found, seconds, sizes, strict=True)
    )
    return Row(f"{name} {number}" if number else name, one, two, max(x for _, x in found))


@torch.no_grad()
def compare(segmenter: Segmenter, graph: Graph) -> tuple[float, float]:
    """Largest difference, and the share of pixels with another label."""
    largest, other, pixels = 0.0, 0, 0
    for images in windows(segmenter):
        wanted, found = segmenter(images).logits, graph(images)
        difference = float((found - wanted).abs().max()) / max(1.0, float(wanted.abs().max()))
        largest = max(largest, difference)
        other += int((found.argmax(dim=1) != wanted.argmax(dim=1)).sum())
        pixels += wanted[:, 0].numel()
    return largest, other / pixels


def windows(segmenter: Segmenter) -> list[Images]:
    """Batches of one to three windows of several sizes, whole, with gaps, lacking modalities."""
    unit, least = segmenter.size_unit, segmenter.least_units
    batches = []
    for batch, rows, cols in ((1, least, least + 2), (2, least + 3, least), (3, least, least)):
        images = random_images(segmenter.modalities, (rows * unit, cols * unit), batch)
        gaps = {name: x.clone() for name, x in images.items()}
        for x in gaps.values():
            x[0, :, :, : x.shape[-1] // 3] = torch.nan
        batches += [images, gaps]
        for name in images if segmenter.supports_missing else ():
            lacking = {key: x.clone() for key, x in images.items()}
            lacking[name][-1] = torch.nan
            batches.append(lacking)
    return batches


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--all-options", action="store_true", help="every small model of a method")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"terrafuse {VERSION}, torch {torch.__version__}, {processor()}")
    line = "| " + " | ".join(["{}"] * len(_COLUMNS)) + " |" if args.markdown else (
        "{:18} {:>17} {:>6} {:>6} {:>17} {:>6} {:>6} {:>12}"
    )  # fmt: skip
    print(line.format(*_COLUMNS))
    if args.markdown:
        print(line.format(*["---"] * len(_COLUMNS)))
    for name in args.methods:
        kinds = SMALL.get(name, [{}])
        for number, options in enumerate(kinds if args.all_options else kinds[:1]):
            print(line.format(*measure(name, number, options).cells()), flush=True)


if __name__ == "__main__":
    main()

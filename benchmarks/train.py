"""Training against its model alone: rate, waiting, memory, time to the first step.

    python benchmarks/train.py [--methods cmx mfnet …] [--rounds 2] [--steps 24]
    python benchmarks/train.py --layouts FILE
    python benchmarks/train.py --compile [--methods …] [--rounds 4]

Rows are the methods at the small sizes of the tests; data are made up: 24 scenes of 256 × 256
pixels, GeoTIFF, deflate. Rounds alternate between three ways in one process:

- whole: `terrafuse train` with one reading process, augmentation as by default, no validation but
  at the end, which does not count;
- alone: the model on random tensors, with the same loss, optimiser, clipping and schedule;
- transcription: formulas of the paper as they stand (`benchmarks/transcriptions/`), on the same
  tensors with torch's AdamW, where there is one.

Seconds are CPU time of the training process per step, of the fastest round, since other work on the
machine does not change it; where one core is free for the reading process, the share is that of the
rates as well. "waited" is the wall time in which training waits for a batch; "reader" the CPU
time of the reading process per step: it is the faster one as long as that is below "whole".
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import rasterio
import torch
import yaml
from rasterio.transform import from_origin
from torch import Tensor, nn

import costs
import gpu
from machine import processor
from terrafuse.config import RunConfig
from terrafuse.config.base import parse_settings
from terrafuse.contract.inputs import CLASSES, MODALITIES, Case, random_images, statistics_of
from terrafuse.errors import ModelError
from terrafuse.methods import create_segmenter
from terrafuse.modalities import Modality
from terrafuse.samples import Batch
from terrafuse.segmenter import Segmenter
from terrafuse.training import train
from terrafuse.training.compiling import CompiledSegment
from terrafuse.training.losses import create_loss
from terrafuse.training.task import SegmentationTask
from terrafuse.version import VERSION

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
from small_methods import SMALL

SIZE, SCENES = 256, 24
#: Of models whose layout is measured; the others need more memory than machines share.
_MOST_PARAMETERS = 250_000_000
#: Steps that do not count: caches fill, and batches read ahead are used up.
WARM = 6
TRANSCRIBED = ("mfnet", "cmx", "upseg", "vsgnet", "croma")


@dataclass
class Row:
    """What was measured of a method, a value per round.

    Args:
        whole: CPU seconds of a step of training.
        alone: Of the model alone.
        transcribed: Of the transcription.
        reader: Of the reading process per step.
        waited: Wall seconds of waiting per step.
        rate: Wall rate of training over that of the model alone.
        first: CPU seconds before the first step, reader apart.
        peak_mb: Most memory of the training process.
    """

    method: str
    whole: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    transcribed: list[float] = field(default_factory=list)
    reader: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    peak_mb: float = 0.0

    @property
    def share(self) -> float:
        """Rate of training in parts of that of the model alone, by CPU time."""
        return min(self.alone) / min(self.whole)

    def cells(self, batch: int) -> list[str]:
        """The columns as text."""
        times = f"{min(self.transcribed) / min(self.whole):.2f} ×" if self.transcribed else ""
        return [
            self.method,
            f"{batch / min(self.whole):.1f}",
            f"{1e3 * min(self.alone):.1f}",
            f"{1e3 * min(self.whole):.1f}",
            f"{self.share:.2f}",
            times,
            f"{1e3 * min(self.reader):.1f}",
            f"{1e3 * min(self.waited):.1f}",
            f"{self.first[0]:.2f}",
            f"{min(self.first):.2f}",
            f"{self.peak_mb:.0f}",
        ]


_COMPILED = ["method", "compiling, CPU s", "as written, ms", "compiled, ms", "share"]
_HEADS = [
    "method", "samples per CPU s", "alone, ms", "whole, ms", "share", "of transcription",
    "reader, ms", "waited, ms", "first step, CPU s", "again", "peak, MB",
]  # fmt: skip


def make_data(folder: Path, modalities: tuple[Modality, ...], size: int, scenes: int) -> Path:
    """A manifest of scenes with noise around their labels, as sensors store them."""
    rng = np.random.default_rng(0)
    kinds = {"optical": "uint16", "sar": "float32", "elevation": "float32"}
    entries = []
    for i in range(scenes):
        labels = rng.integers(0, CLASSES, (16, 16), dtype=np.uint8).repeat(size // 16, 0)
        labels = labels.repeat(size // 16, 1)
        files = {"labels": labels[None]}
        for m in modalities:
            side = m.size_at(size)
            noise = rng.normal(300, 50, (len(m.bands), side, side))
            files[m.name] = noise.astype(kinds.get(m.kind, "float32"))
        for name, values in files.items():
            step = 10 * size / values.shape[1]
            with rasterio.open(
                folder / f"{name}_{i}.tif", "w", driver="GTiff", count=len(values),
                height=values.shape[1], width=values.shape[2], dtype=values.dtype,
                crs="EPSG:32633", compress="deflate",
                transform=from_origin(500_000 + 4000 * i, 5_000_000, step, step),
            ) as file:  # fmt: skip
                file.write(values)
        split = "val" if i == scenes - 1 else "train"
        entries.append({"id": str(i), "split": split} | {n: f"{n}_{i}.tif" for n in files})
    manifest = {
        "classes": [{"name": f"class {k}", "code": k} for k in range(CLASSES)],
        "modalities": {
            m.name: {"kind": m.kind, "bands": list(m.bands), "scale": m.scale}
            | ({"wavelengths_um": list(m.wavelengths_um)} if m.wavelengths_um else {})
            for m in modalities
        },
        "scenes": entries,
    }
    path = folder / "dataset.yaml"
    path.write_text(yaml.safe_dump(manifest))
    return path


@dataclass
class Clock:
    """Times at which steps of one training begin, taken from inside."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)

    def tick(self) -> None:
        """A step begins."""
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def of_a_step(self, times: list[float]) -> float:
        """Mean seconds of a step that counts."""
        return (times[-1] - times[WARM]) / (len(times) - 1 - WARM)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Look at trainings within the block."""
        start, load = SegmentationTask.on_train_batch_start, SegmentationTask.train_dataloader

        def begin(task: SegmentationTask, batch: Any, number: int) -> None:
            self.tick()
            start(task, batch, number)

        def loader(task: SegmentationTask) -> Any:
            found = load(task)
            found.batches = self._timed(found.batches)
            return found

        SegmentationTask.on_train_batch_start = begin  # type: ignore[method-assign]
        SegmentationTask.train_dataloader = loader  # type: ignore[method-assign]
        try:
            yield
        finally:
            SegmentationTask.on_train_batch_start = start  # type: ignore[method-assign]
            SegmentationTask.train_dataloader = load  # type: ignore[method-assign]

    def _timed(self, batches: Any) -> Iterator[Any]:
        found = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(found, None)
            self.waited.append(time.perf_counter() - start)
            if batch is None:
                return
            yield batch


def measure_whole(config: RunConfig, out: Path, row: Row) -> float:
    """Train; return wall seconds of a step."""
    clock, start = Clock(), time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    with clock.listening():
        train(config, out, progress=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    row.first.append(clock.cpu[0] - start)
    row.whole.append(clock.of_a_step(clock.cpu))
    row.waited.append(sum(clock.waited[WARM:-1]) / max(1, len(clock.waited[WARM:-1])))
    used = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    row.reader.append(used / config.training.steps)
    return clock.of_a_step(clock.wall)


def random_batch(config: RunConfig, modalities: tuple[Modality, ...]) -> Batch:
    """Noise in the range of the data."""
    count, crop = config.data.batch_size, config.data.crop_size
    generator = torch.Generator().manual_seed(0)
    sizes = {m.name: m.size_at(crop) for m in modalities}
    images = {
        m.name: 300
        + 50 * torch.randn(count, len(m.bands), *[sizes[m.name]] * 2, generator=generator)
        for m in modalities
    }
    valid = {name: torch.ones(count, size, size, dtype=torch.bool) for name, size in sizes.items()}
    labels = torch.randint(CLASSES, (count, crop, crop), generator=generator)
    return Batch(images, valid, labels, (), ())


def measure_alone(config: RunConfig, modalities: tuple[Modality, ...], method: str) -> Clock:
    """Steps of the model on random tensors, with the run's loss and optimiser."""
    training = config.training
    segmenter = Case(method, config.method.options, modalities).start(modalities)
    scheme_counts = torch.ones(CLASSES, dtype=torch.int64)
    loss = create_loss(training.losses, _scheme(), scheme_counts)
    task = SegmentationTask(segmenter, loss, training, lambda *_: ())
    made = task.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    batch = random_batch(config, modalities)
    learn = [p for p in task.parameters() if p.requires_grad]

    def step() -> None:
        output = segmenter(batch.images, batch.valid)
        loss(output, batch.labels, training.aux_weight)["total"].backward()
        torch.nn.utils.clip_grad_norm_(learn, training.gradient_clip or torch.inf)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()

    return _run(step, training.steps)


def measure_transcription(
    config: RunConfig, modalities: tuple[Modality, ...], method: str
) -> Clock | None:
    """Steps of a transcription on the same tensors; None where there is none."""
    if method not in TRANSCRIBED:
        return None
    import importlib

    torch.manual_seed(0)
    transcription: Any = importlib.import_module(f"transcriptions.{method}")
    model: nn.Module = transcription.build(modalities, CLASSES, config.method.options)
    batch = random_batch(config, modalities)
    labels = batch.labels
    learn = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learn, lr=1e-4)

    def step() -> None:
        images = {name: (image - 300) / 50 for name, image in batch.images.items()}
        logits: Tensor = model(images)
        nn.functional.cross_entropy(logits, labels).backward()
        torch.nn.utils.clip_grad_norm_(learn, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return _run(step, config.training.steps)


def _run(step: Callable[[], None], steps: int) -> Clock:
    clock = Clock()
    for _ in range(steps + 1):
        clock.tick()
        step()
    return clock


def _scheme() -> Any:
    from terrafuse.classes import ClassScheme

    return ClassScheme(tuple(f"class {k}" for k in range(CLASSES)))


def measure(method: str, options: dict[str, Any], args: argparse.Namespace) -> Row:
    """All rounds of a method, in this process."""
    row = Row(method)
    modalities = Case(method).inputs
    if method in TRANSCRIBED:  # as in the papers: an image and one band, of equal pixels
        modalities = (MODALITIES[0], replace(MODALITIES[2], scale=1.0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = make_data(folder, modalities, SIZE, SCENES)
        time.sleep(2.1)  # nothing is kept of files that were just written
        config = parse_settings(
            RunConfig,
            {
                "data": {
                    "manifest": str(manifest), "crop_size": args.crop, "batch_size": args.batch,
                    "workers": 1,
                },
                "method": {"name": method, **options},
                "training": {
                    "steps": args.steps, "validate_every": args.steps, "accelerator": "cpu",
                    "validation_split": "none", **json.loads(args.training),
                },
            },
            "benchmark",
        )  # fmt: skip
        for number in range(args.rounds):
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak of before
            wall = measure_whole(config, folder / f"run{number}", row)
            row.peak_mb = max(row.peak_mb, _peak_mb())
            alone = measure_alone(config, modalities, method)
            row.alone.append(alone.of_a_step(alone.cpu))
            row.rate.append(alone.of_a_step(alone.wall) / wall)
            if clock := measure_transcription(config, modalities, method):
                row.transcribed.append(clock.of_a_step(clock.cpu))
    return row


def measure_row(method: str, options: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """`measure`, for another process to read."""
    return vars(measure(method, options, args))


def layout_rows(
    methods: list[str], sizes: str
) -> Iterator[tuple[str, Callable[[], Segmenter], int, int]]:
    """Name, model, crop and batch: all small options of the tests, and one model of a paper's size.

    Without those that take more memory than such a machine has.
    """
    for method in methods if sizes != "paper" else ():
        for options in SMALL[method]:
            case = Case(method, options)
            yield method, case.start, 128, 4
    found: dict[str, costs.Row] = {}
    for row in chain(gpu.FURTHER, costs.rows()):
        found.setdefault(row.method, row)
    for method in methods if sizes != "small" else ():
        row = found.get(method)
        if row is not None and sum(p.numel() for p in row.build().parameters()) < _MOST_PARAMETERS:
            yield method, partial(_of_paper, row), 128, 2


def kind_of(segmenter: Segmenter) -> str:
    """Say what most of a model's weights are: kernels of convolutions, or matrices."""
    kernels = sum(m.weight.numel() for m in segmenter.modules() if isinstance(m, nn.Conv2d))
    total = sum(p.numel() for p in segmenter.parameters())
    return "convolutions" if 2 * kernels > total else "products"


def _of_paper(row: costs.Row) -> Segmenter:
    torch.manual_seed(0)
    segmenter = create_segmenter(row.method, row.modalities, row.classes, row.options)
    segmenter.set_statistics(statistics_of(row.modalities))
    return segmenter


def measure_layouts(method: str, segmenter: Segmenter, crop: int, batch: int, rounds: int) -> Any:
    """CPU time of a forward and a backward pass, channels last and in bf16, in parts of torch's."""
    images = random_images(segmenter.modalities, (crop, crop), batch)
    found: dict[str, list[float]] = {"torch's own": [], "channels_last": [], "bf16": []}
    segmenter.train()
    for number in range(rounds + 1):
        for way, seconds in found.items():
            last = torch.channels_last if way == "channels_last" else torch.contiguous_format
            segmenter.to(memory_format=last)  # type: ignore[call-overload]
            start = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=way == "bf16"):
                output = segmenter(images)
            maps = (output.logits, *output.aux_logits)
            sum(x.float().logsumexp(1).mean() for x in maps).backward()
            segmenter.zero_grad()
            seconds += [time.process_time() - start] * (number > 0)
    own = min(found["torch's own"])
    return {
        "method": method,
        "kind": kind_of(segmenter),
        "parameters": sum(p.numel() for p in segmenter.parameters()),
        "crop": crop,
        "batch": batch,
        "milliseconds": round(1e3 * own, 1),
        "channels_last": round(min(found["channels_last"]) / own, 2),
        "bf16": round(min(found["bf16"]) / own, 2),
    }


def write_layouts(methods: list[str], sizes: str, rounds: int, path: Path) -> None:
    """Measure, and write the rows; others that are there stay."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    head = {
        "command": "python benchmarks/train.py --layouts",
        "device": "cpu",
        "machine": f"{processor()}, one thread",
        "date": str(date.today()),
        "torch": torch.__version__,
    }
    named = ("method", "kind", "parameters")
    for method, build, crop, batch in layout_rows(methods, sizes):
        try:
            found = measure_layouts(method, build(), crop, batch, rounds)
            rows = [row for row in rows if any(row[key] != found[key] for key in named)] + [found]
        except ModelError as error:  # options of a test for other modalities
            print(f"{method}: {error}")
            continue
        print(rows[-1], flush=True)
        lines = ",\n".join(f"    {json.dumps(row)}" for row in rows)
        text = json.dumps(head, indent=2, ensure_ascii=False)[:-2]
        path.write_text(f'{text},\n  "rows": [\n{lines}\n  ]\n}}\n', encoding="utf-8")


def _cpu_of_all() -> float:
    """CPU seconds of this process and of the compilers that it has started."""
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + others.ru_utime + others.ru_stime


def measure_compiled(method: str, options: dict[str, Any], args: argparse.Namespace) -> list[str]:
    """Compile a small model, and compare forward and backward passes; the cells of a row."""
    segmenter = Case(method, options).start().train()
    images = random_images(segmenter.modalities, (args.crop, args.crop), args.batch)
    batch = Batch(images, {}, None, (), ())

    def step(use: AbstractContextManager[None]) -> None:
        with use:
            output = segmenter(images)
        maps = (output.logits, *output.aux_logits)
        (sum(x.logsumexp(1).mean() for x in maps) + sum(output.losses.values())).backward()
        segmenter.zero_grad()

    step(nullcontext())
    compiled, start = CompiledSegment(segmenter, torch.device("cpu")), _cpu_of_all()
    step(compiled.training(batch))
    first = _cpu_of_all() - start
    plain, other = [], []
    for _ in range(args.rounds):
        for use, seconds in ((nullcontext, plain), (partial(compiled.training, batch), other)):
            start = time.process_time()
            step(use())
            seconds.append(time.process_time() - start)
    share = min(other) / min(plain)
    times = [f"{1e3 * min(seconds):.1f}" for seconds in (plain, other)]
    return [method, f"{first:.0f}", *times, f"{share:.2f}"]


def _peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="*", default=sorted(SMALL), choices=sorted(SMALL))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--crop", type=int, default=SIZE)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--training", default="{}", help="further settings of training, as JSON")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile instead")
    parser.add_argument("--layouts", type=Path, help="measure layouts instead, into this file")
    parser.add_argument("--sizes", default="both", choices=["small", "paper", "both"])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.layouts:
        warnings.simplefilter("ignore")
        write_layouts(args.methods, args.sizes, args.rounds, args.layouts)
        return
    if args.one:
        warnings.simplefilter("ignore")
        measured = measure_compiled if args.compile else measure_row
        print(json.dumps(measured(args.one, SMALL[args.one][0], args)))
        return
    print(f"{date.today()}, {processor()}, torch {torch.__version__}, terrafuse {VERSION}")
    heads = _COMPILED if args.compile else _HEADS
    print(f"| {' | '.join(heads)} |\n|---{'|---:' * (len(heads) - 1)}|")
    shares = []
    for method in args.methods:
        command = [sys.executable, *sys.argv, "--one", method]
        found = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        if found.returncode:
            last = (found.stderr.strip().splitlines() or [""])[-1]
            print(f"| {method} | exit code {found.returncode}: {last[:200]} |", flush=True)
            continue
        values = json.loads(found.stdout.splitlines()[-1])
        if args.compile:
            print(f"| {' | '.join(values)} |", flush=True)
            continue
        row = Row(**values)
        shares.append(row.share)
        print(f"| {' | '.join(row.cells(args.batch))} |", flush=True)
    if shares:
        print(f"share: least {min(shares):.2f}, median {median(shares):.2f}")


if __name__ == "__main__":
    main()

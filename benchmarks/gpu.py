"""What a GPU does with every method: is it right, how fast is it, and what holds it up.

    benchmarks/gpu.sh [--out FOLDER] [--methods cmx mfnet …] [--seconds 450]
    benchmarks/gpu.sh --device cpu --quick      that the script works, without a GPU

Methods have their paper's size (`benchmarks/costs.py`) and random values; nothing is fetched.
Six parts, as far as the time goes; what is left out is said:

- ceilings: operations per second of a large product of matrices, and bytes per second of a copy;
- right: logits in bf16 and fp16, and by torch.compile, against float32 without TF32: the largest
  difference in parts of the largest logit, and the share of pixels with the same class;
- predict, train: windows and samples per second of the model alone, plain, in bf16 and compiled;
  operations of the forward pass as a share of the ceiling of its precision (training counts three
  passes); bytes of all layers' outputs, written and read once, as a share of the copy's, which is
  less than what moves; peak memory of the device;
- engine: windows per second of a whole map, from a GeoTIFF to a class map, as a share of those of
  the model alone;
- gaps: a profile of training steps, and the three longest times in which the device had nothing to
  do, with what ran before and after.

Tables say the device and the date. Without a GPU a "gap" is between operations of the processor.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import costs
from machine import processor
from terrafuse.classes import ClassScheme
from terrafuse.config import LossConfig
from terrafuse.contract.inputs import random_images, statistics_of
from terrafuse.data import scene_from_rasters
from terrafuse.describe.costs import forward_flops
from terrafuse.methods import create_segmenter
from terrafuse.prediction import ScenePredictor, WindowSettings
from terrafuse.segmenter import Segmenter
from terrafuse.training.losses import create_loss
from terrafuse.version import VERSION

_SMALL = {
    "backbone": "resnet10t",
    "backbone_options": {"channels": [4, 6, 8, 10]},
    "decoder": "upernet",
    "decoder_options": {"channels": 8, "bins": [1, 2]},
}
#: What `--quick` runs.
QUICK = (
    costs.Row("early fusion, small", "early_fusion", (costs.FOUR, costs.SAR), 3, _SMALL),
    costs.Row("late fusion, small", "late_fusion", (costs.FOUR, costs.SAR), 3, _SMALL),
)
_RESNET = {"backbone": "resnet50", "decoder": "upernet"}
#: Methods without a paper's size.
FURTHER = (
    costs.Row("late fusion, ResNet-50", "late_fusion", (costs.FOUR, costs.SAR), 6, _RESNET),
    costs.Row("early fusion, ResNet-50", "early_fusion", (costs.FOUR, costs.SAR), 6, _RESNET),
    costs.Row("single, ResNet-50", "single", (costs.FOUR,), 6, _RESNET),
    costs.Row(
        "Galileo tiny", "galileo", (costs.S2, costs.SAR), 6,
        {"backbone": "galileo_tiny", "backbone_options": {"scaling": "data"}},
    ),
)  # fmt: skip
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
Images = dict[str, Tensor]
Way = Callable[[Segmenter, Images], Tensor]


@dataclass
class Bench:
    """Settings of this call, and what it has found."""

    device: torch.device
    rows: list[costs.Row]
    crop: int
    batch: int
    repeats: int
    compiles: bool
    until: float
    ceilings: dict[str, float] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    alone: dict[str, float] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether the time is used up."""
        return time.monotonic() > self.until

    def wait(self) -> None:
        """Wait until the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any], repeats: int | None = None) -> float:
        """Median seconds of a call, after one that does not count."""
        found = []
        for _ in range((repeats or self.repeats) + 1):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - start)
        return statistics.median(found[1:])

    @contextlib.contextmanager
    def peak(self) -> Iterator[dict[str, float]]:
        """Peak memory of the device within a block, in GB; nothing on a processor."""
        found: dict[str, float] = {}
        if self.device.type != "cuda":
            yield found
            return
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        yield found
        found["GB"] = torch.cuda.max_memory_allocated(self.device) / 1e9

    def add(self, table: str, **values: Any) -> None:
        """Add a line to a table, and print it."""
        self.tables.setdefault(table, []).append(values)
        shown = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        print(f"{table:9} {', '.join(shown)}", flush=True)

    def model(self, row: costs.Row) -> Segmenter:
        """A method with random values on the device."""
        torch.manual_seed(0)
        segmenter = create_segmenter(row.method, row.modalities, row.classes, row.options)
        segmenter.set_statistics(statistics_of(row.modalities))
        return segmenter.to(self.device).eval()

    def images(self, row: costs.Row, batch: int | None = None) -> Images:
        """Noise on the device."""
        found = random_images(row.modalities, (self.crop, self.crop), batch or self.batch)
        return {name: image.to(self.device) for name, image in found.items()}

    def in_precision(self, name: str) -> Any:
        """Autocast of a precision; nothing for float32."""
        if name == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, HALF[name])


def measure_ceilings(bench: Bench) -> None:
    """Products of matrices and a copy."""
    is_gpu = bench.device.type == "cuda"
    side, count = (8192, 2**28) if is_gpu else (256, 2**20)
    for name, dtype in (("fp32", torch.float32), *HALF.items()):
        a = torch.randn(side, side, device=bench.device).to(dtype)
        seconds = bench.seconds(lambda a=a: a @ a, 5)
        bench.ceilings[name] = 2 * side**3 / seconds
        bench.add(
            "ceilings", what=f"product of matrices in {name}", TFLOPs=2e-12 * side**3 / seconds
        )
    source = torch.ones(count, device=bench.device)
    target = torch.empty_like(source)
    seconds = bench.seconds(lambda: target.copy_(source), 5)
    bench.ceilings["bytes"] = 8 * count / seconds
    bench.add("ceilings", what="copy", GBps=8e-9 * count / seconds)


@torch.no_grad()
def check_results(bench: Bench, row: costs.Row, segmenter: Segmenter) -> None:
    """Other precisions and the compiler against float32."""
    images = bench.images(row, 1)
    expected = segmenter(images).logits.float()
    ways: dict[str, Callable[[], Tensor]] = {}
    for name in HALF:
        ways[name] = lambda name=name: _half(bench, segmenter, images, name)
    if bench.compiles:
        compiled = torch.compile(segmenter)
        ways["compiled"] = lambda: compiled(images).logits
    for way, run in ways.items():
        try:
            found = run().float()
        except Exception as error:  # one way of one method, which is a result
            bench.add("right", method=row.title, way=way, failed=_in_a_line(error))
            continue
        worst = ((found - expected).abs().max() / expected.abs().max()).item()
        same = (found.argmax(1) == expected.argmax(1)).double().mean().item()
        bench.add("right", method=row.title, way=way, worst=worst, same=same)


def _half(bench: Bench, segmenter: Segmenter, images: Images, name: str) -> Tensor:
    with bench.in_precision(name):
        return segmenter(images).logits


def measure_speed(bench: Bench, row: costs.Row, segmenter: Segmenter) -> None:
    """Windows and samples per second of the model alone."""
    flops = forward_flops(row.build(), bench.crop) * bench.batch
    images = bench.images(row)
    moved = _bytes_of_outputs(segmenter, images)
    compiled = [(True, "bf16")] if bench.compiles else []
    for is_compiled, precision in [(False, "fp32"), (False, "bf16"), *compiled]:
        model: Any = torch.compile(segmenter) if is_compiled else segmenter
        way = f"{precision}, compiled" if is_compiled else precision
        for table, make, passes in (("predict", _predict, 1), ("train", _train, 3)):
            try:
                work = make(bench, row, segmenter, model, images, precision)
                with bench.peak() as peak:
                    seconds = bench.seconds(work)
            except Exception as error:
                bench.add(table, method=row.title, way=way, failed=_in_a_line(error))
                continue
            finally:
                segmenter.zero_grad(set_to_none=True)
            rate = bench.batch / seconds
            bench.add(
                table, method=row.title, way=way, per_second=rate,
                of_products=passes * flops / seconds / bench.ceilings[precision],
                of_copy=passes * moved * (1 if precision == "fp32" else 0.5)
                / seconds / bench.ceilings["bytes"], **peak,
            )  # fmt: skip
            if table == "predict" and not is_compiled:
                bench.alone[f"{row.title}, {precision}"] = rate


def _predict(
    bench: Bench, row: costs.Row, segmenter: Segmenter, model: Any, images: Images, precision: str
) -> Callable[[], Any]:
    del row
    segmenter.eval()

    def work() -> None:
        with torch.inference_mode(), bench.in_precision(precision):
            model(images).logits.argmax(1)

    return work


def _train(
    bench: Bench, row: costs.Row, segmenter: Segmenter, model: Any, images: Images, precision: str
) -> Callable[[], Any]:
    segmenter.train()
    scheme = ClassScheme(tuple(f"class {k}" for k in range(row.classes)))
    ones = torch.ones(row.classes, dtype=torch.int64)
    loss = create_loss([LossConfig(name="cross_entropy")], scheme, ones).to(bench.device)
    learn = [p for p in segmenter.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learn, lr=1e-5)
    size = (bench.batch, bench.crop, bench.crop)
    labels = torch.randint(row.classes, size, device=bench.device)

    def work() -> None:
        with bench.in_precision(precision):
            output = model(images)
        loss(output, labels, 0.4)["total"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return work


@torch.no_grad()
def _bytes_of_outputs(segmenter: Segmenter, images: Images) -> int:
    """Bytes of the outputs of all layers in float32, written once and read once."""
    total = 0

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal total
        del module, inputs
        if isinstance(output, Tensor):
            total += 2 * 4 * output.numel()

    leaves = [m for m in segmenter.modules() if not list(m.children())]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    try:
        segmenter(images)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def measure_engine(bench: Bench, row: costs.Row, segmenter: Segmenter) -> None:
    """Windows per second of a whole map, against those of the model alone."""
    cells = 16 if bench.device.type == "cuda" else 3
    side = cells * bench.crop
    with tempfile.TemporaryDirectory() as folder:
        rasters = {}
        for m in row.modalities:
            rasters[m.name] = Path(folder) / f"{m.name}.tif"
            _write_noise(
                rasters[m.name], len(m.bands), m.size_at(side), 10 * side / m.size_at(side)
            )
        windows = WindowSettings(bench.crop, 0, batch_size=bench.batch)
        scene = scene_from_rasters(row.modalities, rasters)
        predictor = ScenePredictor(segmenter.eval(), windows, device=bench.device)
        seconds = bench.seconds(lambda: predictor.class_map(scene), 2)
    rate = cells**2 / seconds
    alone = bench.alone.get(f"{row.title}, fp32")
    share = {} if alone is None else {"share": rate / alone}
    bench.add("engine", method=row.title, scene=f"{side}²", windows_per_second=rate, **share)


def _write_noise(path: Path, bands: int, side: int, pixel_size: float) -> None:
    noise = np.random.default_rng(0).normal(3, 2, (bands, side, side)).astype(np.float32)
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, count=bands, dtype="float32",
        crs="EPSG:32633", transform=from_origin(500_000, 5_000_000, pixel_size, pixel_size),
        tiled=True, blockxsize=256, blockysize=256,
    ) as file:  # fmt: skip
        file.write(noise)


def find_gaps(spans: Sequence[tuple[float, float, str]]) -> list[tuple[float, str, str]]:
    """The three longest times between spans, with the names before and after.

    Args:
        spans: (start, end, name), in any order; they may overlap.

    Returns:
        (length, name before, name after), the longest first.
    """
    gaps = []
    last, before = float("-inf"), ""
    for start, end, name in sorted(spans):
        if before and start > last:
            gaps.append((start - last, before, name))
        if end > last:
            last, before = end, name
    return sorted(gaps, key=lambda gap: -gap[0])[:3]


def profile_steps(bench: Bench, row: costs.Row, segmenter: Segmenter) -> None:
    """Three training steps, and when the device had nothing to do."""
    is_gpu = bench.device.type == "cuda"
    work = _train(bench, row, segmenter, segmenter, bench.images(row), "bf16")
    work()
    bench.wait()
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * is_gpu
    with profile(activities=kinds) as found:
        for _ in range(3):
            work()
        bench.wait()
    wanted = torch.autograd.DeviceType.CUDA if is_gpu else torch.autograd.DeviceType.CPU
    spans = [
        (event.time_range.start, event.time_range.end, event.name)
        for event in found.events()
        if event.device_type == wanted and (is_gpu or event.cpu_parent is None)
    ]
    whole = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
    for length, before, after in find_gaps(spans):
        bench.add(
            "gaps", method=row.title, microseconds=length, share=length / whole,
            after=before[:60], before=after[:60],
        )  # fmt: skip


def _in_a_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}"


def choose_rows(names: Sequence[str] | None, *, quick: bool) -> list[costs.Row]:
    """A row per method, the first of its sizes."""
    found: dict[str, costs.Row] = {}
    for row in QUICK if quick else chain(FURTHER, costs.rows()):
        if not names or row.method in names:
            found.setdefault(row.method, row)
    return list(found.values())


def run_all(bench: Bench) -> None:
    """All parts, method by method, as far as the time goes."""
    measure_ceilings(bench)
    left_out = []
    for number, row in enumerate(bench.rows):
        if bench.is_over:
            left_out.append(row.title)
            continue
        segmenter = bench.model(row)
        check_results(bench, row, segmenter)
        measure_speed(bench, row, segmenter)
        if number < 3:
            measure_engine(bench, row, segmenter)
        if number == 0:
            profile_steps(bench, row, segmenter)
    if left_out:
        print(f"left out, as the time was used up: {', '.join(left_out)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="two small methods")
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--seconds", type=float, default=450)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for gpu.json")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; --device cpu --quick tries the script alone")
    device = torch.device(args.device)
    rows = choose_rows(args.methods, quick=args.quick)
    if not rows:
        known = sorted({row.method for row in chain(FURTHER, costs.rows())})
        raise SystemExit(f"no method is called {args.methods}; known are {', '.join(known)}")
    for place in (torch.backends.cuda.matmul, torch.backends.cudnn):
        place.allow_tf32 = False  # float32 is what others are compared with
    bench = Bench(
        device, rows, *((64, 2, 1) if args.quick else (256, 16, 10)),
        compiles=not (args.no_compile or args.quick), until=time.monotonic() + args.seconds,
    )  # fmt: skip
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    head = {
        "device": name, "date": str(datetime.date.today()), "torch": torch.__version__,
        "terrafuse": VERSION, "crop": bench.crop, "batch": bench.batch,
    }  # fmt: skip
    print(", ".join(f"{key} {value}" for key, value in head.items()))
    run_all(bench)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**head, **bench.tables}, indent=2)
        (args.out / "gpu.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

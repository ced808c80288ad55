"""Scores of several run.yaml over several seeds, as a Markdown table.

    python benchmarks/scores.py configs/ombria/{s1,s2,early_fusion,late_fusion}.yaml --seeds 3
    python benchmarks/scores.py configs/ombria/{s2,early_fusion}.yaml --steps 300 600 1200 --seeds 1

Every run stays under --out; one that has its metrics is not trained again. With several --steps the
chosen score is also drawn against them (--figure).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from terrafuse import api
from terrafuse.config import load_run_config
from terrafuse.version import VERSION

Metrics = list[dict[str, Any]]


def metrics_of_run(
    config: Path,
    folder: Path,
    seed: int,
    steps: int,
    overrides: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Contents of the run's metrics.json; it is trained first where there is none yet."""
    stored = folder / "metrics.json"
    if not stored.exists():
        values = {"training.seed": str(seed), "training.steps": str(steps), **(overrides or {})}
        if load_run_config(config).training.validate_every is not None:
            values["training.validate_every"] = str(steps)
        api.train(config, folder, overrides=values, resume=folder.exists(), progress=False)
        api.load(folder).evaluate()
    metrics: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8"))
    return metrics


def columns(found: Metrics, classes: Sequence[str] = ()) -> list[list[float]]:
    """IoU of the classes, mIoU, mPA and OA, each of all runs, with all modalities."""
    subsets = [metrics["subsets"][metrics["full"]] for metrics in found]
    return [
        *([subset["per_class"][name]["iou"] for subset in subsets] for name in classes),
        *([subset["scores"][key] for subset in subsets] for key in ("miou", "mpa", "oa")),
    ]


def machine() -> str:
    """Version, day and processor, for the line above a table."""
    return (
        f"terrafuse {VERSION}, {datetime.date.today()}, {os.cpu_count()} cores, "
        f"{platform.processor() or platform.machine()}"
    )


def _spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _draw(curves: dict[str, dict[int, list[float]]], title: str, path: Path) -> None:
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot(xlabel="steps", ylabel=title, xscale="log")
    for name, curve in curves.items():
        means = [statistics.mean(values) for values in curve.values()]
        axes.errorbar(
            list(curve), means, [_spread(v) for v in curve.values()],
            marker="o", capsize=3, label=name,
        )  # fmt: skip
    ticks = sorted({steps for curve in curves.values() for steps in curve})
    axes.set_xticks(ticks, [str(steps) for steps in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs="+", help="instead of the steps in the files")
    parser.add_argument("--class", dest="chosen", help="also print the IoU of this class")
    parser.add_argument("--figure", type=Path, help="picture of the first score against steps")
    parser.add_argument("--out", type=Path, default=Path("runs/scores"))
    args = parser.parse_args()
    chosen = [args.chosen] if args.chosen else []
    titles = [*(f"IoU {name}" for name in chosen), "mIoU", "mPA", "OA"]
    print(f"{machine()}; mean ± deviation of {args.seeds} seeds")
    print(f"| run | steps | {' | '.join(titles)} |\n|---|---:|{'---|' * len(titles)}")
    curves: dict[str, dict[int, list[float]]] = {}
    for config in args.configs:
        for steps in args.steps or [load_run_config(config).training.steps]:
            folders = [args.out / f"{config.stem}-{steps}-{n}" for n in range(args.seeds)]
            found = [metrics_of_run(config, f, seed, steps) for seed, f in enumerate(folders)]
            values = columns(found, chosen)
            cells = [f"{statistics.mean(v):.3f} ± {_spread(v):.3f}" for v in values]
            print(f"| {config.stem} | {steps} | {' | '.join(cells)} |", flush=True)
            curves.setdefault(config.stem, {})[steps] = values[0]
    if args.figure:
        _draw(curves, titles[0], args.figure)


if __name__ == "__main__":
    main()

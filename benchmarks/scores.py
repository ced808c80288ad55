"""Scores of several run.yaml over several seeds, as a Markdown table.

    python benchmarks/scores.py configs/ombria/{s1,s2,early_fusion,late_fusion}.yaml --seeds 3

Every run stays under --out; one that has its metrics is not trained again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
from pathlib import Path
from typing import Any

from terrafuse import api
from terrafuse.version import VERSION


def _run(config: Path, folder: Path, seed: int, steps: int | None) -> dict[str, Any]:
    stored = folder / "metrics.json"
    if not stored.exists():
        overrides = {"training.seed": str(seed)}
        if steps:
            overrides["training.steps"] = str(steps)
        resume = (folder / "last.ckpt").exists()
        api.train(config, folder, overrides=overrides, resume=resume, progress=False)
        api.load(folder).evaluate()
    metrics: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8"))
    return metrics


def _row(name: str, found: list[dict[str, Any]], chosen: str | None) -> str:
    subsets = [metrics["subsets"][metrics["full"]] for metrics in found]
    columns = [[subset["scores"][key] for subset in subsets] for key in ("miou", "mpa", "oa")]
    if chosen:
        columns.insert(0, [subset["per_class"][chosen]["iou"] for subset in subsets])
    cells = [
        f"{statistics.mean(c):.3f} ± {statistics.stdev(c) if len(c) > 1 else 0:.3f}"
        for c in columns
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="instead of the steps in the files")
    parser.add_argument("--class", dest="chosen", help="also print the IoU of this class")
    parser.add_argument("--out", type=Path, default=Path("runs/scores"))
    args = parser.parse_args()
    titles = [f"IoU {args.chosen}"] if args.chosen else []
    titles += ["mIoU", "mPA", "OA"]
    print(
        f"terrafuse {VERSION}, {datetime.date.today()}, {os.cpu_count()} cores, "
        f"{platform.processor() or platform.machine()}; mean ± deviation of {args.seeds} seeds"
    )
    print(f"| run | {' | '.join(titles)} |\n|---|{'---|' * len(titles)}")
    for config in args.configs:
        name = f"{config.stem}-{args.steps}" if args.steps else config.stem
        folders = [args.out / f"{name}-{seed}" for seed in range(args.seeds)]
        found = [_run(config, f, seed, args.steps) for seed, f in enumerate(folders)]
        print(_row(config.stem, found, args.chosen), flush=True)


if __name__ == "__main__":
    main()

"""What a model keeps when modalities are missing, trained with and without modality dropout.

    python benchmarks/subsets.py demo/all_modalities.yaml [--dropout 0 0.3] [--seeds 3]
        [--steps 300] [-s data.manifest=other.yaml]

Every subset of the modalities is scored on the test split. Retention is the mIoU of a subset
divided by that of all modalities, of the same run; cells are means over the seeds ± half of the
95 % interval. Every run stays under --out; one that has its metrics is not trained again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ladder import cell
from scores import machine
from terrafuse import api
from terrafuse.config import load_run_config


def subsets_of_run(config: Path, folder: Path, overrides: dict[str, str]) -> dict[str, float]:
    """MIoU by subset, all modalities first; the run is trained where it is not there."""
    stored = folder / "metrics.json"
    if not stored.exists():
        api.train(config, folder, overrides=overrides, resume=folder.exists(), progress=False)
        api.load(folder).evaluate(subsets=True)
    metrics: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8"))
    scores = {name: float(s["scores"]["miou"]) for name, s in metrics["subsets"].items()}
    full = metrics["full"]
    return {full: scores[full]} | scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.3])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="instead of the steps in the file")
    parser.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs/subsets"))
    args = parser.parse_args()
    steps = args.steps or load_run_config(args.config).training.steps
    found: dict[float, list[dict[str, float]]] = {}
    for dropout in args.dropout:
        for seed in range(args.seeds):
            folder = args.out / f"{args.config.stem}-{steps}-{dropout:g}-{seed}"
            overrides = {"training.seed": str(seed), "training.steps": str(steps)}
            overrides |= {
                "data.modality_dropout": str(dropout),
                "training.validate_every": str(steps),
            }
            found.setdefault(dropout, []).append(subsets_of_run(args.config, folder, overrides))
    print(f"{machine()}; {args.config}, {steps} steps, {args.seeds} seeds")
    heads = [f"mIoU, dropout {d:g} | retention" for d in args.dropout]
    print(f"| modalities | {' | '.join(heads)} |\n|---|{'---|---|' * len(heads)}")
    names = list(next(iter(found.values()))[0])
    for name in names:
        cells = []
        for runs in found.values():
            cells.append(cell([run[name] for run in runs]))
            cells.append(cell([run[name] / run[names[0]] for run in runs]))
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

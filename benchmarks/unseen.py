"""How trained runs hold on places and events that they have never seen, as a Markdown table.

    terrafuse sweep configs/compare/ombria.yaml --methods configs/compare/methods_tiny.yaml
        --seeds 5 --choose training.lr=3e-4,1e-3,3e-3 --out runs/compare/ombria
    python benchmarks/unseen.py runs/compare/ombria --data configs/ombria/events.yaml
        --class flooded --groups albania france --figure docs/assets/unseen-ombria.png

Every run of a sweep is scored on its own test split and on another data set, of which nothing was
learnt or chosen; groups are scenes whose ids begin so. A cell is the IoU of the class in %: mean
over the seeds ± half of its 95 % confidence interval, by Student's t, of one matrix over all pixels
per run. Rows named by --alone, of methods that can do without a modality, are also scored with each
one alone. What is scored stays in a file in the run's folder and is not scored again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scores import machine
from terrafuse import api
from terrafuse.data import load_manifest
from terrafuse.evaluation import describe_runs, read_reference_labels
from terrafuse.evaluation.confusion import ConfusionMatrix
from terrafuse.prediction import ScenePredictor, WindowSettings
from terrafuse.weights import digest

STORED = "unseen.json"
Scores = dict[str, dict[str, float]]


def score_run(
    folder: Path, data: Path, wanted: str, groups: Sequence[str], *, alone: bool
) -> Scores:
    """IoU of the class by group and subset of modalities; stored in the run's folder."""
    stored = folder / STORED
    key = [digest(data), wanted, list(groups), alone]
    if stored.exists():
        found: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8"))
        if found["key"] == key:
            return found["scores"]
    run = api.load(folder)
    scores = {"own test split": _score(run, run.config.data.manifest, wanted, [""], alone)[""]}
    unseen = _score(run, data, wanted, ["", *groups], alone)
    scores |= {group or "unseen": own for group, own in unseen.items()}
    stored.write_text(json.dumps({"key": key, "scores": scores}, indent=2), encoding="utf-8")
    return scores


def _score(run: Any, data: Path, wanted: str, groups: Sequence[str], alone: bool) -> Scores:
    """Group → subset → IoU; every scene is mapped once per subset."""
    names = frozenset(m.name for m in run.info.modalities)
    subsets = {"all": names}
    if alone:
        subsets |= {name: frozenset({name}) for name in sorted(names)}
    predictor = ScenePredictor(
        run.segmenter,
        WindowSettings.of_run(run.config),
    )
    place = run.info.scheme.names.index(wanted)
    matrices = {
        (group, subset): ConfusionMatrix(run.info.scheme.num_classes)
        for group in groups
        for subset in subsets
    }
    manifest = load_manifest(data).select(tuple(m.name for m in run.info.modalities))
    for scene in manifest.scenes("test"):
        labels = read_reference_labels(scene, run.config.evaluation)
        for subset, kept in subsets.items():
            class_map = predictor.class_map(scene, without=names - kept)
            for group in groups:
                if scene.id.startswith(group):
                    matrices[group, subset].update(labels, class_map)
        scene.close()
    return {
        group: {subset: _iou(matrices[group, subset].counts, place) for subset in subsets}
        for group in groups
    }


def _iou(counts: NDArray[np.int64], place: int) -> float:
    """Of (K, K + 1) counts; pixels that are not mapped are missed."""
    hit = counts[place, place]
    return float(hit / (counts[place].sum() + counts[:, place].sum() - hit))


def rows_of(sweeps: Sequence[Path]) -> dict[str, list[Path]]:
    """Folders of the finished runs by row, in the order of the sweeps' tables."""
    rows: dict[str, list[Path]] = {}
    for out in sweeps:
        results = json.loads((out / "results.json").read_text(encoding="utf-8"))
        for run in results["runs"]:
            if "scores" in run:
                rows.setdefault(run["title"], []).append(out / run["name"])
    return rows


def cell(values: Sequence[float | None]) -> str:
    """Mean ± half of its interval, in %."""
    known = [100 * value for value in values if value is not None]
    return describe_runs(known)


def table(found: Mapping[str, list[Scores]], groups: Sequence[str], wanted: str) -> str:
    """One row per method, and per modality alone of those that bear its absence."""
    columns = ["own test split", "unseen", *groups]
    lines = [f"| method | n | {' | '.join(columns)} |", f"|---|---:|{'---:|' * len(columns)}"]
    for title, runs in found.items():
        for subset in runs[0]["unseen"]:
            cells = [cell([run[column][subset] for run in runs]) for column in columns]
            name = title if subset == "all" else f"– of it, {subset} only"
            lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return f"IoU of {wanted}, %\n\n" + "\n".join(lines)


def draw(found: Mapping[str, list[Scores]], wanted: str, path: Path) -> None:
    """The known against the unseen: a line per method."""
    figure = Figure(figsize=(7, 0.32 * len(found) + 1.2), layout="constrained")
    axes = figure.add_subplot(xlabel=f"IoU {wanted}, %")
    for place, runs in enumerate(reversed(found.values())):
        known, unseen = (
            100 * statistics.mean(run[column]["all"] for run in runs)
            for column in ("own test split", "unseen")
        )
        axes.plot([unseen, known], [place, place], color="0.75", zorder=1)
        for value, color, name in (
            (known, "#1f5fd0", "own test split"), (unseen, "#d1495b", "unseen"),
        ):  # fmt: skip
            axes.scatter([value], [place], color=color, zorder=2, label=None if place else name)
    axes.set_yticks(range(len(found)), list(reversed(found)))
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweeps", nargs="+", type=Path, help="folders of sweeps")
    parser.add_argument("--data", type=Path, required=True, help="dataset.yaml, its split 'test'")
    parser.add_argument("--class", dest="wanted", required=True, help="class whose IoU is shown")
    parser.add_argument("--groups", nargs="*", default=[], help="beginnings of scene ids")
    parser.add_argument(
        "--alone", nargs="*", default=[], metavar="ROW", help="also with each modality alone"
    )
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    found: dict[str, list[Scores]] = {}
    for title, folders in rows_of(args.sweeps).items():
        alone = title in args.alone
        found[title] = [
            score_run(f, args.data, args.wanted, args.groups, alone=alone) for f in folders
        ]
        print(f"{title}: {len(folders)} runs", flush=True)
    print(f"\n{machine()}\n\n{table(found, args.groups, args.wanted)}")
    if args.figure:
        draw(found, args.wanted, args.figure)


if __name__ == "__main__":
    main()

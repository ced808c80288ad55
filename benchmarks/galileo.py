"""When does Galileo's pre-training help? Sets × inputs × tunings × seeds, as Markdown tables.

    python benchmarks/galileo.py                            # all: 9 inputs × 7 rows × 3 seeds
    python benchmarks/galileo.py --sets terramesh --inputs S2 both --tunings linear full scratch
    python benchmarks/galileo.py --choose --seeds 1         # how the settings were chosen

Files are those of configs/galileo: `linear` is the frozen encoder with a linear layer on its last
map (SET_linear.yaml); all others are SET.yaml, with a stem beside the encoder, and differ only in
what of the encoder learns and how fast. `scratch` is the same encoder from random values, which
learns from the first step. `lora, gated` fuses the sensors' maps by gates instead of taking the
mean over all tokens of a place. Steps, crops and seeds are the same for all rows of a set.

Every run stays under --out; one that has its metrics is not trained again. A cell is the mean over
the seeds ± half of its 95 % confidence interval, by Student's t: of one test scene per set, so it
says nothing about other places. Differences are taken run by run of the same seed. "learns" counts
parameters: of the encoder, and of all.

With --choose runs learn from parts of the training scenes and are scored on the rest of them, with
S2 alone: the test scenes have no part in the choice.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import yaml
from matplotlib.figure import Figure

from ladder import cell, folder_of
from scores import Metrics, columns, machine, metrics_of_run
from terrafuse import api
from terrafuse.config import load_run_config
from terrafuse.evaluation import half_interval
from terrafuse.reports.figures import SERIES, styled

#: By set and input, then by row: the mIoU of every run.
Scores = dict[tuple[str, str], dict[str, list[float]]]

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "configs" / "galileo"
WEIGHTS = ROOT.parent / "shared" / "weights" / "galileo_nano"
RATE = "training.backbone_lr_factor"
HEAD_FIRST = "training.head_first_steps"
STEM = "method.backbone_options.stem_channels"
DROP_PATH = "method.backbone_options.drop_path_rate"
#: Per set, its inputs and their modalities.
INPUTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "floods": {"S1": ("s1",), "S2": ("s2",), "both": ("s2", "s1")},
    "slovenia": {"S2": ("s2",), "dates": ("s2_dates",), "both": ("s2", "dem")},
    "terramesh": {"S1": ("s1",), "S2": ("s2",), "both": ("s2", "s1")},
}
#: Per row, its file and the settings that differ from it.
TUNINGS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "linear": ("{}_linear.yaml", {}),
    "frozen": ("{}.yaml", {"method.tuning": "frozen"}),
    "lora": ("{}.yaml", {}),
    "lora, gated": ("{}.yaml", {"method.fusion": "gated"}),
    "adapter": ("{}.yaml", {"method.tuning": "{name: adapter, zero_init: true}"}),
    "prompt": ("{}.yaml", {"method.tuning": "prompt"}),
    "full": ("{}.yaml", {"method.tuning": "full", RATE: "0.01"}),
    "scratch": (
        "{}.yaml",
        {"method.tuning": "full", "method.weights": "null", HEAD_FIRST: "0", RATE: "1"},
    ),
}
#: Rows for several sensors only.
OF_BOTH = ("lora, gated",)
#: mIoU in % of a linear layer on raw pixels or on all values of 5 × 5 of them, the better of both:
#: quoted from the check in docs/howto/pretraining-helps.md.
RAW: Mapping[tuple[str, str], float] = {
    ("floods", "S1"): 74.5, ("floods", "S2"): 85.3, ("floods", "both"): 84.7,
    ("slovenia", "S2"): 53.2, ("slovenia", "dates"): 49.4,
    ("terramesh", "S1"): 12.4, ("terramesh", "S2"): 34.0, ("terramesh", "both"): 35.4,
}  # fmt: skip
#: What was tried per row with --choose.
TRIED: Mapping[str, tuple[Mapping[str, str], ...]] = {
    "linear": ({}, {"training.lr": "5e-3"}),
    "frozen": ({}, {"method.backbone_options.subtract_reference": "false"}),
    "lora": ({}, {RATE: "0.2"}, {HEAD_FIRST: "0"}, {DROP_PATH: "0.1"}, {STEM: "0"}),
    "adapter": ({}, {RATE: "0.2"}),
    "prompt": ({},),
    "full": ({}, {RATE: "0.05"}, {HEAD_FIRST: "0"}),
    "scratch": ({}, {RATE: "0.2"}),
}
#: With --choose, per scene that trains: the part that does, and the part that is scored
#: (row, column, height, width).
PARTS: Mapping[str, tuple[list[int], list[int]]] = {
    "west": ([0, 0, 512, 192], [0, 192, 512, 64]),
    "north": ([0, 0, 50, 100], [50, 0, 17, 100]),
    "denmark": ([0, 0, 168, 224], [168, 0, 56, 224]),
    "chile_west": ([0, 0, 168, 112], [168, 0, 56, 112]),
}
#: Of the three dates of Slovenia: their months, and a batch that costs what one date's does.
DATES = {"method.backbone_options.month": "[7, 8, 9]", "data.batch_size": "2"}


def settings_of(name: str, kind: str, tuning: str, weights: str) -> tuple[Path, dict[str, str]]:
    """The file of a row, and what differs from it."""
    file, own = TUNINGS[tuning]
    settings = {
        "data.modalities": str(list(INPUTS[name][kind])),
        "method.weights": weights,
    }
    if kind == "dates":
        settings |= DATES
    return FOLDER / file.format(name), settings | dict(own)


def learning(folder: Path) -> str:
    """Parameters that learnt: of the encoder, without its neck, and of all."""
    segmenter = api.load(folder).segmenter
    (backbone,) = segmenter.backbones()
    encoder = [p for group in backbone.layer_groups() for p in group]
    of_tuning = [p for n, p in backbone.named_parameters() if n in backbone.added]
    tuned = {id(p): p.numel() for p in (*encoder, *of_tuning) if p.requires_grad}
    every = sum(p.numel() for p in segmenter.parameters() if p.requires_grad)
    return f"{sum(tuned.values()):,} / {every:,}"


def manifest_of_parts(name: str, out: Path) -> Path:
    """A manifest of the parts of the training scenes, the scored ones as split "test"."""
    source = FOLDER / f"{name}_dataset.yaml"
    values = yaml.safe_load(source.read_text(encoding="utf-8"))
    values["root"] = str((FOLDER / values.get("root", ".")).resolve())
    scenes = []
    for scene in values["scenes"]:
        if scene["split"] == "train":
            learned, scored = PARTS[scene["id"]]
            scenes.append({**scene, "window": learned})
            of_scored = {"id": f"{scene['id']}_rest", "split": "test", "window": scored}
            scenes.append({**scene, **of_scored})
    values["scenes"] = scenes
    path = out / f"{name}_parts.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path.resolve()


def found_in(
    args: argparse.Namespace, config: Path, tuning: str, settings: Mapping[str, str]
) -> tuple[list[Path], Metrics]:
    """Folders and metrics of a row's runs; what is missing is trained."""
    steps = args.steps or load_run_config(config).training.steps
    place = args.out / folder_of(config, settings)
    folders = [place / f"{tuning.replace(', ', '_')}-{steps}-{seed}" for seed in range(args.seeds)]
    found = [
        metrics_of_run(config, folder, seed, steps, settings) for seed, folder in enumerate(folders)
    ]
    return folders, found


def compare(args: argparse.Namespace) -> None:
    """A table per set, mIoU with OA in brackets; a row is printed as soon as its runs are there."""
    scores: Scores = {}
    for name in args.sets:
        kinds = [kind for kind in INPUTS[name] if not args.inputs or kind in args.inputs]
        print_head(name, *kinds, f"learns with {kinds[-1]}: encoder / all")
        for tuning in args.tunings:
            cells = []
            for kind in kinds:
                if tuning in OF_BOTH and kind != "both":
                    cells.append("")
                    continue
                config, settings = settings_of(name, kind, tuning, args.weights)
                folders, found = found_in(args, config, tuning, settings)
                miou, _, oa = columns(found)
                cells.append(f"{cell(miou)} ({mean(oa):.3f})")
                scores.setdefault((name, kind), {})[tuning] = miou
            print_row(tuning, *cells, learning(folders[0]))
        for base in ("scratch", "linear"):
            if base in args.tunings:
                print_differences(scores, name, kinds, args.tunings, base)
    if args.figure:
        draw(scores).savefig(args.figure, dpi=150)


def print_differences(
    scores: Scores, name: str, kinds: Sequence[str], tunings: Sequence[str], base: str
) -> None:
    """A row's mIoU minus that of `base`, run by run of the same seed."""
    print_head(f"{name}, mIoU above {base}", *kinds)
    for tuning in tunings:
        if tuning in (base, "scratch"):
            continue
        cells = []
        for found in (scores[name, kind] for kind in kinds):
            pairs = zip(found.get(tuning, ()), found[base], strict=False)
            gains = [own - other for own, other in pairs]
            cells.append(cell(gains, "+") if gains else "")
        print_row(tuning, *cells)


@styled
def draw(scores: Scores) -> Figure:
    """A panel per set and input: dots are runs, bars the intervals of their means."""
    rows = -(-len(scores) // 3)
    figure = Figure(figsize=(9, 2.3 * rows), layout="constrained")
    panels = figure.subplots(rows, 3, squeeze=False).flat
    for (key, found), axes in zip(scores.items(), panels, strict=False):
        for place, (tuning, values) in enumerate(found.items()):
            color = SERIES[list(TUNINGS).index(tuning) % len(SERIES)]
            percent = [100 * value for value in values]
            axes.plot(percent, [place] * len(percent), ls="", marker="o", ms=3, color=color)
            if len(values) > 1:
                half = 100 * half_interval(values)
                axes.errorbar(mean(percent), place, xerr=half, marker="|", ms=12, color=color)
        axes.set_yticks(range(len(found)), list(found))
        axes.invert_yaxis()
        if key in RAW:
            axes.axvline(RAW[key], ls="--", lw=1, color="0.4")
        axes.set_title(" ".join(key))
        axes.set_xlabel("mIoU, %")
    for axes in panels:  # those that are left
        axes.set_axis_off()
    return figure


def choose(args: argparse.Namespace) -> None:
    """What was tried, scored on parts of the training scenes."""
    several = len(args.sets) > 1
    print_head("tuning", "tried", *(f"{name}, mIoU" for name in args.sets), *["mean"] * several)
    manifests = {name: manifest_of_parts(name, args.out) for name in args.sets}
    for tuning in args.tunings:
        for tried in TRIED.get(tuning, ()):
            scores = []
            for name, manifest in manifests.items():
                config, settings = settings_of(name, "S2", tuning, args.weights)
                settings |= {"data.manifest": str(manifest), **tried}
                scores.append(columns(found_in(args, config, tuning, settings)[1])[0])
            of_tried = ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in tried.items())
            cells = [cell(values) for values in scores]
            if several:
                cells.append(f"{mean(mean(values) for values in scores):.3f}")
            print_row(tuning, of_tried or "as it is", *cells)


def print_head(*titles: str) -> None:
    print(f"\n| {' | '.join(titles)} |\n|{'---|' * len(titles)}")


def print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", choices=INPUTS, default=list(INPUTS))
    parser.add_argument("--inputs", nargs="+", choices=["S1", "S2", "dates", "both"])
    parser.add_argument(
        "--tunings", nargs="+", choices=TUNINGS, default=list(TUNINGS), metavar="TUNING"
    )
    parser.add_argument("--choose", action="store_true", help="compare settings instead")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="instead of the steps in the files")
    parser.add_argument(
        "--weights", default=str(WEIGHTS) if WEIGHTS.exists() else "hub", help="folder, file or hub"
    )
    parser.add_argument("--figure", type=Path, help="picture; dashed: linear on raw pixels")
    parser.add_argument("--out", type=Path, default=Path("runs/galileo"))
    args = parser.parse_args()
    if not all(set(args.inputs or INPUTS[name]) & set(INPUTS[name]) for name in args.sets):
        parser.error(f"one of the sets {args.sets} has none of the inputs {args.inputs}")
    print(f"{machine()}; n = {args.seeds} seeds, mean ± half of its 95 % interval")
    if args.choose:
        choose(args)
    else:
        compare(args)


if __name__ == "__main__":
    main()

"""When does Galileo's pre-training help? Sets × inputs × tunings × seeds, as a Markdown table.

    python benchmarks/galileo.py                            # all: 9 inputs × 7 rows × 3 seeds
    python benchmarks/galileo.py --sets terramesh --inputs S2 both --tunings linear full scratch

Files are those of configs/galileo: `linear` is the frozen encoder with a linear layer on its last
map (SET_linear.yaml); all others are SET.yaml, with a stem where it has one, and differ only in
what of the encoder learns and how fast. `scratch` is the same encoder from random values. Steps,
crops and seeds are the same for all rows of a set but `linear`, which has twice the steps: its
steps cost less than half. A run takes about half a minute of one core.

Every run stays under --out; one that has its metrics is not trained again. A cell is the mean over
the seeds ± half of its 95 % confidence interval, by Student's t: of one test scene per set, so it
says nothing about other places; and the settings of the files were chosen by single runs scored on
these test scenes with S2. "learns" counts parameters: of the encoder, and of all.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from ladder import cell, folder_of
from scores import columns, machine, metrics_of_run
from terrafuse import api
from terrafuse.config import load_run_config

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "configs" / "galileo"
WEIGHTS = ROOT.parent / "shared" / "weights" / "galileo_nano"
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
    "adapter": ("{}.yaml", {"method.tuning": "{name: adapter, zero_init: true}"}),
    "prompt": ("{}.yaml", {"method.tuning": "prompt", "training.backbone_lr_factor": "0.2"}),
    "full": ("{}.yaml", {"method.tuning": "full", "training.backbone_lr_factor": "0.005"}),
    "scratch": ("{}.yaml", {"method.tuning": "full", "method.weights": "null"}),
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


def rows(args: argparse.Namespace) -> None:
    """Train what is missing, and print a row as soon as its runs are there."""
    for name in args.sets:
        for kind in INPUTS[name]:
            if args.inputs and kind not in args.inputs:
                continue
            for tuning in args.tunings:
                config, settings = settings_of(name, kind, tuning, args.weights)
                steps = args.steps or load_run_config(config).training.steps
                place = args.out / folder_of(config, settings)
                folders = [place / f"{tuning}-{steps}-{seed}" for seed in range(args.seeds)]
                found = [
                    metrics_of_run(config, folder, seed, steps, settings)
                    for seed, folder in enumerate(folders)
                ]
                miou, _, oa = columns(found)
                cells = [name, kind, tuning, str(steps), cell(miou), cell(oa), learning(folders[0])]
                print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", choices=INPUTS, default=list(INPUTS))
    parser.add_argument("--inputs", nargs="+", choices=["S1", "S2", "dates", "both"])
    parser.add_argument("--tunings", nargs="+", choices=TUNINGS, default=list(TUNINGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="instead of the steps in the files")
    parser.add_argument(
        "--weights", default=str(WEIGHTS) if WEIGHTS.exists() else "hub", help="folder, file or hub"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/galileo"))
    args = parser.parse_args()
    heads = ["set", "input", "tuning", "steps", "mIoU", "OA", "learns: encoder / all"]
    print(f"{machine()}; n = {args.seeds} seeds, mean ± half of its 95 % interval")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    rows(args)


if __name__ == "__main__":
    main()

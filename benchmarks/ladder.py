"""The ladder of UPSeg's parts: which of them is worth what, as a Markdown table.

    python benchmarks/ladder.py                      # on a landscape made for it
    python benchmarks/ladder.py --manifest configs/ombria/dataset.yaml --modalities s2 s1
        --classes flooded
    python benchmarks/ladder.py --rungs two_streams full -s method.decoder_options.channels=64

Rungs are the files of configs/upseg/ablation, and each modality alone: `two_streams` with one
stream. All train for the same steps from the same seeds. The landscape has two classes, wheat and
rape, that colour and backscatter tell apart only together; by chance, one modality gets half of
their pixels right.

Every run stays under --out, in a folder named by data and settings; one that has its metrics is
not trained again. A cell is the mean over the seeds ± half of its 95 % confidence interval, by
Student's t. Δ are differences to `two_streams`, run by run of the same seed.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scores import columns, machine, metrics_of_run
from terrafuse.config import load_run_config
from terrafuse.data import load_manifest
from terrafuse.evaluation import half_interval
from terrafuse.landscape import make_landscape

FOLDER = Path(__file__).parents[1] / "configs" / "upseg" / "ablation"
BASE = "two_streams"
RUNGS = (
    "early_concat", BASE, "gated_streams", "control", "prompts", "vem_no_loss", "vem_innovation",
    "vem_content", "vem_project", "vem_differential", "full",
)  # fmt: skip


@dataclass(frozen=True)
class Rung:
    """A row of the table.

    Args:
        title: Its name.
        config: Its run.yaml.
        modalities: Those it sees.
    """

    title: str
    config: Path
    modalities: tuple[str, ...]


def cell(values: Sequence[float], sign: str = "") -> str:
    """Mean ± half of its interval; one value has none."""
    mean = f"{statistics.mean(values):{sign}.3f}"
    return f"{mean} ± {half_interval(values):.3f}" if len(values) > 1 else mean


def find_manifest(args: argparse.Namespace) -> Path:
    """The data set: as named, else the landscape, which is made where it is not there."""
    if args.manifest:
        return Path(args.manifest).resolve()
    path = (args.data / "dataset.yaml").resolve()
    if not path.exists():
        make_landscape(args.data, seed=0, synergy=True)
    return path


def choose_rungs(names: Sequence[str], modalities: Sequence[str]) -> list[Rung]:
    """Files by their names; "alone" stands for one row per modality."""
    rungs = []
    for name in names:
        if name == "alone":
            base = FOLDER / f"{BASE}.yaml"
            rungs += [Rung(f"{m} alone", base, (m,)) for m in modalities]
        else:
            rungs.append(Rung(name, FOLDER / f"{name}.yaml", tuple(modalities)))
    return rungs


def folder_of(manifest: Path, overrides: Mapping[str, str]) -> str:
    """A name that tells apart runs on other data, or with other settings."""
    text = repr((str(manifest), sorted(overrides.items())))
    return f"{manifest.parent.name}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def rows(args: argparse.Namespace, manifest: Path) -> None:
    """Train what is missing, and print a row as soon as its runs are there."""
    overrides = dict(word.split("=", 1) for word in args.set)
    folder = args.out / folder_of(manifest, overrides)
    overrides["data.manifest"] = str(manifest)
    base: list[list[float]] | None = None
    for rung in choose_rungs(args.rungs, args.modalities):
        steps = args.steps or load_run_config(rung.config).training.steps
        found = []
        for seed in range(args.seeds):
            chosen = overrides | {"data.modalities": str(list(rung.modalities))}
            place = folder / f"{rung.title.replace(' ', '_')}-{steps}-{seed}"
            found.append(metrics_of_run(rung.config, place, seed, steps, chosen))
        values = columns(found, args.classes)
        cells = [cell(v) for v in values]
        if rung.title == BASE:
            base = values
        for own, others in zip(values[: len(args.classes) + 1], base or [], strict=False):
            gains = [a - b for a, b in zip(own, others, strict=True)]
            cells.append("" if rung.title == BASE else cell(gains, "+"))
        print(f"| {rung.title} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("landscape"), help="of the landscape")
    parser.add_argument("--manifest", help="another data set, instead of the landscape")
    parser.add_argument("--modalities", nargs="+", default=["optical", "sar"])
    parser.add_argument("--classes", nargs="*", help="IoU of these; landscape: wheat rape")
    parser.add_argument(
        "--rungs", nargs="+", choices=["alone", *RUNGS], default=["alone", *RUNGS], metavar="RUNG"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="instead of the steps in the files")
    parser.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs/ladder"))
    args = parser.parse_args()
    args.rungs = sorted(dict.fromkeys(args.rungs), key=lambda name: name != BASE)  # compared with
    if args.classes is None:
        args.classes = [] if args.manifest else ["wheat", "rape"]
    manifest = find_manifest(args)
    load_manifest(manifest).select(tuple(args.modalities))  # say now what is wrong
    titles = [*(f"IoU {name}" for name in args.classes), "mIoU"]
    heads = [*titles, "mPA", "OA", *(f"Δ {title}" for title in titles if BASE in args.rungs)]
    print(f"{machine()}; n = {args.seeds} seeds, mean ± half of its 95 % interval")
    print(f"| rung | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    rows(args, manifest)


if __name__ == "__main__":
    main()

"""Does UPSeg use the pairing? Scores with guidance from the right place and from another (C3).

    python benchmarks/pairing.py runs/ladder/landscape-1af5e5/{vem_innovation,full}-400-*

Each run is scored twice on its test split: as it is, and with hints and prompts of every window
replaced by those of the window before it. The streams themselves, and their fusion, see the right
images both times. Runs that differ in their seed only ("full-400-0", "full-400-1") are one row:
mean ± half of the 95 % interval, also of the differences.

"U" is the energy of what the Variance Enhancement Module lets through, mean U² / mean x² over all
sites, windows and tokens, per modality: 1 where there is none, 0 where others predict everything.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ladder import cell
from scores import columns, machine
from terrafuse import api
from terrafuse.api import Run
from terrafuse.data import load_manifest
from terrafuse.evaluation import evaluate
from terrafuse.methods.upseg import Guidance, TokenMap, VarianceEnhancement
from terrafuse.prediction import WindowSettings


class Delay:
    """Gives every sample what was meant for the one before it, over batches too.

    The very first sample keeps its own. Sites of the network need one each.
    """

    def __init__(self) -> None:
        self._last: Guidance | None = None

    def __call__(self, _: nn.Module, __: Any, guidance: Guidance) -> Guidance:
        """As a forward hook of a `SynergySite`."""
        before, self._last = self._last or guidance, guidance
        hints = [
            None if new is None or old is None else _shift(old, new)
            for old, new in zip(before.hints, guidance.hints, strict=True)
        ]
        prompts = [
            _shift_map(old, new) for old, new in zip(before.prompts, guidance.prompts, strict=True)
        ]
        return replace(guidance, hints=hints, prompts=prompts)


def _shift_map(old: TokenMap, new: TokenMap) -> TokenMap:
    values = _shift(old.values, new.values)
    return TokenMap(values, new.grid, _shift(_seen(old), _seen(new)), whole=False)


def _seen(tokens: TokenMap) -> Tensor:
    if tokens.seen is not None:
        return tokens.seen
    return tokens.values.new_ones(tokens.values.shape[:2], dtype=torch.bool)


def _shift(old: Tensor, new: Tensor) -> Tensor:
    """The last sample of `old`, then all but the last of `new`."""
    return torch.cat([old[-1:], new[:-1]])


@contextmanager
def other_guests(segmenter: nn.Module) -> Iterator[None]:
    """Inside, guidance comes from the window before."""
    sites = cast(nn.ModuleDict, segmenter.interaction.sites)
    if not sites:
        raise SystemExit("this run has no place where modalities guide each other")
    hooks = [site.register_forward_hook(Delay()) for site in sites.values()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Energy:
    """Sums of squares of x and U, per modality, over the sites of a segmenter."""

    def __init__(self, segmenter: nn.Module) -> None:
        self.sums: dict[int, list[float]] = {}
        for module in segmenter.modules():
            if isinstance(module, VarianceEnhancement):
                module.register_forward_hook(self._add)

    def _add(self, module: nn.Module, given: Any, made: Any) -> None:
        for index, (x, unique) in enumerate(zip(given[0], made[0], strict=True)):
            own = cast(VarianceEnhancement, module).norm(x.values)
            sums = self.sums.setdefault(index, [0.0, 0.0])
            sums[0] += float(unique.values.square().sum())
            sums[1] += float(own.square().sum())

    def shares(self) -> list[float]:
        """Mean U² / mean x² per modality, in the order of the model."""
        return [part / whole for _, (part, whole) in sorted(self.sums.items())]


def scores(run: Run, classes: Sequence[str]) -> list[float]:
    """IoU of the classes and mIoU on the test split."""
    config = run.config
    metrics = evaluate(
        run.segmenter,
        load_manifest(config.data.manifest)
        .select([m.name for m in run.info.modalities])
        .scenes(config.evaluation.split),
        run.info.scheme,
        config.evaluation,
        WindowSettings.of_run(config, blending="taper"),
        boundary=False,
    )
    return [values[0] for values in columns([metrics], classes)[: len(classes) + 1]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--classes", nargs="*", default=["wheat", "rape"], help="IoU of these")
    args = parser.parse_args()
    rows: dict[str, list[Path]] = {}
    for folder in args.runs:
        rows.setdefault(folder.name.rpartition("-")[0], []).append(folder)
    titles = [*(f"IoU {name}" for name in args.classes), "mIoU"]
    print(f"{machine()}; mean over seeds ± half of its 95 % interval")
    print(f"| run | guidance | {' | '.join(titles)} |\n|---|---|{'---|' * len(titles)}")
    for title, folders in rows.items():
        own, other, shares = [], [], []
        for folder in folders:
            run = api.load(folder)
            energy = Energy(run.segmenter)
            own.append(scores(run, args.classes))
            shares.append(energy.shares())
            with other_guests(run.segmenter):
                other.append(scores(run, args.classes))
        gains = [
            [b - a for a, b in zip(x, y, strict=True)] for x, y in zip(own, other, strict=True)
        ]
        for name, found, sign in (
            ("own", own, ""), ("of another window", other, ""), ("difference", gains, "+"),
        ):  # fmt: skip
            cells = [cell(values, sign) for values in zip(*found, strict=True)]
            print(f"| {title} | {name} | {' | '.join(cells)} |", flush=True)
        names = [modality.name for modality in run.info.modalities]
        each = zip(names, zip(*shares, strict=True), strict=True)
        text = ", ".join(f"{name} {cell(values)}" for name, values in each)
        print(f"| {title} | U | {text} |{' |' * (len(titles) - 1)}", flush=True)


if __name__ == "__main__":
    main()

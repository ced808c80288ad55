"""How long `terrafuse compare` takes: 20 settings of 5 seeds on 100,000 blocks.

    python benchmarks/compare_speed.py [--settings 20] [--seeds 5] [--scenes 7] [--classes 6]

Scenes are 8192 pixels wide, so that each has 16,384 cells; every cell is a block. Counts are made
up. Seconds are of the verb alone, of the wall clock and of the processor.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from terrafuse import api
from terrafuse.evaluation.evidence import (
    CELL_PX,
    LAGS,
    Cells,
    Evidence,
    ScoredScene,
    to_table,
    write_evidence,
)

SIDE = 8192


def made_up(rng: np.random.Generator, scenes: int, classes: int, quality: float) -> Evidence:
    """Counts of a run: in each cell two classes, and some errors."""
    cells = Cells.of([(SIDE, SIDE)] * scenes)
    number = len(cells)
    confusion = np.zeros((number, classes, classes + 1), np.int64)
    at = np.arange(number)
    for pixels in (3000, CELL_PX**2 - 3000):
        own, other = rng.integers(0, classes, (2, number))
        right = rng.binomial(pixels, quality, number)
        confusion[at, own, own] += right
        confusion[at, own, other] += pixels - right
    lags = np.array(LAGS)
    pairs = np.full(len(lags), 10**7)
    both = 10**7 * (0.04 + 0.16 * np.exp(-lags / 10))
    correlation = np.stack([pairs, both, 2 * 0.2 * pairs], axis=-1).astype(np.int64)
    names = [f"class {k}" for k in range(classes)]
    facts = {
        "classes": names, "scored_classes": names, "class_mean": "present", "split": "test",
        "crop_size": CELL_PX,
    }  # fmt: skip
    return Evidence(
        facts,
        tuple(ScoredScene(f"scene {k}", SIDE, SIDE, "0" * 16) for k in range(scenes)),
        (("s1",),),
        cells,
        {"confusion": to_table(confusion)},
        np.repeat(correlation[None], scenes, axis=0),
        np.zeros(0, np.int64),
    )


def main() -> None:
    """Write made-up evidence, compare, and print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--scenes", type=int, default=7)
    parser.add_argument("--classes", type=int, default=6)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for seed in range(options.seeds):
            # One file per seed, which all settings share: reading costs the same.
            first = Path(folder) / f"seed-{seed}.npz"
            write_evidence(first, made_up(rng, options.scenes, options.classes, 0.8))
            for setting in range(options.settings):
                run = Path(folder) / f"s{setting:02}-{seed}"
                run.mkdir()
                os.link(first, run / "evidence.npz")
                runs.append(run)
        groups = ",".join(f"s{k:02}=s{k:02}-*" for k in range(options.settings))
        wall, processor = time.perf_counter(), time.process_time()
        found = api.compare(runs, groups=groups, block_size=CELL_PX)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
    pairs = len(found.comparison.of("miou"))
    print(
        f"{len(runs)} runs, {found.blocks.count:,} blocks, {pairs} pairs, "
        f"{len(found.comparison.columns)} scores: {wall:.1f} s, {processor:.1f} CPU-s"
    )


if __name__ == "__main__":
    main()

"""Do the intervals of `terrafuse compare` hold their level? On simulated, correlated errors.

    python benchmarks/compare_coverage.py               # as in docs/reference/comparison.md
    python benchmarks/compare_coverage.py --draws 40 --sizes 4096 --lengths 64

Each draw makes ground with labels, two methods and three seeds of each. A pixel is wrong where a
Gaussian field is high: part of it is the ground's (hard for all), part the method's, part the
seed's. Its correlation is exp(-d²/L²). Both methods have the same expected mIoU ("equal"), or B
gains a point ("gain"), or both are one method with other seeds ("same"). True values come from the
formula of the simulation, not from draws. Fields are made at 32 pixels a value.

Beside it what is often done instead: the bootstrap of pixels, that of chips of 512 pixels cut from
the scene, and Welch's t of the scores of the seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from scipy import stats

from terrafuse.evaluation.blocks import Blocks, find_blocks
from terrafuse.evaluation.comparison import (
    LEVEL,
    Comparison,
    Rule,
    RunCounts,
    compare_settings,
)
from terrafuse.evaluation.evidence import CELL_PX, LAGS, Cells, Evidence, ScoredScene, to_table
from terrafuse.evaluation.resampling import BlockBootstrap

Floats = NDArray[np.float64]
STEP = 32
CHIP = 512
SHARES = np.array([0.5, 0.3, 0.2])
#: Variance of the field that is the ground's, the method's and the seed's.
PARTS = {"ground": 0.4, "method": 0.4, "seed": 0.2}
SEEDS = 3
#: Of each bootstrap; fewer than usual, for speed.
DRAWS = 1000
#: Share of wrong pixels, and how much it differs between seeds beside the field.
WRONG, SEED_DEVIATION = 0.15, 0.002
NAMES = ("bare", "crop", "water")
#: Of the method "gain", in mIoU.
GAIN = 0.01
RULE = Rule(NAMES, (0, 1, 2), "present")
#: What is compared: the same method, another one as good, one that gains a point.
CASES = ("same", "equal", "gain")
RIVALS = ("pixels", "chips", "seeds")


def true_miou(wrong: float) -> float:
    """Expected mIoU of a method whose seeds are wrong in so many pixels on average."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    p = (wrong + SEED_DEVIATION * nodes)[:, None]
    iou = SHARES * (1 - p) / (SHARES + np.roll(SHARES, 1) * p)
    return float((weights / weights.sum()) @ iou.mean(axis=1))


@lru_cache
def wrong_for(gain: float) -> float:
    """Share of wrong pixels that gives so much more mIoU."""
    low, high = 0.0, WRONG
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if true_miou(middle) > true_miou(WRONG) + gain else (low, middle)
    return high


def field(rng: np.random.Generator, side: int, length: float, kind: str = "gauss") -> Floats:
    """A field of variance 1 with the correlation exp(-d²/L²), or exp(-d/L); length in steps."""
    if kind == "gauss":
        margin = int(2 * length) + 1
        noise = rng.standard_normal((side + 2 * margin,) * 2, dtype=np.float32)
        smooth = scipy.ndimage.gaussian_filter(noise, length / 2, mode="wrap", truncate=4)
        smooth /= np.sqrt(_squares(length))
        return smooth[margin:-margin, margin:-margin]
    size = side + int(8 * length)
    at = np.minimum(np.arange(size), size - np.arange(size))
    covariance = np.exp(-np.hypot(at[:, None], at[None]) / length)
    power = np.clip(np.fft.rfft2(covariance).real, 0, None)
    noise = np.fft.rfft2(rng.standard_normal((size, size)))
    return np.fft.irfft2(noise * np.sqrt(power), (size, size))[:side, :side]


def _squares(length: float) -> float:
    """Sum of the squared weights of the filter."""
    side = 2 * (int(2 * length) + 1) + 1
    point = np.zeros(2 * side)
    point[side] = 1
    line = scipy.ndimage.gaussian_filter1d(point, length / 2, mode="wrap", truncate=4)
    return float((line**2).sum() ** 2)


@dataclass(frozen=True)
class Ground:
    """A simulated scene and the errors of runs on it.

    Args:
        labels: (n, n), at `STEP` pixels.
        runs: Method → its seeds, each True where it is wrong.
    """

    labels: NDArray[np.int64]
    runs: dict[str, list[NDArray[np.bool_]]]


def draw_ground(
    rng: np.random.Generator, size: int, length: float, kind: str = "gauss", gain: float = GAIN
) -> Ground:
    """Simulate a scene.

    Args:
        size: Side in pixels.
        length: Of correlation, in pixels.
        gain: Of the method "gain", in mIoU.
    """
    side = size // STEP

    def make() -> Floats:
        return field(rng, side, length / STEP, kind)

    labels = np.digitize(make(), stats.norm.ppf(np.cumsum(SHARES)[:-1]))
    ground = np.sqrt(PARTS["ground"]) * make()
    own = {name: ground + np.sqrt(PARTS["method"]) * make() for name in ("first", "second")}
    runs: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in ("a", *CASES)}
    for _ in range(SEEDS):
        for name in ("a", "same"):
            runs[name].append(_wrong(rng, own["first"] + np.sqrt(PARTS["seed"]) * make(), 0.0))
        # The same seeds' noise for both: draws are of one case at a time.
        noise = own["second"] + np.sqrt(PARTS["seed"]) * make()
        runs["equal"].append(_wrong(rng, noise, 0.0))
        runs["gain"].append(_wrong(rng, noise, gain))
    return Ground(labels, runs)


def _wrong(rng: np.random.Generator, values: Floats, gain: float) -> NDArray[np.bool_]:
    share = wrong_for(gain) + SEED_DEVIATION * rng.standard_normal()
    wrong: NDArray[np.bool_] = values > stats.norm.isf(np.clip(share, 0.001, 0.999))
    return wrong


def evidence_of(ground: Ground, wrong: NDArray[np.bool_], seed: int) -> Evidence:
    """Evidence that `evaluate` would have written."""
    side = len(wrong) * STEP
    codes = ground.labels * 4 + (ground.labels + wrong) % 3
    cells = Cells.of([(side, side)])
    per = CELL_PX // STEP
    number = side // CELL_PX
    at = np.arange(len(wrong)) // per
    places = (at[:, None] * number + at) * 12 + codes
    counts = np.bincount(places.ravel(), minlength=number**2 * 12).reshape(-1, 12) * STEP**2
    facts = {
        "classes": list(NAMES), "scored_classes": list(NAMES), "class_mean": "present",
        "crop_size": CELL_PX, "seed": seed,
    }  # fmt: skip
    scene = ScoredScene("simulated", side, side, "")
    nothing = np.zeros(0, np.int64)
    return Evidence(
        facts, (scene,), (("s1",),), cells, {"confusion": to_table(counts)},
        _pairs(wrong)[None], nothing,
    )  # fmt: skip


def _pairs(wrong: NDArray[np.bool_]) -> NDArray[np.int64]:
    counts = np.zeros((len(LAGS), 3), np.int64)
    for k, lag in enumerate(LAGS):
        steps, rest = divmod(lag, STEP)
        if rest or steps >= len(wrong):
            continue
        for one, two in ((wrong[steps:], wrong[:-steps]), (wrong[:, steps:], wrong[:, :-steps])):
            counts[k] += (one.size, (one & two).sum(), one.sum() + two.sum())
    return counts


def influences(ground: Ground, wrong: NDArray[np.bool_]) -> tuple[float, Floats]:
    """The mIoU, and how much each value of the field moves it (delta method)."""
    labels = ground.labels
    table = np.bincount((labels * 2 + wrong).ravel(), minlength=6).reshape(3, 2)
    hit, missed = table.T
    union = hit + missed + np.roll(missed, 1)
    iou = hit / union
    right = (1 - iou) / union
    lost = -iou / union + np.roll(-iou / union, -1)  # of its own class, and of the one mapped
    moves = np.stack([right, lost], axis=1) / 3
    return float(iou.mean()), moves[labels, wrong.astype(np.int64)]


def rivals(ground: Ground, rng: np.random.Generator) -> dict[str, dict[str, tuple[float, float]]]:
    """Intervals of the differences case - a as they are often made, by case."""
    found = {name: [influences(ground, run) for run in own] for name, own in ground.runs.items()}
    scores = {name: np.array([score for score, _ in own]) for name, own in found.items()}
    moves = {name: np.mean([move for _, move in own], axis=0) for name, own in found.items()}
    step = CHIP // STEP
    number = len(ground.labels) // step
    weights = rng.multinomial(number**2, np.full(number**2, 1 / number**2), DRAWS)
    intervals = {}
    for case in CASES:
        difference = scores[case].mean() - scores["a"].mean()
        move = moves[case] - moves["a"]
        half = 1.96 * np.sqrt((move**2).sum())
        chips = move[: number * step, : number * step].reshape(number, step, number, step)
        low, high = np.quantile(weights @ chips.sum(axis=(1, 3)).ravel(), [0.025, 0.975])
        t = stats.ttest_ind(scores[case], scores["a"], equal_var=False).confidence_interval()
        intervals[case] = {
            "pixels": (difference - half, difference + half),
            "chips": (difference + low, difference + high),
            "seeds": (float(t.low), float(t.high)),
        }
    return intervals


def compare(ground: Ground, seed: int) -> tuple[Comparison, Blocks]:
    """What `terrafuse compare --against a` says of all cases."""
    settings = {
        name: [evidence_of(ground, run, k) for k, run in enumerate(own)]
        for name, own in ground.runs.items()
    }
    blocks = find_blocks([own for runs in settings.values() for own in runs])
    bootstrap = BlockBootstrap(blocks.count, DRAWS, seed, blocks.widening)
    counts = {
        name: [RunCounts.of(own, blocks, bootstrap) for own in runs]
        for name, runs in settings.items()
    }
    return compare_settings(counts, ["miou"], RULE, bootstrap, against="a"), blocks


def simulate(size: int, length: float, draws: int, kind: str = "gauss") -> dict[str, Any]:
    """Shares of draws in which intervals hold the true value, and differences are found."""
    truth = {"same": 0.0, "equal": 0.0, "gain": true_miou(wrong_for(GAIN)) - true_miou(WRONG)}
    held: dict[str, list[float]] = defaultdict(list)
    for number in range(draws):
        rng = np.random.default_rng([size, int(length), number])
        ground = draw_ground(rng, size, length, kind)
        comparison, blocks = compare(ground, number)
        others = rivals(ground, rng)
        for effect in comparison.effects:
            # Each case is a table of its own: p is of one comparison.
            held[f"{effect.a} different"].append(effect.p <= LEVEL)
            own = {"compare": (effect.difference.low, effect.difference.high)} | others[effect.a]
            for name, (low, high) in own.items():
                held[f"{effect.a} {name}"].append(low <= truth[effect.a] <= high)
                held[f"{effect.a} {name} found"].append(not low <= 0 <= high)
        value = comparison.values["a"]["miou"]
        held["score"].append(value.low <= true_miou(WRONG) <= value.high)
        held["detectable"].append(comparison.effects[-1].detectable)
        held["blocks"].append(blocks.count)
        held["found_length"].append(blocks.correlation_px or 0)
        held["widening"].append(blocks.widening)
    known = {"size": size, "length": length, "kind": kind, "draws": draws}
    return known | {name: float(np.nanmean(own)) for name, own in held.items()}


HEADS = (
    "scene, px", "L, px", "blocks", "equal", "gain", "score", "A = A found", "1 point found",
    "detectable", *(f"{name}, equal" for name in RIVALS), *(f"{name}, gain" for name in RIVALS),
)  # fmt: skip


def row(found: dict[str, Any]) -> list[str]:
    """Cells of the table, in %."""
    keys = (
        "equal compare", "gain compare", "score", "same compare found", "gain compare found",
        "detectable", *(f"equal {name}" for name in RIVALS), *(f"gain {name}" for name in RIVALS),
    )  # fmt: skip
    head = [f"{found['size']}²", f"{found['length']:g}", f"{found['blocks']:.0f}"]
    return head + [f"{100 * found[key]:.1f}" for key in keys]


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield f"| {' | '.join(HEADS)} |"
    yield f"|{'---:|' * len(HEADS)}"
    for found in rows:
        yield f"| {' | '.join(row(found))} |"


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 8192])
    parser.add_argument("--lengths", type=float, nargs="+", default=[64, 128, 256])
    parser.add_argument("--kind", choices=["gauss", "exponential"], default="gauss")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    rows = []
    for size, length in itertools.product(options.sizes, options.lengths):
        started = time.process_time()
        rows.append(simulate(size, length, options.draws, options.kind))
        seconds = time.process_time() - started
        print(f"{size} px, L {length:g}: {seconds:.0f} CPU-s", file=sys.stderr, flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))
    print("\n".join(table(rows)))
    return rows


if __name__ == "__main__":
    main()

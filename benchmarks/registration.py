"""How well shifts between sensors of different kind are measured, and how often one is imagined.

Run `python benchmarks/registration.py`. On synthetic scenes (`make_landscape`) windows are
displaced by known whole pixels, 0 to 12 along rows and columns, and the shift between pairs of
modalities is measured. Per pair: share within 1 px (target: 90 %), typical and largest error, share
that is sure; of windows in place, share reported as displaced (false alarms); of windows of
different scenes, the largest confidence. With `--ombria FOLDER`, also what is measured on real
chips.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from terrafuse.data import Scene, load_manifest
from terrafuse.doctor.layers import read_layers
from terrafuse.doctor.registration import NOTED_PX, SURE
from terrafuse.doctor.shifts import Shift, Structure, add_shifts, find_structure
from terrafuse.landscape import make_landscape
from terrafuse.samples import Window

Structures = Mapping[str, Structure | None]
MARGIN = 12
OMBRIA = ("s2_before", "s1_before", "s2_after", "s1_after")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--shifts", type=int, default=4, help="known shifts per scene")
    parser.add_argument("--window", type=int, default=256, help="side of windows, in scene pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ombria", type=Path, help="folder of the real set ombria_flood")
    options = parser.parse_args()
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        size = options.window + 2 * MARGIN + 2
        path = make_landscape(
            Path(folder), seed=options.seed, size=size, train=options.scenes, val=0, test=0
        )
        measure_landscape(load_manifest(path).scenes(), options.shifts, options.window)
    if options.ombria:
        measure_ombria(options.ombria)


def measure_landscape(scenes: Sequence[Scene], count: int, size: int) -> None:
    rng = np.random.default_rng(0)
    # Windows start on the pixels of the SAR image, which are twice as large.
    shifts = rng.integers(-MARGIN // 2, MARGIN // 2 + 1, (len(scenes), count, 2)) * 2
    start = time.perf_counter()
    fixed = [look(scene, MARGIN, MARGIN, size) for scene in scenes]
    moved = [
        [look(scene, MARGIN - int(d), MARGIN - int(r), size) for d, r in own]
        for scene, own in zip(scenes, shifts, strict=True)
    ]
    each = (time.perf_counter() - start) / (len(scenes) * (1 + count))
    print(f"{len(scenes)} scenes, {count} shifts each, windows of {size} px; {each:.2f} s a window")
    print(f"{'pair':18} {'≤ 1 px':>7} {'median':>7} {'worst':>6} {'sure':>6} "
          f"{'alarms at 0':>12} {'elsewhere':>10}")  # fmt: skip
    for pair in combinations(fixed[0], 2):
        report_pair(pair, shifts, fixed, moved)


def look(scene: Scene, row: int, col: int, size: int) -> Structures:
    """Structures of all modalities and the labels in a window, on the scene's grid."""
    layers = read_layers(scene, [Window(row, col, size, size)])[0]
    return {
        name: find_structure(*layer.resized(1, (size, size)), relief=layer.relief)
        for name, layer in layers.items()
    }


def report_pair(
    pair: tuple[str, str],
    shifts: np.ndarray,
    fixed: Sequence[Structures],
    moved: Sequence[Sequence[Structures]],
) -> None:
    one, other = pair
    errors, sure = [], []
    for own, here, windows in zip(shifts, fixed, moved, strict=True):
        for (down, right), there in zip(own, windows, strict=True):
            found = add_shifts([here[one]], [there[other]])
            errors.append(max(abs(found.row - down), abs(found.col - right)))
            sure.append(found.confidence >= SURE)
    in_place = [add_shifts([here[one]], [here[other]]) for here in fixed]
    elsewhere = [add_shifts([a[one]], [b[other]]) for a, b in combinations(fixed, 2)]
    coarser = 2 if "sar" in pair else 1
    false = np.mean([alarms(shift, coarser) for shift in in_place])
    print(
        f"{one + ' – ' + other:18} {np.mean(np.array(errors) <= 1):7.0%} {np.median(errors):7.2f} "
        f"{max(errors):6.2f} {np.mean(sure):6.0%} {false:12.0%} "
        f"{max(shift.confidence for shift in elsewhere):10.2f}"
    )


def alarms(shift: Shift, coarser: float) -> bool:
    return shift.confidence >= SURE and shift.length > NOTED_PX * coarser


def measure_ombria(folder: Path) -> None:
    """What the doctor measures on chips said to be in place, and between different chips."""
    known = np.ones((256, 256), bool)
    chips = []
    for path in sorted((folder / "mask").glob("*.png"))[::4]:
        arrays = {name: np.asarray(Image.open(folder / name / path.name)) for name in OMBRIA}
        chips.append({
            name: find_structure(np.atleast_3d(x).transpose(2, 0, 1).astype(np.float32), known)
            for name, x in arrays.items()
        })  # fmt: skip
    print(f"\n{len(chips)} chips of {folder.name}, of those that are sure:")
    print(f"{'pair':22} {'sure':>5} {'≤ 1.5 px':>9} {'≤ 2 px':>7} {'≤ 5 px':>7} {'elsewhere':>10}")
    for one, other in combinations(OMBRIA, 2):
        found = [add_shifts([chip[one]], [chip[other]]) for chip in chips]
        far = [add_shifts([a[one]], [b[other]]) for a, b in zip(chips, chips[20:], strict=False)]
        lengths = np.array([shift.length for shift in found if shift.confidence >= SURE])
        print(
            f"{one + ' – ' + other:22} {len(lengths) / len(found):5.0%} "
            f"{np.mean(lengths <= 1.5):9.1%} {np.mean(lengths <= 2):7.1%} "
            f"{np.mean(lengths <= 5):7.1%} {max(s.confidence for s in far):10.2f}"
        )


if __name__ == "__main__":
    main()

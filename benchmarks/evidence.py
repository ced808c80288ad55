"""Cost of what evaluation stores, beside the scores: CPU-ns per scene pixel with a 1×1 model.

    python benchmarks/evidence.py [--size 2048] [--classes 6] [--crop 512] [--overlap 128]

The scene is that of `benchmarks/engine.py`; its labels are the map of the model, moved by three
pixels and with 2 % of noise. "scores alone" is the map, its confusion matrix and its boundaries;
"evaluate" is all that an evaluation does, which is its parts below and the assembling of the file.
CPU time of all threads is counted, the least of several rounds.
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine import MEAN, STD, OneByOne, make_scene
from machine import processor
from terrafuse.classes import ClassScheme
from terrafuse.config import EvaluationConfig
from terrafuse.data import Scene
from terrafuse.evaluation import BoundaryScore, ConfusionMatrix, evaluate
from terrafuse.evaluation.cell_counts import CERTAINTY, MapCounter
from terrafuse.evaluation.error_pairs import error_pairs
from terrafuse.evaluation.identity import identify_scene
from terrafuse.modalities import BandStatistics
from terrafuse.prediction import MapSettings, ScenePredictor, WindowSettings
from terrafuse.version import VERSION


class LabelledScene:
    """The scene with labels in memory."""

    def __init__(self, scene: Scene, labels: NDArray[np.uint8], scheme: ClassScheme) -> None:
        self._scene, self._labels, self.scheme = scene, labels, scheme

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scene, name)

    def has_reference(self, _: str) -> bool:
        """There are labels of every name."""
        return True

    def read_labels(self, _: Any, reference: str = "labels") -> NDArray[np.uint8]:
        """Those of the whole scene."""
        del reference
        return self._labels


def labels_near(class_map: NDArray[np.uint8], classes: int) -> NDArray[np.uint8]:
    """A reference that a map is near to."""
    rng = np.random.default_rng(0)
    noise = rng.random(class_map.shape) < 0.02
    other = rng.integers(0, classes, class_map.shape).astype(np.uint8)
    return np.where(noise, other, np.roll(class_map, 3, axis=0)).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--overlap", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"terrafuse {VERSION}, {datetime.date.today()}, {processor()}, one thread; {args}")

    def show(what: str, action: Callable[[], Any]) -> None:
        best = float("inf")
        for _ in range(args.rounds):
            start = time.process_time()
            action()
            best = min(best, time.process_time() - start)
        print(f"{what:40}{1e9 * best / args.size**2:8.1f}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        measure(make_scene(Path(folder), args.size, 4), args, show)


def measure(scene: Scene, args: argparse.Namespace, show: Callable[..., None]) -> None:
    """Print a line for each part."""
    model = OneByOne(scene.modalities[0], args.classes).eval()
    moments = [(x,) * 4 for x in (MEAN, STD, 0.0, 1.0)]
    model.set_statistics({"image": BandStatistics(*moments, (9,) * 4)})
    windows = WindowSettings(args.crop, args.overlap, batch_size=1)
    predictor = ScenePredictor(model, windows, device="cpu")
    class_map = predictor.class_map(scene)
    labels = labels_near(class_map, args.classes)
    scheme = ClassScheme(tuple(f"class {k}" for k in range(args.classes)))
    labelled: Any = LabelledScene(scene, labels, scheme)
    config = EvaluationConfig()
    tolerance = config.boundary_tolerance_px

    def alone() -> None:
        found = predictor.class_map(scene)
        ConfusionMatrix(args.classes).update(labels, found)
        BoundaryScore(args.classes, tolerance).update(labels, found)

    def strips() -> list[Any]:
        settings = MapSettings(("class_map",))
        return list(predictor.stream(scene, settings=settings, sampled=CERTAINTY))

    def count() -> MapCounter:
        counter = MapCounter(labels, args.classes)
        for strip in made:
            counter.add(strip)
        return counter

    made = strips()
    rule = BoundaryScore(args.classes, tolerance)
    show("scores alone", alone)
    show("evaluate", lambda: evaluate(
        model, [labelled], scheme, config, windows, device="cpu", on_evidence=lambda _: None
    ))  # fmt: skip
    show("  class map", lambda: predictor.class_map(scene))
    show("  the same with confidence", strips)
    show("  confusion matrix", lambda: ConfusionMatrix(args.classes).update(labels, class_map))
    show("  the same per cell, and confidence", count)
    show("  boundaries", lambda: rule.update(labels, class_map))
    show("  the same per cell", lambda: MapCounter(labels, args.classes).finish(class_map, rule))
    show("  pairs of errors", lambda: error_pairs(labels, class_map))
    show("  digest of the labels", lambda: identify_scene(labelled, labels))


if __name__ == "__main__":
    main()

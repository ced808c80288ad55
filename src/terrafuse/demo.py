"""`terrafuse demo`: the whole workflow on a synthetic landscape, from rasters to report.

Trains late fusion and every single modality from scratch, scores them on scenes not seen in
training, maps one of those and writes `report.html`. All its files stay in the folder, in the form
a user would write them: `data/dataset.yaml` and one run file per model.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from numpy.typing import NDArray

from terrafuse import api
from terrafuse.data import Manifest, Scene, load_manifest
from terrafuse.errors import OutputError, StoppedError
from terrafuse.landscape import make_landscape
from terrafuse.locking import folder_lock, is_lock
from terrafuse.prediction import Products, read_class_map
from terrafuse.reports import class_map_image, confidence_image, modality_preview, run_report
from terrafuse.stopping import when_stopped
from terrafuse.writing import claimed, failure, is_trace

FUSION = "all modalities"
_MARKER = ".terrafuse-demo"
#: Optimiser steps of each training; four trainings fit into two minutes on two cores.
STEPS = 100
_DATA = {"crop_size": 96, "batch_size": 8, "sampling": "balanced", "workers": 0}
_METHOD = {
    "backbone": "resnet10t",
    "backbone_options": {"strides": [2, 4, 8, 16]},
    "decoder_options": {"channels": 32},
}
_PREDICTION = {"crop_size": 256, "overlap": 64}


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    size: int = 512,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Make the landscape, train, evaluate, map, report.

    Args:
        out: Folder to create; that of an earlier demo is replaced.
        seed: Seed of landscape and training.
        steps: Optimiser steps of each training.
        size: Rows and columns of each scene.
        say: Called with one line per stage.

    Returns:
        Path of `report.html`.

    Raises:
        OutputError: `out` exists and is not an earlier demo, or another process writes there.
        StoppedError: Ctrl-C or SIGTERM stopped a training.
    """
    with _stoppable(), claimed(out, "demo"):
        _fresh_folder(out)
        return _make_demo(out, seed, steps, size, say)


def _make_demo(out: Path, seed: int, steps: int, size: int, say: Callable[[str], None]) -> Path:
    timings: dict[str, float] = {}
    with _stage("landscape", timings, say):
        dataset = load_manifest(make_landscape(out / "data", seed=seed, size=size))
    metrics = {}
    for title, names, method in _runs(dataset):
        with _stage(f"train {title}", timings, say):
            run = _train(out, title, names, method, _schedule(steps) | {"seed": seed})
        with _stage(f"evaluate {title}", timings, say):
            metrics[title] = api.load(run).evaluate(split="test")
    with _stage("map a scene", timings, say):
        scene = dataset.scenes("test")[0]
        products = api.load(out / "runs" / _slug(FUSION)).predict(
            out / "map", scene=f"{dataset.path}#{scene.id}"
        )
    with _stage("report", timings, say):
        report = _report(out, dataset, scene, products, metrics, timings, steps)
    scores = ", ".join(
        f"{k} {m['subsets'][m['full']]['scores']['miou']:.3f}" for k, m in metrics.items()
    )
    say(f"mIoU on the test scenes: {scores}")
    say(f"{sum(timings.values()):.0f} s in total")
    return report


def _runs(dataset: Manifest) -> Iterator[tuple[str, list[str], dict[str, Any]]]:
    yield FUSION, list(dataset.modalities), {"name": "late_fusion", "fusion": "concat"}
    for name in dataset.modalities:
        yield name, [name], {"name": "single"}


def _schedule(steps: int) -> dict[str, Any]:
    return {"steps": steps, "lr": 3e-3, "validate_every": max(1, steps // 2)}


def _train(
    out: Path, title: str, names: list[str], method: dict[str, Any], training: dict[str, Any]
) -> Path:
    settings = {
        "data": {"manifest": "data/dataset.yaml", "modalities": names} | _DATA,
        "method": method | _METHOD,
        "training": training,
        "prediction": _PREDICTION,
    }
    path = out / f"{_slug(title)}.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return api.train(path, out / "runs" / _slug(title))


def _report(
    out: Path,
    dataset: Manifest,
    scene: Scene,
    products: Products,
    metrics: dict[str, dict[str, Any]],
    timings: dict[str, float],
    steps: int,
) -> Path:
    run = api.load(out / "runs" / _slug(FUSION))
    sample = scene.read(scene.full_window)
    assert sample.labels is not None
    images: dict[str, NDArray[np.uint8]] = {
        name: modality_preview(sample.images[name].numpy(), modality, run.info.statistics[name])
        for name, modality in dataset.modalities.items()
    }
    images["truth"] = class_map_image(sample.labels.numpy(), dataset.scheme)
    images["map"] = class_map_image(read_class_map(products.class_map), dataset.scheme)
    images["confidence"] = confidence_image(_read(products.confidence))
    return run_report(
        out / "report.html",
        title="terrafuse demo",
        scenes=[{"name": f"test scene '{scene.id}'", "images": images}],
        metrics=metrics,
        curves=run.folder / "log.csv",
        scheme=dataset.scheme,
        timings=timings,
        notes=[
            f"The landscape is synthetic and every model is trained from scratch for {steps} "
            "steps: this shows that the workflow runs and what fusion adds here, not what scores "
            "to expect on real imagery."
        ],
    )


def _read(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as dataset:
        band: NDArray[Any] = dataset.read(1)
    return band


def _fresh_folder(out: Path) -> None:
    """Empty the folder, which this process has locked; the marker goes last."""
    content = [path for path in out.iterdir() if not is_trace(path)]
    if content and not (out / _MARKER).exists():
        raise OutputError(f"'{out}' exists and is not an earlier demo; choose another --out")
    for lock in filter(is_lock, out.glob("*/**/.*")):
        with folder_lock(lock.parent, "demo"):  # nobody trains further in its runs
            pass
    try:
        (out / _MARKER).touch()
        for path in content:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != _MARKER:
                path.unlink()
    except OSError as error:
        raise OutputError(f"'{out}' cannot be created: {failure(error, out)}") from None


@contextmanager
def _stoppable() -> Iterator[None]:
    remedy = "the same command begins the demo anew"
    with when_stopped(remedy):
        try:
            yield
        except StoppedError as error:
            raise StoppedError(error.event, remedy) from None


@contextmanager
def _stage(name: str, timings: dict[str, float], say: Callable[[str], None]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[name] = time.perf_counter() - start
    say(f"{name}: {timings[name]:.1f} s")


def _slug(title: str) -> str:
    return title.replace(" ", "_")

"""Verb `report`: the page of a run, or of several runs side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.api.page_sections import judged_sections
from terrafuse.api.run_facts import run_facts
from terrafuse.api.runs import Run, load, results_name
from terrafuse.config.base import STORED_CONFIG
from terrafuse.data import Manifest, Scene, load_manifest
from terrafuse.data.inputs import files_read
from terrafuse.data.label_files import ReferenceName
from terrafuse.data.value_conversion import ValueConversion
from terrafuse.errors import ConfigError, ScoresError
from terrafuse.evaluation import EVIDENCE, Evidence, Place, find_places, read_evidence
from terrafuse.prediction import MapSettings, ScenePredictor, WindowSettings
from terrafuse.progress import Progress
from terrafuse.reports import (
    class_map_image,
    confidence_image,
    error_image,
    modality_preview,
    run_report,
)
from terrafuse.samples import IGNORE_INDEX, Window, round_up
from terrafuse.stopping import when_stopped
from terrafuse.weights import METRICS_JSON, MODEL_JSON, STATE_FILE
from terrafuse.writing import claimed, claimed_file, refuse_inputs

REPORT = "report"
#: Scenes shown: from the lowest to the highest score.
MOST_SCENES = 6
# Longer side of the pictures, and bytes of maps that are kept while scoring.
_SIDE = 1024
#: Side of the places that are shown in full size, in scene pixels.
PLACE_SIDE = 256
_KEPT_BYTES = 64 << 20
_READ = (STORED_CONFIG, "log.csv")

Metrics = Mapping[str, Any]


class SmallMaps:
    """Maps made while scoring, in small, for the page: `on_map` of `Run.evaluate`."""

    def __init__(self) -> None:
        self._maps: dict[str, NDArray[np.uint8]] = {}
        self._bytes = 0

    def __call__(
        self, scene: Scene, labels: NDArray[np.uint8], class_map: NDArray[np.uint8]
    ) -> None:
        """Keep a map, as long as there is room."""
        del labels
        self.keep(scene.id, self.shrink(scene, class_map))

    @staticmethod
    def shrink(scene: Scene, class_map: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The map in small, in whatever process made it."""
        step = _step(scene)
        return class_map[step // 2 :: step, step // 2 :: step].copy()

    def keep(self, scene_id: str, small: NDArray[np.uint8]) -> None:
        """Keep a small map, as long as there is room."""
        if self._bytes + small.nbytes <= _KEPT_BYTES:
            self._maps[scene_id] = small
            self._bytes += small.nbytes

    def get(self, scene: Scene) -> NDArray[np.uint8] | None:
        """The map of a scene, if it was kept."""
        return self._maps.get(scene.id)


def report(
    runs: Sequence[str | Path | Run] | str | Path | Run,
    out: str | Path | None = None,
    *,
    metrics: Metrics | None = None,
    maps: SmallMaps | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Path:
    """Write the page of a run: scores, maps over images and labels, confusion, curves.

    Args:
        runs: A run or its folder, or several that were scored on the same classes.
        out: The HTML file; default: `report.html` in the folder of the first run.
        metrics: Scores of the first run; default: its `metrics.json`, or those of an evaluation
            made now.
        maps: Kept while they were made; scenes without are mapped again.
        device: As in `predict`.
        progress: Called with (windows done, windows in all) of each evaluation made now.

    Returns:
        The file.

    Raises:
        ConfigError: Runs of other classes.
        DataError: The scenes cannot be read any more.
        OutputError: The file cannot be written, another process writes there, or the page would be
            written over a file that it is made from.
    """
    given = [runs] if isinstance(runs, str | Path | Run) else list(runs)
    opened = [run if isinstance(run, Run) else load(run) for run in given]
    first = opened[0]
    for run in opened[1:]:
        if run.info.scheme.names != first.info.scheme.names:
            raise ConfigError(
                f"'{run.folder}' has the classes {', '.join(run.info.scheme.names)}, "
                f"'{first.folder}' has {', '.join(first.info.scheme.names)}; give runs of the same"
            )
    place = claimed_file(out, "report") if out else claimed(first.folder, "report")
    with when_stopped("nothing was written; run the same command again"), place:
        titles = _titles(opened)
        kept = {title: SmallMaps() for title in titles}
        scores = {}
        for title, run in zip(titles, opened, strict=True):
            if run is first and metrics is not None:
                scores[title], kept[title] = metrics, maps or kept[title]
            else:
                scores[title] = _scores(run, kept[title], device, progress)
        path = (
            Path(out) if out else first.folder / f"{REPORT}{results_name(scores[titles[0]])}.html"
        )
        if out:
            refuse_inputs([path], _files_of(opened))
        named = dict(zip(titles, opened, strict=True))
        evidence = {title: _evidence(run, scores[title]) for title, run in named.items()}
        return run_report(
            path,
            title=f"terrafuse: {', '.join(titles)}",
            scenes=_pictures(named, scores, kept, device),
            metrics=scores,
            curves={title: run.folder / "log.csv" for title, run in named.items()},
            scheme=first.info.scheme,
            notes=scores[titles[0]].get("warnings", ()),
            facts={
                title: run_facts(run, evidence[title], f"metrics{results_name(scores[title])}.json")
                for title, run in named.items()
            },
            places=_places(first, scores[titles[0]], evidence[titles[0]], device),
            sections=judged_sections(named, scores, evidence),
        )


def _files_of(runs: Sequence[Run]) -> Iterator[Path]:
    """Files that the page is made from."""
    for run in runs:
        yield from (run.folder / name for name in (STATE_FILE, MODEL_JSON, METRICS_JSON, *_READ))
        if run.config.data.manifest.exists():
            yield from files_read(load_manifest(run.config.data.manifest))


def _titles(runs: Sequence[Run]) -> list[str]:
    """Names of the folders; whole paths where two are alike."""
    names = [run.folder.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.folder) for run in runs]


def _scores(run: Run, kept: SmallMaps, device: str, progress: Progress | None) -> Metrics:
    path = run.folder / METRICS_JSON
    if path.exists():
        found: Metrics = json.loads(path.read_text(encoding="utf-8"))
        return found
    return run.evaluate(device=device, on_map=kept, progress=progress)


def _evidence(run: Run, metrics: Metrics) -> Evidence | None:
    """Counts beside the scores; None of scores that were made before such were kept."""
    try:
        return read_evidence(run.folder / f"{EVIDENCE}{results_name(metrics)}.npz")
    except ScoresError:
        return None


def _places(
    run: Run, metrics: Metrics, evidence: Evidence | None, device: str
) -> list[dict[str, Any]]:
    """Parts of scenes in full size: where the map is most wrong, least sure, and best."""
    if evidence is None:
        return []
    dataset, conversions = _dataset(run, metrics)
    reference = metrics["settings"]["reference"]
    predictor = ScenePredictor(
        run.segmenter,
        WindowSettings.of_run(run.config),
        device=device,
        # The picture is of the confidence that the words beside it are on.
        calibration=run.calibration if metrics["settings"].get("calibration") else None,
    )
    shown = []
    for place in find_places(evidence):
        scene = _open(dataset, place.scene, conversions)
        shown.append(
            {"name": _in_words(place), "images": _zoom(run, scene, place, predictor, reference)}
        )
        scene.close()
    return shown


def _in_words(place: Place) -> str:
    sure = "" if np.isnan(place.confidence) else f", mean confidence {place.confidence:.2f}"
    return (
        f"{place.kind}: scene '{place.scene}', row {place.row}, column {place.col}; "
        f"{100 * place.wrong:.0f} % wrong{sure}"
    )


def _zoom(
    run: Run,
    scene: Scene,
    place: Place,
    predictor: ScenePredictor,
    reference: ReferenceName,
) -> dict[str, NDArray[np.uint8]]:
    """Pictures of a place, a pixel each."""
    window = _around(scene, place)
    sample = scene.read(window, labels=False)
    images = {
        m.name: modality_preview(sample.images[m.name].numpy(), m, run.info.statistics[m.name])
        for m in scene.modalities
        if m.name not in scene.missing
    }
    settings = MapSettings(("class_map", "confidence"))
    strips = list(predictor.stream(scene, settings=settings, window=window))
    classes, sure = (
        np.concatenate([strip.layers[name] for strip in strips]) for name in settings.products
    )
    labels = scene.read_labels(window, reference)
    return {
        **images,
        "truth": class_map_image(labels, run.info.scheme),
        "map": class_map_image(classes, run.info.scheme),
        "errors": error_image(labels, classes),
        "confidence": confidence_image(sure),
    }


def _around(scene: Scene, place: Place) -> Window:
    """A square around a place, within the scene where that is large enough."""
    grid, step = scene.grid, scene.alignment
    most = round_up(PLACE_SIDE, step)
    height, width = (min(most, max(step, n // step * step)) for n in (grid.height, grid.width))
    row = max(0, min(place.row - height // 2, grid.height - height)) // step * step
    col = max(0, min(place.col - width // 2, grid.width - width)) // step * step
    return Window(row, col, height, width)


def _dataset(run: Run, metrics: Metrics) -> tuple[Manifest, dict[str, ValueConversion]]:
    """The scenes that were scored, and how their values were converted."""
    settings = metrics["settings"]
    conversions = {
        name: ValueConversion.parse(text) for name, text in settings.get("converted", {}).items()
    }
    return run.dataset(Path(settings.get("manifest") or run.config.data.manifest)), conversions


def _pictures(
    runs: Mapping[str, Run],
    scores: Mapping[str, Metrics],
    kept: Mapping[str, SmallMaps],
    device: str,
) -> list[dict[str, Any]]:
    """Images, labels, maps and errors of some scenes."""
    title, first = next(iter(runs.items()))
    metrics = scores[title]
    dataset, conversions = _dataset(first, metrics)
    rows = metrics["per_scene"]
    datasets = {
        t: dataset if run is first else run.dataset(dataset.path) for t, run in runs.items()
    }
    shown = []
    for id in _choose(rows):
        scene = _open(datasets[title], id, conversions)
        labels = scene.read_labels_decimated(_step(scene)) if scene.has_labels else None
        images = _previews(first, scene)
        if labels is not None:
            images["truth"] = class_map_image(labels, first.info.scheme)
        for name, run in runs.items():
            own = scene if run is first else _open(datasets[name], id, conversions)
            indices = _map(run, own, kept[name], device)
            images["map" if len(runs) == 1 else f"map of {name}"] = class_map_image(
                indices, first.info.scheme
            )
            if labels is not None and len(runs) == 1:
                images["errors"] = error_image(labels, indices)
        scene.close()
        miou = rows[id]["miou"]
        score = "" if miou is None else f", mIoU {100 * miou:.1f} %"
        shown.append({"name": f"scene '{id}'{score}", "images": images})
    return shown


def _open(dataset: Manifest, id: str, conversions: Mapping[str, ValueConversion]) -> Scene:
    return dataset.scene(id).convert_values(conversions)


def _choose(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Ids from the lowest to the highest score, at equal distances in their order."""
    known = sorted(
        (id for id, row in rows.items() if row["miou"] is not None), key=lambda id: rows[id]["miou"]
    )
    ids = known or list(rows)
    places = np.linspace(0, len(ids) - 1, min(MOST_SCENES, len(ids))).round().astype(int)
    return [ids[place] for place in places]


def _step(scene: Scene) -> int:
    return max(1, ceil(max(scene.grid.height, scene.grid.width) / _SIDE))


def _previews(run: Run, scene: Scene) -> dict[str, NDArray[np.uint8]]:
    images = scene.read_decimated(_step(scene))
    return {
        m.name: modality_preview(images[m.name], m, run.info.statistics[m.name])
        for m in scene.modalities
        if m.name in images
    }


def _map(run: Run, scene: Scene, kept: SmallMaps, device: str) -> NDArray[np.uint8]:
    found = kept.get(scene)
    if found is None:
        windows = WindowSettings.of_run(run.config)
        predictor = ScenePredictor(run.segmenter, windows, device=device)
        kept(scene, np.full((1, 1), IGNORE_INDEX, np.uint8), predictor.class_map(scene))
        found = kept.get(scene)
    assert found is not None  # a handful of scenes fits
    return found

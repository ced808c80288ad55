"""Report of one or several runs: maps, scores, training curves and time."""

from __future__ import annotations

import csv
import datetime
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from terrafuse.classes import ClassScheme
from terrafuse.errors import OutputError
from terrafuse.reports.figures import confusion_figure, curves_figure, score_bars
from terrafuse.reports.html import Report
from terrafuse.reports.sections import Facts, Section, add_facts, add_section
from terrafuse.reports.tables import Cell
from terrafuse.version import VERSION

Metrics = Mapping[str, Any]
#: Scenes with a row of their own.
MOST_ROWS = 30
Curves = Path | Sequence[Mapping[str, Any]]


def run_report(
    path: Path,
    *,
    title: str,
    scenes: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Metrics],
    curves: Curves | Mapping[str, Curves] | None,
    scheme: ClassScheme,
    timings: Mapping[str, float] | None = None,
    notes: str | Sequence[str] = (),
    facts: Mapping[str, Facts] | None = None,
    places: Sequence[Mapping[str, Any]] = (),
    sections: Sequence[Section] = (),
) -> Path:
    """Write the report of runs scored on the same split.

    Args:
        scenes: One dict per scene: `name`, and `images`: title → uint8 (H, W, 3). "map", else
            "truth", is overlaid on the first image.
        metrics: Run → result of `evaluate` (metrics.json). The confusion matrix and the scores per
            class are those of the first run.
        curves: `log.csv` or its rows; or several of them by run.
        scheme: Names and colours of the classes.
        timings: Stage → seconds.
        notes: Remarks for the reader, below the scores.
        facts: Run → what it was made of and what it cost.
        places: As `scenes`, of parts of scenes in full size.
        sections: What else is known of the scores, after their tables.

    Returns:
        `path`.

    Raises:
        OutputError: The file cannot be written, or a log cannot be read.
    """
    report = Report(title, subtitle=describe_environment())
    if metrics:
        _add_scores(report, metrics)
    for note in [notes] if isinstance(notes, str) else notes:
        report.add_text(note, style="note")
    _add_galleries(report, "Maps", scenes, scheme)
    _add_galleries(report, "Places", places, scheme, swipe=False)
    if metrics:
        _add_per_scene(report, metrics)
        _add_classes(report, metrics)
        _add_subsets(report, metrics)
        _add_confusion(report, metrics, scheme)
    for section in sections:
        add_section(report, section)
    _add_curves(report, curves)
    if timings:
        _add_timings(report, timings)
    add_facts(report, "About", facts or {})
    if metrics:
        _add_settings(report, metrics)
    return report.write(path)


def describe_environment() -> str:
    """Return date, machine and versions in one line."""
    parts = [f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"]
    parts.append(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    parts.append(f"Python {platform.python_version()}, terrafuse {VERSION}")
    for package in ("torch", "rasterio"):
        try:
            parts[-1] += f", {package} {version(package)}"
        except PackageNotFoundError:
            continue
    return " · ".join(parts)


def _full(metrics: Metrics) -> Mapping[str, Any]:
    """Return the results with every modality of the run."""
    full: Mapping[str, Any] = metrics["subsets"][metrics["full"]]
    return full


def _add_scores(report: Report, metrics: Mapping[str, Metrics]) -> None:
    report.add_heading("Scores")
    headline = _headline({run: _full(m)["scores"] for run, m in metrics.items()})
    if headline:
        report.add_text(headline, style="lead")
    first = next(iter(metrics.values()))
    where = f"{first.get('scenes', '?')} scenes of the {first.get('split', '?')} split"
    pixels = f", {first['pixels']:_} pixels".replace("_", "\u202f") if "pixels" in first else ""
    caption = " ".join([f"On {where}{pixels}.", *_rules(metrics)])
    _add_score_table(report, "", {run: _full(m) for run, m in metrics.items()}, caption)


def _add_score_table(
    report: Report, corner: str, results: Mapping[str, Mapping[str, Any]], caption: str
) -> None:
    """Add a table with a row per result and a column per score that any of them has."""
    from terrafuse.evaluation import headline_first  # torch and rasterio take seconds to import

    scores = {name: result["scores"] for name, result in results.items()}
    kinds = [
        kind
        for kind in headline_first()
        if any(own.get(kind.name) is not None for own in scores.values())
    ]
    rows: list[list[Cell]] = [
        [name, *(own.get(kind.name) for kind in kinds)] for name, own in scores.items()
    ]
    header = [corner, *(kind.label for kind in kinds)]
    report.add_table(rows, header, best=[kind.best for kind in kinds], caption=caption)


def _rules(metrics: Mapping[str, Metrics]) -> list[str]:
    """Describe unusual scoring rules, with the names of the runs unless they hold for all."""
    told: dict[str, list[str]] = {}
    for run, result in metrics.items():
        for text in _unusual(result):
            told.setdefault(text, []).append(run)
    return [
        f"{', '.join(runs)}: {text}."
        if len(runs) < len(metrics)
        else f"{text[0].upper()}{text[1:]}."
        for text, runs in told.items()
    ]


def _unusual(result: Metrics) -> Iterator[str]:
    settings = result.get("settings", {})
    scored, classes = settings.get("scored_classes"), result.get("classes")
    if scored is not None and classes is not None and len(scored) < len(classes):
        yield f"means cover {len(scored)} of {len(classes)} classes ({', '.join(scored)})"
    if settings.get("reference") == "labels_eroded":
        yield "boundaries between classes are not scored"
    if "split" in result and settings.get("selected_on") == result["split"]:
        yield "weights were selected on this split, so the scores are too optimistic"


def _headline(scores: Mapping[str, Mapping[str, float | None]]) -> str:
    from terrafuse.evaluation import HEADLINE, SCORES

    known = {run: score for run, own in scores.items() if (score := own.get(HEADLINE)) is not None}
    if len(known) < 2:
        return ""
    best, second = sorted(known, key=lambda run: -known[run])[:2]
    gain = 100 * (known[best] - known[second])
    return (
        f"Best by {SCORES[HEADLINE].label}: {best} with {known[best]:.3f}, {gain:.1f} points above "
        f"{second} ({known[second]:.3f})."
    )


def _add_galleries(
    report: Report,
    title: str,
    scenes: Sequence[Mapping[str, Any]],
    scheme: ClassScheme,
    *,
    swipe: bool = True,
) -> None:
    if not scenes:
        return
    report.add_heading(title)
    report.add_legend(scheme)
    for scene in scenes:
        images = dict(scene["images"])
        report.add_heading(str(scene["name"]), level=3)
        over = [title for title in images if title == "truth"]
        over += [title for title in images if title == "map" or title.startswith("map of ")]
        pair = (next(iter(images)), over[-1]) if swipe and over and len(images) > 1 else None
        report.add_gallery(images, compare=pair, dense=not swipe)


def _add_per_scene(report: Report, metrics: Mapping[str, Metrics]) -> None:
    """A row per scene; in large splits those with the lowest scores."""
    per_scene = {run: m.get("per_scene", {}) for run, m in metrics.items()}
    rows = next(iter(per_scene.values()))
    if len(rows) < 2:
        return
    report.add_heading("Scenes")
    ids = sorted(rows, key=lambda id: -1 if rows[id]["miou"] is None else rows[id]["miou"])
    caption = "mIoU of each scene by itself, lowest first."
    if len(ids) > MOST_ROWS:
        caption += f" The lowest {MOST_ROWS} of {len(ids)}; metrics.json has all."
    shown: list[list[Cell]] = [
        [id, *((own.get(id) or {}).get("miou") for own in per_scene.values()), rows[id]["pixels"]]
        for id in ids[:MOST_ROWS]
    ]
    report.add_table(shown, ["scene", *per_scene, "pixels"], caption=caption)


def _add_classes(report: Report, metrics: Mapping[str, Metrics]) -> None:
    report.add_heading("Classes")
    runs = {run: _full(m)["per_class"] for run, m in metrics.items()}
    iou = {run: {n: c.get("iou") for n, c in classes.items()} for run, classes in runs.items()}
    names = list(dict.fromkeys(name for classes in runs.values() for name in classes))
    report.add_figure(score_bars(iou), "Intersection over union; “–” where a class is absent.")
    by_class: list[list[Cell]] = [[run, *(iou[run].get(name) for name in names)] for run in metrics]
    if len(metrics) > 1:
        report.add_table(by_class, ["IoU", *names], best="max")
    first = next(iter(metrics))
    keys = [
        key
        for key in ("iou", "f1", "precision", "recall", "boundary_f1", "pixels", "predicted")
        if any(classes.get(key) is not None for classes in runs[first].values())
    ]
    labels = {"iou": "IoU", "f1": "F1", "boundary_f1": "boundary F1", "predicted": "mapped pixels"}
    report.add_table(
        [[name, *(runs[first][name].get(key) for key in keys)] for name in runs[first]],
        ["class", *(labels.get(key, key) for key in keys)],
        caption=f"All scores of {first}.",
    )


def _add_subsets(report: Report, metrics: Mapping[str, Metrics]) -> None:
    several = {run: m["subsets"] for run, m in metrics.items() if len(m["subsets"]) > 1}
    if several:
        report.add_heading("Missing modalities")
    for run, subsets in several.items():
        _add_score_table(report, "present", subsets, f"{run}, with some modalities withheld.")


def _add_confusion(report: Report, metrics: Mapping[str, Metrics], scheme: ClassScheme) -> None:
    run, result = next(iter(metrics.items()))
    names = result.get("classes")
    matrix = np.asarray(_full(result)["matrix"], np.int64)
    shown = scheme if names is None or tuple(names) == scheme.names else ClassScheme(tuple(names))
    report.add_heading("Confusion")
    caption = f"{run}: each row shows how the reference pixels of a class were mapped."
    report.add_figure(confusion_figure(matrix, shown), caption)


def _add_curves(report: Report, curves: Curves | Mapping[str, Curves] | None) -> None:
    logs = dict(curves) if isinstance(curves, Mapping) else {"": curves} if curves else {}
    read = {run: _read_rows(log) for run, log in logs.items()}
    if not any(read.values()):
        return
    report.add_heading("Training")
    for run, rows in read.items():
        if rows:
            report.add_figure(curves_figure(rows), run)


def _read_rows(log: Curves) -> Sequence[Mapping[str, Any]]:
    if not isinstance(log, Path):
        return log
    try:
        with log.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OutputError(f"the log '{log}' cannot be read: {error}") from error


def _add_timings(report: Report, timings: Mapping[str, float]) -> None:
    report.add_heading("Time")
    rows: list[list[Cell]] = [[stage, f"{seconds:.1f}"] for stage, seconds in timings.items()]
    rows.append(["total", f"{sum(timings.values()):.1f}"])
    report.add_table(rows, ["stage", "seconds"])


def _add_settings(report: Report, metrics: Mapping[str, Metrics]) -> None:
    from terrafuse.evaluation import SCORES

    lines = []
    for run, result in metrics.items():
        averaged = _full(result).get("averaged", {})
        lines.append(run)
        lines.append(f"  modalities: {result['full']}")
        lines += [f"  {key}: {value}" for key, value in result.get("settings", {}).items()]
        if averaged:
            counts = ", ".join(
                f"{SCORES[k].label if k in SCORES else k} {n}" for k, n in averaged.items()
            )
            lines.append(f"  classes in each mean: {counts}")
    report.add_details("Scoring settings", "\n".join(lines))

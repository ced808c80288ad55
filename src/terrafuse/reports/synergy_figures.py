"""Figures of a synergy report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from terrafuse.reports.figures import INK, MUTED, SERIES, styled
from terrafuse.reports.synergy_tables import TEST_TITLES, Report, level_text
from terrafuse.writing import partial_folder, replace_together

_BAR = 0.78


def synergy_figures(report: Report) -> dict[str, Figure]:
    """Draw all figures of `synergy.json`, by name."""
    figures = {"shares": shares_figure(report), "parts": parts_figure(report)}
    if report["tests"]:
        figures["tests"] = tests_figure(report)
    if report["confidence"]:
        figures["confidence"] = confidence_figure(report)
    return figures


def write_synergy_figures(report: Report, folder: Path, name: str = "") -> dict[str, str]:
    """Write all figures into a folder.

    Args:
        name: Part of the names of files that tells scores apart.

    Returns:
        Name of a figure → its file.
    """
    figures = synergy_figures(report)
    files = {key: f"synergy_{key}{name}.png" for key in figures}
    with partial_folder(folder, "synergy") as partial:
        for key, figure in figures.items():
            figure.savefig(partial / files[key])
        replace_together({partial / file: folder / file for file in files.values()})
    return files


@styled
def shares_figure(report: Report) -> Figure:
    """Draw the Shapley share of each modality with its interval: of the mean, then per class."""
    rows = _rows(report)
    names = report["modalities"]
    height = _BAR / len(names)
    figure = Figure(
        figsize=(7.2, 0.9 + (0.16 + 0.2 * len(names)) * len(rows)), layout="constrained"
    )
    axes = figure.add_subplot()
    for number, name in enumerate(names):
        color = SERIES[number % len(SERIES)]
        for place, own in enumerate(rows.values()):
            y = place + (number - (len(names) - 1) / 2) * height
            _bar_with_interval(axes, y, own["shares"][name], height, color)
        axes.barh([0], [0], color=color, label=name)
    _finish(axes, rows, "points of IoU above the most frequent class everywhere")
    axes.set_title("What each modality brings (Shapley share, 95 % interval)")
    figure.legend(loc="outside lower left", ncols=min(len(names), 4))
    return figure


@styled
def parts_figure(report: Report) -> Figure:
    """Draw the gain as unique parts, by modality, and redundant and synergistic parts."""
    rows = _rows(report)
    names = report["modalities"]
    figure = Figure(figsize=(7.2, 1.2 + 0.36 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    pieces: list[tuple[str, str, list[float]]] = [
        (
            f"unique to {name}",
            SERIES[number % len(SERIES)],
            [_number(own["parts_of"][name]["unique"]) for own in rows.values()],
        )
        for number, name in enumerate(names)
    ]
    if len(names) > 1:
        for part, color in (("redundant", "#b4b4b4"), ("synergistic", "#1c1c1c")):
            values = [_number(own["parts"][part]) for own in rows.values()]
            pieces.append((part, color, values))
    left = np.zeros(len(rows))
    for label, color, values in pieces:
        axes.barh(range(len(rows)), values, _BAR, left=left, color=color, label=label)
        for place, value in enumerate(values):
            if value >= 4:
                x = left[place] + value / 2
                dark = color in (SERIES[0], "#1c1c1c", SERIES[5])
                axes.text(
                    x, place, f"{value:.0f}", ha="center", va="center", fontsize=7,
                    color="#ffffff" if dark else INK,
                )  # fmt: skip
        left += values
    conflicts = [_number(own["parts"]["conflict"]) for own in rows.values()]
    if min(conflicts) < -0.05:
        axes.barh(range(len(rows)), conflicts, _BAR, color="#d55e00", label="conflict", hatch="///")
    _finish(axes, rows, "points of IoU above the most frequent class everywhere")
    axes.set_title("What it is made of")
    figure.legend(loc="outside lower left", ncols=3)
    return figure


@styled
def tests_figure(report: Report) -> Figure:
    """Draw mIoU against misregistration, and the change of mIoU in all other tests."""
    tests, names = report["tests"], report["modalities"]
    shifts = [test for test in tests if test["test"] == "shift"]
    others = [test for test in tests if test["test"] != "shift"]
    number = bool(shifts) + bool(others)
    figure = Figure(figsize=(7.2 if number > 1 else 4.2, 3.4), layout="constrained")
    all_axes = list(figure.subplots(1, number, squeeze=False)[0])
    if shifts:
        _draw_shifts(all_axes.pop(0), report, shifts)
    if others:
        _draw_changes(all_axes.pop(0), others, names)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=4)
    return figure


def _draw_shifts(axes: Axes, report: Report, shifts: Sequence[Mapping[str, Any]]) -> None:
    full = report["mean"]["subsets"]["+".join(report["modalities"])]
    for number, name in enumerate(report["modalities"]):
        own = [test for test in shifts if test["modality"] == name]
        levels = [0, *(test["level"] for test in own)]
        found = [full, *(test["scores"]["mean"] for test in own)]
        color = SERIES[number % len(SERIES)]
        axes.plot(levels, [_number(x) for x in found], "o-", ms=3.5, color=color, label=name)
        axes.fill_between(
            levels,
            [_number(x, "low") for x in found],
            [_number(x, "high") for x in found],
            color=color, alpha=0.12, lw=0,
        )  # fmt: skip
    axes.set_xticks(sorted({0, *(test["level"] for test in shifts)}))
    axes.set_xlabel("pixels of the modality")
    axes.set_ylabel("mIoU, %")
    axes.set_title("One modality out of register")
    axes.grid(axis="y")


def _draw_changes(axes: Axes, tests: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    kinds = list(dict.fromkeys((test["test"], level_text(test)) for test in tests))
    height = _BAR / len(names)
    for number, name in enumerate(names):
        color = SERIES[number % len(SERIES)]
        axes.barh([0], [0], color=color, label=name)
        for test in (test for test in tests if test["modality"] == name):
            place = kinds.index((test["test"], level_text(test)))
            y = place + (number - (len(names) - 1) / 2) * height
            _bar_with_interval(axes, y, test["change"]["mean"], height, color)
    axes.set_yticks(range(len(kinds)), [f"{TEST_TITLES[k]} {level}" for k, level in kinds])
    axes.set_ylim(len(kinds) - 0.45, -0.55)
    axes.axvline(0, color=MUTED, lw=0.8)
    axes.set_xlabel("change of mIoU, points")
    axes.set_title("One modality altered")
    axes.grid(axis="x")


@styled
def confidence_figure(report: Report) -> Figure:
    """Draw reliability and abstention of each subset of modalities."""
    rows = report["confidence"]
    figure = Figure(figsize=(7.2, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 100], [0, 100], color=MUTED, lw=0.8, ls=":")
    for number, row in enumerate(rows):
        style: dict[str, Any] = {
            "color": SERIES[number % len(SERIES)],
            "lw": 2.2 if number == 0 else 1.3,
            "ls": "-" if number < len(SERIES) else "--",
        }
        bins = [own for own in row["reliability"] if own["share"] >= 0.002]
        left.plot(
            [100 * own["confidence"] for own in bins],
            [100 * own["accuracy"] for own in bins],
            marker="o", ms=2.5, label="+".join(row["subset"]), **style,
        )  # fmt: skip
        kept = {float(k): v for k, v in row["abstention"].items() if v is not None}
        right.plot([100 * k for k in kept], [100 * v for v in kept.values()], **style)
    left.set(xlabel="confidence, %", ylabel="accuracy, %", title="Below the line: too sure")
    right.set(xlabel="surest pixels kept, %", ylabel="their accuracy, %", title="Abstaining")
    for axes in (left, right):
        axes.grid(axis="y")
    figure.legend(loc="outside lower left", ncols=4)
    return figure


def _rows(report: Report) -> dict[str, Any]:
    """The mean, then each class that has a score."""
    classes = {k: own for k, own in report["per_class"].items() if own["gain"]["value"] is not None}
    return {"mean": report["mean"], **classes}


def _bar_with_interval(
    axes: Axes, y: float, interval: Mapping[str, float | None], height: float, color: str
) -> None:
    axes.barh(y, _number(interval), height * 0.88, color=color)
    if interval["low"] is not None:
        ends = [_number(interval, "low"), _number(interval, "high")]
        axes.plot(ends, [y, y], color=INK, lw=1)


def _number(interval: Mapping[str, float | None], key: str = "value") -> float:
    """In points; 0 where there is none."""
    value = interval[key] if interval[key] is not None else interval["value"]
    return 0.0 if value is None else 100 * value


def _finish(axes: Axes, rows: Mapping[str, Any], label: str) -> None:
    names = [name if len(name) <= 22 else f"{name[:21]}…" for name in rows]
    axes.set_yticks(range(len(rows)), names, color=INK)
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.axvline(0, color=MUTED, lw=0.8)
    axes.set_xlabel(label)
    axes.grid(axis="x")

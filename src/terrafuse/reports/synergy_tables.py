"""Tables and sentences of a synergy report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from terrafuse.reports.tables import IntervalDict, Table, bits, points

Report = Mapping[str, Any]
#: How stress tests are called.
TEST_TITLES: Mapping[str, str] = {
    "pairing": "from another place",
    "shift": "shifted",
    "noise": "noise",
    "cloud": "clouds",
    "strips": "missing strips",
}


def synergy_tables(report: Report) -> list[Table]:
    """Return all tables of `synergy.json`."""
    tables = [_modalities(report), _classes(report), _parts(report)]
    tables += [_pairs(report)] if report["mean"]["interactions"] else []
    tables += [_confidence(report)] if report["confidence"] else []
    tables += [_tests(report)] if report["tests"] else []
    return tables


def synergy_sentences(report: Report) -> list[str]:
    """Say what comes of it, with intervals."""
    mean = report["mean"]
    names, found = report["modalities"], []
    for name in names:
        share = points(mean["shares"][name])
        text = (
            f"{name} brings {share} of the {points(mean['gain'])} points of mIoU above a map with "
            f"'{report['most_frequent_class']}' everywhere"
        )
        if len(names) > 1:
            last = mean["last"][name]
            text += f"; without it mIoU falls by {points(last)} ({_verdict(last)})"
        found.append(f"{text}.")
    for row in report["confidence"][1:]:
        fall = row["fall"]
        found.append(
            f"With {'+'.join(row['subset'])} alone accuracy falls by {points(fall['accuracy'])} "
            f"points and confidence by {points(fall['confidence'])}: "
            f"{points(fall['not_noticed'])} are not noticed."
        )
    return found


def _verdict(interval: IntervalDict) -> str:
    low, high = interval["low"], interval["high"]
    if low is None or high is None:
        return "too few blocks to tell whether it is needed"
    if low > 0:
        return "it is needed"
    return "it does harm" if high < 0 else "which cannot be told from 0"


def _modalities(report: Report) -> Table:
    """What each brings to the mean."""
    mean, costs, bits_of = report["mean"], report["costs"], report["information"]
    rows = [
        [
            name,
            points(mean["shares"][name]),
            points(mean["alone"][name]),
            points(mean["last"][name]),
            bits(bits_of["shares"][name]),
            *([costs.get(name, "–")] if costs else []),
        ]
        for name in report["modalities"]
    ]
    total = ["all", points(mean["gain"]), "", "", bits(bits_of["gain"]), *([""] if costs else [])]
    header = ["modality", "share", "alone", "lost without", "share of bits"]
    blocks = report["blocks"]
    return Table(
        "what each modality brings to mIoU, in points, and to the information of the map on the "
        f"reference, in bits; 95 % intervals of {blocks['number']} blocks of {blocks['side_px']} "
        f"pixels ({blocks['reason']})",
        [*header, *(["cost per km2"] if costs else [])],
        [*rows, total],
    )


def _parts(report: Report) -> Table:
    """Whether others bring it as well, for the mean by modality and for each class."""
    mean = report["mean"]
    found = {f"mIoU, {name}": own for name, own in mean["parts_of"].items()}
    found["mIoU"] = mean["parts"]
    found |= {name: own["parts"] for name, own in report["per_class"].items()}
    # Mostly there is none.
    lowest = min((own["conflict"]["value"] or 0.0 for own in found.values()), default=0.0)
    shown = ["unique", "redundant", "synergistic"] + (["conflict"] if lowest < -5e-4 else [])
    rows = [[name, *(points(own[part]) for part in shown)] for name, own in found.items()]
    return Table("what the gain is made of, in points", ["of", *shown], rows)


def _classes(report: Report) -> Table:
    names = report["modalities"]
    rows = [
        [name, points(own["gain"]), *(points(own["shares"][m]) for m in names)]
        for name, own in report["per_class"].items()
    ]
    header = ["class", "gain", *(f"share of {m}" for m in names)]
    return Table("what each modality brings to the IoU of a class, in points", header, rows)


def _pairs(report: Report) -> Table:
    rows = [[pair, points(own)] for pair, own in report["mean"]["interactions"].items()]
    title = "Shapley-Taylor interactions in mIoU, in points: above 0 more together, below 0 less"
    return Table(title, ["pair", "interaction"], rows)


def _confidence(report: Report) -> Table:
    header = [
        "modalities", "accuracy", "confidence", "ECE", "confident errors",
        "accuracy of the surest 80 %", "fall not noticed",
    ]  # fmt: skip
    rows = []
    for own in report["confidence"]:
        kept = own["abstention"]["0.8"]
        rows.append(
            [
                "+".join(own["subset"]),
                *(points(own[k]) for k in ("accuracy", "confidence", "ece", "confident_errors")),
                "–" if kept is None else f"{100 * kept:.1f}",
                points(own["fall"]["not_noticed"]),
            ]
        )
    return Table("does confidence fall when a modality is missing? In %", header, rows)


def _tests(report: Report) -> Table:
    rows = [
        [
            TEST_TITLES[own["test"]],
            own["modality"],
            level_text(own),
            points(own["scores"]["mean"]),
            points(own["change"]["mean"]),
            points(own["fall"]["not_noticed"]) if own["fall"] else "–",
        ]
        for own in report["tests"]
    ]
    header = ["test", "modality", "level", "mIoU", "change", "fall not noticed"]
    return Table("altered inputs of one modality, in points", header, rows)


def level_text(test: Mapping[str, Any]) -> str:
    """Level of a test with its unit."""
    if test["unit"] == "share":
        return f"{100 * test['level']:g} %"
    return f"{test['level']:g} {test['unit']}" if test["unit"] else ""

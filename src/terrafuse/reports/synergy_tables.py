"""Tables and sentences of a synergy report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Report = Mapping[str, Any]
Interval = Mapping[str, float | None]
#: How stress tests are called.
TEST_TITLES: Mapping[str, str] = {
    "pairing": "from another place",
    "shift": "shifted",
    "noise": "noise",
    "cloud": "clouds",
    "strips": "missing strips",
}


@dataclass(frozen=True)
class SynergyTable:
    """A table whose first column names its rows."""

    title: str
    rows: Sequence[Mapping[str, str]]


def synergy_tables(report: Report) -> list[SynergyTable]:
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


def points(interval: Interval) -> str:
    """An interval in points: "12.3 [8.1, 16.0]"."""
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    if value is None:
        return "–"
    if low is None or high is None:
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def bits(interval: Interval) -> str:
    """An interval in bits."""
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "–" if value is None else f"{value:.3f}"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _verdict(interval: Interval) -> str:
    low, high = interval["low"], interval["high"]
    if low is None or high is None:
        return "too few blocks to tell whether it is needed"
    if low > 0:
        return "it is needed"
    return "it does harm" if high < 0 else "which cannot be told from 0"


def _modalities(report: Report) -> SynergyTable:
    """What each brings to the mean."""
    mean, costs, rows = report["mean"], report["costs"], []
    bits_of = report["information"]["shares"]
    for name in report["modalities"]:
        row = {
            "modality": name,
            "share": points(mean["shares"][name]),
            "alone": points(mean["alone"][name]),
            "lost without": points(mean["last"][name]),
            "share of bits": bits(bits_of[name]),
        }
        rows.append(row | ({"cost per km2": costs.get(name, "–")} if costs else {}))
    total = {
        "modality": "all",
        "share": points(mean["gain"]),
        "alone": "",
        "lost without": "",
        "share of bits": bits(report["information"]["gain"]),
    }
    rows.append(total | ({"cost per km2": ""} if costs else {}))
    blocks = report["blocks"]
    return SynergyTable(
        "what each modality brings to mIoU, in points, and to the information of the map on the "
        f"reference, in bits; 95 % intervals of {blocks['number']} blocks of {blocks['side_px']} "
        f"pixels ({blocks['reason']})",
        rows,
    )


def _parts(report: Report) -> SynergyTable:
    """Whether others bring it as well, for the mean by modality and for each class."""
    mean = report["mean"]
    found = {f"mIoU, {name}": own for name, own in mean["parts_of"].items()}
    found["mIoU"] = mean["parts"]
    found |= {name: own["parts"] for name, own in report["per_class"].items()}
    # Mostly there is none.
    lowest = min((own["conflict"]["value"] or 0.0 for own in found.values()), default=0.0)
    shown = ["unique", "redundant", "synergistic"] + (["conflict"] if lowest < -5e-4 else [])
    rows = [
        {"of": name, **{part: points(own[part]) for part in shown}} for name, own in found.items()
    ]
    return SynergyTable("what the gain is made of, in points", rows)


def _classes(report: Report) -> SynergyTable:
    rows = [
        {
            "class": name,
            "gain": points(own["gain"]),
            **{f"share of {m}": points(own["shares"][m]) for m in report["modalities"]},
        }
        for name, own in report["per_class"].items()
    ]
    return SynergyTable("what each modality brings to the IoU of a class, in points", rows)


def _pairs(report: Report) -> SynergyTable:
    rows = [
        {"pair": pair, "interaction": points(own)}
        for pair, own in report["mean"]["interactions"].items()
    ]
    title = "Shapley-Taylor interactions in mIoU, in points: above 0 more together, below 0 less"
    return SynergyTable(title, rows)


def _confidence(report: Report) -> SynergyTable:
    rows = []
    for own in report["confidence"]:
        kept = own["abstention"]["0.8"]
        rows.append(
            {
                "modalities": "+".join(own["subset"]),
                "accuracy": points(own["accuracy"]),
                "confidence": points(own["confidence"]),
                "ECE": points(own["ece"]),
                "confident errors": points(own["confident_errors"]),
                "accuracy of the surest 80 %": "–" if kept is None else f"{100 * kept:.1f}",
                "fall not noticed": points(own["fall"]["not_noticed"]),
            }
        )
    return SynergyTable("does confidence fall when a modality is missing? In %", rows)


def _tests(report: Report) -> SynergyTable:
    rows = [
        {
            "test": TEST_TITLES[own["test"]],
            "modality": own["modality"],
            "level": level_text(own),
            "mIoU": points(own["scores"]["mean"]),
            "change": points(own["change"]["mean"]),
            "fall not noticed": points(own["fall"]["not_noticed"]) if own["fall"] else "–",
        }
        for own in report["tests"]
    ]
    return SynergyTable("altered inputs of one modality, in points", rows)


def level_text(test: Mapping[str, Any]) -> str:
    """Level of a test with its unit."""
    if test["unit"] == "share":
        return f"{100 * test['level']:g} %"
    return f"{test['level']:g} {test['unit']}" if test["unit"] else ""

"""Figures and tables of what modalities bring."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from small_evidence import evidence_of
from terrafuse.evaluation.synergy import StressTest, synergy_report
from terrafuse.reports import Table, synergy_figures, synergy_sentences, synergy_tables

SUBSETS = (("s1", "s2"), ("s1",), ("s2",))


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """Of s1, which tells class 1 from 0, and s2, which knows class 2; both make some errors."""
    rng = np.random.default_rng(0)
    labels = rng.choice(3, (64, 448), p=[0.5, 0.3, 0.2]).astype(np.uint8)
    found = {"s1": np.where(labels == 2, 0, labels), "s2": np.where(labels == 2, 2, 0)}
    maps = [labels, found["s1"], found["s2"]]
    wrong = rng.random((3, *labels.shape)) < 0.05
    maps = [np.where(w, (m + 1) % 3, m).astype(np.uint8) for w, m in zip(wrong, maps, strict=True)]
    sure = [np.full(labels.shape, c, np.float32) for c in (0.9, 0.8, 0.7)]
    evidence = evidence_of([labels], [[m] for m in maps], [[c] for c in sure], subsets=SUBSETS)
    altered = evidence_of([labels], [[maps[1]]], [[sure[0]]], subsets=SUBSETS[:1])
    tests = [
        StressTest("shift", "s2", 2, "px", altered),
        StressTest("strips", "s2", 0.3, "share", altered),
    ]
    return synergy_report(evidence, tests=tests, costs={"s1": "free"}, draws=40, side_px=64)


def widths(axes: Any) -> list[float]:
    return [patch.get_width() for patch in axes.patches if patch.get_width()]


def test_bars_are_the_numbers(report: dict[str, Any]) -> None:
    figures = synergy_figures(report)
    assert list(figures) == ["shares", "parts", "tests", "confidence"]
    rows = [report["mean"], *report["per_class"].values()]
    shares = [100 * row["shares"][name]["value"] for name in ("s1", "s2") for row in rows]
    assert widths(figures["shares"].axes[0]) == pytest.approx(shares)
    drawn = sum(widths(figures["parts"].axes[0]))
    parts = ("unique", "redundant", "synergistic", "conflict")
    whole = sum(100 * row["parts"][part]["value"] for row in rows for part in parts)
    assert drawn == pytest.approx(whole, abs=1e-6)
    line = figures["tests"].axes[0].lines[1]  # of s2
    assert list(line.get_xdata()) == [0, 2]
    expected = [report["mean"]["subsets"]["s1+s2"], report["tests"][0]["scores"]["mean"]]
    assert list(line.get_ydata()) == pytest.approx([100 * own["value"] for own in expected])
    labels = [text.get_text() for text in figures["confidence"].legends[0].get_texts()]
    assert labels == ["s1+s2", "s1", "s2"]


def column(table: Table, name: str) -> list[Any]:
    """Cells of a column; every row has one for each name of the header."""
    return [dict(zip(table.header, row, strict=True))[name] for row in table.rows]


def test_tables_and_sentences_say_them_with_intervals(report: dict[str, Any]) -> None:
    first, classes, parts, pairs, confidence, tests = synergy_tables(report)
    share = report["mean"]["shares"]["s1"]
    text = "{value:.1f} [{low:.1f}, {high:.1f}]".format(**{k: 100 * v for k, v in share.items()})
    assert column(first, "share")[0] == text
    assert column(first, "cost per km2") == ["free", "–", ""]
    assert column(classes, "class") == ["bare", "crop", "water"]
    assert column(parts, "of")[0] == "mIoU, s1"
    assert pairs.header == ["pair", "interaction"]
    assert column(confidence, "confidence")[1].startswith("80.0 [")
    assert column(tests, "level") == ["2 px", "30 %"]
    sentences = synergy_sentences(report)
    assert sentences[0].startswith(f"s1 brings {text} of the ")
    assert sentences[0].endswith("(it is needed).")
    assert "With s1 alone accuracy falls by" in sentences[2]

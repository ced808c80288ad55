"""The figure of estimated areas shows what was estimated."""

from __future__ import annotations

import numpy as np
import pytest

from terrafuse.evaluation import AreaEstimates, ClassEstimate, Estimate
from terrafuse.reports.areas import AREA_COLUMNS, area_figure, area_rows

ESTIMATES = AreaEstimates(
    classes=(
        ClassEstimate("sea", 20, 18, Estimate(40.0, 30.0, 55.0, 5.0),
                      Estimate(0.9, 0.7, 0.98, 0.07), Estimate(1.0, 0.6, 1.0, 0.0), 44.0),
        ClassEstimate("a very long name of a class of ice", 0, 0, Estimate(0.0, 0.0, 3.0, None),
                      None, None, None),
    ),
    overall=Estimate(0.9, 0.8, 0.95, 0.05), overall_of_classed=None, rows=("sea", "ice"),
    matrix=np.zeros((2, 2)), counts=np.zeros((2, 2), np.int64), total=100.0, unit="ha", points=20,
    confidence=0.9,
)  # fmt: skip


def test_bars_and_intervals() -> None:
    figure = area_figure(ESTIMATES)
    areas, accuracies = figure.axes
    assert [bar.get_width() for bar in areas.patches] == [40.0, 0.0]
    lines = [(line.get_xdata(), line.get_ydata()) for line in areas.lines]
    drawn = [(list(np.atleast_1d(x)), list(np.atleast_1d(y))) for x, y in lines]
    assert ([30.0, 55.0], [0, 0]) in drawn
    assert ([44.0], [0]) in drawn
    assert ([0.0, 3.0], [1, 1]) in drawn
    assert [list(np.atleast_1d(line.get_xdata())) for line in accuracies.lines] == [
        [0.7, 0.98], [0.9], [0.6, 1.0], [1.0],
    ]  # fmt: skip
    assert [text.get_text() for text in accuracies.texts] == ["–", "–"]
    assert areas.get_xlabel() == "hectares"
    assert [t.get_text() for t in areas.get_yticklabels()][1].endswith("…")
    assert "90 % interval" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_rows_of_the_file() -> None:
    rows = [dict(zip(AREA_COLUMNS, row, strict=True)) for row in area_rows(ESTIMATES)]
    area = next(r for r in rows if r["class"] == "sea" and r["quantity"] == "area")
    assert (area["value"], area["low"], area["high"]) == (40.0, 30.0, 55.0)
    users = [r for r in rows if r["quantity"] == "user's accuracy"][1]
    assert {users[k] for k in ("value", "low", "high", "standard_error")} == {""}
    assert rows[-1]["quantity"] == "overall accuracy"
    assert rows[-1]["value"] == pytest.approx(0.9)

"""The figure of reliability: its points, and what it leaves out."""

from __future__ import annotations

from typing import Any

import pytest

from terrafuse.reports import reliability_figure


def calibration(ece: float | None = 0.05) -> dict[str, Any]:
    nothing = [None] * 18
    return {
        "ece": {"20": {"value": ece}},
        "diagram": {
            "confidence": [*nothing[:17], 0.88, 0.92, 0.97],
            "accuracy": [*nothing[:17], 0.3, 0.8, 0.9],
            "pixels": [0] * 17 + [1, 3000, 1000],  # a thousandth of them at least is shown
        },
        "risk_curve": {"coverage": [0.25, 1.0], "risk": [0.1, 0.175]},
    }  # fmt: skip


def test_points_shares_and_the_curve_of_risk() -> None:
    figure = reliability_figure({"s1+s2": calibration(), "s1": calibration(None)})
    diagram, pixels, risk = figure.axes
    diagonal, first, second = diagram.lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 1]
    assert list(first.get_xdata()) == [0.92, 0.97]
    assert list(first.get_ydata()) == [0.8, 0.9]
    assert first.get_color() != second.get_color()
    shares = pixels.patches[0].get_data()
    assert shares.values.tolist()[18:] == pytest.approx([75, 25], abs=0.1)
    assert list(risk.lines[0].get_xdata()) == [25, 100]
    assert list(risk.lines[0].get_ydata()) == pytest.approx([10, 17.5])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "s1+s2: ECE 5.0 %", "s1: ECE undefined",
    ]  # fmt: skip


def test_a_map_without_pixels_is_drawn() -> None:
    empty = calibration(None)
    empty["diagram"] = {key: [None] * 20 for key in ("confidence", "accuracy")} | {
        "pixels": [0] * 20
    }
    empty["risk_curve"] = {"coverage": [], "risk": []}
    assert len(reliability_figure({"s1": empty}).axes) == 3

from __future__ import annotations

import pytest

from terrafuse.reports import SharePoint, efficiency_figure


def test_a_curve_per_model_over_the_share_of_the_labels() -> None:
    curves = {
        # In any order, and wider than a score can be.
        "pretrained": [SharePoint(1.0, (0.6, 0.7), 0.9), SharePoint(0.01, (0.4, 0.6), 0.1)],
        "scratch": [SharePoint(0.01, (0.2,)), SharePoint(1.0, (0.7,))],
    }
    figure = efficiency_figure(curves, score="mIoU")
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["pretrained"].get_xdata() == pytest.approx([1, 100])
    assert lines["pretrained"].get_ydata() == pytest.approx([50, 65])
    assert lines["scratch"].get_ydata() == pytest.approx([20, 70])
    # Single runs are dots; a band only where there is an interval, within what scores can be.
    assert sum(len(line.get_xdata()) for line in axes.lines if line.get_ls() == "None") == 6
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0, 100))
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1 %", "100 %"]
    assert axes.get_xscale() == "log"


def test_shares_too_near_to_each_other_are_not_all_written() -> None:
    points = [SharePoint(share, (0.5,)) for share in (0.1, 0.11, 0.3, 0.29)]
    (axes,) = efficiency_figure({"run": points}, score="mIoU").axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["10 %", "29 %"]


def test_a_share_without_a_score_is_left_out() -> None:
    (axes,) = efficiency_figure(
        {"run": [SharePoint(0.1, ()), SharePoint(1.0, (0.5,))]}, score="mIoU"
    ).axes
    assert axes.lines[-1].get_xdata() == pytest.approx([100])

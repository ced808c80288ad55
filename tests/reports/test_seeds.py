import pytest

from terrafuse.reports import ScoreRow, seeds_figure

ROWS = [ScoreRow("alone", [40.0, 42.0, 47.0], 9.0), ScoreRow("both", [60.0])]


def test_a_dot_per_seed_a_mean_and_its_interval() -> None:
    (axes,) = seeds_figure({"": ROWS}, "mIoU, %").axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in dots] == [[40, 42, 47], [60]]
    means = [line for line in axes.lines if line.get_marker() == "|"]
    assert [line.get_xdata()[0] for line in means] == [43, 60]
    bars = [line for line in axes.lines if line.get_marker() == "None"]
    assert [list(bar.get_xdata()) for bar in bars] == [[34, 52]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["alone", "both"]
    low, high = axes.get_ylim()
    assert low > high  # the first row is at the top


def test_a_panel_per_group_that_has_rows() -> None:
    figure = seeds_figure({"one": ROWS, "none": [], "two": ROWS[:1]}, "mIoU, %")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one", "two"]
    assert figure.axes[0].bbox.height > figure.axes[1].bbox.height
    assert seeds_figure({}, "mIoU, %").axes == []


@pytest.mark.parametrize("count", [1, 30])
def test_rows_do_not_run_into_each_other(count: int) -> None:
    figure = seeds_figure({"": [ScoreRow(f"method {i}", [50.0]) for i in range(count)]}, "mIoU, %")
    (axes,) = figure.axes
    heights = [label.get_window_extent().height for label in axes.get_yticklabels()]
    assert axes.bbox.height / count >= max(heights)

"""Figures: what they say, that they touch nothing global, and that they suit a dark page."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from terrafuse.classes import ClassScheme
from terrafuse.modalities import Modality
from terrafuse.reports import confusion_figure, curves_figure, sample_panel, score_bars
from terrafuse.reports.figures import INK, recolor
from terrafuse.samples import Sample, Window

SCHEME = ClassScheme(("water", "land", "city"))
MATRIX = np.array([[90, 10, 0], [5, 1495, 500], [0, 0, 0]])


def texts(figure: Figure) -> list[str]:
    found = figure.findobj(matplotlib.text.Text)
    return [text.get_text() for text in found if text.get_visible() and text.get_text()]


def render(figure: Figure, **options: object) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=60, **options)
    return np.asarray(Image.open(buffer).convert("RGBA"))


def test_confusion_shows_percent_counts_and_totals() -> None:
    shown = texts(confusion_figure(MATRIX, SCHEME))
    assert {"90", "10", "75", "25", "<1"} <= set(shown)  # 5 of 2000 is less than one percent
    assert "1.5k" in shown
    assert {"water  100", "land  2k", "city  0"} <= set(shown)
    assert "0" not in shown  # empty cells stay empty


@pytest.mark.parametrize("count", [1, 2, 11, 20, 40])
def test_confusion_of_any_number_of_classes(count: int) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 9999, (count, count))
    scheme = ClassScheme(tuple(f"class {i} with a rather long name" for i in range(count)))
    figure = confusion_figure(matrix, scheme)
    assert max(figure.get_size_inches()) < 20
    # Numbers that would overlap are left out: percents beyond 20 classes, counts beyond 10.
    assert len(figure.axes[0].texts) == count**2 * (2 if count <= 10 else count <= 20)
    assert render(figure)[..., :3].std() > 1


def test_curves_split_losses_from_scores_and_mark_the_best() -> None:
    rows: list[dict[str, object]] = [{"step": i, "loss": f"{1 / i:.3f}"} for i in range(1, 60)]
    rows += [{"step": s, "val_miou": v, "loss": ""} for s, v in ((20, 0.4), (40, 0.61), (59, 0.5))]
    rows += [{"step": 60, "lr": 1e-3, "note": "text"}]
    figure = curves_figure(rows)
    loss, score = figure.axes
    assert loss.get_legend_handles_labels()[1] == ["loss"]
    assert score.get_legend_handles_labels()[1] == ["val_miou"]
    assert "0.610" in texts(figure)


def test_curves_without_anything_logged_say_so() -> None:
    assert texts(curves_figure([])) == ["nothing was logged"]
    assert texts(curves_figure([{"step": "1", "loss": "nan"}])) == ["nothing was logged"]


def test_bars_leave_undefined_scores_out() -> None:
    figure = score_bars({"a": {"x": 0.5, "y": None}, "b": {"x": 1.0, "y": 0.25}})
    assert [round(bar.get_width(), 2) for bar in figure.axes[0].patches] == [0.5, 1.0, 0.25]
    assert texts(figure).count("–") == 1
    assert {"a", "b"} <= set(texts(figure))


def make_sample() -> Sample:
    rng = torch.Generator().manual_seed(0)
    images = {"rgb": torch.rand(3, 16, 16, generator=rng), "s1": torch.rand(2, 8, 8, generator=rng)}
    images["rgb"][:, :4] = torch.nan
    labels = torch.randint(0, 3, (16, 16), generator=rng)
    labels[0] = 255
    valid = {name: x.isfinite().any(0) for name, x in images.items()}
    return Sample(images, valid, labels, Window(0, 0, 16, 16), "a/1")


def test_sample_panel_shows_what_there_is() -> None:
    modalities = [Modality("rgb", ("r", "g", "b"), "optical"), Modality("s1", ("VV", "VH"), "sar")]
    sample = make_sample()
    assert sample.labels is not None
    bare = sample_panel(sample, modalities, {}, SCHEME)
    assert [axes.get_title(loc="left") for axes in bare.axes] == ["rgb", "s1", "labels"]
    full = sample_panel(
        sample, modalities, {}, SCHEME, sample.labels.numpy(), np.full((16, 16), 0.5)
    )
    titles = [axes.get_title(loc="left") for axes in full.axes]
    assert titles == ["rgb", "s1", "labels", "prediction", "confidence"]
    assert {"water", "land", "city", "no label", "scene a/1"} <= set(texts(full))
    assert render(full).std() > 10


def test_nothing_global_is_touched() -> None:
    before = dict(matplotlib.rcParams)
    render(confusion_figure(MATRIX, SCHEME))
    curves_figure([{"step": 1, "loss": 1.0}])
    assert dict(matplotlib.rcParams) == before


def test_recolor_is_for_dark_pages_and_ends() -> None:
    figure = confusion_figure(MATRIX, SCHEME)
    before = render(figure, transparent=True)
    with recolor(figure):
        dark = render(figure, transparent=True)
        title = figure.axes[0].title if figure.axes[0].get_title() else figure.axes[0]._left_title
        assert np.mean(to_rgb(title.get_color())) > 0.8
    after = render(figure, transparent=True)
    ink = tuple(round(255 * c) for c in to_rgb(INK))

    def count_ink(picture: np.ndarray) -> int:
        return int(((picture[..., :3] == ink).all(-1) & (picture[..., 3] == 255)).sum())

    assert count_ink(before) > 20
    assert count_ink(dark) == 0
    assert (after == before).all()

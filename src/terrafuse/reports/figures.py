"""Figures of results, in one style, as `Figure` objects: no global state is changed.

Ink and paper are two named colours, so that `recolor` can adapt a finished figure to a dark page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.text import Text
from numpy.typing import NDArray

from terrafuse.classes import DISTINCT_COLORS, ClassScheme
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.reports.previews import (
    VOID_COLOR,
    class_map_image,
    confidence_image,
    modality_preview,
)

if TYPE_CHECKING:
    from terrafuse.samples import Sample

P = ParamSpec("P")

INK, MUTED, LINE, PAPER = "#1c2126", "#667079", "#d5d9dc", "#fefefe"
_DARK = {"#000000": "#e8eaec", INK: "#e8eaec", MUTED: "#9aa4ad", LINE: "#3b434b", PAPER: "#16191d"}
#: The first is the best run's.
SERIES = DISTINCT_COLORS
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "figure.dpi": 110,
    "savefig.dpi": 150,
    "lines.solid_capstyle": "round",
}
# From transparent to deep blue: cells without pixels show the page, light or dark.
_CELLS = LinearSegmentedColormap.from_list("cells", [(0.0, 0.36, 0.64, 0.0), (0.0, 0.36, 0.64, 1)])
_LABELS_IN_CELLS, _COUNTS_IN_CELLS = 20, 10


def styled(make: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorate a function that makes figures with the common style."""

    @wraps(make)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            figure = make(*args, **kwargs)
            # Laid out once, so that the versions for a light and a dark page are identical.
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
            return figure

    return wrapper


@contextmanager
def recolor(figure: Figure) -> Iterator[None]:
    """Make ink light and paper dark within the context."""
    undo: list[Callable[[], Any]] = []
    for artist in figure.findobj(include_self=True):
        # Only texts and lines have a colour besides those of face and edge.
        names = ("color",) if isinstance(artist, Text | Line2D) else ("facecolor", "edgecolor")
        for name in names:
            color = getattr(artist, f"get_{name}", lambda: None)()
            dark = _DARK.get(_hex(color))
            if dark is not None:
                setter = getattr(artist, f"set_{name}")
                setter(dark)
                undo.append(partial(setter, color))
    try:
        yield
    finally:
        for restore in undo:
            restore()


def _hex(color: Any) -> str:
    """Return a visible colour as "#rrggbb"; empty for anything else, such as one per point."""
    if color is None or (not isinstance(color, str) and np.ndim(color) != 1):
        return ""
    return to_hex(color) if to_rgba(color)[3] > 0 else ""


@styled
def confusion_figure(matrix: NDArray[np.int64], scheme: ClassScheme) -> Figure:
    """Draw the confusion matrix in shares of the reference, with numbers for up to 20 classes.

    Args:
        matrix: Pixel counts (K, K), rows = reference.
        scheme: Names of the K classes.
    """
    matrix = np.asarray(matrix, np.int64)
    rows = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, rows, out=np.zeros(matrix.shape), where=rows > 0)
    count = len(matrix)
    side = float(np.clip(0.62 * count + 1.9, 4.2, max(6.2, 0.42 * count + 1.9)))
    figure = Figure(figsize=(side + 0.5, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(share, cmap=_CELLS, vmin=0, vmax=1, aspect="equal", interpolation="nearest")
    names = [_short(name) for name in scheme.names]
    totals = [f"{n}  {_round(int(r))}" for n, r in zip(names, rows[:, 0], strict=True)]
    axes.set_xticks(range(count), names, rotation=40 if count > 3 else 0, ha="right", color=INK)
    if count <= 3:
        axes.set_xticks(range(count), names, ha="center", color=INK)
    axes.set_yticks(range(count), totals, color=INK)
    axes.set_xlabel("mapped as")
    axes.set_ylabel("reference, with its pixels")
    axes.set_title("Confusion matrix: % of the reference")
    axes.spines[:].set_visible(False)
    if count <= _LABELS_IN_CELLS:
        _write_cells(axes, share, matrix)
    for i in range(count):
        axes.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=LINE, lw=0.8))
    return figure


def _write_cells(axes: Any, share: NDArray[np.float64], matrix: NDArray[np.int64]) -> None:
    with_counts = len(matrix) <= _COUNTS_IN_CELLS
    for row, col in np.ndindex(*matrix.shape):
        if not matrix[row, col]:
            continue
        # Pure white stays white on a dark page: its background is the cell, not the paper.
        dark = share[row, col] > 0.55
        percent = 100 * share[row, col]
        text = f"{percent:.0f}" if percent >= 0.95 else "<1"
        axes.text(
            col, row - (0.12 if with_counts else 0), text, ha="center", va="center",
            color="#ffffff" if dark else INK, fontsize=10 if with_counts else 7.5,
            fontweight="bold" if row == col else "normal",
        )  # fmt: skip
        if with_counts:
            axes.text(
                col, row + 0.24, _round(int(matrix[row, col])), ha="center", va="center",
                color="#ffffff" if dark else MUTED, fontsize=6.5,
            )  # fmt: skip


@styled
def curves_figure(rows: Sequence[Mapping[str, Any]], *, score: str = "miou") -> Figure:
    """Draw losses and validation scores against steps.

    Args:
        rows: Lines of `log.csv`, with a key "step"; keys containing "loss" go to the upper panel,
            keys beginning with "val" to the lower. Texts are read as numbers, empty ones skipped.
        score: Validation score that selects the weights; its best value is marked.
    """
    series = _read_series(rows)
    losses = {k: v for k, v in series.items() if "loss" in k}
    scores = {k: v for k, v in series.items() if k.startswith("val") and k not in losses}
    deciding = [k for k in scores if k == f"val_{score}"]
    scores = {k: scores[k] for k in (deciding or list(scores))[:3]}
    panels = [p for p in (losses, scores) if p]
    figure = Figure(figsize=(7.2, 2.1 * max(len(panels), 1) + 0.5), layout="constrained")
    if not panels:
        figure.text(0.5, 0.5, "nothing was logged", ha="center", color=MUTED)
        return figure
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(all_axes, panels, strict=True):
        _draw_series(axes, panel, is_loss=panel is losses)
        axes.grid(axis="y")
        axes.set_title("Loss" if panel is losses else "Validation score")
    all_axes[-1].set_xlabel("step")
    return figure


def _read_series(
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for key, value in row.items():
            if key == "step" or value in ("", None):
                continue
            with suppress(ValueError):
                point = float(row["step"]), float(value)
                points.setdefault(key, []).append(point)
    arrays = {key: np.array(values).T for key, values in points.items()}
    return {key: (x[0], x[1]) for key, x in arrays.items() if np.isfinite(x[1]).any()}


def _draw_series(
    axes: Any,
    series: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    *,
    is_loss: bool,
) -> None:
    for (name, (steps, values)), color in zip(series.items(), SERIES, strict=False):
        if is_loss and len(values) > 12:
            axes.plot(steps, values, color=color, lw=0.7, alpha=0.3)
            axes.plot(steps, _smooth(values), color=color, lw=1.8, label=name)
        else:
            axes.plot(steps, values, color=color, lw=1.8, marker="o", ms=3.5, label=name)
        if not is_loss:
            best = int(np.nanargmin(values) if _falls(name) else np.nanargmax(values))
            axes.annotate(
                f"{values[best]:.3f}", (steps[best], values[best]), (0, 6), color=INK,
                textcoords="offset points", ha="center", fontsize=8, fontweight="bold",
            )  # fmt: skip
    if not is_loss:
        axes.margins(y=0.22)
    axes.legend(loc="best", fontsize=8, labelcolor=MUTED)


def _falls(column: str) -> bool:
    """Tell whether lower values are better in a column of validation scores."""
    from terrafuse.evaluation import SCORES  # torch and rasterio take seconds to import

    kind = SCORES.get(column.removeprefix("val_"))
    return kind is not None and not kind.higher_is_better


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the running mean over about a twentieth of the run, shorter at the ends."""
    half = max(len(values) // 40, 1)
    total = np.concatenate([[0.0], np.cumsum(np.nan_to_num(values, nan=float(np.nanmean(values))))])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return np.asarray((total[high] - total[low]) / (high - low), np.float64)


@styled
def score_bars(
    scores: Mapping[str, Mapping[str, float | None]], *, title: str = "IoU per class"
) -> Figure:
    """Draw scores of several runs side by side, one group of bars per class.

    Args:
        scores: Run → class → score from 0 to 1; None = undefined.
        title: Title of the figure, which names the score.
    """
    classes = list(dict.fromkeys(name for run in scores.values() for name in run))
    height = 0.8 / max(len(scores), 1)
    inches = max(0.14 * len(scores), 0.3) * len(classes) + 0.12 * len(classes) + 1.0
    figure = Figure(figsize=(7.2, min(inches, 16)), layout="constrained")
    axes = figure.add_subplot()
    for number, values in enumerate(scores.values()):
        color = SERIES[number % len(SERIES)]
        for row, name in enumerate(classes):
            value = values.get(name)
            y = row + (number - (len(scores) - 1) / 2) * height
            if value is None:
                axes.text(0.004, y, "–", va="center", color=MUTED, fontsize=7)
                continue
            axes.barh(y, value, height * 0.86, color=color)
            axes.text(value + 0.006, y, f"{value:.2f}", va="center", color=MUTED, fontsize=6.5)
    axes.set_yticks(range(len(classes)), [_short(c) for c in classes], color=INK)
    axes.set_ylim(len(classes) - 0.45, -0.55)
    axes.set_xlim(0, 1.04)
    axes.grid(axis="x")
    axes.spines["bottom"].set_visible(False)
    axes.set_title(title)
    handles = [Patch(color=SERIES[i % len(SERIES)], label=run) for i, run in enumerate(scores)]
    figure.legend(handles=handles, loc="outside lower left", ncols=min(len(scores), 4))
    return figure


@styled
def sample_panel(
    sample: Sample,
    modalities: Sequence[Modality],
    statistics: Mapping[str, BandStatistics],
    scheme: ClassScheme,
    prediction: NDArray[Any] | None = None,
    confidence: NDArray[Any] | None = None,
) -> Figure:
    """Draw one window as a row of pictures: modalities, labels, prediction and confidence.

    Args:
        sample: Images and labels of the window.
        modalities: Modalities to show, in this order.
        statistics: Band statistics per modality, for the display stretch.
        scheme: Names and colours of the classes.
        prediction: Class indices (H, W), 255 = no data; None: not shown.
        confidence: As for `confidence_image`, (H, W); None: not shown.
    """
    pictures = {
        m.name: modality_preview(sample.images[m.name].numpy(), m, statistics.get(m.name))
        for m in modalities
    }
    if sample.labels is not None:
        pictures["labels"] = class_map_image(sample.labels.numpy(), scheme)
    if prediction is not None:
        pictures["prediction"] = class_map_image(prediction, scheme)
    if confidence is not None:
        pictures["confidence"] = confidence_image(confidence)
    aspect = sample.window.height / sample.window.width
    height = 2.3 * min(aspect, 3) + 0.9
    figure = Figure(figsize=(2.3 * len(pictures), height), layout="constrained")
    all_axes = figure.subplots(1, len(pictures), squeeze=False)[0]
    for axes, (title, picture) in zip(all_axes, pictures.items(), strict=True):
        # Every modality covers the same ground, whatever its pixel size.
        axes.imshow(picture, interpolation="nearest", aspect="auto", extent=(0, 1, 0, 1))
        axes.set_box_aspect(aspect)
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    figure.suptitle(f"scene {sample.scene_id}", x=0.01, ha="left", fontsize=8, color=MUTED)
    figure.legend(handles=class_legend(scheme), loc="outside lower left", ncols=8, fontsize=8)
    return figure


def class_legend(scheme: ClassScheme) -> list[Patch]:
    """Return legend handles for the classes and for unlabelled pixels."""
    void = to_hex([channel / 255 for channel in VOID_COLOR])
    named = [*zip(scheme.names, scheme.colors, strict=True), ("no label", void)]
    return [Patch(facecolor=color, edgecolor=LINE, lw=0.5, label=name) for name, color in named]


def _short(name: str, limit: int = 22) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _round(count: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)

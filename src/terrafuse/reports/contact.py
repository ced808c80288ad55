"""Contact sheets: one scene per row, with its modalities and labels side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from terrafuse.classes import ClassScheme
from terrafuse.reports.figures import MUTED, class_legend, styled

Picture = NDArray[np.uint8]
_INCHES = 2.1


@styled
def contact_sheet(
    rows: Mapping[str, Mapping[str, Picture]],
    columns: Sequence[str],
    *,
    scheme: ClassScheme | None = None,
    title: str = "",
) -> Figure:
    """Draw pictures of several scenes in a grid.

    Args:
        rows: Name of the scene → column → uint8 (H, W, 3); a missing picture is marked "none".
        columns: Modalities, and "labels", from left to right.
        scheme: Classes, for the legend; None: no legend.
    """
    aspects = [_aspect(pictures) for pictures in rows.values()]
    size = (_INCHES * len(columns) + 0.4, sum(_INCHES * a for a in aspects) + 1.1)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(
        len(rows), len(columns), squeeze=False, gridspec_kw={"height_ratios": aspects}
    )
    for line, (name, pictures), aspect in zip(grid, rows.items(), aspects, strict=True):
        for axes, column in zip(line, columns, strict=True):
            axes.set_axis_off()
            axes.set_box_aspect(aspect)
            if column in pictures:
                axes.imshow(
                    pictures[column], interpolation="nearest", aspect="auto", extent=(0, 1, 0, 1)
                )
            else:
                axes.text(0.5, 0.5, "none", ha="center", va="center", color=MUTED, fontsize=8)
        line[0].text(-0.05, 0.5, name, rotation=90, ha="right", va="center", fontsize=8)
    for axes, column in zip(grid[0], columns, strict=True):
        axes.set_title(column, fontsize=9)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    if scheme is not None:
        handles = class_legend(scheme)
        columns_of_legend = max(1, min(len(handles), int(size[0] / 1.3)))
        figure.legend(
            handles=handles, loc="outside lower left", ncols=columns_of_legend, fontsize=8
        )
    return figure


def _aspect(pictures: Mapping[str, Picture]) -> float:
    """Return height / width of a row, clipped to between a third and three."""
    shapes = [picture.shape for picture in pictures.values()]
    return min(3.0, max(1 / 3, shapes[0][0] / shapes[0][1])) if shapes else 1.0

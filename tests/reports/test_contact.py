from __future__ import annotations

import numpy as np
import pytest

from terrafuse.classes import ClassScheme
from terrafuse.reports import contact_sheet

RED = np.full((20, 40, 3), (200, 30, 30), np.uint8)


def test_every_scene_has_a_row_and_every_modality_a_column():
    rows = {"first": {"rgb": RED, "labels": RED}, "second": {"rgb": RED}}
    scheme = ClassScheme(("water", "land"))
    figure = contact_sheet(rows, ["rgb", "sar", "labels"], scheme=scheme, title="two of 9")
    assert len(figure.axes) == 6
    shown = [len(axes.images) for axes in figure.axes]
    assert shown == [1, 0, 1, 1, 0, 0]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["rgb", "sar", "labels", "", "", ""]
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts.count("none") == 3
    assert {"first", "second"} <= set(texts)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["water", "land", "no label"]
    assert figure.axes[0].get_box_aspect() == pytest.approx(0.5)


def test_without_labels_there_is_no_legend():
    figure = contact_sheet({"only": {"rgb": RED}}, ["rgb"])
    assert figure.legends == []
    assert figure.get_suptitle() == ""

"""The page opens in a browser, draws, and reads a pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra web is not installed")

from browsing import chromium, looking, serving_app
from terrafuse.web.viewer.serving import open_viewer
from viewed import NAMES, SIDE, write_map


def test_page_opens_and_reads_a_pixel(tmp_path: Path) -> None:
    classes = np.kron(np.array([[0, 1], [2, 0]]), np.ones((SIDE // 2, SIDE // 2)))
    _, app = open_viewer(write_map(tmp_path / "map", classes))
    with chromium() as browser, serving_app(app) as address, looking(browser, address) as shown:
        shown.settle()
        shown.click(120, -120)
        shown.page.wait_for_selector("[data-read=class_map][data-stored='1']")
        assert NAMES[1] in shown.page.locator("[data-read=class_map]").inner_text()

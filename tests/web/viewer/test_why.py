"""Which window a pixel is explained by."""

from __future__ import annotations

import pytest

from terrafuse.prediction.lattice import Lattice
from terrafuse.web.viewer.why import nearest_window


@pytest.mark.parametrize(
    ("row", "col", "expected"),
    [(0, 0, (0, 0)), (23, 47, (0, 32)), (24, 31, (16, 16)), (63, 95, (32, 64)), (39, 40, (16, 32))],
)
def test_a_pixel_lies_in_the_middle_of_its_window(
    row: int, col: int, expected: tuple[int, int]
) -> None:
    lattice = Lattice(64, 96, 32, 16)
    assert lattice.row_starts == (0, 16, 32)
    window = nearest_window(lattice, row, col)
    assert (window.row, window.col) == expected

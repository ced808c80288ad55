"""A scene that is ready: its view, pixels and thumbnails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window as RasterWindow

from terrafuse.data import Grid
from terrafuse.data.handles import without_warnings
from terrafuse.errors import DataError
from terrafuse.web.viewer.copies import told_damage
from terrafuse.web.viewer.document import Layer, Place, View
from terrafuse.web.viewer.thumbnails import draw_place


@dataclass(frozen=True)
class Shown:
    """A scene that is ready.

    Args:
        view: What the page reads.
        rasters: Layer → its file.
        grid: Of the scene.
    """

    view: View
    rasters: Mapping[str, Path]
    grid: Grid
    _drawn: dict[str, bytes] = field(default_factory=dict, compare=False)

    @property
    def thumbnails(self) -> dict[str, Place]:
        """Address of a thumbnail → its place."""
        listed = (place for one in self.view.places for place in one.places)
        return {place.thumbnail: place for place in listed if place.thumbnail is not None}

    def thumbnail(self, address: str) -> bytes | None:
        """The PNG at an address; None: there is no such place."""
        if address not in self._drawn:
            place = self.thumbnails.get(address)
            if place is None:
                return None
            image = self._first("image")
            self._drawn[address] = draw_place(
                place, image, self._first("classes"), self.view.classes
            )
        return self._drawn[address]

    def values(self, row: int, col: int) -> dict[str, Any]:
        """Values of every layer at a pixel, as rasterio reads them; None = no data.

        Raises:
            DataError: The pixel lies outside.
        """
        check_pixel(self.view, row, col)
        x, y = self.grid.transform * (col + 0.5, row + 0.5)
        found = {one.id: _values_at(self.rasters[one.id], one, row, col) for one in
                 self.view.layers}  # fmt: skip
        return {"row": row, "col": col, "x": x, "y": y, "values": found}

    def _first(self, kind: str) -> tuple[Path, Layer] | None:
        return next(
            ((self.rasters[one.id], one) for one in self.view.layers if one.kind == kind), None
        )


def check_pixel(view: View, row: int, col: int) -> None:
    """Refuse pixels outside a scene.

    Raises:
        DataError: It is.
    """
    if not (0 <= row < view.height and 0 <= col < view.width):
        raise DataError(
            f"row {row}, column {col} is outside the scene; rows are 0 to {view.height - 1}, "
            f"columns 0 to {view.width - 1}"
        )


def _values_at(path: Path, layer: Layer, row: int, col: int) -> list[float | None]:
    """Physical values of a layer at a pixel of the scene."""
    own = int((row + 0.5) / layer.pixels[0]), int((col + 0.5) / layer.pixels[1])
    with told_damage(path), without_warnings(), rasterio.open(path) as dataset:
        if own[0] >= dataset.height or own[1] >= dataset.width:
            return [None] * dataset.count
        stored = dataset.read(window=RasterWindow(own[1], own[0], 1, 1))[:, 0, 0].tolist()
    return [
        None
        if value == layer.nodata_value or not np.isfinite(value)
        else value * band.factor + band.summand
        for value, band in zip(stored, layer.bands, strict=True)
    ]

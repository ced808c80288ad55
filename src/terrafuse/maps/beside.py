"""What stands beside a finished map of `predict`: its picture and its STAC item."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from terrafuse.maps.class_raster import ClassRaster, open_class_raster
from terrafuse.maps.item import ITEM, describe_item
from terrafuse.maps.preview import PREVIEW, draw_preview
from terrafuse.prediction import Products
from terrafuse.writing import written_whole


def write_beside(
    products: Products, *, name: str, model: Mapping[str, Any], model_file: Path
) -> tuple[Path, ...]:
    """Write `preview.png`, where there is a class map, and `item.json`.

    Args:
        products: The map, complete.
        name: Of the item: the id of the scene.
        model: Content of `model.json`.
        model_file: Weights of the model.

    Raises:
        OutputError: The folder cannot be written.
    """
    folder = products.record.parent
    raster: ClassRaster | None = None
    if "class_map" in products.files:
        raster = open_class_raster(products.class_map)
    written = [folder / PREVIEW] * (raster is not None) + [folder / ITEM]
    with written_whole(*written) as partials:
        if raster is not None:
            draw_preview(raster, partials[0])
        item = describe_item(
            products,
            raster,
            name=name,
            made=datetime.now(UTC),
            model=model,
            model_file=model_file,
            extra=written[:-1],
        )
        text = json.dumps(item, indent=2, ensure_ascii=False)
        partials[-1].write_text(text + "\n", encoding="utf-8")
    return tuple(written)

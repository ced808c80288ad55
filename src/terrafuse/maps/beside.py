"""What stands beside a finished map of `predict`: its picture and its STAC item."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from terrafuse.errors import DataError
from terrafuse.maps.class_raster import ClassRaster, open_class_raster
from terrafuse.maps.item import ITEM, describe_item
from terrafuse.maps.preview import PREVIEW, draw_preview
from terrafuse.prediction import Beside, Products


def picture_and_item(
    folder: Path, *, name: str, model: Mapping[str, Any], model_file: Path
) -> Beside:
    """`preview.png`, where there is a class map, and `item.json`.

    Args:
        folder: Of the map, once it is whole.
        name: Of the item: the id of the scene.
        model: Content of `model.json`.
        model_file: Weights of the model.
    """

    def write(products: Products) -> list[Path]:
        written: list[Path] = []
        raster: ClassRaster | None = None
        try:
            if "class_map" in products.files:
                raster = open_class_raster(products.class_map)
                draw_preview(raster, products.record.with_name(PREVIEW))
                written.append(products.record.with_name(PREVIEW))
            item = describe_item(
                products,
                raster,
                name=name,
                made=datetime.now(UTC),
                model=model,
                model_file=model_file,
                extra=written,
                folder=folder,
            )
            path = products.record.with_name(ITEM)
            text = json.dumps(item, indent=2, ensure_ascii=False)
            path.write_text(text + "\n", encoding="utf-8")
            written.append(path)
        except Exception as error:  # hours of mapping are not lost for a picture
            if isinstance(error, OSError) and not isinstance(error, DataError):
                raise  # a full disk ends the map too, which --resume finishes
            lacking = [n for n in (PREVIEW, ITEM) if n not in {path.name for path in written}]
            warnings.warn(
                f"the map in '{folder}' is whole, but has no {' and no '.join(lacking)}: {error}",
                stacklevel=3,
            )
        return written

    return Beside((PREVIEW, ITEM), write)

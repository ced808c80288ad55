"""What people write themselves: windows read, mapped and written one after the other.

No blending, no masks, no overviews, nothing that survives a stop: `benchmarks/engine.py` runs it in
the same process as the engine, on the same scene with the same model. It compresses with GDAL's
default level, 6, because such loops name none; the engine's level is 1, several times as fast on
confidence. So the comparison is of what is written as people write it, not of equal files.
"""

from __future__ import annotations

from pathlib import Path

import rasterio
import torch
from rasterio.windows import Window


def map_scene(model: torch.nn.Module, source: Path, folder: Path, crop: int, overlap: int) -> None:
    """Map a raster; `model` takes and returns float tensors (1, C, h, w), (1, K, h, w)."""
    step = crop - overlap
    with rasterio.open(source) as image:
        profile = {
            "driver": "GTiff", "width": image.width, "height": image.height, "count": 1,
            "dtype": "uint8", "crs": image.crs, "transform": image.transform, "nodata": 255,
            "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate",
        }  # fmt: skip
        with (
            rasterio.open(folder / "classes.tif", "w", **profile) as classes,
            rasterio.open(folder / "confidence.tif", "w", **profile) as confidence,
            torch.inference_mode(),
        ):
            for row in range(0, image.height, step):
                for col in range(0, image.width, step):
                    height, width = min(crop, image.height - row), min(crop, image.width - col)
                    window = Window(col, row, width, height)
                    values = torch.from_numpy(image.read(window=window).astype("float32"))
                    share, index = model(values[None])[0].softmax(0).max(0)
                    classes.write(index.byte().numpy(), 1, window=window)
                    confidence.write((share * 254).round().byte().numpy(), 1, window=window)

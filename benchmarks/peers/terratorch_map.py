"""TerraTorch: `tiled_inference` over the whole image in memory, blended.

uv venv ~/peers/terratorch
uv pip install --python ~/peers/terratorch/bin/python terratorch
~/peers/terratorch/bin/python benchmarks/peers/terratorch_map.py raster/image.tif
"""

from __future__ import annotations

import rasterio
import torch
from common import OneByOne, arguments, measure, output_profile


def main() -> None:
    args = arguments(__doc__ or "")

    from terratorch.tasks.tiled_inference import tiled_inference

    def run() -> None:
        with rasterio.open(args.raster) as source:
            image = torch.from_numpy(source.read().astype("float32"))[None]
            profile = output_profile(source)
        model = OneByOne(image.shape[1], args.classes)
        scores = tiled_inference(
            model, image, crop=args.crop, stride=args.crop - args.overlap, delta=0,
            batch_size=args.batch, padding=False,
        )[0]  # fmt: skip
        share, index = scores.softmax(0).max(0)
        for name, values in (("classes", index), ("confidence", (share * 254).round())):
            with rasterio.open(args.out / f"{name}.tif", "w", **profile) as target:
                target.write(values.byte().numpy(), 1)

    measure("terratorch", args, run)


if __name__ == "__main__":
    main()

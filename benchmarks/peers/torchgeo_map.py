"""torchgeo: a `GridGeoSampler` over a `RasterDataset`, windows written as they come, not blended.

uv venv ~/peers/torchgeo
uv pip install --python ~/peers/torchgeo/bin/python torchgeo requests
~/peers/torchgeo/bin/python benchmarks/peers/torchgeo_map.py raster/image.tif
"""

from __future__ import annotations

import rasterio
from common import OneByOne, arguments, measure, output_profile
from rasterio.windows import Window
from torch.utils.data import DataLoader


def main() -> None:
    args = arguments(__doc__ or "")

    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler

    class Image(RasterDataset):
        filename_glob = args.raster.name

    def run() -> None:
        dataset = Image(args.raster.parent)
        sampler = GridGeoSampler(dataset, args.crop, args.crop - args.overlap)
        loader = DataLoader(
            dataset, batch_size=args.batch, sampler=sampler, collate_fn=stack_samples
        )
        with rasterio.open(args.raster) as source:
            profile, inverse = output_profile(source), ~source.transform
            model = OneByOne(source.count, args.classes)
        with (
            rasterio.open(args.out / "classes.tif", "w", **profile) as classes,
            rasterio.open(args.out / "confidence.tif", "w", **profile) as confidence,
        ):
            places = iter(sampler)
            for batch in loader:
                for scores in model(batch["image"].float()):
                    x, y, _ = next(places)
                    col, row = (round(n) for n in inverse * (x.start, y.stop))
                    # Windows of the last row and column reach beyond the raster.
                    top, left = max(-row, 0), max(-col, 0)
                    bottom = min(args.crop, profile["height"] - row)
                    right = min(args.crop, profile["width"] - col)
                    scores = scores[:, top:bottom, left:right]
                    share, index = scores.softmax(0).max(0)
                    window = Window(col + left, row + top, right - left, bottom - top)
                    classes.write(index.byte().numpy(), 1, window=window)
                    confidence.write((share * 254).round().byte().numpy(), 1, window=window)

    measure("torchgeo", args, run)


if __name__ == "__main__":
    main()

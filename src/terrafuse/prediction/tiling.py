"""A product in several files: tiles in a folder of its name, and a VRT over them.

GDAL reads the VRT as one raster. Details come from the overviews of the tiles, whose edges are
those of blocks, so that they are parts of the overviews of the whole; coarser ones, for which every
tile would be opened, lie in `NAME.vrt.ovr` (https://gdal.org/drivers/raster/vrt.html).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import rasterio.shutil

from terrafuse.samples import Window
from terrafuse.writing import SIDE_CAR

_TILE = re.compile(r"\w+_r\d+_c\d+\.tif")


@dataclass(frozen=True)
class Tiling:
    """Tiles of a raster.

    Args:
        height: Of the raster.
        width: Of the raster.
        size: Side of a tile; those at the bottom and on the right may be smaller.
    """

    height: int
    width: int
    size: int

    def __iter__(self) -> Iterator[Window]:
        """Yield the tiles, row by row."""
        for row in range(0, self.height, self.size):
            for col in range(0, self.width, self.size):
                height, width = min(self.size, self.height - row), min(self.size, self.width - col)
                yield Window(row, col, height, width)

    def names(self, product: str) -> dict[Window, str]:
        """Tile → its file, from the folder of the map."""
        return {
            tile: f"{product}/{product}_r{tile.row // self.size:03d}_c{tile.col // self.size:03d}"
            ".tif"
            for tile in self
        }


def product_files(folder: Path, product: str) -> list[Path]:
    """Every file that a product may have in a folder, as one raster or in tiles that are there."""
    tiles = [path for path in (folder / product).glob("*") if _TILE.fullmatch(path.name)]
    named = [folder / f"{product}{end}" for end in (".tif", ".vrt", ".vrt.ovr")]
    rasters = [*named, *tiles]
    return [*rasters, *(path.with_name(path.name + SIDE_CAR) for path in rasters)]


def is_tile(path: Path) -> bool:
    """Tell whether a file in the folder of tiles is one of a map."""
    return _TILE.fullmatch(path.name.removesuffix(SIDE_CAR)) is not None


def write_mosaic(
    path: Path, template: Path, tiles: Mapping[Window, str], names: Mapping[int, str]
) -> None:
    """Write the VRT over tiles.

    Args:
        path: The VRT.
        template: Raster of the size of the whole with all its tags.
        tiles: Tile → its file, from the folder of the VRT.
        names: Pixel value → its name; none for products of numbers.

    Raises:
        OSError: The disk is full or fails.
    """
    rasterio.shutil.copy(template, path, driver="VRT")
    tree = ElementTree.parse(path)  # noqa: S314
    for band in tree.getroot().iter("VRTRasterBand"):
        for source in band.findall("SimpleSource"):
            band.remove(source)
        if names:
            add_categories(band, names)
        for tile, name in tiles.items():
            _add_source(band, tile, name)
    ElementTree.indent(tree)
    tree.write(path, encoding="utf-8")


def add_categories(parent: ElementTree.Element, names: Mapping[int, str]) -> None:
    """Name pixel values, as GDAL keeps them in XML."""
    categories = ElementTree.SubElement(parent, "CategoryNames")
    for value in range(max(names) + 1):  # the position of a name is its value
        ElementTree.SubElement(categories, "Category").text = names.get(value, "")


def _add_source(band: ElementTree.Element, tile: Window, name: str) -> None:
    size = {"xSize": str(tile.width), "ySize": str(tile.height)}
    source = ElementTree.SubElement(band, "SimpleSource")
    ElementTree.SubElement(source, "SourceFilename", relativeToVRT="1").text = name
    ElementTree.SubElement(source, "SourceBand").text = band.get("band")
    # With these, GDAL opens a tile when its pixels are wanted.
    ElementTree.SubElement(
        source, "SourceProperties", RasterXSize=size["xSize"], RasterYSize=size["ySize"],
        DataType=band.get("dataType", ""), BlockXSize=band.get("blockXSize", ""),
        BlockYSize=band.get("blockYSize", ""),
    )  # fmt: skip
    ElementTree.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0", **size})
    ElementTree.SubElement(
        source, "DstRect", {"xOff": str(tile.col), "yOff": str(tile.row), **size}
    )

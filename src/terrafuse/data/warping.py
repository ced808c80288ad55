"""VRT documents that warp a raster to another grid while it is read.

A document has two layers. The inner one turns pixels without data into NaN and complex values into
amplitudes, so that neither can bleed into their neighbours. The outer one is GDAL's warped VRT. We
write the document rather than use `rasterio.vrt.WarpedVRT` for three reasons: it is a string, hence
a key of the handle pool and easy to pickle; its transformer is exact within one CRS; and it can
have blocks of our size, on which the result depends (see `handles`).
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree as ET

import numpy as np
from affine import Affine

from terrafuse.data.grid import Grid
from terrafuse.data.stored import RAW_PREFIX, raw_options

_ALGORITHMS = {
    "nearest": "NearestNeighbour",
    "bilinear": "Bilinear",
    "cubic": "Cubic",
    "average": "Average",
}
BLOCK = 64
# Between CRSs the transform is interpolated along a row of a block, within this many source pixels.
_TOLERANCE_PX = 0.01


@dataclass(frozen=True)
class BandSource:
    """A band as the warp must see it.

    Args:
        index: 1-based band number in the file.
        nodata: Value that becomes NaN, in addition to what the file itself masks; None = none.
        masked: Whether pixels that the file itself masks (nodata tag, mask, alpha) become NaN.
        complex: Whether to take the modulus.
        finite: Whether all values are certain to be finite (integers).
    """

    index: int
    nodata: float | None = None
    masked: bool = False
    complex: bool = False
    finite: bool = True


def warped_document(
    path: str,
    source: Grid,
    target: Grid,
    bands: list[BandSource],
    *,
    resampling: str,
    scale: tuple[float, float] = (1.0, 1.0),
    dtype: str = "Float32",
) -> str:
    """Build a VRT document: `bands` of the file on the target grid, NaN where there is no data.

    Args:
        path: File as GDAL opens it (`RasterFile.spec`).
        target: Grid to read on; CRS as for `Grid` (None on both: pixel to pixel).
        scale: Target pixels per source pixel along the source's columns and rows, at most 1. Fixed
            here: GDAL would otherwise estimate the width of its kernel block by block.
        dtype: GDAL type of the result, "Float32" or "Float64".
    """
    root = _dataset(target, subClass="VRTWarpedDataset")
    for number in range(1, len(bands) + 1):
        _band(root, number, dtype, subClass="VRTWarpedRasterBand")
    for axis in "XY":
        _text(root, f"Block{axis}Size", BLOCK)
    options = ET.SubElement(root, "GDALWarpOptions")
    _text(options, "ResampleAlg", _ALGORITHMS[resampling])
    _text(options, "WorkingDataType", dtype)
    extras = {"INIT_DEST": "NO_DATA", "XSCALE": scale[0], "YSCALE": scale[1]}
    for name, value in extras.items():
        _text(options, "Option", value, name=name)
    _text(options, "SourceDataset", _clean_document(path, source, bands, dtype), relativeToVRT=0)
    _transformer(ET.SubElement(options, "Transformer"), source, target)
    mapping = ET.SubElement(options, "BandList")
    for number in range(1, len(bands) + 1):
        item = ET.SubElement(mapping, "BandMapping", src=str(number), dst=str(number))
        for side in ("Src", "Dst"):
            _text(item, f"{side}NoDataReal", "nan")
            _text(item, f"{side}NoDataImag", 0)
    return ET.tostring(root, encoding="unicode")


def _clean_document(path: str, grid: Grid, bands: list[BandSource], dtype: str) -> str:
    """Build a VRT document of the file with NaN for no data."""
    if any(band.complex for band in bands):
        path = _layer(grid, [_amplitude(path, n, b) for n, b in enumerate(bands, 1)])
        bands = [BandSource(n, finite=False) for n in range(1, len(bands) + 1)]
    layers = [_layer(grid, [_hidden(path, n, b, dtype) for n, b in enumerate(bands, 1)])]
    if not all(band.finite for band in bands):
        for value in (np.inf, -np.inf):
            again = [BandSource(n, nodata=value) for n in range(1, len(bands) + 1)]
            inner = layers[-1]
            layers.append(_layer(grid, [_hidden(inner, b.index, b, dtype) for b in again]))
    return layers[-1]


def _layer(grid: Grid, bands: list[ET.Element]) -> str:
    root = _dataset(grid)
    root.extend(bands)
    return ET.tostring(root, encoding="unicode")


def _hidden(path: str, number: int, band: BandSource, dtype: str) -> ET.Element:
    element = _band(None, number, dtype)
    plain = band.nodata is None and not band.masked
    source = _source(element, "SimpleSource" if plain else "ComplexSource", path, band.index)
    if band.nodata is not None:
        _text(source, "NODATA", repr(float(band.nodata)))
    if band.masked:
        _text(source, "UseMaskBand", "true")
    return element


def _amplitude(path: str, number: int, band: BandSource) -> ET.Element:
    element = _band(None, number, "Float32", subClass="VRTDerivedRasterBand")
    _text(element, "PixelFunctionType", "mod")
    _text(element, "SourceTransferType", "CFloat32")
    _source(element, "SimpleSource", path, band.index)
    return element


def _dataset(grid: Grid, **attributes: str) -> ET.Element:
    size = {"rasterXSize": str(grid.width), "rasterYSize": str(grid.height)}
    root = ET.Element("VRTDataset", size | attributes)
    if grid.crs is not None:
        _text(root, "SRS", grid.crs.to_wkt())
    _text(root, "GeoTransform", _numbers(grid.transform))
    return root


def _band(parent: ET.Element | None, number: int, dtype: str, **attributes: str) -> ET.Element:
    element = ET.Element("VRTRasterBand", {"dataType": dtype, "band": str(number)} | attributes)
    if parent is not None:
        parent.append(element)
    _text(element, "NoDataValue", "nan")
    return element


def _source(parent: ET.Element, kind: str, path: str, index: int) -> ET.Element:
    source = ET.SubElement(parent, kind)
    # Not shared: two threads would use a handle that two VRTs share.
    _text(source, "SourceFilename", path, relativeToVRT=0, shared=0)
    if path.startswith(RAW_PREFIX):
        source.append(raw_options())
    _text(source, "SourceBand", index)
    return source


def _transformer(parent: ET.Element, source: Grid, target: Grid) -> None:
    if source.crs != target.crs:
        parent = ET.SubElement(parent, "ApproxTransformer")
        _text(parent, "MaxError", _TOLERANCE_PX)
        parent = ET.SubElement(parent, "BaseTransformer")
    element = ET.SubElement(parent, "GenImgProjTransformer")
    for side, grid in (("Src", source), ("Dst", target)):
        _text(element, f"{side}GeoTransform", _numbers(grid.transform))
        _text(element, f"{side}InvGeoTransform", _numbers(~grid.transform))
    if source.crs is not None and target.crs is not None and source.crs != target.crs:
        between = ET.SubElement(element, "ReprojectTransformer")
        between = ET.SubElement(between, "ReprojectionTransformer")
        _text(between, "SourceSRS", source.crs.to_wkt())
        _text(between, "TargetSRS", target.crs.to_wkt())


def _text(parent: ET.Element, tag: str, value: object, **attributes: object) -> ET.Element:
    element = ET.SubElement(parent, tag, {k: str(v) for k, v in attributes.items()})
    element.text = str(value)
    return element


def _numbers(transform: Affine) -> str:
    return ",".join(repr(float(value)) for value in transform.to_gdal())

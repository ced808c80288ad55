"""VRT documents that warp a raster to another grid while it is read.

A document has two layers. The inner one turns pixels without data into NaN and complex values into
amplitudes, so that neither can bleed into their neighbours. The outer one is GDAL's warped VRT. We
write the document rather than use `rasterio.vrt.WarpedVRT` for three reasons: it is a string, hence
a key of the handle pool and easy to pickle; its transformer is exact within one CRS; and it can
have blocks of our size, on which the result depends (see `handles`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
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
_DEGREES = 360


@dataclass(frozen=True)
class BandSource:
    """A band as the warp must see it.

    Args:
        index: 1-based number in the file.
        nodata: Value that becomes NaN, beside what the file itself hides; None = none.
        fill: Value that becomes NaN where every band of the modality is without data.
        masked: Whether what the file itself hides (nodata tag, mask, alpha) becomes NaN.
        complex: Whether to take the modulus.
        finite: Whether all values are certain to be finite (integers).
    """

    index: int
    nodata: float | None = None
    fill: float | None = None
    masked: bool = False
    complex: bool = False
    finite: bool = True

    @property
    def strict(self) -> BandSource:
        """The band by itself: its fill is no data, whatever other bands hold there."""
        return self if self.fill is None else replace(self, nodata=self.fill, fill=None)


class Witness(NamedTuple):
    """Bands that tell where a modality has data.

    Args:
        document: VRT document on the grid of the file that is read, NaN without data.
        bands: How many it has.
    """

    document: str
    bands: int


def warped_document(
    path: str,
    source: Grid,
    target: Grid,
    bands: list[BandSource],
    *,
    resampling: str,
    scale: tuple[float, float] = (1.0, 1.0),
    dtype: str = "Float32",
    witnesses: Sequence[Witness] = (),
    seam: bool = False,
) -> str:
    """Build a VRT document: `bands` of the file on the target grid, NaN where there is no data.

    Args:
        path: File as GDAL opens it (`RasterFile.spec`).
        target: Grid to read on; CRS as for `Grid` (None on both: pixel to pixel).
        scale: Target pixels per source pixel along the source's columns and rows, at most 1. Fixed
            here: GDAL would otherwise estimate the width of its kernel block by block.
        dtype: GDAL type of the result, "Float32" or "Float64".
        witnesses: Where none of them has data, fill of `bands` becomes NaN.
        seam: Whether the target lies where both ends of the source meet, in degrees.
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
    document = _clean_document(path, source, bands, dtype)
    if witnesses and any(band.fill is not None for band in bands):
        document = _witnessed(document, len(bands), source, dtype, witnesses)
    _text(options, "SourceDataset", document, relativeToVRT=0)
    _transformer(ET.SubElement(options, "Transformer"), source, target, seam)
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
        first = [
            _amplitude(path, n, b)
            if b.complex
            else _hidden(path, n, replace(b, nodata=None) if b.masked else b, dtype)
            for n, b in enumerate(bands, 1)
        ]
        path = _layer(grid, first)
        # Of an amplitude only 0 can be told to be that of a nodata value.
        kept = [b.nodata if (b.nodata == 0 if b.complex else b.masked) else None for b in bands]
        bands = [BandSource(n, nodata, finite=False) for n, nodata in enumerate(kept, 1)]
    # GDAL looks at a mask or at a nodata value of one source, not at both.
    unmasked = [replace(b, nodata=None) if b.masked else b for b in bands]
    layers = [_layer(grid, [_hidden(path, n, b, dtype) for n, b in enumerate(unmasked, 1)])]
    if any(b.masked and b.nodata is not None for b in bands):
        rest = [BandSource(n, b.nodata if b.masked else None) for n, b in enumerate(bands, 1)]
        layers.append(_layer(grid, [_hidden(layers[-1], b.index, b, dtype) for b in rest]))
    if not all(band.finite for band in bands):
        for value in (np.inf, -np.inf):
            again = [BandSource(n, nodata=value) for n in range(1, len(bands) + 1)]
            inner = layers[-1]
            layers.append(_layer(grid, [_hidden(inner, b.index, b, dtype) for b in again]))
    return layers[-1]


def witness(
    path: str,
    source: Grid,
    target: Grid,
    bands: Sequence[BandSource],
    *,
    dtype: str = "Float32",
) -> Witness:
    """Build a document of where a file has data, pixel by pixel of another file.

    Args:
        path: File as GDAL opens it.
        source: Its grid.
        target: Grid of the other file.
        bands: Bands that count.
        dtype: GDAL type of their values.
    """
    alone = [band.strict for band in bands]
    if source == target:
        return Witness(_clean_document(path, source, alone, dtype), len(alone))
    # An average is a number where any pixel below has one.
    document = warped_document(path, source, target, alone, resampling="average", dtype=dtype)
    return Witness(document, len(alone))


def _witnessed(
    document: str, count: int, grid: Grid, dtype: str, witnesses: Sequence[Witness]
) -> str:
    """The document's bands with NaN where no witness has data."""
    root = _dataset(grid)
    for number in range(1, count + 1):
        _source(_band(root, number, dtype), "SimpleSource", document, number)
    mask = ET.SubElement(ET.SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte")
    for seen in witnesses:
        for number in range(1, seen.bands + 1):
            # Later sources write over earlier ones, but nothing where they are NaN: 255 stays.
            source = _source(mask, "ComplexSource", seen.document, number)
            for tag, value in (("NODATA", "nan"), ("ScaleOffset", 255), ("ScaleRatio", 0)):
                _text(source, tag, value)
    inner = ET.tostring(root, encoding="unicode")
    bands = [BandSource(number, masked=True) for number in range(1, count + 1)]
    return _layer(grid, [_hidden(inner, band.index, band, dtype) for band in bands])


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


def _transformer(parent: ET.Element, source: Grid, target: Grid, seam: bool) -> None:
    projected = source.crs != target.crs or seam
    if projected and not seam:  # at a seam nothing can be interpolated
        parent = ET.SubElement(parent, "ApproxTransformer")
        _text(parent, "MaxError", _TOLERANCE_PX)
        parent = ET.SubElement(parent, "BaseTransformer")
    element = ET.SubElement(parent, "GenImgProjTransformer")
    for side, grid in (("Src", source), ("Dst", target)):
        _text(element, f"{side}GeoTransform", _numbers(grid.transform))
        _text(element, f"{side}InvGeoTransform", _numbers(~grid.transform))
    if source.crs is not None and target.crs is not None and projected:
        between = ET.SubElement(element, "ReprojectTransformer")
        between = ET.SubElement(between, "ReprojectionTransformer")
        _text(between, "SourceSRS", source.crs.to_wkt())
        _text(between, "TargetSRS", target.crs.to_wkt())
        if source.turn == _DEGREES:
            # Longitudes become those of the source: 179 to 181, or 0 to 360.
            wrapping = ET.SubElement(between, "Options")
            _text(wrapping, "Option", repr(source.middle_x), key="CENTER_LONG")


def _text(parent: ET.Element, tag: str, value: object, **attributes: object) -> ET.Element:
    element = ET.SubElement(parent, tag, {k: str(v) for k, v in attributes.items()})
    element.text = str(value)
    return element


def _numbers(transform: Affine) -> str:
    return ",".join(repr(float(value)) for value in transform.to_gdal())

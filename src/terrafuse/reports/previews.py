"""Previews of rasters: pictures, uint8 (H, W, 3), for display."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import NDArray

from terrafuse.classes import ClassScheme
from terrafuse.errors import BandError, LabelError
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.samples import IGNORE_INDEX

Picture = NDArray[np.uint8]
Image = NDArray[np.floating[Any]]

#: Target brightness of optical previews, 0 to 1.
MEAN_BRIGHTNESS = 0.38
#: Saturation of radar composites, whose speckle would be garish in full colour.
SAR_SATURATION = 0.65
VOID_COLOR = (228, 228, 224)
_RIGHT, _WRONG = (150, 150, 146), (200, 40, 40)
_HATCH = (np.array([198, 198, 194]), np.array([172, 172, 168]))
_TERRAIN = LinearSegmentedColormap.from_list(
    "terrain", ["#4f7f72", "#86a878", "#c9c78d", "#d8b37c", "#b98d6f", "#c4a592", "#dfd3c8"]
)


def modality_preview(
    image: Image, modality: Modality, statistics: BandStatistics | None = None
) -> Picture:
    """Render one modality as a picture (H, W, 3).

    Optical bands are shown in natural colour if the band names or wavelengths allow it, else the
    first three bands; SAR as VV, VH and their ratio; elevation as tinted relief. Pixels without
    data are hatched grey.

    Args:
        image: (C, H, W) in the modality's unit; NaN where there is no data.
        statistics: Percentiles for the stretch, so that scenes look alike; default: this image's.

    Raises:
        BandError: `image` and modality differ in the number of bands.
    """
    image = np.asarray(image, dtype=np.float32)
    if image.ndim != 3 or len(image) != len(modality.bands):
        raise BandError(
            f"the preview of modality '{modality.name}' needs an image of {len(modality.bands)} "
            f"bands (C, H, W), not one of shape {image.shape}"
        )
    valid = np.isfinite(image).any(axis=0)
    shown = np.where(np.isfinite(image), image, np.nan)
    limits = _limits(shown, statistics)
    with np.errstate(all="ignore"):  # a raster may hold any number
        if modality.kind == "elevation":
            colors = _show_relief(shown[0], limits[0])
        elif modality.kind == "sar":
            colors = _show_sar(shown, limits, in_db=modality.unit.lower() == "db")
        elif modality.kind == "structure" and len(image) == 1:
            colors = _show_segments(shown[0])
        else:
            bands = _choose_bands(modality)
            colors = np.stack([_stretch(shown[b], limits[b]) for b in bands])
            colors = _brighten(colors) if modality.kind == "optical" else colors
    picture = _to_bytes(colors)
    picture[~valid] = hatch(valid.shape)[~valid]
    return picture


def class_map_image(indices: NDArray[Any], scheme: ClassScheme) -> Picture:
    """Render class indices (H, W) in the scheme's colours; 255 (ignored, no data) is pale grey.

    Raises:
        LabelError: An index is neither a class nor 255.
    """
    indices = np.asarray(indices)
    table = np.full((256, 3), VOID_COLOR, np.uint8)
    table[: scheme.num_classes] = scheme.palette()
    outside = (indices < 0) | ((indices >= scheme.num_classes) & (indices != scheme.ignore_index))
    if outside.any():
        raise LabelError(
            f"a class map to render contains index {int(indices[outside].flat[0])}; allowed are "
            f"0 to {scheme.num_classes - 1} and {scheme.ignore_index}"
        )
    picture: Picture = table[indices.astype(np.uint8)]
    return picture


def error_image(labels: NDArray[Any], indices: NDArray[Any]) -> Picture:
    """Draw where a class map (H, W) differs from the labels: red; equal grey; unlabelled pale."""
    picture = np.full((*labels.shape, 3), VOID_COLOR, np.uint8)
    judged = labels != IGNORE_INDEX
    picture[judged & (labels == indices)] = _RIGHT
    picture[judged & (labels != indices)] = _WRONG
    return picture


def confidence_image(confidence: NDArray[Any]) -> Picture:
    """Render confidence (H, W) from dark blue (low) to yellow (high); no data is hatched.

    Args:
        confidence: Uint8, 0 to 254 for 0 to 1 and 255 = no data; or floats from 0 to 1, NaN = no
            data.
    """
    values = np.asarray(confidence)
    if values.dtype == np.uint8:
        values = np.where(values == 255, np.nan, values / np.float32(254))
    valid = np.isfinite(values)
    picture = _to_bytes(_apply(matplotlib.colormaps["cividis"], np.where(valid, values, 0)))
    picture[~valid] = hatch(valid.shape)[~valid]
    return picture


def hatch(shape: tuple[int, ...]) -> Picture:
    """Draw the no-data pattern: diagonal stripes in two greys (H, W, 3)."""
    rows, cols = np.indices(shape[:2])
    stripe = ((rows + cols) // 4 % 2).astype(bool)
    return np.where(stripe[..., None], _HATCH[0], _HATCH[1]).astype(np.uint8)


def _limits(image: Image, statistics: BandStatistics | None) -> list[tuple[float, float]]:
    if statistics is not None:
        return list(zip(statistics.low, statistics.high, strict=True))
    return [_percentiles(band) for band in image]


def _percentiles(band: Image) -> tuple[float, float]:
    values = band[np.isfinite(band)]
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values[:: max(1, values.size // 200_000)], (2, 98))
    return float(low), float(high)


def _stretch(band: Image, limits: tuple[float, float]) -> Image:
    low, high = limits
    if not high > low:
        return np.full(band.shape, 0.5, np.float32)
    return np.asarray(np.clip((band - low) / (high - low), 0, 1))


def _choose_bands(modality: Modality) -> tuple[int, int, int]:
    if modality.kind == "optical" and modality.rgb_bands is not None:
        return modality.rgb_bands
    return (0, 1, 2) if len(modality.bands) >= 3 else (0, 0, 0)


def _brighten(colors: Image) -> Image:
    """Bring the median pixel to a fixed brightness, and let clouds saturate to white.

    Clouds and snow raise the upper percentile so far that the ground would be nearly black. The
    factor is common to all bands, so that colours keep their balance.
    """
    finite = colors[np.isfinite(colors)]
    level = float(np.median(finite)) if finite.size else 0.5
    brightest = float(np.clip(4 * level, 0.35, 1))
    level = min(max(level / brightest, 0.01), 0.99)
    gamma = float(np.clip(math.log(MEAN_BRIGHTNESS) / math.log(level), 0.5, 1.3))
    return np.asarray(np.clip(colors / brightest, 0, 1) ** gamma)


def _show_sar(image: Image, limits: list[tuple[float, float]], *, in_db: bool) -> Image:
    first = _stretch(image[0], limits[0])
    if len(image) == 1:
        return np.stack([first] * 3)
    second = _stretch(image[1], limits[1])
    if len(image) == 2:
        ratio = image[0] - image[1] if in_db else image[0] / image[1]
        ratio = np.where(np.isfinite(ratio), ratio, np.nan)
        third = _stretch(ratio, _percentiles(ratio))
    else:
        third = _stretch(image[2], limits[2])
    colors = np.stack([first, second, third])
    grey = colors.mean(axis=0)
    return np.asarray(grey + SAR_SATURATION * (colors - grey))


def _show_relief(height: Image, limits: tuple[float, float]) -> Image:
    filled = np.where(np.isfinite(height), height, limits[0])
    if min(filled.shape) < 2:
        light = np.ones(filled.shape, np.float32)
    else:
        d_row, d_col = np.gradient(filled)
        # Independent of pixel size: the steep slopes of any relief get the same contrast.
        steep = float(np.percentile(np.hypot(d_row, d_col), 95)) or 1.0
        d_row, d_col = d_row / steep, d_col / steep
        light = (1 + 0.7 * (d_row + d_col)) / np.sqrt(1 + d_row**2 + d_col**2)
        light = np.clip(0.45 + 0.55 * light, 0.25, 1.25)
    return np.asarray(_apply(_TERRAIN, _stretch(filled, limits)) * light)


def _show_segments(ids: Image) -> Image:
    """Colour every integer id differently; render anything else in grey."""
    finite = ids[np.isfinite(ids)]
    if not finite.size or (finite != np.round(finite)).any():
        return np.stack([_stretch(ids, _percentiles(ids))] * 3)
    number = np.where(np.isfinite(ids), ids, 0).astype(np.int64)
    mixed = [(number * prime % 1009) / 1008 for prime in (619, 757, 883)]
    return (0.25 + 0.65 * np.stack(mixed)).astype(np.float32)


def _apply(colormap: Any, values: Image) -> Image:
    colors: Image = np.moveaxis(colormap(values)[..., :3], -1, 0)
    return colors


def _to_bytes(colors: Image) -> Picture:
    filled = np.nan_to_num(colors, nan=0.0)
    return np.moveaxis(np.round(np.clip(filled, 0, 1) * 255).astype(np.uint8), 0, -1).copy()

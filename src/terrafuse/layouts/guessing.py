"""Guesses for a raster without description: kind, bands, wavelengths, pixel size."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from terrafuse.data.raster_file import RasterFile
from terrafuse.data.rasters import ReadingRules, pick_bands
from terrafuse.errors import BandError
from terrafuse.layouts.published import warn
from terrafuse.modalities import Modality, ModalityKind

_WAVELENGTH = re.compile(r"([\d.]+) ?(nm|um|µm)")
_KINDS: Mapping[ModalityKind, str] = {
    "sar": r"s1(?!\d)\w*|sar|sentinel_?1|radar|vv|vh",
    "elevation": r"dem|dsm|dtm|ndsm|chm|hag|srtm|elevation|height|lidar",
    "optical": r"s2(?!\d)\w*|rgbn?|optical|sentinel_?2|naip|landsat|l[578]|aerial|photo|ms|pan"
    r"|nir|vnir|swir|hsi|images?|img",
}


def guess_modality(name: str, files: Sequence[RasterFile]) -> dict[str, Any]:
    """Guess the values of a modality as in a manifest.

    Args:
        name: Name of the modality, which often indicates its kind.
        files: Files of one scene; their bands are concatenated.
    """
    bands = [band for file in files for band in _band_names(file)]
    if len(set(bands)) < len(bands):
        bands = [f"band_{number}" for number in range(1, len(bands) + 1)]
    values: dict[str, Any] = {"kind": _guess_kind(name), "bands": bands}
    wavelengths = [_WAVELENGTH.fullmatch(band) for band in bands]
    if all(wavelengths):
        values["wavelengths_um"] = [_to_um(*match.groups()) for match in wavelengths if match]
    if any(dtype.startswith("complex") for file in files for dtype in file.dtypes):
        values["complex"] = "amplitude"
    return values


def tell_band_names(
    name: str, bands: Sequence[str], files: Mapping[str, Sequence[RasterFile]]
) -> None:
    """Warn of scenes whose files name other bands than the modality, or in another order.

    Args:
        name: Of the modality.
        bands: Its bands.
        files: Its files per scene.
    """
    by_name: list[str] = []
    others: list[str] = []
    first: dict[str, str] = {}
    modality = Modality(name, tuple(bands))
    for id, own in files.items():
        try:
            choice = pick_bands(modality, own, ReadingRules(complex="amplitude"), f"scene '{id}'")
        except BandError as error:
            others.append(id)
            first.setdefault("others", str(error))
            continue
        if choice.notice is not None:
            by_name.append(id)
            first.setdefault("by_name", f"'{choice.notice.path}' {choice.notice.text}")
    for ids, what, text in (
        (others, "files do not suit the bands", first.get("others")),
        (by_name, "files have names of bands to look at", first.get("by_name")),
    ):
        if ids:
            listed = ", ".join(f"'{id}'" for id in ids[:5]) + (" …" if len(ids) > 5 else "")
            warn(f"modality '{name}': in {len(ids)} scenes ({listed}) {what}: {text}")


def guess_scale(image: RasterFile, labels: RasterFile) -> Fraction:
    """Guess the pixel size relative to the labels', as a simple ratio."""
    sizes = image.grid.pixel_size_m, labels.grid.pixel_size_m
    if sizes[0] is not None and sizes[1] is not None:
        ratio = sizes[0] / sizes[1]
    else:
        ratio = labels.grid.height / image.grid.height
    if ratio < 1:
        return 1 / Fraction(1 / ratio).limit_denominator(2)
    return Fraction(ratio).limit_denominator(2)


def _to_um(number: str, unit: str) -> float:
    return round(float(number) / 1000, 7) if unit == "nm" else float(number)


def _guess_kind(name: str) -> ModalityKind:
    for kind, words in _KINDS.items():
        if re.search(rf"(?<![a-z])(?:{words})(?![a-z0-9])", name.lower()):
            return kind
    return "other"


def _band_names(file: RasterFile) -> list[str]:
    # Software often tags a fourth band as alpha although it holds data, such as near infrared.
    both = zip(file.descriptions, file.alpha, strict=True)
    opaque = [text for text, alpha in both if not alpha or text.lower() not in ("", "alpha")]
    if len(opaque) < 3:
        opaque = list(file.descriptions)
    if all(opaque) and len(set(opaque)) == len(opaque):
        return opaque
    return [f"band_{number}" for number in range(1, len(opaque) + 1)]

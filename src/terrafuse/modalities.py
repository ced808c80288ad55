"""Sensor products: their bands, units, wavelengths and statistics."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from math import isfinite, lcm
from typing import Any, Literal

from terrafuse.errors import ConfigError, cut, shown, unknown_name

ModalityKind = Literal["optical", "sar", "elevation", "structure", "other"]
KINDS: tuple[ModalityKind, ...] = ("optical", "sar", "elevation", "structure", "other")

# Windows start on a common multiple of all scales; larger numerators would leave hardly any
# start positions.
MAX_SCALE_TERM = 64

#: Units of radar values linear in power or in amplitude → decibels per factor of ten.
LINEAR_UNITS: Mapping[str, float] = {
    **dict.fromkeys(("linear", "power", "intensity", "sigma0", "gamma0", "beta0"), 10.0),
    "amplitude": 20.0,
}

#: Every unit that a manifest may name → what it is.
UNITS: Mapping[str, str] = {
    "dn": "stored numbers without a unit; the default",
    "reflectance": "reflectance, 0 to 1",
    "reflectance_10000": "reflectance × 10000",
    "reflectance_percent": "reflectance in per cent",
    "radiance": "radiance, of any scale",
    "db": "radar in decibels",
    "linear": "radar, linear in power",
    "power": "as linear",
    "intensity": "as linear",
    "sigma0": "as linear",
    "gamma0": "as linear",
    "beta0": "as linear",
    "amplitude": "radar, the root of power",
    "m": "metres",
    "dm": "decimetres",
    "cm": "centimetres",
    "mm": "millimetres",
    "ft": "feet",
    "degree": "degrees of an angle",
    "radian": "radians",
    "percent": "per cent of anything but reflectance",
    "index": "a ratio without unit, as NDVI",
    "kelvin": "temperature in kelvin",
    "celsius": "temperature in degrees Celsius",
}
#: Other spellings → the unit.
_UNIT_SPELLINGS: Mapping[str, str] = {
    **dict.fromkeys(("metre", "metres", "meter", "meters"), "m"),
    **dict.fromkeys(("decibel", "decibels"), "db"),
    **dict.fromkeys(("feet", "foot"), "ft"),
    **dict.fromkeys(("degrees", "deg"), "degree"),
    "%": "percent",
    "k": "kelvin",
    "°c": "celsius",
}

#: What red, green and blue are called, also by Sentinel-2, and their wavelengths in micrometres.
_VISIBLE_NAMES = (("red", "r"), ("green", "g"), ("blue", "b"))
_SENTINEL_NAMES = (("b04", "b4"), ("b03", "b3"), ("b02", "b2"))
_VISIBLE_UM = (0.665, 0.56, 0.49)
_WITHIN_UM = 0.06


@dataclass(frozen=True)
class Modality:
    """A sensor product; the order of `bands` is the order of channels everywhere.

    Args:
        name: Key of the modality in a manifest and in every dict of images.
        bands: Band names, one per channel.
        kind: Decides photometric augmentation, default resampling and display.
        wavelengths_um: Centre wavelength per band in micrometres, or None where it has no meaning.
        unit: Unit of the pixel values after scale and offset; in a manifest one of `UNITS`.
        scale: Pixel size relative to the scene grid: 2.0 arrives at half the crop's size. A ratio
            of two whole numbers up to 64.

    Raises:
        ConfigError: A field is invalid or contradicts another one.
    """

    name: str
    bands: tuple[str, ...]
    kind: ModalityKind = "other"
    wavelengths_um: tuple[float, ...] | None = None
    unit: str = "dn"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", self.name):
            raise ConfigError(
                f"modality name '{cut(self.name)}' must be letters, digits and underscores, "
                "starting with a letter"
            )
        if not self.bands:
            raise ConfigError(f"modality '{self.name}' has no bands; list at least one")
        if len(set(self.bands)) != len(self.bands):
            twice = [band for n, band in enumerate(self.bands) if band in self.bands[:n]]
            raise ConfigError(f"modality '{self.name}' names a band twice: {shown(twice)}")
        if self.kind not in KINDS:
            raise ConfigError(
                f"modality '{self.name}' has kind '{self.kind}'; allowed are {', '.join(KINDS)}"
            )
        if self.wavelengths_um is not None and len(self.wavelengths_um) != len(self.bands):
            raise ConfigError(
                f"modality '{self.name}' has {len(self.bands)} bands but "
                f"{len(self.wavelengths_um)} wavelengths_um; give one per band"
            )
        if not all(isfinite(um) and um > 0 for um in self.wavelengths_um or ()):
            raise ConfigError(
                f"modality '{self.name}' has wavelengths_um {shown(self.wavelengths_um)}; "
                "give micrometres above 0, such as 0.665 for red"
            )
        self.scale_ratio  # noqa: B018  (raises for a scale that cannot be aligned)

    @property
    def scale_ratio(self) -> Fraction:
        """Exact ratio of `scale`.

        Raises:
            ConfigError: `scale` is not a ratio of integers up to 64.
        """
        is_size = isfinite(self.scale) and self.scale > 0
        ratio = Fraction(self.scale).limit_denominator(MAX_SCALE_TERM) if is_size else None
        if (
            ratio is None
            or ratio.numerator > MAX_SCALE_TERM
            or abs(float(ratio) - self.scale) > 1e-4 * self.scale
        ):
            raise ConfigError(
                f"modality '{self.name}' has scale {self.scale}; allowed is a positive ratio of "
                f"whole numbers up to {MAX_SCALE_TERM} (0.5, 2, 3.5 …): its pixel size relative to "
                "the scene's. Choose a near one: the raster is resampled to it while reading. A "
                "factor of pixel values is 'value_scale'"
            )
        return ratio

    @property
    def rgb_bands(self) -> tuple[int, int, int] | None:
        """Indices of red, green and blue by name, else by wavelength; None if unknown.

        Band numbers ("b04") are read as Sentinel-2's only if there are no wavelengths: other
        sensors number their bands differently.
        """
        by_name = self._named(_VISIBLE_NAMES)
        if by_name is not None or self.wavelengths_um is None:
            return by_name or self._named(_SENTINEL_NAMES)
        waves = self.wavelengths_um
        nearest = [min(range(len(waves)), key=lambda i: abs(waves[i] - um)) for um in _VISIBLE_UM]
        far = any(
            abs(waves[i] - um) > _WITHIN_UM for i, um in zip(nearest, _VISIBLE_UM, strict=True)
        )
        red, green, blue = nearest
        return None if far or len(set(nearest)) < 3 else (red, green, blue)

    @property
    def alike_bands(self) -> list[tuple[str, ...]]:
        """Groups of bands that share a wavelength, by name: mostly several dates of one band."""
        groups = places_of_equals(self.wavelengths_um or ())
        return [tuple(self.bands[place] for place in group) for group in groups]

    def _named(self, wanted: Sequence[Sequence[str]]) -> tuple[int, int, int] | None:
        names = [band.lower() for band in self.bands]
        found = [[names.index(name) for name in known if name in names] for known in wanted]
        return (found[0][0], found[1][0], found[2][0]) if all(found) else None

    def size_at(self, size: int) -> int:
        """Return the number of this modality's pixels along `size` pixels of the scene grid.

        Raises:
            ConfigError: `size` is not a multiple of what the scale needs.
        """
        pixels = Fraction(size) / self.scale_ratio
        if pixels.denominator != 1:
            raise ConfigError(
                f"{size} scene pixels are {float(pixels):g} pixels of modality '{self.name}' "
                f"(scale {self.scale:g}); use a multiple of {self.scale_ratio.numerator}"
            )
        return int(pixels)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON and YAML."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Modality:
        """Inverse of `to_dict`.

        Raises:
            TypeError: The values are not such as it returns.
        """
        fixed: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        if not all(isinstance(text, str) for text in (fixed["name"], *fixed["bands"])):
            raise TypeError("names of modalities and bands have to be texts")
        return cls(**fixed)


@dataclass(frozen=True)
class BandStatistics:
    """Statistics per band of one modality, over pixels with data.

    Args:
        mean: Mean, in the modality's unit, as are the following.
        std: Standard deviation.
        low: 2nd percentile, for display.
        high: 98th percentile.
        count: Pixels with data.
        quantiles: Per band its 5th, 25th, 50th, 75th and 95th percentile; empty in older runs.
        dtypes: Types the files hold, as numpy names them; empty where a scale tag turns them into
            something else, and in older runs.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    count: tuple[int, ...]
    quantiles: tuple[tuple[float, ...], ...] = ()
    dtypes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not known is left out."""
        values = {field.name: list(getattr(self, field.name)) for field in fields(self)}
        values["quantiles"] = [list(band) for band in self.quantiles]
        return {k: v for k, v in values.items() if v or k not in ("quantiles", "dtypes")}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BandStatistics:
        """Inverse of `to_dict`."""
        fixed: dict[str, Any] = {
            name: tuple(tuple(v) if isinstance(v, list) else v for v in value)
            for name, value in values.items()
        }
        return cls(**fixed)


def parse_unit(text: str) -> str:
    """The unit of `UNITS` that a text names, in any case.

    Raises:
        ConfigError: None; names the nearest.
    """
    plain = text.strip().lower()
    unit = _UNIT_SPELLINGS.get(plain, plain)
    if unit not in UNITS:
        raise ConfigError(unknown_name("unit", text, UNITS))
    return unit


def places_of_equals(values: Sequence[float | None]) -> list[tuple[int, ...]]:
    """Return the positions of repeated values, grouped by value; None counts as no value."""
    groups: dict[float, list[int]] = {}
    for place, value in enumerate(values):
        if value is not None:
            groups.setdefault(value, []).append(place)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def window_alignment(modalities: tuple[Modality, ...] | list[Modality]) -> int:
    """Return the number of scene pixels that window starts and sizes must be multiples of.

    Every modality's part of a window is then a whole number of its own pixels.
    """
    return lcm(1, *(modality.scale_ratio.numerator for modality in modalities))

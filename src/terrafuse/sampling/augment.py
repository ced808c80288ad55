"""Random augmentation of training samples, co-registered across modalities of different size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from terrafuse.config import AugmentConfig
from terrafuse.errors import ConfigError, unknown_name
from terrafuse.modalities import LINEAR_UNITS, BandStatistics, Modality, window_alignment
from terrafuse.samples import IGNORE_INDEX, Sample
from terrafuse.sampling.changes import TURN, change_sample, filter_known

_DB_PER_NEPER = 10 / math.log(10)
#: Shift in dB and speckle of radar, where its unit gives them a meaning.
_RADAR_CHANGES = (1.0, 0.1)


class Augment:
    """Random augmentation of samples, which also brings them to the crop size.

    Flips, quarter turns and zoom apply to all modalities and the labels alike; photometric changes
    depend on the kind of modality. Pixels without data stay without data, whatever the values
    around them.

    Changes apply to the values as read: for a modality rescaled to the range of its scene,
    `elevation_shift_m` is a share of that range, and radar is no longer in decibels. Level and
    speckle of radar are defined in decibels and in linear units. In any other unit, such as 8-bit
    pictures with an unknown stretch, radar is left unchanged unless the settings ask for a change,
    which is then applied as a factor.

    Args:
        statistics: Band statistics of the modalities; `offset` is relative to their standard
            deviations.
        crop_size: Samples of another size, read for the zoom, are resampled to this many scene
            pixels; None keeps the size.
    """

    def __init__(
        self,
        config: AugmentConfig,
        modalities: Sequence[Modality],
        statistics: Mapping[str, BandStatistics],
        *,
        crop_size: int | None = None,
    ) -> None:
        self.config = config
        self.modalities = tuple(modalities)
        self.crop_size = crop_size
        self._std = {m.name: torch.tensor(statistics[m.name].std) for m in self.modalities}

    def __call__(self, sample: Sample, generator: Generator, *, shown: int | None = None) -> Sample:
        """Return an augmented copy of a sample.

        Args:
            shown: Side, in scene pixels, of the part of the crop that shows the sample's window,
                inside a border without data; default: all of it.
        """
        return change_sample(self.prepare(sample, generator, shown=shown))

    def prepare(self, sample: Sample, generator: Generator, *, shown: int | None = None) -> Sample:
        """Bring a sample to the crop size, and draw the numbers by which it is still to be changed.

        Args:
            shown: As of `__call__`.

        Returns:
            What `change_sample` or, in a batch, `change_batch` changes.
        """
        if self.crop_size is not None:
            shown = self.crop_size if shown is None else shown
            sample = resize_sample(sample, self.modalities, shown)
            sample = frame_sample(sample, self.modalities, shown, self.crop_size)
        draws = self._draw_turn(sample, generator)
        for m in self.modalities:
            draws |= {
                f"{m.name}.{name}": value
                for name, value in self._draw_values(m, sample.images[m.name], generator).items()
            }
        return replace(sample, draws=draws)

    def _draw_turn(self, sample: Sample, generator: Generator) -> dict[str, Tensor]:
        rows, cols, quarters = (int(torch.randint(n, (), generator=generator)) for n in (2, 2, 4))
        if sample.window.height != sample.window.width:
            quarters -= quarters % 2  # a quarter turn would change the shape
        flip, rotate = self.config.flip, self.config.rotate
        flip_rows = flip in (True, "vertical") and bool(rows)
        flip_cols = flip in (True, "horizontal") and bool(cols)
        if not flip and not rotate:
            return {}
        return {TURN: torch.tensor([flip_rows, flip_cols, quarters if rotate else 0])}

    def _draw_values(
        self, modality: Modality, image: Tensor, generator: Generator
    ) -> dict[str, Tensor]:
        """Draw the changes of values of an image (C, H, W), as `change_values` takes them."""
        if modality.kind == "optical":
            return self._draw_optical(modality, generator)
        if modality.kind == "sar":
            return self._draw_sar(modality, image, generator)
        if modality.kind == "elevation" and self.config.elevation_shift_m:
            return {"shift": _one(self.config.elevation_shift_m * _symmetric(generator))}
        return {}

    def _draw_optical(self, modality: Modality, generator: Generator) -> dict[str, Tensor]:
        config, bands = self.config, (len(modality.bands), 1, 1)
        draws = {}
        if config.gain:
            common, each = _symmetric(generator), _symmetric(generator, bands)
            draws["factor"] = _one(1 + config.gain * common)
            draws["band_factor"] = 1 + config.gain * each
        if config.offset:
            shift = config.offset * _symmetric(generator, bands)
            draws["shift"] = shift * self._std[modality.name].view(bands)
        if config.blur_sigma_px:
            sigma, blurred = torch.rand(2, generator=generator).tolist()
            sigma_px = config.blur_sigma_px * sigma if blurred < 0.5 else 0.0
            draws["blur_sigma_px"] = torch.tensor(sigma_px, dtype=torch.float64)
        return draws

    def _draw_sar(
        self, modality: Modality, image: Tensor, generator: Generator
    ) -> dict[str, Tensor]:
        unit = _unit_of(modality)
        most_db, speckle = radar_changes(self.config, modality)
        draws = {}
        if most_db:
            shift_db = most_db * _symmetric(generator)
            # Decibels are defined on power; an amplitude is its root.
            per_decade = LINEAR_UNITS.get(unit, 10.0)
            is_db = unit == "db"
            draws["shift" if is_db else "factor"] = _one(
                shift_db if is_db else 10 ** (shift_db / per_decade)
            )
        if speckle:
            noise = torch.randn(image.shape, generator=generator)
            if unit == "db":
                draws["noise"] = _DB_PER_NEPER * speckle * noise
            else:
                # Log-normal of mean 1 and this standard deviation: positive, and radiometry is
                # preserved.
                spread = math.sqrt(math.log1p(speckle**2))
                draws["log_noise"] = spread * noise - spread**2 / 2
        return draws


class ModalityDropout:
    """Random choice of the modalities of a sample to drop.

    Args:
        value: Share of samples that keep a proper non-empty subset, drawn uniformly; or weights per
            subset kept, with names joined by "+".
        names: Names of all modalities.

    Raises:
        ConfigError: A subset names an unknown modality, or is named twice.
    """

    def __init__(self, value: float | Mapping[str, float], names: Sequence[str]) -> None:
        everything = frozenset(names)
        if isinstance(value, Mapping):
            weights = _parse_subsets(value, everything)
        else:
            proper = [frozenset(c) for n in range(1, len(names)) for c in combinations(names, n)]
            weights = {subset: value / len(proper) for subset in proper}
            weights[everything] = 1 - value if proper else 1.0
        self._dropped = [everything - subset for subset in weights]
        self._weights = torch.tensor(list(weights.values()), dtype=torch.float64)

    def draw(self, generator: Generator) -> frozenset[str]:
        """Draw the names of the modalities to drop."""
        return self._dropped[int(torch.multinomial(self._weights, 1, generator=generator))]

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Drop the modalities drawn, unless the others have no data in the sample."""
        dropped = self.draw(generator)
        kept = [valid for name, valid in sample.valid.items() if name not in dropped]
        return sample.without(dropped) if any(bool(valid.any()) for valid in kept) else sample


def radar_changes(config: AugmentConfig, modality: Modality) -> tuple[float, float]:
    """Return the maximum shift in dB and speckle of a radar modality: as set, else by its unit."""
    known = _unit_of(modality) == "db" or _unit_of(modality) in LINEAR_UNITS
    shift_db, speckle = _RADAR_CHANGES if known else (0.0, 0.0)
    return (
        shift_db if config.shift_db is None else config.shift_db,
        speckle if config.speckle is None else config.speckle,
    )


def describe_augmentation(config: AugmentConfig, modalities: Sequence[Modality]) -> list[str]:
    """Describe the augmentation: a line for all modalities together and one for each."""
    flips = "flips" if config.flip is True else f"{config.flip} flips"
    turns = [flips] * bool(config.flip) + ["quarter turns"] * config.rotate
    lines = ["together: " + (", ".join([*turns, *_describe_zoom(config)]) or "unchanged")]
    for m in modalities:
        changes = [f"{name} {most:g}" for name, most in _photometry_of(config, m).items() if most]
        said = ", ".join(changes) + _manner(m) if changes else "unchanged" + _reason(config, m)
        lines.append(f"{m.name}: {said}")
    return lines


def random_changes(config: AugmentConfig, modalities: Sequence[Modality]) -> list[str]:
    """Return the keys of `data.augment` by which samples change at random."""
    low, high = config.scale
    geometry = {"flip": config.flip, "rotate": config.rotate, "scale": not low == high == 1}
    found = [name for name, is_on in geometry.items() if is_on]
    for m in modalities:
        found += [name for name, most in _photometry_of(config, m).items() if most]
    return list(dict.fromkeys(found))


def _describe_zoom(config: AugmentConfig) -> list[str]:
    low, high = config.scale
    padded = " (padded below 1)" if low < 1 and config.zoom_out == "pad" else ""
    return [] if low == high == 1 else [f"zoom {low:g} to {high:g}{padded}"]


def _photometry_of(config: AugmentConfig, modality: Modality) -> dict[str, float]:
    """Return the maximum photometric changes, by the name of the setting."""
    if modality.kind == "optical":
        names = ("gain", "offset", "blur_sigma_px")
        return {name: getattr(config, name) for name in names}
    if modality.kind == "sar":
        return dict(zip(("shift_db", "speckle"), radar_changes(config, modality), strict=True))
    if modality.kind == "elevation":
        return {"elevation_shift_m": config.elevation_shift_m}
    return {}


def _manner(modality: Modality) -> str:
    return " (as factors)" if modality.kind == "sar" and _unit_of(modality) != "db" else ""


def _reason(config: AugmentConfig, modality: Modality) -> str:
    if modality.kind != "sar" or None not in (config.shift_db, config.speckle):
        return ""
    return (
        f", as its unit '{modality.unit}' is neither db nor linear. If the values are, give "
        "their unit in the manifest; data.augment.shift_db and speckle change any unit, as factors"
    )


def resize_sample(sample: Sample, modalities: Sequence[Modality], size: int) -> Sample:
    """Resample a sample to `size` scene pixels: images bilinear over data only, labels nearest.

    Structure is resampled as labels are: a mean of two segments' colours is a third one's.
    """
    if (sample.window.height, sample.window.width) == (size, size):
        return sample
    images, sample = {}, sample.physical()
    for m in modalities:
        resized = _pick_nearest if m.kind == "structure" else _resize
        images[m.name] = resized(sample.images[m.name], m.size_at(size))
    labels = sample.labels
    if labels is not None:
        labels = _pick_nearest(labels[None].float(), size)[0].long()
    valid = {name: ~image.isnan().all(dim=0) for name, image in images.items()}
    return replace(sample, images=images, valid=valid, labels=labels)


def frame_sample(sample: Sample, modalities: Sequence[Modality], shown: int, size: int) -> Sample:
    """Pad a sample of `shown` scene pixels to `size`, with a border without data and labels.

    Where the border cannot be equal on both sides, it is smaller before than after in every
    modality, so that all stay co-registered.
    """
    if shown == size:
        return sample
    sample = sample.physical()
    alignment = window_alignment(list(modalities))
    before = (size - shown) // 2 // alignment * alignment

    sides = (before, size - shown - before)
    images, valid = {}, {}
    for m in modalities:
        first, last = map(m.size_at, sides)
        around = (first, last, first, last)
        images[m.name] = F.pad(sample.images[m.name], around, value=torch.nan)
        valid[m.name] = F.pad(sample.valid[m.name], around, value=False)
    labels = sample.labels
    if labels is not None:
        labels = F.pad(labels, (*sides, *sides), value=IGNORE_INDEX)
    return replace(sample, images=images, valid=valid, labels=labels)


def _pick_nearest(image: Tensor, size: int) -> Tensor:
    # "exact" takes the pixel under the centre; plain nearest would shift by half a pixel.
    return F.interpolate(image[None], (size, size), mode="nearest-exact")[0]


def _resize(image: Tensor, size: int) -> Tensor:
    from torchvision.transforms.v2.functional import resize  # seconds to import

    resized, weight = filter_known(image, lambda x: resize(x, [size, size]))
    # Half of the area must have data, so that the border of the data does not move.
    return torch.where(weight > 0.499, resized, torch.nan)


def _unit_of(modality: Modality) -> str:
    return modality.unit.strip().lower()


def _symmetric(generator: Generator, shape: tuple[int, ...] = ()) -> Tensor:
    """Draw uniformly from -1 to 1."""
    return 2 * torch.rand(shape, generator=generator) - 1


def _one(number: Tensor) -> Tensor:
    """A number for all bands and pixels, (1, 1, 1)."""
    return number.view(1, 1, 1)


def _parse_subsets(
    value: Mapping[str, float], names: frozenset[str]
) -> dict[frozenset[str], float]:
    weights: dict[frozenset[str], float] = {}
    for key, weight in value.items():
        parts = [part.strip() for part in key.split("+")]
        for part in parts:
            if part not in names:
                raise ConfigError("data.modality_dropout: " + unknown_name("modality", part, names))
        if frozenset(parts) in weights:
            raise ConfigError(f"data.modality_dropout names the subset '{key}' twice")
        weights[frozenset(parts)] = weight
    return weights

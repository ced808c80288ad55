"""Photos: three bands of a raster, rendered as 8-bit pictures for vision models."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.data.rasters import ReadingRules
from terrafuse.data.scene import Scene, scene_from_rasters
from terrafuse.data.streaming import Reservoir
from terrafuse.errors import BandError, ConfigError, DataError
from terrafuse.modalities import Modality
from terrafuse.samples import Window, blocks

# Side of the blocks in which a photo is read. (The digest depends on it.)
_BLOCK = 1024
_RESERVOIR = 1 << 16
_PERCENTILES = (2, 98)
# White is this many times the median brightness, and at least this share of the range.
_WHITE, _LEAST_WHITE = 4, 0.2
#: Longer side of previews.
PREVIEW_PX = 1024

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Photo:
    """Three bands of a raster on its own grid.

    Args:
        name: Name of the photo, used in file names and as the seed of segment colours.
        scene: Scene that holds the photo's modality alone.
        channels: Indices of red, green and blue, from 0.
        limits: Per channel, values rendered as 0 and 255; None: values are 0 to 255 already.
    """

    name: str
    scene: Scene
    channels: tuple[int, int, int]
    limits: tuple[tuple[float, float], ...] | None = None

    @property
    def modality(self) -> Modality:
        """Modality of the photo."""
        return self.scene.modalities[0]

    @property
    def is_8bit(self) -> bool:
        """True if the files hold unscaled bytes, which need no stretch."""
        return all(
            set(file.dtypes) == {"uint8"} and set(file.scales) == {1} and set(file.offsets) == {0}
            for file in self.scene.files[self.modality.name]
        )

    def read(self, window: Window) -> tuple[Picture, NDArray[np.bool_]]:
        """Read a window as the model sees it.

        Returns:
            Picture, uint8 (h, w, 3), 0 without data; bool (h, w), true where all bands have data.
        """
        image, valid = self.read_values(window)
        if self.limits is not None:
            low, high = np.array(self.limits, np.float32).T[..., None, None]  # (3, 1, 1) each
            with np.errstate(invalid="ignore"):
                image = (image - low) * (255 / np.where(high > low, high - low, 1))
        shown = np.clip(np.where(valid, image, 0), 0, 255)
        return np.ascontiguousarray(np.moveaxis(np.rint(shown).astype(np.uint8), 0, -1)), valid

    def read_values(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read the files' values (3, h, w), and the mask (h, w) where all three have data."""
        sample = self.scene.read(window, labels=False)
        image = sample.images[self.modality.name].numpy()[list(self.channels)]
        return image, np.asarray(np.isfinite(image).all(axis=0))


@dataclass(frozen=True)
class PhotoSummary:
    """Digest, limits and preview of a photo, from one pass over it.

    Args:
        photo: The photo with its limits.
        digest: SHA-256 of grid, values and valid pixels.
        preview: Reduced picture, uint8 (h, w, 3).
        step: Every `step`-th pixel is in the preview.
    """

    photo: Photo
    digest: str
    preview: Picture
    step: int


def open_photo(
    name: str,
    modality: Modality,
    files: Sequence[str],
    rules: ReadingRules,
    channels: tuple[int, int, int],
) -> Photo:
    """Open a photo on the grid of its own files.

    Args:
        modality: Modality that holds its bands.
        files: Files whose bands are concatenated.
        rules: Reading rules; rescaling is ignored.
        channels: Indices of red, green and blue, from 0.

    Raises:
        DataError: A file is missing, not a raster, or has other bands.
    """
    plain = replace(modality, scale=1.0)
    scene = scene_from_rasters(
        [plain],
        {modality.name: list(files)},
        id=name,
        sources={modality.name: replace(rules, rescale=None)},
    )
    return Photo(name, scene, channels)


def choose_channels(
    modality: Modality, rgb: tuple[int, int, int] | None = None
) -> tuple[int, int, int] | None:
    """Return the indices of red, green and blue, from 0; None if unknown.

    By the names red, green, blue (or r, g, b), else by wavelength.

    Args:
        modality: Modality whose bands are searched.
        rgb: Band numbers given by the user, from 1.

    Raises:
        BandError: There is no such band.
    """
    if rgb is not None:
        if not all(1 <= number <= len(modality.bands) for number in rgb):
            raise BandError(
                f"--rgb {' '.join(map(str, rgb))}: modality '{modality.name}' has bands 1 to "
                f"{len(modality.bands)} ({', '.join(modality.bands)})"
            )
        return rgb[0] - 1, rgb[1] - 1, rgb[2] - 1
    return modality.rgb_bands


def require_channels(modality: Modality, rgb: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """Return the indices of red, green and blue like `choose_channels`, or refuse the modality.

    Raises:
        BandError: The modality is not a photo, or its red, green and blue bands are unknown.
    """
    if modality.kind not in ("optical", "other"):
        raise BandError(
            f"modality '{modality.name}' is of kind '{modality.kind}'; vision models need "
            "photos: choose an optical modality with red, green and blue"
        )
    channels = choose_channels(modality, rgb)
    if channels is None:
        raise BandError(
            f"the red, green and blue bands of modality '{modality.name}' are unknown; it "
            f"has {', '.join(modality.bands)}. Name them so, give wavelengths_um, or say which "
            "they are: --rgb 3 2 1"
        )
    return channels


def find_photo_modality(modalities: Sequence[Modality]) -> Modality:
    """Find the only modality with red, green and blue.

    Raises:
        ConfigError: There is none, or there are several.
    """
    found = [m for m in modalities if m.kind == "optical" and choose_channels(m) is not None]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{m.name} ({m.kind}: {', '.join(m.bands)})" for m in modalities)
    problem = "several modalities are" if found else "no modality is known to be"
    raise ConfigError(
        f"{problem} a photo with red, green and blue; there are {listed}. Say which with "
        "--modality, and which of its bands with --rgb 3 2 1"
    )


def summarize_photo(photo: Photo) -> PhotoSummary:
    """Compute digest, limits and preview of a photo in one pass.

    Raises:
        DataError: The photo has no pixel with data, or cannot be read.
    """
    grid = photo.scene.grid
    step = -(-max(grid.height, grid.width) // PREVIEW_PX)
    small = np.full((3, -(-grid.height // step), -(-grid.width // step)), np.nan, np.float32)
    reservoirs = [Reservoir(_RESERVOIR, np.random.default_rng(n)) for n in range(3)]
    digest = hashlib.sha256(repr((grid.height, grid.width, grid.transform[:6])).encode())
    digest.update((grid.crs.to_wkt() if grid.crs else "").encode())
    for block in blocks(grid.height, grid.width, _BLOCK):
        image, valid = photo.read_values(block)
        digest.update(np.ascontiguousarray(np.where(valid, image, 0)).data)
        digest.update(np.packbits(valid).data)
        for reservoir, band in zip(reservoirs, image, strict=True):
            reservoir.add(band[valid])
        _add_to_preview(small, np.where(valid, image, np.nan), block, step)
    if not reservoirs[0].items.size:
        raise DataError(
            f"photo '{photo.name}' has no pixel with data in red, green and blue. Check its nodata "
            "value and its bands"
        )
    seen = photo if photo.is_8bit else replace(photo, limits=_limits(reservoirs))
    return PhotoSummary(seen, digest.hexdigest(), _picture(small, seen.limits), step)


def _limits(reservoirs: Sequence[Reservoir]) -> tuple[tuple[float, float], ...]:
    """Return display limits per band: the 2nd percentile, and the 98th or a lower white point.

    Clouds and snow raise the upper percentile so far that the ground would be nearly black. The
    white point's factor is common to all bands, so that colours keep their balance.
    """
    values = [reservoir.items.astype(np.float64) for reservoir in reservoirs]
    pairs = [np.percentile(band, _PERCENTILES) for band in values]
    shares = [
        (b - low) / max(high - low, 1e-30) for b, (low, high) in zip(values, pairs, strict=True)
    ]
    white = float(np.clip(_WHITE * np.median(np.concatenate(shares)), _LEAST_WHITE, 1))
    return tuple((float(low), float(low + white * (high - low))) for low, high in pairs)


def _add_to_preview(
    small: NDArray[np.float32], image: NDArray[np.float32], block: Window, step: int
) -> None:
    rows, cols = (-start % step for start in (block.row, block.col))
    part = image[:, rows::step, cols::step]
    row, col = (block.row + rows) // step, (block.col + cols) // step
    small[:, row : row + part.shape[1], col : col + part.shape[2]] = part


def _picture(small: NDArray[np.float32], limits: tuple[tuple[float, float], ...] | None) -> Picture:
    low, high = np.array(limits or ((0, 255),) * 3, np.float32).T[..., None, None]
    shown = (small - low) * (255 / np.where(high > low, high - low, 1))
    return np.moveaxis(np.clip(np.nan_to_num(shown), 0, 255).astype(np.uint8), 0, -1)


def describe_photo(found: PhotoSummary) -> dict[str, Any]:
    """Return the facts about a photo for the record of a raster made from it."""
    photo = found.photo
    files = photo.scene.files[photo.modality.name]
    return {
        "files": [file.path.replace("\\", "/").rpartition("/")[2] for file in files],
        "sha256": found.digest,
        "bands": [photo.modality.bands[n] for n in photo.channels],
        "stretch": None if photo.limits is None else [list(pair) for pair in photo.limits],
    }

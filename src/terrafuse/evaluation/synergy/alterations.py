"""Altered inputs: scenes of which one modality is read otherwise than it is.

What is added or taken away depends on the place in the scene alone, so that windows that overlap
see the same and maps do not depend on how the work is cut.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from terrafuse.data.grid import own_window
from terrafuse.modalities import Modality
from terrafuse.samples import Sample, Window, as_arrays, round_up

if TYPE_CHECKING:
    from terrafuse.data.scene import Scene

Floats32 = NDArray[np.float32]
#: Side of the fields of noise and clouds, which repeat.
FIELD_PX = 512
#: Standard deviation of what clouds are smoothed by: they become some 100 pixels wide.
CLOUD_PX = 24.0
#: Strips repeat after so many columns.
STRIP_PX = 60
#: Scenes that are looked at for one of the same size.
_MOST_PARTNERS = 16


@dataclass(frozen=True)
class Alteration(ABC):
    """A change of one modality; pixels are its own.

    Args:
        modality: Its name.
    """

    modality: str

    @abstractmethod
    def image(self, scene: Scene, window: Window, image: Floats32, own: Window) -> Floats32:
        """Return what is read instead.

        Args:
            scene: As it is.
            window: On its grid.
            image: What lies there (C, h, w); a copy.
            own: The window in pixels of the modality.
        """

    def read(self, scene: Scene, sample: Sample) -> Sample:
        """Return a sample of a scene with the modality altered."""
        import torch

        if self.modality in scene.missing:
            return sample
        found = sample.images[self.modality].numpy().copy()
        own = own_window(_find(scene, self.modality), sample.window)
        image = torch.from_numpy(self.image(scene, sample.window, found, own))
        valid = ~image.isnan().all(dim=0)
        return replace(
            sample,
            images={**sample.images, self.modality: image},
            valid={**sample.valid, self.modality: valid},
        )


@dataclass(frozen=True)
class Shifted(Alteration):
    """Shifted to the right, as a raster that is not in register. The first column is repeated.

    Args:
        pixels: By so many.
    """

    pixels: int

    def image(self, scene: Scene, window: Window, image: Floats32, own: Window) -> Floats32:
        """Return the image of a window that begins further to the left."""
        del image
        scale = _find(scene, self.modality).scale
        further = min(round_up(ceil(self.pixels * scale), scene.alignment), window.col)
        wider = Window(window.row, window.col - further, window.height, window.width + further)
        found = scene.read(wider, labels=False).images[self.modality].numpy()
        first = own.col - (found.shape[-1] - own.width)
        cols = np.arange(own.col, own.col_stop) - self.pixels
        shifted: Floats32 = found[..., np.maximum(cols, first) - first].copy()
        beyond = np.arange(own.col, own.col_stop) >= ceil(scene.grid.width / scale)
        shifted[..., beyond] = np.nan
        return shifted


@dataclass(frozen=True)
class Noisy(Alteration):
    """With Gaussian noise.

    Args:
        deviations: Standard deviation per band, in units of the modality.
    """

    deviations: tuple[float, ...]

    def image(self, scene: Scene, window: Window, image: Floats32, own: Window) -> Floats32:
        """Add noise; what has no data has none afterwards."""
        del window
        noise = _cut(_noise(self.modality, len(self.deviations)), scene.id, own)
        image += noise * np.array(self.deviations, np.float32)[:, None, None]
        return image


@dataclass(frozen=True)
class Clouded(Alteration):
    """With opaque, bright clouds.

    Args:
        values: Of clouds, per band.
        share: Of the pixels that they cover, over a field of `FIELD_PX` pixels.
    """

    values: tuple[float, ...]
    share: float

    def image(self, scene: Scene, window: Window, image: Floats32, own: Window) -> Floats32:
        """Put clouds where there is data."""
        del window
        covered = _cut(_clouds(self.modality, self.share)[None], scene.id, own)[0]
        bright = np.array(self.values, np.float32)[:, None, None]
        return np.where(covered & ~np.isnan(image), bright, image)


@dataclass(frozen=True)
class Stripped(Alteration):
    """With strips of columns without data, as of a broken scan line.

    Args:
        share: Of the columns.
    """

    share: float

    def image(self, scene: Scene, window: Window, image: Floats32, own: Window) -> Floats32:
        """Take the strips out."""
        del window
        cols = np.arange(own.col, own.col_stop) + _offset(scene.id)[1]
        image[..., cols % STRIP_PX < round(self.share * STRIP_PX)] = np.nan
        return image


@dataclass(frozen=True)
class Unpaired(Alteration):
    """Of another place.

    It is that of another scene of the same size, of those half the list away; where none of these
    has it, what lies half the scene away, which begins anew at its edges.

    Args:
        scenes: All of them.
    """

    scenes: Sequence[Scene] = field(repr=False)

    def partner(self, scene: Scene) -> Scene | None:
        """Return the scene whose image a scene gets; None: its own, from half of it away."""
        ids = [other.id for other in self.scenes]
        number = ids.index(scene.id)
        half = len(ids) // 2
        for further in range(min(len(ids) - 1, _MOST_PARTNERS)):
            other = self.scenes[(number + half + further) % len(ids)]
            if other.id == scene.id or self.modality in other.missing:
                continue
            ours, theirs = scene.grid, other.grid
            if (ours.height, ours.width) == (theirs.height, theirs.width):
                return other
        return None

    def image(self, scene: Scene, window: Window, image: Floats32, own: Window) -> Floats32:
        """Read the other place."""
        other = self.partner(scene)
        if other is not None:
            found: Floats32 = other.read(window, labels=False).images[self.modality].numpy()
            return found
        modality, n = _find(scene, self.modality), scene.alignment
        sides = [length // n * n for length in (scene.grid.height, scene.grid.width)]
        rows = _rolled(window.row, window.height, sides[0], n)
        for row, from_row, height in rows:
            for col, from_col, width in _rolled(window.col, window.width, sides[1], n):
                part = Window(from_row, from_col, height, width)
                to = own_window(modality, Window(row, col, height, width)).slices(own)
                image[(slice(None), *to)] = scene.read(part, labels=False).images[self.modality]
        return image


@dataclass(frozen=True)
class Averaged(Alteration):
    """Replaced by the mean of the training, where it has data.

    Args:
        means: Per band.
    """

    means: tuple[float, ...]

    def image(self, scene: Scene, window: Window, image: Floats32, own: Window) -> Floats32:
        """Return the mean where there is data."""
        del scene, window, own
        mean = np.array(self.means, np.float32)[:, None, None]
        return np.where(np.isnan(image), image, mean)


class AlteredScene:
    """A scene that is read with alterations, and is otherwise what it was."""

    def __init__(self, scene: Scene, alterations: Sequence[Alteration]) -> None:
        self._scene = scene
        self._alterations = tuple(alterations)

    def read(self, window: Window, *, labels: bool = True, arrays: bool = False) -> Sample:
        """Read as `Scene.read` does, and alter."""
        sample = self._scene.read(window, labels=labels)
        for alteration in self._alterations:
            sample = alteration.read(self._scene, sample)
        return as_arrays(sample) if arrays else sample

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # while it is unpickled
            raise AttributeError(name)
        return getattr(self._scene, name)


def alter_scenes(scenes: Sequence[Scene], alterations: Sequence[Alteration]) -> list[Scene]:
    """Return scenes of which some modalities are read otherwise."""
    return [cast("Scene", AlteredScene(scene, alterations)) for scene in scenes]


def _find(scene: Scene, name: str) -> Modality:
    known: Mapping[str, Modality] = {modality.name: modality for modality in scene.modalities}
    return known[name]


def _rolled(start: int, length: int, side: int, step: int) -> Iterator[tuple[int, int, int]]:
    """Pieces of a row or column of a window, and where they come from, half the side away.

    Args:
        start: Of the window; what of it lies beyond `side` is left out.
        side: Of the scene.
        step: What places are multiples of.

    Yields:
        Start in the window's scene, start of what is read instead, and length.
    """
    half = side // 2 // step * step
    place, stop = start, min(start + length, side)
    while place < stop:
        source = (place + half) % side
        taken = min(stop - place, side - source)
        yield place, source, taken
        place += taken


def _offset(scene: str) -> tuple[int, int]:
    """Where in a field a scene begins."""
    number = zlib.crc32(scene.encode())
    return number % FIELD_PX, number // FIELD_PX % FIELD_PX


def _cut(values: NDArray[Any], scene: str, own: Window) -> NDArray[Any]:
    """Part (C, h, w) of a field (C, FIELD_PX, FIELD_PX) that repeats."""
    down, right = _offset(scene)
    rows = (np.arange(own.row, own.row_stop) + down) % FIELD_PX
    cols = (np.arange(own.col, own.col_stop) + right) % FIELD_PX
    return values[:, rows[:, None], cols]


@lru_cache(maxsize=4)
def _noise(modality: str, bands: int) -> Floats32:
    rng = np.random.default_rng([1, zlib.crc32(modality.encode())])
    return rng.standard_normal((bands, FIELD_PX, FIELD_PX), np.float32)


@lru_cache(maxsize=4)
def _clouds(modality: str, share: float) -> NDArray[np.bool_]:
    rng = np.random.default_rng([2, zlib.crc32(modality.encode())])
    thickness = scipy.ndimage.gaussian_filter(
        rng.standard_normal((FIELD_PX, FIELD_PX)), CLOUD_PX, mode="wrap"
    )
    covered: NDArray[np.bool_] = thickness > np.quantile(thickness, 1 - share)
    return covered

"""Generators that know the answer, and scenes to try them on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from terrafuse.data.rasters import ReadingRules
from terrafuse.errors import ModelError
from terrafuse.generate import (
    PhotoJob,
    SuperpixelGenerator,
    WindowedGenerator,
    WindowRunner,
    generate_raster,
)
from terrafuse.generate.photos import open_photo
from terrafuse.generate.products import RasterFiles
from terrafuse.modalities import Modality

RGB = Modality("rgb", ("red", "green", "blue"), kind="optical")


@dataclass(frozen=True)
class FakeGenerator:
    """A generator that maps pictures (h, w, 3) by a function."""

    make: Callable[[np.ndarray], np.ndarray]
    result: str = "segments"
    aligned: bool = False
    name: str = "fake"
    built: list[int] = field(default_factory=list, compare=False)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.name}

    def note(self) -> dict[str, Any]:
        return {}

    def build(self) -> Callable[[np.ndarray], np.ndarray]:
        self.built.append(1)
        return self.make


class BrokenRecipe(SuperpixelGenerator):
    """A generator whose model cannot be built."""

    def build(self):
        raise ModelError("there is no such model")


def known_segments(height: int, width: int, count: int, seed: int, gaps: float = 0.0) -> np.ndarray:
    """A map of connected segments (H, W) of all sizes and shapes, from 1 on; 0 in the gaps."""
    rng = np.random.default_rng(seed)
    # Cells of random points in a warped plane: curved borders, some long, some within others.
    rows, cols = np.mgrid[:height, :width].astype(np.float64)
    for grid in (rows, cols):
        noise = ndimage.gaussian_filter(rng.normal(size=(height, width)), 8, axes=(0, 1))
        grid += 6 * noise / noise.std()
    points = rng.uniform((0, 0), (height, width), (count, 2))
    distance = np.full((height, width), np.inf)
    cells = np.zeros((height, width), np.int64)
    for number, (row, col) in enumerate(points, start=1):
        stretch = rng.uniform(0.2, 1)
        d = np.hypot((rows - row) * stretch, cols - col)
        cells = np.where(d < distance, number, cells)
        distance = np.minimum(d, distance)
    cells[np.isin(cells, np.flatnonzero(rng.random(count + 1) < gaps))] = 0
    return split_into_connected(cells)


def split_into_connected(labels: np.ndarray) -> np.ndarray:
    """Each connected part of equal labels (4 neighbours) its own number; 0 stays."""
    parts = np.zeros(labels.shape, np.int64)
    for number in np.unique(labels[labels > 0]):
        found, count = ndimage.label(labels == number)
        parts = np.where(found > 0, found + parts.max(), parts)
        assert count
    return parts


def as_picture(labels: np.ndarray) -> np.ndarray:
    """Numbers as colours uint8 (3, H, W), so that a fake generator can read them off a picture."""
    return np.stack([labels % 256, labels // 256 % 256, labels // 65536]).astype(np.uint8)


def from_picture(picture: np.ndarray) -> np.ndarray:
    """Inverse of `as_picture`, of a picture (h, w, 3)."""
    r, g, b = np.moveaxis(picture.astype(np.int64), -1, 0)
    return r + 256 * g + 65536 * b


def seen_alone(picture: np.ndarray) -> np.ndarray:
    """Segments as a model would number them: only what hangs together in this window, anew."""
    return split_into_connected(from_picture(picture))


def same_partition(found: np.ndarray, expected: np.ndarray) -> bool:
    """Tell whether two maps differ in nothing but the numbers; 0 must be 0."""
    pairs = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1)
    one_to_one = len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
    return bool(one_to_one and ((found == 0) == (expected == 0)).all())


def make_job(photo: Path, out: Path, modality: Modality = RGB) -> PhotoJob:
    """The job of one photo."""
    opened = open_photo(photo.stem, modality, [str(photo)], ReadingRules(), (0, 1, 2))
    return PhotoJob(opened, RasterFiles(out / f"{photo.stem}.tif"))


def show(image: np.ndarray) -> np.ndarray:
    """A preview (h, w, 3) of values (1, h, w)."""
    grey = np.nan_to_num(image[0]) % 256
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)


def run(job: PhotoJob, generator: Any, size: int = 64, overlap: int = 24, **options: Any) -> Any:
    """Make one raster in this process."""
    windowed = WindowedGenerator(generator, size, overlap)
    with WindowRunner(generator) as runner:
        return generate_raster(job, windowed, runner, preview=show, **options)

"""Windows of a scene as images that can be compared pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from terrafuse.data.scene import Scene
from terrafuse.modalities import Modality
from terrafuse.samples import IGNORE_INDEX, Sample, Window

#: Windows per scene, along its rows and columns.
_WINDOWS = (3, 2)
#: Side of a window in scene pixels, and values held at once.
_SIDE = 512
_MOST_VALUES = 1 << 25
_MOST_CLASSES = 6

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Layer:
    """One modality, or the labels, in one window.

    Args:
        image: Values to compare, (C, H, W); NaN without data.
        valid: Pixels with data (H, W).
        scale: Size of its pixels in scene pixels.
        relief: Whether it shows heights.
    """

    image: Float
    valid: Bool
    scale: float
    relief: bool = False

    def resized(self, pixel: float, shape: tuple[int, int]) -> tuple[Float, Bool]:
        """Resample image and valid to pixels of `pixel` scene pixels, to this shape."""
        if pixel == self.scale and self.valid.shape == shape:
            return self.image, self.valid
        # Averaging over pixels without data would spread the gap.
        known = np.isfinite(self.image) & self.valid
        values = _resize(np.where(known, self.image, 0), shape)
        share = _resize(known.astype(np.float32), shape)
        with np.errstate(invalid="ignore", divide="ignore"):
            image = np.where(share > 0.5, values / share, np.nan)
        valid = _resize(self.valid[None].astype(np.float32), shape)[0] > 0.99
        return image.astype(np.float32), valid


def choose_windows(scene: Scene, coarsest: float) -> list[Window]:
    """Choose up to six windows spread over a scene.

    Args:
        coarsest: Largest pixel size compared, in scene pixels.
    """
    bands = 1 + sum(len(m.bands) / m.scale**2 for m in scene.modalities)
    side = min(_SIDE * max(1.0, coarsest / 2), sqrt(_MOST_VALUES / bands))
    aligned = scene.alignment
    rows, cols = (
        _spread(n, max(1, int(side / aligned)) * aligned, count, aligned)
        for n, count in zip((scene.grid.height, scene.grid.width), _WINDOWS, strict=True)
    )
    return [Window(r, c, height, width) for (r, height), (c, width) in product(rows, cols)]


def read_layers(scene: Scene, windows: Sequence[Window]) -> list[dict[str, Layer]]:
    """Read the layers of each window: its modalities and labels, by name."""
    layers = []
    for window in windows:
        sample = scene.read(window)
        found = {
            m.name: _modality_layer(sample, m) for m in scene.modalities
            if m.name not in scene.missing
        }  # fmt: skip
        if sample.labels is not None:
            found["labels"] = _label_layer(sample.labels.numpy())
        layers.append(found)
    return layers


def _spread(length: int, side: int, count: int, alignment: int) -> list[tuple[int, int]]:
    """Spread up to `count` stretches evenly over a length, without overlap: starts and sizes."""
    if length <= side:
        return [(0, -(-length // alignment) * alignment)]
    count = min(count, length // side)
    starts = np.linspace(0, length - side, count + 2)[1:-1] if count > 1 else [(length - side) / 2]
    if count > 1 and length < (count + 1) * side:
        starts = np.linspace(0, length - side, count)
    return [(int(start) // alignment * alignment, side) for start in starts]


def _modality_layer(sample: Sample, modality: Modality) -> Layer:
    image = sample.images[modality.name].numpy()
    valid = sample.valid[modality.name].numpy()
    if modality.kind == "sar" and modality.unit.lower() != "db":
        # Speckle is multiplicative: in logarithms it is the same everywhere.
        with np.errstate(invalid="ignore", divide="ignore"):
            image = np.where(image > 0, np.log10(image), np.nan)
            image = np.where(np.isnan(image) & valid, np.nanmin(image, initial=0), image)
    return Layer(image, valid, float(modality.scale), modality.kind == "elevation")


def _label_layer(labels: NDArray[np.int64]) -> Layer:
    """Make a layer with a band per class, for the most frequent ones."""
    valid = labels != IGNORE_INDEX
    counts = np.bincount(labels[valid].ravel(), minlength=1)
    classes = [c for c in np.argsort(-counts)[:_MOST_CLASSES] if counts[c]]
    image = np.stack([labels == c for c in classes]) if classes else valid[None]
    return Layer(image.astype(np.float32), valid, 1.0)


def _resize(image: Float, shape: tuple[int, int]) -> Float:
    tensor = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None]
    smooth = interpolate(tensor, shape, mode="bilinear", antialias=True, align_corners=False)
    return np.asarray(smooth[0].numpy())

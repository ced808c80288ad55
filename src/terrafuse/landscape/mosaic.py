"""Mosaics of rotated rectangles: field parcels, town lots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from terrafuse.landscape.noise import Float, Int, fractal, hash_unit


@dataclass(frozen=True)
class Quilt:
    """Rectangles in blocks, each block with its own direction; arrays (H, W).

    Args:
        block: Number of the block.
        cell: Number of the rectangle, unique in the quilt.
        across: Distance to the nearest long side of the rectangle, in pixels.
        along: Distance to the nearest short side, in pixels.
        row: Position across the direction of tillage, in pixels; furrows follow it.
        border: Distance to the border between blocks, in pixels.
    """

    block: Int
    cell: Int
    across: Float
    along: Float
    row: Float
    border: Float


def make_quilt(
    rng: np.random.Generator,
    size: int,
    *,
    block_px: float,
    width_px: tuple[float, float],
    length_px: tuple[float, float],
    warp_px: float,
) -> Quilt:
    """Cut a square into blocks, and every block into rectangles.

    Args:
        size: H = W in pixels.
        block_px: Typical distance between the centres of blocks.
        width_px: Range of the rectangles' width; drawn per block, and varied within it.
        length_px: Range of their length.
        warp_px: Deviation of borders from straight lines.
    """
    salt = int(rng.integers(1 << 31))
    shape = (size, size)
    rows, cols = np.mgrid[:size, :size].astype(np.float32)
    rows = rows + warp_px * fractal(rng, shape, hurst=1.7, wavelength_px=1.5 * block_px)
    cols = cols + warp_px * fractal(rng, shape, hurst=1.7, wavelength_px=1.5 * block_px)

    block, border = nearest_seed(rng, rows, cols, block_px)
    angle = (np.pi * hash_unit(np.arange(block.max() + 1), salt=salt)).astype(np.float32)
    width = _draw(block, width_px, salt + 1)
    length = _draw(block, length_px, salt + 2)
    cos, sin = np.cos(angle)[block], np.sin(angle)[block]
    u, v = rows * cos + cols * sin, cols * cos - rows * sin

    strip, across = _cut(u, width, block, salt + 3)
    part, along = _cut(v + length * hash_unit(block, strip, salt=salt + 4), length, strip, salt + 5)
    return Quilt(block, _number(block, strip, part), across, along, u, border)


def nearest_seed(
    rng: np.random.Generator, rows: Float, cols: Float, spacing_px: float
) -> tuple[Int, Float]:
    """Find the Voronoi cells of a jittered grid.

    Args:
        rows: Row positions (H, W), which may be warped.
        cols: Column positions (H, W), likewise.
        spacing_px: Distance between seeds.

    Returns:
        Number of the cell and distance to its border in pixels, (H, W) each.
    """
    low = min(float(rows.min()), float(cols.min())) - 2 * spacing_px
    n = int((max(float(rows.max()), float(cols.max())) - low) / spacing_px) + 3
    grid = np.indices((n, n)).reshape(2, -1).T
    seeds = (low + (grid + rng.uniform(0.1, 0.9, grid.shape)) * spacing_px).astype(np.float32)
    distance, nearest = cKDTree(seeds).query(np.stack([rows, cols], -1), k=2)
    first, second = nearest[..., 0], nearest[..., 1]
    apart = np.hypot(*(seeds[first] - seeds[second]).transpose(2, 0, 1))
    border = (distance[..., 1] ** 2 - distance[..., 0] ** 2) / (2 * apart)
    return first.astype(np.int64), border.astype(np.float32)


def _number(*keys: Int) -> Int:
    """Number the combinations of keys that occur, consecutively."""
    code = np.zeros(keys[0].shape, np.int64)
    for key in keys:
        low = int(key.min())
        code = code * (int(key.max()) - low + 1) + (key - low)
    seen = np.zeros(int(code.max()) + 1, np.int64)
    seen[code] = 1
    return (np.cumsum(seen) - 1)[code]


def _draw(block: Int, limits: tuple[float, float], salt: int) -> Float:
    low, high = limits
    return (low + (high - low) * hash_unit(np.arange(block.max() + 1), salt=salt))[block]


def _cut(x: Float, size: Float, group: Int, salt: int) -> tuple[Int, Float]:
    # A slow wave along the axis makes neighbours unequal; it stays monotonic, so none overlap.
    wave = 2.7 * size
    phase = 2 * np.pi * hash_unit(group, salt=salt)
    bent = (x + 0.3 * size * np.sin(2 * np.pi * x / wave + phase)) / size
    index = np.floor(bent)
    inside = bent - index
    return index.astype(np.int64), np.minimum(inside, 1 - inside) * size

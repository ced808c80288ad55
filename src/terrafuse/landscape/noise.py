"""Seeded noise, and smooth lines on a grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]
Int = NDArray[np.int64]
Byte = NDArray[np.uint8]


def fractal(
    rng: np.random.Generator, shape: tuple[int, int], *, hurst: float, wavelength_px: float
) -> Float:
    """Draw fractal (spectral) noise (H, W) of mean 0 and standard deviation 1.

    Args:
        hurst: Smoothness, 0 (rough), 1 (soft hills), 2 (gentle waves): amplitude falls with
            frequency to the power -(1 + hurst).
        wavelength_px: Longest wavelength; beyond it the spectrum is flat and fades.
    """
    # A little larger than requested: fast to transform, and opposite edges do not match.
    height, width = (fft.next_fast_len(n + n // 16 + 8, real=True) for n in shape)
    spectrum = fft.rfft2(rng.standard_normal((height, width), dtype=np.float32))
    rows, cols = fft.fftfreq(height)[:, None], fft.rfftfreq(width)[None]
    frequency = np.hypot(rows, cols).astype(np.float32)
    longest = np.float32(1 / wavelength_px)
    amplitude = (frequency**2 + longest**2) ** (-(1 + hurst) / 2)
    amplitude *= 1 - np.exp(-((frequency / longest) ** 2))
    noise: Float = fft.irfft2(spectrum * amplitude, s=(height, width))[: shape[0], : shape[1]]
    return np.asarray((noise - noise.mean()) / max(float(noise.std()), 1e-6), np.float32)


def blur(image: Float, sigma_px: float) -> Float:
    """Blur the last two axes with a Gaussian."""
    sigma = (0.0,) * (image.ndim - 2) + (sigma_px, sigma_px)
    result: Float = ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=3)
    return result


def smoothstep(x: Float, low: float, high: float) -> Float:
    """Map values to 0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def hash_unit(*keys: Int, salt: int) -> Float:
    """Hash integer keys to numbers in [0, 1): the same object always gets the same draw."""
    state: NDArray[np.uint64] = np.full(
        np.shape(keys[0]), salt * 0x9E3779B97F4A7C15 % 2**64, np.uint64
    )
    for key in keys:
        state = (state ^ key.astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        state ^= state >> np.uint64(29)
    state *= np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return (state >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)


def distance_to(mask: Bool) -> Float:
    """Return the distance in pixels to the nearest set pixel; beyond the grid's size if none is."""
    if not mask.any():
        return np.full(mask.shape, 4.0 * max(mask.shape), np.float32)
    return np.asarray(ndimage.distance_transform_edt(~mask), np.float32)


def smooth_line(points: NDArray[np.float64], sigma: float, step_px: float = 0.4) -> Float:
    """Smooth points (N, 2) to a line, sampled every `step_px` pixels; the ends stay fixed."""
    if len(points) < 3:
        smooth = points
    else:
        smooth = ndimage.gaussian_filter1d(points, sigma, axis=0, mode="nearest")
        smooth[[0, -1]] = points[[0, -1]]
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(smooth, axis=0).T))])
    wanted = np.arange(0, along[-1] + step_px, step_px)
    return np.stack([np.interp(wanted, along, smooth[:, i]) for i in (0, 1)], 1).astype(np.float32)


def draw(shape: tuple[int, int], line: Float) -> Bool:
    """Draw the pixels that a line (N, 2) of rows and columns touches."""
    mask = np.zeros(shape, bool)
    rows, cols = np.floor(line).astype(int).T
    inside = (rows >= 0) & (rows < shape[0]) & (cols >= 0) & (cols < shape[1])
    mask[rows[inside], cols[inside]] = True
    return mask

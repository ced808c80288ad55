"""Measurement of the shift between two images of the same ground, possibly of different kind.

Two sensors have the boundaries of objects in common. Two similarity measures are computed at every
shift, and must agree:

- outlines: correlation of the orientations of edges, by doubled angle, so that it does not matter
  which side is brighter (the structure tensor of all bands, relative to its own strength);
- brightness: how much of one image's fine structure the bands and edges of the other explain
  together (the sum of squared correlations between uncorrelated bands).

The first is hardly ever wrong; the second is not biased by shading, since heights enter it as their
slopes, which are what sun and radar illuminate. Both are computed for all shifts at once by Fourier
transforms, half way to phase correlation: the spectrum is divided by the square root of its
magnitude.

Reference:
    Fitch, Kadyrov, Christmas, Kittler: Orientation correlation, BMVC 2002; here with doubled angle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Float = NDArray[np.floating[Any]]
Bool = NDArray[np.bool_]

_EDGE_SIGMA = 1.5
_FINE_SIGMA, _COARSE_SIGMA = 0.7, 4.0
# Edges this close to pixels without data are attributed to them.
_MARGIN = 3
# Largest disagreement of the two measures on the shift, in pixels.
_AGREEMENT = 3.0
# Width of a peak; anything farther away competes with it.
_PEAK_RADIUS = 4.0
_LEAST_SHARE = 0.1
_MOST_BANDS = 3
# Larger values are fill that nobody declared: their squares leave the range of float32.
_MOST_MEASURED = 1e18


@dataclass(frozen=True)
class Shift:
    """Shift of the content of one image against another.

    Args:
        row: Rows down, in pixels.
        col: Columns to the right.
        confidence: Number of standard deviations by which the similarity at this shift exceeds that
            at any other; 0 where the two measures disagree or there is nothing to compare.
    """

    row: float
    col: float
    confidence: float

    @property
    def length(self) -> float:
        """Distance in pixels."""
        return float(np.hypot(self.row, self.col))

    def scaled(self, factor: float) -> Shift:
        """Convert to pixels of another size."""
        return Shift(self.row * factor, self.col * factor, self.confidence)


@dataclass(frozen=True)
class Structure:
    """Edges and fine structure of an image, for comparison; 0 where not known.

    Args:
        known: Pixels where it is known (H, W).
        outlines: Orientation of edges, complex64 (H, W): angle doubled, magnitude 0 to 1.
        bands: Fine structure, float32 (C, H, W): uncorrelated, of unit variance.
    """

    known: Bool
    outlines: NDArray[np.complex64]
    bands: NDArray[np.float32]


def measure_shift(
    a: Float,
    b: Float,
    valid_a: Bool,
    valid_b: Bool,
    *,
    most: int = 16,
    relief: tuple[bool, bool] = (False, False),
) -> Shift:
    """Measure the shift of the content of `b` against `a`.

    Args:
        a: (C_a, H, W), any unit; NaN without data.
        b: (C_b, H, W).
        valid_a: Pixels where `a` has data (H, W).
        valid_b: Likewise for `b`.
        most: Largest shift searched, in pixels, along rows and columns.
        relief: Whether `a`, and whether `b`, are heights.
    """
    one = find_structure(a, valid_a, relief=relief[0])
    other = find_structure(b, valid_b, relief=relief[1])
    return add_shifts([one], [other], most=most)


def add_shifts(
    a: Sequence[Structure | None], b: Sequence[Structure | None], *, most: int = 16
) -> Shift:
    """Measure one shift from several windows, whose similarities are summed.

    Args:
        a: Per window the structure of one image; None where it has none.
        b: Likewise for the other.
        most: As for `measure_shift`.
    """
    outlines = np.zeros((2 * most + 1, 2 * most + 1))
    brightness = np.zeros_like(outlines)
    for one, other in zip(a, b, strict=True):
        if one is None or other is None or not _enough(one.known & other.known):
            continue
        outlines += _correlate(one.outlines[None], other.outlines[None], most)[0]
        brightness += (_correlate(one.bands, other.bands, most) ** 2).sum(axis=0)
    if not outlines.any() or not brightness.any():
        return Shift(0.0, 0.0, 0.0)
    rough, confidence = _find_peak(outlines)
    exact, _ = _find_peak(brightness)
    on_edge = np.abs(rough - most).max() >= most  # the true peak may lie beyond
    if on_edge or np.hypot(*(rough - exact)) > _AGREEMENT:
        confidence = 0.0
    return Shift(float(exact[0]) - most, float(exact[1]) - most, confidence)


def find_structure(image: Float, valid: Bool, *, relief: bool = False) -> Structure | None:
    """Extract the structure of an image; None where too little has data or varies.

    Args:
        image: (C, H, W), NaN without data.
        valid: Pixels with data (H, W).
        relief: Whether the first band is a height.
    """
    values, known = _standardize(image, valid)
    known = ndimage.binary_erosion(known, iterations=_MARGIN, border_value=1)
    if not len(values) or not _enough(known):
        return None
    strong = np.sqrt(_gradients(values, 1.0)[1])
    explaining = [values, _slopes(values[0], known) if relief else strong[None]]
    bands = _decorrelate(_fine_structure(np.concatenate(explaining), known), known)
    tensor, strength = _gradients(values, _EDGE_SIGMA)
    typical = float(np.median(strength[known]))
    if typical <= 0:  # flat except for a few edges
        typical = float(strength[known].mean()) or 1.0
    outlines = np.where(known, tensor / (strength + typical), 0)
    outlines[known] -= outlines[known].mean()
    return Structure(known, outlines.astype(np.complex64), bands)


def _enough(known: Bool) -> bool:
    return bool(known.mean() > _LEAST_SHARE) and int(known.sum()) > 1024


def _standardize(image: Float, valid: Bool) -> tuple[NDArray[np.float32], Bool]:
    """Bands without outliers, of mean 0 and variance 1, and where all of them are known."""
    finite = (np.abs(image) < _MOST_MEASURED) & valid
    usable = finite.mean(axis=(1, 2)) > 0.5 * max(valid.mean(), 1e-9)
    if not usable.any():
        return np.empty((0, *valid.shape), np.float32), np.zeros_like(valid)
    # Many narrow bands say little more than some of them.
    chosen = np.flatnonzero(usable)[:: max(1, int(usable.sum()) // 12)]
    known = np.asarray(finite[chosen].all(axis=0))
    bands = []
    for band in image[chosen]:
        if not known.any():
            break
        low, middle, high = np.percentile(band[known], (1, 50, 99))
        filled = np.clip(np.where(known, band, middle), low, high) - middle
        spread = filled[known].std()
        if spread > 1e-6 * max(abs(middle), 1e-6):
            bands.append((filled / spread).astype(np.float32))
    values = np.stack(bands) if bands else np.empty((0, *valid.shape), np.float32)
    return _principal(values, known, _MOST_BANDS), known


def _principal(values: NDArray[np.float32], known: Bool, most: int) -> NDArray[np.float32]:
    """Return the `most` principal components of the bands, each of variance 1."""
    if len(values) <= most:
        return values
    variances, vectors = np.linalg.eigh(np.cov(values[:, known]))
    strongest = vectors[:, -most:] / np.sqrt(np.maximum(variances[-most:], 1e-9))
    return np.asarray(np.tensordot(strongest.T, values, 1), np.float32)


def _gradients(
    values: NDArray[np.float32], sigma: float
) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
    """Sum squared gradients, as complex numbers, over bands; and their magnitudes."""
    along_rows, along_cols = (
        ndimage.gaussian_filter(values, (0, sigma, sigma), order=order, mode="nearest")
        for order in ((0, 1, 0), (0, 0, 1))
    )
    doubled = (along_cols + 1j * along_rows) ** 2
    return doubled.sum(axis=0), np.asarray(np.abs(doubled).sum(axis=0))


def _slopes(height: NDArray[np.float32], known: Bool) -> NDArray[np.float32]:
    """Compute slopes along rows and columns (2, H, W), compressed as brightness is when steep."""
    slopes = np.stack(
        [ndimage.gaussian_filter(height, 0.7, order=order) for order in ((1, 0), (0, 1))]
    )
    steep = float(np.percentile(np.hypot(*slopes)[known], 75)) or 1.0
    return np.asarray(slopes / (steep + np.abs(slopes)), np.float32)


def _fine_structure(values: NDArray[np.float32], known: Bool) -> NDArray[np.float32]:
    """Band-pass the bands: remove noise and all coarse structure."""

    def blur(array: Float, sigma: float) -> Float:
        sigmas = (0,) * (array.ndim - 2) + (sigma, sigma)
        return np.asarray(ndimage.gaussian_filter(array, sigmas, mode="nearest"))

    weight = known.astype(np.float32)
    ground = blur(values * weight, _COARSE_SIGMA) / np.maximum(blur(weight, _COARSE_SIGMA), 1e-3)
    fine = np.where(known, blur(values, _FINE_SIGMA) - ground, 0)
    return np.asarray(fine, np.float32)


def _decorrelate(values: NDArray[np.float32], known: Bool) -> NDArray[np.float32]:
    inside = values[:, known]
    inside = inside - inside.mean(axis=1, keepdims=True)
    covariance = np.atleast_2d(np.cov(inside))
    # Regularised, since bands may be multiples of each other.
    covariance += 1e-3 * np.trace(covariance) / len(values) * np.eye(len(values)) + 1e-12
    result = np.zeros_like(values)
    whitening = np.linalg.inv(np.linalg.cholesky(covariance))
    result[:, known] = whitening.astype(np.float32) @ inside
    return result


def _correlate(a: NDArray[Any], b: NDArray[Any], most: int) -> Float:
    """Correlate every pair of bands (C_a · C_b, rows, cols) at shifts from -most to most."""
    shape = tuple(fft.next_fast_len(n + most, real=True) for n in a.shape[1:])
    is_real = not np.iscomplexobj(a)
    forward, back = (fft.rfft2, fft.irfft2) if is_real else (fft.fft2, fft.ifft2)
    spectrum = forward(a, shape).conj()[:, None] * forward(b, shape)
    size = np.sqrt(np.abs(spectrum))
    spectrum /= size + 1e-6 * size.max() + 1e-30
    likeness = back(spectrum, shape).real.reshape(-1, *shape)
    likeness = np.roll(likeness, (most, most), (1, 2))[:, : 2 * most + 1, : 2 * most + 1]
    return np.asarray(likeness, np.float64)


def _find_peak(likeness: Float) -> tuple[Float, float]:
    """Find row and column of the peak, at subpixel precision, and how far it stands out."""
    place = np.unravel_index(int(likeness.argmax()), likeness.shape)
    rows, cols = np.indices(likeness.shape)
    far = likeness[np.hypot(rows - place[0], cols - place[1]) > _PEAK_RADIUS]
    confidence = float((likeness[place] - far.max()) / max(far.std(), 1e-30))
    exact = [
        k + _vertex(line[k - 1 : k + 2]) if 0 < k < len(line) - 1 else float(k)
        for k, line in ((place[0], likeness[:, place[1]]), (place[1], likeness[place[0]]))
    ]
    return np.array(exact), max(confidence, 0.0)


def _vertex(values: Float) -> float:
    """Return the position of the vertex of the parabola through values at -1, 0 and 1."""
    before, here, after = values.tolist()
    bend = before - 2 * here + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0

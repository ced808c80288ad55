"""The temperature that the likelihood wants, from sums over pixels that pass by once."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from terrafuse.evaluation.calibration import LARGEST, LEAST, TemperatureSums


def drawn(
    rng: np.random.Generator, classes: int, pixels: int, scale: float
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Logits that are `scale` times those that classes are drawn with."""
    logits = rng.normal(0, 2, (classes, pixels))
    chances = np.exp(logits) / np.exp(logits).sum(axis=0)
    labels = (rng.random(pixels) > chances.cumsum(axis=0)).sum(axis=0).clip(max=classes - 1)
    return (logits * scale).astype(np.float32), labels.astype(np.uint8)


def nll(logits: NDArray[np.float32], labels: NDArray[np.uint8], temperature: float) -> float:
    scaled = logits.astype(np.float64) / temperature
    own = scaled[labels, np.arange(len(labels))]
    return float((np.logaddexp.reduce(scaled, axis=0) - own).mean())


@pytest.mark.parametrize(("classes", "scale"), [(2, 0.4), (5, 1.0), (3, 2.7), (6, 9.0)])
def test_it_is_the_least_of_the_likelihood(classes: int, scale: float) -> None:
    logits, labels = drawn(np.random.default_rng(classes), classes, 4000, scale)
    sums = TemperatureSums()
    for part in (slice(0, 1), slice(1, 2500), slice(2500, None)):  # as strips bring them
        sums.add(logits[:, part], labels[part])
    exact = minimize_scalar(
        lambda log: nll(logits, labels, np.exp(log)), bounds=(-3, 3), method="bounded",
        options={"xatol": 1e-9},
    )  # fmt: skip
    found = sums.best()
    assert found == pytest.approx(np.exp(exact.x), rel=1e-3)
    assert found == pytest.approx(scale, rel=0.15)
    assert sums.mean_nll(found) == pytest.approx(exact.fun, abs=2e-5)
    assert sums.mean_nll(1.0) == pytest.approx(nll(logits, labels, 1.0), rel=1e-12)


def test_a_number_added_to_the_logits_of_a_pixel_changes_nothing() -> None:
    logits, labels = drawn(np.random.default_rng(0), 4, 500, 2.0)
    plain, moved = TemperatureSums(), TemperatureSums()
    plain.add(logits, labels)
    moved.add((logits - 8.0).astype(np.float32), labels)  # exact in float32 to 1e-6
    assert moved.best() == pytest.approx(plain.best(), rel=1e-5)


def test_ends_of_the_range() -> None:
    logits, _ = drawn(np.random.default_rng(0), 3, 300, 1.0)
    right, wrong = TemperatureSums(), TemperatureSums()
    right.add(logits, logits.argmax(axis=0).astype(np.uint8))
    wrong.add(logits, logits.argmin(axis=0).astype(np.uint8))
    assert (right.best(), wrong.best()) == (LEAST, LARGEST)

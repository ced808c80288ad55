"""Class sets with a stated coverage: a threshold on probabilities, by conformal risk control.

The set of a pixel holds its most probable class, and every class whose probability is at least τ.
The loss of a block is the share of its labelled pixels whose class is not in their set; it falls
with τ. With n blocks of known loss, L̄(τ) their mean, and a wanted coverage of 1 − α, τ is the
largest with

    n / (n + 1) · L̄(τ) + 1 / (n + 1) ≤ α.

The loss of a further block is then α at most in the mean over draws of blocks, whatever the model
and the distribution, if that block and the n are exchangeable: drawn alike, such as blocks of one
region divided at random. Pixels are not exchangeable, since those of one block depend on each
other; therefore blocks are what is counted, each once, however many pixels it has. The guarantee is
on the mean of blocks: it says nothing on a single class, nor on another region, season or sensor.

Reference:
    Angelopoulos, Bates, Fisch, Lei, Schuster: Conformal Risk Control. ICLR 2024
    (arXiv:2208.02814), theorem 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.errors import ScoresError

#: Thresholds that are tried, falling; a class that is not the most probable has 0.5 at most, and
#: with 0 every class is in the set.
THRESHOLDS = np.r_[0.5 * 2.0 ** (-np.arange(257) / 16), 0.0]
#: Columns of what is counted per block: pixels missed at each threshold, and all pixels.
COLUMNS = len(THRESHOLDS) + 1


@dataclass(frozen=True)
class ClassSetRule:
    """A threshold and what it promises.

    Args:
        coverage: Wanted, 1 − α.
        threshold: Least probability of a class of the set; τ.
        blocks: Number of blocks with labelled pixels.
        block_px: Their side.
        found: Coverage of these blocks, in the mean.
    """

    coverage: float
    threshold: float
    blocks: int
    block_px: int
    found: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return dict(vars(self))


def count_missed(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.uint8],
    cells: NDArray[np.integer[Any]],
    number: int,
) -> NDArray[np.int64]:
    """Count per cell the pixels whose class a threshold leaves out.

    Args:
        probabilities: Of the classes, (K, n).
        labels: Classes (n,), all below K.
        cells: Cell of each pixel (n,).
        number: Of cells.

    Returns:
        Int64 (number, COLUMNS).
    """
    true = np.take_along_axis(probabilities, labels[None].astype(np.intp), axis=0)[0]
    missed = probabilities.argmax(axis=0) != labels
    # Left out by all thresholds above its probability: of the falling ones, the first so many.
    rising = THRESHOLDS[::-1].astype(np.float32)
    above = len(THRESHOLDS) - np.searchsorted(rising, true[missed], side="right")
    width = len(THRESHOLDS) + 1
    places = cells[missed].astype(np.int64) * width + above
    table = np.bincount(places, minlength=number * width).reshape(number, width)
    counts = np.zeros((number, COLUMNS), np.int64)
    counts[:, :-1] = table[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
    counts[:, -1] = np.bincount(cells, minlength=number)
    return counts


def choose_threshold(counts: NDArray[np.int64], coverage: float, block_px: int = 0) -> ClassSetRule:
    """Return the largest threshold that keeps the coverage.

    Args:
        counts: Of each block, int64 (B, COLUMNS), as in `count_missed`; blocks without pixels are
            left out.
        coverage: Above 0, below 1.
        block_px: Side of the blocks, for the record.

    Raises:
        ScoresError: There are fewer blocks than that coverage needs.
    """
    known = counts[counts[:, -1] > 0]
    n, alpha = len(known), 1 - coverage
    needed = ceil(round(1 / alpha - 1, 9))
    if n < needed:
        raise ScoresError(
            f"a coverage of {coverage:g} needs {needed} blocks with labels or more, and there are "
            f"{n}, of {block_px} pixels. Ask for less (--conformal {_possible(n)}), use a split "
            "with more ground, or smaller blocks (--block-px) if errors are not correlated that far"
        )
    losses = known[:, :-1] / known[:, -1:]
    bound = (n * losses.mean(axis=0) + 1) / (n + 1)
    # Falling with the threshold; of the last, all classes, the loss is 0.
    place = int(np.argmax(bound <= alpha + 1e-12))
    return ClassSetRule(
        coverage, float(THRESHOLDS[place]), n, block_px, float(1 - losses[:, place].mean())
    )


def _possible(blocks: int) -> str:
    """The largest coverage that so many blocks allow, rounded down."""
    return f"{max(np.floor(100 * blocks / (blocks + 1)) / 100, 0.5):g}"

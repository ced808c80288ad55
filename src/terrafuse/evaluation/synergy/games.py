"""Division of a gain among modalities, from the scores of all their subsets.

A game is the score of every subset of N modalities: an array (2^N, …) whose row is the sum of bits
of the subset, 0 = no modality. All functions work on any number of games at once.

Gain: v(all) − v(none).

Shapley share of i: mean of v(S + i) − v(S) over the orders in which modalities may come, S being
those before i. Shares add up to the gain.

Shapley–Taylor interaction of i and j: 2 / N · Σ_S δ(S) / C(N − 1, size of S), with
δ(S) = v(S + i + j) − v(S + i) − v(S + j) + v(S). With what each modality brings alone,
v(i) − v(none), they add up to the gain.

The gain is further split into what a modality brings whatever the others are (unique), what it
brings as others could (redundant), and what it brings only beside others (synergistic). With u the
best score of a subset or a part of it, so that another modality never harms, Δ = u(S + i) − u(S)
for a modality i that comes after S in some order, and g = u(i) − u(none) what it brings alone:

| part of i | definition |
|---|---|
| unique | the least Δ over all S |
| synergistic | mean over orders of max(0, Δ − g) |
| redundant | mean over orders of min(Δ, g), less the unique part |
| conflict | Shapley share in v less that in u: subsets that do worse than a part of them |

The parts of a modality add up to its Shapley share, and those of all modalities to the gain. Of two
modalities with gains a and b alone and c together (none harms) the totals are: redundant
max(0, a + b − c), synergistic max(0, c − a − b), unique the rest. Copies are all redundant, parts
that add up all unique, an exclusive or all synergistic.

Assumption: scores of maps tell what modalities hold *for this model*, not what they hold for any;
and of two modalities redundancy and synergy that happen at once cancel, as a score of a subset does
not say which pixels are right: both are least values.

Reference:
    L. S. Shapley: A Value for n-Person Games. Contributions to the Theory of Games II, 1953.
    M. Sundararajan, K. Dhamdhere, A. Agarwal: The Shapley Taylor Interaction Index. ICML 2020.
    The three parts follow the idea of P. L. Williams, R. D. Beer: Nonnegative Decomposition of
    Multivariate Information. arXiv:1004.2515, 2010; the definition on scores is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import comb, factorial

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Parts:
    """Parts of the Shapley share of each modality, float64 (N, …) each.

    Args:
        unique: What it brings whatever the others are.
        redundant: What it brings as others could.
        synergistic: What it brings only beside others.
        conflict: What subsets lose that do worse than a part of them, as it falls to the modality.
    """

    unique: Floats
    redundant: Floats
    synergistic: Floats
    conflict: Floats


def shapley_shares(values: Floats) -> Floats:
    """Return the Shapley share of each modality.

    Args:
        values: Scores of subsets (2^N, …).

    Returns:
        Float64 (N, …).
    """
    shares = [
        _weighted(values[own | 1 << i] - values[own] for own in others)
        for i, others in _contexts(values)
    ]
    return np.stack(shares)


def split_shares(values: Floats) -> Parts:
    """Split the Shapley shares into unique, redundant, synergistic parts and conflict.

    Args:
        values: Scores of subsets (2^N, …).
    """
    best = _best_of_parts(values)
    parts = []
    for i, others in _contexts(values):
        gains = [best[own | 1 << i] - best[own] for own in others]
        alone, least = gains[0], np.minimum.reduce(gains)
        above = _weighted(np.maximum(0.0, gain - alone) for gain in gains)
        rest = _weighted(np.minimum(gain, alone) - least for gain in gains)
        parts.append((least, rest, above))
    unique, redundant, synergistic = (np.stack(own) for own in zip(*parts, strict=True))
    return Parts(unique, redundant, synergistic, shapley_shares(values) - shapley_shares(best))


def interactions(values: Floats) -> dict[tuple[int, int], Floats]:
    """Return the Shapley–Taylor interaction of each pair of modalities, by their numbers.

    Args:
        values: Scores of subsets (2^N, …).
    """
    number = count(values)
    found = {}
    for i in range(number):
        for j in range(i + 1, number):
            pair = 1 << i | 1 << j
            total = np.zeros(values.shape[1:])
            for own in range(len(values)):
                if own & pair:
                    continue
                delta = values[own | pair] - values[own | 1 << i] - values[own | 1 << j]
                total += (delta + values[own]) / comb(number - 1, own.bit_count())
            found[i, j] = 2 / number * total
    return found


def count(values: Floats) -> int:
    """Return the number of modalities of a game."""
    number = len(values).bit_length() - 1
    assert len(values) == 2**number, values.shape
    return number


def _contexts(values: Floats) -> Iterator[tuple[int, list[int]]]:
    """Each modality, and the subsets of the others, the empty one first."""
    for i in range(count(values)):
        yield i, [own for own in range(len(values)) if not own >> i & 1]


def _weighted(terms: Iterable[Floats]) -> Floats:
    """Mean over orders of one term per subset of the N − 1 others, in the order of their bits."""
    terms_of = list(terms)
    others = count(np.empty(len(terms_of)))
    total = np.zeros_like(terms_of[0])
    for own, term in enumerate(terms_of):
        size = own.bit_count()
        total += factorial(size) * factorial(others - size) / factorial(others + 1) * term
    return total


def _best_of_parts(values: Floats) -> Floats:
    """Best score of each subset and of the subsets of it."""
    best = values.copy()
    for i in range(count(values)):
        for own in range(len(values)):
            if own >> i & 1:  # modality by modality, all parts have been looked at
                best[own] = np.maximum(best[own], best[own ^ 1 << i])
    return best

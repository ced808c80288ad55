"""How often the intervals of areas and accuracies contain the truth, ours and others.

    python benchmarks/area_coverage.py [--draws 2000] [--seed 0] [--all]

Populations of known truth are sampled again and again without replacement, as `terrafuse sample`
does, and estimated as `terrafuse areas` does. "errors" is the expected number of sampled pixels
that are wrongly mapped as a class or wrongly not: where it is small, Wald's interval (estimate
± 1.96 standard errors) is missed. "Jeffreys" is the posterior of Dirichlet counts with one half
added to each, which fails where strata are many. "1-5" is the coverage of ours among the draws in
which 1 to 5 errors of the class were sampled, where that many are expected. Widths are those of
ours, relative to Wald's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from terrafuse.evaluation.exact_intervals import ratio_interval, share_interval, sum_interval

Float = NDArray[np.float64]
Int = NDArray[np.int64]
ANY, MOST_FEW = -1, 5
_POSTERIOR_DRAWS = 2000


@dataclass(frozen=True)
class Population:
    """Pixels by stratum, mapped class and true class, and a sample size for each stratum.

    Args:
        name: Of the design.
        pixels: (H, R, K); rows from K on are pixels without a class.
        points: Sampled of each stratum (H,).
    """

    name: str
    pixels: Int
    points: Int

    @property
    def classes(self) -> Int:
        """Row in which all pixels of a stratum are (H,), or ANY."""
        rows = self.pixels.sum(axis=2) > 0
        return np.where(rows.sum(axis=1) == 1, rows.argmax(axis=1), ANY)

    @property
    def sizes(self) -> Int:
        """Pixels of each stratum (H,)."""
        return self.pixels.sum(axis=(1, 2))

    def draw(self, draws: int, rng: np.random.Generator) -> Int:
        """Samples (S, H, R, K)."""
        shape = self.pixels.shape[1:]
        parts = [
            rng.multivariate_hypergeometric(
                stratum.ravel(), int(count), size=draws, method="marginals"
            ).reshape(draws, *shape)
            for stratum, count in zip(self.pixels, self.points, strict=True)
        ]
        return np.stack(parts, axis=1)


def population(
    name: str, sizes: list[int], points: list[int], shares: list[list[float]] | Float
) -> Population:
    """A map whose classes are the strata; rows of `shares` are the true classes in each."""
    table = np.asarray(shares, float)
    rows, columns = table.shape
    pixels = np.zeros((rows, rows, columns), np.int64)
    for h, (size, share) in enumerate(zip(sizes, table, strict=True)):
        counts = np.floor(size * share / share.sum() + 1e-9).astype(np.int64)
        counts[min(h, columns - 1)] += size - counts.sum()
        pixels[h, h] = counts
    return Population(name, pixels, np.array(points))


def older_strata() -> Population:
    """Strata are the classes of an older map, of which the judged one differs."""
    sizes, moved = [400_000, 90_000, 10_000], np.array([[0.96, 0.035, 0.005],
                                                        [0.06, 0.93, 0.01],
                                                        [0.05, 0.05, 0.90]])  # fmt: skip
    truth = np.array([[0.985, 0.01, 0.005], [0.03, 0.96, 0.01], [0.05, 0.03, 0.92]])
    cells = [np.round(size * moved[h][:, None] * truth) for h, size in enumerate(sizes)]
    return Population("strata of an older map", np.array(cells, np.int64), np.array([270, 80, 50]))


def populations() -> list[Population]:
    """The designs of the table."""
    found = [
        population(
            "Olofsson et al. 2014, table 8",
            [200_000, 150_000, 3_200_000, 6_450_000], [75, 75, 165, 325],
            [[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]],
        )
    ]  # fmt: skip
    for missed in (0.5, 1, 2, 3, 5):
        lost = missed / 300
        found.append(
            population(
                f"rare class, {missed:g} omissions sampled",
                [10_000, 90_000, 900_000], [50, 50, 300],
                [[0.98, 0.01, 0.01], [0.0, 0.98, 0.02], [lost, 0.005, 0.995 - lost]],
            )
        )  # fmt: skip
    ten = np.full((10, 10), 0.02 / 9)
    np.fill_diagonal(ten, 0.98)
    found.append(population("ten equal classes", [100_000] * 10, [40] * 10, ten))
    found.append(
        population(
            "small strata", [60, 200, 5_000], [30, 50, 100],
            [[0.95, 0.05, 0.0], [0.02, 0.95, 0.03], [0.01, 0.01, 0.98]],
        )
    )  # fmt: skip
    found.append(
        population(
            "with pixels abstained from", [300_000, 90_000, 10_000], [200, 100, 50],
            [[0.98, 0.02], [0.03, 0.97], [0.5, 0.5]],
        )
    )  # fmt: skip
    found.append(older_strata())
    return found


@dataclass(frozen=True)
class Row:
    """Coverage of one quantity.

    Args:
        design: Name of the population.
        quantity: "area of 0", "overall accuracy" …
        truth: Its value.
        errors: Expected number of sampled errors.
        ours: Coverage of our interval.
        few: Of it where 1 to 5 errors were sampled; NaN in fewer than 50 draws.
        wald: Coverage of Wald's interval.
        jeffreys: Of the posterior's, NaN where it was not computed.
        width: Mean width of ours as a multiple of Wald's.
    """

    design: str
    quantity: str
    truth: float
    errors: float
    ours: float
    few: float
    wald: float
    jeffreys: float
    width: float


Interval = tuple[Float, Float]


def wald_sum(counts: Float, weights: Float, sampled: Float) -> Interval:
    """Estimate ± 1.96 standard errors; counts (S, H, 2)."""
    size = counts.sum(axis=-1)
    share = counts[..., 0] / size
    error = np.sqrt((weights**2 * (1 - sampled) * share * (1 - share) / (size - 1)).sum(axis=-1))
    value = (weights * share).sum(axis=-1)
    return value - 1.96 * error, value + 1.96 * error


def wald_ratio(counts: Float, weights: Float, sampled: Float) -> Interval:
    """The same of a ratio, linearised; counts (S, H, 3)."""
    size = counts.sum(axis=-1)
    good, bad = counts[..., 0] / size, counts[..., 1] / size
    whole = (weights * (good + bad)).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = ((weights * good).sum(axis=-1) / whole)[..., None]
        mean = (1 - value) * good - value * bad
        squares = (1 - value) ** 2 * good + value**2 * bad - mean**2
        error = np.sqrt((weights**2 * (1 - sampled) * squares / (size - 1)).sum(axis=-1)) / whole
    return value[..., 0] - 1.96 * error, value[..., 0] + 1.96 * error


def jeffreys_sum(counts: Float, weights: Float, rng: np.random.Generator) -> Interval:
    """Quantiles of the posterior with one half added to each count."""
    parts = []
    for some in np.array_split(counts, max(1, len(counts) // 100)):
        drawn = rng.beta(
            some[..., 0] + 0.5, some[..., 1] + 0.5, size=(_POSTERIOR_DRAWS, *some.shape[:-1])
        )
        parts.append(np.quantile((weights * drawn).sum(axis=-1), [0.025, 0.975], axis=0))
    low, high = np.concatenate(parts, axis=1)
    return low, high


def users_exactly(counts: Float, population: int) -> Interval:
    """Interval of user's accuracy in one stratum; counts (S, 2)."""
    interval = cache(lambda good, all_: share_interval(good, all_, population))
    found = [interval(float(g), float(g + b)) for g, b in counts]
    low, high = np.array(found).T
    return low, high


def rows_of(
    design: Population, draws: int, rng: np.random.Generator, *, jeffreys: bool = True
) -> Iterator[Row]:
    """Coverage of every area and accuracy of a design."""
    sample = design.draw(draws, rng).astype(float)
    sizes, own = design.sizes, design.classes
    weights, sampled = sizes / sizes.sum(), design.points / sizes
    columns = design.pixels.shape[2]
    mapped = np.arange(design.pixels.shape[1])[:, None]
    true = np.arange(columns)[None]
    expected = design.points[:, None, None] * design.pixels / sizes[:, None, None]

    def counted(*masks: NDArray[np.bool_]) -> Float:
        return np.stack([(sample * mask).sum(axis=(2, 3)) for mask in masks], axis=-1)

    def row(
        quantity: str, truth: float, wrong: NDArray[np.bool_], ours: Interval, wald: Interval,
        other: Interval | None = None, kept: NDArray[np.bool_] | slice = slice(None),
    ) -> Row:  # fmt: skip
        errors = (sample[kept] * wrong).sum(axis=(1, 2, 3))
        few, mean = (errors >= 1) & (errors <= MOST_FEW), float((expected * wrong).sum())
        hits = _hits(ours, truth)
        return Row(
            design.name, quantity, truth, mean, float(hits.mean()),
            float(hits[few].mean()) if few.sum() >= 50 and mean <= MOST_FEW else float("nan"),
            float(_hits(wald, truth).mean()),
            float("nan") if other is None else float(_hits(other, truth).mean()),
            float(np.nanmean(ours[1] - ours[0]) / max(np.nanmean(wald[1] - wald[0]), 1e-12)),
        )  # fmt: skip

    right = mapped == true
    any_ = own == ANY
    counts = counted(right, ~right)
    ours = sum_interval(counts, weights, sampled, can_succeed=any_ | (own < columns))
    truth = float((design.pixels * right).sum() / sizes.sum())
    yield row("overall accuracy", truth, ~right, ours, wald_sum(counts, weights, sampled))
    for k in range(columns):
        is_true, is_mapped = (true == k) & (mapped >= 0), (mapped == k) & (true >= 0)
        wrong = is_true != is_mapped
        counts = counted(is_true, ~is_true)
        truth = float((design.pixels * is_true).sum() / sizes.sum())
        other = jeffreys_sum(counts, weights, rng) if jeffreys else None
        ours = sum_interval(counts, weights, sampled)
        yield row(f"area of {k}", truth, wrong, ours, wald_sum(counts, weights, sampled), other)
        both = is_true & is_mapped
        for name, whole, limits in (
            ("user's", is_mapped, (None, None)),
            ("producer's", is_true, (any_ | (own != k), any_ | (own == k))),
        ):
            counts = counted(both, whole & ~both, ~whole)
            present = counts[..., :2].sum(axis=(1, 2)) > 0  # else there is no estimate
            counts = counts[present]
            truth = float((design.pixels * both).sum() / (design.pixels * whole).sum())
            here = np.flatnonzero(own == k)
            if name == "user's" and len(here) == 1 and not any_.any():
                ours = users_exactly(counts[:, here[0], :2], int(sizes[here[0]]))
            else:
                ours = ratio_interval(
                    counts, weights, sampled, can_fail=limits[0], can_succeed=limits[1]
                )
            wald = wald_ratio(counts, weights, sampled)
            quantity = f"{name} accuracy of {k}"
            yield row(quantity, truth, wrong & whole, ours, wald, kept=present)


def _hits(interval: Interval, truth: float) -> NDArray[np.bool_]:
    low, high = interval
    hits: NDArray[np.bool_] = (low <= truth + 1e-9) & (truth <= high + 1e-9)
    return hits


def share(value: float) -> str:
    """In %."""
    return "–" if np.isnan(value) else f"{100 * value:.1f}"


def table(rows: list[Row]) -> Iterator[str]:
    """The rows as Markdown."""
    yield "| design | quantity | truth | errors | ours | 1-5 | Wald | Jeffreys | width |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|"
    for r in rows:
        yield (
            f"| {r.design} | {r.quantity} | {r.truth:.4f} | {r.errors:.1f} | {share(r.ours)} "
            f"| {share(r.few)} | {share(r.wald)} | {share(r.jeffreys)} | {r.width:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="accuracies too, not areas only")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    rows = [row for design in populations() for row in rows_of(design, args.draws, rng)]
    shown = [r for r in rows if args.all or r.quantity.startswith("area")]
    print("\n".join(table(shown)))
    print(f"\nlowest coverage of ours, of {len(rows)} quantities: {min(r.ours for r in rows):.3f}")
    print(f"lowest of Wald's: {min(r.wald for r in rows):.3f}; seed {args.seed}")


if __name__ == "__main__":
    main()

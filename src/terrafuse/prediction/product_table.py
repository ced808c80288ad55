"""Table of products that a map can have, read by the prediction engine and its options.

A new product is one entry, computed from rows to which all windows have been added:

    Product("second", "Share of the second class", compute=lambda rows: levels(...), **LEVELS)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, isnan, log, nan
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terrafuse.errors import ConfigError, UnknownNameError, unknown_name
from terrafuse.prediction.array_kinds import arrays_of
from terrafuse.prediction.arrays import Array, Arrays
from terrafuse.prediction.cog import Encoding, Reduction
from terrafuse.samples import IGNORE_INDEX

#: Value of pixels without data in integer products.
NODATA = IGNORE_INDEX
#: Class index of pixels whose class is too uncertain to be named.
ABSTAINED = 254
#: Shares are stored as integers in units of 1 / 254.
SHARE_LEVELS = 254
# Level 6 makes a noisy class map 18 % smaller in five times the time, and shares, whose last bits
# are noise, hardly smaller.
_DEFLATE_LEVEL = "1"
# exp(-100) is negligible beside 1; 0 · -inf would be NaN.
_LEAST = -100.0


@dataclass(frozen=True)
class FinalRows:
    """Rows of averaged logits, the input of products.

    Args:
        sums: Weighted sums of logits (K, rows, width).
        totals: Sum of the weights (rows, width); `sums / totals` are the averaged logits.
        best: Largest of the sums (rows, width).
        index: Its class, uint8 (rows, width); the first of equal ones.
        votes: Weight of the windows whose own best class it is (K, rows, width); None unless a
            product needs "votes".
        sources: Modalities with data, uint8 bits (rows, width); None unless one needs "sources".
        without: Weighted sums of logits without one modality (M, K, rows, width); None unless a
            product needs "without".
        left_out: Positions in the model of the M modalities that were left out.
        abstain: Largest softmax probability below which a pixel is `ABSTAINED`; None: none is.
        temperature: What averaged logits are divided by before the softmax.
        set_threshold: Least probability of a class of the class set, beside the best one.
    """

    sums: Array
    totals: Array
    best: Array
    index: Array
    votes: Array | None = None
    sources: Array | None = None
    abstain: float | None = None
    temperature: float = 1.0
    set_threshold: float | None = None
    without: Array | None = None
    left_out: tuple[int, ...] = ()

    def classes(self) -> Array:
        """Return the class index, or `ABSTAINED`, of each pixel, uint8 (rows, width)."""
        if self.abstain is None:
            return self.index
        return self.arrays.filled(self.index, self.confidence() < self.abstain, ABSTAINED)

    @cached_property
    def arrays(self) -> Arrays:
        """What computes them."""
        return arrays_of(self.sums)

    @cached_property
    def inverse(self) -> Array:
        """Reciprocal of `totals`, and of the temperature."""
        found = self.arrays.lib.reciprocal(self.totals)
        if self.temperature != 1:
            found /= self.temperature
        return found

    def below_best(self, k: int) -> Array:
        """Return the logit of class `k` minus the largest one, at most 0 (rows, width).

        Logits are averages, divided by the temperature.
        """
        found = self.sums[k] - self.best
        found *= self.inverse
        return found

    def relative(self, k: int) -> Array:
        """Return the softmax probability of class `k` by the largest one (rows, width)."""
        return self.arrays.exp(self.below_best(k))

    @cached_property
    def partition(self) -> Array:
        """Σ_k exp(l_k − max l) (rows, width), the reciprocal of the largest softmax probability."""
        # All classes at once, because a call takes as long as some thousand numbers.
        relative = self.sums - self.best
        relative *= self.inverse
        first, *rest = self.arrays.exp(relative)
        for term in rest:
            first += term
        return first

    def confidence(self) -> Array:
        """Return the largest softmax probability (rows, width)."""
        return self.arrays.lib.reciprocal(self.partition)

    def entropy(self) -> Array:
        """Return the entropy of the softmax as a share of its maximum, ln K (rows, width)."""
        lib = self.arrays.lib
        inner = lib.zeros_like(self.best)
        for k in range(len(self.sums)):
            below = self.arrays.clip(self.below_best(k), _LEAST, None)
            inner += lib.exp(below) * below
        nats = lib.log(self.partition) - inner / self.partition
        return self.arrays.clip(nats / log(max(len(self.sums), 2)), 0, 1)

    def margin(self) -> Array:
        """Return the largest softmax probability minus the second largest (rows, width)."""
        lib = self.arrays.lib
        second = lib.full_like(self.best, -inf)
        for k in range(len(self.sums)):
            other = self.arrays.fill(self.below_best(k), self.index == k, -inf)
            lib.maximum(second, other, out=second)
        return (1 - self.arrays.exp(second)) / self.partition

    def probabilities(self) -> Array:
        """Return the softmax probabilities (K, rows, width)."""
        found = self.arrays.lib.empty_like(self.sums)
        for k in range(len(self.sums)):
            self.arrays.lib.divide(self.relative(k), self.partition, out=found[k])
        return found

    def disagreement(self) -> Array:
        """Return the share of the windows' weight that is for another class (rows, width)."""
        assert self.votes is not None
        agreeing = self.arrays.of_class(self.votes, self.index)
        return self.arrays.clip(1 - agreeing / self.totals, 0, 1)

    def in_set(self, k: int) -> Array:
        """Tell where class `k` is in the class set, bool (rows, width)."""
        assert self.set_threshold is not None
        is_likely = self.relative(k) >= self.partition * self.set_threshold
        return is_likely | (self.index == k)

    def set_size(self) -> Array:
        """Return the number of classes in the class set, uint8 (rows, width)."""
        size = self.arrays.lib.zeros_like(self.index)
        for k in range(len(self.sums)):
            size += self.in_set(k)
        return size

    def set_bits(self) -> Array:
        """Return the classes in the class set as bits, uint8 (rows, width)."""
        bits = self.arrays.lib.zeros_like(self.index)
        for k in range(len(self.sums)):
            bits |= self.arrays.cast(self.in_set(k), "uint8") << k
        return bits

    def modalities(self) -> Array:
        """Return the modalities with data as bits, uint8 (rows, width)."""
        assert self.sources is not None
        return self.sources

    def attribution(self) -> Array:
        """Return the modality that decided on the class, uint8 (rows, width).

        It is the one without which another class would win, as its position in the model + 1; of
        several the one whose absence costs the class most of its margin, of these the first. 0:
        none of them alone.
        """
        found = self.arrays.lib.zeros_like(self.index)
        most = self.arrays.lib.full_like(self.best, -inf)
        for place, is_beaten, lost in self._losses:
            more = is_beaten & (lost > most)
            self.arrays.fill(found, more, place + 1)
            most = self.arrays.lib.where(more, lost, most)
        return found

    def lost_margin(self) -> Array:
        """Return the most that leaving out one modality costs the class (rows, width), 0 to 2.

        The class's probability less that of the best other one: at most 1 with all modalities, at
        least −1 without one. Where only one has data, there is no class without it: −1.
        """
        lib = self.arrays.lib
        lost = lib.stack([lost for _, _, lost in self._losses])
        return self.arrays.clip(lib.amax(lost, axis=0), 0, 2)

    @cached_property
    def _losses(self) -> list[tuple[int, Array, Array]]:
        """Per modality left out its position, whether another class wins, and the margin lost."""
        assert self.without is not None
        assert self.sources is not None
        margin, found = self.margin(), []
        for place, sums in zip(self.left_out, self.without, strict=True):
            is_beaten, rest = self._margin_in(sums)
            is_alone = self.sources == 1 << place
            rest = self.arrays.filled(rest, is_alone, -1.0)
            found.append((place, is_beaten | is_alone, margin - rest))
        return found

    def _margin_in(self, sums: Array) -> tuple[Array, Array]:
        """Tell whether the class loses in other sums (K, rows, width), and its margin there."""
        arrays, lib = self.arrays, self.arrays.lib
        own = arrays.of_class(sums, self.index)
        rival = lib.full_like(own, -inf)
        is_beaten = arrays.zeros(own.shape, "bool")
        for k in range(len(sums)):
            # Of equal ones the first wins.
            is_beaten |= (sums[k] > own) | ((sums[k] == own) & (self.index > k))
            lib.maximum(rival, arrays.filled(sums[k], self.index == k, -inf), out=rival)
        best, total = lib.maximum(own, rival), lib.zeros_like(own)
        for k in range(len(sums)):
            total += arrays.exp((sums[k] - best) * self.inverse)
        shares = [arrays.exp((x - best) * self.inverse) for x in (own, rival)]
        return is_beaten, (shares[0] - shares[1]) / total


def levels(share: Array) -> Array:
    """Quantise shares from 0 to 1 in steps of 1/254, uint8."""
    arrays = arrays_of(share)
    return arrays.cast(arrays.round(share * SHARE_LEVELS), "uint8")


#: What a product needs beside the logits: added up window by window, or a threshold of class sets.
Need = Literal["votes", "sources", "without", "class_sets"]


@dataclass(frozen=True)
class Product:
    """One raster of a map.

    Args:
        name: Name in `--products`; the file is `name.tif`.
        title: Its content, for `prediction.json`.
        compute: Rows of averaged logits → values (rows, width) in `dtype`, or (K, rows, width).
        nodata: Value set in pixels without data; may be NaN.
        scale: Value of one step (GDAL's scale tag); None: values are not scaled.
        is_class_map: True: values are classes, with colour table and class names.
        reduction: How four pixels become one of an overview.
        per_class: True: a band per class, of its name.
        needs: What of `FinalRows` is only there if it is asked for.
        is_masked: False: `compute` itself says which pixels have no data.
        tells: Whether values are "sets" of modalities or classes (sums of their bits), or "one" of
            the modalities (its position + 1, 0 = none); None: neither.
    """

    name: str
    title: str
    compute: Callable[[FinalRows], Array]
    dtype: str = "uint8"
    nodata: float = NODATA
    scale: float | None = None
    is_class_map: bool = False
    reduction: Reduction = "average"
    per_class: bool = False
    needs: frozenset[Need] = frozenset()
    is_masked: bool = True
    tells: Literal["sets", "one"] | None = None

    def bands(self, num_classes: int) -> int:
        """Return the number of its bands."""
        return num_classes if self.per_class else 1

    def encoding(self, nodata: float, num_classes: int = 1) -> Encoding:
        """How its pixels are stored.

        Args:
            nodata: Value of pixels without data, which may differ from its own.
            num_classes: K.
        """
        predictor = "3" if self.dtype.startswith("float") else "2"
        if self.is_class_map or self.tells == "one":  # differences of numbers say nothing
            predictor = "1"
        creation = {"compress": "DEFLATE", "predictor": predictor, "zlevel": _DEFLATE_LEVEL}
        return Encoding(self.dtype, nodata, self.reduction, creation, bands=self.bands(num_classes))

    def has_data(self, rows: NDArray[Any]) -> bool:
        """Tell whether any pixel has data."""
        known = ~np.isnan(rows) if isnan(self.nodata) else rows != self.nodata
        return bool(known.any())

    def to_dict(self) -> dict[str, Any]:
        """Return the entry in `prediction.json`."""
        return {
            "file": f"{self.name}.tif",
            "content": self.title,
            "dtype": self.dtype,
            "nodata": "nan" if isnan(self.nodata) else self.nodata,
            "scale": self.scale,
        }


#: Settings of shares stored as bytes.
LEVELS: Mapping[str, Any] = {"scale": 1 / SHARE_LEVELS}

#: All products by name.
PRODUCTS: dict[str, Product] = {
    product.name: product
    for product in (
        Product(
            "class_map",
            "class",
            compute=FinalRows.classes,
            is_class_map=True,
            reduction="mode",
        ),
        Product(
            "confidence",
            "largest softmax probability",
            compute=lambda rows: levels(rows.confidence()),
            **LEVELS,
        ),
        Product(
            "confidence_float32",
            "largest softmax probability, not rounded",
            compute=FinalRows.confidence,
            dtype="float32",
            nodata=nan,
        ),
        Product(
            "entropy",
            "entropy of the softmax probabilities, as a share of the greatest (ln K)",
            compute=lambda rows: levels(rows.entropy()),
            **LEVELS,
        ),
        Product(
            "margin",
            "largest softmax probability minus the second largest",
            compute=lambda rows: levels(rows.margin()),
            **LEVELS,
        ),
        Product(
            "probabilities",
            "softmax probability of each class, a band each",
            compute=lambda rows: levels(rows.probabilities()),
            per_class=True,
            **LEVELS,
        ),
        Product(
            "probabilities_float32",
            "softmax probability of each class, a band each",
            compute=FinalRows.probabilities,
            dtype="float32",
            nodata=nan,
            per_class=True,
        ),
        Product(
            "disagreement",
            "share of the overlapping windows' weight whose own class is another one",
            compute=lambda rows: levels(rows.disagreement()),
            needs=frozenset({"votes"}),
            **LEVELS,
        ),
        Product(
            "sources",
            "modalities with data, as bits",
            compute=FinalRows.modalities,
            nodata=0,
            reduction="mode",
            needs=frozenset({"sources"}),
            is_masked=False,
            tells="sets",
        ),
        Product(
            "attribution",
            "modality without which another class would win; 0: none alone",
            compute=FinalRows.attribution,
            reduction="mode",
            needs=frozenset({"sources", "without"}),
            tells="one",
        ),
        Product(
            "attribution_margin",
            "most that leaving out one modality costs the class: its probability minus that of the "
            "best other one, before and after",
            compute=lambda rows: levels(rows.lost_margin() / 2),
            scale=2 / SHARE_LEVELS,
            needs=frozenset({"sources", "without"}),
        ),
        Product(
            "class_sets",
            "classes that the true one is among, with the coverage of the calibration, as bits",
            compute=FinalRows.set_bits,
            nodata=0,
            reduction="mode",
            needs=frozenset({"class_sets"}),
            tells="sets",
        ),
        Product(
            "class_set_size",
            "number of classes that the true one is among, with the coverage of the calibration",
            compute=FinalRows.set_size,
            nodata=0,
            reduction="mode",
            needs=frozenset({"class_sets"}),
        ),
    )
}
#: Modalities that the bits of "sources" can tell.
MOST_SOURCES = 8
#: Classes that the bits of "class_sets" can tell.
MOST_SET_CLASSES = 8
#: Products of a map by default.
DEFAULT_PRODUCTS = ("class_map", "confidence")


def find_products(names: Sequence[str]) -> tuple[Product, ...]:
    """Find products by name.

    Raises:
        UnknownNameError: A product does not exist; the nearest name is given.
        ConfigError: No product is named, or one is named twice.
    """
    for name in names:
        if name not in PRODUCTS:
            raise UnknownNameError(unknown_name("product", name, PRODUCTS))
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"products are '{','.join(names)}'; name one or more of {', '.join(PRODUCTS)}, each "
            "once"
        )
    return tuple(PRODUCTS[name] for name in names)


def needs_of(products: Sequence[Product]) -> frozenset[Need]:
    """Return what products need beside the sums of logits."""
    return frozenset().union(*(product.needs for product in products))


def held_bytes(num_classes: int, needs: frozenset[Need] = frozenset(), modalities: int = 0) -> int:
    """Bytes per pixel of what is added up: sums of logits, whether known, and what is needed.

    Args:
        num_classes: K.
        modalities: Of the model.
    """
    own: Mapping[Need, int] = {
        "votes": 4 * num_classes,
        "sources": 1,
        "without": 4 * num_classes * modalities,
        "class_sets": 0,
    }
    return 4 * num_classes + 1 + sum(own[need] for need in needs)

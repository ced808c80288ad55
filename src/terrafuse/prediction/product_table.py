"""What a map can consist of, one entry per product: the table that the engine and its options read.

A new product is one entry, computed from rows whose windows have all been added:

    Product("second", "Share of the second class", compute=lambda rows: levels(...), **LEVELS)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isnan, log
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terrafuse.errors import ConfigError, UnknownNameError, unknown_name
from terrafuse.samples import IGNORE_INDEX

#: Value of a pixel without data in products of whole numbers.
NODATA = IGNORE_INDEX
#: Shares are stored as a whole number of these parts of 1.
SHARE_LEVELS = 254
# exp(-100) is nothing beside 1; 0 · -inf would be no number.
_LEAST = -100.0


@dataclass(frozen=True)
class FinalRows:
    """Rows of averaged logits, as products see them.

    Args:
        sums: Weighted sums of logits (K, rows, width).
        totals: Sum of the weights (rows, width); `sums / totals` are the averaged logits.
        best: Largest of the sums (rows, width).
        index: Its class, uint8 (rows, width); the first if several are equal.
    """

    sums: Tensor
    totals: Tensor
    best: Tensor
    index: Tensor

    @cached_property
    def inverse(self) -> Tensor:
        """1 / totals."""
        return self.totals.reciprocal()

    def below_best(self, k: int) -> Tensor:
        """Averaged logit of class `k` minus the largest one, at most 0 (rows, width)."""
        return (self.sums[k] - self.best).mul_(self.inverse)

    @cached_property
    def partition(self) -> Tensor:
        """Σ_k exp(l_k − max l) (rows, width); 1 / it is the largest softmax probability."""
        total = torch.zeros_like(self.best)
        for k in range(len(self.sums)):
            total += self.below_best(k).exp_()
        return total

    def entropy(self) -> Tensor:
        """Entropy of the softmax probabilities as a share of ln K, the greatest (rows, width)."""
        inner = torch.zeros_like(self.best)
        for k in range(len(self.sums)):
            below = self.below_best(k).clamp_(min=_LEAST)
            inner += below.exp() * below
        nats = self.partition.log() - inner / self.partition
        return (nats / log(max(len(self.sums), 2))).clamp_(0, 1)

    def margin(self) -> Tensor:
        """Largest softmax probability minus the second largest (rows, width)."""
        second = torch.full_like(self.best, -torch.inf)
        for k in range(len(self.sums)):
            torch.maximum(
                second, self.below_best(k).masked_fill_(self.index == k, -torch.inf), out=second
            )
        return (1 - second.exp_()) / self.partition


def levels(share: Tensor) -> Tensor:
    """Shares 0 to 1 in steps of 1/254, uint8."""
    return share.mul(SHARE_LEVELS).round_().to(torch.uint8)


@dataclass(frozen=True)
class Product:
    """A raster of a map.

    Args:
        name: As `--products` takes it; the file is `name.tif`.
        title: Its content, for `prediction.json`.
        compute: Rows of averaged logits → values (rows, width) in `dtype`.
        dtype: Of the raster, as numpy calls it.
        nodata: Value of pixels without data, which are set to it; may be NaN.
        scale: Value of one step (GDAL's scale tag); None: values are what they say.
        is_class_map: Whether values are classes: colour table and class names.
        cog: Options of GDAL's COG driver, beside those of all products.
    """

    name: str
    title: str
    compute: Callable[[FinalRows], Tensor]
    dtype: str = "uint8"
    nodata: float = NODATA
    scale: float | None = None
    is_class_map: bool = False
    cog: Mapping[str, str] = field(default_factory=dict)

    def has_data(self, rows: NDArray[Any]) -> bool:
        """Whether any pixel has data."""
        known = ~np.isnan(rows) if isnan(self.nodata) else rows != self.nodata
        return bool(known.any())

    def to_dict(self) -> dict[str, Any]:
        """Its line in `prediction.json`."""
        return {
            "file": f"{self.name}.tif",
            "content": self.title,
            "dtype": self.dtype,
            "nodata": "nan" if isnan(self.nodata) else self.nodata,
            "scale": self.scale,
        }


#: Of shares as bytes. Their last bits are noise: level 1 takes a quarter of the time of level 6 for
#: 10 % more.
LEVELS: Mapping[str, Any] = {
    "scale": 1 / SHARE_LEVELS,
    "cog": {"overview_resampling": "AVERAGE", "predictor": "YES", "level": "1"},
}

#: Every product by its name.
PRODUCTS: dict[str, Product] = {
    product.name: product
    for product in (
        Product(
            "class_map",
            "class",
            compute=lambda rows: rows.index,
            is_class_map=True,
            cog={"overview_resampling": "MODE"},
        ),
        Product(
            "confidence",
            "largest softmax probability",
            compute=lambda rows: levels(rows.partition.reciprocal()),
            **LEVELS,
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
    )
}
#: What a map consists of unless told otherwise.
DEFAULT_PRODUCTS = ("class_map", "confidence")


def find_products(names: Sequence[str]) -> tuple[Product, ...]:
    """Products by their names.

    Raises:
        UnknownNameError: With the nearest name.
        ConfigError: None, or one twice.
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

"""Settings of a map beside those of its windows, as one record that workers can be given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from terrafuse.errors import ConfigError
from terrafuse.prediction import cog
from terrafuse.prediction.product_table import (
    DEFAULT_PRODUCTS,
    MOST_SOURCES,
    Need,
    Product,
    find_products,
    held_bytes,
    needs_of,
)
from terrafuse.prediction.tta import View, find_views


@dataclass(frozen=True)
class SampledRows:
    """Products that are computed in some rows of a scene only.

    Args:
        products: Names in `PRODUCTS`, of one band each, and not "sources".
        step: Rows 0, `step`, 2 · `step` … of the scene are taken.
    """

    products: tuple[str, ...]
    step: int

    @property
    def layers(self) -> tuple[Product, ...]:
        """The products."""
        return find_products(self.products)

    @property
    def needs(self) -> frozenset[Need]:
        """What the products need beside the sums of logits."""
        return needs_of(self.layers)

    def rows(self, start: int, stop: int) -> range:
        """Return those of the rows `start` to `stop`."""
        return range(-(-start // self.step) * self.step, stop, self.step)

    def further_bytes(self, num_classes: int) -> int:
        """Bytes per pixel that are held for the products' needs, rounded up."""
        return -(-(held_bytes(num_classes, self.needs) - held_bytes(num_classes)) // self.step)


@dataclass(frozen=True)
class MapSettings:
    """Products of a map and how its pixels come about.

    Args:
        products: Names in `PRODUCTS`.
        tta: Test-time augmentation: names in `tta.KINDS`.
        abstain: Largest softmax probability below which a pixel has no class; None: none is.
        sieve: Patches of fewer pixels are merged into their largest neighbour; None: none is.
        tiles: Side in pixels of the files that a product is divided into; None: it is one file.

    Raises:
        UnknownNameError: A product or an augmentation does not exist.
        ConfigError: A value is not allowed, or needs the class map and it is not made.
    """

    products: tuple[str, ...] = DEFAULT_PRODUCTS
    tta: tuple[str, ...] = ()
    abstain: float | None = None
    sieve: int | None = None
    tiles: int | None = None

    def __post_init__(self) -> None:
        find_products(self.products)
        find_views(self.tta)
        if self.abstain is not None and not 0 < self.abstain <= 1:
            raise ConfigError(
                f"abstain is {self.abstain:g}; give the least confidence of a class, above 0 and "
                "at most 1"
            )
        if self.sieve is not None and not 2 <= self.sieve < 2**31:
            raise ConfigError(
                f"sieve is {self.sieve}; give the smallest patch to keep, 2 pixels or more"
            )
        if self.tiles is not None and (self.tiles < 1 or self.tiles % cog.UNIT):
            raise ConfigError(
                f"tiles is {self.tiles}; give the side of a tile in pixels, a multiple of "
                f"{cog.UNIT}: {cog.UNIT}, {2 * cog.UNIT}, {4 * cog.UNIT} …"
            )
        for name in ("abstain", "sieve"):
            if getattr(self, name) is not None and "class_map" not in self.products:
                raise ConfigError(f"{name} changes the class map; add 'class_map' to the products")

    @property
    def layers(self) -> tuple[Product, ...]:
        """The products."""
        return find_products(self.products)

    @property
    def needs(self) -> frozenset[Need]:
        """What the products need beside the sums of logits."""
        return needs_of(self.layers)

    @property
    def views(self) -> tuple[View, ...]:
        """Ways in which each window is shown to the model; the first is as it is."""
        return find_views(self.tta)

    def further_bytes(self, num_classes: int, modalities: int = 0) -> int:
        """Bytes per pixel that are held for the products' needs.

        Args:
            num_classes: K.
            modalities: Of the model.
        """
        return held_bytes(num_classes, self.needs, modalities) - held_bytes(num_classes)

    @property
    def attributing(self) -> tuple[str, ...]:
        """Products for which the model is also run without each modality."""
        return tuple(product.name for product in self.layers if "without" in product.needs)

    def source_bits(self, names: Sequence[str]) -> dict[str, int] | None:
        """Modality → its bit in the product "sources"; None if no product needs it.

        Args:
            names: Modalities of the model, in its order.

        Raises:
            ConfigError: More than a byte has bits, or only one where modalities are left out.
        """
        if "sources" not in self.needs:
            return None
        if len(names) > MOST_SOURCES:
            needing = next(product.name for product in self.layers if "sources" in product.needs)
            raise ConfigError(
                f"the product '{needing}' tells {MOST_SOURCES} modalities apart, and the model has "
                f"{len(names)} ({', '.join(names)}). Leave it out of the products"
            )
        if self.attributing and len(names) < 2:
            raise ConfigError(
                f"the product '{self.attributing[0]}' tells which of several modalities decided, "
                f"and the model has one ({names[0]}). Leave it out of the products"
            )
        return {name: 1 << i for i, name in enumerate(names)}

    def to_dict(self) -> dict[str, Any]:
        """Plain values but the products, for `prediction.json`."""
        return {
            "tta": list(self.tta),
            "passes_per_window": len(self.views),
            "abstain": self.abstain,
            "sieve": self.sieve,
            "tiles": self.tiles,
        }

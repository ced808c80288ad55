"""Conversion of a scene's values to the scale of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from terrafuse.errors import ConfigError


@dataclass(frozen=True)
class ValueConversion:
    """Conversion of a scene's values to the scale of training.

    Args:
        factor: Value times this …
        offset: … plus this.
        formula: "db": 10·log10 of power first; "linear": power of decibels first.
    """

    factor: float = 1.0
    offset: float = 0.0
    formula: Literal["db", "linear"] | None = None

    @classmethod
    def parse(cls, text: str, where: str = "conversion") -> ValueConversion:
        """Parse "10000", "2.75e-5,-0.2", "db" or "linear".

        Raises:
            ConfigError: Something else.
        """
        if text == "db":
            return cls(formula="db")
        if text == "linear":
            return cls(formula="linear")
        try:
            numbers = [float(word) for word in text.split(",")]
            if not 1 <= len(numbers) <= 2 or not np.isfinite(numbers).all() or numbers[0] == 0:
                raise ValueError
        except ValueError:
            raise ConfigError(
                f"{where} is '{text}'; allowed are FACTOR or FACTOR,OFFSET (10000 or 1,-1000), "
                "'db' (power becomes decibels) and 'linear' (decibels become power)"
            ) from None
        return cls(numbers[0], numbers[1] if len(numbers) > 1 else 0.0)

    def __str__(self) -> str:
        """Text form, as `parse` takes it."""
        if self.formula:
            return self.formula
        return f"{self.factor:g}" + (f",{self.offset:g}" if self.offset else "")

    def then(self, further: ValueConversion) -> ValueConversion | None:
        """Return both as one, this one first; None if `parse` knows no such conversion."""
        if self == ValueConversion():
            return further
        if further.formula:
            undone = {self.formula, further.formula} == {"db", "linear"}
            return ValueConversion() if undone else None
        if self.formula:
            return None
        offset = self.offset * further.factor + further.offset
        return ValueConversion(self.factor * further.factor, offset)

    def apply(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Converted values, float32; NaN where there is no logarithm."""
        result = values.astype(np.float64)
        if self.formula == "db":
            result = 10 * np.log10(np.where(result > 0, result, np.nan))
        elif self.formula == "linear":
            result = 10 ** (result / 10)
        return (result * self.factor + self.offset).astype(np.float32)

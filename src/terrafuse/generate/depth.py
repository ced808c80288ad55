"""Monocular depth by a foundation model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terrafuse.errors import ConfigError, ModelError, unknown_name
from terrafuse.generate.generators import Maker, Result
from terrafuse.generate.models import Model, Precision, load_pipeline, model_note, run_model
from terrafuse.generate.photos import Picture

#: Meaning of a model's values: large where near; metres from the camera; metres above ground.
Meaning = Literal["nearness", "distance", "height"]
MEANINGS = ("nearness", "distance", "height")

_DISTANCE = ("depth_pro", "glpn", "zoedepth", "tipsv2_dpt")
_HEIGHT = ("chmv2",)


@dataclass(frozen=True)
class DepthGenerator:
    """Generator of depth, high where near: seen from above, roofs are higher than ground.

    Args:
        meaning: Meaning of its values; None: from its architecture and settings. The sign of
            distances is inverted. Heights are absolute in every window and are not aligned.
        precision: Floating-point type of the model.
        device: "auto" (the first GPU, if there is one), "cpu", "cuda" …

    Raises:
        ConfigError: A value is not allowed.
    """

    model: Model
    meaning: Meaning | None = None
    precision: Precision = "float32"
    device: str = "auto"
    result: Result = field(default="depth", init=False)

    def __post_init__(self) -> None:
        if self.meaning not in (None, *MEANINGS):
            raise ConfigError(unknown_name("meaning of depth", self.meaning, MEANINGS))

    @property
    def aligned(self) -> bool:
        """True if each window has its own scale and shift."""
        return self._meaning != "height"

    @property
    def unit(self) -> str:
        """Unit of the generated values."""
        return "relative" if self.aligned else "m"

    def describe(self) -> dict[str, Any]:
        """Return all that the result depends on besides the photo."""
        return {
            "kind": "depth",
            "model": self.model.describe(),
            "meaning": self._meaning,
            "precision": self.precision,
        }

    def note(self) -> dict[str, Any]:
        """Return further facts for the record."""
        return model_note(self.model, device=self.device, precision=self.precision)

    def build(self) -> Maker:
        """Load the model."""
        pipeline = load_pipeline(self.model, precision=self.precision, device=self.device)
        sign = -1 if self._meaning == "distance" else 1

        def make(picture: Picture) -> NDArray[np.floating[Any]]:
            # Not the picture that the pipeline returns as well: it has 256 levels.
            found = run_model(pipeline, picture)["predicted_depth"]
            depth = found.detach().float().cpu().numpy().astype(np.float32)
            if not np.isfinite(depth).all():
                raise ModelError(
                    f"model '{self.model.name}' returns depth that is not a number, with "
                    f"{self.precision}; try --precision float32"
                )
            return np.asarray(sign * depth)

        return make

    @property
    def _meaning(self) -> Meaning:
        if self.meaning is not None:
            return self.meaning
        if self.model.architecture in _HEIGHT:
            return "height"
        metric = self.model.metric or self.model.architecture in _DISTANCE
        return "distance" if metric else "nearness"

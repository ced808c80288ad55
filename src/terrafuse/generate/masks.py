"""Segments by automatic mask generation: SAM, SAM-HQ, SAM 2, SAM 3's tracker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.errors import ConfigError
from terrafuse.generate.generators import Maker, Result
from terrafuse.generate.models import Model, Precision, load_pipeline, model_note, run_model
from terrafuse.generate.photos import Picture
from terrafuse.generate.segments import paint


@dataclass(frozen=True)
class MaskGenerator:
    """Generator of automatic masks: the model is prompted with a grid of points.

    Args:
        points: Prompt points per side of a window.
        iou: Smallest mask quality (IoU) predicted by the model itself; 0 keeps all.
        stability: Smallest IoU of a mask under a lower and a higher threshold; 0 keeps all.
        nms: Of masks whose boxes overlap more than this (IoU), only the best is kept.
        min_area: Masks of fewer pixels are left out.
        points_per_batch: Points prompted at once; affects memory only.
        precision: Floating-point type of the model.
        device: "auto" (the first GPU, if there is one), "cpu", "cuda" …

    Raises:
        ConfigError: A value is not allowed.
    """

    model: Model
    points: int = 32
    iou: float = 0.88
    stability: float = 0.95
    nms: float = 0.7
    min_area: int = 0
    points_per_batch: int = 16
    precision: Precision = "float32"
    device: str = "auto"
    result: Result = field(default="segments", init=False)
    aligned: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("points", 1, 512),
            ("iou", 0, 1),
            ("stability", 0, 1),
            ("nms", 0, 1),
            ("min_area", 0, None),
            ("points_per_batch", 1, None),
        ):
            value = getattr(self, name)
            if value < low or (high is not None and value > high):
                allowed = f"from {low}" + ("" if high is None else f" to {high}")
                raise ConfigError(f"{name} is {value}; allowed are numbers {allowed}")

    def describe(self) -> dict[str, Any]:
        """Return all that the result depends on besides the photo."""
        return {
            "kind": "sam",
            "model": self.model.describe(),
            "points": self.points,
            "iou": self.iou,
            "stability": self.stability,
            "nms": self.nms,
            "min_area": self.min_area,
            "precision": self.precision,
        }

    def note(self) -> dict[str, Any]:
        """Return further facts for the record."""
        return model_note(self.model, device=self.device, precision=self.precision)

    def build(self) -> Maker:
        """Load the model."""
        pipeline = load_pipeline(self.model, precision=self.precision, device=self.device)

        def make(picture: Picture) -> NDArray[np.integer[Any]]:
            found = run_model(
                pipeline,
                picture,
                points_per_crop=self.points,
                points_per_batch=self.points_per_batch,
                pred_iou_thresh=self.iou,
                stability_score_thresh=self.stability,
                crops_nms_thresh=self.nms,
            )
            masks = [np.asarray(mask, bool) for mask in found["masks"]]
            return paint(masks, picture.shape[:2], min_area=self.min_area)

        return make

"""Segments without a model: superpixels of similar colour."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terrafuse.errors import ConfigError, unknown_name
from terrafuse.extras import from_extra
from terrafuse.generate.generators import Maker, Result
from terrafuse.generate.photos import Picture
from terrafuse.generate.segments import as_labels

SuperpixelMethod = Literal["slic", "watershed"]
_METHODS = ("slic", "watershed")


@dataclass(frozen=True)
class SuperpixelGenerator:
    """Generator of superpixels: SLIC, or a compact watershed of the picture's gradient.

    Args:
        method: "slic": k-means of colour and position (Achanta et al., IEEE TPAMI 34, 2012).
            "watershed": basins around seeds on a regular grid (Neubert and Protzel, ICPR 2014);
            follows edges more closely, with superpixels of less even size.
        size: Approximate side of a superpixel in pixels.
        compactness: Weight of position against colour: larger gives squarer superpixels. None: 10
            for "slic", 0.001 for "watershed".
        sigma: Standard deviation of the Gaussian that smooths the picture first, in pixels.

    Raises:
        ConfigError: A value is not allowed.
        MissingDependencyError: scikit-image is not installed.
    """

    method: SuperpixelMethod = "slic"
    size: int = 24
    compactness: float | None = None
    sigma: float = 1.0
    result: Result = field(default="segments", init=False)
    aligned: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        with from_extra("generate", "kind 'superpixels'"):
            import skimage  # noqa: F401  # fail before photos are read; its parts are imported late
        if self.method not in _METHODS:
            raise ConfigError(unknown_name("superpixel method", self.method, _METHODS))
        if self.size < 3 or self.sigma < 0:
            raise ConfigError(
                f"superpixels of size {self.size} and sigma {self.sigma:g}; allowed are sizes from "
                "3 pixels and sigmas from 0"
            )

    def describe(self) -> dict[str, Any]:
        """Return all that the result depends on besides the photo."""
        return {
            "kind": "superpixels",
            "method": self.method,
            "size": self.size,
            "compactness": self._compactness,
            "sigma": self.sigma,
        }

    def note(self) -> dict[str, Any]:
        """Return further facts for the record."""
        return {"versions": {"scikit-image": version("scikit-image")}}

    def build(self) -> Maker:
        """Return the function from picture to segments."""
        return self._watershed if self.method == "watershed" else self._slic

    @property
    def _compactness(self) -> float:
        return self.compactness or (10.0 if self.method == "slic" else 0.001)

    def _slic(self, picture: Picture) -> NDArray[np.integer[Any]]:
        from skimage.segmentation import slic  # slow to import

        return as_labels(
            slic(
                picture,
                n_segments=self._count(picture),
                compactness=self._compactness,
                sigma=self.sigma,
                start_label=1,
                channel_axis=-1,
            )
        )

    def _watershed(self, picture: Picture) -> NDArray[np.integer[Any]]:
        from skimage.color import rgb2gray
        from skimage.filters import gaussian, sobel
        from skimage.segmentation import watershed

        gradient = sobel(gaussian(rgb2gray(picture), self.sigma))
        return as_labels(
            watershed(gradient, markers=self._count(picture), compactness=self._compactness)
        )

    def _count(self, picture: Picture) -> int:
        height, width = picture.shape[:2]
        return max(1, int(height * width / self.size**2 + 0.5))

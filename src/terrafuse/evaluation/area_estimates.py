"""Areas of classes and accuracy of a map, estimated from a stratified sample of labelled pixels.

A map that is counted pixel by pixel keeps its own errors: where forest is more often taken for
water than water for forest, there is too much water on the map. A sample of pixels whose true class
somebody has looked up corrects this, and says how sure the result is.

Reference:
    Estimates and standard errors: Stehman (2014), Estimating area and map accuracy for stratified
    random sampling when the strata are different from the map classes, International Journal of
    Remote Sensing 35:4923-4939, equations 2 to 28; where the strata are the classes of the map they
    are those of Olofsson et al. (2014), Remote Sensing of Environment 148:42-57, equations 1 to 11,
    with the correction for finite strata. Compared with the R package mapaccuracy 0.1.2 (Costa).
    The intervals are not theirs, which are too short where few errors are sampled: see
    `terrafuse.evaluation.exact_intervals`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.errors import DataError
from terrafuse.evaluation.exact_intervals import (
    ratio_interval,
    share_interval,
    sum_interval,
)

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]
#: Class of a stratum whose pixels may have any class on the map.
ANY_CLASS = -1


@dataclass(frozen=True)
class Strata:
    """What a sample was drawn from.

    Args:
        names: Of the strata.
        pixels: Of each (H,).
        areas: Of each (H,), in hectares, or in pixels where the ground is not known.
        classes: Row of the error matrix in which all pixels of a stratum are (H,), or `ANY_CLASS`
            where the sample was drawn from another map than is judged.
    """

    names: tuple[str, ...]
    pixels: Int
    areas: Float
    classes: Int


@dataclass(frozen=True)
class LabelledPixels:
    """The sample.

    Args:
        stratum: Of each pixel (n,).
        mapped: Row of the error matrix (n,): the class on the map, or what else is there.
        reference: The true class (n,).
        areas: Of the pixels (n,), in any unit.
    """

    stratum: Int
    mapped: Int
    reference: Int
    areas: Float


@dataclass(frozen=True)
class Estimate:
    """An estimated quantity.

    Args:
        value: The estimate.
        low: Lower limit of its interval.
        high: Upper limit.
        standard_error: None where a stratum has one sampled pixel, which has no variance.
    """

    value: float
    low: float
    high: float
    standard_error: float | None

    def times(self, factor: float) -> Estimate:
        """In another unit."""
        error = None if self.standard_error is None else self.standard_error * factor
        return Estimate(self.value * factor, self.low * factor, self.high * factor, error)


@dataclass(frozen=True)
class ClassEstimate:
    """Estimates of a class.

    Args:
        name: Of the class.
        mapped_points: Sampled pixels that the map says to be of it.
        reference_points: Sampled pixels that are of it.
        area: Its true area.
        users: User's accuracy: the share of what is mapped as the class that is of it; None where
            no sampled pixel is mapped so.
        producers: Producer's accuracy: the share of the class that is mapped as it; None where no
            sampled pixel is of it.
        mapped_area: Area on the map, as pixels are counted; None where nobody has counted them.
    """

    name: str
    mapped_points: int
    reference_points: int
    area: Estimate
    users: Estimate | None
    producers: Estimate | None
    mapped_area: float | None = None


@dataclass(frozen=True)
class AreaEstimates:
    """Estimates from a reference sample.

    Args:
        classes: One row per class.
        overall: Overall accuracy; a pixel that has no class on the map is wrong.
        overall_of_classed: That of the pixels which have a class; None where all sampled ones do.
        rows: Names of the rows of the error matrix: the classes, then what else is on the map.
        matrix: Shares of the area (R, K), rows = map, columns = reference.
        counts: Sampled pixels (R, K).
        total: Area of all strata.
        unit: Of areas: "ha" or "px".
        points: Sampled pixels.
        confidence: Of the intervals.
        notes: What a reader should know of the sample.
    """

    classes: tuple[ClassEstimate, ...]
    overall: Estimate
    overall_of_classed: Estimate | None
    rows: tuple[str, ...]
    matrix: Float
    counts: Int
    total: float
    unit: str
    points: int
    confidence: float
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `terrafuse areas --json` prints them."""
        names = [one.name for one in self.classes]

        def table(values: NDArray[Any]) -> dict[str, dict[str, Any]]:
            return {
                row: dict(zip(names, found, strict=True))
                for row, found in zip(self.rows, values.tolist(), strict=True)
            }

        classed = self.overall_of_classed
        return {
            "unit": self.unit,
            "total_area": self.total,
            "points": self.points,
            "confidence": self.confidence,
            "overall_accuracy": asdict(self.overall),
            "overall_accuracy_of_classed": None if classed is None else asdict(classed),
            "classes": {one.name: _plain(one) for one in self.classes},
            "area_shares": table(self.matrix),
            "counts": table(self.counts),
            "notes": list(self.notes),
        }


def _plain(one: ClassEstimate) -> dict[str, Any]:
    return {
        "mapped_area": one.mapped_area,
        "area": asdict(one.area),
        "users_accuracy": None if one.users is None else asdict(one.users),
        "producers_accuracy": None if one.producers is None else asdict(one.producers),
        "mapped_points": one.mapped_points,
        "reference_points": one.reference_points,
    }


def estimate_areas(
    strata: Strata,
    sample: LabelledPixels,
    classes: Sequence[str],
    *,
    others: Sequence[str] = (),
    mapped_areas: Mapping[str, float] | None = None,
    unit: str = "ha",
    confidence: float = 0.95,
    notes: Sequence[str] = (),
) -> AreaEstimates:
    """Estimate areas and accuracies.

    Args:
        strata: What the sample was drawn from.
        sample: Its labelled pixels.
        classes: Names of the K classes.
        others: Names of the rows K, K + 1, … of the error matrix: pixels without a class.
        mapped_areas: Area of each class on the map.
        unit: Of the areas.
        confidence: Of the intervals.
        notes: Kept in the result.

    Raises:
        DataError: A stratum has no labelled pixel.
    """
    design = _Design(strata, sample, confidence)
    count, rows = len(classes), (*classes, *others)
    is_right = sample.mapped == sample.reference
    has_class = sample.mapped < count
    mapped = mapped_areas or {}
    estimates = tuple(
        replace(design.of_class(k, name), mapped_area=mapped.get(name))
        for k, name in enumerate(classes)
    )
    can_be_right = (strata.classes == ANY_CLASS) | (strata.classes < count)
    return AreaEstimates(
        classes=estimates,
        overall=design.share(is_right, can_succeed=can_be_right),
        overall_of_classed=None
        if has_class.all()
        else design.ratio(is_right, has_class, can_be_right, can_be_right),
        rows=rows,
        matrix=design.matrix(len(rows), count),
        counts=_counted(sample, len(rows), count),
        total=float(strata.areas.sum()),
        unit=unit,
        points=len(sample.stratum),
        confidence=confidence,
        notes=tuple(notes),
    )


def _counted(sample: LabelledPixels, rows: int, columns: int) -> Int:
    joint = sample.mapped * columns + sample.reference
    return np.bincount(joint, minlength=rows * columns).reshape(rows, columns).astype(np.int64)


class _Design:
    """Sums over the strata of one sample.

    Sampled pixels of a stratum weigh by their area, which differs where the grid is in degrees.
    """

    def __init__(self, strata: Strata, sample: LabelledPixels, confidence: float) -> None:
        self._strata, self._sample, self._confidence = strata, sample, confidence
        count = len(strata.names)
        self._points = np.bincount(sample.stratum, minlength=count)
        if (empty := np.flatnonzero(self._points == 0)).size:
            listed = ", ".join(f"'{strata.names[h]}'" for h in empty[:5])
            raise DataError(
                f"no labelled point lies in {listed}, {float(strata.areas[empty].sum()):,.0f} of "
                f"{float(strata.areas.sum()):,.0f} of the area: nothing is known of it. Label at "
                "least one point there, better two or more"
            )
        self.weights = strata.areas / strata.areas.sum()
        self._sampled = np.minimum(self._points / strata.pixels, 1.0)
        area, squared = (self._sum(sample.areas**power) for power in (1, 2))
        self._area = area
        #: Pixels of equal area that would say as much (Kish 1965).
        self._effective = area**2 / squared

    def of_class(self, k: int, name: str) -> ClassEstimate:
        """All estimates of a class but the mapped area."""
        sample, own = self._sample, self._strata.classes
        is_mapped, is_true = sample.mapped == k, sample.reference == k
        is_both = is_mapped & is_true
        unknown = own == ANY_CLASS
        return ClassEstimate(
            name,
            int(is_mapped.sum()),
            int(is_true.sum()),
            self.share(is_true).times(float(self._strata.areas.sum())),
            self._users(k, is_both, is_mapped) if is_mapped.any() else None,
            self.ratio(is_both, is_true, unknown | (own != k), unknown | (own == k))
            if is_true.any()
            else None,
        )

    def _users(self, k: int, is_both: Bool, is_mapped: Bool) -> Estimate:
        """User's accuracy: that of one stratum, exactly, where the class is one."""
        own = self._strata.classes
        here = np.flatnonzero(own == k)
        if (own == ANY_CLASS).any() or len(here) != 1:
            return self.ratio(is_both, is_mapped, None, None)
        h = int(here[0])
        found = self.ratio(is_both, is_mapped, None, None, with_interval=False)
        low, high = share_interval(
            _whole(found.value * self._effective[h]),
            _whole(self._effective[h]),
            int(self._strata.pixels[h]),
            self._confidence,
        )
        return replace(found, low=low, high=high)

    def share(self, holds: Bool, can_succeed: Bool | None = None) -> Estimate:
        """Share of the area for which something holds."""
        value = float((self.weights * self._shares(holds)).sum())
        counts = np.stack([self._counts(holds), self._counts(~holds)], axis=-1)
        low, high = sum_interval(
            counts, self.weights, self._sampled,
            can_succeed=can_succeed, confidence=self._confidence,
        )  # fmt: skip
        error = self._standard_error(holds.astype(np.float64))
        return Estimate(value, float(low), float(high), error)

    def ratio(
        self,
        part: Bool,
        whole: Bool,
        can_fail: Bool | None,
        can_succeed: Bool | None,
        *,
        with_interval: bool = True,
    ) -> Estimate:
        """Area of a part as a share of that of a whole.

        Args:
            part: Sampled pixels in the part (n,).
            whole: Those in the whole (n,).
            can_fail: Strata with pixels in the whole that may not be in the part; None: all.
            can_succeed: Strata with pixels that may be in the part; None: all.
            with_interval: False: the limits are those of nothing known.
        """
        area = float((self.weights * self._shares(whole)).sum())
        value = float((self.weights * self._shares(part)).sum()) / area
        residual = part.astype(np.float64) - value * whole
        error = self._standard_error(residual)
        found = Estimate(value, 0.0, 1.0, None if error is None else error / area)
        if not with_interval:
            return found
        counts = np.stack([self._counts(h) for h in (part, whole & ~part, ~whole)], axis=-1)
        low, high = ratio_interval(
            counts, self.weights, self._sampled,
            can_fail=can_fail, can_succeed=can_succeed, confidence=self._confidence,
        )  # fmt: skip
        return replace(found, low=float(low), high=float(high))

    def matrix(self, rows: int, columns: int) -> Float:
        """Estimated share of the area in each cell of the error matrix (R, K)."""
        sample = self._sample
        each = (self.weights / self._area)[sample.stratum] * sample.areas
        joint = sample.mapped * columns + sample.reference
        table: Float = np.bincount(joint, each, minlength=rows * columns).astype(np.float64)
        return table.reshape(rows, columns)

    def _sum(self, values: Float) -> Float:
        """Sum over the sampled pixels of each stratum (H,)."""
        sums: Float = np.bincount(self._sample.stratum, values, minlength=len(self._points)).astype(
            np.float64
        )
        return sums

    def _shares(self, holds: Bool) -> Float:
        return self._sum(self._sample.areas * holds) / self._area

    def _counts(self, holds: Bool) -> Float:
        return self._shares(holds) * self._effective

    def _standard_error(self, values: Float) -> float | None:
        """Standard error of Σ weight × mean over strata (Stehman 2014, equation 25).

        The mean is a ratio to the sampled area, so that residuals weigh by the area of the pixel.
        """
        is_census = self._sampled >= 1
        if ((self._points < 2) & ~is_census).any():
            return None
        sample, stratum = self._sample, self._sample.stratum
        mean = self._sum(sample.areas * values) / self._area
        scale = sample.areas * (self._points / self._area)[stratum]
        squares = self._sum((scale * (values - mean[stratum])) ** 2)
        degrees = np.maximum(self._points - 1, 1)
        variances = (1 - self._sampled) * squares / (degrees * self._points)
        return float(np.sqrt((self.weights**2 * variances).sum()))


def _whole(value: float) -> float:
    """A count that is a whole number but for rounding, as one."""
    nearest = round(value)
    return float(nearest) if abs(value - nearest) < 1e-6 else value

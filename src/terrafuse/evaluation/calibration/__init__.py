"""Calibration: is a map as sure as it should be, and making it so."""

from terrafuse.evaluation.calibration.conformal import (
    COLUMNS,
    THRESHOLDS,
    ClassSetRule,
    choose_threshold,
    count_missed,
)
from terrafuse.evaluation.calibration.detection import aupr, auroc
from terrafuse.evaluation.calibration.fitting import SetWish, fit_calibration
from terrafuse.evaluation.calibration.reliability import (
    BINS,
    CONFIDENT,
    confident_errors,
    diagram,
    equal_bins,
    expected_error,
    maximum_error,
    overconfidence,
    reliability_sums,
)
from terrafuse.evaluation.calibration.report import calibration_report
from terrafuse.evaluation.calibration.risk import (
    COVERAGES,
    area_under_risk,
    risk_curve,
    selective_risk,
)
from terrafuse.evaluation.calibration.sets import class_set_report
from terrafuse.evaluation.calibration.temperature import LARGEST, LEAST, TemperatureSums

__all__ = [
    "BINS",
    "COLUMNS",
    "CONFIDENT",
    "COVERAGES",
    "LARGEST",
    "LEAST",
    "THRESHOLDS",
    "ClassSetRule",
    "SetWish",
    "TemperatureSums",
    "area_under_risk",
    "aupr",
    "auroc",
    "calibration_report",
    "choose_threshold",
    "class_set_report",
    "confident_errors",
    "count_missed",
    "diagram",
    "equal_bins",
    "expected_error",
    "fit_calibration",
    "maximum_error",
    "overconfidence",
    "reliability_sums",
    "risk_curve",
    "selective_risk",
]

"""Calibration of a model's confidence: what prediction needs of it.

A temperature divides the averaged logits before the softmax: classes stay what they are, and
confidence, entropy, margin and probabilities change. A threshold makes class sets. Both may be of
one subset of modalities each, since a model is surer, or less sure than it should be, with some of
them missing.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from terrafuse.errors import WeightsError, cut
from terrafuse.writing import write_json, written_whole

#: Name of the file in a run folder.
CALIBRATION_JSON = "calibration.json"
CALIBRATION_FORMAT = 1


@dataclass(frozen=True)
class SubsetCalibration:
    """Calibration for the modalities that a scene has.

    Args:
        temperature: What averaged logits are divided by.
        threshold: Least probability of a class of the class set; None: there are no sets.
        coverage: Promised of these sets.
    """

    temperature: float = 1.0
    threshold: float | None = None
    coverage: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Calibration:
    """Calibration of a model.

    Args:
        full: All modalities, joined by "+".
        subsets: By the modalities used, likewise. One that is not there is taken as `full`; none
            at all leaves the softmax as it is.
    """

    full: str = ""
    subsets: Mapping[str, SubsetCalibration] = field(default_factory=dict)

    def of(self, used: Sequence[str]) -> SubsetCalibration:
        """Return that of the modalities used, in the model's order."""
        own = self.subsets.get("+".join(used)) or self.subsets.get(self.full)
        return own or SubsetCalibration()

    def is_of(self, used: Sequence[str]) -> bool:
        """Tell whether these modalities have a calibration of their own."""
        return "+".join(used) in self.subsets

    @property
    def has_sets(self) -> bool:
        """Whether there are class sets."""
        thresholds = [own.threshold for own in self.subsets.values()]
        return bool(thresholds) and None not in thresholds

    def facts(self, used: Sequence[str]) -> dict[str, Any] | None:
        """What `prediction.json` says of it; None without calibration."""
        if not self.subsets:
            return None
        fitted = "+".join(used) if self.is_of(used) else self.full
        return {"modalities": fitted, **self.of(used).to_dict()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, such as a key of stored scores needs."""
        return {name: own.to_dict() for name, own in self.subsets.items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Calibration:
        """Take it from the content of `calibration.json`.

        Raises:
            LookupError: A key is missing.
            TypeError: A value is of another type.
            ValueError: A value is not allowed.
        """
        subsets = {}
        for name, own in content["subsets"].items():
            temperature, sets = float(own["temperature"]), own["class_sets"] or {}
            if not 0 < temperature < inf:
                raise ValueError(f"the temperature of {name} is {temperature}")
            threshold, coverage = sets.get("threshold"), sets.get("coverage")
            subsets[name] = SubsetCalibration(temperature, threshold, coverage)
        return cls(content["full"], {content["full"]: subsets[content["full"]], **subsets})


def read_calibration(folder: Path, model: str) -> Calibration | None:
    """Read that of a run folder; None if there is none, or it is of other weights.

    Args:
        folder: Run folder.
        model: Digest of its weights.

    Raises:
        WeightsError: The file is damaged, or of another version.
    """
    path = folder / CALIBRATION_JSON
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found, fitted_to = content["format"], content["model"]
        if found == CALIBRATION_FORMAT and fitted_to == model:
            return Calibration.from_dict(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"'{path}' cannot be read ({cut(error)}). Calibrate again (terrafuse calibrate "
            f"{folder}), or delete it"
        ) from None
    if found != CALIBRATION_FORMAT:
        raise WeightsError(
            f"'{path}' has format {cut(found)}; this version reads {CALIBRATION_FORMAT}. Calibrate "
            f"again (terrafuse calibrate {folder}), or delete it"
        )
    warnings.warn(
        f"'{path}' was fitted to other weights than those of the run, and is not used: confidences "
        f"are not calibrated. Calibrate again (terrafuse calibrate {folder})",
        stacklevel=3,
    )
    return None


def write_calibration(folder: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write `calibration.json` into a run folder, whole or not at all; return what it holds.

    Args:
        folder: Run folder.
        content: "model", "full" and "subsets", and what else is to be kept.

    Raises:
        OutputError: The folder cannot be written, or the disk is full.
    """
    path = folder / CALIBRATION_JSON
    whole = {"format": CALIBRATION_FORMAT, **content}
    with written_whole(path) as (partial,):
        write_json(partial, whole)
    return whole

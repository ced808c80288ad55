"""Description of a trained model, as `model.json` and exported files hold it; needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from terrafuse.classes import ClassScheme
from terrafuse.config.base import with_present_names
from terrafuse.errors import WeightsError, WeightsMismatchError, WeightsNotFoundError, cut
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.version import VERSION
from terrafuse.weights.stac import stac_fields
from terrafuse.writing import complete

FORMAT_VERSION = 1
#: Files of a run folder.
MODEL_JSON = "model.json"
METRICS_JSON = "metrics.json"
STATE_FILE = "model.safetensors"


@dataclass(frozen=True)
class RunInfo:
    """Description of a trained model.

    Args:
        method_options: Its options, as passed to `create_segmenter`.
        modalities: Inputs of the model, in this order.
        statistics: Band statistics per modality, over the training splits.
        crop_size: Window size of prediction, in scene pixels.
        overlap: Overlap of windows, in scene pixels.
        rules: Per modality, how to read its rasters (nodata, resampling …).
        grid: Modality whose grid is the scene's; None = the labels', else the finest.
        base_weights: Pretrained weights it started from: "backbone", "source" and "licence" each.
        scores: Per subset of modalities ("s1+s2"), score by name; None where undefined.
        base_values_sha256: Digest of the values that were not tuned, which the state file leaves
            out: they are those of the base weights. None where it holds all.
        state_sha256: Digest of the state file; None before it is saved, and in folders of earlier
            versions.
        total_parameters: Trainable and frozen values.
        version: The terrafuse that wrote it.
        code: By name, where what it uses from outside the package came from: "module", "file",
            "sha256" and "distribution" each.
    """

    method: str
    method_options: dict[str, Any]
    modalities: tuple[Modality, ...]
    scheme: ClassScheme
    statistics: dict[str, BandStatistics]
    crop_size: int
    overlap: int
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)
    grid: str | None = None
    base_weights: tuple[dict[str, str], ...] = ()
    scores: dict[str, dict[str, float | None]] = field(default_factory=dict)
    base_values_sha256: str | None = None
    state_sha256: str | None = None
    total_parameters: int = 0
    version: str = VERSION
    code: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def plain_statistics(self) -> dict[str, BandStatistics]:
        """Statistics of the training, but of what is rescaled or encoded.

        That has the same range whatever the file holds.
        """
        return {
            name: statistics
            for name, statistics in self.statistics.items()
            if not (
                self.rules.get(name, {}).get("rescale") or self.rules.get(name, {}).get("encoding")
            )
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `model.json`."""
        own = {
            "format_version": FORMAT_VERSION,
            "terrafuse_version": self.version,
            "method": {"name": self.method, "options": self.method_options},
            "modalities": [modality.to_dict() for modality in self.modalities],
            "reading_rules": self.rules,
            "grid": self.grid,
            **self.scheme.to_dict(),
            "statistics": {name: s.to_dict() for name, s in self.statistics.items()},
            "crop_size": self.crop_size,
            "overlap": self.overlap,
            "base_weights": list(self.base_weights),
            "base_values_sha256": self.base_values_sha256,
            "state_sha256": self.state_sha256,
            "scores": self.scores,
            "total_parameters": self.total_parameters,
            "code": self.code,
        }
        return own | stac_fields(
            method=self.method,
            modalities=self.modalities,
            scheme=self.scheme,
            statistics=self.statistics,
            base_weights=self.base_weights,
            total_parameters=self.total_parameters,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunInfo:
        """Inverse of `to_dict`."""
        for keys, kind in _KINDS.items():
            _check_kind(values, keys, kind)
        return cls(
            method=values["method"]["name"],
            method_options=with_present_names(values["method"]["options"]),
            modalities=tuple(Modality.from_dict(m) for m in values["modalities"]),
            scheme=ClassScheme.from_dict({key: values[key] for key in ("classes", "void")}),
            statistics={
                name: BandStatistics.from_dict(_nan_for_null(s))
                for name, s in values["statistics"].items()
            },
            crop_size=int(values["crop_size"]),
            overlap=int(values["overlap"]),
            rules=dict(values["reading_rules"]),
            grid=values["grid"],
            base_weights=tuple(values["base_weights"]),
            base_values_sha256=values.get("base_values_sha256"),
            state_sha256=values.get("state_sha256"),
            scores=dict(values["scores"]),
            total_parameters=int(values["total_parameters"]),
            version=str(values["terrafuse_version"]),
            code=dict(values.get("code", {})),
        )


def read_run_info(folder: str | Path) -> RunInfo:
    """Read the description of the model in a run folder.

    Raises:
        WeightsNotFoundError: The folder is not a run folder.
        WeightsMismatchError: It was written in the format of another terrafuse version.
        WeightsError: `model.json` is damaged.
        OutputError: Its files were being replaced when a process was killed, and cannot be now.
    """
    path = Path(folder) / MODEL_JSON
    complete(folder)
    values = _read_json(path)
    found = values.get("format_version")
    if found != FORMAT_VERSION:
        raise WeightsMismatchError(
            f"'{path}' has format version {cut(found)}, written by terrafuse "
            f"{cut(values.get('terrafuse_version', '(unknown)'))}; this is terrafuse "
            f"{VERSION}, which reads version {FORMAT_VERSION}. "
            "Use the terrafuse that wrote it, or train again"
        )
    try:
        return RunInfo.from_dict(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(
            f"'{path}' is damaged: {cut(fault_of(error), 600)}. Save the model again"
        ) from None


# Kinds of values that nothing else checks before they are used.
_KINDS: dict[tuple[str, ...], type] = {
    ("method", "name"): str,
    ("method", "options"): dict,
    ("modalities",): list,
    ("statistics",): dict,
    ("reading_rules",): dict,
    ("base_weights",): list,
    ("scores",): dict,
}


def _check_kind(values: Any, keys: tuple[str, ...], kind: type) -> None:
    for key in keys:
        values = values[key]
    if not isinstance(values, kind):
        raise TypeError(f"'{'.'.join(keys)}' is of type {type(values).__name__}")


def fault_of(error: Exception) -> str:
    """Say in a phrase what `RunInfo.from_dict`, or another reader of plain values, found wrong."""
    return f"no '{error.args[0]}'" if isinstance(error, KeyError) else str(error)


def null_for_nan(value: Any) -> Any:
    """Replace what JSON does not have: a band without data has undefined statistics."""
    if isinstance(value, Mapping):
        return {key: null_for_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [null_for_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _nan_for_null(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: [math.nan if v is None else v for v in inner] for key, inner in values.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsNotFoundError(
            f"'{path.parent}' is not a run folder: it holds no {path.name}. "
            "Give the folder that 'terrafuse train --out' wrote"
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise WeightsError(f"'{path}' cannot be read: {error}. Save the model again") from None
    if not isinstance(values, dict):
        raise WeightsError(f"'{path}' does not describe a model: it holds no keys")
    return values

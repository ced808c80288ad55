"""The run folder of a trained model: `model.safetensors` and `model.json`.

`model.json` holds everything needed to rebuild the model and prepare its inputs: method, bands,
statistics, classes, crop size. It repeats these facts as fields of the STAC machine learning model
extension, so that catalogues can list the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from terrafuse.classes import ClassScheme
from terrafuse.errors import (
    ChecksumError,
    ConfigError,
)
from terrafuse.weights.digests import digest
from terrafuse.weights.files import read_weights, write_tensors
from terrafuse.weights.run_info import (
    METRICS_JSON,
    MODEL_JSON,
    STATE_FILE,
    RunInfo,
    null_for_nan,
    read_run_info,
)
from terrafuse.writing import written_whole

#: Writes a file at a path.
Writer = Callable[[Path], None]


def save_model(folder: str | Path, state: Mapping[str, Tensor], info: RunInfo) -> None:
    """Write both files of a run folder; they appear whole and together, or not at all.

    Args:
        folder: Run folder; created if needed.
        state: `segmenter.state_dict()`, or the part of it that is not in the base weights.

    Raises:
        OutputError: The folder cannot be written, or the disk is full.
    """
    folder = Path(folder)
    with written_whole(folder / STATE_FILE, folder / MODEL_JSON) as (weights, description):
        write_tensors(weights, state, {"terrafuse": info.version})
        _write_json(description, replace(info, state_sha256=digest(weights)).to_dict())


def write_metrics(
    folder: str | Path, metrics: Mapping[str, Any], beside: Mapping[str, Writer] | None = None
) -> None:
    """Write `metrics.json` into a run folder, and the scores per subset into its `model.json`.

    Args:
        metrics: Results of an evaluation, with scores at `["subsets"][subset]["scores"]`.
        beside: Name of a file that belongs to them → what writes it; all appear together.

    Raises:
        WeightsError: The folder is not a run folder.
        OutputError: The folder cannot be written, or the disk is full.
    """
    info = read_run_info(folder)
    scores = {subset: dict(values["scores"]) for subset, values in metrics["subsets"].items()}
    described = {MODEL_JSON: lambda path: _write_json(path, replace(info, scores=scores).to_dict())}
    _write_scores(Path(folder) / METRICS_JSON, metrics, {**described, **(beside or {})})


def write_further_metrics(
    path: Path, metrics: Mapping[str, Any], beside: Mapping[str, Writer] | None = None
) -> Path:
    """Write scores that are not those of the run's own split beside `metrics.json`.

    Args:
        beside: As of `write_metrics`.

    Raises:
        OutputError: The folder cannot be written, or the disk is full.
    """
    _write_scores(path, metrics, beside or {})
    return path


def _write_scores(path: Path, metrics: Mapping[str, Any], beside: Mapping[str, Writer]) -> None:
    with written_whole(path, *(path.parent / name for name in beside)) as (found, *others):
        _write_json(found, metrics)
        for other, write in zip(others, beside.values(), strict=True):
            write(other)


def read_state(folder: str | Path, info: RunInfo | None = None) -> dict[str, Tensor]:
    """Read the state dict in a run folder.

    Args:
        folder: Run folder.
        info: Its description, if that has been read before.

    Raises:
        WeightsNotFoundError: The file is missing.
        WeightsError: The file is truncated or damaged.
        ChecksumError: It is not the file that `model.json` describes.
    """
    path = Path(folder) / STATE_FILE
    state = read_weights(path)  # first: a damaged file has a message of its own
    expected = (info or read_run_info(folder)).state_sha256
    found = expected and digest(path)
    if found != expected:
        raise ChecksumError(
            f"'{path}' is not the file that {MODEL_JSON} beside it describes: SHA-256 is {found}, "
            f"expected {expected}. The file was changed, or the two are of different runs: bring "
            "both from one run folder. If you changed the weights on purpose, set 'state_sha256' "
            f"in {MODEL_JSON} to null"
        )
    return state


def check_same_scheme(info: RunInfo, scheme: ClassScheme, where: str) -> None:
    """Refuse labels whose classes differ from the model's.

    Colours and raw codes may differ: they say how labels are stored, not what they mean.

    Args:
        scheme: Classes of the labels.
        where: Names the labels in the message ("manifest 'dataset.yaml'").

    Raises:
        ConfigError: Class names or their order differ.
    """
    if info.scheme.names == scheme.names:
        return
    order = " in another order" if set(info.scheme.names) == set(scheme.names) else ""
    raise ConfigError(
        f"{where} has the classes {', '.join(scheme.names)}{order}; the model was trained for "
        f"{', '.join(info.scheme.names)}. Use a manifest with the model's classes"
    )


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(
        null_for_nan(values), indent=2, ensure_ascii=False, allow_nan=False, default=str
    )
    path.write_text(text + "\n", encoding="utf-8")

"""Errors that a user can cause, as one tree.

Every class is also the built-in that a Python caller would expect (`except ValueError` keeps
working). A message says what is wrong, the value received, what is allowed and what to do; the
command line prints it without a traceback and exits with 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TerrafuseError(Exception):
    """Base of all errors that a user can cause and fix."""


class ConfigError(TerrafuseError, ValueError):
    """A setting in `run.yaml`, or on the command line, is wrong."""


class DataError(TerrafuseError, ValueError):
    """Rasters, labels or a manifest cannot be used."""


class SceneNotFoundError(DataError, LookupError):
    """A scene id or a split does not exist in the manifest."""


class RasterReadError(DataError, OSError):
    """A raster is missing, cannot be opened, or its pixels cannot be decoded."""


class GridMismatchError(DataError):
    """Rasters of one scene cannot be brought onto a common grid."""


class MissingModalityError(DataError, LookupError):
    """A modality is absent where it is required."""


class BandError(DataError):
    """A raster's bands differ from those its modality declares."""


class LabelError(DataError):
    """Labels contain values outside the class scheme, or nothing to train on."""


class ModelError(TerrafuseError, ValueError):
    """A model cannot be built or called with these arguments."""


class InputShapeError(ModelError):
    """Tensors passed to a model have wrong shapes or names."""


class UnknownNameError(ModelError, LookupError):
    """A method, backbone, decoder or option of that name does not exist."""


class WeightsError(TerrafuseError, ValueError):
    """Weights cannot be used."""


class WeightsNotFoundError(WeightsError, FileNotFoundError):
    """A weights file is not on disk and cannot be fetched."""


class WeightsMismatchError(WeightsError):
    """Weights belong to a different model or to another version of it."""


class ChecksumError(WeightsError):
    """A weights file is not the published one."""


class TrainingError(TerrafuseError, RuntimeError):
    """Training cannot start or continue."""


class StoppedError(TrainingError):
    """Training was stopped by Ctrl-C or SIGTERM and can be resumed."""


class OutputError(TerrafuseError, OSError):
    """A result cannot be written."""


class MissingDependencyError(TerrafuseError, ImportError):
    """An optional package is required but not installed."""


def unknown_name(kind: str, name: object, allowed: Iterable[str]) -> str:
    """Return the message for an unknown name, with the nearest known one.

    Args:
        kind: Kind of thing named, as a user would call it ("method", "key in 'data'").
    """
    names = sorted(str(candidate) for candidate in allowed)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"unknown {kind} '{name}'.{hint} Known: {', '.join(names) or 'none'}."

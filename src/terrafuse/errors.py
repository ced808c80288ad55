"""The errors a user can cause, as one tree.

Every class is also the built-in that a Python caller would expect (`except ValueError` keeps
working). A message says what is wrong, the value received, what is allowed and what to do; the
command line prints it without a traceback and exits with 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TerrafuseError(Exception):
    """Anything a user can cause and mend."""


class ConfigError(TerrafuseError, ValueError):
    """A setting in `run.yaml`, or on the command line, is wrong."""


class DataError(TerrafuseError, ValueError):
    """Rasters, labels or a manifest cannot be used as they are."""


class SceneNotFoundError(DataError, LookupError):
    """A scene id or a split does not exist in the manifest."""


class RasterReadError(DataError, OSError):
    """A raster is missing, cannot be opened, or its pixels cannot be decoded."""


class GridMismatchError(DataError):
    """Rasters of one scene cannot be brought onto one grid."""


class MissingModalityError(DataError, LookupError):
    """A modality is absent where it is required."""


class BandError(DataError):
    """A raster has other bands than its modality declares."""


class LabelError(DataError):
    """Labels contain values outside the class scheme, or nothing to learn from."""


class ModelError(TerrafuseError, ValueError):
    """A model cannot be built or called this way."""


class InputShapeError(ModelError):
    """A tensor handed to a model has the wrong shape or names."""


class UnknownNameError(ModelError, LookupError):
    """A method, backbone, decoder or option of that name does not exist."""


class WeightsError(TerrafuseError, ValueError):
    """Weights cannot be used."""


class WeightsNotFoundError(WeightsError, FileNotFoundError):
    """A weights file is not on disk and cannot be fetched."""


class WeightsMismatchError(WeightsError):
    """Weights belong to another model, or to another version of it."""


class ChecksumError(WeightsError):
    """A file of weights is not the published one."""


class TrainingError(TerrafuseError, RuntimeError):
    """Training cannot start or go on."""


class StoppedError(TrainingError):
    """Ctrl-C or SIGTERM stopped training, which can be gone on with."""


class OutputError(TerrafuseError, OSError):
    """A result cannot be written."""


class MissingDependencyError(TerrafuseError, ImportError):
    """An optional package is needed and not installed."""


class PluginError(TerrafuseError, ImportError):
    """Code from outside the package cannot be imported, or is not what it is named for."""


def unknown_name(kind: str, name: object, allowed: Iterable[str]) -> str:
    """Message for a name that does not exist, with the nearest one that does.

    Args:
        kind: What the name stands for, as a user would call it ("method", "key in 'data'").
        name: The value received.
        allowed: Every valid name.
    """
    names = sorted(str(candidate) for candidate in allowed)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"unknown {kind} '{name}'.{hint} Known: {', '.join(names) or 'none'}."

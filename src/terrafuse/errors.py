"""Errors that a user can cause, as one tree.

Every class is also the built-in that a Python caller would expect (`except ValueError` keeps
working). A message says what is wrong, the value received, what is allowed and what to do; the
command line prints it without a traceback and exits with 2.
"""

from __future__ import annotations

import difflib
import math
import struct
from collections.abc import Iterable

# Larger whole numbers are as well written with an exponent.
_MOST_WHOLE = 1e15


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
    """Training was stopped by Ctrl-C or SIGTERM and can be resumed.

    Args:
        event: Signal and place.
        remedy: How to go on.
    """

    def __init__(self, event: str, remedy: str = "") -> None:
        super().__init__(f"{event}; {remedy}" if remedy else event)
        self.event = event


class OutputError(TerrafuseError, OSError):
    """A result cannot be written."""


class MissingDependencyError(TerrafuseError, ImportError):
    """An optional package is required but not installed."""


class PluginError(TerrafuseError, ImportError):
    """Code from outside the package cannot be imported, or is not what it is named for."""


def exact_number(value: float) -> str:
    """A number as it can be written into a manifest: short, and no digit of it lost.

    A number that a float32 holds needs no more digits than tell it from other float32s.
    """
    if not math.isfinite(value):
        return {math.inf: ".inf", -math.inf: "-.inf"}.get(value, ".nan")
    if value == int(value) and abs(value) < _MOST_WHOLE:
        return str(int(value))
    single = _as_float32(value)
    same = (lambda other: _as_float32(other) == single) if single == value else value.__eq__
    text = next((t for n in range(1, 17) if same(float(t := f"{value:.{n}g}"))), repr(value))
    mantissa, e, exponent = text.partition("e")
    # YAML takes 1e+20 for a text.
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}{e}{exponent}"


def _as_float32(value: float) -> float:
    try:
        single: float = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.nan
    return single


def unknown_name(kind: str, name: object, allowed: Iterable[str]) -> str:
    """Return the message for an unknown name, with the nearest known one.

    Args:
        kind: Kind of thing named, as a user would call it ("method", "key in 'data'").
    """
    names = sorted(str(candidate) for candidate in allowed)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"unknown {kind} '{name}'.{hint} Known: {', '.join(names) or 'none'}."

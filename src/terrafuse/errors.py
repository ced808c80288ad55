"""Errors that a user can cause, as one tree.

Every class is also the built-in that a Python caller would expect (`except ValueError` keeps
working). A message says what is wrong, the value received, what is allowed and what to do; the
command line prints it without a traceback and exits with 2.
"""

from __future__ import annotations

import difflib
import errno
import math
import os
import reprlib
import struct
from collections.abc import Iterable
from pathlib import Path

# Larger whole numbers are as well written with an exponent.
_MOST_WHOLE = 1e15
# Characters of a value in a message, and names listed as known.
_MOST_SHOWN = 80
_MOST_KNOWN = 300


class TerrafuseError(Exception):
    """Base of all errors that a user can cause and fix."""

    #: Whether every process of a run tells it that meets it, not only the first of each machine.
    is_told_by_all = False


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


class NotEnoughMemoryError(TerrafuseError, MemoryError):
    """Work needs more memory than there is."""


class ScoresError(TerrafuseError, ValueError):
    """Results that are not there, damaged, or cannot be compared with each other."""


class OutputError(TerrafuseError, OSError):
    """A result cannot be written."""


class InUseError(OutputError):
    """Another process or thread writes there."""


class WorkerError(TerrafuseError, RuntimeError):
    """Processes that map a scene end before their work is done."""


class ServiceError(TerrafuseError, OSError):
    """A service refuses a request or cannot be reached, or a job there did not end well.

    Args:
        message: The service's own, where it has given one.
        status: HTTP's; None: there was no answer.
        retry_after: Seconds until another try makes sense.
    """

    def __init__(
        self, message: str, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


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


def cut(text: object, most: int = _MOST_SHOWN) -> str:
    """A text for a message: in one line, without control characters, of `most` characters."""
    whole = str(text)
    plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in whole[:most])
    return plain if len(whole) <= most else f"{plain[: most - 1]}…"


class _ShortRepr(reprlib.Repr):
    """`repr` of the beginning of a value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple = 3, 6, 8, 8
        self.maxstring = self.maxother = _MOST_SHOWN - 2

    def repr_int(self, x: int, level: int) -> str:
        """A number, or its length: Python refuses to write one of thousands of digits."""
        del level
        return str(x) if x.bit_length() < 4 * _MOST_SHOWN else f"a number of {x.bit_length()} bits"


def shown(value: object, most: int = 2 * _MOST_SHOWN) -> str:
    """`repr` of a value that a message repeats, cut: the value may be a whole file."""
    return cut(_ShortRepr().repr(value), most)


def first_line(error: BaseException) -> str:
    """Return the first line of a message, or the kind of the error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def unknown_name(kind: str, name: object, allowed: Iterable[str]) -> str:
    """Return the message for an unknown name, with the nearest known one.

    Args:
        kind: Kind of thing named, as a user would call it ("method", "key in 'data'").
    """
    names = sorted(str(candidate) for candidate in allowed)
    wanted = cut(name)
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    hint = f" Did you mean '{cut(near[0])}'?" if near else ""
    known = ", ".join(cut(known) for known in names[:_MOST_KNOWN]) or "none"
    more = f" … ({len(names)} in all)" if len(names) > _MOST_KNOWN else ""
    return f"unknown {kind} '{wanted}'.{hint} Known: {known}{more}."


def write_failure(error: BaseException, folder: Path) -> str:
    """Return why a file cannot be written, and what to do.

    Args:
        folder: Where it is to be.
    """
    lines = str(error).splitlines()
    reason = getattr(error, "strerror", None) or (lines[0] if lines else type(error).__name__)
    number = error.errno if isinstance(error, OSError) else None  # GDAL's numbers mean other things
    existing = next((p for p in (folder, *folder.absolute().parents) if p.exists()), folder)
    if number == errno.EROFS:
        remedy = "The file system is read-only; choose another folder"
    elif number == errno.ENAMETOOLONG:
        remedy = "Choose a shorter name"
    elif number in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ELOOP):
        remedy = "Choose another folder"
    elif number in (errno.EACCES, errno.EPERM) or not os.access(existing, os.W_OK | os.X_OK):
        remedy = f"Give yourself permission to write in '{existing}', or choose another folder"
    else:
        remedy = "Free space, or choose another folder"
    return f"{reason}. {remedy}"

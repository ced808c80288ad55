"""GDAL's settings, and a bounded pool of open rasters per process."""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

# GDAL reads these when it is first used, hence before rasterio is. A user's own setting wins.
os.environ.setdefault("GDAL_CACHEMAX", "256")  # MB of decoded blocks; the default is 5 % of RAM
os.environ.setdefault("GDAL_DISABLE_READDIR_ON_OPEN", "TRUE")  # folders may hold 10⁵ files
# What GDAL prints to stderr by itself. Errors reach us all the same, and warnings the logger.
os.environ.setdefault("CPL_LOG", os.devnull)
# The fast path for whole images reads what a truncated PNG lacks as 0, without an error.
os.environ["GDAL_PNG_WHOLE_IMAGE_OPTIM"] = "NO"
# Warp block by block on a fixed grid: pixels do not depend on the window they are read in, and
# overlapping windows share blocks. (Not for users to override: results depend on it.)
os.environ["GDAL_VRT_WARP_USE_DATASET_RASTERIO"] = "NO"

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio._env import get_gdal_config, set_gdal_config
from rasterio._err import CPLE_BaseError  # what failures inside GDAL arrive as
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from terrafuse.data.names import is_remote
from terrafuse.data.remote import HTTP_SETTINGS, OPENING
from terrafuse.data.stored import RAW_PREFIX, open_stored, plain_path
from terrafuse.errors import RasterReadError, TerrafuseError

for _key, _value in HTTP_SETTINGS.items():  # read at every request
    os.environ.setdefault(_key, _value)

DEFAULT_LIMIT = 128
#: All that a call of rasterio fails with. SystemError: GDAL gave no reason; CRSError: of a CRS that
#: is none; UnicodeDecodeError: a text in the file is not UTF-8.
GDAL_FAILURES = (
    RasterioError,
    CPLE_BaseError,
    CRSError,
    SystemError,
    UnicodeDecodeError,
)
_LONGEST_REASON = 300


# Libraries below GDAL that print what they cannot tell it: functions that stop them, and arguments.
_PRINTING: dict[str, tuple[tuple[str, ...], tuple[int | None, ...]]] = {
    "/libtiff": (("TIFFSetErrorHandler",), (None,)),
    "/libproj": (("proj_log_level", "internal_proj_log_level"), (None, 0)),
}


def _silence_libraries() -> None:
    """Keep libtiff and PROJ from printing to stderr; calls that fail do so all the same."""
    with suppress(OSError):  # no Linux
        maps = Path("/proc/self/maps").read_text(errors="replace").splitlines()
        for path in {line.split(maxsplit=5)[-1] for line in maps if ".so" in line}:
            for part, (names, arguments) in _PRINTING.items():
                if part in path:
                    library = ctypes.CDLL(path)
                    for name in (name for name in names if hasattr(library, name)):
                        getattr(library, name)(*arguments)


_silence_libraries()

#: Held by whoever changes the warning filter, which all threads share.
warning_filter = threading.RLock()


class HandlePool:
    """A pool of open rasters, at most `limit`; the least recently used is closed first.

    A handle belongs to one thread at a time (GDAL's are not thread-safe): two threads that read
    one file hold two handles. After a fork the child opens its own: file positions are shared
    with the parent otherwise.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self.limit = limit
        self._idle: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
            os.register_at_fork(after_in_child=self._forget)

    @contextmanager
    def borrow(self, spec: str) -> Iterator[Any]:
        """Yield an open rasterio dataset of the samples that a file stores (see `stored`).

        Args:
            spec: Path, GDAL path ("/vsicurl/…") or VRT document.

        Raises:
            RasterReadError: The raster cannot be opened, or GDAL failed at what was done with it.
        """
        with self._lock:
            dataset = self._idle.pop(spec, None)
        if dataset is None:
            dataset = _open(spec)
        try:
            yield dataset
        except GDAL_FAILURES as error:
            with suppress(*GDAL_FAILURES):
                dataset.close()  # in whatever state it is
            if isinstance(error, TerrafuseError):
                raise
            raise RasterReadError(explain_failure(error)) from error
        except BaseException:
            self._give_back(spec, dataset)
            raise
        self._give_back(spec, dataset)

    def close(self, specs: Iterable[str] | None = None) -> None:
        """Close idle handles, all or those of `specs`."""
        with self._lock:
            names = list(self._idle) if specs is None else specs
            found = [self._idle.pop(name) for name in names if name in self._idle]
        for dataset in found:
            dataset.close()

    def forget(self, path: str) -> None:
        """Close idle handles of `path`, alone or within a VRT document: the file may be new."""
        with self._lock:
            names = [name for name in self._idle if path in name]
        self.close(names)

    def __len__(self) -> int:
        return len(self._idle)

    def _give_back(self, spec: str, dataset: Any) -> None:
        surplus = []
        with self._lock:
            if spec in self._idle:
                surplus.append(dataset)
            else:
                self._idle[spec] = dataset
            while len(self._idle) > self.limit:
                surplus.append(self._idle.popitem(last=False)[1])
        for handle in surplus:
            handle.close()

    def _forget(self) -> None:
        # Neither closed nor freed: both would touch state shared with the parent.
        _abandoned.append(self._idle)
        self._idle = OrderedDict()
        self._lock = threading.Lock()


def explain_failure(error: BaseException) -> str:
    """What GDAL says about a failure of a call of rasterio, without a full stop."""
    if isinstance(error, SystemError):
        return "GDAL failed without giving a reason"
    if isinstance(error, UnicodeDecodeError):
        return "a text in the file is not UTF-8"
    cause = error.__cause__ if isinstance(error.__cause__, CPLE_BaseError) else None
    text = " ".join(str(cause or error).split()).rstrip(".")
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} …"


_abandoned: list[Any] = []
pool = HandlePool()


def limit_resources(*, cache_mb: int, open_files: int | None = None) -> None:
    """Limit cache and open files of this process, for workers, of which there are many.

    Args:
        cache_mb: GDAL's cache of decoded blocks, in MB.
        open_files: Maximum number of open handles; None leaves the limit.
    """
    set_gdal_config("GDAL_CACHEMAX", cache_mb * 2**20)
    if open_files is not None:
        pool.limit = open_files


def cache_limit() -> int:
    """Return the limit of GDAL's cache of decoded blocks in this process, in bytes."""
    return int(get_gdal_config("GDAL_CACHEMAX"))


@contextmanager
def block_cache(size: int, *, enlarge: bool = False) -> Iterator[None]:
    """Limit GDAL's cache of decoded blocks for a while.

    Args:
        size: Bytes.
        enlarge: Whether it becomes `size` where the limit was smaller; otherwise that stays.
    """
    before = cache_limit()
    set_gdal_config("GDAL_CACHEMAX", size if enlarge else min(before, size))
    try:
        yield
    finally:
        set_gdal_config("GDAL_CACHEMAX", before)


def read_bands(
    dataset: Any,
    indexes: Sequence[int],
    window: RasterWindow | None = None,
    shape: tuple[int, int] | None = None,
) -> NDArray[Any]:
    """Bands (C, h, w) of a borrowed dataset, be they of several dtypes: in one that holds all.

    Args:
        dataset: What the pool gave.
        indexes: 1-based numbers.
        window: Pixels to read; None = all.
        shape: Rows and columns to pick from them, evenly, if not all.
    """
    dtypes = {
        np.dtype(dataset.dtypes[i - 1].replace("complex_int16", "complex64")) for i in indexes
    }
    if len(dtypes) < 2:
        size = shape and (len(indexes), *shape)
        values: NDArray[Any] = dataset.read(list(indexes), window=window, out_shape=size)
        return values
    # rasterio reads bands of one dtype at once.
    common = np.result_type(*dtypes)
    bands = [dataset.read(i, window=window, out_shape=shape).astype(common) for i in indexes]
    return np.stack(bands)


def transform_of(dataset: Any) -> Affine:
    """Return the transform of a borrowed dataset.

    GDAL leaves it undefined (whatever is in memory) for a file without one that is opened with the
    prefix "GTIFF_RAW:". It is then read from the file without the prefix.
    """
    if not dataset.name.startswith(RAW_PREFIX):
        return Affine(*dataset.transform[:6])
    with without_warnings(), rasterio.open(plain_path(dataset.name)) as plain:
        return Affine(*plain.transform[:6])


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence rasterio where there is no georeference, one thread at a time."""
    with warning_filter, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _is_far(spec: str) -> bool:
    return not spec.startswith("<") and is_remote(spec)


def _open(spec: str) -> Any:
    remote = rasterio.Env(**OPENING)
    try:
        with without_warnings(), remote if _is_far(spec) else nullcontext():
            return open_stored(spec)
    except RecursionError:
        raise RasterReadError(
            "it names files that name files, deeper than can be followed"
        ) from None
    except (*GDAL_FAILURES, OSError) as error:
        raise RasterReadError(explain_failure(error)) from error

"""GDAL's settings, and a bounded pool of open rasters per process."""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

# GDAL reads these when it is first used, hence before rasterio is. A user's own setting wins.
os.environ.setdefault("GDAL_CACHEMAX", "256")  # MB of decoded blocks; the default is 5 % of RAM
os.environ.setdefault("GDAL_DISABLE_READDIR_ON_OPEN", "TRUE")  # folders may hold 10⁵ files
# Warp block by block on a fixed grid: pixels do not depend on the window they are read in, and
# overlapping windows share blocks. (Not for users to override: results depend on it.)
os.environ["GDAL_VRT_WARP_USE_DATASET_RASTERIO"] = "NO"

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio._env import set_gdal_config
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from terrafuse.data.names import is_remote
from terrafuse.data.stored import RAW_PREFIX, open_stored, plain_path
from terrafuse.errors import RasterReadError

DEFAULT_LIMIT = 128
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
            RasterReadError: The raster cannot be opened.
        """
        with self._lock:
            dataset = self._idle.pop(spec, None)
        if dataset is None:
            dataset = _open(spec)
        try:
            yield dataset
        finally:
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
    with _without_warnings(), rasterio.open(plain_path(dataset.name)) as plain:
        return Affine(*plain.transform[:6])


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warning_filter, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _is_far(spec: str) -> bool:
    return not spec.startswith("<") and is_remote(spec)


def _open(spec: str) -> Any:
    # On remote storage, every search for a sidecar file costs a request.
    remote = rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR")
    try:
        with _without_warnings(), remote if _is_far(spec) else nullcontext():
            return open_stored(spec)
    except (RasterioError, OSError) as error:
        raise RasterReadError(str(error)) from error

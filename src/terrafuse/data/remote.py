"""Rasters on servers: GDAL's settings for them, their state, and what to do about failures."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from terrafuse.data.names import gdal_path, is_remote
from terrafuse.errors import RasterReadError

T = TypeVar("T")

#: GDAL's settings of what it asks servers for. They change nothing about files on this disk.
HTTP_SETTINGS = {
    # Of 429, 502, 503, 504, lost connections and those that are not made in time; the pause grows
    # each time, by 2 to 2.5.
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    # By default GDAL waits for five minutes for a connection, and for ever for an answer. With the
    # tries above and below, a host that swallows all is given up after about 30 s.
    "GDAL_HTTP_CONNECTTIMEOUT": "4",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "GDAL_HTTP_LOW_SPEED_TIME": "10",
}
#: Settings while a file on a server is opened. Every search for a side-car costs a request; the
#: header of a large COG has more than the 16 KiB of GDAL's first request.
OPENING = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_INGESTED_BYTES_AT_OPEN": "32768"}
# Pauses before a read that failed is tried again, in seconds: what GDAL gave up, or does not retry
# (an answer that ends early).
_PAUSES = (0.5, 2.0)
# What a server says of a file that it will not give, whenever it is asked; and GDAL, of one that it
# has tried several times to connect to.
_FOR_GOOD = (
    "code: 400", "code: 401", "code: 403", "code: 404", "code: 405", "code: 410", "timed out",
)  # fmt: skip

# Words in GDAL's reason → what to do.
_ADVICE: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("code: 401", "code: 403", "Credential", "AccessDenied"),
        "The server gives it to those who sign in: set what GDAL reads (AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or AWS_NO_SIGN_REQUEST=YES, for s3://; GDAL_HTTP_USERPWD or "
        "GDAL_HTTP_HEADERS for https://), or give a signed URL that has not expired",
    ),
    (
        ("code: 404", "code: 410", "does not exist"),
        "The server has no such file: correct the URL",
    ),
    (
        ("Range downloading",),
        "Its server sends files only as a whole, so that no window can be read: download it, and "
        "give the file",
    ),
    (
        ("resolve", "connect", "timed out", "Timeout", "SSL", "too slow"),
        "Correct the name of the host, or try again when it can be reached",
    ),
    (
        ("code: 429", "code: 5"),
        "The server was asked several times: try again later",
    ),
)
_HEADERS = ("ETag", "Last-Modified")


def advise(reason: str) -> str:
    """What to do about a file on a server that GDAL cannot open or read; "" if nobody knows.

    Args:
        reason: What GDAL says.
    """
    return next((todo for words, todo in _ADVICE if any(word in reason for word in words)), "")


def read_patiently(read: Callable[[], T], name: str) -> T:
    """The result of `read`; of a file on a server it is tried again where that fails for a while.

    Args:
        read: Opens the file, if need be, and reads.
        name: File, URL or GDAL path.

    Raises:
        RasterReadError: The last failure.
    """
    for pause in _PAUSES if is_remote(name) else ():
        try:
            return read()
        except RasterReadError as error:
            if any(words in str(error) for words in _FOR_GOOD):
                raise
        time.sleep(pause * _patience())
        forget(name)
    return read()


def _patience() -> float:
    """Pauses as a share of ours, where a user has set GDAL's."""
    try:
        delay = float(os.environ.get("GDAL_HTTP_RETRY_DELAY", ""))
    except ValueError:
        return 1.0
    return delay / float(HTTP_SETTINGS["GDAL_HTTP_RETRY_DELAY"])


def forget(name: str) -> None:
    """Let GDAL forget what it has of a file on a server: it may have changed."""
    gdal = _gdal()
    path = gdal_path(name)
    if gdal is not None and path.startswith("/vsi"):
        gdal.VSICurlPartialClearCache(path.encode())


def state(name: str) -> tuple[str | int, ...]:
    """What tells that a file is another one than before: size and time, or what a server says.

    Args:
        name: File, URL or GDAL path.

    Raises:
        OSError: A file on this disk that is not there.
    """
    if not is_remote(name):
        about = Path(name).stat()
        return name, about.st_size, about.st_mtime_ns
    found = {key.lower(): value for key, value in _headers(gdal_path(name))}
    size = found.get("content-range", "").rpartition("/")[2] or found.get("content-length", "")
    return (_without_signature(name), size, *(found.get(key.lower(), "") for key in _HEADERS))


def _without_signature(url: str) -> str:
    """A URL without its query, which differs each time that it is signed."""
    return url.partition("?")[0]


def _headers(path: str) -> list[tuple[str, str]]:
    """The headers of a server's answer about a file."""
    gdal = _gdal()
    if gdal is None:
        return []
    found = gdal.VSIGetFileMetadata(path.encode(), b"HEADERS", None)
    pairs = []
    for number in range(1000):
        if not found or not found[number]:
            break
        key, _, value = found[number].decode(errors="replace").partition("=")
        pairs.append((key, value))
    gdal.CSLDestroy(found)
    return pairs


@cache
def _gdal() -> Any:
    """The GDAL of rasterio, for what rasterio has no function for; None where it is not found."""
    for path in _libraries():
        try:
            library = ctypes.CDLL(path)
            library.VSIGetFileMetadata.restype = ctypes.POINTER(ctypes.c_char_p)
            library.VSIGetFileMetadata.argtypes = [
                ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p,
            ]  # fmt: skip
            library.VSICurlPartialClearCache.argtypes = [ctypes.c_char_p]
            library.CSLDestroy.argtypes = [ctypes.POINTER(ctypes.c_char_p)]
        except (OSError, AttributeError):
            continue
        return library
    return None


def _libraries() -> list[str]:
    """Files of GDAL, that of rasterio first: other packages bring their own."""
    import rasterio

    package = Path(rasterio.__file__).parent
    beside = [*package.parent.glob("rasterio.libs/*gdal*"), *package.glob(".dylibs/libgdal*")]
    try:
        maps = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    except OSError:  # no Linux
        maps = []
    loaded = {line.split(maxsplit=5)[-1] for line in maps if "/libgdal" in line}
    return [*map(str, beside), *sorted(loaded)]

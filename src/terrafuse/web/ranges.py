"""Files, whole or by ranges of their bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from fastapi import Request
from fastapi.responses import FileResponse

from terrafuse.errors import cut
from terrafuse.web.refusals import Refusal

# Few enough for any server to sort: early versions of Starlette take long for many.
_RANGES = re.compile(
    r"bytes=\s*(\d{1,18}-\d{0,18}|-\d{1,18})(\s*,\s*(\d{1,18}-\d{0,18}|-\d{1,18})){0,31}"
)


def send_file(
    request: Request, path: Path, media_type: str, headers: Mapping[str, str] | None = None
) -> FileResponse:
    """The answer with a file, or with the parts of it that are asked for.

    Raises:
        Refusal: 416: the header names no ranges of bytes.
    """
    wanted = request.headers.get("range")
    if wanted is not None and not _is_range(wanted):
        raise Refusal(416, f"'{cut(wanted)}' is no range of bytes, such as bytes=0-1023")
    return FileResponse(path, media_type=media_type, headers=headers)


def _is_range(text: str) -> bool:
    """Tell whether a header names ranges of bytes, none of which ends before it begins."""
    if not _RANGES.fullmatch(text):
        return False
    pairs = (one.strip().split("-") for one in text.partition("=")[2].split(","))
    return all(not (first and last) or int(first) <= int(last) for first, last in pairs)

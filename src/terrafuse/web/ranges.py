"""Files, whole or by ranges of their bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from fastapi import Request
from fastapi.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from terrafuse.errors import cut
from terrafuse.web.refusals import Refusal, fault

# Few enough for any server to sort: early versions of Starlette take long for many.
_RANGES = re.compile(
    r"bytes=\s*(\d{1,18}-\d{0,18}|-\d{1,18})(\s*,\s*(\d{1,18}-\d{0,18}|-\d{1,18})){0,31}"
)


def send_file(
    request: Request,
    path: Path,
    media_type: str,
    headers: Mapping[str, str] | None = None,
    *,
    gone: str,
) -> FileResponse:
    """The answer with a file, or with the parts of it that are asked for.

    Args:
        gone: What is said where it was removed, also before its first byte is sent.

    Raises:
        Refusal: 416: the header names no ranges of bytes.
    """
    wanted = request.headers.get("range")
    if wanted is not None and not _is_range(wanted):
        raise Refusal(416, f"'{cut(wanted)}' is no range of bytes, such as bytes=0-1023")
    answer = _SentFile(path, media_type=media_type, headers=headers)
    answer.gone = gone
    return answer


class _SentFile(FileResponse):
    """A file, or 404 where it has gone since it was looked for."""

    gone = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        has_begun = False

        async def send_noting(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await super().__call__(scope, receive, send_noting)
        except (RuntimeError, FileNotFoundError):  # Starlette says RuntimeError
            if has_begun or self._is_there():
                raise
            await fault(404, self.gone)(scope, receive, send)

    def _is_there(self) -> bool:
        try:
            with Path(self.path).open("rb"):
                return True
        except OSError:
            return False


def _is_range(text: str) -> bool:
    """Tell whether a header names ranges of bytes, none of which ends before it begins."""
    if not _RANGES.fullmatch(text):
        return False
    pairs = (one.strip().split("-") for one in text.partition("=")[2].split(","))
    return all(not (first and last) or int(first) <= int(last) for first, last in pairs)

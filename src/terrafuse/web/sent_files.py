"""Files as answers: one that is removed while it is asked for is a refusal, and no failure."""

from __future__ import annotations

from fastapi.responses import FileResponse, JSONResponse
from starlette.types import Message, Receive, Scope, Send


class SentFile(FileResponse):
    """A file, or 404 where it has gone since it was looked for.

    Args of `FileResponse`; set `gone` to what is said then.
    """

    gone = "the file was removed meanwhile"

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
            await JSONResponse({"error": self.gone}, 404)(scope, receive, send)

    def _is_there(self) -> bool:
        try:
            with open(self.path, "rb"):  # noqa: PTH123 - a path or a text
                return True
        except OSError:
            return False

"""A web server on loopback that answers ranges, counts what it gives, and fails as told to."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from loopback import serving_by


@dataclass
class RangeServer:
    """What a server does, and what it was asked.

    Args:
        folder: The files it serves.
        fails_every: Each so-manyth request is answered by 503; 0 = none is.
        refuses: Status that every request is answered with; 0 = none is.
        authorization: Header of that name that every request must have; "" = none.
        ranges: Whether it answers ranges; otherwise it always sends the whole file.
        requests: Method, path and range of each request.
        sent: Bytes of the bodies sent.
    """

    folder: Path
    fails_every: int = 0
    refuses: int = 0
    authorization: str = ""
    ranges: bool = True
    address: str = ""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    sent: int = 0
    failed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, path: Path | str) -> str:
        """The URL of a file of the folder."""
        return f"http://{self.address}/{Path(path).as_posix()}"

    @staticmethod
    def tag(content: bytes) -> str:
        """The ETag of a file."""
        return f'"{hashlib.sha256(content).hexdigest()[:16]}"'

    def forget(self) -> None:
        """Count from 0 again."""
        self.requests.clear()
        self.sent = self.failed = 0

    def note(self, method: str, path: str, wanted: str) -> int:
        """Note a request; return the status to refuse it with, or 0."""
        with self._lock:
            self.requests.append((method, path, wanted))
            if self.refuses:
                return self.refuses
            if self.fails_every and len(self.requests) % self.fails_every == 0:
                self.failed += 1
                return 503
            return 0


@contextmanager
def serving(folder: Path) -> Iterator[RangeServer]:
    """Serve the files of a folder."""
    about = RangeServer(folder)

    class Handler(_Handler):
        served = about

    with serving_by(Handler) as address:
        about.address = address
        yield about


class _Handler(BaseHTTPRequestHandler):
    served: RangeServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        wanted = self.headers.get("Range", "")
        status = self.served.note(self.command, path, wanted)
        if self.served.authorization not in ("", self.headers.get("Authorization")):
            status = 401
        file = self.served.folder / path
        if status or not file.is_file():
            self._send(status or 404, b"", {}, body=body)
            return
        content = file.read_bytes()
        headers = {"ETag": self.served.tag(content)}
        if self.served.ranges:
            headers["Accept-Ranges"] = "bytes"
            if wanted:
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                start, stop = int(first), min(int(last or len(content)), len(content) - 1) + 1
                if start >= len(content):
                    self._send(416, b"", headers, body=body)
                    return
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
                self._send(206, content[start:stop], headers, body=body)
                return
        self._send(200, content, headers, body=body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            with self.served._lock:
                self.served.sent += len(content)
            try:
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

"""Settings of access."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from terrafuse.web.access.tokens import check_host

#: Addresses that answer without a token: whether the service lives, and where to give one.
OPEN_PATHS = ("/health", "/ready", "/login")


@dataclass(frozen=True)
class Access:
    """Who may ask, and how much.

    Args:
        host: Address that the server listens on.
        names: Further names by which browsers reach it, as behind a reverse proxy.
        tokens: File of tokens; None: everyone on this machine is the user "local".
        requests_per_second: That a user may make in the long run; None: any number without
            tokens, 100 with them.
        burst: Requests that may come at once.
        body_bytes: Most of a request, but for uploads.
        upload_bytes: Most of an upload.

    Raises:
        ConfigError: Other machines are let in and there is no token.
    """

    host: str = "127.0.0.1"
    names: tuple[str, ...] = ()
    tokens: Path | None = None
    requests_per_second: float | None = None
    burst: int = 400
    body_bytes: int = 1 << 20
    upload_bytes: int = 2 << 30

    def __post_init__(self) -> None:
        check_host(self.host, self.tokens)

    @property
    def rate(self) -> float | None:
        """Requests per second and user; None: any number."""
        if self.requests_per_second is None and self.tokens is not None:
            return 100.0
        return self.requests_per_second

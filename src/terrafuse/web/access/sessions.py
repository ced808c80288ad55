"""Browsers that are logged in."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from terrafuse.web.access.tokens import hash_token

COOKIE = "terrafuse_session"
_MOST = 10_000


@dataclass
class Sessions:
    """Sessions in memory: they end with the server, with the token, or by time.

    Args:
        hours: Until a browser has to log in again.
    """

    hours: float = 12.0
    clock: Callable[[], float] = time.monotonic
    _users: dict[str, tuple[str, float]] = field(default_factory=dict, init=False)

    def begin(self, name: str) -> str:
        """Begin one for a user; returns the value of the cookie."""
        if len(self._users) >= _MOST:
            now = self.clock()
            self._users = {key: u for key, u in self._users.items() if u[1] > now}
            while len(self._users) >= _MOST:
                del self._users[next(iter(self._users))]  # the oldest
        value = secrets.token_urlsafe(32)
        self._users[hash_token(value)] = (name, self.clock() + 3600 * self.hours)
        return value

    def name(self, value: str) -> str | None:
        """Whose session it is; None: nobody's.

        Found by its hash: what a search's time tells of a hash leads to no value.
        """
        name, until = self._users.get(hash_token(value), ("", 0.0)) if value else ("", 0.0)
        return name if name and self.clock() < until else None

    def end(self, value: str) -> None:
        """Forget one."""
        self._users.pop(hash_token(value), None)

"""Who asks: what a request's user may do, and how much at once."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request


@dataclass(frozen=True)
class User:
    """Whoever sends a request.

    Args:
        name: Of the token; "local" where there are no tokens.
        may: Of "priority" (above 0), "upload", "urls" and "all" (the jobs of others).
        max_queued: Jobs that wait or run at once; None: the service's.
        max_running: Jobs that run at once; None: the service's.
    """

    name: str = "local"
    may: frozenset[str] = frozenset(("priority", "upload", "urls", "all"))
    max_queued: int | None = None
    max_running: int | None = None


#: Of a service on loopback without tokens.
LOCAL = User()


def current_user(request: Request) -> User:
    """The user of a request, as access control has found out; a dependency of all routes."""
    user: User | None = getattr(request.state, "user", None)
    return user or LOCAL

"""Who asks, for endpoints; and what somebody may."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import Request

from terrafuse.web.access.tokens import LOCAL, Right, User
from terrafuse.web.refusals import Refusal

#: What a right is for, as messages say it.
_FOR: dict[Right, str] = {
    "priority": "jobs before those of others",
    "upload": "rasters that are sent",
    "urls": "rasters by address",
    "all": "jobs of others",
}


def current_user(request: Request) -> User:
    """The user of a request, as access control has found out; a dependency of all routes.

    Raises:
        Refusal: 401: nobody, at an address that is open to all.
    """
    user: User | None = getattr(request.state, "user", LOCAL)
    if user is None:
        raise Refusal(401, "no valid token was given. Send one as 'Authorization: Bearer TOKEN'")
    return user


def is_let_in(request: Request) -> bool:
    """Whether who asked would be let in now: tokens are removed while long answers are sent."""
    check: Callable[[], bool] | None = getattr(request.state, "is_let_in", None)
    return check is None or check()


def require(user: User, right: Right) -> None:
    """Refuse what a user may not.

    Raises:
        Refusal: 403.
    """
    if right not in user.may:
        raise Refusal(
            403,
            f"the token of '{user.name}' does not allow {_FOR[right]}. Ask whoever runs the "
            f"service for one that was made with --may {right}",
        )


def sees(user: User, owner: str | None) -> bool:
    """Whether a user may know of the jobs of another one; None: of everybody's."""
    return user.name == owner or "all" in user.may

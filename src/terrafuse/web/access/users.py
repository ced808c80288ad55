"""Who asks, for endpoints; and what somebody may."""

from __future__ import annotations

from fastapi import HTTPException, Request

from terrafuse.web.access.tokens import LOCAL, Right, User

#: What a right allows, as messages say it.
_DEEDS: dict[Right, str] = {
    "priority": "put jobs before those of others",
    "upload": "send rasters",
    "urls": "name rasters by address",
}


def current_user(request: Request) -> User:
    """Who asks, as the access middleware found out; "local" where there is none."""
    user: User | None = getattr(request.state, "user", LOCAL)
    if user is None:  # an address that is open to all
        raise HTTPException(401, "no valid token was given. Send 'Authorization: Bearer TOKEN'")
    return user


def require(user: User, right: Right) -> None:
    """Refuse what a user may not.

    Raises:
        HTTPException: 403.
    """
    if right not in user.may:
        raise HTTPException(
            403,
            f"the token of '{user.name}' may not {_DEEDS[right]}. Ask whoever runs the service for "
            f"one that was made with --may {right}",
        )

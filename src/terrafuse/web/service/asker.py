"""`GET /api/me`: who asks, for pages that show only what somebody may."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends

from terrafuse.web.access.tokens import LOCAL, User
from terrafuse.web.access.users import current_user
from terrafuse.web.service.messages import Message


class Asker(Message):
    """Who asks.

    Args:
        name: Of the token; "local" without tokens.
        may: Of "priority", "upload", "urls", "all".
        url_hosts: Whose rasters and STAC items they may name by address.
        has_session: Whether there is anything to sign out of.
    """

    name: str
    may: tuple[str, ...]
    url_hosts: tuple[str, ...]
    has_session: bool


def asker_router(url_hosts: Sequence[str]) -> APIRouter:
    """The route.

    Args:
        url_hosts: Those whose addresses this service reads.
    """
    router = APIRouter()

    @router.get("/api/me")
    def show_asker(user: Annotated[User, Depends(current_user)]) -> Asker:
        """Who asks, and what they may."""
        return Asker(
            name=user.name,
            may=tuple(sorted(user.may)),
            url_hosts=tuple(url_hosts) if "urls" in user.may else (),
            has_session=user.name != LOCAL.name,
        )

    return router

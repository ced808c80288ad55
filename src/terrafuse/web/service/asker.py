"""`GET /api/me`: who asks, for pages that show only what somebody may."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from terrafuse.web.access.tokens import LOCAL, User
from terrafuse.web.access.users import current_user
from terrafuse.web.service.messages import Message

router = APIRouter()


class Asker(Message):
    """Who asks.

    Args:
        name: Of the token; "local" without tokens.
        may: Of "priority", "upload", "urls", "all".
        has_session: Whether there is anything to sign out of.
    """

    name: str
    may: tuple[str, ...]
    has_session: bool


@router.get("/api/me")
def show_asker(user: Annotated[User, Depends(current_user)]) -> Asker:
    """Who asks, and what they may."""
    may = tuple(sorted(user.may))
    return Asker(name=user.name, may=may, has_session=user.name != LOCAL.name)

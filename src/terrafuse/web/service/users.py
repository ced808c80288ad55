"""Who asks, as access control has found out; what routes and queue need of it."""

from __future__ import annotations

from terrafuse.web.access.tokens import LOCAL, User
from terrafuse.web.access.users import current_user, require

__all__ = ["LOCAL", "User", "current_user", "require", "sees"]


def sees(user: User, owner: str) -> bool:
    """Whether a user may know of a job: of the own ones, without tokens of all."""
    return user.name in (owner, LOCAL.name)

"""Who asks, as access control has found out."""

from __future__ import annotations

from terrafuse.web.access.tokens import LOCAL, User
from terrafuse.web.access.users import current_user, require

__all__ = ["LOCAL", "User", "current_user", "require", "sees"]


def sees(user: User, owner: str | None) -> bool:
    """Whether a user may know of the jobs of another one; None: of everybody's."""
    return user.name == owner or "all" in user.may

"""Who may ask, for what, and how much: tokens, limits, headers, allowed folders, uploads."""

from __future__ import annotations

from terrafuse.web.access.tokens import LOCAL, TokenFile, User, add_token

__all__ = ["LOCAL", "TokenFile", "User", "add_token"]

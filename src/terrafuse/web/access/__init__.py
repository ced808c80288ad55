"""Who may ask, and how much: tokens, sessions, limits, headers."""

from __future__ import annotations

__all__: list[str] = []

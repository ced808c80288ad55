"""Who may ask, for what, and how much: tokens, limits, headers, allowed folders, uploads."""

from __future__ import annotations

__all__: list[str] = []

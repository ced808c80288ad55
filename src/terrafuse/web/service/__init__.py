"""Jobs over HTTP: maps made by trained models."""

from __future__ import annotations

__all__: list[str] = []

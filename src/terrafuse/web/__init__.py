"""The same over HTTP: the viewer, the service, and the page of both."""

from __future__ import annotations

__all__: list[str] = []

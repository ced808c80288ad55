"""Messages without the server's own paths and secrets: what a user named, stays."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from terrafuse.web.access.secrets import hide
from terrafuse.web.service.messages import JobRequest

# At least two parts, and not within an address.
_PATH = re.compile(r"(?<![\w:/.])/(?:[^\s'\"/:;,]+/)+([^\s'\"/:;,]*)")
_QUERY = re.compile(r"(https?://[^\s'\"?]+)\?[^\s'\",]+")


class Veil:
    """What may be said to users.

    Args:
        names: Path on the server → what to call it.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        # Longer ones first: a folder's path is the beginning of its files'.
        self._names = sorted(names.items(), key=lambda item: -len(item[0]))

    def __call__(self, text: str) -> str:
        """Take paths and secrets out of a text."""
        for path, name in self._names:
            text = text.replace(path, name)
        text = _PATH.sub(lambda match: f"…/{match[1]}" if match[1] else "…", text)
        return hide(_QUERY.sub(r"\1?…", text))


def names_given(request: JobRequest, rasters: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Resolved path → what the request calls it."""
    found: dict[str, str] = {}
    for modality, paths in rasters.items():
        given = request.rasters.get(modality, [])
        names = [given] if isinstance(given, str) else given
        pairs = zip(paths, names, strict=False)
        found |= {path: name for path, name in pairs if Path(path).is_absolute()}
    return found

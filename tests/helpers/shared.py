"""Where the real data for trying out lies; it is not part of the repository."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared"


def shared_data(name: str) -> Path:
    """Folder of a real data set; skips the test where it is absent."""
    folder = SHARED / "data" / name
    if not folder.exists():
        pytest.skip(f"real data set '{name}' is not beside this checkout")
    return folder

"""Folder of the real data for trying out, which is not part of the repository."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared"


def shared_data(name: str) -> Path:
    """Find the folder of a real data set; skip the test where it is absent."""
    folder = SHARED / "data" / name
    if not folder.exists():
        pytest.skip(f"real data set '{name}' is not beside this checkout")
    return folder

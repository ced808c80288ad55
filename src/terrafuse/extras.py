"""Optional packages, installed by an extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from terrafuse.errors import MissingDependencyError


@contextmanager
def from_extra(extra: str, what: str) -> Iterator[None]:
    """Import packages of an extra; if one is missing, the error names the extra to install.

    Args:
        extra: A key of `optional-dependencies` in pyproject.toml.
        what: Feature that needs the package, as a user would call it ("backbone 'mit_b0'").

    Raises:
        MissingDependencyError: A package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{what} needs the package '{error.name}', which is not installed. "
            f"Run: pip install 'terrafuse[{extra}]'"
        ) from error

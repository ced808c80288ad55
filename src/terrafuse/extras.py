"""Packages that only an extra installs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from terrafuse.errors import MissingDependencyError


@contextmanager
def from_extra(extra: str, what: str) -> Iterator[None]:
    """Import what only an extra installs; where it is missing, the message names the extra.

    Args:
        extra: A key of `optional-dependencies` in pyproject.toml.
        what: The thing that needs the package, as a user would call it ("backbone 'mit_b0'").

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

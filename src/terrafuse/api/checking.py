"""`check-method`: the contract of all methods, run on one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from terrafuse.contract import Case, CheckResult, run_checks
from terrafuse.data import load_manifest
from terrafuse.methods import find_method


def check_method(
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
    manifest: str | Path | None = None,
) -> Iterator[CheckResult]:
    """Run the checks that the package's own methods pass, one after the other.

    Args:
        name: `module:Class`, or a name that run.yaml can give.
        options: Keyword arguments of its constructor, best small ones.
        manifest: Whose modalities it receives; default: an optical image, radar at twice its pixel
            size and heights at half of it, as many as it takes.

    Yields:
        What came of each check.

    Raises:
        UnknownNameError: No such method; the nearest is named.
        PluginError: It cannot be imported, or is no method.
        ConfigError: The manifest is not valid.
    """
    _, most = find_method(name).num_modalities
    given = () if manifest is None else tuple(load_manifest(manifest).modalities.values())
    yield from run_checks(Case(name, dict(options or {}), given[:most]))

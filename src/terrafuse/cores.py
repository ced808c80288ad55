"""Cores of the processor: how many of them this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Number of cores that the system lets this process use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""Cores of the processor: how many of them this process may use, and with how many it computes."""

from __future__ import annotations

import os
import sys
from typing import Any


def usable_cores() -> int:
    """Number of cores that the system lets this process use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def computing_threads() -> int:
    """Number of threads that a model computes with: torch's, or as libraries of OpenMP count."""
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(wanted) if wanted.isdecimal() and int(wanted) else usable_cores()


def limit_threads(count: int) -> None:
    """Compute with so many threads, in torch and in what is imported from now on."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)

"""On which machine a benchmark ran."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """Number and model of the cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.processor()

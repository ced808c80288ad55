"""Rows of all processes of a distributed training."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def gather_rows(x: Tensor) -> tuple[Tensor, int]:
    """Rows (N, …) of all processes in their order, and where the own ones begin.

    Without gradient, except where there is one process. Processes must have equally many rows.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return x, 0
    parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, x.contiguous())
    return torch.cat(parts), distributed.get_rank() * len(x)

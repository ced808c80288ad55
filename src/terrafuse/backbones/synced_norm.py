"""Batch normalisation over the batches of all processes, on processors as on GPUs.

torch's own `SyncBatchNorm` works on GPUs only, so that nothing could be tested without one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def sync_batch_norms(model: nn.Module) -> set[str]:
    """Let batch norms of a model see all processes' batches while they train.

    Parameters, buffers and their names stay as they are.

    Returns:
        Names of classes of batch norms that are left as they are, because what they do is not
        known.
    """
    unknown = set()
    for module in model.modules():
        if not isinstance(module, _BatchNorm) or isinstance(module, _Synced):
            continue
        if _is_known(type(module)):
            module.__class__ = _synced(type(module))
        else:
            unknown.add(type(module).__name__)
    return unknown


def share_batches(model: nn.Module, *, shares: bool) -> None:
    """Switch synced batch norms between all processes' batches and their own.

    Where a modality is absent from a batch, its backbone is not run: if that is so in some
    processes only, the others would wait for them.
    """
    for module in model.modules():
        if isinstance(module, _Synced):
            module.shares = shares


class _Synced:
    """A batch norm whose statistics in training are those of all processes."""

    shares = True

    def forward(self: Any, input: Tensor) -> Tensor:
        """Normalised map (N, C, …)."""
        if not (self.training and self.shares and dist.is_initialized()):
            own: Tensor = super().forward(input)  # type: ignore[misc]  # of the batch norm
            return own
        return _finish(self, _normalize(self, input))


def _is_known(kind: type[_BatchNorm]) -> bool:
    """Tell whether a class is torch's, timm's, or ours, which normalise alike."""
    ours = kind.__module__.startswith("terrafuse.")
    return ours or kind in (nn.BatchNorm1d, nn.BatchNorm2d, BatchNormAct2d)


_made: dict[type[_BatchNorm], type[_BatchNorm]] = {}


def _synced(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    if kind not in _made:
        _made[kind] = type(f"Synced{kind.__name__}", (_Synced, kind), {})
    return _made[kind]


class _Sum(torch.autograd.Function):
    """Sum over the processes; so is its gradient, as each process has a part of the loss."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """Sum of a tensor of any shape."""
        del ctx
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Sum of the gradients."""
        del ctx
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def _summed(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)
    return total


def _finish(norm: Any, values: Tensor) -> Tensor:
    """Apply what timm's batch norm does after normalising."""
    if isinstance(norm, BatchNormAct2d):
        activated: Tensor = norm.act(norm.drop(values))
        return activated
    return values


def _normalize(norm: _BatchNorm, input: Tensor) -> Tensor:
    """Normalise by mean and variance over all processes, in two passes: no digits are lost."""
    values = input.float()
    dims = [dim for dim in range(values.ndim) if dim != 1]
    shape = [1, -1, *[1] * (values.ndim - 2)]
    own = values.new_tensor([values.numel() // values.shape[1]])
    sums = _summed(torch.cat([values.sum(dims), own]))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = values - mean.view(shape)
    variance = _summed(centred.square().sum(dims)) / count
    if norm.track_running_stats:
        _track(norm, mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
    scaled = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        scaled = scaled * norm.weight.view(shape) + norm.bias.view(shape)
    return scaled.to(input.dtype)


@torch.no_grad()
def _track(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), share)

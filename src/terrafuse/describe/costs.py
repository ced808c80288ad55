"""Costs of a model, derived from shapes: nothing is computed and no weights are allocated.

The model is on torch's meta device, whose tensors have shapes but no values. Branches on values
behave as for complete samples; torch counts the operations, and the tensors saved for the backward
pass are summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from terrafuse.config import RunConfig, TrainingConfig
from terrafuse.errors import ModelError, UnknownNameError
from terrafuse.segmenter import Segmenter
from terrafuse.weights import without_pretrained


@dataclass(frozen=True)
class Cost:
    """Costs of one forward pass and one training step. Memory is in bytes.

    Args:
        crop_size: Height and width of samples, in scene pixels.
        batch_size: Samples per step.
        flops: Operations of a forward pass of one sample; a multiply-add counts as two.
        sample_activations: Tensors saved for the backward pass, per sample.
        parameters: Weights and buffers.
        gradients: Gradients of the trainable parameters.
        optimizer: State of the optimiser.
        average: Second copy of the model if weights are averaged, else 0.
        activations: Tensors saved for the backward pass, per batch.
    """

    crop_size: int
    batch_size: int
    flops: int
    sample_activations: int
    parameters: int
    gradients: int
    optimizer: int
    average: int
    activations: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; "total" is all memory that a step holds at once.

        Workspace of single operations is not included.
        """
        keys = ("parameters", "gradients", "optimizer", "average", "activations")
        held = {key: getattr(self, key) for key in keys}
        return {
            "crop_size": self.crop_size,
            "batch_size": self.batch_size,
            "flops": self.flops,
            "activation_bytes_per_sample": self.sample_activations,
            "training_bytes": held | {"total": sum(held.values())},
        }


def without_values(build: Callable[[], Segmenter]) -> Segmenter:
    """Build a model as shapes without values; weights are not loaded.

    Raises:
        ModelError: Raised by `build`.
    """
    with without_pretrained():
        try:
            with torch.device("meta"):
                return build()
        except UnknownNameError:
            raise
        except (ModelError, RuntimeError):
            # Some models read values while they are built: those are allocated briefly.
            return build().to("meta")


def derive_cost(segmenter: Segmenter, config: RunConfig) -> Cost:
    """Derive the cost of a model at the crop size and batch size of a run.

    Args:
        segmenter: From `without_values`, with parameters frozen as in training.
        config: Settings of the run.
    """
    crop, batch, training = config.data.crop_size, config.data.batch_size, config.training
    # Batch norms cannot train on one sample, and some saved tensors do not grow with samples.
    two, three = (saved_activations(segmenter, crop, n, training.precision) for n in (2, 3))
    size = _bytes([*segmenter.parameters(), *segmenter.buffers()])
    gradients = _bytes(p for p in segmenter.parameters() if p.requires_grad)
    return Cost(
        crop_size=crop,
        batch_size=batch,
        flops=forward_flops(segmenter, crop),
        sample_activations=three - two,
        parameters=size,
        gradients=gradients,
        optimizer=gradients * _values_per_parameter(training),
        average=size if training.ema_decay else 0,
        activations=two + (batch - 2) * (three - two),
    )


def forward_flops(segmenter: Segmenter, crop_size: int) -> int:
    """Count the operations of matrix products and convolutions in a forward pass of one sample.

    Args:
        segmenter: From `without_values`.
        crop_size: Height and width of the sample, in scene pixels.
    """
    segmenter.eval()
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), _Shapes(), torch.no_grad(), counter:
        segmenter(_images(segmenter, crop_size, 1))
    return int(counter.get_total_flops())


def saved_activations(
    segmenter: Segmenter, crop_size: int, samples: int, precision: str = "32-true"
) -> int:
    """Count the bytes that a forward pass and cross-entropy save for the backward pass.

    Weights are excluded. Attention counts as a fused kernel, which saves no matrix of pairs.

    Args:
        segmenter: From `without_values`.
        crop_size: Height and width of samples, in scene pixels.
        samples: N.
        precision: As in `training.precision`.
    """
    segmenter.train()
    own = {_storage(x) for x in (*segmenter.parameters(), *segmenter.buffers())}
    # Storages are identified by address; all are held so that no address is reused.
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        if _storage(x) not in own:
            kept.setdefault(_storage(x), x)
        return x

    half = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(precision)
    images = _images(segmenter, crop_size, samples)
    with (
        torch.device("meta"),
        _Shapes(half, fused=True),
        torch.enable_grad(),
        saved_tensors_hooks(keep, lambda x: x),
    ):
        output = segmenter(images)
        for logits in (output.logits, *output.aux_logits):
            F.cross_entropy(logits, logits.new_empty(logits[:, 0].shape, dtype=torch.long))
    return sum(x.untyped_storage().nbytes() for x in kept.values())


class _Shapes(TorchFunctionMode):
    """Mode that runs models on tensors without values, as they would run on a GPU.

    Args:
        half: Dtype of matrix products in mixed precision; None: that of their inputs.
        fused: Whether attention is one fused kernel. Otherwise it is decomposed, for FLOP counting.
    """

    def __init__(self, half: torch.dtype | None = None, *, fused: bool = False) -> None:
        super().__init__()
        self.half = half
        self.fused = fused

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Return the result of a torch function."""
        if func is Tensor.__bool__:
            return True  # "do all samples have this modality?"
        if func in (torch.nonzero, Tensor.nonzero) and args[0].ndim == 1:
            return torch.arange(len(args[0]), device="meta").unsqueeze(1)
        kwargs = kwargs or {}
        if self.half is not None:
            wanted = self.half if func in _IN_HALF else torch.float32 if func in _IN_FULL else None
            args = tuple(_cast(x, wanted) for x in args)
            kwargs = {key: _cast(x, wanted) for key, x in kwargs.items()}
        if self.fused and func is F.scaled_dot_product_attention:
            return _fused_attention(*args, **kwargs)
        return func(*args, **kwargs)


#: Functions that autocast runs in half and in full precision on a GPU, as far as models use them.
_IN_HALF = {
    F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose2d, F.scaled_dot_product_attention,
    torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum,
    Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm,
}  # fmt: skip
_IN_FULL = {
    F.layer_norm, F.group_norm, F.normalize, F.softmax, F.log_softmax, F.softplus, F.cross_entropy,
    torch.softmax, torch.log_softmax, torch.exp, torch.norm,
    Tensor.softmax, Tensor.log_softmax, Tensor.exp, Tensor.norm,
}  # fmt: skip


def _cast(value: Any, dtype: torch.dtype | None) -> Any:
    is_cast = dtype is not None and isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if is_cast else value


def _fused_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any
) -> Tensor:
    result: Tensor = _FusedAttention.apply(query, key, value, attn_mask)
    return result


class _FusedAttention(torch.autograd.Function):
    """Shapes of fused attention, which saves inputs, output and one number per query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Queries (…, heads, L, d), values (…, heads, S, d') → (…, heads, L, d')."""
        *samples, heads, length, _ = query.shape
        # Heads are adjacent in memory, so that joining them copies nothing.
        output = query.new_empty(*samples, length, heads, value.shape[-1]).transpose(-3, -2)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, mask, output, sums)
        return output


def _images(segmenter: Segmenter, crop_size: int, samples: int) -> dict[str, Tensor]:
    sizes = {m.name: (len(m.bands), m.size_at(crop_size)) for m in segmenter.modalities}
    return {
        name: torch.empty(samples, bands, size, size, device="meta")
        for name, (bands, size) in sizes.items()
    }


def _storage(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def _values_per_parameter(training: TrainingConfig) -> int:
    """Count the optimiser's values: Adam keeps two (amsgrad three), SGD with momentum one."""
    return int(training.momentum > 0) if training.optimizer == "sgd" else 2 + training.amsgrad

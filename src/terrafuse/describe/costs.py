"""Costs of a model, derived from shapes: nothing is computed and no weights are allocated.

The model is on torch's meta device, whose tensors have shapes but no values. Branches on values
behave as for complete samples; torch counts the operations, and the tensors saved for the backward
pass are summed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from terrafuse.config import LearningConfig, RunConfig, TrainingConfig
from terrafuse.errors import ModelError, TerrafuseError, UnknownNameError
from terrafuse.segmenter import Segmenter, SegmenterOutput, SensorModel
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
        workspace: What is alive beside these at the peak of a step: results of single operations,
            gradients of activations.
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
    workspace: int

    @property
    def total(self) -> int:
        """All memory that a step holds at once."""
        held = (self.parameters, self.gradients, self.optimizer, self.average)
        return sum(held) + self.activations + self.workspace

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; "total" is all memory that a step holds at once."""
        keys = ("parameters", "gradients", "optimizer", "average", "activations", "workspace")
        held = {key: getattr(self, key) for key in keys}
        return {
            "crop_size": self.crop_size,
            "batch_size": self.batch_size,
            "flops": self.flops,
            "activation_bytes_per_sample": self.sample_activations,
            "training_bytes": held | {"total": sum(held.values())},
        }


_M = TypeVar("_M", bound=SensorModel)


def without_values(build: Callable[[], _M]) -> _M:
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
    activations = two + (batch - 2) * (three - two)
    peak = step_peak(segmenter, crop, batch, training.precision)
    size = _bytes([*segmenter.parameters(), *segmenter.buffers()])
    gradients = _bytes(p for p in segmenter.parameters() if p.requires_grad)
    return Cost(
        crop_size=crop,
        batch_size=batch,
        flops=forward_flops(segmenter, crop),
        sample_activations=three - two,
        parameters=size,
        gradients=gradients,
        optimizer=gradients * optimizer_values(training),
        average=size if training.ema_decay else 0,
        activations=activations,
        workspace=max(0, peak - gradients - activations),
    )


def as_trained(model: SensorModel, training: LearningConfig) -> None:
    """Freeze and checkpoint the parts of a model that a run freezes and checkpoints."""
    is_frozen = isinstance(training, TrainingConfig) and training.backbone_lr_factor == 0
    for backbone in model.backbones():
        backbone.gradient_checkpointing = training.gradient_checkpointing
        if is_frozen:
            for parameter in chain.from_iterable(backbone.layer_groups()):
                parameter.requires_grad_(False)


def optimizer_values(training: LearningConfig) -> int:
    """Count the optimiser's values: Adam keeps two (amsgrad three), SGD with momentum one."""
    return int(training.momentum > 0) if training.optimizer == "sgd" else 2 + training.amsgrad


def forward_flops(segmenter: Segmenter, crop_size: int) -> int:
    """Count the operations of matrix products and convolutions in a forward pass of one sample.

    Args:
        segmenter: From `without_values`.
        crop_size: Height and width of the sample, in scene pixels.
    """
    segmenter.eval()
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), _Shapes(), torch.no_grad(), counter:
        segmenter(shape_images(segmenter, crop_size, 1))
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

    images = shape_images(segmenter, crop_size, samples)
    with _as_in_training(precision), saved_tensors_hooks(keep, lambda x: x):
        _loss(segmenter(images))
    return sum(x.untyped_storage().nbytes() for x in kept.values())


def step_peak(
    model: _M,
    crop_size: int,
    samples: int,
    precision: str = "32-true",
    loss: Callable[[_M, int, int], Tensor] | None = None,
) -> int:
    """Derive the most bytes that a training step holds at once, weights excluded.

    The gradients of the step before are alive until the backward pass begins, as in Lightning.

    Args:
        model: From `without_values`; parameters keep no gradients.
        crop_size: Height and width of samples, in scene pixels.
        samples: N.
        precision: As in `training.precision`.
        loss: (model, crop size, samples) → loss of a batch without values; default: that of a
            segmenter.
    """
    if samples == 1:  # batch norms cannot train on one sample
        two, three = (step_peak(model, crop_size, n, precision, loss) for n in (2, 3))
        return max(0, two - (three - two))
    compute: Callable[[Any, int, int], Tensor] = loss or _segmentation_loss
    model.train()
    live = _Live([*model.parameters(), *model.buffers()])
    with _as_in_training(precision), live:
        value = compute(model, crop_size, samples)
        forward = live.most
        if value.requires_grad:
            value.backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)
    gradients = _bytes(p for p in model.parameters() if p.requires_grad)
    return max(forward + gradients, live.most)


def trains_on(segmenter: Segmenter, crop_size: int, samples: int) -> bool:
    """Tell whether every batch norm of a model sees several values per channel.

    Args:
        segmenter: From `without_values`.
        crop_size: Height and width of samples, in scene pixels.
        samples: N.
    """
    segmenter.train()
    try:
        with _as_in_training("32-true"), torch.no_grad():
            segmenter(shape_images(segmenter, crop_size, samples))
    except ValueError as error:
        if isinstance(error, TerrafuseError) or "more than 1 value per channel" not in str(error):
            raise
        return False
    return True


def inference_peak(
    segmenter: Segmenter, crop_size: int, samples: int, precision: str = "32-true"
) -> int:
    """Derive the most bytes that a forward pass without gradients holds, weights excluded.

    Args:
        segmenter: From `without_values`.
        crop_size: Height and width of samples, in scene pixels.
        samples: N.
        precision: As in `training.precision`.
    """
    segmenter.eval()
    live = _Live([*segmenter.parameters(), *segmenter.buffers()])
    with _as_in_training(precision), torch.no_grad(), live:
        segmenter(shape_images(segmenter, crop_size, samples))
    return live.most


def _segmentation_loss(segmenter: Segmenter, crop_size: int, samples: int) -> Tensor:
    return _loss(segmenter(shape_images(segmenter, crop_size, samples)))


def _loss(output: SegmenterOutput) -> Tensor:
    """Sum of cross-entropies over all logits, and of a method's own losses."""
    terms = [
        F.cross_entropy(logits, logits.new_empty(logits[:, 0].shape, dtype=torch.long))
        for logits in (output.logits, *output.aux_logits)
    ]
    return torch.stack([*terms, *output.losses.values()]).sum()


@contextmanager
def _as_in_training(precision: str) -> Iterator[None]:
    half = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(precision)
    with torch.device("meta"), _Shapes(half, fused=True), torch.enable_grad():
        yield


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]  # is not typed
    """Mode that counts the bytes of tensors made inside and still alive, and the most of them.

    Args:
        known: Tensors that do not count.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._counted = {_storage(x) for x in known}

    def add(self, *made: Tensor) -> None:
        """Count the storages of tensors that are not counted yet, until they are freed."""
        for x in made:
            storage = x.untyped_storage()
            key, size = int(storage._cdata), int(storage.nbytes())
            if key not in self._counted:
                self._counted.add(key)
                self.now += size
                weakref.finalize(storage, self._free, key, size)
        self.most = max(self.most, self.now)

    def _free(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self.now -= size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Return the result of an operation."""
        result = func(*args, **(kwargs or {}))
        self.add(*(x for x in tree_leaves(result) if isinstance(x, Tensor)))
        return result


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
        if func is Tensor.__getitem__ and _is_mask_of_samples(args[1]):
            return args[0].clone()  # "those that have any data": all
        kwargs = kwargs or {}
        if self.half is not None:
            wanted = self.half if func in _IN_HALF else torch.float32 if func in _IN_FULL else None
            args = tuple(_cast(x, wanted) for x in args)
            kwargs = {key: _cast(x, wanted) for key, x in kwargs.items()}
        if self.fused and func is F.scaled_dot_product_attention:
            return _fused_attention(*args, **kwargs)
        return func(*args, **kwargs)


def _is_mask_of_samples(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype == torch.bool and index.ndim == 1


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

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients in the shapes of the inputs that need them."""
        inputs = ctx.saved_tensors[:4]
        return tuple(
            torch.empty_like(x) if needed else None
            for x, needed in zip(inputs, ctx.needs_input_grad, strict=True)
        )


def shape_images(segmenter: SensorModel, crop_size: int, samples: int) -> dict[str, Tensor]:
    """Images of a batch without values, by modality."""
    sizes = {m.name: (len(m.bands), m.size_at(crop_size)) for m in segmenter.modalities}
    return {
        name: torch.empty(samples, bands, size, size, device="meta")
        for name, (bands, size) in sizes.items()
    }


def _storage(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)

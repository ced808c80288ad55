"""Saved part of a model in a run folder, and restoring the model from it.

Values unchanged from pretrained weights are not saved: a run folder names the weights and holds a
digest of these values, so that a model is never restored on different ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from terrafuse.errors import ChecksumError, WeightsNotFoundError
from terrafuse.segmenter import Segmenter
from terrafuse.weights import RunInfo, digest_values, load_strict


def base_state(segmenter: Segmenter) -> dict[str, Tensor]:
    """Return the values that training leaves unchanged: frozen parts of pretrained backbones."""
    frozen = {
        id(parameter)
        for backbone in segmenter.backbones()
        if backbone.pretrained is not None
        for name, parameter in backbone.named_parameters()
        if not parameter.requires_grad and name not in backbone.added
    }
    return {n: p.detach() for n, p in segmenter.named_parameters() if id(p) in frozen}


def tuned_state(segmenter: Segmenter) -> dict[str, Tensor]:
    """Return the rest of the state, which a run folder must hold."""
    left_out = base_state(segmenter)
    return {n: value for n, value in segmenter.state_dict().items() if n not in left_out}


def load_tuned(segmenter: Segmenter, state: dict[str, Tensor], info: RunInfo, where: str) -> None:
    """Load the saved values of a run into a model built with its base weights.

    Args:
        segmenter: Model with the base weights.
        state: Values from the run folder.
        info: Metadata of the run folder.
        where: Name of the weights in messages.

    Raises:
        ChecksumError: The base weights differ from those the run was tuned on.
        WeightsMismatchError: Values are missing, unknown or of another shape.
    """
    state = {**_values_before(segmenter), **state}
    left_out: dict[str, Tensor] = {}
    if info.base_values_sha256 is not None:
        left_out = {n: p for n, p in segmenter.named_parameters() if n not in state}
    load_strict(segmenter, {**left_out, **state}, where=where, own=True)
    if left_out and digest_values(left_out) != info.base_values_sha256:
        sources = ", ".join(f"'{base['source']}'" for base in info.base_weights)
        raise ChecksumError(
            f"{where} were tuned on other values than the base weights {sources} hold now. Restore "
            "the file of base weights that the run was trained with"
        )


def _values_before(segmenter: Segmenter) -> dict[str, Tensor]:
    """Values missing from run folders of earlier versions, with the meaning they had there."""
    found: dict[str, Tensor] = {}
    for prefix, module in segmenter.named_modules():
        listed: Callable[[nn.Module], dict[str, Tensor]] | None
        if listed := getattr(type(module), "values_before", None):
            found |= {f"{prefix}.{name}": value for name, value in listed(module).items()}
    return found


def missing_base(error: WeightsNotFoundError, folder: str | Path) -> WeightsNotFoundError:
    """Return the error for base weights of a run that cannot be found."""
    return WeightsNotFoundError(
        f"the run in '{folder}' holds only what was tuned, and its base weights are missing: "
        f"{error}. Or put the file into the run folder"
    )

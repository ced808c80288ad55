"""What of a model a run folder holds, and how it becomes a model again.

Values that stay as pretrained weights have them are not saved: a run folder names the weights and
holds a digest of these values, so that a model is never put together from others.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from terrafuse.errors import ChecksumError, WeightsNotFoundError
from terrafuse.segmenter import Segmenter
from terrafuse.weights import RunInfo, digest_values, load_strict


def base_state(segmenter: Segmenter) -> dict[str, Tensor]:
    """Values that training leaves as the base weights have them: frozen, of a pretrained backbone.

    Args:
        segmenter: As it was built, with what its tuning froze.
    """
    frozen = {
        id(parameter)
        for backbone in segmenter.backbones()
        if backbone.pretrained is not None
        for name, parameter in backbone.named_parameters()
        if not parameter.requires_grad and name not in backbone.added
    }
    return {n: p.detach() for n, p in segmenter.named_parameters() if id(p) in frozen}


def tuned_state(segmenter: Segmenter) -> dict[str, Tensor]:
    """The rest of the state: what a run folder has to hold."""
    left_out = base_state(segmenter)
    return {n: value for n, value in segmenter.state_dict().items() if n not in left_out}


def load_tuned(segmenter: Segmenter, state: dict[str, Tensor], info: RunInfo, where: str) -> None:
    """Fill a model, built with its base weights, with what was saved of it.

    Args:
        segmenter: Holds the base weights.
        state: Values of the run folder.
        info: What it says of the model.
        where: Names the weights in messages.

    Raises:
        ChecksumError: The base weights are not those that the run was tuned on.
        WeightsMismatchError: Values are missing, unknown or of another shape.
    """
    state = {**_values_before(segmenter), **state}
    left_out: dict[str, Tensor] = {}
    if info.base_values_sha256 is not None:
        left_out = {n: p for n, p in segmenter.named_parameters() if n not in state}
    load_strict(segmenter, {**left_out, **state}, where=where)
    if left_out and digest_values(left_out) != info.base_values_sha256:
        sources = ", ".join(f"'{base['source']}'" for base in info.base_weights)
        raise ChecksumError(
            f"{where} were tuned on other values than the base weights {sources} have now. Restore "
            "the file of base weights that the run was trained with"
        )


def _values_before(segmenter: Segmenter) -> dict[str, Tensor]:
    """Values that run folders of earlier versions lack, as they were meant there, by name."""
    found: dict[str, Tensor] = {}
    for prefix, module in segmenter.named_modules():
        listed: Callable[[nn.Module], dict[str, Tensor]] | None
        if listed := getattr(type(module), "values_before", None):
            found |= {f"{prefix}.{name}": value for name, value in listed(module).items()}
    return found


def missing_base(error: WeightsNotFoundError, folder: str | Path) -> WeightsNotFoundError:
    """The message where the base weights of a run are not to be found."""
    return WeightsNotFoundError(
        f"the run in '{folder}' holds only what was tuned, and the base weights under it are "
        f"missing: {error}. Or put the file into the run folder"
    )

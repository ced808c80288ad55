"""Parameter-efficient adaptation of a pretrained backbone: select or add trainable parameters.

Every tuning is one line of `run.yaml` and works with any method: `tuning: lora`, `tuning: {name:
lora, rank: 8}`, several with `tuning: adapter+lora`. A new one is a function in a file of its own
and a line in `TUNINGS`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from terrafuse.backbones import Backbone
from terrafuse.config.options import check_options
from terrafuse.errors import ModelError, UnknownNameError, unknown_name
from terrafuse.tuning.adapter import adapter
from terrafuse.tuning.base import TunedModule
from terrafuse.tuning.dora import dora
from terrafuse.tuning.freezing import bitfit, frozen, full, norms, pretrained_parameters
from terrafuse.tuning.lora import lora
from terrafuse.tuning.prompt import PromptTokens, prompt

#: Every tuning by its name; it changes a backbone for M modalities. Options are keyword-only.
TUNINGS: Mapping[str, Callable[..., None]] = {
    "full": full,
    "frozen": frozen,
    "bitfit": bitfit,
    "norms": norms,
    "adapter": adapter,
    "lora": lora,
    "dora": dora,
    "prompt": prompt,
}

#: As in `run.yaml`: a name, names joined by "+", a name with options, a list of these, or none.
TuningOption = str | dict[str, Any] | list[str | dict[str, Any]] | None


def apply_tuning(backbone: Backbone, tuning: TuningOption, num_modalities: int = 1) -> None:
    """Freeze the pretrained parameters, then let each tuning add or unfreeze its own.

    Parts without pretrained weights (necks) are always trained. None leaves the backbone unchanged,
    which is "full".

    Args:
        backbone: Changed in place.
        tuning: Tunings, applied in order.
        num_modalities: M; batches hold M · N samples, one modality after the other.

    Raises:
        UnknownNameError: No such tuning or option; names the nearest.
        ModelError: The backbone does not suit the tuning.
    """
    if tuning is None:
        return
    chosen = parse_tuning(tuning)
    before = {id(p) for p in backbone.parameters()}
    for parameter in pretrained_parameters(backbone).values():
        parameter.requires_grad_(False)
    for name, options in chosen:
        TUNINGS[name](backbone, num_modalities, **options)
    added = {id(p) for p in backbone.parameters()} - before
    backbone.num_modalities = num_modalities
    backbone.tuning = "+".join(name for name, _ in chosen)
    backbone.added = frozenset(n for n, p in backbone.named_parameters() if id(p) in added)


def parse_tuning(tuning: TuningOption) -> list[tuple[str, dict[str, Any]]]:
    """Parse the tunings' names and check their options, in order.

    Raises:
        UnknownNameError: No such tuning or option; names the nearest.
        ModelError: An option has the wrong type, or a tuning is named twice.
    """
    items: Sequence[str | dict[str, Any]] = tuning if isinstance(tuning, list) else [tuning or {}]
    if not items:
        raise ModelError("tuning is an empty list; name one or more tunings, or leave it out")
    parsed = []
    for item in items:
        values = {"name": item} if isinstance(item, str) else dict(item)
        names = str(values.pop("name", "")).split("+")
        for name in map(str.strip, names):
            if name not in TUNINGS:
                raise UnknownNameError(unknown_name("tuning", name, TUNINGS))
            if values and len(names) > 1:
                raise ModelError(
                    f"tuning '{'+'.join(names)}' cannot have options; write a list: "
                    f"[{{name: {names[0].strip()}, …}}, {{name: {names[1].strip()}, …}}]"
                )
            parsed.append((name, check_options("tuning", name, TUNINGS[name], values)))
    found = [name for name, _ in parsed]
    if len(set(found)) != len(found):
        raise ModelError(f"a tuning is named twice: {', '.join(found)}")
    return parsed


def merge_tuning(module: nn.Module) -> int:
    """Merge low-rank updates into the weights for inference; outputs stay equal.

    Updates that mix modalities cannot be merged and are kept.

    Args:
        module: A segmenter or a backbone, changed in place.

    Returns:
        The number of merged layers.
    """
    found = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            plain = child.merged() if isinstance(child, TunedModule) else None
            if plain is not None:
                setattr(parent, name, plain.train(child.training))
                found += 1
    return found


__all__ = [
    "TUNINGS",
    "PromptTokens",
    "TunedModule",
    "TuningOption",
    "apply_tuning",
    "merge_tuning",
    "parse_tuning",
    "pretrained_parameters",
]

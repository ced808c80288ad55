"""Streams of several modalities through one transformer, guided by each other (UPSeg).

All of this is a choice of the reconstruction [R]; see `terrafuse.methods.upseg`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from terrafuse.backbones import GalileoAttention, GalileoBlock, TokenBackbone
from terrafuse.errors import ModelError, UnknownNameError, unknown_name
from terrafuse.methods.upseg.attention import check_block, run_prompted
from terrafuse.methods.upseg.prompts import PromptSettings
from terrafuse.methods.upseg.site import Guidance, SynergySite
from terrafuse.methods.upseg.tokens import TokenMap
from terrafuse.methods.upseg.variance import VarianceSettings

#: Blocks that support prompts, with their attention.
_PLAIN = {(Block, Attention), (GalileoBlock, GalileoAttention)}
#: "lock-step": modalities guide each other in the same pass. "two-pass": each first passes alone,
#: and guidance comes from the features of that pass.
Schedule = Literal["lock-step", "two-pass"]


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """Gates before prompts [R].

    Args:
        scope: "modality": a gate per block, modality and head; "shared": one per block.
        lr_factor: Learning rate relative to other new parts; at the same rate gates, which start
            at 0, open late.
    """

    scope: Literal["modality", "shared"] = "modality"
    lr_factor: float = 10.0

    def __post_init__(self) -> None:
        if self.lr_factor <= 0:
            raise ModelError(
                f"option 'lr_factor' of gate is {self.lr_factor:g}; it must be above 0"
            )


@dataclass(frozen=True)
class Stream:
    """Tokens of one modality on their way through the transformer.

    Args:
        index: Index of the modality.
        tokens: (N, P + L, D), prefix first.
        grid: Height and width of the patch tokens.
        seen: Bool (N, L): tokens that cover data; None = all.
        whole: Whether every sample has all or none of its tokens.
    """

    index: int
    tokens: Tensor
    grid: tuple[int, int]
    seen: Tensor | None
    whole: bool


@dataclass(frozen=True)
class Passed:
    """Results of a pass through the transformer.

    Args:
        out_indices: Per stage and modality, its output.
        entrances: Input of each stage where modalities interact, per modality.
        losses: Losses of the predictors.
    """

    out_indices: list[list[TokenMap]]
    entrances: dict[int, list[TokenMap]]
    losses: list[Tensor]


class GuidedStreams(nn.Module):
    """Addition to a transformer by which the streams of modalities guide each other.

    Args:
        backbone: The transformer; not a submodule of this module.
        name: Its name, for messages.
        modalities: Names, in order.
        stages: Stages, from 1, at whose entrance they interact; None = all but the first.

    Raises:
        ModelError: Stages that do not exist, or blocks that do not support prompts.
    """

    def __init__(
        self,
        backbone: TokenBackbone,
        name: str,
        modalities: Sequence[str],
        *,
        stages: Sequence[int] | None,
        schedule: Schedule,
        variance: VarianceSettings,
        prompt: PromptSettings,
        gate: GateSettings,
    ) -> None:
        super().__init__()
        self.modalities, self.schedule = tuple(modalities), schedule
        self.variance, self.prompt, self.gate = variance, prompt, gate
        starts = (0, *(tap + 1 for tap in backbone.out_indices))
        self.blocks = [range(a, b) for a, b in pairwise(starts)]
        self._check(stages or ())
        if stages is None:
            stages = range(2, len(self.blocks) + 1)
        count, width = len(modalities), backbone.embed_dim
        # A single modality has none to interact with.
        met = sorted(set(stages)) if count > 1 or prompt.source == "self" else []
        self.sites = nn.ModuleDict(
            {str(stage): SynergySite(width, count, variance, prompt) for stage in met}
        )
        self.rows = self._gated_blocks() if prompt.has_prefix else {}
        self.gates: nn.Parameter | None = None
        if self.rows:
            heads = _heads_of(backbone, self.rows, name)
            shape = (count, heads) if gate.scope == "modality" else (1, 1)
            self.gates = nn.Parameter(torch.zeros(len(self.rows), *shape))

    def forward(
        self, backbone: TokenBackbone, streams: Sequence[Stream]
    ) -> tuple[list[list[TokenMap]], list[Tensor]]:
        """Run embedded streams: stage outputs per modality (N, L_m, D), losses of predictors."""
        meet = bool(self.sites) and (len(streams) > 1 or self.prompt.source == "self")
        sources = None
        if meet and self.schedule == "two-pass":
            sources = self._pass(backbone, streams, meet=False).entrances
        passed = self._pass(backbone, streams, meet=meet, sources=sources)
        return passed.out_indices, passed.losses

    def no_weight_decay(self) -> set[str]:
        """Return the name of the gates."""
        return {"gates"}

    def _pass(
        self,
        backbone: TokenBackbone,
        streams: Sequence[Stream],
        *,
        meet: bool,
        sources: dict[int, list[TokenMap]] | None = None,
    ) -> Passed:
        """Run all stages once; guidance comes from `sources`, else from the stages' own inputs."""
        passed = Passed([], {}, [])
        for stage, blocks in enumerate(self.blocks, start=1):
            guidance = None
            if str(stage) in self.sites:
                passed.entrances[stage] = [_patches(backbone, stream) for stream in streams]
                if meet:
                    guidance = self._guide(stage, sources or passed.entrances, streams)
                    passed.losses.extend(guidance.losses)
                    streams = _add_hints(backbone, streams, guidance)
            streams = self._run_stage(backbone, blocks, streams, guidance)
            passed.out_indices.append([_tap(backbone, stream) for stream in streams])
        return passed

    def _guide(
        self, stage: int, sources: dict[int, list[TokenMap]], streams: Sequence[Stream]
    ) -> Guidance:
        indices = [stream.index for stream in streams]
        hosts = self.modalities if self.prompt.hosts is None else self.prompt.hosts
        senders: list[tuple[int, ...]] = []
        for host, index in enumerate(indices):
            others = tuple(n for n in range(len(indices)) if n != host)
            heard = others if self.prompt.source == "others" else (host,)
            senders.append(heard if self.modalities[index] in hosts else ())
        guidance: Guidance = self.sites[str(stage)](sources[stage], indices, tuple(senders))
        return guidance

    def _run_stage(
        self,
        backbone: TokenBackbone,
        blocks: range,
        streams: Sequence[Stream],
        guidance: Guidance | None,
    ) -> list[Stream]:
        tokens = [stream.tokens for stream in streams]
        for block in blocks:
            if guidance is not None and self.gates is not None:
                gates = self._gates_of(block, [stream.index for stream in streams])
                offered = (guidance.prompts, guidance.senders)
                tokens = self._kept(backbone, _run_guided, backbone, block, gates, tokens, *offered)
            else:
                tokens = [
                    self._kept(backbone, backbone.run_block, block, x, stream.grid)
                    for x, stream in zip(tokens, streams, strict=True)
                ]
        return [replace(s, tokens=x) for s, x in zip(streams, tokens, strict=True)]

    def _kept(self, backbone: TokenBackbone, part: Callable[..., Any], *inputs: Any) -> Any:
        """Output of a block, checkpointed if the backbone has `gradient_checkpointing` set.

        A frozen backbone stays in evaluation mode while prompts are trained through it, so this
        module's own mode decides.
        """
        if backbone.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(part, *inputs, use_reentrant=False)
        return part(*inputs)

    def _gates_of(self, block: int, indices: Sequence[int]) -> Tensor:
        """Gates of a block for the modalities present, (M, heads) or (M, 1)."""
        assert self.gates is not None
        row = self.gates[self.rows[block]]
        if self.gate.scope == "shared":
            return row.expand(len(indices), 1)
        return row[list(indices)]

    def _gated_blocks(self) -> dict[int, int]:
        """Block → row of its gates."""
        stages = [self.blocks[int(stage) - 1] for stage in self.sites]
        return {block: row for row, block in enumerate(b for stage in stages for b in stage)}

    def _check(self, stages: Sequence[int]) -> None:
        unknown = [stage for stage in stages if not 1 <= stage <= len(self.blocks)]
        if unknown:
            raise ModelError(
                f"option 'interact_stages' is {list(stages)}; this backbone has stages 1 to "
                f"{len(self.blocks)}, which end at its out_indices"
            )
        for host in self.prompt.hosts or ():
            if host not in self.modalities:
                where = "modality in option 'hosts' of prompt"
                raise UnknownNameError(unknown_name(where, host, self.modalities))
        if self.prompt.source == "self" and self.variance.kind != "none":
            raise ModelError(
                f"option 'source' of prompt is 'self' and 'kind' of vem '{self.variance.kind}', "
                "which compares with other modalities. Set vem: {kind: none}"
            )


def _heads_of(backbone: TokenBackbone, blocks: Sequence[int] | dict[int, int], name: str) -> int:
    """Return the number of attention heads of the blocks, which must support prompts."""
    for index in blocks:
        block: Any = backbone.blocks[index]
        if (type(block), type(block.attn)) not in _PLAIN:
            raise ModelError(
                f"prompts between modalities pass through plain transformer blocks, and backbone "
                f"'{name}' has others ({type(block).__name__}). Choose a plain one (vit_*, deit_*, "
                "vit_*_dinov2), prompt: {kind: aligned}, or interact_stages: []"
            )
        check_block(block, name)
    first: Any = backbone.blocks[next(iter(blocks))]
    return int(first.attn.num_heads)


def _run_guided(
    backbone: TokenBackbone,
    index: int,
    gates: Tensor,
    tokens: Sequence[Tensor],
    prompts: Sequence[TokenMap],
    senders: Sequence[Sequence[int]],
) -> list[Tensor]:
    """Run block `index` with prompts of other modalities, and those of a tuning."""
    block = backbone.blocks[index]
    if backbone.prompts is None:
        return run_prompted(block, gates, tokens, prompts, senders)
    first, own = backbone.num_prefix_tokens, [backbone.prompts(index, x.shape[0]) for x in tokens]
    joined = [
        torch.cat([x[:, :first], beside, x[:, first:]], dim=1)
        for x, beside in zip(tokens, own, strict=True)
    ]
    return [
        torch.cat([x[:, :first], x[:, first + beside.shape[1] :]], dim=1)
        for x, beside in zip(run_prompted(block, gates, joined, prompts, senders), own, strict=True)
    ]


def _patches(backbone: TokenBackbone, stream: Stream) -> TokenMap:
    """Patch tokens between blocks."""
    values = backbone.at_places(stream.tokens, stream.grid)
    return TokenMap(values, stream.grid, stream.seen, stream.whole)


def _tap(backbone: TokenBackbone, stream: Stream) -> TokenMap:
    """Patch tokens as the backbone returns them."""
    values = backbone.to_map(stream.tokens, stream.grid).flatten(2).transpose(1, 2)
    return TokenMap(values, stream.grid, stream.seen, stream.whole)


def _add_hints(
    backbone: TokenBackbone, streams: Sequence[Stream], guidance: Guidance
) -> list[Stream]:
    """Add hints to patch tokens; the prefix is unchanged."""
    return [
        stream
        if hint is None
        else replace(stream, tokens=backbone.add_at_places(stream.tokens, hint, stream.grid))
        for stream, hint in zip(streams, guidance.hints, strict=True)
    ]

"""Cost of UPSeg's interaction as tokens grow: counted from shapes, beside the formula.

    python benchmarks/interaction_cost.py [--backbone dofa_base_patch16] [--figure cost.png]

Per crop size and number of modalities, with prompts of every token (pool 1) and of 2 × 2 (pool 2):
the operations that the interaction adds to those of the encoder, counted by torch on a model
without values, and as the formula below has it; and the memory that training keeps per sample until
its way back, with fused attention. Nothing is timed, so the machine does not matter.

With N tokens per modality, M modalities, L blocks of width D, width r of the VEM, K prompts per
modality, three places of three blocks each (a multiplication with addition counts as two):

    encoder   M L (24 N D² + 4 N² D)
    prefix    9 M (4 K D² + 4 (M − 1) N K D)
    VEM       3 M (8 N D r + 4 (M − 1) N² r)
    adapters  3 M (4 K D 64 + 4 N D 128)
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from scores import machine
from terrafuse.describe.costs import forward_flops, saved_activations, without_values
from terrafuse.methods import UPSeg
from terrafuse.modalities import Modality
from terrafuse.reports.figures import SERIES, STYLE

CROPS = (224, 256, 384, 512, 768, 1024)
PATCH, CLASSES = 16, 7
MODALITIES = (
    Modality(
        "optical",
        ("blue", "green", "red", "nir"),
        kind="optical",
        wavelengths_um=(0.49, 0.56, 0.665, 0.842),
    ),
    Modality("sar", ("vv", "vh"), kind="sar"),
    Modality("dsm", ("height",), kind="elevation"),
)


@dataclass(frozen=True)
class Row:
    """Costs at one size.

    Args:
        crop: Side of the sample, pixels.
        modalities: M.
        pool: Side of the squares of tokens that make a prompt.
        added: Operations of the interaction, counted.
        encoder: Operations of the encoder, counted.
        expected: Share of interaction by the formula.
        plain: Bytes kept per sample without interaction.
        kept: Bytes kept per sample with it.
    """

    crop: int
    modalities: int
    pool: int
    added: int
    encoder: int
    expected: float
    plain: int
    kept: int

    @property
    def tokens(self) -> int:
        """Per modality."""
        return (self.crop // PATCH) ** 2

    @property
    def share(self) -> float:
        """What the interaction adds to the encoder, counted."""
        return self.added / self.encoder


def formula(crop: int, modalities: int, pool: int, width: int, blocks: int) -> float:
    """Operations of the interaction divided by those of the encoder."""
    side = crop // PATCH
    n, k, m, d, r = side**2, ceil(side / pool) ** 2, modalities, width, 256
    encoder = m * blocks * (24 * n * d**2 + 4 * n**2 * d)
    prefix = 9 * m * (4 * k * d**2 + 4 * (m - 1) * n * k * d)
    vem = 3 * m * (8 * n * d * r + 4 * (m - 1) * n**2 * r)
    adapters = 3 * m * (4 * k * d * 64 + 4 * n * d * 128)
    return (prefix + vem + adapters) / encoder


def build(backbone: str, modalities: int, **options: Any) -> UPSeg:
    """A model of shapes only."""

    def make() -> UPSeg:
        return UPSeg(MODALITIES[:modalities], CLASSES, backbone=backbone, aux=False, **options)

    model = without_values(make)
    assert isinstance(model, UPSeg)
    return model


def measure(backbone: str, crop: int, modalities: int, pool: int) -> Row:
    """Counts at one size."""
    plain = build(backbone, modalities, interact_stages=())
    guided = build(backbone, modalities, prompt={"pool": pool})
    alone = build(backbone, modalities - 1, interact_stages=())
    # One modality more is one pass through the encoder more: neck and decoder follow the fusion.
    per_modality = forward_flops(plain, crop) - forward_flops(alone, crop)
    width, blocks = plain.backbone.embed_dim, len(plain.backbone.blocks)
    return Row(
        crop,
        modalities,
        pool,
        added=forward_flops(guided, crop) - forward_flops(plain, crop),
        encoder=modalities * per_modality,
        expected=formula(crop, modalities, pool, width, blocks),
        plain=_per_sample(plain, crop),
        kept=_per_sample(guided, crop),
    )


def _per_sample(model: UPSeg, crop: int) -> int:
    return saved_activations(model, crop, 3) - saved_activations(model, crop, 2)


def draw(rows: list[Row]) -> Figure:
    """Share of operations and memory over tokens; dots are counted, lines are the formula."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    cases = sorted({(row.modalities, row.pool) for row in rows})
    for color, (modalities, pool) in zip(SERIES, cases, strict=False):
        own = [row for row in rows if (row.modalities, row.pool) == (modalities, pool)]
        tokens = [row.tokens for row in own]
        left.plot(tokens, [100 * row.expected for row in own], color=color, lw=1)
        name = f"M = {modalities}, pool {pool}"
        left.plot(tokens, [100 * row.share for row in own], "o", ms=4, color=color, label=name)
        right.plot(tokens, [row.kept / 2**30 for row in own], "o-", ms=4, lw=1, color=color)
        if pool == 1:
            plain = [row.plain / 2**30 for row in own]
            right.plot(tokens, plain, ":", lw=1, color=color)
    left.set(
        title="Operations added to the encoder (%)", xlabel="tokens per modality", ylim=(0, None)
    )
    right.set(
        title="Kept per sample in training (GiB)", xlabel="tokens per modality", ylim=(0, None)
    )
    left.legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="dofa_base_patch16")
    parser.add_argument("--figure", type=Path, help="where to draw it")
    args = parser.parse_args()
    print(f"{machine()}; {args.backbone}, frozen, all prompts; counted / formula")
    print(
        "| crop | tokens | M | pool | added, GFLOP | of encoder | formula | kept, GiB | without |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    rows = []
    for modalities in (2, 3):
        for pool in (1, 2):
            for crop in CROPS:
                row = measure(args.backbone, crop, modalities, pool)
                rows.append(row)
                print(
                    f"| {crop} | {row.tokens} | {modalities} | {pool} | {row.added / 1e9:.1f} | "
                    f"{row.share:.1%} | {row.expected:.1%} | {row.kept / 2**30:.2f} | "
                    f"{row.plain / 2**30:.2f} |",
                    flush=True,
                )
    if args.figure:
        with matplotlib.rc_context(STYLE):
            draw(rows).savefig(args.figure)


if __name__ == "__main__":
    main()

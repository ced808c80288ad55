"""Parameters and operations of every method at its paper's size, beside what was published.

    python benchmarks/costs.py [--crop 512]

Models are shapes only, so the machine does not matter and nothing is fetched. GFLOPs are of a
forward pass of one sample; a multiplication with addition counts as two. Published operations are
of other sizes and count such a pair as one; they are quoted as they stand. A published count stands
where the model has the paper's bands and classes; "(+ …)" of it the published code holds and never
runs, which is not built here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from terrafuse.describe import without_values
from terrafuse.describe.costs import forward_flops
from terrafuse.methods import create_segmenter
from terrafuse.modalities import Modality
from terrafuse.segmenter import Segmenter

RGB = Modality("rgb", ("red", "green", "blue"), "optical", wavelengths_um=(0.665, 0.56, 0.49))
DEPTH = Modality("depth", ("depth",), "elevation")
COLOURS = Modality("x", ("a", "b", "c"), "elevation")
FOUR = Modality(
    "optical", ("blue", "green", "red", "nir"), "optical",
    wavelengths_um=(0.49, 0.56, 0.665, 0.842),
)  # fmt: skip
SAR = Modality("sar", ("VV", "VH"), "sar")
ONE_SAR = Modality("sar", ("VV",), "sar")
_S2 = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
S2 = Modality(
    "s2", _S2, "optical",
    wavelengths_um=(0.443, 0.49, 0.56, 0.665, 0.705, 0.74, 0.783, 0.842, 0.865, 0.945, 1.61, 2.19),
)  # fmt: skip
THIRTEEN = Modality("s2", (*_S2[:10], "B10", *_S2[10:]), "optical")


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        title: Its name.
        method: As in run.yaml.
        modalities: What comes in.
        classes: K.
        options: Of the method.
        published: Millions of parameters by the paper, or counted in its code.
        digits: Of `published`.
        learning: Whether these are what learns, rather than all.
        unused: Parameters that the published code counts and never runs.
        flops: Published operations, with the size of the image.
    """

    title: str
    method: str
    modalities: tuple[Modality, ...]
    classes: int
    options: Mapping[str, Any] = field(default_factory=dict)
    published: float | None = None
    digits: int = 1
    learning: bool = False
    unused: int = 0
    flops: str = ""

    def build(self) -> Segmenter:
        """The model, without values."""
        return without_values(
            lambda: create_segmenter(self.method, self.modalities, self.classes, self.options)
        )


def _cmx() -> Iterator[Row]:
    published = {
        "b2": (66.6, "67.6 (480 × 640)"), "b4": (139.9, "134.3 (480 × 640)"),
        "b5": (181.1, "167.8 (480 × 640)"),
    }  # fmt: skip
    for size, (millions, flops) in published.items():
        options = {"backbone": f"mit_{size}"}
        # An offset before the decoder's norm, of no effect.
        yield Row(
            f"CMX {size.upper()}", "cmx", (RGB, COLOURS), 40, options, millions,
            unused=512, flops=flops,
        )  # fmt: skip


def _dformer() -> Iterator[Row]:
    published = {
        "tiny": (6.0, 11.8), "small": (18.7, 25.6), "base": (29.5, 41.9), "large": (39.0, 65.7),
        "v2_small": (26.7, 33.9), "v2_base": (53.9, 67.2), "v2_large": (95.5, 124.1),
    }  # fmt: skip
    for size, (millions, flops) in published.items():
        yield Row(
            f"DFormer {size.replace('_', ' ')}", "dformer", (RGB, DEPTH), 40,
            {"backbone": f"dformer_{size}"}, millions, flops=f"{flops} (480 × 640)",
        )  # fmt: skip


def _mfnet() -> Iterator[Row]:
    # By the paper's table: the tuning, and 6.22 for decoder and Deep Fusion Module, of which 4.06
    # are SAM's prompt encoder and mask decoder.
    published = {
        "adapter": {"base": 14.20, "large": 50.45, "huge": 105.06},
        "lora": {"base": 1.03, "large": 2.75, "huge": 4.59},
    }
    for tuning, sizes in published.items():
        for size, millions in sizes.items():
            options = {"backbone": f"samvit_{size}_patch16", "tuning": tuning}
            yield Row(
                f"MFNet, {tuning}, ViT-{size[0].upper()}", "mfnet", (RGB, DEPTH), 6, options,
                round(millions + 6.22, 2), digits=2, learning=True, unused=4_064_560,
            )  # fmt: skip


def rows() -> Iterator[Row]:
    """All rows, in the order of the table."""
    giant = {"image": "vit_giant_patch14_reg4_dinov2", "structure": "vit_base_patch14_reg4_dinov2"}
    yield from _mfnet()
    yield Row("UPSeg, frozen", "upseg", (FOUR, SAR), 7)
    yield Row("UPSeg, all learns", "upseg", (FOUR, SAR), 7, {"tuning": "full"})
    # The last FR's second output, and an offset before the decoder's norm.
    yield Row(
        "VSGNet", "vsgnet", (RGB, DEPTH), 5, {"backbone": giant}, 54.7, learning=True,
        unused=2 * 576**2 + 576 + 512,
    )  # fmt: skip
    yield from _cmx()
    yield from _dformer()
    yield Row("MCANet, ResNet-101", "mcanet", (FOUR, SAR), 7)
    yield Row("PAGNet, rx50", "pagnet", (RGB, DEPTH), 9, published=12.7)
    yield Row("PAGNet, mobile", "pagnet", (RGB, DEPTH), 9, {"variant": "mobile"}, 6.07, digits=2)
    # A layer of each dense ASPP.
    yield Row(
        "AMM-FuseNet", "ammfusenet", (FOUR, ONE_SAR), 6, published=62.30, digits=2,
        unused=2 * (256 * 256 + 2 * 256),
    )  # fmt: skip
    yield Row("SSLViT", "sslvit", (SAR, THIRTEEN), 8, published=83.07, digits=2)
    yield Row("CROMA base, UPerNet", "croma", (S2, SAR), 7)
    yield Row("CROMA large, UPerNet", "croma", (S2, SAR), 7, {"backbone": "croma_large"})
    # ImageNet's classifiers of both encoders.
    yield Row(
        "DeCUR, ResNet-50", "decur", (RGB, COLOURS), 11, published=53.88, digits=2,
        unused=2 * (2048 * 1000 + 1000),
    )  # fmt: skip


def counts(model: Segmenter) -> tuple[int, int]:
    """Parameters, and how many of them learn."""
    parameters = list(model.parameters())
    return (
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
    )


def line(row: Row, crop: int) -> str:
    """A row in Markdown."""
    model = row.build()
    total, learning = counts(model)
    bands = " + ".join(str(len(m.bands)) for m in row.modalities)
    published = "" if row.published is None else f"{row.published:.{row.digits}f}"
    if row.published is not None:
        published += " learn" if row.learning else ""
        published += f" (+ {row.unused / 1e6:.2f})" if row.unused >= 5000 else ""
    cells = [
        row.title, bands, str(row.classes), f"{total / 1e6:,.2f}", f"{learning / 1e6:,.2f}",
        published, f"{forward_flops(model, crop) / 1e9:,.0f}", row.flops,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--crop", type=int, default=512, help="height and width of the sample")
    args = parser.parse_args()
    heads = [
        "method", "bands", "classes", "parameters, M", "learning, M", "published, M",
        f"GFLOPs at {args.crop}²", "published GMACs",
    ]  # fmt: skip
    print(f"| {' | '.join(heads)} |")
    print("|---|---|---:|---:|---:|---|---:|---|")
    for row in rows():
        print(line(row, args.crop), flush=True)


if __name__ == "__main__":
    main()

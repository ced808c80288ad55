"""Speed and memory of MFNet's encoder against the paper's formulas written down as they stand.

    python benchmarks/tuning.py [--backbone samvit_base_patch16] [--size 256] [--batch 1]
        [--tunings adapter lora] [--device cpu] [--bf16] [--compile] [--runs 5]

"plain" is a transcription of the formulas: one modality after the other, maps filled up with zeros
that run through every layer of a window, softmax over scores with the bias of every pair of tokens
in memory. Both have the same weights; that their logits agree is checked first. A row is the
fastest of several runs, the two alternating. Memory is the growth of the process over the one that
holds model and batch, each case in a process of its own (on a GPU: the allocator's peak).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrafuse.backbones.timm.sam_attention import relative_positions
from terrafuse.methods import MFNet
from terrafuse.modalities import Modality
from terrafuse.tuning.adapter import AdaptedMlp, AdaptedProjection
from terrafuse.tuning.lora import LoRALinear
from terrafuse.version import VERSION

MODALITIES = (Modality("rgb", ("r", "g", "b")), Modality("dsm", ("z",)))
CLASSES = 6


class PlainEncoder(nn.Module):
    """The tuned encoder of an `MFNet`, computed as the paper's formulas stand.

    Args:
        backbone: Whose parameters are used.
    """

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.channels, self.strides = backbone.channels, backbone.strides

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps of both modalities, as the backbone returns them."""
        vit = self.backbone.vit
        streams = []
        for part in image.chunk(2):
            tokens, (h, w) = self.backbone.embed(part)
            streams.append(tokens.view(len(part), h, w, -1))
        for block in vit.blocks:
            streams = plain_block(block, streams)
        return [torch.cat([vit.neck(x.permute(0, 3, 1, 2)) for x in streams])]


def plain_block(block: Any, streams: list[Tensor]) -> list[Tensor]:
    """A block of MMAdapter or MMLoRA on the maps (N, h, w, D) of two modalities."""
    streams = [
        x + plain_attention(block, block.norm1(x), modality) for modality, x in enumerate(streams)
    ]
    normed = [block.norm2(x) for x in streams]
    if isinstance(block.mlp, AdaptedMlp):
        added = mix([a(x) for a, x in zip(block.mlp.adapters, normed, strict=True)], block.mlp)
        plain = [block.mlp.base(x) for x in normed]
        return [x + f + a for x, f, a in zip(streams, plain, added, strict=True)]
    hidden = [block.mlp.act(x) for x in mixed_linear(block.mlp.fc1, normed)]
    return [x + f for x, f in zip(streams, mixed_linear(block.mlp.fc2, hidden), strict=True)]


def mixed_linear(layer: Any, inputs: list[Tensor]) -> list[Tensor]:
    """Linear layer with updates that mix two modalities."""
    updates = [F.linear(F.linear(x, layer.down[m]), layer.up[m]) for m, x in enumerate(inputs)]
    mixed = mix(updates, layer)
    return [layer.base(x) + update for x, update in zip(inputs, mixed, strict=True)]


def mix(parts: list[Tensor], layer: Any) -> list[Tensor]:
    """Own and other part by the gates."""
    (x, y), (wx, wy) = parts, layer.mixing.own
    return [wx * x + (1 - wx) * y, wy * y + (1 - wy) * x]


def plain_attention(block: Any, x: Tensor, modality: int) -> Tensor:
    """Attention in windows of a map (N, h, w, D) filled up with zeros."""
    samples, height, width, dim = x.shape
    size = block.window_size
    if size == 0:
        return projected(block.attn, attended(block.attn, x, modality), modality)
    down, across = -(-height // size), -(-width // size)
    x = F.pad(x, (0, 0, 0, across * size - width, 0, down * size - height))
    x = x.view(samples, down, size, across, size, dim).transpose(2, 3).reshape(-1, size, size, dim)
    x = projected(block.attn, attended(block.attn, x, modality), modality)
    x = x.view(samples, down, across, size, size, dim).transpose(2, 3)
    return x.reshape(samples, down * size, across * size, dim)[:, :height, :width]


def attended(attn: Any, x: Tensor, modality: int) -> Tensor:
    """softmax(q kᵀ / √d + bias) v with the bias of every pair of tokens."""
    samples, height, width, dim = x.shape
    heads = attn.num_heads
    qkv = qkv_of(attn.qkv, x.reshape(samples, height * width, dim), modality)
    q, k, v = qkv.view(samples, height * width, 3, heads, -1).permute(2, 0, 3, 1, 4)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    maps = q.reshape(samples, heads, height, width, -1)
    by_row = relative_positions(attn.rel_pos_h, height, height)
    by_col = relative_positions(attn.rel_pos_w, width, width)
    rows = torch.einsum("bnhwd,hkd->bnhwk", maps, by_row)[..., :, None]
    cols = torch.einsum("bnhwd,wkd->bnhwk", maps, by_col)[..., None, :]
    scores = (scores.view(samples, heads, height, width, height, width) + rows + cols).view_as(
        scores
    )
    x = scores.softmax(dim=-1) @ v
    return x.transpose(1, 2).reshape(samples, height, width, dim)


def qkv_of(layer: Any, x: Tensor, modality: int) -> Tensor:
    """Queries, keys and values, with the updates of the modality to the first and last third."""
    if not isinstance(layer, LoRALinear):
        return layer(x)
    q, k, v = layer.base(x).chunk(3, dim=-1)
    (aq, av), (bq, bv) = layer.down[modality].chunk(2), layer.up[modality].chunk(2)
    q = q + F.linear(F.linear(x, aq), bq) * layer.scale
    v = v + F.linear(F.linear(x, av), bv) * layer.scale
    return torch.cat([q, k, v], dim=-1)


def projected(attn: Any, x: Tensor, modality: int) -> Tensor:
    """Projection, and the adapter with its residual where there is one."""
    if not isinstance(attn.proj, AdaptedProjection):
        return attn.proj(x)
    x = attn.proj.base(x)
    return x + attn.proj.adapters[modality](x)


def build(args: argparse.Namespace, tuning: str) -> tuple[MFNet, dict[str, Tensor], Tensor]:
    """A model with random weights that are all used, a batch, its labels."""
    torch.manual_seed(0)
    model = MFNet(MODALITIES, CLASSES, backbone=args.backbone, tuning=tuning)
    with torch.no_grad():
        for name, parameter in model.backbone.named_parameters():
            if name.endswith((".up", "rel_pos_h", "rel_pos_w")):
                nn.init.normal_(parameter, std=0.02)
    shape = (args.batch, args.size, args.size)
    images = {m.name: torch.rand(shape[0], len(m.bands), *shape[1:]) for m in MODALITIES}
    labels = torch.randint(0, CLASSES, shape)
    images = {name: image.to(args.device) for name, image in images.items()}
    return model.to(args.device), images, labels.to(args.device)


def case(
    args: argparse.Namespace, model: MFNet, images: dict[str, Tensor], labels: Tensor, task: str
) -> Callable[[], None]:
    """A function that does one training step, or one inference."""
    precision = torch.autocast(args.device, torch.bfloat16, enabled=args.bf16)
    if task == "inference":
        model.eval()

        def run() -> None:
            with torch.inference_mode(), precision:
                model(images)
    else:
        model.train()
        learnt = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(learnt, lr=1e-6)

        def run() -> None:
            with precision:
                logits = model(images).logits
            F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def prepare(args: argparse.Namespace, kind: str, tuning: str, task: str) -> Callable[[], None]:
    """The case of a table's cell."""
    model, images, labels = build(args, tuning)
    if kind == "plain":
        model.backbone = PlainEncoder(model.backbone)  # type: ignore[assignment]
    if args.compile:
        model.backbone = torch.compile(model.backbone)  # type: ignore[assignment]
    return case(args, model, images, labels, task)


def check_equal(args: argparse.Namespace, tuning: str) -> float:
    """Largest difference of the logits between the two, in float32."""
    model, images, _ = build(args, tuning)
    model.eval()
    with torch.inference_mode():
        ours = model(images).logits
        model.backbone = PlainEncoder(model.backbone)  # type: ignore[assignment]
        return float((model(images).logits - ours).abs().max())


def peak_mib(args: argparse.Namespace, kind: str, tuning: str, task: str) -> float:
    """Growth of memory during two runs, MiB; to be called in a fresh process."""
    run = prepare(args, kind, tuning, task)
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(), run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # Linux: begin to look for the peak anew
    before = process_mib("VmRSS")
    run(), run()
    return process_mib("VmHWM") - before


def process_mib(field: str) -> float:
    """Memory of this process now ("VmRSS") or at its peak ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 2**10


def seconds(args: argparse.Namespace, tuning: str, task: str) -> dict[str, float]:
    """Fastest run of each kind, alternating."""
    runs = {kind: prepare(args, kind, tuning, task) for kind in ("plain", "ours")}
    best = dict.fromkeys(runs, float("inf"))
    for number in range(args.runs + 1):
        for kind, run in runs.items():
            start = time.perf_counter()
            run()
            if args.device == "cuda":
                torch.cuda.synchronize()
            if number:  # the first warms up
                best[kind] = min(best[kind], time.perf_counter() - start)
    return best


def memory_in_new_process(words: list[str], kind: str, tuning: str, task: str) -> float:
    """`peak_mib` where nothing has been used before."""
    command = [sys.executable, __file__, *words, "--cell", kind, tuning, task]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print the table, or the memory of one cell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backbone", default="samvit_base_patch16")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tunings", nargs="+", default=["adapter", "lora"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        print(json.dumps(peak_mib(args, *args.cell)))
        return
    device = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor()
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()}"
    print(
        f"terrafuse {VERSION}, torch {torch.__version__}, {device or platform.machine()}, "
        f"{threads}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}\n"
        f"{args.backbone}, two modalities, {args.size} × {args.size}, batch {args.batch}, "
        f"{'bf16' if args.bf16 else 'float32'}{', compiled' if args.compile else ''}\n"
    )
    print("| tuning | task | plain s | ours s | faster | plain MiB | ours MiB | memory |")
    print("|---|---|---|---|---|---|---|---|")
    for tuning in args.tunings:
        difference = check_equal(args, tuning)
        assert difference < 1e-3, f"{tuning}: logits differ by {difference}"
        for task in ("training step", "inference"):
            time_s = seconds(args, tuning, task)
            mib = {
                kind: memory_in_new_process(sys.argv[1:], kind, tuning, task)
                for kind in ("plain", "ours")
            }
            print(
                f"| {tuning} | {task} | {time_s['plain']:.3f} | {time_s['ours']:.3f} "
                f"| {time_s['plain'] / time_s['ours']:.2f} × | {mib['plain']:.0f} "
                f"| {mib['ours']:.0f} | {mib['ours'] / mib['plain']:.0%} |",
                flush=True,
            )
        print(f"\nlargest difference of logits, {tuning}: {difference:.1e}\n")


if __name__ == "__main__":
    main()

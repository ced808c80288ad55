"""Every method as a graph: torch's own and ONNX say what the model says, for batches and sizes.

The default run has a few methods that need different means (pooling and resizing to symbols, masks
of missing modalities, tokens with positions, windows); the others are marked slow, and are all run
by `benchmarks/exports.py` too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from small_methods import SMALL
from terrafuse.contract import Case, random_images
from terrafuse.errors import ModelError
from terrafuse.exporting import open_onnx, to_onnx, to_program
from terrafuse.methods import METHODS
from terrafuse.segmenter import Segmenter

#: Tried by default, as a graph of torch and as ONNX; the rest takes minutes.
QUICK_PROGRAMS = ("galileo-0", "decur-0", "croma-0", "ammfusenet-0")
QUICK_ONNX = ("early_fusion-0",)
#: Largest difference of two logits; per unit of the largest of them where it is above 1.
CLOSE = 1e-4
#: Of pixels whose label is another.
MOST_OTHER = 1e-4
#: PAGNet without training makes 0.1 of a rounding of 1e-7, the others less than 1e-5 of their
#: logits. Of it, sums in another order may differ by as much as so many inputs that are rounded
#: otherwise do; and where rounding decides whether a pixel has an edge at all, so that float64
#: differs by more than a part of the largest logit, a sample says nothing of the graph.
SENSITIVE, ROUNDINGS, DECIDED = "pagnet", 4, 1e-3

#: Options that torch cannot keep all sizes open of; docs/howto/export.md says so.
CLOSED = {"vsgnet-1", "upseg-5"}

Graph = Callable[[dict[str, Tensor]], Tensor]


def _cases(quick: tuple[str, ...]) -> list[Any]:
    cases = []
    for name in METHODS:
        for number, options in enumerate(SMALL.get(name, [{}])):
            key = f"{name}-{number}"
            marks = [] if key in quick else [pytest.mark.slow]
            if key not in CLOSED:
                cases.append(pytest.param(Case(name, options), id=key, marks=marks))
    return cases


@pytest.mark.parametrize("case", _cases(QUICK_PROGRAMS))
def test_a_program_of_torch_says_what_the_model_says(case: Case) -> None:
    segmenter = case.make()
    check(segmenter, run_program(segmenter), ROUNDINGS if case.method == SENSITIVE else 0)


@pytest.mark.parametrize("case", _cases(QUICK_ONNX))
def test_an_onnx_file_says_what_the_model_says(case: Case, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    segmenter = case.make()
    graph = open_onnx(to_onnx(segmenter, tmp_path / "model.onnx"), segmenter.modalities)
    check(segmenter, graph, ROUNDINGS if case.method == SENSITIVE else 0)


@pytest.mark.slow
def test_a_plain_transformer_beside_raw_tokens_cannot_be_recorded() -> None:
    segmenter = Case("vsgnet", SMALL["vsgnet"][1]).make()
    with pytest.raises(ModelError, match=r"'vsgnet' cannot be recorded .*Constraints violated"):
        to_program(segmenter)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["program", "onnx"])
def test_pooled_prompts_on_own_grids_keep_to_the_recorded_grid(kind: str, tmp_path: Path) -> None:
    segmenter = Case("upseg", SMALL["upseg"][5]).make()
    if kind == "program":
        graph, refusal = run_program(segmenter), "Guard failed"
    else:
        path = to_onnx(segmenter, tmp_path / "model.onnx")
        graph = open_onnx(path, segmenter.modalities)
        refusal = "cannot be reshaped"
    unit, least = segmenter.size_unit, segmenter.least_units
    recorded = ((least + 1) * unit, least * unit)
    images = random_images(segmenter.modalities, recorded, 2)
    with torch.no_grad():
        wanted = segmenter(images).logits
    torch.testing.assert_close(graph(images), wanted, rtol=0, atol=CLOSE)
    other = next(images for images, _ in _batches(segmenter))
    with pytest.raises(Exception, match=refusal):
        graph(other)


def run_program(segmenter: Segmenter) -> Graph:
    module = to_program(segmenter).module()

    def run(images: dict[str, Tensor]) -> Tensor:
        logits: Tensor = module(*(images[m.name] for m in segmenter.modalities))
        return logits

    return run


@torch.no_grad()
def check(segmenter: Segmenter, graph: Graph, roundings: int = 0) -> None:
    """Compare a graph with its model on batches of one to three, wide, high and least windows.

    Args:
        roundings: Inputs rounded otherwise by whose differences the graph's may be larger.
    """

    def own(images: dict[str, Tensor]) -> Tensor:
        return segmenter(images).logits

    other, allowed, left_out, samples = 0, 0.0, 0, 0
    for images, what in _batches(segmenter):
        wanted, found = own(images), graph(images)
        shaken = own(shake(images)) if roundings else wanted
        assert found.shape == wanted.shape, what
        assert found.dtype == torch.float32, what
        if roundings:
            judged = decided(segmenter, images, wanted)
            left_out, samples = left_out + int((~judged).sum()), samples + len(judged)
            wanted, found, shaken = (x[judged] for x in (wanted, found, shaken))
            if not judged.any():
                continue
        scale = max(1.0, float(wanted.abs().max()))
        most = CLOSE * scale + roundings * float((shaken - wanted).abs().max())
        assert float((found - wanted).abs().max()) <= most, what
        other += _others(found, wanted)
        allowed += MOST_OTHER * wanted[:, 0].numel() + roundings * _others(shaken, wanted)
    assert other <= allowed
    assert left_out <= samples / 3


def decided(segmenter: Segmenter, images: dict[str, Tensor], wanted: Tensor) -> Tensor:
    """Samples (N,) of which the model in float64 says what it says in float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", Tensor.double)  # methods raise half precision so
        exact = deepcopy(segmenter).double()({m: x.double() for m, x in images.items()}).logits
    apart = (exact - wanted).abs().flatten(1).amax(dim=1)
    return apart <= DECIDED * wanted.abs().flatten(1).amax(dim=1)


def shake(images: dict[str, Tensor]) -> dict[str, Tensor]:
    """Change values as little as rounding does."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: x * (1 + 1e-7 * torch.randn(x.shape, generator=generator))
        for name, x in images.items()
    }


def _others(found: Tensor, wanted: Tensor) -> int:
    return int((found.argmax(dim=1) != wanted.argmax(dim=1)).sum())


def _batches(segmenter: Segmenter) -> Iterator[tuple[dict[str, Tensor], str]]:
    unit, least = segmenter.size_unit, segmenter.least_units
    for batch, rows, cols in ((1, least, least + 2), (2, least + 3, least), (3, least, least)):
        images = random_images(segmenter.modalities, (rows * unit, cols * unit), batch)
        yield images, f"{batch} of {rows} × {cols} units"
        for x in images.values():
            x[0, :, :, : x.shape[-1] // 3] = torch.nan  # no data in a part of a sample
            x[:, 0, : x.shape[-2] // 5] = torch.nan  # nor in a part of a band
        yield images, f"{batch} of {rows} × {cols} units, with gaps"
        if segmenter.supports_missing and batch != 2:
            for name in images:  # the first, too
                lacking = {key: x.clone() for key, x in images.items()}
                lacking[name][-1] = torch.nan  # of one sample; with a batch of one, of all
                yield lacking, f"{batch} of {rows} × {cols} units, the last without '{name}'"

"""benchmarks/train.py: what it compares with is of the method's size, and learns."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from small_methods import SMALL
from terrafuse.contract import CLASSES, Case, random_images

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def learning(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("method", ["cmx", "croma", "mfnet", "upseg", "vsgnet"])
def test_a_transcription_has_the_parameters_of_the_method(method: str) -> None:
    options = SMALL[method][0]
    case = Case(method, options)
    own = case.start()
    transcription: Any = importlib.import_module(f"transcriptions.{method}")
    torch.manual_seed(0)
    model: nn.Module = transcription.build(case.inputs, CLASSES, options)
    # But for offsets before norms, and the 1 × 1 convolution that makes two bands three.
    assert abs(learning(model) - learning(own)) <= 9
    images = random_images(case.inputs, (64, 96))
    assert len(images) == 2
    logits = model(images)
    assert logits.shape == (2, CLASSES, 64, 96)
    logits.square().mean().backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    # Both modalities have a say.
    other = dict(images) | {case.inputs[1].name: images[case.inputs[1].name] + 1}
    assert not torch.allclose(model.eval()(images), model(other))


def test_a_step_is_timed_between_the_warm_ones_and_the_last() -> None:
    train: Any = importlib.import_module("train")
    clock = train.Clock()
    times = [0.0] * train.WARM + [10.0, 12.0, 17.0]
    assert clock.of_a_step(times) == 3.5
    row = train.Row("m", whole=[0.2, 0.1], alone=[0.3, 0.09], transcribed=[0.4, 0.15])
    row.reader, row.waited, row.first = [0.02], [0.001], [1.0, 0.25]
    assert row.share == pytest.approx(0.9)
    cells = row.cells(4)
    assert cells[:6] == ["m", "40.0", "90.0", "100.0", "0.90", "1.50 ×"]
    assert cells[6:] == ["20.0", "1.0", "1.00", "0.25", "0"]

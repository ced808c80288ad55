from __future__ import annotations

import time

import pytest

from terrafuse.config import DataConfig, MethodConfig, RunConfig, TrainingConfig
from terrafuse.data import load_manifest
from terrafuse.landscape import make_landscape
from terrafuse.training import step_timing, time_steps


@pytest.fixture
def manifest(tmp_path):
    return load_manifest(make_landscape(tmp_path, size=64, train=1, val=0, test=0))


def config(manifest, accumulate: int = 1, **method) -> RunConfig:
    options = {"backbone": "resnet10t", "decoder": "segformer", "weights": "timm"} | method
    return RunConfig(
        data=DataConfig(manifest=manifest.path, crop_size=32, batch_size=2, workers=0),
        method=MethodConfig(name="late_fusion", decoder_options={"channels": 16}, **options),
        training=TrainingConfig(steps=3, accelerator="cpu", accumulate=accumulate),
    )


def test_steps_are_timed_without_weights_or_pixels(manifest, monkeypatch):
    """Pretrained weights are not fetched, and no raster is opened."""
    monkeypatch.setattr("terrafuse.data.scene.Scene._open", None)
    start = time.perf_counter()
    seconds = time_steps(config(manifest), manifest)
    assert 0 < seconds < time.perf_counter() - start


def test_accumulated_batches_and_the_fastest_step_count(manifest, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(step_timing.time, "perf_counter", lambda: next(clock) ** 2)
    # Steps take 1 (first, left out), 5, 9 seconds by this clock.
    assert time_steps(config(manifest), manifest) == 5
    batches = []
    inner = step_timing.SegmentationTask

    class Counting(inner):
        def __init__(self, segmenter, *rest):
            super().__init__(segmenter, *rest)
            segmenter.register_forward_hook(lambda *_: batches.append(1))

    monkeypatch.setattr(step_timing, "SegmentationTask", Counting)
    time_steps(config(manifest, accumulate=3), manifest, repeats=1)
    assert len(batches) == 6

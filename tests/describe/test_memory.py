"""Memory before the start: derived by hand and from real passes, refused with settings that fit."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import terrafuse.describe.memory as memory
from terrafuse.config import RunConfig
from terrafuse.config.base import parse_settings
from terrafuse.describe import without_values
from terrafuse.describe.costs import _Live, inference_peak, step_peak
from terrafuse.describe.memory import build_again, check_prediction, check_training, fit_batch
from terrafuse.errors import NotEnoughMemoryError
from terrafuse.methods import create_segmenter
from terrafuse.modalities import Modality
from terrafuse.segmenter import Segmenter, SensorModel

RGB, DSM = Modality("rgb", ("r", "g", "b"), kind="optical"), Modality("dsm", ("height",))
RESNET: dict[str, Any] = {
    "backbone": "resnet18",
    "backbone_options": {"channels": [4, 6, 8, 10], "layers": [1, 1, 1, 1]},
    "decoder": "segformer",
    "decoder_options": {"channels": 8},
}
VIT: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_options": {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64},
    "decoder": "segformer",
    "decoder_options": {"channels": 8},
}
CPU = torch.device("cpu")


def settings(batch: int, crop: int, **training: Any) -> RunConfig:
    values: dict[str, Any] = {
        "data": {"manifest": "dataset.yaml", "crop_size": crop, "batch_size": batch},
        "method": {"name": "single"},
        "training": {"accelerator": "cpu"} | training,
    }
    return parse_settings(RunConfig, values, "run.yaml")


def model() -> Segmenter:
    return create_segmenter("early_fusion", (RGB, DSM), 6, RESNET)


@pytest.mark.parametrize(("freed", "alive"), [(False, 3), (True, 2)])
def test_the_most_that_is_alive_by_hand(freed: bool, alive: int) -> None:
    def loss(_: SensorModel, crop_size: int, samples: int) -> Tensor:
        x = torch.ones(samples, crop_size)
        y = x + 1
        if freed:
            del x
        z = y * 2
        z += 1  # in place
        return z[:, :5].sum()  # a view, and a number

    assert step_peak(SensorModel([DSM]), 100, 7, loss=loss) == alive * 4 * 7 * 100 + 4


def test_gradients_are_alive_twice_by_hand() -> None:
    """Of the step before while the pass runs forward, and of its own at the end."""
    shapes = without_values(lambda: SensorModel([DSM]))
    shapes.weight = nn.Parameter(torch.empty(50, 100, device="meta"))

    def loss(_: SensorModel, crop_size: int, samples: int) -> Tensor:
        x = torch.ones(samples, crop_size)
        return F.linear(x, shapes.weight).sum()

    x, y, number, gradient = 4 * 7 * 100, 4 * 7 * 50, 4, 4 * 50 * 100
    assert step_peak(shapes, 100, 7, loss=loss) == x + y + number + gradient
    assert shapes.weight.grad is None


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("early_fusion", RESNET | {"aux": True}),
        ("mfnet", RESNET | {"tuning": "full"}),
        ("mfnet", VIT | {"tuning": "adapter"}),
    ],
)
def test_it_is_that_of_a_real_pass(method: str, options: dict[str, Any]) -> None:
    real = create_segmenter(method, (RGB, DSM), 6, options).train()
    shapes = without_values(partial(build_again, real))
    live = _Live([*real.parameters(), *real.buffers()])
    with live:
        output = real(images())
        labels = torch.zeros(3, 64, 64, dtype=torch.long)
        terms = [F.cross_entropy(x, labels) for x in (output.logits, *output.aux_logits)]
        loss = torch.stack(terms).sum()
        del output, terms, labels
        loss.backward()
    gradients = sum(p.nbytes for p in real.parameters() if p.requires_grad)
    assert 0.9 * live.most < step_peak(shapes, 64, 3) < 1.1 * (live.most + gradients)
    live = _Live([*real.parameters(), *real.buffers()])
    real.eval()
    with torch.no_grad(), live:
        real(images())
    assert inference_peak(shapes, 64, 3) == pytest.approx(live.most, rel=0.1)


def images() -> dict[str, Tensor]:
    return {"rgb": torch.rand(3, 3, 64, 64), "dsm": torch.rand(3, 1, 64, 64)}


def needed(batch: int, crop: int) -> int:
    """What the check counts with, from the message of a machine with almost no memory."""
    shapes = without_values(partial(build_again, model()))
    learning = sum(4 * p.numel() for p in shapes.parameters())
    read = 2 * batch * (crop**2 * (4 * 4 + 2 + 8))
    step = int(step_peak(shapes, crop, batch) * (1 + memory.CPU_PART)) + memory.CPU_ONCE
    return 2 * learning + step + read


def train_check(config: RunConfig, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: free)
    segmenter = model()
    check_training(segmenter, config.training, config.data, build=partial(build_again, segmenter))


def test_too_large_a_batch_is_refused_with_one_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    free = needed(100, 64)
    with pytest.raises(NotEnoughMemoryError) as caught:
        train_check(settings(200, 64), free, monkeypatch)
    found = re.search(
        r"^training with batch size 200 and crop size 64 needs about (.+) of memory, and (.+) are "
        r"free\. Try data\.batch_size (\d+) \(about (.+)\)$",
        str(caught.value),
    )
    assert found is not None
    assert found[1] == memory.in_words(needed(200, 64))
    assert found[2] == memory.in_words(free)
    batch = int(found[3])
    assert found[4] == memory.in_words(needed(batch, 64))
    # The largest that leaves a fifth free; it is neither refused nor warned of.
    assert needed(batch, 64) <= 0.8 * free < needed(batch + 1, 64)
    train_check(settings(batch, 64), free, monkeypatch)


def test_a_batch_near_the_limit_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    free = needed(100, 64)
    with pytest.warns(UserWarning, match=r"it may end for want of memory\. Try data\.batch_size"):
        train_check(settings(100, 64), free, monkeypatch)
    with pytest.warns(UserWarning, match="it may end"):
        train_check(settings(100, 64), int(free / 1.19), monkeypatch)
    with pytest.raises(NotEnoughMemoryError):
        train_check(settings(100, 64), int(free / 1.21), monkeypatch)
    train_check(settings(100, 64), int(free / 0.89), monkeypatch)


def test_too_large_a_crop_is_refused_with_one_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    free = needed(1, 1024) // 2
    with pytest.raises(NotEnoughMemoryError) as caught:
        train_check(settings(4, 1024), free, monkeypatch)
    found = re.search(
        r"Try data\.crop_size (\d+)(?: and data\.batch_size (\d+))?", str(caught.value)
    )
    assert found is not None
    assert int(found[1]) < 1024
    train_check(settings(int(found[2] or 4), int(found[1])), free, monkeypatch)


def test_where_nothing_fits_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotEnoughMemoryError, match=r"10 MB are free\. Choose a smaller model"):
        train_check(settings(8, 64), 10_000_000, monkeypatch)
    train_check(settings(8, 64), 100 * 10**9, monkeypatch)  # a machine with more memory


def test_where_a_model_is_too_large_a_smaller_one_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    large = RESNET | {"backbone_options": {"channels": [256] * 4, "layers": [2, 2, 2, 2]}}
    free = 2 * needed(8, 64)
    monkeypatch.setattr(memory, "free_memory", lambda: free)
    config = settings(8, 64)
    segmenter = create_segmenter("early_fusion", (RGB, DSM), 6, large)
    assert sum(4 * p.numel() for p in segmenter.parameters()) > free / 10
    with pytest.raises(NotEnoughMemoryError, match=r"Choose a smaller model"):
        check_training(
            segmenter, config.training, config.data, build=partial(build_again, segmenter)
        )
    train_check(config, free, monkeypatch)


def test_unknown_memory_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    config, segmenter = settings(65536, 1024), model()
    check_training(segmenter, config.training, config.data, build=partial(build_again, segmenter))


def test_a_model_that_reads_values_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 10**9)
    config, segmenter = settings(4000, 64), model()

    def loss(shapes: Segmenter, crop_size: int, samples: int) -> Tensor:
        return torch.ones(samples, crop_size)[torch.rand(samples, crop_size) > 0.5].sum()

    def check() -> None:
        build = partial(build_again, segmenter)
        check_training(segmenter, config.training, config.data, build=build, loss=loss)

    told = (
        r"^the memory that EarlyFusion needs is not known before .* \(NotImplementedError: .*zero"
    )
    with pytest.warns(UserWarning, match=told):
        check()
    monkeypatch.setattr(memory, "free_memory", lambda: 10**14)
    check()  # whatever it is, it fits


def test_the_check_draws_no_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_rng_state()
    segmenter = model()
    after = torch.get_rng_state()
    assert not torch.equal(before, after)
    monkeypatch.setattr(memory, "free_memory", lambda: 10**12)
    config = settings(4000, 64)
    check_training(segmenter, config.training, config.data, build=partial(build_again, segmenter))
    assert torch.equal(torch.get_rng_state(), after)


def map_check(
    batch: int, crop: int, free: int, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: free)
    sizes = options.pop("sizes", [(500, 2000), (100, 3000)])
    check_prediction(model(), crop, batch, sizes, CPU, **options)


@pytest.mark.parametrize(
    ("by_options", "pattern"),
    [
        (True, r"(?:--crop-size (\d+) --overlap (\d+) )?--batch-size (\d+)"),
        (
            False,
            r"(?:prediction\.crop_size (\d+) and prediction\.overlap (\d+) and )?"
            r"prediction\.batch_size (\d+)",
        ),
    ],
)
@pytest.mark.parametrize(("batch", "crop", "free"), [(4000, 64, 3 * 10**8), (64, 4096, 6 * 10**8)])
def test_windows_are_refused_with_those_that_fit(
    by_options: bool,
    pattern: str,
    batch: int,
    crop: int,
    free: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(NotEnoughMemoryError) as caught:
        map_check(batch, crop, free, monkeypatch, by_options=by_options)
    found = re.search(rf"free\. Try {pattern} \(about", str(caught.value))
    assert found is not None
    assert (found[1] is None) == (crop == 64)
    if found[1]:
        assert int(found[2]) * 4 == int(found[1])
    map_check(int(found[3]), int(found[1] or crop), free, monkeypatch)


def test_windows_that_are_enlarged_count_as_they_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Memory for windows of 64 pixels does not suffice for the same at 80."""
    with pytest.raises(NotEnoughMemoryError) as caught:
        map_check(4000, 64, 3 * 10**8, monkeypatch)
    fits = int(re.search(r"--batch-size (\d+)", str(caught.value))[1])
    map_check(fits, 64, 3 * 10**8, monkeypatch)
    with pytest.raises(NotEnoughMemoryError) as caught:
        map_check(4 * fits // 3, 64, 3 * 10**8, monkeypatch, enlarged=1.25)
    found = int(re.search(r"--batch-size (\d+)", str(caught.value))[1])
    assert found < fits
    map_check(found, 64, 3 * 10**8, monkeypatch, enlarged=1.25)


def fitted(batch: int, free: int | None, device: torch.device = CPU) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "_free", lambda _: free)
        return fit_batch(model(), 64, batch, [(500, 2000)], device)


def test_a_batch_is_made_smaller_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU: to what the refusal of the wanted one names, and never larger."""
    free = 3 * 10**8
    with pytest.raises(NotEnoughMemoryError) as caught:
        map_check(4000, 64, free, monkeypatch, sizes=[(500, 2000)])
    fits = int(re.search(r"--batch-size (\d+)", str(caught.value))[1])
    assert fitted(4000, free) == fits
    assert fitted(fits, free) == fits
    assert fitted(3, free) == 3
    assert fitted(3, 10**14) == 3
    assert fitted(5000, None) == 5000
    assert fitted(7, 1000) == 7  # nothing fits: the check that follows says so


def test_an_accelerator_gets_as_many_windows_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert fitted(4, 10**14, cuda) == memory.MOST_AT_ONCE
    assert fitted(100, 10**14, cuda) == 100
    sizes = {free: fitted(2, free, cuda) for free in (1000, 10**7, 2 * 10**7, 4 * 10**7, 10**8)}
    assert sizes[1000] == 2
    assert list(sizes.values()) == sorted(sizes.values())
    assert {n for n in sizes.values() if n > 2} <= {4, 8, 16, 32, 64}
    assert len(set(sizes.values())) >= 3
    monkeypatch.setattr(memory, "_free", lambda _: 4 * 10**7)
    found = sizes[4 * 10**7]
    check_prediction(model(), 64, found, [(500, 2000)], cuda)  # neither refused nor warned of


def test_what_products_hold_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 10**9)
    check_prediction(model(), 64, 1, [(64, 300_000)], CPU)
    with pytest.raises(NotEnoughMemoryError, match=r"needs about 2\.0 GB"):
        # 25 bytes and 75 more, of 64 rows: 1.92 GB beside the pass itself
        check_prediction(model(), 64, 1, [(64, 300_000)], CPU, further_bytes=75)


def test_each_worker_counts_and_fewer_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds 500 MB of its own beside its windows."""
    map_check(4, 64, 3 * 10**9, monkeypatch)
    with pytest.raises(NotEnoughMemoryError) as caught:
        map_check(4, 64, 3 * 10**9, monkeypatch, processes=40)
    found = re.search(r"mapping with 40 workers, .* Try --workers (\d+) \(about", str(caught.value))
    assert found is not None, caught.value
    assert 2 <= int(found[1]) <= 4
    map_check(4, 64, 3 * 10**9, monkeypatch, processes=int(found[1]))  # as the message says


def test_sums_of_logits_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six classes on a row of windows of a scene 10 million pixels wide."""
    monkeypatch.setattr(memory, "free_memory", lambda: 10**9)
    check_prediction(model(), 64, 1, [(64, 100_000)], CPU)
    with pytest.raises(NotEnoughMemoryError, match=r"needs about 16 GB"):
        check_prediction(model(), 64, 1, [(64, 10_000_000)], CPU)


def test_a_scene_larger_than_memory_is_not_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 10**9)
    sizes = [(100, 100), (20_000, 10_000)]
    check_prediction(model(), 64, 1, sizes, CPU)
    with pytest.raises(
        NotEnoughMemoryError,
        match=r"scoring a scene of 20000 × 10000 pixels needs about 3\.2 GB.*Divide the scene",
    ):
        check_prediction(model(), 64, 1, sizes, CPU, scored=True)
    check_prediction(model(), 64, 1, [(100, 100), *[(5000, 5000)] * 8], CPU, scored=True)

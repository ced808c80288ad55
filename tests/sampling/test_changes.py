"""Changes of a batch on its device are those of its samples one by one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from terrafuse.config import AugmentConfig
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.samples import Batch, Sample, Window, collate
from terrafuse.sampling.augment import Augment
from terrafuse.sampling.changes import TURN, change_batch, change_sample, turn_sample
from terrafuse.sampling.dataset import sample_generator

FINE = Modality("rgb", ("r", "g"), kind="optical")
COARSE = Modality("s1", ("vv",), kind="sar", scale=2.0, unit="amplitude")
DB = Modality("db", ("vv", "vh"), kind="sar", unit="dB", scale=4.0)
DSM = Modality("dsm", ("z",), kind="elevation", scale=0.5)
LINES = Modality("lines", ("l",), kind="structure")
ALL = (DSM, FINE, COARSE, DB, LINES)
STATISTICS = {
    m.name: BandStatistics(*([(value,) * len(m.bands) for value in (0.0, 2.5, 0.0, 1.0, 9)]))
    for m in ALL
}
STILL: dict[str, Any] = {
    "flip": False, "rotate": False, "gain": 0, "offset": 0, "speckle": 0, "shift_db": 0,
}  # fmt: skip
EACH: dict[str, dict[str, Any]] = {
    "flip": {"flip": True},
    "horizontal": {"flip": "horizontal"},
    "vertical": {"flip": "vertical"},
    "rotate": {"rotate": True},
    "gain": {"gain": 0.4},
    "offset": {"offset": 0.7},
    "blur": {"blur_sigma_px": 2.0},
    "speckle": {"speckle": 0.3},
    "shift_db": {"shift_db": 3.0},
    "elevation": {"elevation_shift_m": 30.0},
    "all": {
        "flip": True, "rotate": True, "gain": 0.4, "offset": 0.7, "blur_sigma_px": 2.0,
        "speckle": 0.3, "shift_db": 3.0, "elevation_shift_m": 30.0, "scale": (0.5, 2.0),
    },
}  # fmt: skip


def make_sample(number: int, *, size: int = 24, stored: bool = False) -> Sample:
    """Pixel sizes from half to four scene pixels, with gaps off centre and a modality absent."""
    generator = torch.Generator().manual_seed(number)
    images, valid = {}, {}
    for m in ALL:
        side = m.size_at(size)
        image = 20 + 200 * torch.rand(len(m.bands), side, side, generator=generator)
        known = torch.rand(side, side, generator=generator) < 0.8
        known[: side // 4, side // 2 :] = False
        if number % 3 == 1 and m is ALL[0]:  # the first modality is absent
            known[:] = False
        images[m.name] = image.byte() if stored else image.masked_fill(~known, torch.nan)
        valid[m.name] = known
    labels = torch.randint(0, 5, (size, size), generator=generator)
    return Sample(images, valid, labels, Window(0, 0, size, size), f"s{number}")


def both_ways(config: AugmentConfig, *, stored: bool = False, count: int = 12) -> list[Batch]:
    augment = Augment(config, ALL, STATISTICS, crop_size=24)
    samples = [make_sample(number, stored=stored) for number in range(count)]
    one_by_one = [augment(s, sample_generator(7, i)) for i, s in enumerate(samples)]
    prepared = [augment.prepare(s, sample_generator(7, i)) for i, s in enumerate(samples)]
    return [collate(one_by_one).physical(), change_batch(collate(prepared))]


def assert_close(found: Batch, expected: Batch) -> None:
    assert torch.equal(found.labels, expected.labels)
    for name, image in expected.images.items():
        assert torch.equal(found.valid[name], expected.valid[name]), name
        assert torch.equal(found.images[name].isnan(), image.isnan()), name
        # Of values up to 10³, some roundings of float32.
        torch.testing.assert_close(
            found.images[name], image, rtol=1e-5, atol=1e-4, equal_nan=True, msg=name
        )


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("change", EACH)
def test_every_change(change: str, stored: bool) -> None:
    one_by_one, in_a_batch = both_ways(AugmentConfig(**STILL | EACH[change]), stored=stored)
    assert_close(in_a_batch, one_by_one)
    still, _ = both_ways(AugmentConfig(**STILL), stored=stored)
    changed = [
        name
        for name, image in still.images.items()
        if not torch.equal(image.nan_to_num(-1), in_a_batch.images[name].nan_to_num(-1))
    ]
    expected = {
        "gain": ["rgb"], "offset": ["rgb"], "blur": ["rgb"], "elevation": ["dsm"],
        "speckle": ["s1", "db"], "shift_db": ["s1", "db"],
    }  # fmt: skip
    assert changed == expected.get(change, [m.name for m in ALL])
    assert not in_a_batch.draws


def test_without_any_change_nothing_is_drawn() -> None:
    augment = Augment(AugmentConfig(**STILL), ALL, STATISTICS, crop_size=24)
    prepared = augment.prepare(make_sample(0), sample_generator(0, 0))
    assert prepared.draws == {}
    batch = collate([prepared])
    assert_close(change_batch(batch), batch)


def turns(flips: tuple[int, int, int]) -> Tensor:
    return torch.tensor(flips)


@pytest.mark.parametrize("each", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_every_turn_of_images_masks_and_labels(each: tuple[int, int]) -> None:
    """Letters at the corners, as `turn_sample` moves them: to the last pixel."""
    samples = [replace(make_sample(n), draws={TURN: turns((*each, n))}) for n in range(4)]
    found = change_batch(collate(samples))
    for n, sample in enumerate(samples):
        expected = turn_sample(sample, bool(each[0]), bool(each[1]), n)
        assert torch.equal(found.labels[n], expected.labels)
        for name, image in expected.images.items():
            assert torch.equal(found.images[name][n].nan_to_num(-1), image.nan_to_num(-1))
            assert torch.equal(found.valid[name][n], expected.valid[name])


def test_all_turns_differ_by_hand() -> None:
    square = torch.tensor([[0.0, 1.0], [2.0, 3.0]])[None]  # a b over c d
    seen = {}
    for rows, cols, quarters in itertools.product((0, 1), (0, 1), range(4)):
        sample = Sample(
            {"m": square}, {"m": torch.ones(2, 2).bool()}, None, Window(0, 0, 2, 2), "s",
            draws={TURN: turns((rows, cols, quarters))},
        )  # fmt: skip
        image = change_batch(collate([sample])).images["m"]
        seen[rows, cols, quarters] = "".join("abcd"[int(value)] for value in image.ravel())
    assert seen[0, 0, 0] == "abcd"
    assert seen[1, 0, 0] == "cdab"
    assert seen[0, 1, 0] == "badc"
    assert seen[0, 0, 1] == "bdac"  # counter-clockwise
    assert seen[0, 0, 3] == "cadb"
    assert seen[1, 0, 1] == "dbca"  # flipped, then turned
    assert len(set(seen.values())) == 8


def test_samples_that_are_not_square_turn_by_halves() -> None:
    image = torch.rand(1, 4, 6)
    sample = Sample(
        {"m": image}, {"m": torch.ones(4, 6).bool()}, None, Window(0, 0, 4, 6), "s",
        draws={TURN: turns((1, 0, 2))},
    )  # fmt: skip
    expected = change_sample(sample).images["m"]
    assert torch.equal(expected, image.flip(-1))
    assert torch.equal(change_batch(collate([sample])).images["m"][0], expected)


def test_draws_move_with_their_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    augment = Augment(AugmentConfig(), ALL, STATISTICS, crop_size=24)
    batch = collate([augment.prepare(make_sample(n), sample_generator(0, n)) for n in range(2)])
    moved = batch.to("meta")
    assert moved.draws.keys() == batch.draws.keys()
    assert "rgb.factor" in moved.draws
    held = [*moved.images.values(), *moved.valid.values(), moved.labels, *moved.draws.values()]
    assert {x.device.type for x in held if x is not None} == {"meta"}
    pinned: list[Tensor] = []
    pin: Callable[[Tensor], Tensor] = lambda x: pinned.append(x) or x  # noqa: E731
    monkeypatch.setattr(Tensor, "pin_memory", pin)
    batch.pin_memory()
    assert len(pinned) == len(held)

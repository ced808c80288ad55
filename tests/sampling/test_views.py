"""Samples without labels: where they come from, and how views of one differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memory_scenes import MemoryScene
from terrafuse.config import AugmentConfig, DataConfig
from terrafuse.errors import DataError
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.samples import Batch, Window
from terrafuse.sampling import Views, ViewsDataset, change_batch, views_loader
from terrafuse.sampling.crops import WindowSampler
from terrafuse.sampling.views import crop_sample

OPTICAL = Modality("s2", ("red", "nir"), kind="other")
SAR = Modality("s1", ("vv",), kind="other", scale=2.0)
MODALITIES = (OPTICAL, SAR)
STATISTICS = {
    m.name: BandStatistics(*([0.0] * len(m.bands) if i != 1 else [1.0] * len(m.bands)
                             for i in range(4)), (1,) * len(m.bands))
    for m in MODALITIES
}  # fmt: skip
STILL = AugmentConfig(flip=False, rotate=False, gain=0, offset=0, speckle=0, shift_db=0)


class Unlabelled(MemoryScene):
    """A scene with labels, of which reading any is a fault."""

    def read_labels(self, window: Window, *_: Any) -> np.ndarray:
        raise AssertionError(f"labels of {window} were read")

    def read(self, window: Window, *, labels: bool = True) -> Any:
        assert not labels
        return super().read(window, labels=False)


def scene(*, labelled: bool = True, hidden: bool = False, **images: Any) -> Any:
    """A scene whose pixels are their own places: band 0 the row, band 1 the column."""
    rows, cols = np.mgrid[:48, :64].astype(np.float32)
    s2 = np.stack([rows, cols])
    s1 = rows[None, ::2, ::2].copy() / 2
    if hidden:
        s1[:, :, 8:] = np.nan
    labels = np.zeros((48, 64), np.uint8) if labelled else None
    return Unlabelled(MODALITIES, {"s2": s2, "s1": s1} | images, labels, size=(48, 64))


def config(**values: Any) -> DataConfig:
    base = {"crop_size": 16, "batch_size": 3, "workers": 0, "augment": STILL}
    return DataConfig(manifest=Path("x"), **(base | values))


def dataset(scenes: list[Any], views: Views, seed: int = 0, **values: Any) -> ViewsDataset:
    return ViewsDataset(scenes, MODALITIES, STATISTICS, config(**values), views, seed=seed)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("sampling", ["random", "grid", "scene"])
def test_no_labels_are_read_or_needed(sampling: str, labelled: bool) -> None:
    samples = dataset([scene(labelled=labelled)], Views(), sampling=sampling)
    for index in range(20):
        (sample,) = samples[index]
        assert sample.labels is None
        assert sample.images["s2"].shape == (2, 16, 16)
        assert sample.images["s1"].shape == (1, 8, 8)


def test_views_are_parts_of_one_window_in_register() -> None:
    samples = dataset([scene()], Views(count=2, area=(0.2, 0.6)))
    areas = []
    for index in range(30):
        first, second = samples[index]
        assert not torch.equal(first.images["s2"], second.images["s2"])
        for view in (first, second):
            rows, cols = view.images["s2"]
            spread = float(rows.max() - rows.min() + 1), float(cols.max() - cols.min() + 1)
            areas.append(view.window.height**2 / 256)
            assert all(s <= view.window.height for s in spread)
            # Radar's rows are those of the optical image: half of the mean, in its own pixels.
            assert float(view.images["s1"].mean()) * 2 == pytest.approx(float(rows.mean()), abs=1)
            assert view.window.row <= float(rows.mean()) <= view.window.row_stop
        span = [
            min(v.window.row for v in (first, second)),
            max(v.window.row_stop for v in (first, second)),
        ]
        assert span[1] - span[0] <= 16
    assert min(areas) < 0.3
    assert max(areas) <= 0.6 + 0.2  # sides are rounded to whole pixels of radar


def test_a_zoom_below_one_may_pad() -> None:
    """Half as large: 8 of 16 pixels, in the middle, of a window as large as the crop."""
    still = STILL.model_copy(update={"scale": (0.5, 0.5), "zoom_out": "pad"})
    views = dataset([scene()], Views(count=2), augment=still)[0]
    for view in views:
        assert view.window.height == 16
        inside = torch.zeros(16, 16, dtype=torch.bool)
        inside[4:12, 4:12] = True
        assert torch.equal(view.valid["s2"], inside)
        assert torch.equal(view.valid["s1"], inside[::2, ::2])
        rows, _ = view.images["s2"][:, inside].view(2, 8, 8)
        assert float(rows[4, 4] - rows[3, 4]) == pytest.approx(2, abs=0.1)


def test_samples_depend_on_seed_and_number_only() -> None:
    views = Views(count=2, area=(0.2, 1.0))
    settings = {"augment": AugmentConfig(scale=(0.5, 2.0))}
    one, two, other = (dataset([scene()], views, seed, **settings) for seed in (1, 1, 2))
    _ = two[5]
    for number in (0, 7):
        for a, b, c in zip(one[number], two[number], other[number], strict=True):
            assert torch.equal(a.images["s2"], b.images["s2"])
            assert not torch.equal(a.images["s2"], c.images["s2"])


def test_every_view_has_all_modalities_where_they_are_needed() -> None:
    samples = dataset([scene(hidden=True)], Views(2, (0.1, 0.3), require_all=True), crop_size=32)
    for index in range(40):
        for view in samples[index]:
            assert all(bool(valid.any()) for valid in view.valid.values())
    anywhere = dataset([scene(hidden=True)], Views(), crop_size=8)
    lacking = [not bool(anywhere[i][0].valid["s1"].any()) for i in range(40)]
    assert any(lacking)
    assert not all(lacking)


def test_a_resumed_loader_brings_the_rest() -> None:
    def batches(start: int, workers: int) -> list[tuple[Batch, ...]]:
        loader = views_loader(
            [scene()], MODALITIES, STATISTICS, config(workers=workers), Views(2, (0.2, 1.0)),
            seed=3, steps=4, start_step=start,
        )  # fmt: skip
        return list(loader)

    whole, rest = batches(0, 0), batches(2, 1)
    assert len(whole) == 4
    assert len(rest) == 2
    for expected, found in zip(whole[2:], rest, strict=True):
        assert len(found) == 2
        for a, b in zip(expected, found, strict=True):
            assert a.labels is None
            assert a.windows == b.windows
            assert torch.equal(a.images["s1"], b.images["s1"])


def test_parts_are_cut_exactly() -> None:
    whole = scene().read(Window(8, 4, 24, 24), labels=False)
    part = crop_sample(whole, MODALITIES, Window(6, 2, 10, 10))
    expected = scene().read(Window(14, 6, 10, 10), labels=False)
    assert part.window == expected.window
    for name, image in expected.images.items():
        assert torch.equal(part.images[name], image)
        assert torch.equal(part.valid[name], expected.valid[name])


def test_nothing_to_learn_from() -> None:
    empty = scene(s1=np.full((1, 24, 32), np.nan))
    with pytest.raises(DataError, match="no pixel has data of every modality"):
        dataset([empty], Views(require_all=True))
    assert dataset([empty], Views())[0]
    empty = scene(s1=np.full((1, 24, 32), np.nan), s2=np.full((2, 48, 64), np.nan))
    with pytest.raises(DataError, match="no pixel has data of any modality"):
        dataset([empty], Views())


def test_usable_pixels_are_those_with_data() -> None:
    sampler = WindowSampler([scene(hidden=True)], crop_size=8, use_labels=False, require_all=True)
    (survey,) = sampler.crop_indexes
    assert survey.total == 48 * 16
    assert survey.labelled == 48 * 64


def test_views_are_changed_on_the_device_as_by_the_reader() -> None:
    settings = config(augment=AugmentConfig(scale=(0.5, 2.0)))
    reader, device = (
        views_loader(
            [scene()], MODALITIES, STATISTICS, settings, Views(2, (0.3, 1.0)),
            seed=1, steps=3, augment_on=place,
        )
        for place in ("reader", "device")
    )  # fmt: skip
    turned = 0
    for expected, found in zip(reader, device, strict=True):
        for one, other in zip(expected, found, strict=True):
            assert other.draws
            changed = change_batch(other)
            for name, image in one.images.items():
                turned += not torch.equal(image, other.images[name])
                torch.testing.assert_close(changed.images[name], image, equal_nan=True)
                assert torch.equal(changed.valid[name], one.valid[name])
    assert turned

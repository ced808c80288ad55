from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from terrafuse.config import AugmentConfig
from terrafuse.errors import ConfigError
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.samples import Sample, Window
from terrafuse.sampling.augment import (
    Augment,
    ModalityDropout,
    describe_augmentation,
    frame_sample,
    resize_sample,
)
from terrafuse.sampling.changes import blur, turn_sample

FINE = Modality("rgb", ("r", "g"), kind="optical")
COARSE = Modality("s1", ("vv",), kind="sar", scale=2.0)
DB = Modality("db", ("vv",), kind="sar", unit="dB")
DSM = Modality("dsm", ("z",), kind="elevation")
LINES = Modality("lines", ("l",), kind="structure")
ALL = (FINE, COARSE, DB, DSM, LINES)
STILL = AugmentConfig(flip=False, rotate=False, gain=0, offset=0, speckle=0, shift_db=0)


def statistics(*modalities: Modality, std: float = 1.0) -> dict[str, BandStatistics]:
    return {
        m.name: BandStatistics(*([(value,) * len(m.bands) for value in (0.0, std, 0.0, 1.0, 9)]))
        for m in modalities
    }


def make_sample(images: dict[str, Tensor], labels: Tensor | None, size: int) -> Sample:
    return Sample(
        images=images,
        valid={m: ~x.isnan().all(dim=0) for m, x in images.items()},
        labels=labels,
        window=Window(0, 0, size, size),
        scene_id="a",
    )


def random_sample(size: int = 16, seed: int = 0, gaps: float = 0.2) -> Sample:
    rng = torch.Generator().manual_seed(seed)
    images = {}
    for modality in ALL:
        n = modality.size_at(size)
        image = 5 + torch.rand(len(modality.bands), n, n, generator=rng)
        image[torch.rand(image.shape, generator=rng) < gaps] = torch.nan
        images[modality.name] = image
    return make_sample(images, torch.randint(0, 5, (size, size), generator=rng), size)


def augment(config: AugmentConfig, sample: Sample, seed: int = 0, **options) -> Sample:
    modalities = [m for m in ALL if m.name in sample.images]
    change = Augment(config, modalities, statistics(*modalities), **options)
    return change(sample, torch.Generator().manual_seed(seed))


def ground_sample(size: int) -> Sample:
    """Every pixel holds the place of its centre; labels and the coarse image agree."""
    images = {}
    for modality in (FINE, COARSE):
        n, step = modality.size_at(size), modality.scale
        place = (torch.arange(n) + 0.5) * step
        rows, cols = torch.meshgrid(place, place, indexing="ij")
        images[modality.name] = torch.stack([rows, cols])[: len(modality.bands)]
    labels = (torch.arange(size)[:, None] // 4 * 10 + torch.arange(size) // 4).long()
    return make_sample(images, labels, size)


@given(st.booleans(), st.booleans(), st.integers(0, 3))
def test_turns_keep_modalities_and_labels_over_the_same_ground(rows, cols, quarters):
    turned = turn_sample(ground_sample(16), rows, cols, quarters)
    r, c = turned.images["rgb"]
    assert torch.equal(turned.labels, (r // 4 * 10 + c // 4).long())
    # A coarse pixel lies over the mean of its four fine ones, wherever it went.
    mean = r.reshape(8, 2, 8, 2).mean(dim=(1, 3))
    assert torch.equal(turned.images["s1"][0], mean)


def covered(sample: Sample) -> dict[str, Tensor]:
    return {name: ~image.isnan().all(dim=0) for name, image in sample.images.items()}


@given(st.booleans(), st.booleans(), st.integers(0, 3))
def test_masks_turn_with_what_they_are_of(rows, cols, quarters):
    sample = random_sample(12, seed=1, gaps=0.4)
    turned = turn_sample(sample, rows, cols, quarters)
    for name, expected in covered(turned).items():
        assert 0 < expected.float().mean() < 1
        assert torch.equal(turned.valid[name], expected)
        assert torch.equal(expected.sum(), sample.valid[name].sum())


def test_a_turn_by_hand():
    """First the flips, then quarters counter-clockwise."""
    sample = make_sample({"rgb": torch.tensor([[0.0, 1.0], [2.0, 3.0]]).expand(2, 2, 2)}, None, 2)
    for rows, cols, quarters, expected in (
        (False, False, 1, [[1, 3], [0, 2]]),
        (True, False, 1, [[3, 1], [2, 0]]),
        (False, True, 1, [[0, 2], [1, 3]]),
        (True, False, 3, [[0, 2], [1, 3]]),
        (True, True, 2, [[0, 1], [2, 3]]),
    ):
        turned = turn_sample(sample, rows, cols, quarters)
        assert turned.images["rgb"][1].tolist() == expected


@pytest.mark.parametrize("read", [16, 24])
@pytest.mark.parametrize("shown", [16, 8])
def test_masks_are_of_the_image_whatever_was_done_to_it(read, shown):
    config = AugmentConfig(blur_sigma_px=2, elevation_shift_m=3)
    for seed in range(8):
        sample = random_sample(read, seed, gaps=0.3)
        changed = augment(config, sample, seed, crop_size=16)
        framed = Augment(config, ALL, statistics(*ALL), crop_size=16)(
            sample, torch.Generator().manual_seed(seed), shown=shown
        )
        for found in (changed, framed):
            for name, expected in covered(found).items():
                assert torch.equal(found.valid[name], expected), name


def test_a_pixel_counts_as_long_as_one_band_is_left():
    image = torch.ones(2, 8, 8)
    image[1, :, :3] = torch.nan
    image[:, :2] = torch.nan
    shown = resize_sample(make_sample({"rgb": image}, None, 8), (FINE,), 4)
    assert shown.valid["rgb"].tolist() == [[False] * 4] + [[True] * 4] * 3


def test_all_eight_turns_are_drawn_evenly():
    seen: dict[tuple, int] = {}
    config = STILL.model_copy(update={"flip": True, "rotate": True})
    for seed in range(400):
        corner = augment(config, ground_sample(8), seed).images["rgb"][:, 0, :2]
        key = tuple(corner.ravel().tolist())
        seen[key] = seen.get(key, 0) + 1
    assert len(seen) == 8
    assert min(seen.values()) > 25  # 50 ± 6.6


@pytest.mark.parametrize(
    ("flip", "expected"),
    [
        (False, {"abcd"}),
        ("horizontal", {"abcd", "badc"}),
        ("vertical", {"abcd", "cdab"}),
        (True, {"abcd", "badc", "cdab", "dcba"}),
    ],
)
def test_flips_are_of_the_axis_that_is_named(flip, expected):
    corners = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).expand(2, 2, 2)  # a b over c d
    config = STILL.model_copy(update={"flip": flip})
    found = {}
    for seed in range(60):
        image = augment(config, make_sample({"rgb": corners}, None, 2), seed).images["rgb"][0]
        found[seed] = "".join("abcd"[int(value)] for value in image.ravel())
    assert set(found.values()) == expected
    both = config.model_copy(update={"flip": True})
    for seed, letters in found.items():  # each axis by the same draws, whatever the other does
        image = augment(both, make_sample({"rgb": corners}, None, 2), seed).images["rgb"][0]
        rows, columns = bool(image[0, 0] >= 2), bool(image[0, 0] % 2)
        row = "cdab" if rows and flip in (True, "vertical") else "abcd"
        swapped = row[1] + row[0] + row[3] + row[2]
        assert letters == (swapped if columns and flip in (True, "horizontal") else row)


def test_windows_that_are_not_square_keep_their_shape():
    image = torch.rand(2, 6, 10)
    sample = Sample(
        {"rgb": image}, {"rgb": torch.ones(6, 10).bool()}, None, Window(0, 0, 6, 10), "a"
    )
    config = STILL.model_copy(update={"rotate": True})
    found = [augment(config, sample, seed).images["rgb"] for seed in range(20)]
    assert {x.shape for x in found} == {image.shape}
    assert any(torch.equal(x, image.flip((1, 2))) for x in found)


@given(
    seed=st.integers(0, 1000),
    gaps=st.sampled_from([0.0, 0.3, 1.0]),
    config=st.builds(
        AugmentConfig,
        flip=st.just(False),
        rotate=st.just(False),
        blur_sigma_px=st.sampled_from([0.0, 2.0]),
        elevation_shift_m=st.sampled_from([0.0, 5.0]),
    ),
)
@settings(max_examples=40, deadline=None)
def test_photometry_neither_makes_nor_fills_gaps(seed, gaps, config):
    sample = random_sample(seed=seed, gaps=gaps)
    changed = augment(config, sample, seed)
    for name, image in sample.images.items():
        assert torch.equal(changed.images[name].isnan(), image.isnan())
        assert changed.images[name].dtype == torch.float32
        assert torch.equal(changed.valid[name], sample.valid[name])
    assert torch.equal(
        changed.images["lines"].nan_to_num(-1), sample.images["lines"].nan_to_num(-1)
    )
    assert torch.equal(changed.labels, sample.labels)


def test_the_same_generator_gives_the_same_and_the_sample_is_left_alone():
    sample = random_sample()
    before = {name: image.clone() for name, image in sample.images.items()}
    first, second = (augment(AugmentConfig(blur_sigma_px=1), sample, 3) for _ in range(2))
    other = augment(AugmentConfig(blur_sigma_px=1), sample, 4)
    for name, image in first.images.items():
        assert torch.equal(image.nan_to_num(-1), second.images[name].nan_to_num(-1))
        assert torch.equal(sample.images[name].nan_to_num(-1), before[name].nan_to_num(-1))
    assert not torch.equal(first.images["rgb"].nan_to_num(), other.images["rgb"].nan_to_num())


def test_optical_gain_and_offset_are_per_band_and_within_bounds():
    image = torch.stack([torch.full((4, 4), 100.0), torch.full((4, 4), 200.0)])
    sample = make_sample({"rgb": image}, None, 4)
    gains, shifts = [], []
    for seed in range(100):
        gain = augment(STILL.model_copy(update={"gain": 0.1}), sample, seed).images["rgb"] / image
        shift = augment(STILL.model_copy(update={"offset": 0.5}), sample, seed).images["rgb"]
        assert gain[0].unique().numel() == 1
        gains.append(gain[:, 0, 0])
        shifts.append((shift - image)[:, 0, 0])
    gains, shifts = torch.stack(gains), torch.stack(shifts)
    assert 0.81 <= gains.min() < 0.92
    assert 1.08 < gains.max() <= 1.21
    assert shifts.abs().max() <= 0.5 + 1e-5
    assert shifts.abs().max() > 0.4
    assert (gains[:, 0] != gains[:, 1]).any()


@pytest.mark.parametrize(("modality", "expected"), [(COARSE, 0.3 * 50), (DB, 0.3 * 4.343)])
def test_speckle_is_multiplicative_in_linear_units_and_additive_in_db(modality, expected):
    image = torch.full((1, 128, 128), 50.0)
    sample = make_sample({modality.name: image}, None, 128 * int(modality.scale))
    found = augment(STILL.model_copy(update={"speckle": 0.3}), sample).images[modality.name]
    assert found.std().item() == pytest.approx(expected, rel=0.05)
    assert found.mean().item() == pytest.approx(50, rel=0.01)
    if modality is COARSE:
        assert found.min() > 0


def test_sar_shift_is_one_factor_in_linear_units_and_one_term_in_db():
    config = STILL.model_copy(update={"shift_db": 2.0})
    amplitude = Modality("amp", ("vv",), kind="sar", unit="amplitude")
    image = torch.rand(1, 8, 8) + 1
    values = {}
    for modality in (COARSE, DB, amplitude):
        change = Augment(config, [modality], statistics(modality))
        sample = make_sample({modality.name: image}, None, 8 * int(modality.scale))
        found = change(sample, torch.Generator().manual_seed(1)).images[modality.name]
        values[modality.name] = found - image if modality is DB else found / image
        assert values[modality.name].std() < 1e-5
    shift_db = values["db"].mean().item()
    assert 0 < abs(shift_db) <= 2
    assert values["s1"].mean().item() == pytest.approx(10 ** (shift_db / 10), rel=1e-5)
    assert values["amp"].mean().item() == pytest.approx(10 ** (shift_db / 20), rel=1e-5)


def radar(unit: str, config: AugmentConfig, seed: int = 5) -> tuple[Tensor, Tensor]:
    """Radar of this unit, before an optical image, changed."""
    modalities = (Modality("sar", ("vv",), kind="sar", unit=unit), FINE)
    images = {"sar": torch.arange(1.0, 17).view(1, 4, 4), "rgb": torch.full((2, 4, 4), 2.0)}
    change = Augment(config, modalities, statistics(*modalities))
    changed = change(make_sample(images, None, 4), torch.Generator().manual_seed(seed)).images
    return changed["sar"], changed["rgb"]


UNTURNED = AugmentConfig(flip=False, rotate=False)
STATED = AugmentConfig(flip=False, rotate=False, shift_db=1.0, speckle=0.1)


@pytest.mark.parametrize("unit", ["db", " dB", "linear", "power", "Sigma0", "amplitude"])
def test_radar_in_a_physical_unit_is_changed_without_being_asked(unit):
    (found, _), (stated, _) = radar(unit, UNTURNED), radar(unit, STATED)
    assert torch.equal(found, stated)
    assert (found != torch.arange(1.0, 17).view(1, 4, 4)).all()


@pytest.mark.parametrize("unit", ["dn", "scene range", "db of a stretch"])
def test_radar_in_another_unit_is_changed_only_when_asked(unit):
    before = torch.arange(1.0, 17).view(1, 4, 4)
    found, optical = radar(unit, UNTURNED)
    assert torch.equal(found, before)
    without = UNTURNED.model_copy(update={"shift_db": 0.0, "speckle": 0.0})
    assert torch.equal(optical, radar(unit, without)[1])  # nor is anything drawn for it
    # What is stated acts, as factors.
    shift = UNTURNED.model_copy(update={"shift_db": 2.0})
    factor = radar(unit, shift)[0] / before
    assert factor.std() < 1e-6
    assert factor.mean() != 1
    assert torch.equal(radar(unit, shift)[0], radar("linear", shift.model_copy(
        update={"speckle": 0.0}))[0])  # fmt: skip


def test_a_change_of_radar_that_is_switched_off_stays_off():
    before = torch.arange(1.0, 17).view(1, 4, 4)
    still = UNTURNED.model_copy(update={"shift_db": 0.0, "speckle": 0.0})
    assert torch.equal(radar("db", still)[0], before)
    level = radar("db", UNTURNED.model_copy(update={"speckle": 0.0}))[0] - before
    assert level.std() < 1e-6  # the level by default, no speckle
    assert 0 < level.abs().max() <= 1


def test_what_is_changed_is_said():
    dn, db = Modality("s1", ("vv",), kind="sar"), DB
    assert describe_augmentation(AugmentConfig(), (FINE, db, DSM, LINES)) == [
        "together: flips, quarter turns",
        "rgb: gain 0.1, offset 0.1",
        "db: shift_db 1, speckle 0.1",
        "dsm: unchanged",
        "lines: unchanged",
    ]
    config = AugmentConfig(flip="horizontal", rotate=False, scale=(0.5, 1.75), zoom_out="pad")
    together, radar = describe_augmentation(config, (dn,))
    assert together == "together: horizontal flips, zoom 0.5 to 1.75 (padded below 1)"
    assert radar.startswith("s1: unchanged, as its unit 'dn' is neither db nor linear")
    assert "shift_db and speckle" in radar
    asked = AugmentConfig(flip=False, rotate=False, speckle=0.2, scale=(2, 3), zoom_out="pad")
    assert describe_augmentation(asked, (dn,)) == [
        "together: zoom 2 to 3",
        "s1: speckle 0.2 (as factors)",
    ]
    assert describe_augmentation(STILL, (dn,)) == ["together: unchanged", "s1: unchanged"]


def test_elevation_is_shifted_as_a_whole():
    config = STILL.model_copy(update={"elevation_shift_m": 50.0})
    image = torch.rand(1, 8, 8) * 100
    found = augment(config, make_sample({"dsm": image}, None, 8)).images["dsm"] - image
    assert found.std() < 1e-4
    assert 0 < found.abs().max() <= 50


@pytest.mark.parametrize("sigma", [0.3, 1.5, 10.0])
def test_blur_does_not_draw_from_gaps(sigma):
    image = torch.full((2, 9, 12), 7.0)
    image[0, 2:5, 3:9] = torch.nan
    blurred = blur(image, sigma)
    assert torch.equal(blurred.isnan(), image.isnan())
    # Filling the gap with 0 would darken its border.
    torch.testing.assert_close(blurred[~image.isnan()], image[~image.isnan()])
    noise = torch.randn(1, 40, 40)
    assert blur(noise, sigma).std() < noise.std()


@pytest.mark.parametrize("read", [8, 24, 32])
def test_zoom_keeps_the_register(read):
    sample = ground_sample(read)
    shown = resize_sample(sample, (FINE, COARSE), 16)
    assert shown.images["rgb"].shape == (2, 16, 16)
    assert shown.images["s1"].shape == (1, 8, 8)
    assert shown.labels.shape == (16, 16)
    assert shown.labels.dtype == torch.int64
    # Away from the border, where there is nothing to interpolate with, a pixel shows the ground
    # under its centre; the filter for shrinking, sampled at pixels, is off by 3 % of one.
    centre = (torch.arange(16) + 0.5) * read / 16
    inner = slice(3, -3)
    close = {"atol": 0.03 * read / 16, "rtol": 0}
    torch.testing.assert_close(shown.images["rgb"][0, inner, 5], centre[inner], **close)
    torch.testing.assert_close(shown.images["rgb"][1, 5, inner], centre[inner], **close)
    coarse = (torch.arange(8) + 0.5) * 2 * read / 16
    torch.testing.assert_close(shown.images["s1"][0, inner, 3], coarse[inner], atol=0.1, rtol=0)
    expected = (centre[:, None].floor() // 4 * 10 + centre.floor() // 4).long()
    assert torch.equal(shown.labels, expected)


def test_a_zoom_may_be_fixed():
    config = AugmentConfig(scale=(1.5, 1.5))
    assert describe_augmentation(config, ())[0].endswith("zoom 1.5 to 1.5")
    for wrong in ((2, 1), (0.05, 1), (1, 11)):
        with pytest.raises(ValidationError, match="two ascending factors between"):
            AugmentConfig(scale=wrong)


def test_a_border_without_data_keeps_the_register():
    """6 of 12 pixels: 2 before and 4 after, for 3 would break a pixel of the coarse image."""
    sample = ground_sample(6)
    framed = frame_sample(sample, (FINE, COARSE), 6, 12)
    assert framed.images["rgb"].shape == (2, 12, 12)
    assert framed.images["s1"].shape == (1, 6, 6)
    assert torch.equal(framed.images["rgb"][:, 2:8, 2:8], sample.images["rgb"])
    assert torch.equal(framed.images["s1"][:, 1:4, 1:4], sample.images["s1"])
    assert torch.equal(framed.labels[2:8, 2:8], sample.labels)
    inside = torch.zeros(12, 12, dtype=torch.bool)
    inside[2:8, 2:8] = True
    assert torch.equal(framed.valid["rgb"], inside)
    assert torch.equal(framed.images["rgb"].isnan(), ~inside.expand(2, -1, -1))
    assert torch.equal(framed.labels == 255, ~inside)
    assert torch.equal(framed.valid["s1"], inside[::2, ::2])
    assert torch.equal(framed.images["s1"][0].isnan(), ~inside[::2, ::2])
    assert frame_sample(sample, (FINE, COARSE), 6, 6) is sample


@given(read=st.sampled_from([8, 24, 40]), seed=st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_zoom_keeps_the_border_of_the_data(read, seed):
    rng = np.random.default_rng(seed)
    image = torch.full((2, read, read), 3.0)
    stop = int(rng.integers(1, read))
    image[:, :, stop:] = torch.nan
    shown = resize_sample(make_sample({"rgb": image}, None, read), (FINE,), 16)
    columns = shown.valid["rgb"].any(dim=0).sum().item()
    assert columns == pytest.approx(stop * 16 / read, abs=0.51)
    # No value but the constant: nothing of the gap leaks in.
    values = shown.images["rgb"][:, shown.valid["rgb"]]
    torch.testing.assert_close(values, torch.full_like(values, 3.0))


def test_absent_modality_stays_absent_at_any_size():
    sample = random_sample(32).without({"s1"})
    changed = augment(AugmentConfig(), sample, crop_size=16)
    assert changed.images["s1"].shape == (1, 8, 8)
    assert changed.images["s1"].isnan().all()
    assert not changed.valid["s1"].any()


def draw_many(dropout: ModalityDropout, count: int = 3000) -> dict[frozenset[str], float]:
    generator = torch.Generator().manual_seed(0)
    drawn = [dropout.draw(generator) for _ in range(count)]
    return {subset: drawn.count(subset) / count for subset in set(drawn)}


def test_share_of_dropout_is_spread_evenly_over_proper_subsets():
    shares = draw_many(ModalityDropout(0.6, ["a", "b", "c"]))
    assert shares.pop(frozenset()) == pytest.approx(0.4, abs=0.04)
    assert len(shares) == 6
    assert all(share == pytest.approx(0.1, abs=0.025) for share in shares.values())
    assert frozenset("abc") not in shares


def test_weights_of_dropout_name_the_subset_that_is_kept():
    shares = draw_many(ModalityDropout({"s1": 1, "s1 + s2": 3}, ["s1", "s2"]))
    assert shares[frozenset({"s2"})] == pytest.approx(0.25, abs=0.03)
    assert set(shares) == {frozenset(), frozenset({"s2"})}


@pytest.mark.parametrize("value", [0.0, {"a": 1.0}])
def test_nothing_to_drop(value):
    assert draw_many(ModalityDropout(value, ["a"])) == {frozenset(): 1.0}
    assert draw_many(ModalityDropout(1.0, ["a"])) == {frozenset(): 1.0}


def test_faulty_subsets_are_named():
    with pytest.raises(ConfigError, match=r"modality_dropout: unknown modality 's3'.*'s[12]'"):
        ModalityDropout({"s1+s3": 1}, ["s1", "s2"])
    with pytest.raises(ConfigError, match=r"'s2\+s1' twice"):
        ModalityDropout({"s1+s2": 1, "s2+s1": 1}, ["s1", "s2"])


def test_the_last_modality_with_data_is_kept():
    keep_coarse = ModalityDropout({"s1": 1}, ["rgb", "s1"])
    sample = make_sample({"rgb": torch.ones(2, 8, 8), "s1": torch.ones(1, 4, 4)}, None, 8)
    kept = keep_coarse(sample, torch.Generator())
    assert kept.images["rgb"].isnan().all()
    assert kept.valid["s1"].all()
    clouded = sample.without({"s1"})
    assert keep_coarse(clouded, torch.Generator()).valid["rgb"].all()

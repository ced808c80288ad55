"""Galileo as a backbone: bands, units, levels, sizes, what is hidden, files of weights."""

from __future__ import annotations

import json
from math import degrees, sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shared import SHARED
from small_backbones import nudge, train_a_little
from terrafuse.backbones import Galileo, create_backbone, is_token_backbone, list_backbones
from terrafuse.backbones.galileo.inputs import GROUPS, find_channel, plan_bands
from terrafuse.backbones.galileo.reading import slope_degrees
from terrafuse.errors import (
    BandError,
    ChecksumError,
    InputShapeError,
    ModelError,
    UnknownNameError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.tuning import apply_tuning

TINY: dict[str, Any] = {
    "embed_dim": 32, "depth": 3, "num_heads": 2, "neck_channels": 8, "drop_path_rate": 0.0,
}  # fmt: skip
S1 = Modality("s1", ("VV", "VH"), "sar", unit="db")
BANDS = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")
S2 = Modality("s2", BANDS, "optical", unit="reflectance_10000")
DEM = Modality("dem", ("height",), "elevation", unit="m")
NANO = SHARED / "weights" / "galileo_nano"


def _make(*modalities: Modality, **options: Any) -> Galileo:
    torch.manual_seed(0)
    bands = sum(len(m.bands) for m in modalities)
    backbone = Galileo("galileo_nano", bands, modalities, **TINY | options)
    return train_a_little(backbone).eval()


def _statistics(
    modality: Modality, low: float, high: float, count: int = 1000, **values: Any
) -> dict[str, BandStatistics]:
    n = len(modality.bands)
    mean, std = values.get("mean", (low + high) / 2), values.get("std", (high - low) / 4)
    rows = ((value,) * n for value in (mean, std, low, high, count))
    return {modality.name: BandStatistics(*rows)}


def _standardised(
    backbone: Galileo, images: dict[str, Tensor], statistics: dict[str, BandStatistics]
) -> Tensor:
    backbone.set_statistics(statistics)
    parts = []
    for name, image in images.items():
        mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (statistics[name].mean,
                                                              statistics[name].std))  # fmt: skip
        parts.append((image - mean) / std)
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize(
    ("band", "um", "expected"),
    [
        ("B2", None, "B2"), ("B02", None, "B2"), ("blue", None, "B2"), ("S2_B8A", None, "B8A"),
        ("b11_t2", None, "B11"), ("t3_red", None, "B4"), ("nir", None, "B8"),
        ("red_edge_1", None, "B5"), ("nir_narrow", None, "B8A"), ("SWIR2", None, "B12"),
        ("band_7", 1.61, "B11"), ("B10", None, "B10"), ("vv", None, "VV"), ("VH_db", None, "VH"),
        ("dem", None, "elevation"), ("height", None, "elevation"), ("slope", None, "slope"),
        ("NDVI", None, "NDVI"), ("dw_trees", None, "DW_trees"), ("band_7", None, None),
        ("HH", None, None), ("thermal", 10.9, None),
    ],
)  # fmt: skip
def test_bands_by_name_and_wavelength(band: str, um: float | None, expected: str | None) -> None:
    assert find_channel(band, um) == expected


def test_groups_and_what_is_absent() -> None:
    plan = plan_bands("galileo_nano", S2)
    assert [s.group.name for s in plan.slots] == [n for n in GROUPS if n.startswith("S2_")]
    assert plan.slots[0].bands == (0, 1, 2)
    # Other order, other names, bands that the model does not have, an incomplete group.
    mixed = Modality("m", ("B12", "nir", "B01", "red", "B10"), "optical")
    plan = plan_bands("galileo_nano", mixed, ndvi=True)
    found = {slot.group.name: slot.bands for slot in plan.slots}
    assert found == {
        "S2_RGB": (None, None, 3), "S2_NIR_10m": (1,), "S2_SWIR": (None, 0), "NDVI": (None,),
    }  # fmt: skip
    assert plan.channels == ("B12", "B8", None, "B4", None)
    plan = plan_bands("galileo_nano", DEM)
    assert [(s.group.name, s.bands) for s in plan.slots] == [("SRTM", (0, None))]


def test_dates_are_bands_that_repeat() -> None:
    dated = Modality("s2", ("B8_t1", "B4_t1", "B8_t2", "B4_t2"), "optical")
    plan = plan_bands("galileo_nano", dated)
    assert plan.dates == 2
    assert [(s.group.name, s.date, s.bands) for s in plan.slots] == [
        ("S2_RGB", 0, (None, None, 1)), ("S2_NIR_10m", 0, (0,)),
        ("S2_RGB", 1, (None, None, 3)), ("S2_NIR_10m", 1, (2,)),
    ]  # fmt: skip
    backbone = _make(dated, month=(2, 8), scaling="data")
    assert backbone.months == (1, 7)
    image = torch.randn(2, 4, 32, 32)
    other = _make(dated, month=(2, 9), scaling="data")
    other.load_state_dict(backbone.state_dict())
    swapped = torch.cat([image[:, 2:], image[:, :2]], dim=1)
    with torch.no_grad():
        levels, later, turned = backbone(image), other(image), backbone(swapped)
        one_sample = backbone(image[:1])
    torch.testing.assert_close(levels[-1][:1], one_sample[-1], atol=1e-5, rtol=1e-4)
    assert (levels[-1] - later[-1]).abs().max() > 1e-4, "the month counts"
    assert (levels[-1] - turned[-1]).abs().max() > 1e-4, "the order of dates counts"
    with pytest.raises(ModelError, match=r"option 'month' .* is \(2, 8, 9\).* 2 dates"):
        _make(dated, month=(2, 8, 9))
    with pytest.raises(ModelError, match=r"not all equally often: \{'B8': 2, 'B4': 1\}"):
        _make(Modality("s2", ("B8_t1", "B4", "B8_t2"), "optical"))
    many = tuple(f"B8_t{i}" for i in range(25))
    with pytest.raises(InputShapeError, match="25 dates; Galileo takes up to 24"):
        _make(Modality("s2", many, "optical"))


@pytest.mark.parametrize(
    ("modality", "message"),
    [
        (
            Modality("s2", ("band_1", "band_2", "B4"), "optical"),
            r"does not know band 'band_1', 'band_2' of modality 's2', and never guesses from "
            r"band order.* Name the bands in the manifest",
        ),
        (Modality("s1", ("HH",), "sar"), "does not know band 'HH'"),
        (Modality("s2", ("B01", "B10"), "optical"), "uses none of the bands"),
    ],
)
def test_bands_that_are_not_known(modality: Modality, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        _make(modality)


@pytest.mark.parametrize(
    ("modality", "low", "high", "message"),
    [
        (S2, 0.02, 0.45, r"'s2' reach 0\.45 only.*reflectance × 10000.*'unit: reflectance'"),
        (S2, 3, 250, r"from 3 to 250 .*stretched to 8 bits.*scaling: data"),
        (S2, -3000, 3000, r"from -3000 to 3000"),
        (
            Modality("s2", BANDS, "optical", unit="reflectance"), 120, 4200,
            r"unit 'reflectance', which ranges from 0 to 1.*'unit: reflectance_10000'",
        ),
        (S1, 0.001, 0.6, r"'s1' are never below 0\.001, as linear power.*'unit: linear'"),
        (S1, 4, 250, r"never below 4.*stretched to 8 bits cannot be"),
        (S1, -100, 5, r"from -100 to 5 .*decibels, which lie between"),
        (Modality("s1", ("VV",), "sar", unit="linear"), -22, -3, r"'linear', .*'unit: db'"),
        (DEM, -32768, 400, r"heights from -32768 to 400 .*nodata"),
    ],
)  # fmt: skip
def test_values_of_another_scale_are_refused(
    modality: Modality, low: float, high: float, message: str
) -> None:
    backbone = _make(modality)
    with pytest.raises(BandError, match=message):
        backbone.set_statistics(_statistics(modality, low, high))
    # A fixed standardisation changes nothing about what the data are.
    with pytest.raises(BandError, match=message):
        backbone.set_statistics(_statistics(modality, low, high, mean=0.0, std=1.0))
    backbone.set_statistics(_statistics(modality, low, high, count=3))  # no evidence
    _make(modality, scaling="data").set_statistics(_statistics(modality, low, high))


@pytest.mark.parametrize(
    ("modality", "low", "high"),
    [(S2, 40, 3800), (S2, 900, 12000), (S1, -24, -2), (DEM, -3, 0.5), (DEM, 664, 801),
     (Modality("s2", BANDS, "optical", unit="reflectance"), 0.01, 0.5),
     (Modality("s1", ("VV",), "sar", unit="linear"), 0.0, 0.7)],
)  # fmt: skip
def test_values_of_its_scale_pass(modality: Modality, low: float, high: float) -> None:
    _make(modality).set_statistics(_statistics(modality, low, high))


def test_the_offset_of_1000_is_hinted_at() -> None:
    with pytest.warns(UserWarning, match=r"baseline 04\.00 .*subtract it"):
        _make(S2).set_statistics(_statistics(S2, 1010, 5200))


def test_a_first_image_of_another_scale_is_refused() -> None:
    """A run predicts other files than it was trained on."""
    for modality, good, wrong in ((S2, 2000.0, 0.2), (S1, -12.0, 0.05)):
        statistics = _statistics(modality, *sorted((good / 4, good * 1.5)))
        backbone = _make(modality)
        image = torch.full((1, len(modality.bands), 32, 32), wrong)
        image = _standardised(backbone, {modality.name: image}, statistics)
        with pytest.raises(BandError, match=f"'{modality.name}'"):
            backbone(image)
        backbone(torch.zeros_like(image))  # nothing but gaps


def _encoded(backbone: Galileo, raw: Tensor, modality: Modality, mean: float, std: float) -> Tensor:
    statistics = _statistics(modality, 0, 1, count=1, mean=mean, std=std)
    image = _standardised(backbone, {modality.name: raw}, statistics)
    with torch.no_grad():
        return backbone.embed(image)[0]


def test_the_standardisation_of_the_data_does_not_matter() -> None:
    raw = torch.rand(2, 10, 16, 16) * 4000
    backbone = _make(S2)
    one = _encoded(backbone, raw, S2, 1300, 800)
    other = _encoded(backbone, raw, S2, 0, 255)
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_units_are_converted() -> None:
    raw = torch.rand(2, 10, 16, 16) * 4000 + 1
    expected = _encoded(_make(S2), raw, S2, 1300, 800)
    share = Modality("s2", BANDS, "optical", unit="reflectance")
    found = _encoded(_make(share), raw / 10_000, share, 0.13, 0.08)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    decibels = torch.rand(2, 2, 16, 16) * 20 - 22
    expected = _encoded(_make(S1), decibels, S1, -12, 5)
    for unit, power in (("linear", 10), ("amplitude", 20)):
        linear = Modality("s1", ("VV", "VH"), "sar", unit=unit)
        found = _encoded(_make(linear), 10 ** (decibels / power), linear, 0.1, 0.2)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_without_statistics_images_are_standardised_ones() -> None:
    """0 is the mean of pre-training and becomes 0.5, whatever the unit."""
    for unit in ("reflectance", "reflectance_10000"):
        backbone = _make(Modality("s2", BANDS, "optical", unit=unit))
        (first, *_) = backbone.tokenize(torch.zeros(1, 10, 8, 8)).values
        torch.testing.assert_close(first, torch.full_like(first, 0.5))
        (first, *_) = backbone.tokenize(torch.full((1, 10, 8, 8), 2.0)).values
        torch.testing.assert_close(first, torch.ones_like(first))
    linear = Modality("s1", ("VV", "VH"), "sar", unit="linear")
    (first,) = _make(linear).tokenize(torch.zeros(1, 2, 8, 8)).values
    torch.testing.assert_close(first, torch.full_like(first, 0.5))


def test_what_a_group_lacks_is_its_mean() -> None:
    red = Modality("s2", ("B4",), "optical")
    (values,) = _make(red).tokenize(torch.ones(1, 1, 8, 8)).values
    assert values.shape == (1, 3, 8, 8)
    torch.testing.assert_close(values[:, :2], torch.full((1, 2, 8, 8), 0.5))
    torch.testing.assert_close(values[:, 2], torch.full((1, 8, 8), 0.75))


def test_ndvi_and_slope_by_hand() -> None:
    two = Modality("s2", ("B8", "B4"), "optical")
    backbone = _make(two, ndvi=True)
    backbone.set_statistics(_statistics(two, 0, 1, count=1, mean=0.0, std=1.0))
    image = torch.tensor([3000.0, 1000.0]).view(1, 2, 1, 1).repeat(1, 1, 8, 8)
    image[..., 0, 0] = 0.0
    backbone.readers["s2"].looks = False
    ndvi = backbone.tokenize(image).values[-1]
    assert ndvi.shape == (1, 1, 8, 8)
    assert ndvi[0, 0, 0, 0] == 0
    torch.testing.assert_close(ndvi[0, 0, 4], torch.full((8,), 0.5))
    # A plane that rises 3 m per column and 4 m per row of 10 m.
    rows, cols = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    slope = slope_degrees((3 * cols + 4 * rows)[None], torch.tensor(10.0))
    expected = degrees(torch.tensor(0.5).atan().item())
    torch.testing.assert_close(slope[0, 1:-1, 1:-1], torch.full((4, 5), expected))
    assert float(slope.min()) > 0


@pytest.mark.parametrize("patch_size", range(1, 9))
@pytest.mark.parametrize("neck", ["pyramid", "map", "none"])
def test_levels_of_any_patch_size(patch_size: int, neck: str) -> None:
    backbone = _make(S2, DEM, patch_size=patch_size, neck=neck)
    height, width = 2 * backbone.stride, 3 * backbone.stride
    with torch.no_grad():
        levels = backbone(torch.randn(2, 11, height, width))
    assert [tuple(x.shape) for x in levels] == [
        (2, c, round(height / s), round(width / s))
        for c, s in zip(backbone.channels, backbone.strides, strict=True)
    ]
    expected = {
        "pyramid": [patch_size / 2, patch_size, 2 * patch_size, 4 * patch_size]
        if patch_size > 1
        else [1, 2, 4, 8],
        "map": [patch_size],
        "none": [patch_size] * 3,
    }[neck]
    assert list(backbone.strides) == expected


def test_images_must_be_filled_by_patches() -> None:
    backbone = _make(S1, patch_size=4, neck="none")
    with pytest.raises(InputShapeError, match=r"30 × 32 pixels; .* patches of 4"):
        backbone(torch.randn(1, 2, 30, 32))
    with pytest.raises(InputShapeError, match=r"for s1 Galileo takes \(N, 2, H, W\)"):
        backbone(torch.randn(1, 3, 32, 32))
    with pytest.raises(UnknownNameError, match=r"unknown modality 's3'\. Did you mean 's1'"):
        backbone.embed(torch.randn(1, 2, 32, 32), "s3")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 9}, "'patch_size' .* is 9; it was trained with 1 to 8"),
        ({"month": 0}, "'month' .* is 0; allowed is a month from 1 to 12"),
        ({"input_resolution_m": 0.0}, "'input_resolution_m' .* is 0; it must be above 0"),
        ({"embed_dim": 24}, "multiple of 16"),
        ({"out_indices": [3]}, "blocks from 0 to 2"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        _make(S1, **options)


def test_pixel_size_by_grid_or_option() -> None:
    backbone, coarse = _make(S1, patch_size=2), _make(S1, patch_size=4)
    coarse.load_state_dict(backbone.state_dict())
    backbone.set_pixel_sizes({"s1": 20.0})
    places = backbone.tokenize(torch.zeros(1, 2, 16, 16)).codes[0]
    assert torch.equal(places, coarse.tokenize(torch.zeros(1, 2, 32, 32)).codes[0])
    fixed = _make(S1, input_resolution_m=30.0)
    fixed.set_pixel_sizes({"s1": 20.0})
    assert float(fixed.readers["s1"].pixel_size_m) == 30
    # It is part of the state: prediction goes on with that of training.
    again = _make(S1, patch_size=2)
    again.load_state_dict(backbone.state_dict())
    assert float(again.readers["s1"].pixel_size_m) == 20


def _two_images() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {m.name: torch.randn(3, len(m.bands), 32, 32, generator=generator) for m in (S1, S2)}


def test_one_sequence_equals_stacked_bands() -> None:
    backbone = _make(S1, S2)
    images = _two_images()
    valid = {name: torch.ones(3, 1, 32, 32, dtype=torch.bool) for name in images}
    with torch.no_grad():
        maps = backbone.see(images, valid)
        stacked = torch.cat(list(images.values()), dim=1)
        levels = backbone(stacked)
        for level, other in zip(backbone.to_levels(maps, stacked), levels, strict=True):
            torch.testing.assert_close(level, other)
        apart = backbone.see(images, valid, apart=True)
        # Six groups: one of radar, five optical.
        mean = (apart[-1][:, 0] + 5 * apart[-1][:, 1]) / 6
        torch.testing.assert_close(mean, maps[-1], atol=1e-5, rtol=1e-4)
        alone = backbone.see(images, valid | {"s2": torch.zeros_like(valid["s2"])}, apart=True)
    changed = (alone[-1][:, 0] - apart[-1][:, 0]).abs().max()
    assert changed > 1e-3, "radar's tokens have seen the optical ones"
    assert not alone[-1][:, 1].any()


@pytest.mark.parametrize("prompts", [False, True])
@pytest.mark.parametrize("reference", [False, True])
def test_hidden_places_equal_places_that_are_not_there(reference: bool, prompts: bool) -> None:
    """One batch holds samples with all, with a part of s2 hidden, and without s1."""
    backbone = _make(S1, S2, subtract_reference=reference, neck="none")
    if prompts:
        apply_tuning(backbone, "prompt")
    images = _two_images()
    valid = {name: torch.ones(3, 1, 32, 32, dtype=torch.bool) for name in images}
    valid["s2"][1, :, :, :16] = False
    valid["s1"][2] = False
    with torch.no_grad():
        together = backbone.see(images, valid)
        for i in range(3):
            own = {name: x[i : i + 1] for name, x in images.items()}
            alone = backbone.see(own, {name: v[i : i + 1] for name, v in valid.items()})
            for a, b in zip(together, alone, strict=True):
                torch.testing.assert_close(a[i : i + 1], b, atol=1e-5, rtol=1e-4)
        changed = {name: x.clone() for name, x in images.items()}
        changed["s2"][1, :, :, :16] = 99.0
        changed["s1"][2] = -99.0
        for a, b in zip(backbone.see(changed, valid), together, strict=True):
            torch.testing.assert_close(a, b)
        only = _make(S2, subtract_reference=reference, neck="none")
        if prompts:
            apply_tuning(only, "prompt")
        missing = only.load_state_dict(backbone.state_dict(), strict=False)
        assert not missing.missing_keys
        lone = only.see({"s2": images["s2"][2:]}, {"s2": valid["s2"][2:]})
        torch.testing.assert_close(lone[-1], together[-1][2:], atol=1e-5, rtol=1e-4)


def test_the_reference_takes_the_place_out() -> None:
    """Of an image that is the same everywhere nothing is left; else the difference is."""
    plain = _make(S1, neck="none", out_indices=[-1])
    less = _make(S1, neck="none", out_indices=[-1], subtract_reference=True)
    less.load_state_dict(plain.state_dict())
    with torch.no_grad():
        (nothing,) = less(torch.zeros(2, 2, 32, 32))
        torch.testing.assert_close(nothing, torch.zeros_like(nothing), atol=1e-6, rtol=0)
        image = torch.randn(2, 2, 32, 32)
        expected = plain(image)[0] - plain(torch.zeros_like(image))[0]
        torch.testing.assert_close(less(image)[0], expected, atol=1e-6, rtol=1e-4)
    less.train()
    with torch.no_grad():
        (level,) = less(torch.zeros(1, 2, 32, 32))
    torch.testing.assert_close(level, torch.zeros_like(level), atol=1e-6, rtol=0)


def test_the_reference_of_modalities_side_by_side_is_their_own() -> None:
    backbone = _make(S1, neck="none", out_indices=[-1], subtract_reference=True)
    apply_tuning(backbone, {"name": "lora", "mix": False}, 2)
    nudge(backbone)
    with torch.no_grad():
        (level,) = backbone.eval()(torch.zeros(4, 2, 32, 32))
    torch.testing.assert_close(level, torch.zeros_like(level), atol=1e-6, rtol=0)


def test_the_stem_sees_single_pixels() -> None:
    backbone = _make(S1, stem_channels=5, patch_size=4)
    assert backbone.channels == (5, 8, 8, 8, 8)
    assert backbone.strides == (1, 2, 4, 8, 16)
    image = torch.zeros(1, 2, 32, 32)
    marked = image.clone()
    marked[..., 9, 17] = 5.0
    with torch.no_grad():
        change = (backbone(marked)[0] - backbone(image)[0]).norm(dim=1)[0]
    assert change[7:12, 15:20].all()
    change[7:12, 15:20] = 0
    assert not change.any(), "two convolutions of three pixels"


@pytest.mark.parametrize("neck", ["pyramid", "map", "none"])
@pytest.mark.parametrize("reference", [False, True])
def test_every_parameter_learns_and_groups_are_complete(neck: str, reference: bool) -> None:
    backbone = _make(S1, S2, DEM, neck=neck, subtract_reference=reference).train()
    levels = backbone(torch.randn(2, 13, 32, 32))
    sum(x.square().mean() + x[:, 0].mean() for x in levels).backward()
    without = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without
    grouped = [id(p) for group in backbone.layer_groups() for p in group]
    assert len(grouped) == len(set(grouped))
    new = {n for n, p in backbone.named_parameters() if id(p) not in set(grouped)}
    assert all(n.startswith(("pyramid.", "tap_norms.")) for n in new)
    assert backbone.no_weight_decay() == {"vit.s_t_channel_embed", "vit.sp_channel_embed"}
    assert len(backbone.layer_groups()) == 4


TUNINGS = [
    "full", "frozen", "bitfit", "norms", "adapter", "lora", "dora", "adapter+lora", "prompt",
    {"name": "lora", "targets": ["q", "k", "v", "proj", "mlp"]},
]  # fmt: skip


@pytest.mark.parametrize("tuning", TUNINGS, ids=str)
@pytest.mark.parametrize("num_modalities", [1, 2])
def test_tunings_by_name(tuning: Any, num_modalities: int) -> None:
    backbone = _make(S2)
    before = {n: p.detach().clone() for n, p in backbone.named_parameters()}
    image = torch.randn(2 * num_modalities, 10, 32, 32)
    with torch.no_grad():
        untuned = backbone(image)[-1]
    torch.manual_seed(3)
    apply_tuning(backbone, tuning, num_modalities)
    name = tuning if isinstance(tuning, str) else tuning["name"]
    with torch.no_grad():
        same = torch.allclose(backbone.eval()(image)[-1], untuned, atol=1e-5)
    assert same == (name not in ("adapter", "adapter+lora", "prompt")), "as published"
    nudge(backbone)
    backbone.train()
    levels = backbone(image)
    sum((x * torch.linspace(-1, 1, x.numel()).view_as(x).sin()).mean() for x in levels).backward()
    for n, p in backbone.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, n
            # A softmax does not change with an offset to all its keys.
            assert p.grad.any() or n.endswith(("attn.k.bias", "attn.k.base.bias")), n
        else:
            plain = n.replace(".base.", ".")
            assert torch.equal(p, before[plain]), n


def test_targets_are_layers_of_their_own() -> None:
    backbone = _make(S1)
    apply_tuning(backbone, {"name": "lora", "targets": ["q", "v"]})
    layers = {n.rpartition(".")[2] for n, m in backbone.named_modules()
              if type(m).__name__ == "LoRALinear"}  # fmt: skip
    assert layers == {"q", "v"}


def test_gradient_checkpointing_changes_nothing() -> None:
    image = torch.randn(2, 12, 32, 32)
    found = []
    for wanted in (False, True):
        backbone = _make(S1, S2, drop_path_rate=0.5)
        backbone.gradient_checkpointing = wanted
        torch.manual_seed(4)
        loss = sum(level.sin().mean() for level in backbone.train()(image))
        assert isinstance(loss, Tensor)
        loss.backward()
        found.append([p.grad for p in backbone.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_sizes_by_name() -> None:
    """Values of the whole encoders, as counted in the published files."""
    everything = Modality("all", ("VV", "VH", *BANDS, "height"), "other")
    known = {"galileo_nano": 1_037_856, "galileo_tiny": 5_705_520, "galileo_base": 86_523_072}
    from terrafuse.backbones.galileo.encoder import GalileoEncoder
    from terrafuse.backbones.galileo.weights import VARIANTS

    for name, count in known.items():
        with torch.device("meta"):
            encoder = GalileoEncoder(VARIANTS[name])
        tables = encoder.dates.numel() + encoder.months.numel()
        assert sum(p.numel() for p in encoder.parameters()) + tables == count
    assert is_token_backbone("galileo_tiny")
    assert any(row.family == "Galileo" and row.licence == "mit" for row in list_backbones())
    backbone = create_backbone("galileo_nano", 13, modalities=[everything], **TINY)
    assert isinstance(backbone, Galileo)
    with pytest.raises(UnknownNameError, match=r"unknown backbone 'galileo_nan'.*galileo_nano"):
        create_backbone("galileo_nan", 13, modalities=[everything])
    with pytest.raises(ModelError, match="give the modalities of the image"):
        create_backbone("galileo_nano", 13)
    with pytest.raises(ModelError, match="14 channels, but all have 13 bands"):
        create_backbone("galileo_nano", 14, modalities=[everything])
    with pytest.raises(UnknownNameError, match=r"unknown option .* 'patchsize'.*patch_size"):
        create_backbone("galileo_nano", 13, modalities=[everything], patchsize=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Made-up weights of the size of nano, with a config.json, as they are published."""
    from terrafuse.backbones.galileo.encoder import GalileoEncoder
    from terrafuse.backbones.galileo.weights import VARIANTS

    torch.manual_seed(5)
    encoder = GalileoEncoder(VARIANTS["galileo_nano"])
    state = {k: v.clone() for k, v in encoder.state_dict().items()}
    state |= {"pos_embed": encoder.dates, "month_embed.weight": encoder.months}
    save_file(state, tmp_path / "encoder.safetensors")
    sizes = {"embedding_size": 128, "depth": 4, "num_heads": 8, "mlp_ratio": 4}
    (tmp_path / "config.json").write_text(json.dumps({"model": {"encoder": sizes}}))
    return tmp_path


def _load(weights: Path | str, name: str = "galileo_nano", **options: Any) -> Galileo:
    return Galileo(name, 2, [S1], weights=str(weights), neck="none", **options)


def test_a_folder_or_file_of_weights_loads(folder: Path) -> None:
    state = load_file(folder / "encoder.safetensors")
    for weights in (folder, folder / "encoder.safetensors"):
        backbone = _load(weights, out_indices=[1])
        assert torch.equal(backbone.blocks[1].mlp.fc1.weight, state["blocks.1.mlp.fc1.weight"])
        kernel = backbone.vit.get_parameter("space_time_embed.S1.proj.weight")
        assert torch.equal(kernel, state["space_time_embed.S1.proj.weight"])
        assert len(backbone.blocks) == 2
        assert backbone.pretrained is not None
        assert backbone.pretrained.licence == "unknown", "these are not the published values"
    # Published pickles may have a further part in their names.
    (folder / "encoder.safetensors").unlink()
    renamed = {k.replace("blocks.", "blocks.backbone."): v for k, v in state.items()}
    torch.save(renamed, folder / "encoder.pt")
    backbone = _load(folder)
    assert torch.equal(backbone.blocks[1].mlp.fc1.weight, state["blocks.1.mlp.fc1.weight"])


def test_weights_of_another_size_are_named(folder: Path) -> None:
    with pytest.raises(
        WeightsMismatchError, match=r"embedding_size is 128, needed 192.*size of 'galileo_nano'"
    ):
        _load(folder, "galileo_tiny")
    (folder / "config.json").unlink()
    with pytest.raises(
        WeightsMismatchError,
        match=r"embed_dim 128 and depth 4, needed 192 and 12\..*size of 'galileo_nano'",
    ):
        _load(folder, "galileo_tiny")
    with pytest.raises(WeightsMismatchError, match=r"embed_dim 128 and depth 4"):
        _load(folder, depth=3)


def test_files_that_do_not_fit_are_named(folder: Path) -> None:
    path = folder / "encoder.safetensors"
    state = load_file(path)
    save_file({k: v for k, v in state.items() if k != "blocks.2.attn.k.weight"}, path)
    with pytest.raises(WeightsMismatchError, match=r"missing: blocks\.2\.attn\.k\.weight"):
        _load(folder)
    save_file(state | {"blocks.0.ls1.gamma": torch.ones(128)}, path)
    with pytest.raises(WeightsMismatchError, match=r"unexpected: blocks\.0\.ls1\.gamma"):
        _load(folder)
    save_file(state | {"month_embed.weight": torch.zeros(12, 32)}, path)
    with pytest.raises(WeightsError, match=r"'month_embed\.weight' is not Galileo's fixed table"):
        _load(folder)
    save_file({"conv.weight": torch.ones(2)}, path)
    with pytest.raises(WeightsMismatchError, match=r"no 'norm\.weight'.*of another model"):
        _load(folder)
    path.unlink()
    with pytest.raises(WeightsNotFoundError, match="holds no weights of Galileo"):
        _load(folder)
    with pytest.raises(WeightsNotFoundError, match="there is no weights file"):
        _load(folder / "elsewhere")
    with pytest.raises(WeightsNotFoundError, match="timm has no pretrained weights"):
        _load("timm")


def test_the_published_file_has_its_digest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from terrafuse.weights import files

    monkeypatch.setattr(files, "_fetch", lambda source, **_: folder / "encoder.safetensors")
    with pytest.raises(ChecksumError, match="expected eab6acac"):
        _load("hub")


def test_the_published_weights_are_known_by_their_digest() -> None:
    if not NANO.exists():
        pytest.skip("Galileo's weights are not beside this checkout")
    backbone = _load(NANO)
    assert backbone.pretrained is not None
    assert backbone.pretrained.licence == "mit"
    # Weights that are trained tell apart what lies under them, even from random images.
    with torch.no_grad():
        level = backbone.eval()(torch.randn(1, 2, 32, 32))[-1]
    assert level.isfinite().all()
    assert isinstance(backbone.vit.norm, nn.LayerNorm)
    assert float(level.std()) > 0.1 / sqrt(128)

"""MFNet beyond the paper: any modalities, bands, backbone, tuning and image size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from small_backbones import BACKBONES, train_a_little
from terrafuse.backbones import ToRGB
from terrafuse.classes import ClassScheme
from terrafuse.errors import ModelError, UnknownNameError
from terrafuse.fusion import DeepFusion, LevelSqueezeFusion
from terrafuse.methods import create_segmenter, describe_run
from terrafuse.methods.mfnet import MFNet
from terrafuse.methods.saving import load_tuned
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.tuning import TUNINGS

RGB = Modality("rgb", ("r", "g", "b"))
SAR = Modality("sar", ("vv", "vh"), scale=0.5)
DSM = Modality("dsm", ("z",))
K = 3


def _make(
    backbone: str = "samvit", modalities: tuple[Modality, ...] = (RGB, DSM), **options: Any
) -> MFNet:
    name, own = BACKBONES[backbone]
    options.setdefault("decoder_options", {"channels": 8, "num_heads": 2, "window_size": 2})
    options["backbone_options"] = own | options.get("backbone_options", {})
    torch.manual_seed(0)
    model = create_segmenter("mfnet", modalities, K, {"backbone": name} | options)
    assert isinstance(model, MFNet)
    train_a_little(model)
    return model.eval()


def _images(
    modalities: tuple[Modality, ...], size: tuple[int, int], batch: int = 2
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        m.name: torch.randn(
            batch, len(m.bands), m.size_at(size[0]), m.size_at(size[1]), generator=generator
        )
        for m in modalities
    }


# Every tuning on every kind of plain transformer; one to three modalities and odd sizes take turns.
SIZES = ((33, 47), (5, 70))
TUNED = [*TUNINGS, "adapter+lora"]
MATRIX = [
    (tuning, backbone, (i + j) % 3 + 1, SIZES[(i + j // 2) % 2])
    for i, tuning in enumerate(TUNED)
    for j, backbone in enumerate(("samvit", "dinov2", "vit"))
]


@pytest.mark.parametrize(("tuning", "backbone", "num_modalities", "size"), MATRIX)
def test_it_trains(tuning: str, backbone: str, num_modalities: int, size: tuple[int, int]) -> None:
    modalities = (RGB, DSM, SAR)[:num_modalities]
    model = _make(backbone, modalities, tuning=tuning).train()
    logits = model(_images(modalities, size)).logits
    assert logits.shape == (2, K, *size)
    assert logits.isfinite().all()
    logits.sin().mean().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("backbone", ["hiera", "swin", "convnext", "pvt", "resnet"])
@pytest.mark.parametrize("num_modalities", [1, 3])
def test_pyramids_keep_their_levels(backbone: str, num_modalities: int) -> None:
    modalities = (RGB, DSM, SAR)[:num_modalities]
    tuning = "norms" if backbone == "resnet" else "adapter"
    model = _make(backbone, modalities, tuning=tuning)
    assert isinstance(model.fusion, LevelSqueezeFusion)
    assert model.fusion.channels == model.backbone.channels
    assert model.stride == 32
    logits = model.train()(_images(modalities, (50, 70))).logits
    assert logits.shape == (2, K, 50, 70)
    logits.sin().mean().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("backbone", "stride"), [("samvit", 32), ("vit", 32), ("dinov2", 28), ("eva02", 28)]
)
def test_one_map_becomes_four_levels(backbone: str, stride: int) -> None:
    """Of stride p / 4 to 2 p: also where the patch p is no power of two."""
    model = _make(backbone)
    assert isinstance(model.fusion, DeepFusion)
    assert model.stride == stride
    seen: list[list[Tensor]] = []
    model.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(_images((RGB, DSM), (2 * stride, 3 * stride)))
    assert [tuple(x.shape) for x in seen[0]] == [
        (2, 8, 2 * n, 3 * n) for n in (8, 4, 2, 1)
    ]  # fmt: skip


@pytest.mark.parametrize("neck", ["pyramid", "none"])
def test_other_necks_of_a_transformer(neck: str) -> None:
    model = _make("vit", backbone_options={"neck": neck})
    assert isinstance(model.fusion, LevelSqueezeFusion)
    assert len(model.fusion.channels) == (4 if neck == "pyramid" else 2)
    assert model(_images((RGB, DSM), (40, 40))).logits.shape == (2, K, 40, 40)


@pytest.mark.parametrize("backbone", ["samvit", "vit", "dinov2"])
@pytest.mark.parametrize("decoder", ["unetformer", "segformer"])
def test_without_deep_fusion_maps_are_added(backbone: str, decoder: str) -> None:
    options = {} if decoder == "unetformer" else {"decoder_options": {"channels": 8}}
    model = _make(backbone, deep_fusion=False, decoder=decoder, **options)
    assert model.fusion is None
    p = model.backbone.strides[0]
    assert model.stride == p
    images = _images((RGB, DSM), (2 * int(p), 3 * int(p)))
    with torch.no_grad():
        batch = torch.cat([images["rgb"], images["dsm"].expand(-1, 3, -1, -1)])
        (maps,) = model.backbone(batch)
        own = model.decoder([maps[:2] + maps[2:]])
        expected = nn.functional.interpolate(own, images["rgb"].shape[-2:], mode="bilinear")
        torch.testing.assert_close(model(images).logits, expected)
    # "Resolution chain 16 → 32 → 64 → 128": half of the image at last, for a patch of 16.
    assert own.shape[-1] == 3 * (8 if decoder == "unetformer" else 1)
    assert model(_images((RGB, DSM), (33, 47))).logits.shape == (2, K, 33, 47)


def _bands(*names: str, wavelengths: tuple[float, ...] | None = None) -> Modality:
    return Modality("x", names, "optical", wavelengths)


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 12])
def test_any_bands_become_three(bands: int) -> None:
    convert = ToRGB(_bands(*(f"x{i}" for i in range(bands))))
    image = torch.randn(2, bands, 4, 5)
    result = convert(image)
    assert result.shape == (2, 3, 4, 5)
    if bands == 1:
        assert torch.equal(result, image.repeat(1, 3, 1, 1))
    elif bands == 2:
        torch.testing.assert_close(result[:, :2], image)
        torch.testing.assert_close(result[:, 2], image.mean(dim=1))
    elif bands == 3:
        assert torch.equal(result, image)
    else:
        rest = convert(torch.cat([image[:, :3], 0 * image[:, 3:]], dim=1))
        torch.testing.assert_close(rest, image[:, :3])
    assert bool(list(convert.parameters())) == (bands not in (1, 3))


@pytest.mark.parametrize(
    ("modality", "expected"),
    [
        (_bands("b", "g", "r"), (2, 1, 0)),
        (_bands("B02", "B03", "B04", "B08"), (2, 1, 0)),
        (_bands("NIR", "1", "2", "3", wavelengths=(0.842, 0.49, 0.56, 0.665)), (3, 2, 1)),
        (_bands("nir", "red", "green"), (0, 1, 2)),  # as published for infrared images
    ],
)
def test_red_green_and_blue_are_found_where_they_are(
    modality: Modality, expected: tuple[int, int, int]
) -> None:
    image = torch.randn(1, len(modality.bands), 2, 2)
    others = [i for i in range(len(modality.bands)) if i not in expected]
    image[:, others] = 0
    torch.testing.assert_close(ToRGB(modality)(image), image[:, list(expected)])


@pytest.mark.parametrize("bands", [2, 4, 6, 13])
def test_no_band_is_unseen_or_another_one_at_the_start(bands: int) -> None:
    weight = ToRGB(_bands(*(f"x{i}" for i in range(bands)))).mix.weight[:, :, 0, 0]
    assert (weight.norm(dim=0) > 0.05).all()
    apart = torch.cdist(weight.T, weight.T) + torch.eye(bands)
    assert apart.min() > 0.05


def test_a_run_from_before_sees_three_bands_in_their_own_order() -> None:
    modality = Modality("bgr", ("b", "g", "r"), "optical")
    model = _make("vit", (modality, DSM))
    state = {k: v for k, v in model.state_dict().items() if not k.endswith(".order")}
    assert len(state) == len(model.state_dict()) - 1
    one = (1.0,) * 3
    statistics = dict.fromkeys(("bgr", "dsm"), BandStatistics(one, one, one, one, (1, 1, 1)))
    scheme = ClassScheme(("a", "b", "c"))
    info = describe_run(model, scheme=scheme, statistics=statistics, crop_size=32, overlap=0)
    image = torch.randn(1, 3, 4, 4)
    assert torch.equal(model.to_rgb["bgr"](image), image.flip(1))
    load_tuned(model, state, info, "weights")
    assert torch.equal(model.to_rgb["bgr"](image), image)


@pytest.mark.parametrize("bands", [2, 4, 12])
def test_every_band_counts_after_a_step(bands: int) -> None:
    modality = Modality("ms", tuple(f"b{i}" for i in range(bands)))
    model = _make("vit", (modality, DSM), tuning="frozen").train()
    images = _images((modality, DSM), (64, 64))
    model(images).logits.sin().mean().backward()
    gradient = model.to_rgb["ms"].mix.weight.grad
    assert gradient is not None
    assert (gradient.abs().sum(dim=(0, 2, 3)) > 0).all()


def test_a_surface_model_is_seen_as_three_equal_bands() -> None:
    """As published: it goes through the colours' patch embedding."""
    model = _make()
    images = _images((RGB, DSM), (64, 64))
    seen: list[Tensor] = []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(images)
    assert torch.equal(seen[0][:2], images["rgb"])
    assert torch.equal(seen[0][2:], images["dsm"].repeat(1, 3, 1, 1))


@pytest.mark.parametrize("tuning", ["adapter", "lora", "dora", "prompt"])
def test_modalities_have_their_places(tuning: str) -> None:
    """The first one's values are for what comes first, whatever it is called."""
    a, b = Modality("a", ("r", "g", "b")), Modality("b", ("r", "g", "b"))
    model, swapped = (
        _make(modalities=(a, b), tuning=tuning),
        _make(modalities=(b, a), tuning=tuning),
    )
    swapped.load_state_dict(model.state_dict())
    one, other = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        logits = model({"a": one, "b": other}).logits
        assert torch.equal(swapped({"a": other, "b": one}).logits, logits)
        assert (model({"a": other, "b": one}).logits - logits).abs().max() > 1e-3


def test_modalities_meet_in_the_backbone_if_it_mixes_them() -> None:
    images = _images((RGB, DSM), (64, 64), batch=1)
    for tuning, mixes in (("adapter", True), ({"name": "adapter", "mix": False}, False)):
        model = _make(tuning=tuning)
        with torch.no_grad():
            (before,) = model.backbone(torch.cat([images["rgb"], -images["rgb"]]))
            (after,) = model.backbone(torch.cat([images["rgb"], 2 * images["rgb"]]))
        assert torch.equal(before[0], after[0]) != mixes


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"fusion_options": {"reductoin": 4}},
            UnknownNameError,
            r"unknown option of fusion 'DeepFusion' 'reductoin'\. Did you mean 'reduction'",
        ),
        (
            {"fusion_options": {"norms": "group"}},
            ModelError,
            r"option 'norms' of fusion 'DeepFusion' is 'group'",
        ),
        (
            {"backbone": "resnet", "tuning": None, "fusion_options": {"norms": "batch"}},
            UnknownNameError,
            r"unknown option of fusion 'LevelSqueezeFusion' 'norms'",
        ),
        (
            {"backbone": "resnet", "tuning": None, "deep_fusion": False},
            ModelError,
            r"'deep_fusion' .* is false, .* backbone 'resnet18' gives 4 levels",
        ),
        (
            {"backbone_options": {"neck": "pyramid"}, "deep_fusion": False},
            ModelError,
            "gives 4 levels. Choose a plain transformer",
        ),
        ({"backbone": "resnet"}, ModelError, "tuning 'adapter' changes transformer blocks"),
        ({"decoder": "unetformr"}, UnknownNameError, "Did you mean 'unetformer'"),
    ],
)
def test_what_does_not_go_together_is_named(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _make(**options)


@pytest.mark.parametrize("reduction", [2, 8])
def test_options_reach_the_fusion(reduction: int) -> None:
    model = _make(fusion_options={"reduction": reduction, "norms": "layer"})
    assert isinstance(model.fusion, DeepFusion)
    assert model.fusion.fusion.fusions[0].gates[0][0].out_channels == 8 // reduction
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.fusion.modules())

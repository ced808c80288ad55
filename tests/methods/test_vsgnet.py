"""VSGNet beyond the published code: any size and bands, frozen transformers, numbers that hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from small_backbones import train_a_little
from terrafuse.backbones import create_backbone
from terrafuse.classes import ClassScheme
from terrafuse.config import RunConfig, TrainingConfig
from terrafuse.config.base import parse_settings
from terrafuse.describe import describe_segmenter, without_values
from terrafuse.describe.costs import forward_flops
from terrafuse.describe.parts import describe_bases, describe_parts, name_sources
from terrafuse.errors import MissingModalityError, ModelError, UnknownNameError
from terrafuse.fusion import GuidedBlock, PooledQueryAttention
from terrafuse.methods import create_segmenter, describe_run, load_segmenter, tuned_state
from terrafuse.methods.vsgnet import VSGNet
from terrafuse.methods.vsgnet.blocks import FeatureRecalibration, pool_softly
from terrafuse.methods.vsgnet.vision import build_vision, see_pixels
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.training.optim import parameter_groups
from terrafuse.weights import save_model

RGB = Modality("rgb", ("red", "green", "blue"), "optical")
GREY = Modality("sam", ("grey",), "structure")
DEPTH = Modality("depth", ("near",), "structure")
COLOUR = Modality("sam", ("c1", "c2", "c3"), "structure")
K = 3

VIT = "vit_base_patch14_reg4_dinov2"
TINY_VIT: dict[str, Any] = {"embed_dim": 64, "depth": 1, "num_heads": 2, "img_size": 28}
TINY: dict[str, Any] = {
    "backbone": VIT,
    "backbone_options": TINY_VIT,
    "channels": [8, 12, 16, 16],
    "depths": [1, 1, 2, 1],
    "num_heads": [1, 2, 2, 4],
    "mlp_ratios": [2, 2, 1, 1],
    "decoder_options": {"channels": 8},
}
WITHOUT: dict[str, Any] = TINY | {"backbone": None}


def _make(
    modalities: tuple[Modality, ...] = (RGB, GREY), options: dict[str, Any] | None = None
) -> VSGNet:
    torch.manual_seed(0)
    model = create_segmenter("vsgnet", modalities, K, TINY | (options or {}))
    assert isinstance(model, VSGNet)
    return model


def _images(
    modalities: tuple[Modality, ...], size: tuple[int, int], batch: int = 2
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        m.name: torch.randn(batch, len(m.bands), *size, generator=generator) for m in modalities
    }


# Sizes and channels


@pytest.mark.parametrize("backbone", [VIT, None])
@pytest.mark.parametrize(
    ("structure", "size"),
    [
        ((GREY,), (32, 32)),
        ((COLOUR,), (33, 47)),
        ((COLOUR, DEPTH), (70, 45)),
        ((GREY, DEPTH), (64, 129)),
    ],
)
def test_any_size_and_any_structure(
    structure: tuple[Modality, ...], size: tuple[int, int], backbone: str | None
) -> None:
    modalities = (RGB, *structure)
    model = _make(modalities, {"backbone": backbone}).train()
    logits = model(_images(modalities, size)).logits
    assert logits.shape == (2, K, *size)
    logits.sin().mean().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@torch.no_grad()
def test_structures_are_stacked_in_their_order() -> None:
    """Bands of one modality, or each a modality: the same network."""
    both = Modality("both", ("grey", "near"), "structure")
    one, two = _make((RGB, both)).eval(), _make((RGB, GREY, DEPTH)).eval()
    shared = {k: v for k, v in one.state_dict().items() if not k.startswith(("mean_", "std_"))}
    two.load_state_dict(shared, strict=False)
    images = _images((RGB, GREY, DEPTH), (40, 50))
    stacked = torch.cat([images["sam"], images["depth"]], dim=1)
    expected = one({"rgb": images["rgb"], "both": stacked}).logits
    assert torch.equal(two(images).logits, expected)
    swapped = one({"rgb": images["rgb"], "both": stacked.flip(1)}).logits
    assert (swapped - expected).abs().max() > 1e-4


def test_published_size() -> None:
    """Parameters as counted in the published code: 54.7 M, with the last FR's second output."""
    names = {"image": "vit_giant_patch14_reg4_dinov2", "structure": VIT}
    model = without_values(lambda: create_segmenter("vsgnet", (RGB, GREY), 5, {"backbone": names}))
    assert isinstance(model, VSGNet)

    def count(part: nn.Module, *, frozen: bool = False) -> int:
        return sum(p.numel() for p in part.parameters() if p.requires_grad != frozen)

    not_made, redundant = 2 * 576 * 576 + 576, 512  # second output; an offset before a norm
    assert count(model) + not_made + redundant == 54_687_333
    assert sum(count(block) for scale in model.scales for block in scale.blocks) == 43_001_568  # type: ignore[union-attr]
    assert count(model.decoder) + redundant == 1_644_549
    frozen = {stream: count(vit, frozen=True) for stream, vit in model.vision.items()}
    assert round(frozen["image"] / 1e6) == 1136
    assert round(frozen["structure"] / 1e6) == 86
    flops = forward_flops(model, 512)
    without = without_values(lambda: create_segmenter("vsgnet", (RGB, GREY), 5, {"backbone": None}))
    assert flops > 20 * forward_flops(without, 512)


def test_blocks_drop_more_the_later_they_are() -> None:
    model = without_values(lambda: create_segmenter("vsgnet", (RGB, GREY), 5, {"backbone": None}))
    rates = [m.drop_path for m in model.modules() if isinstance(m, GuidedBlock)]
    assert rates == pytest.approx([0.2 * i / 19 for i in range(20)])


def test_dropped_parts_keep_the_mean() -> None:
    block = GuidedBlock(
        nn.Identity(), 4, 4, mlp_ratio=1, drop_path=0.25, layer_scale_init=1.0
    ).train()
    torch.manual_seed(0)
    x = torch.ones(4000, 1, 1, 4)
    dropped = block._drop(x)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert dropped.mean() == pytest.approx(1, abs=0.05)
    assert (dropped.std(dim=-1) == 0).all()  # a sample as a whole
    assert torch.equal(block.eval()._drop(x), x)


def test_first_values() -> None:
    model = _make()
    blocks = [m for m in model.modules() if isinstance(m, GuidedBlock)]
    assert len(blocks) == 5
    for block in blocks:
        for name, parameter in block.named_parameters(recurse=False):
            assert (parameter == 0.01).all(), name
    published = _make(options={"layer_scale_init": 1e-6})
    assert (published.scales[0].blocks[0].scale_mlp == 1e-6).all()  # type: ignore[index, union-attr]
    decoder: Any = model.decoder
    assert decoder.norm.eps == 1e-3
    assert decoder.fuse.weight.detach().std() == pytest.approx((2 / 32) ** 0.5, rel=0.2)


@torch.no_grad()
def test_fusion_enhancement_matters() -> None:
    """The recipe fault that left it without effect is not repeated."""
    images = _images((RGB, GREY), (64, 64))
    changes = {}
    for scale in (1.0, 1e-6):
        model = _make(options={"layer_scale_init": scale, "backbone": None}).eval()
        before = model(images).logits
        for module in model.modules():
            if isinstance(module, PooledQueryAttention):
                module.key_value.weight.mul_(-1)
        changes[scale] = (model(images).logits - before).abs().max() / before.abs().max()
    assert changes[1.0] > 1e-3
    assert changes[1e-6] < 1e-4


# What is trained


def test_everything_but_the_transformers_learns_in_one_group() -> None:
    model = _make()
    groups = parameter_groups(model, TrainingConfig(weight_decay=0.01))
    named = [name for group in groups for name in group.names]
    expected = {k for k, _ in model.named_parameters() if not k.startswith("vision.")}
    assert len(named) == len(set(named))
    assert set(named) == expected
    without_decay = {name for g in groups if g.weight_decay == 0 for name in g.names}
    blocks = {k for k in expected if ".blocks." in k and ("scale_" in k or "norm" in k)}
    assert len(blocks) == 5 * (4 + 4 + 4)
    assert blocks <= without_decay
    assert {k for k in expected if k.endswith("bias")} <= without_decay


def test_frozen_transformers_stay_as_they_are() -> None:
    model = _make()
    before = {k: v.clone() for k, v in model.vision.state_dict().items()}
    model.train()
    assert model.stems.training
    assert not any(module.training for vit in model.vision.values() for module in vit.modules())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(_images((RGB, GREY), (40, 40))).logits.square().mean().backward()
    optimizer.step()
    assert all(p.grad is None for p in model.vision.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.vision.state_dict().items())
    pixels = see_pixels(model.vision["image"], torch.randn(1, 3, 30, 40), "shuffle")  # type: ignore[arg-type]
    assert pixels.shape == (1, 1, 30, 40)
    assert not pixels.requires_grad


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of pretrained weights of the tiny transformer."""
    torch.manual_seed(7)
    backbone: Any = create_backbone(VIT, 3, neck="none", out_indices=[-1], **TINY_VIT)
    train_a_little(backbone)
    save_file(backbone.vit.state_dict(), tmp_path / "vit.safetensors")
    return tmp_path / "vit.safetensors"


@torch.no_grad()
def test_a_run_folder_holds_no_transformer(weights: Path, tmp_path: Path) -> None:
    model = _make(options={"weights": str(weights)}).eval()
    state = tuned_state(model)
    assert not any(name.startswith("vision.") for name in state)
    values = BandStatistics((0.0,) * 3, (1.0,) * 3, (0.0,) * 3, (9.0,) * 3, (1,) * 3)
    one = BandStatistics((0.0,), (1.0,), (0.0,), (9.0,), (1,))
    info = describe_run(
        model,
        scheme=ClassScheme(tuple("abc")),
        statistics={"rgb": values, "sam": one},
        crop_size=64,
        overlap=16,
    )
    assert [base["source"] for base in info.base_weights] == [str(weights)] * 2
    save_model(tmp_path / "run", state, info)
    loaded, _ = load_segmenter(tmp_path / "run")
    images = _images((RGB, GREY), (40, 56))
    assert torch.equal(loaded(images).logits, model(images).logits)


def test_describe_tells_transformers_apart(weights: Path) -> None:
    model = without_values(
        lambda: _make(options={"weights": {"image": str(weights), "structure": None}})
    )
    name_sources(model)
    image, structure = describe_bases(model)
    assert (image.part, image.source, image.tuning) == ("vision.image", str(weights), "frozen")
    assert (structure.part, structure.source) == ("vision.structure", None)
    assert image.backbone == structure.backbone == VIT


@pytest.mark.parametrize("backbone", [VIT, None, {"structure": VIT}])
def test_parts_and_cost_are_described(backbone: Any) -> None:
    options = {"backbone": backbone}
    real, model = _make(options=options), without_values(lambda: _make(options=options))
    rows = describe_parts(model)
    assert rows == describe_parts(real)
    assert sum(r.trainable for r in rows) == sum(
        p.numel() for p in real.parameters() if p.requires_grad
    )
    config = parse_settings(
        RunConfig, {"data": {"manifest": "x.yaml", "crop_size": 64}, "method": {"name": "vsgnet"}},
        "run.yaml",
    )  # fmt: skip
    cost = describe_segmenter(model, config)["cost"]
    assert cost["flops"] > 0
    assert cost["activation_bytes_per_sample"] > 0


# What transformers see


@torch.no_grad()
def test_one_channel_is_seen_as_grey(weights: Path) -> None:
    """As published, where the only channel was repeated."""
    grey, colour = (build_vision(VIT, str(weights), TINY_VIT, bands) for bands in (1, 3))
    image = torch.randn(2, 1, 28, 42)
    expected = see_pixels(colour, image.expand(-1, 3, -1, -1), "shuffle")
    torch.testing.assert_close(see_pixels(grey, image, "shuffle"), expected)


@torch.no_grad()
def test_equal_channels_are_seen_alike_whatever_their_number(weights: Path) -> None:
    image = torch.randn(1, 1, 28, 28)
    seen = [
        see_pixels(
            build_vision(VIT, str(weights), TINY_VIT, bands),
            image.expand(-1, bands, -1, -1),
            "shuffle",
        )
        for bands in (3, 6)
    ]
    torch.testing.assert_close(*seen)


@torch.no_grad()
def test_what_a_token_holds_lies_where_the_token_does(weights: Path) -> None:
    """A bright corner changes tokens everywhere, its own the most."""
    vit = build_vision(VIT, str(weights), TINY_VIT, 3)
    image = torch.zeros(1, 3, 56, 70)
    marked = image.clone()
    marked[..., 42:, :14] = 3
    change = see_pixels(vit, marked, "shuffle") - see_pixels(vit, image, "shuffle")
    tokens = nn.functional.avg_pool2d(change.abs().sum(dim=1), 14)  # (1, 4, 5)
    assert tokens.flatten().argmax() == 3 * 5


BGRN = Modality("s2", ("b", "g", "r", "nir"), "optical")


@pytest.mark.parametrize(
    ("bands", "um", "expected"),
    [
        (("red", "green", "blue"), None, (0, 1, 2)),
        (("B02", "B03", "B04", "B08"), None, (2, 1, 0)),
        (("c1", "c2", "c3", "c4"), (0.443, 0.492, 0.56, 0.665), (3, 2, 1)),
        (("nir", "red", "green"), (0.83, 0.66, 0.56), None),
        (("cyan", "red", "nir"), (0.525, 0.66, 0.83), None),  # one band for two colours
        (("red", "b4", "green"), None, None),
        (("pan",), (0.6,), None),
        (("a", "b", "c"), None, None),
    ],
)
def test_colours_are_found(
    bands: tuple[str, ...], um: tuple[float, ...] | None, expected: tuple[int, ...] | None
) -> None:
    assert Modality("m", bands, "optical", wavelengths_um=um).rgb_bands == expected


@torch.no_grad()
def test_of_many_bands_the_transformer_sees_red_green_and_blue(weights: Path) -> None:
    model = _make((BGRN, GREY), {"weights": str(weights)}).eval()
    seen: list[Tensor] = []
    model.vision["image"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = _images((BGRN, GREY), (28, 28))
    model(images)
    torch.testing.assert_close(seen[0], images["s2"][:, [2, 1, 0]])
    assert model.stems["image"][0].in_channels == 4  # type: ignore[index, union-attr]


# Numbers that hold


def _plain(a: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The published formula."""
    exponent = a.exp()
    weights = (exponent - exponent.amax(dims, keepdim=True)).exp()
    weights = weights / weights.sum(dims, keepdim=True)
    return (weights * a).sum(dims, keepdim=True)


@pytest.mark.parametrize("dims", [(2, 3), (1,)])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_the_stable_form_is_the_plain_one(dims: tuple[int, ...], scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    a = (scale * torch.randn(2, 6, 5, 7, dtype=torch.float64, generator=generator)).requires_grad_()
    expected = _plain(a, dims)
    (gradient,) = torch.autograd.grad(expected.sin().sum(), a)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        own = a.detach().to(dtype).requires_grad_()
        found = pool_softly(own, dims, sharpened=True)
        close = {"rtol": tolerance, "atol": tolerance}
        torch.testing.assert_close(found.double(), expected, **close)
        (slope,) = torch.autograd.grad(found.sin().sum(), own)
        # Slopes hold differences times exp(a).
        close["atol"] *= max(1.0, float(a.detach().amax().exp()))
        torch.testing.assert_close(slope.double(), gradient, **close)


def test_the_plain_softmax_is_torchs() -> None:
    a = torch.randn(2, 6, 5, 7)
    expected = (a * a.flatten(2).softmax(dim=2).view_as(a)).sum((2, 3), keepdim=True)
    torch.testing.assert_close(pool_softly(a, (2, 3), sharpened=False), expected)


@pytest.mark.parametrize("value", [-1e4, -3.0, 0.0, 3.0, 50.0, 1e3, 1e4])
def test_equal_values_share_the_slope(value: float) -> None:
    """Flat ground: no rounding is multiplied by exp(a)."""
    a = torch.full((1, 2, 30, 31), value, requires_grad=True)
    pooled = pool_softly(a, (2, 3), sharpened=True)
    assert (pooled == value).all()
    pooled.sum().backward()
    torch.testing.assert_close(a.grad, torch.full_like(a, 1 / 930))


@pytest.mark.parametrize("scale", [1e2, 1e3, 1e4])
@pytest.mark.parametrize("sharpened", [True, False])
def test_large_values_give_their_maximum(scale: float, sharpened: bool) -> None:
    a = (scale * torch.randn(2, 5, 8, 9)).requires_grad_()
    pooled = pool_softly(a, (2, 3), sharpened=sharpened)
    pooled.sum().backward()
    torch.testing.assert_close(pooled, a.amax((2, 3), keepdim=True), rtol=1e-2, atol=0)
    assert a.grad is not None
    torch.testing.assert_close(a.grad.sum((2, 3)), torch.ones(2, 5), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("half", [None, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3, 1e4])
def test_recalibration_is_finite(scale: float, half: torch.dtype | None) -> None:
    torch.manual_seed(0)
    module = FeatureRecalibration(12)
    inputs, outputs = ([scale * torch.randn(2, 12, 9, 7) for _ in range(2)] for _ in range(2))
    if half is not None:  # as they come out of layers in half precision
        inputs = [x.to(half) for x in inputs]
    learn = [x.requires_grad_() for x in (*inputs, *outputs)]
    with torch.autocast("cpu", half or torch.bfloat16, enabled=half is not None):
        results = module(inputs, outputs)
    assert all(y.dtype == torch.float32 and y.isfinite().all() for y in results)
    # What follows is a norm: slopes are those of values of its size.
    sum((y / y.detach().std()).sin().mean() for y in results).backward()  # type: ignore[union-attr]
    assert all(x.grad is not None and x.grad.isfinite().all() for x in learn)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_the_whole_is_finite_in_half_precision(half: torch.dtype) -> None:
    """Also where what leaves the last scale exceeds float16's range."""
    model = _make((RGB, COLOUR)).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # statistics of what they have seen
    last: Any = model.scales[-1]
    for down in last.down:
        nn.init.constant_(down[0].weight, 1000)
    largest: list[Tensor] = []
    last.register_forward_hook(lambda *x: largest.append(x[2][0].detach().abs().max()))
    images = _images((RGB, COLOUR), (64, 64))
    for training in (True, False):
        with torch.autocast("cpu", half):
            logits = model.train(training)(images).logits
        assert logits.isfinite().all()
        assert largest[-1] > torch.finfo(torch.float16).max
        logits.float().sin().mean().backward()
        learning = [p for p in model.parameters() if p.requires_grad]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in learning)


# What is refused


@pytest.mark.parametrize(
    ("modalities", "options", "message"),
    [
        ((RGB,), {}, r"needs an image and its structure, got 'rgb' alone.*terrafuse generate"),
        ((GREY, RGB), {}, r"takes the image first, got structure 'sam'.*Begin .*with 'rgb'"),
        (None, {"backbone": "dofa_base_patch16"}, r"'dofa_base_patch16' is not one"),
        (None, {"backbone": "resnet18"}, r"needs a plain transformer .* 'resnet18' is not one"),
        (
            None,
            {"backbone_options": TINY_VIT | {"embed_dim": 96}},
            r"tokens of width 96; .* multiple of 64",
        ),
        (None, {"backbone_options": TINY_VIT | {"out_indices": [0]}}, r"leave 'out_indices' out"),
        (None, {"channels": [8, 12]}, r"have 2, 4, 4 and 4 values; give one per scale"),
        (None, {"num_heads": [3, 2, 2, 4]}, r"3 heads cannot share half of 8 channels"),
        (None, {"depths": [1, 0, 1, 1]}, r"at least 1 per scale; .*depths \[1, 0, 1, 1\]"),
        (None, {"drop_path_rate": 1.0}, r"'drop_path_rate' .* is 1; allowed is 0 to less"),
        (None, {"softmax": "hard"}, r"option 'softmax' .* is 'hard': .*'sharpened' or 'plain'"),
    ],
)
def test_mistakes_are_named(
    modalities: tuple[Modality, ...] | None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        _make(modalities or (RGB, GREY), options)


def test_a_stream_that_does_not_exist_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown stream in option 'weights' 'structur'\."):
        _make(options={"weights": {"structur": None}})


def test_a_sample_without_structure_is_refused() -> None:
    model = _make(options=WITHOUT).eval()
    images = _images((RGB, GREY), (32, 32))
    images["sam"][1] = torch.nan
    with pytest.raises(MissingModalityError, match=r"without data here: sam.*terrafuse generate"):
        model(images)

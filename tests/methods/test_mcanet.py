"""MCANet: equal to both re-implementations of the paper; its attention by hand and in chunks."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from golden_files import load_golden, part
from terrafuse.decoders import AtrousBranches
from terrafuse.decoders.layers import ConvNormAct
from terrafuse.describe import without_values
from terrafuse.errors import ModelError, WeightsMismatchError
from terrafuse.evaluation import ConfusionMatrix, score, score_classes
from terrafuse.methods import create_segmenter, mcanet
from terrafuse.methods.mcanet import CrossAttention, MCANet, convert_reference_state_dict
from terrafuse.modalities import Modality
from terrafuse.training.losses import CrossEntropy
from terrafuse.weights import load_strict

OPTICAL = Modality("optical", ("r", "g", "b", "nir"), "optical")
SAR = Modality("sar", ("hh",), "sar")
SMALL: dict[str, Any] = {
    "backbone": "resnet50c",
    "backbone_options": {"channels": [2, 4, 8, 16], "stem_width": 4},
    "low_channels": 6,
    "high_channels": 10,
}


def assert_equal(found: Tensor, expected: Tensor, name: str = "") -> None:
    """As stated beside the files: within 2e-5 of the largest value."""
    atol = 2e-5 * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(
        found.double(), expected.double(), rtol=0, atol=atol, msg=lambda text: f"{name}: {text}"
    )


def record(outputs: dict[str, Tensor], **modules: nn.Module) -> None:
    """Keep what modules return, by name."""
    for name, module in modules.items():
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: outputs.__setitem__(name, output)
        )


def inside(attention: CrossAttention, names: tuple[str, ...]) -> dict[str, Tensor]:
    """What an attention computes on its way, filled in when it runs: rows of queries (N, L, L).

    The shares of each modality, those of all together, and values (N, L, C') as stored.
    """
    found: dict[str, Tensor] = {}
    attend, log_softmax = attention._attend, Tensor.log_softmax

    def watched(queries: Any, keys: Any, values: Any) -> Tensor:
        shares: list[Tensor] = []

        def kept(scores: Tensor, dim: int) -> Tensor:
            logarithms = log_softmax(scores, dim)
            shares.append(logarithms.exp())
            return logarithms

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tensor, "log_softmax", kept)
            result = attend(queries, keys, values)
        found.update(zip((f"attn_{name}" for name in names), shares, strict=True))
        found["attn_cross"] = torch.stack(shares).prod(dim=0)
        found.update({f"v_{n}": v.transpose(1, 2) for n, v in zip(names, values, strict=True)})
        return result

    attention._attend = watched  # type: ignore[method-assign]
    return found


def make(modalities: tuple[Modality, ...], **options: Any) -> MCANet:
    torch.manual_seed(0)
    model = create_segmenter("mcanet", modalities, 8, SMALL | options)
    assert isinstance(model, MCANet)
    return model.eval()


@pytest.mark.parity
@torch.no_grad()
def test_attention_is_the_reimplementations() -> None:
    stored, config = load_golden("mcanet/cmcd_mcam")
    attention = CrossAttention(config["in_channels"])
    state = {f"mcam_low.{k}": v for k, v in part(stored, "sd.").items()}
    load_strict(attention, part(convert_reference_state_dict(state), "low_attention."), where="")
    found = inside(attention, ("opt", "sar"))
    assert_equal(attention([stored["in.opt"], stored["in.sar"]]), stored["out.y"])
    for name in ("attn_opt", "attn_sar", "v_opt", "v_sar"):
        assert_equal(found[name], stored[f"mid.{name}"], name)


@pytest.mark.parity
@torch.no_grad()
def test_context_is_the_reimplementations() -> None:
    stored, config = load_golden("mcanet/cmcd_aspp")
    _, *rates = config["dilations"]
    views = AtrousBranches(config["in_channels"], config["channels"], rates=rates, norm="batch")
    context = nn.Sequential(
        views, ConvNormAct(views.out_channels, config["channels"], kernel_size=3, norm="batch")
    ).eval()
    state = {f"aspp.{k}": v for k, v in part(stored, "sd.").items()}
    load_strict(context, part(convert_reference_state_dict(state), "context."), where="")
    assert_equal(context(stored["in.x"]), stored["out.y"])


@pytest.mark.parity
@torch.no_grad()
def test_everything_before_the_decoder_is_the_reimplementations() -> None:
    stored, config = load_golden("mcanet/cmcd_full_small")
    model = make((OPTICAL, SAR))
    assert (config["fuse_low"], config["fuse_high"]) == (6, 10)
    converted = convert_reference_state_dict(part(stored, "sd."))
    ours = model.state_dict()
    assert {k for k in ours if k not in converted} == {
        k for k in ours if k.startswith(("decoder.", "mean_", "std_"))
    }
    load_strict(model, ours | converted, where="stored weights")
    found: dict[str, Tensor] = {}
    record(
        found,
        optical=model.branches["optical"],
        sar=model.branches["sar"],
        aspp=model.context,
        conv_fuse_low=model.fuse_low,
        mcam_low=model.low_attention or nn.Identity(),
        mcam_high=model.high_attention or nn.Identity(),
    )
    model.decoder.register_forward_pre_hook(lambda _, inputs: found.update(merged=inputs[0]))
    both = stored["in.opt_sar"]
    model({"optical": both[:, :4], "sar": both[:, 4:]})
    for name, levels in (("opt", found.pop("optical")), ("sar", found.pop("sar"))):
        found |= {f"{name}_low": levels[0], f"{name}_high": levels[-1]}
    merged = found.pop("merged")
    expected = part(stored, "mid.")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert_equal(found[name], value, name)
    assert_equal(merged, stored["out.merged"], "merged")


@pytest.mark.parametrize("name", ["aspp.aspp_modules.4.conv.weight", "decode_head.conv.weight"])
def test_a_foreign_value_is_named(name: str) -> None:
    stored, _ = load_golden("mcanet/cmcd_full_small")
    model = make((OPTICAL, SAR))
    state = model.state_dict() | convert_reference_state_dict(
        part(stored, "sd.") | {name: torch.zeros(1)}
    )
    with pytest.raises(WeightsMismatchError, match="unexpected"):
        load_strict(model, state, where="stored weights")


# The second re-implementation ("SOLC") has other layers in the same places. With them in place of
# ours, `segment` computes its network too.


class LightBranch(nn.Module):
    """Five convolutions, the first three with a pooling: levels of strides 4 and 8."""

    def __init__(self, bands: int, channels: list[int]) -> None:
        super().__init__()
        widths = [bands, *channels]
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, kernel_size=3, padding=1),
                nn.BatchNorm2d(b),
                nn.ReLU(),
                nn.MaxPool2d(2) if i < 3 else nn.Identity(),
            )
            for i, (a, b) in enumerate(pairwise(widths))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return [maps[1], maps[4]]


def projected_attention(channels: int, *, norm: bool = False) -> nn.Sequential:
    """Half of the channels inside, a convolution after it."""
    inner = channels // 2
    layers: list[nn.Module] = [
        CrossAttention(channels, inner_channels=inner),
        nn.Conv2d(inner, channels, kernel_size=1),
    ]
    return nn.Sequential(*layers, *([nn.BatchNorm2d(channels)] if norm else []))


def convert_solc_attention(state: Mapping[str, Tensor], *, norm: bool = False) -> dict[str, Tensor]:
    """SAR comes first there."""
    converted = {
        f"0.qkv.{i}.{kind}": torch.cat(
            [state[f"{layer}_{m}.{kind}"] for layer in ("theta", "phi", "g")]
        )
        for i, m in enumerate(("sar", "opt"))
        for kind in ("weight", "bias")
    }
    for name, value in part(dict(state), "W.").items():
        place = {"0": "1", "1": "2"}[name[0]] + name[1:] if norm else f"1.{name}"
        converted[place] = value
    return converted


def convert_solc_views(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean comes last there."""
    converted = {}
    for i, there in enumerate(("imagepool.conv", "c0", "c1", "c2", "c3")):
        for name, value in part(state, f"stages.{there}.").items():
            layer, _, rest = name.partition(".")
            converted[f"branches.{i}.{('conv', 'bn').index(layer)}.{rest}"] = value
    return converted


def last_block_first(x: Tensor, blocks: int) -> Tensor:
    """Channels in equal blocks, the last of them first."""
    *first, last = x.chunk(blocks, dim=1)
    return torch.cat([last, *first], dim=1)


def solc(config: dict[str, Any], state: dict[str, Tensor]) -> MCANet:
    """Our network with the second re-implementation's layers and weights."""
    # SAR comes first there.
    model = make((SAR, OPTICAL), attention="none")
    widths, views = config["enc"], config["aspp_out"]
    low, high, fused = widths[1], widths[4], config["low_down"]
    model.stride = 8
    model.branches = nn.ModuleDict(
        {"sar": LightBranch(1, widths), "optical": LightBranch(4, widths)}
    )
    model.reduce_high = nn.ModuleDict(
        {m: nn.Conv2d(high, config["reduce_high"], kernel_size=1) for m in ("sar", "optical")}
    )
    model.fuse_low = nn.Conv2d(2 * low, fused, kernel_size=1)
    model.context = nn.Sequential(
        AtrousBranches(2 * config["reduce_high"], views, rates=config["rates"], norm="batch"),
        nn.Conv2d(5 * views, views, kernel_size=1),
    )
    model.decoder = nn.Sequential(
        nn.Conv2d(views + fused, config["decoder_mid"], kernel_size=3, padding=1),
        nn.Conv2d(config["decoder_mid"], config["num_classes"], kernel_size=3, padding=1),
    )
    statistics = {k: v for k, v in model.state_dict().items() if k.startswith(("mean_", "std_"))}
    load_strict(model, convert_solc(state, fused) | statistics, where="stored weights")
    return model.eval()


def convert_solc(state: dict[str, Tensor], fused: int) -> dict[str, Tensor]:
    """Names of the second re-implementation → ours; what it never runs is left out."""
    converted = {}
    for there, here in (("sar", "sar"), ("opt", "optical")):
        for name, value in part(state, f"{there}_en").items():
            number, _, rest = name.partition(".encode.")
            converted[f"branches.{here}.blocks.{int(number) - 1}.{rest}"] = value
        for name, value in part(state, f"{there}_high_level_down.").items():
            converted[f"reduce_high.{here}.{name}"] = value
    converted |= {f"fuse_low.{k}": v for k, v in part(state, "low_level_down.").items()}
    views = convert_solc_views(part(state, "aspp.0."))
    converted |= {f"context.0.{k}": v for k, v in views.items()}
    converted["context.1.weight"] = last_block_first(state["aspp.1.weight"], 5)
    converted["context.1.bias"] = state["aspp.1.bias"]
    converted |= {f"decoder.{k}": v for k, v in part(state, "decoder.").items()}
    # Its decoder takes the low level first.
    weight = state["decoder.0.weight"]
    converted["decoder.0.weight"] = torch.cat([weight[:, fused:], weight[:, :fused]], dim=1)
    return converted


@pytest.mark.parity
@pytest.mark.parametrize("name", ["solc_mcam", "solc_mcam_bn"])
@torch.no_grad()
def test_attention_with_a_projection_is_the_second_reimplementations(name: str) -> None:
    stored, config = load_golden(f"mcanet/{name}")
    norm = config["bn_layer"]
    attention = projected_attention(config["in_channels"], norm=norm).eval()
    state = convert_solc_attention(part(stored, "sd."), norm=norm)
    load_strict(attention, state, where="stored weights")
    found = inside(attention[0], ("sar", "opt"))
    assert_equal(attention([stored["in.sar"], stored["in.opt"]]), stored["out.y"])
    for name in ("attn_sar", "attn_opt", "attn_cross"):
        assert_equal(found[name], stored[f"mid.{name}"], name)


@pytest.mark.parity
@torch.no_grad()
def test_views_are_the_second_reimplementations() -> None:
    stored, config = load_golden("mcanet/solc_aspp")
    views = AtrousBranches(config["in_ch"], config["out_ch"], rates=config["rates"], norm="batch")
    load_strict(views, convert_solc_views(part(stored, "sd.")), where="stored weights")
    mean, *others = views.eval()(stored["in.x"]).chunk(5, dim=1)
    assert_equal(torch.cat([*others, mean], dim=1), stored["out.y"])


@pytest.mark.parity
@torch.no_grad()
def test_the_wiring_is_the_second_reimplementations() -> None:
    """As released, without attention; its attention is above."""
    stored, config = load_golden("mcanet/solc_full_released")
    model = solc(config, part(stored, "sd."))
    found: dict[str, Tensor] = {}
    record(found, aspp=model.context, low_level_down=model.fuse_low)
    for there, here in (("sar", "sar"), ("opt", "optical")):
        record(found, **{there: model.branches[here]})
    logits = model({"optical": stored["in.opt"], "sar": stored["in.sar"]}).logits
    for there in ("sar", "opt"):
        found[f"{there}_en2"], found[f"{there}_en5"] = found.pop(there)
    expected = part(stored, "mid.")
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert_equal(found[key], value, key)
    assert_equal(logits, stored["out.logits"])
    labels = stored["in.label"].long()
    labels = torch.where(labels == config["ignore_index"], 255, labels)
    loss = CrossEntropy(torch.ones(8), class_weights=config["class_weights"])(logits, labels)
    assert_equal(loss[None], stored["out.weighted_ce"])


@pytest.mark.parity
def test_scores_are_the_second_reimplementations() -> None:
    stored, config = load_golden("mcanet/solc_metric")
    confusion = ConfusionMatrix(config["num_classes"])
    confusion.update(stored["in.label"].numpy(), stored["in.pred"].numpy())
    matrix = confusion.matrix
    assert matrix.tolist() == stored["out.confusion"].tolist()
    classes, all_of_them = score_classes(matrix), score(matrix)
    close = {"rtol": 0.0, "atol": 1e-12}
    torch.testing.assert_close(torch.tensor(classes.iou), stored["out.iou"], **close)
    torch.testing.assert_close(torch.tensor(classes.recall), stored["out.acc_per_class"], **close)
    # Background is a class there; the mean over the other seven is what others report.
    found = {
        "oa": all_of_them.oa,
        "kappa": all_of_them.kappa,
        "acc_cls": all_of_them.mpa,
        "miou8": all_of_them.miou,
        "miou7": score(matrix, mean_over=range(1, 8)).miou,
    }
    for name, value in found.items():
        assert value == pytest.approx(stored[f"out.{name}"].item(), abs=1e-12), name


def constant_attention(pixels: int, **options: Any) -> Tensor:
    """What flat attention leaves of values that are 1 everywhere."""
    attention = CrossAttention(3, **options)
    for layer in attention.qkv:
        nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
        nn.init.ones_(layer.bias)  # type: ignore[arg-type]
    x = torch.randn(2, 3, pixels // 4, 4)
    return attention([x] * len(attention.qkv))


@pytest.mark.parametrize("pixels", [8, 64, 1024])
@torch.no_grad()
def test_flat_attention_vanishes_with_the_pixels_squared(pixels: int) -> None:
    """By hand: S = 1 / L², its rows sum to 1 / L, and Y is the product of two such sums."""
    torch.testing.assert_close(
        constant_attention(pixels), torch.full((2, 3, pixels // 4, 4), pixels**-2.0)
    )
    ones = torch.ones(2, 3, pixels // 4, 4)
    torch.testing.assert_close(constant_attention(pixels, renormalized=True), ones)


@torch.no_grad()
def test_three_modalities_multiply_as_two_do() -> None:
    """By hand: S = 1 / L³, rows sum to 1 / L², and three of them give 1 / L⁶."""
    found = constant_attention(8, num_modalities=3)
    torch.testing.assert_close(found, torch.full((2, 3, 2, 4), 8.0**-6))


@pytest.mark.parametrize("scaled", [False, True])
@torch.no_grad()
def test_renormalised_rows_are_the_products_divided_by_their_sums(scaled: bool) -> None:
    torch.manual_seed(0)
    attention = CrossAttention(6, scaled=scaled, renormalized=True)
    maps = [torch.randn(2, 6, 4, 5) for _ in range(2)]
    maps_of = [
        layer(x).flatten(2).chunk(3, 1) for layer, x in zip(attention.qkv, maps, strict=True)
    ]
    scale = 6**-0.5 if scaled else 1.0
    shared = torch.stack([(scale * q.transpose(1, 2) @ k).softmax(-1) for q, k, _ in maps_of]).prod(
        dim=0
    )
    shared = shared / shared.sum(dim=-1, keepdim=True)
    expected = torch.stack([v @ shared.transpose(1, 2) for _, _, v in maps_of]).prod(dim=0)
    torch.testing.assert_close(attention(maps).flatten(2), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_at_real_sizes_the_published_attention_adds_next_to_nothing() -> None:
    """The same at 64 × 64 pixels, and with more channels, in docs/methods/mcanet.md."""
    torch.manual_seed(0)
    maps = [torch.randn(1, 256, 32, 32).relu() for _ in range(2)]
    mean = maps[0].mean()
    assert CrossAttention(256)(maps).abs().mean() < 1e-2 * mean
    assert CrossAttention(256, scaled=True)(maps).abs().mean() < 1e-5 * mean
    assert CrossAttention(256, renormalized=True)(maps).abs().mean() > 0.1 * mean


class Products(TorchDispatchMode):
    """Counts values below float32's normal numbers that matrix products read or write."""

    def __init__(self) -> None:
        super().__init__()
        self.values = self.subnormal = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Tensor:
        result: Tensor = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.bmm.default, torch.ops.aten.mm.default):
            for x in (*args, result):
                self.values += x.numel()
                small = (x != 0) & (x.abs() < torch.finfo(torch.float32).tiny)
                self.subnormal += int(small.sum())
        return result


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("num_modalities", [2, 3])
@pytest.mark.parametrize("renormalized", [False, True])
def test_products_see_normal_numbers_and_come_to_the_same(
    seed: int, num_modalities: int, renormalized: bool
) -> None:
    """Processors multiply subnormal numbers up to fifty times slower."""
    torch.manual_seed(seed)
    attention = CrossAttention(256, num_modalities, renormalized=renormalized)
    maps = [torch.randn(1, 256, 16, 16).relu() for _ in range(num_modalities)]
    weights = torch.randn(1, 256, 16, 16)
    with Products() as seen:
        result = attention(maps)
        (result * weights).sum().backward()
    assert seen.values >= 18 * num_modalities * 256**2
    # Of softmaxes as they are 0.7 to 9 %; three factors leave some in the backward pass.
    assert seen.subnormal <= (0 if num_modalities == 2 else 2e-2 * seen.values)

    exact = deepcopy(attention).double()
    exact.zero_grad()
    qkv = [
        layer(x.double()).flatten(2).chunk(3, dim=1)
        for layer, x in zip(exact.qkv, maps, strict=True)
    ]
    scores = torch.stack([q.transpose(1, 2) @ k for q, k, _ in qkv])
    shared = scores.sum(dim=0).softmax(-1) if renormalized else scores.softmax(-1).prod(dim=0)
    expected = torch.stack([v @ shared.transpose(1, 2) for _, _, v in qkv]).prod(dim=0)
    (expected * weights.double().flatten(2)).sum().backward()
    # Scores are in the hundreds, and so is what float32 leaves of them.
    pairs = {"result": (result.detach().flatten(2), expected.detach())}
    for (name, found), other in zip(attention.named_parameters(), exact.parameters(), strict=True):
        assert found.grad is not None
        assert other.grad is not None
        pairs[name] = (found.grad, other.grad)
    for name, (found, other) in pairs.items():
        assert float((found - other).abs().max()) <= 5e-4 * float(other.abs().max()), name


@pytest.mark.parametrize("renormalized", [False, True])
@pytest.mark.parametrize("values", [1, 70, 200, 2 * 35 * 34])
def test_chunks_change_nothing(
    values: int, renormalized: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    attention = CrossAttention(4, renormalized=renormalized)
    results: list[list[Tensor]] = []
    for at_once in (10**6, values):
        monkeypatch.setattr(mcanet, "VALUES_AT_ONCE", at_once)
        torch.manual_seed(1)
        maps = [torch.randn(2, 4, 5, 7, requires_grad=True) for _ in range(2)]
        attention.zero_grad()
        result = attention(maps)
        result.square().sum().backward()
        gradients = [p.grad for p in (*attention.parameters(), *maps)]
        results.append([result, *(g for g in gradients if g is not None)])
    assert len(results[0]) == 7
    # Sums in another order; some gradients are 0 but for what rounding leaves of large terms.
    atol = 1e-5 * max(float(x.detach().abs().max()) for x in results[0])
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=atol)


def test_half_precision_does_not_reach_the_attention() -> None:
    """Without a scale, scores of many channels leave half precision."""
    attention = CrossAttention(64)
    maps = [100 * torch.randn(1, 64, 4, 4) for _ in range(2)]
    with torch.autocast("cpu", dtype=torch.float16):
        result = attention(maps)
    assert result.dtype == torch.float32
    assert result.isfinite().all()


def count(module: nn.Module | None) -> int:
    assert module is not None
    return sum(p.numel() for p in module.parameters())


def test_sizes_are_the_reimplementations() -> None:
    """ResNet-50 with a deep stem, without the decoder: 95.67 M, as counted there."""
    model = without_values(
        lambda: create_segmenter("mcanet", (OPTICAL, SAR), 7, {"backbone": "resnet50c"})
    )
    assert isinstance(model, MCANet)
    parts = {
        "encoders": count(model.branches),
        "low": count(model.low_attention),
        "high": count(model.high_attention),
        "aspp": count(model.context),
        "reductions": count(model.fuse_low) + count(model.reduce_high),
    }
    millions = {name: round(value / 1e6, 2) for name, value in parts.items()}
    assert millions == {
        "encoders": 47.05, "low": 0.39, "high": 25.18, "aspp": 21.96, "reductions": 1.09,
    }  # fmt: skip
    assert round(sum(parts.values()) / 1e6, 2) == 95.67


def test_defaults_are_the_papers() -> None:
    """ResNet-101, of output stride 8; whole network as in docs/methods/mcanet.md."""
    model = without_values(lambda: create_segmenter("mcanet", (OPTICAL, SAR), 7))
    assert isinstance(model, MCANet)
    assert [b.strides for b in model.backbones()] == [(4, 8), (4, 8)]
    assert [b.channels for b in model.backbones()] == [(256, 2048), (256, 2048)]
    assert count(model) == 134_907_303
    none = without_values(
        lambda: create_segmenter("mcanet", (OPTICAL, SAR), 7, {"attention": "none"})
    )
    assert count(none) == 94_117_799


@pytest.mark.parametrize(("output_stride", "stride"), [(8, 8), (16, 16), (32, 32)])
def test_output_strides(output_stride: int, stride: int) -> None:
    model = make((OPTICAL, SAR), output_stride=output_stride)
    assert model.stride == stride
    found: dict[str, Tensor] = {}
    record(found, context=model.context)
    with torch.no_grad():
        model({"optical": torch.randn(1, 4, 64, 96), "sar": torch.randn(1, 1, 64, 96)})
    assert found["context"].shape[-2:] == (64 // stride, 96 // stride)


def test_one_level_is_refused() -> None:
    options = {
        "backbone": "vit_tiny_patch16_224",
        "backbone_options": {"neck": "map", "depth": 1, "embed_dim": 16, "num_heads": 2},
        "output_stride": 32,
    }
    with pytest.raises(ModelError, match="gives one level; method 'mcanet' needs a low and a high"):
        make((OPTICAL, SAR), **options)


def test_it_learns_to_tell_classes_that_need_both() -> None:
    """Classes are the exclusive or of two images: neither alone tells anything."""
    torch.manual_seed(0)
    model = make((OPTICAL, SAR), output_stride=8).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    first, second = (torch.randint(0, 2, (4, 1, 8, 8)) for _ in range(2))
    a, b = (F.interpolate(x.float(), (64, 64)) for x in (first, second))
    labels = (a != b).long().squeeze(1)
    losses = []
    for _ in range(25):
        loss = F.cross_entropy(model({"optical": a.expand(-1, 4, -1, -1), "sar": b}).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]

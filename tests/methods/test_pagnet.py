"""PAGNet equals the authors' networks, map by map, and keeps promises of its own."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.senet import SEResNeXtBottleneck
from torch import Tensor, nn

from golden_files import load_golden, part
from terrafuse.backbones import PyramidBackbone, create_backbone
from terrafuse.describe import without_values
from terrafuse.describe.parts import describe_bases, name_sources
from terrafuse.errors import ModelError, WeightsMismatchError
from terrafuse.methods import create_segmenter
from terrafuse.methods.pagnet import PAGNet, convert_reference_state_dict
from terrafuse.methods.pagnet.blocks import GatedFusionUnit, PyramidAttentionFusion
from terrafuse.methods.pagnet.streams import MOBILENET_ENDS, MobileNetStream
from terrafuse.modalities import Modality
from terrafuse.weights import load_strict

#: As stated beside the files.
CLOSE: dict[str, float] = {"rtol": 3e-5, "atol": 3e-5}
RGB = Modality("rgb", ("r", "g", "b"), "optical")
OTHER = Modality("other", ("x",))
OPTICAL = Modality("optical", ("r", "g", "b", "nir"), "optical")


class Pyramid(PyramidBackbone):
    """Stem and stages as given."""

    def __init__(self, stem: nn.Module, stages: list[nn.Module], channels: tuple[int, ...]) -> None:
        super().__init__()
        self.stem, self.stages = stem, nn.ModuleList(stages)
        self.channels = channels


def named(**modules: nn.Module) -> nn.Sequential:
    result = nn.Sequential()
    for name, module in modules.items():
        result.add_module(name, module)
    return result


def small_mobilenet(config: dict[str, Any], place: str) -> MobileNetStream:
    """timm's network with the stored one's rows, in the parts in which a backbone holds it."""
    rows = []
    for i, (kernel, expansion, out, gate, swish, stride) in enumerate(config["mobilenet_rows"]):
        kind = "ir" if i else "ds"
        row = f"{kind}_r1_k{kernel}_s{stride}_e{expansion}_c{out}"
        rows.append(row + ("_se0.25" if gate else "") + ("" if swish else "_nre"))
    bounds = [0, 1, 3, 6, 10, 12, 15]
    groups = [rows[a:b] for a, b in pairwise(bounds)]
    net: Any = MobileNetV3(
        decode_arch_def([*groups, [f"cn_r1_k1_s1_c{config['in_ch']['k']}"]]),
        in_chans=3 if place == "primary" else 1,
        stem_size=16,
        fix_stem=True,
        act_layer=nn.Hardswish,
        num_classes=0,
        se_layer=partial(
            SqueezeExcite,
            gate_layer="hard_sigmoid",
            force_act_layer=nn.ReLU,
            rd_round_fn=round_channels,
        ),
    )
    b = net.blocks
    stem = named(conv_stem=net.conv_stem, bn1=net.bn1, blocks_0=b[0], blocks_1=b[1])
    stages = [
        named(blocks_2=b[2]),
        named(blocks_3=b[3], blocks_4=b[4]),
        named(blocks_5=b[5], blocks_6=b[6]),
    ]
    whole = Pyramid(stem, stages, tuple(config["in_ch"][level] for level in "qzk"))
    whole.strides, whole.stride = (8, 16, 32), 32
    return MobileNetStream(whole, MOBILENET_ENDS[place], gate_first=True)


def small_resnext(config: dict[str, Any]) -> Pyramid:
    """timm's blocks in the stored network's sizes."""
    sizes = config["seresnext"]
    whole: Any = create_backbone("legacy_seresnext50_32x4d", 3, strides=(4, 8, 16))
    inplanes, stages = sizes["stem"], []
    for number, (planes, count) in enumerate(zip(sizes["planes"], sizes["blocks"], strict=True), 1):
        blocks = []
        for i in range(count):
            stride = 2 if number > 1 and i == 0 else 1
            out = 4 * planes
            shortcut = None
            if stride > 1 or inplanes != out:
                shortcut = nn.Sequential(
                    nn.Conv2d(inplanes, out, kernel_size=1, stride=stride, bias=False),
                    nn.BatchNorm2d(out),
                )
            blocks.append(
                SEResNeXtBottleneck(
                    inplanes, planes, sizes["groups"], sizes["se_reduction"], stride, shortcut,
                    base_width=sizes["base_width"],
                )
            )  # fmt: skip
            inplanes = out
        stages.append(named(**{f"layer{number}": nn.Sequential(*blocks)}))
    stream = Pyramid(whole.stem, stages, tuple(config["in_ch_main"][level] for level in "qzk"))
    stream.strides, stream.stride = (4, 8, 16), 16
    return stream


def golden(
    name: str, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[PAGNet, dict[str, Tensor], dict[str, Any]]:
    """Our network with the stored weights, in evaluation mode."""
    stored, config = load_golden(f"pagnet/{name}")
    variant = "rx50" if "seresnext" in config else "mobile"
    first = small_resnext(config) if variant == "rx50" else small_mobilenet(config, "primary")
    streams = [first, small_mobilenet(config, "secondary")]
    monkeypatch.setattr("terrafuse.methods.pagnet.model.build_streams", lambda *_, **__: streams)
    sizes = {
        "channels": config["hidden_ch"], "key_channels": config["kernel"],
        "num_heads": config["heads"], "views": config["m_views"], "variant": variant,
    }  # fmt: skip
    model = create_segmenter("pagnet", (RGB, OTHER), config["out_channels"], sizes | options)
    assert isinstance(model, PAGNet)
    statistics = {k: v for k, v in model.state_dict().items() if k.startswith(("mean_", "std_"))}
    converted = convert_reference_state_dict(part(stored, "sd."))
    load_strict(model, converted | statistics, where="stored weights")
    return model.eval(), stored, config


def images(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"rgb": stored["in.x"][:, :3], "other": stored["in.x"][:, 3:]}


def keep(model: PAGNet, found: dict[str, Tensor]) -> None:
    """Every map that is stored, under its stored name."""

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            calls = sum(key.startswith(f"{name}.call") for key in found)
            found[f"{name}.call{calls + 1}"] = output

        return hook

    for number, stream in enumerate((model.primary, model.secondary), 1):
        for level, stage in enumerate(stream.stages, 1):
            stage.register_forward_hook(note(f"m{number}_l{level}"))
    for number, attention in enumerate(model.attentions, 1):
        assert isinstance(attention, PyramidAttentionFusion)
        attention.register_forward_hook(note(f"paf_{number}.out"))
        attention.smooth_dropout.register_forward_hook(note(f"paf_{number}.rs"))
        attention.graph_dropout.register_forward_hook(note(f"paf_{number}.gcn"))
        before = note(f"paf_{number}.qzk")
        attention.smooth.register_forward_pre_hook(lambda m, i, hook=before: hook(m, i, i[0]))
        inner, hook = attention._edges, note(f"paf_{number}.A")

        def edges(*args: Any, inner: Any = inner, hook: Any = hook) -> Tensor:
            result: Tensor = inner(*args)
            hook(None, None, result)
            return result

        attention._edges = edges  # type: ignore[method-assign]
    reduction, pooled = model.gate.reduction, note("gate")
    model.gate.gate.register_forward_hook(  # stored after its pooling
        lambda m, i, output: pooled(m, i, F.max_pool2d(output, reduction))
    )
    if model.gate.mix is not None:
        model.gate.mix.register_forward_hook(note("gate2"))
    # The original's stem has a block more than ours.
    next(model.secondary.stages[0].children()).register_forward_hook(note("m2_l0"))
    model.gate.register_forward_hook(lambda _m, _i, output: found.__setitem__("gated_q2", output))
    model.classifier.register_forward_hook(note("final"))


@pytest.mark.parity
@pytest.mark.parametrize("name", ["mobile", "rx50"])
@torch.no_grad()
def test_every_map_is_the_original(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, stored, config = golden(name, monkeypatch)
    assert not config["ndvi"]
    found: dict[str, Tensor] = {}
    keep(model, found)
    logits = model(images(stored)).logits
    expected = part(stored, "mid.")
    assert expected.keys() <= found.keys()
    for key in expected:
        value = expected[key]
        if ".A." in key:  # stored before rows are divided by their sums
            value = value / (value.sum(-1, keepdim=True) + 1e-7)
        torch.testing.assert_close(found[key], value, **CLOSE, msg=lambda m, k=key: f"{k}: {m}")
    torch.testing.assert_close(logits, stored["out.logits"], **CLOSE)


@pytest.mark.parity
@torch.no_grad()
def test_the_gate_of_vaihingens_network_is_the_original() -> None:
    stored, config = load_golden("pagnet/rx50_irrg_dsm_v2")
    gate = GatedFusionUnit(config["hidden_ch"], config["in_ch"]["q"], reduction=2, form="added")
    state = convert_reference_state_dict(part(stored, "sd."))
    load_strict(gate, part(state, "gate."), where="stored weights")
    gated = gate.eval()(stored["mid.m2_l1.call1"], stored["mid.paf_1.out.call1"])
    torch.testing.assert_close(gated, stored["mid.gated_q2"], **CLOSE)


@pytest.mark.parity
@torch.no_grad()
def test_the_second_stream_of_the_index_is_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stored weights to where the gate is."""
    model, _, _ = golden("mobile", monkeypatch, ndvi=True)
    stored, config = load_golden("pagnet/mobile_ndvi_heads2")
    assert config["ndvi"]
    state = part(convert_reference_state_dict(part(stored, "sd.")), "secondary.")
    load_strict(model.secondary.stem, part(state, "stem."), where="stored weights")
    load_strict(model.secondary.stages[0], part(state, "stages.0."), where="stored weights")
    early: list[Tensor] = []
    model.secondary.stages[0].register_forward_hook(lambda _, __, output: early.append(output))
    model(images(stored))
    torch.testing.assert_close(early[0], stored["mid.m2_l1.call1"], **CLOSE)


@pytest.mark.parity
@torch.no_grad()
def test_attention_with_two_heads_is_the_original() -> None:
    stored, config = load_golden("pagnet/paf_block")
    channels = config["in_ch"]
    attention = PyramidAttentionFusion(
        (channels["q"], channels["z"], channels["k"]),
        config["hidden_ch"],
        key_channels=config["kernel"],
        num_heads=config["heads"],
        views=config["m_views"],
        dropout=0.3,
    ).eval()
    state = part(stored, "sd.")
    slope = state["activation.weight"]
    state = {f"paf_1.{k}": v for k, v in state.items()}
    load_strict(attention, part(convert_reference_state_dict(state), "attentions.0."), where="")
    found: dict[str, Tensor] = {}
    attention.smooth.register_forward_pre_hook(lambda _, i: found.update(qzk=i[0]))
    levels = [stored[f"in.{level}"] for level in "qzk"]
    result = attention(*levels, slope)
    torch.testing.assert_close(result, stored["out.y"], **CLOSE)
    torch.testing.assert_close(found["qzk"], stored["mid.qzk"], **CLOSE)
    keys = [attention._look(levels[2], view) for view in range(3)]
    edges = attention._edges(attention.query(levels[0]), attention.middle(levels[1]), keys)
    torch.testing.assert_close(edges, stored["out.A_normalised"], **CLOSE)
    raw = stored["mid.A_raw"]
    torch.testing.assert_close(edges, raw / (raw.sum(-1, keepdim=True) + 1e-7), **CLOSE)


@pytest.mark.parity
def test_a_file_of_the_original_is_loaded_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, stored, _ = golden("rx50", monkeypatch)
    save_file(part(stored, "sd."), tmp_path / "pagnet.safetensors")
    for stream in model.backbones():
        for parameter in stream.parameters():
            nn.init.zeros_(parameter)
    loaded, _, _ = golden("rx50", monkeypatch, weights=str(tmp_path / "pagnet.safetensors"))
    with torch.no_grad():
        logits = loaded(images(stored)).logits
    torch.testing.assert_close(logits, stored["out.logits"], **CLOSE)
    assert [b.pretrained.source for b in loaded.backbones() if b.pretrained] == [
        str(tmp_path / "pagnet.safetensors")
    ] * 2


@pytest.mark.parametrize("weights", ["hub", "encoder.safetensors"])
def test_a_file_of_something_else_is_refused(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file({"conv1.weight": torch.zeros(1)}, "encoder.safetensors")
    with pytest.raises(WeightsMismatchError, match=rf"'{weights}' .* hold no whole PAGNet"):
        golden("rx50", monkeypatch, weights=weights)


def test_a_foreign_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model, stored, _ = golden("mobile", monkeypatch)
    state = part(stored, "sd.") | {"gate3.0.weight": torch.zeros(1)}
    with pytest.raises(WeightsMismatchError, match=r"unexpected: gate3\.0\.weight"):
        load_strict(model, model.state_dict() | convert_reference_state_dict(state), where="x")


@pytest.mark.parametrize(("variant", "millions"), [("mobile", 6.07), ("rx50", 12.66)])
def test_sizes_are_the_published(variant: str, millions: float) -> None:
    model = without_values(
        lambda: create_segmenter("pagnet", (RGB, OTHER), 9, {"variant": variant})
    )
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


def test_defaults_are_published() -> None:
    model = without_values(lambda: create_segmenter("pagnet", (OPTICAL, OTHER), 7))
    assert isinstance(model, PAGNet)
    assert (model.primary.channels, model.primary.strides) == ((256, 512, 1024), (4, 8, 16))
    assert (model.secondary.channels, model.secondary.strides) == ((40, 112, 960), (8, 16, 32))
    assert len(model.attentions) == 2
    assert model.gate.form == "mixed"
    assert model.stride == 32


@torch.no_grad()
def test_levels_end_where_the_first_stream_of_timm_does() -> None:
    """In timm's order of gate and activation, nothing else is changed."""
    torch.manual_seed(0)
    whole = create_backbone("mobilenetv3_large_100", 4, strides=(8, 16, 32)).eval()
    assert isinstance(whole, PyramidBackbone)
    image = torch.randn(2, 4, 64, 96)
    expected = whole(image)
    published = MobileNetStream(whole, MOBILENET_ENDS["primary"], gate_first=False)
    for found, level in zip(published.eval()(image), expected, strict=True):
        assert torch.equal(found, level)
    later = MobileNetStream(
        create_backbone("mobilenetv3_large_100", 4, strides=(8, 16, 32)),  # type: ignore[arg-type]
        MOBILENET_ENDS["secondary"],
        gate_first=True,
    )
    assert list(later.stages[0]._modules) == ["4", "5"]
    assert list(later.stages[1]._modules) == ["6", "7", "8", "9", "10", "11"]
    assert list(later.stages[2]._modules) == ["12", "13", "14", "15", "16"]
    assert [tuple(x.shape[1:]) for x in later.eval()(image)] == [
        (40, 8, 12),
        (112, 4, 6),
        (960, 2, 3),
    ]


@pytest.mark.parametrize("form", ["tanh", "added"])
@torch.no_grad()
def test_gates_by_hand(form: Any) -> None:
    unit = GatedFusionUnit(1, 1, reduction=2, form=form).eval()
    nn.init.ones_(unit.gate[0].weight)  # type: ignore[arg-type]
    found = torch.tensor([[[[-1.0, 2.0, 0.0, 0.5], [0.0, 1.0, 0.0, 0.0]]]])
    y = torch.tensor([[[[3.0, -2.0]]]])
    g = torch.tensor([[[[2.0, 0.5]]]]) / (1 + 1e-5) ** 0.5  # largest of four; a new batch norm
    expected = y * (1 - g.sigmoid()) + (g.tanh() if form == "tanh" else g)
    torch.testing.assert_close(unit(y, found), expected)


@torch.no_grad()
def test_gates_that_mix_differ_in_what_they_keep() -> None:
    """y s + (1 − s) g' against (y + g') (1 − s): together y + 2 (1 − s) g'."""
    torch.manual_seed(0)
    mixed = GatedFusionUnit(6, 4, reduction=1, form="mixed").eval()
    replaced = GatedFusionUnit(6, 4, reduction=1, form="replaced").eval()
    replaced.load_state_dict(mixed.state_dict())
    y, found = torch.randn(2, 4, 5, 7), torch.randn(2, 6, 5, 7)
    g = mixed.gate(found)
    assert mixed.mix is not None
    expected = y + 2 * (1 - g.sigmoid()) * mixed.mix(g)
    torch.testing.assert_close(mixed(y, found) + replaced(y, found), expected)


@pytest.mark.parametrize("views", [1, 2, 3])
@torch.no_grad()
def test_edges_are_shares(views: int) -> None:
    torch.manual_seed(views)
    attention = PyramidAttentionFusion(
        (5, 6, 7), 4, key_channels=3, num_heads=2, views=views, dropout=0.0
    ).eval()
    fine, middle, deep = torch.randn(2, 5, 6, 9), torch.randn(2, 6, 4, 5), torch.randn(2, 7, 2, 3)
    keys = [attention._look(deep, view) for view in range(views)]
    edges = attention._edges(attention.query(fine), attention.middle(middle), keys)
    assert edges.shape == (2, 54, 6)
    assert (edges >= 0).all()
    sums = edges.sum(-1)
    assert ((sums - 1).abs().lt(1e-3) | sums.lt(1e-3)).all()
    assert attention(fine, middle, deep, torch.tensor([0.25])).shape == (2, 4, 6, 9)


@torch.no_grad()
def test_without_its_graph_the_rest_is_the_same() -> None:
    sizes: dict[str, Any] = {"key_channels": 3, "num_heads": 1, "views": 2, "dropout": 0.5}
    whole = PyramidAttentionFusion((5, 6, 7), 4, **sizes).eval()
    rest = PyramidAttentionFusion((5, 6, 7), 4, **sizes, graph=False).eval()
    left_out = whole.state_dict().keys() - rest.state_dict().keys()
    assert {name.split(".")[0] for name in left_out} == {"relations", "graph", "graph_norm"}
    rest.load_state_dict({k: v for k, v in whole.state_dict().items() if k not in left_out})
    found: list[Tensor] = []
    whole.graph_dropout.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    fine, middle, deep = torch.randn(2, 5, 6, 9), torch.randn(2, 6, 4, 5), torch.randn(2, 7, 2, 3)
    levels, slope = (fine, middle, deep), torch.tensor([0.25])
    graph = whole(*levels, slope) - rest(*levels, slope)
    torch.testing.assert_close(graph, found[0].reshape(2, 4, 6, 9))
    assert graph.abs().max() > 0.01


@torch.no_grad()
def test_views_are_turned_back() -> None:
    """With a kernel that only sees its own pixel, all views are the same."""
    attention = PyramidAttentionFusion(
        (5, 6, 7), 4, key_channels=3, num_heads=1, views=3, dropout=0.0
    )
    attention.key.weight[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
    deep = torch.randn(2, 7, 3, 4)
    plain, mirrored, swapped = (attention._look(deep, view) for view in range(3))
    torch.testing.assert_close(mirrored, plain)
    torch.testing.assert_close(swapped, plain)


@torch.no_grad()
def test_the_index_is_of_physical_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the statistics are with which images are normalised."""
    model, stored, _ = golden("mobile", monkeypatch, ndvi=True)
    raw = images(stored)
    seen: list[Tensor] = []
    model.secondary.stem.register_forward_pre_hook(lambda _, i: seen.append(i[0]))
    model(raw)
    for m in model.modalities:
        model.get_buffer(f"mean_{m.name}").fill_(0.3)
        model.get_buffer(f"std_{m.name}").fill_(0.5)
    model(raw)
    red, infrared = stored["in.x"][:, :1], stored["in.x"][:, 3:]
    expected = (infrared - red) / (infrared + red + 1e-5)
    torch.testing.assert_close(seen[0], expected)
    torch.testing.assert_close(seen[1], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("modalities", "options", "message"),
    [
        ((RGB,), {}, "takes 2 modalities, got 1"),
        ((RGB, OPTICAL), {"ndvi": True}, "'ndvi' .* modality 'optical' has 4 bands"),
        ((RGB, OTHER), {"views": 4}, "'views' of method 'pagnet' is 4; allowed is 1 to 3"),
        ((RGB, OTHER), {"variant": "rx101"}, "option 'variant' .* is 'rx101': .*'rx50'"),
        ((RGB, OTHER), {"gate": "open"}, "option 'gate' .* is 'open': .*'mixed'"),
    ],
)
def test_what_cannot_be_is_refused(
    modalities: tuple[Modality, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        without_values(lambda: create_segmenter("pagnet", modalities, 3, options))


def test_licences_are_those_of_both_encoders() -> None:
    model = without_values(lambda: create_segmenter("pagnet", (RGB, OTHER), 3, {"weights": "timm"}))
    name_sources(model)
    rows = describe_bases(model)
    assert [(r.part, r.backbone) for r in rows] == [
        ("primary", "legacy_seresnext50_32x4d"), ("secondary", "mobilenetv3_large_100"),
    ]  # fmt: skip
    assert all(r.licence not in (None, "unknown") for r in rows)

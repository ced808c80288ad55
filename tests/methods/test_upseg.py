"""UPSeg's reconstruction: what it starts from, what learns, what missing modalities change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from terrafuse.backbones import DOFA, Galileo
from terrafuse.backbones.dofa import OFFSET_LR_FACTOR
from terrafuse.config import TrainingConfig
from terrafuse.describe import without_values
from terrafuse.describe.costs import forward_flops
from terrafuse.errors import ModelError, UnknownNameError
from terrafuse.methods import create_segmenter
from terrafuse.methods.upseg import UPSeg
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs
from terrafuse.training.optim import parameter_groups
from terrafuse.tuning import merge_tuning

OPTICAL = Modality("optical", ("B2", "B3", "B4", "B8", "B12"), "optical")
RGB = Modality("rgb", ("r", "g", "b"), "optical", wavelengths_um=(0.665, 0.56, 0.49))
SAR = Modality("sar", ("vv", "vh"), "sar")
SAR_2 = Modality("sar_2", ("vv", "vh"), "sar")
DSM = Modality("dsm", ("z",), "elevation")
ALL = (RGB, SAR, DSM)
K = 3

_SMALL = {"embed_dim": 16, "depth": 4, "num_heads": 2, "img_size": 64}
BACKBONES: dict[str, dict[str, Any]] = {
    "dofa": {
        "backbone": "dofa_base_patch16",
        "backbone_options": _SMALL | {"dynamic_embed_dim": 16},
    },
    "vit": {"backbone": "vit_tiny_patch16_224", "backbone_options": _SMALL},
    "dinov2": {
        "backbone": "vit_small_patch14_reg4_dinov2",
        "backbone_options": _SMALL | {"img_size": 56},
    },
    "galileo": {  # places of 1 to 3 tokens
        "backbone": "galileo_nano",
        "backbone_options": {
            "embed_dim": 16,
            "depth": 4,
            "num_heads": 2,
            "patch_size": 8,
            "scaling": "data",
            "ndvi": True,
        },
    },
}
_HEADS: dict[str, Any] = {
    "neck_channels": 8,
    "decoder_options": {"channels": 8, "bins": [1]},
    "vem": {"dim": 8, "heads": 2},
}


def _make(
    modalities: tuple[Modality, ...] = (RGB, SAR),
    backbone: str = "dofa",
    *,
    trained: bool = False,
    **options: Any,
) -> UPSeg:
    options = _HEADS | BACKBONES[backbone] | options
    torch.manual_seed(0)
    model = create_segmenter("upseg", modalities, K, options)
    assert isinstance(model, UPSeg)
    if trained:
        for name, parameter in model.named_parameters():
            own = name.startswith(("interaction", "fusions")) or "wave_delta" in name
            if own and "norm" not in name:
                nn.init.normal_(parameter, std=0.3)
    return model.eval()


def _inputs(
    modalities: tuple[Modality, ...], side: int = 64, batch: int = 2, seed: int = 1
) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    images = {
        m.name: torch.randn(batch, len(m.bands), side, side, generator=generator)
        for m in modalities
    }
    valid = {n: torch.ones_like(x[:, :1], dtype=torch.bool) for n, x in images.items()}
    return Inputs(images, valid, (side, side))


def _lacking(inputs: Inputs, name: str, samples: slice = slice(None)) -> Inputs:
    """The inputs without a modality, whose image then holds anything."""
    valid = {n: v.clone() for n, v in inputs.valid.items()}
    valid[name][samples] = False
    return Inputs(inputs.images, valid, inputs.size)


def _alone(model: UPSeg, name: str, image: Tensor) -> list[Tensor]:
    """Maps of the plain encoder."""
    if isinstance(model.backbone, DOFA | Galileo):
        return model.backbone(image, bands=name)
    levels: list[Tensor] = model.backbone(model.to_rgb[name](image))
    return levels


def _taps(model: UPSeg, inputs: Inputs) -> list[list[Tensor]]:
    """Per stage and modality (N, D, h, w)."""
    streams = model.embed(inputs)
    out_indices, _ = model.interaction(model.backbone, streams)
    return [[x.values.mT.reshape(len(x.values), -1, *x.grid) for x in maps] for maps in out_indices]


@torch.no_grad()
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("modalities", [(RGB,), (RGB, SAR), ALL])
@pytest.mark.parametrize("prompt", ["both", "summary"])
@pytest.mark.parametrize("schedule", ["lock-step", "two-pass"])
def test_it_starts_as_the_plain_encoder(
    backbone: str, modalities: tuple[Modality, ...], prompt: str, schedule: str
) -> None:
    model = _make(modalities, backbone, prompt={"kind": prompt}, schedule=schedule)
    inputs = _inputs(modalities, 56 if backbone == "dinov2" else 64)
    fused, _ = model.encode(inputs)
    plain = [_alone(model, m.name, inputs.images[m.name]) for m in modalities]
    for stage, maps in enumerate(_taps(model, inputs)):
        assert all(torch.equal(x, own[stage]) for x, own in zip(maps, plain, strict=True))
        mean = torch.stack([own[stage] for own in plain]).mean(dim=0)
        torch.testing.assert_close(fused[stage], mean, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("tuning", ["prompt", "adapter+lora", "dora"])
def test_tunings_reach_every_stream(backbone: str, tuning: str) -> None:
    model = _make(ALL, backbone, tuning=tuning)
    for name, parameter in model.backbone.named_parameters():
        if name in model.backbone.added:
            nn.init.normal_(parameter, std=0.2)
    inputs = _inputs(ALL, 56 if backbone == "dinov2" else 64)
    out_indices = _taps(model, inputs)
    for i, m in enumerate(ALL):
        plain = _alone(model, m.name, inputs.images[m.name])
        for maps, expected in zip(out_indices, plain, strict=True):
            assert torch.equal(maps[i], expected)


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["dofa", "vit", "galileo"])
def test_low_rank_updates_reach_prompts_too(backbone: str) -> None:
    """Merged, keys and values of prompts come from rows of the weights; unmerged they do not."""
    model = _make(ALL, backbone, trained=True, tuning="lora")
    for name, parameter in model.backbone.named_parameters():
        if name in model.backbone.added:
            nn.init.normal_(parameter, std=0.2)
    inputs = _inputs(ALL)
    before, _ = model.encode(inputs)
    # Queries, keys and values are one layer, in Galileo three.
    assert merge_tuning(model) == (4 if backbone == "galileo" else 2) * 4
    for a, b in zip(before, model.encode(inputs)[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", ["dofa", "vit"])
def test_what_learns_first(backbone: str) -> None:
    model = _make((RGB, SAR), backbone, wave_delta=False if backbone == "dofa" else None).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    images = _inputs((RGB, SAR)).images

    def step(with_loss: bool) -> dict[str, float]:
        optimizer.zero_grad()
        output = model(images)
        loss = output.logits.square().mean()
        (loss + sum(output.losses.values()) if with_loss else loss).backward()
        optimizer.step()
        found = {n: p.grad for n, p in model.interaction.named_parameters()}
        assert all(g is not None and g.isfinite().all() for g in found.values())
        return {n: float(g.abs().max()) for n, g in found.items() if g is not None}

    first = step(with_loss=False)
    opened = {n for n, size in first.items() if size > 0}
    assert opened == {"gates"} | {
        f"sites.{s}.aligned.up.{p}" for s in (2, 3, 4) for p in ("weight", "bias")
    }
    assert model.interaction.gates is not None
    assert model.interaction.gates.all()
    # Softmax takes an offset of all keys away; below a layer of zeros nothing is felt yet.
    key = {f"sites.{s}.variance.key.bias" for s in (2, 3, 4)}
    below = {f"sites.{s}.prompt.adapter.down.{p}" for s in (2, 3, 4) for p in ("weight", "bias")}
    for still in (key | below, key):
        found = step(with_loss=True)
        assert {n for n, size in found.items() if size == 0} <= still


def test_the_predictor_learns_from_the_first_step() -> None:
    model = _make().train()
    losses = model(_inputs((RGB, SAR)).images).losses
    assert set(losses) == {"common"}
    losses["common"].backward()
    learning = {n for n, p in model.interaction.named_parameters() if p.grad is not None}
    assert {n.split(".")[3] for n in learning} == {"query", "key", "value", "output"}
    assert all(p.grad is None for p in model.backbone.parameters())
    assert not _make(vem={"kind": "none"}).train()(_inputs((RGB, SAR)).images).losses


@torch.no_grad()
@pytest.mark.parametrize("order", [(1, 0), (2, 0, 1), (2, 1, 0)])
def test_the_order_of_modalities_does_not_matter(order: tuple[int, ...]) -> None:
    modalities = ALL[: len(order)]
    model = _make(modalities, trained=True)
    other = _make(tuple(modalities[i] for i in order))
    by_modality = {"gates": 1, "modality_token": 0, "modality_bias": 0}
    state = {}
    for name, value in model.state_dict().items():
        axis = by_modality.get(name.rpartition(".")[2])
        state[name] = value if axis is None else value.index_select(axis, torch.tensor(order))
    other.load_state_dict(state)
    images = _inputs(modalities).images
    backwards = dict(reversed(images.items()))
    logits = model(images).logits
    assert torch.equal(model(backwards).logits, logits)
    torch.testing.assert_close(other(images).logits, logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["gated_mean", "mean", "mean_unique"])
@pytest.mark.parametrize("backbone", ["dofa", "vit"])
def test_one_modality_passes_as_alone(backbone: str, fusion: str) -> None:
    model = _make(ALL, backbone, trained=True, fusion=fusion)
    inputs = _inputs(ALL)
    for m in ALL:
        left = inputs
        for other in ALL:
            left = left if other is m else _lacking(left, other.name)
        fused, _ = model.encode(left)
        plain = _alone(model, m.name, inputs.images[m.name])
        assert all(torch.equal(a, b) for a, b in zip(fused, plain, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["gated_mean", "mean", "mean_unique"])
@pytest.mark.parametrize("kind", ["innovation", "content", "project", "differential", "none"])
@pytest.mark.parametrize("prompt", ["both", "summary"])
def test_an_absent_modality_changes_nothing(fusion: str, kind: str, prompt: str) -> None:
    options = {"vem": {"kind": kind, "dim": 8}, "prompt": {"kind": prompt}, "fusion": fusion}
    three, two = _make(ALL, trained=True, **options), _make((RGB, SAR), **options)
    state = {}
    for name, value in two.state_dict().items():
        known = three.state_dict()[name]
        state[name] = known[tuple(slice(0, size) for size in value.shape)]
    two.load_state_dict(state)
    inputs = _inputs(ALL, batch=3)
    expected, _ = two.encode(_inputs((RGB, SAR), batch=3))
    # Absent everywhere, and absent from a sample whose neighbours have it.
    for samples in (slice(None), slice(1, 2)):
        fused, _ = three.encode(_lacking(inputs, "dsm", samples))
        for a, b in zip(fused, expected, strict=True):
            torch.testing.assert_close(a[samples], b[samples], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["dofa", "vit"])
def test_a_raster_that_covers_half_tells_nothing_of_the_rest(backbone: str) -> None:
    """Where it ends, what is fused is the other modality's; its own gap plays no part."""
    model = _make((RGB, SAR), backbone, trained=True, prompt={"hosts": ["sar"]})
    inputs = _inputs((RGB, SAR))
    valid = {n: v.clone() for n, v in inputs.valid.items()}
    valid["sar"][..., 32:] = False
    fused, _ = model.encode(Inputs(inputs.images, valid, inputs.size))
    # Radar is guided and guides nobody here: the image's stream is as alone.
    plain = _alone(model, "rgb", inputs.images["rgb"])
    for a, b in zip(fused, plain, strict=True):
        assert torch.equal(a[..., 2:], b[..., 2:])
        assert (a[..., :2] - b[..., :2]).abs().max() > 0.01


@torch.no_grad()
def test_two_passes_are_guided_by_what_each_saw_alone() -> None:
    seen: dict[str, list[Tensor]] = {}
    model = _make(trained=True, schedule="two-pass")
    step = _make(trained=True)
    for name, m in (("two-pass", model), ("lock-step", step)):
        m.interaction.sites["4"].register_forward_hook(
            lambda _, args, __, name=name: seen.update({name: [x.values for x in args[0]]})
        )
    inputs = _inputs((RGB, SAR))
    fused = {name: m.encode(inputs)[0][-1] for name, m in (("two", model), ("lock", step))}
    for i, m in enumerate((RGB, SAR)):
        plain = _alone(model, m.name, inputs.images[m.name])[2]
        tokens = plain.flatten(2).mT
        torch.testing.assert_close(seen["two-pass"][i], tokens)
        assert (seen["lock-step"][i] - tokens).abs().max() > 0.01
    assert (fused["two"] - fused["lock"]).abs().max() > 1e-3


@torch.no_grad()
def test_modalities_of_other_pixel_sizes_keep_their_tokens() -> None:
    coarse = Modality("sar", ("vv", "vh"), "sar", scale=2.0)
    model = _make((coarse, RGB), trained=True, grid="own")
    sizes = []
    model.interaction.sites["2"].register_forward_hook(
        lambda _, args, __: sizes.extend(x.grid for x in args[0])
    )
    logits = model({"sar": torch.randn(1, 2, 32, 48), "rgb": torch.randn(1, 3, 64, 96)}).logits
    assert logits.shape == (1, K, 64, 96)
    assert sizes == [(2, 3), (4, 6)]


@pytest.mark.parametrize("tuning", ["frozen", "full"])
def test_checkpointing_changes_no_gradient(tuning: str) -> None:
    gradients = []
    for wanted in (False, True):
        model = _make(trained=True, tuning=tuning, aux=False).train()
        model.decoder.eval()
        model.backbone.gradient_checkpointing = wanted
        output = model(_inputs((RGB, SAR)).images)
        (output.logits.square().mean() + output.losses["common"]).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("scope", "shape"), [("modality", (3, 2, 2)), ("shared", (3, 1, 1))])
def test_gates_learn_fast_and_are_not_decayed(scope: str, shape: tuple[int, ...]) -> None:
    model = _make(gate={"scope": scope, "lr_factor": 7})
    groups = parameter_groups(model, TrainingConfig(steps=10, lr=1.0, weight_decay=0.5))
    found = {name: (g.lr_factor, g.weight_decay) for g in groups for name in g.names}
    assert found["interaction.gates"] == (7.0, 0.0)
    assert found["interaction.sites.2.variance.query.weight"] == (1.0, 0.5)
    assert found["interaction.sites.2.prompt.modality_token"] == (1.0, 0.0)
    assert found["backbone.wave_delta.sar"] == (OFFSET_LR_FACTOR, 0.0)
    assert model.interaction.gates is not None
    assert model.interaction.gates.shape == shape


def _count(module: nn.Module, *, learns: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not learns)


def _whole(modalities: tuple[Modality, ...] = (RGB, SAR), **options: Any) -> UPSeg:
    model = without_values(lambda: create_segmenter("upseg", modalities, 7, options))
    assert isinstance(model, UPSeg)
    return model


@pytest.mark.parametrize("backbone", ["dofa_base_patch16", "vit_base_patch16_224"])
def test_sizes_are_those_of_the_specification(backbone: str) -> None:
    model = _whole(backbone=backbone)
    assert _count(model.interaction) + _count(model.fusions) == 3_272_487
    assert _count(model.interaction.sites["2"].get_submodule("variance")) == 789_505
    assert _count(model.interaction.sites["2"].get_submodule("prompt")) == 100_672
    assert _count(model.interaction.sites["2"].get_submodule("aligned")) == 197_504
    assert _count(model.neck) == 23_599_104
    assert _count(model.decoder) == 32_259_591
    assert model.aux is not None
    assert _count(model.aux) == 1_771_783
    three = _whole(ALL, backbone=backbone)
    assert _count(three.interaction) + _count(three.fusions) == 3_274_903
    light = _whole(backbone=backbone, decoder="light")
    assert (_count(light.neck), _count(light.decoder)) == (3_147_776, 7_544_583)


def test_large_sizes_are_those_of_the_specification() -> None:
    site = _whole(backbone="dofa_large_patch16").interaction.sites["2"]
    assert _count(site.get_submodule("variance")) == 1_052_417
    assert _count(site.get_submodule("prompt")) == 134_208


def test_what_learns_is_little_beside_the_decoder() -> None:
    """60.9 M with the whole decoder, all of it but interaction and offsets of bands."""
    model = _whole(wave_delta=False)
    parts = 3_272_487 + 23_599_104 + 32_259_591 + 1_771_783
    assert _count(model, learns=True) == parts == 60_902_965
    assert _count(_whole(), learns=True) == parts + 5 * 128
    # Where all learns, only of bands of one wavelength.
    assert set(_whole(tuning="full").backbone.get_submodule("wave_delta")) == {"sar"}
    # Rank 8 for each of queries, keys and values: the specification counts one for all three.
    lora = _whole(tuning="lora", wave_delta=False).backbone
    assert _count(lora, learns=True) == 442_368


@pytest.mark.parametrize(
    ("count", "crop", "pool", "share"),
    [(2, 256, 1, 0.20), (2, 1024, 1, 0.48), (2, 1024, 2, 0.16), (3, 256, 1, 0.24)],
)
def test_the_cost_of_interaction_is_as_specified(
    count: int, crop: int, pool: int, share: float
) -> None:
    """Operations beyond those of two streams, relative to these; 1 % as the table is rounded."""

    class NoHead(nn.Module):
        def forward(self, maps: list[Tensor]) -> Tensor:
            return maps[0][:, :7]

    def flops(**options: Any) -> int:
        model = _whole((RGB, SAR, SAR_2)[:count], **options)
        model.neck, model.decoder, model.aux = nn.Identity(), NoHead(), None  # type: ignore[assignment]
        return forward_flops(model, crop)

    guided, plain = flops(prompt={"pool": pool}), flops(interact_stages=[])
    assert guided / plain - 1 == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backbone": "resnet18"}, ModelError, r"plain transformer .* 'resnet18' has levels"),
        ({"backbone": "samvit_base_patch16"}, ModelError, r"has others .* interact_stages: \[\]"),
        ({"interact_stages": [2, 5]}, ModelError, r"is \[2, 5\]; this backbone has stages 1 to 4"),
        ({"prompt": {"hosts": ["srr"]}}, UnknownNameError, r"'srr'.* Did you mean 'sar'"),
        ({"prompt": {"source": "self"}}, ModelError, r"Set vem: \{kind: none\}"),
        ({"prompt": {"pol": 2}}, UnknownNameError, r"prompt of method 'upseg' 'pol'"),
        ({"vem": {"kind": "novelty"}}, ModelError, r"option 'kind' .* is 'novelty'"),
        ({"gate": {"lr_factor": 0}}, ModelError, r"'lr_factor' of gate is 0; it must be above 0"),
        ({"backbone_options": {"neck": "map"}}, ModelError, r"a neck of its own"),
        ({"wave_delta": True}, ModelError, r"'vit_tiny_patch16_224' does not use wavelengths"),
        ({"out_indices": [0, 1, 2, 3, 4]}, ModelError, r"5 out_indices; allowed are 1 to 4"),
    ],
)
def test_what_cannot_be_is_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    base: Mapping[str, Any] = {"backbone": "vit_tiny_patch16_224"}
    depth = {"depth": 5, "embed_dim": 16, "num_heads": 2}
    if out_indices := options.pop("out_indices", None):
        options = {"backbone_options": depth | {"out_indices": out_indices}}
    with pytest.raises(error, match=message):
        _whole(**(base | options))


def test_dofa_wants_wavelengths() -> None:
    with pytest.raises(ModelError, match=r"optical modality 'rgb' has no wavelengths"):
        _whole((Modality("rgb", ("r", "g", "b"), "optical"),))


@torch.no_grad()
def test_places_of_several_tokens_get_their_hint_in_each() -> None:
    """Galileo's optical groups are guided by radar's single one, and the other way round."""
    model = _make(
        (OPTICAL, SAR), "galileo", prompt={"kind": "aligned"}, interact_stages=(3,), trained=True
    )
    assert isinstance(model.backbone, Galileo)
    inputs = _inputs((OPTICAL, SAR))
    streams = model.embed(inputs)
    places = 8 * 8
    assert [s.tokens.shape[1] for s in streams] == [4 * places, places]  # RGB, NIR, SWIR, NDVI
    hint = torch.randn(2, places, 16)
    tokens = streams[0].tokens
    added = model.backbone.add_at_places(tokens, hint, (8, 8)) - tokens
    for group in range(4):
        torch.testing.assert_close(added.view(2, places, 4, 16)[:, :, group], hint)
    mean = model.backbone.at_places(tokens + added, (8, 8))
    torch.testing.assert_close(mean - model.backbone.at_places(tokens, (8, 8)), hint)
    out_indices, lacking = _taps(model, inputs), _taps(model, _lacking(inputs, "sar"))
    assert torch.equal(out_indices[1][0], lacking[1][0])
    assert (out_indices[3][0] - lacking[3][0]).abs().max() > 1e-3

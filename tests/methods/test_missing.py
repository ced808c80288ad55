"""A model without a modality is one that never knew it.

The contract compares three ways of leaving a modality out with each other; here each is compared
with another path: a model of the remaining modalities that has the same weights, or the network
written out by hand. Whichever is left out, the first or one in the middle as well, in a whole batch
or in one sample.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from small_methods import SMALL
from terrafuse.contract import Case
from terrafuse.methods import METHODS
from terrafuse.methods.decur import ScaleClassifiers
from terrafuse.methods.sslvit import run_stages
from terrafuse.modalities import Modality
from terrafuse.segmenter import Segmenter

#: Widths differ, so that no part of a weight can be taken for another.
MODALITIES = (
    Modality("rgb", ("r", "g", "b"), kind="optical", wavelengths_um=(0.665, 0.56, 0.49)),
    Modality("sar", ("vv", "vh"), kind="sar"),
    Modality("dsm", ("z",), kind="elevation"),
)
WIDTHS = [len(m.bands) for m in MODALITIES]
#: What remains: without the first, the one in the middle, the last; and single ones.
REMAINING = ((1, 2), (0, 2), (0, 1), (2,), (1,))
SIDE = 32

#: Weights with a part per modality: pattern of the name → function (weight, kept) → part.
Part = Callable[[Tensor, Sequence[int]], Tensor]


def _take(axis: int) -> Part:
    """Entries along an axis; all where modalities share one."""

    def take(weight: Tensor, kept: Sequence[int]) -> Tensor:
        return weight if weight.shape[axis] == 1 else weight.index_select(axis, torch.tensor(kept))

    return take


def _columns(weight: Tensor, kept: Sequence[int]) -> Tensor:
    """Of input channels of all modalities side by side, equally many each; all of a square."""
    if weight.shape[0] == weight.shape[1]:
        return weight
    parts = weight.chunk(len(MODALITIES), dim=1)
    return torch.cat([parts[i] for i in kept], dim=1)


def _with_validity(weight: Tensor, kept: Sequence[int]) -> Tensor:
    """Of channels of all modalities, then a validity each: M (C + 1) columns."""
    count = len(MODALITIES)
    values, validity = weight[:, :-count], weight[:, -count:]
    return torch.cat([_columns(values, kept), validity[:, list(kept)]], dim=1)


def _scores(weight: Tensor, kept: Sequence[int]) -> Tensor:
    """As columns, with a row per modality too."""
    return _with_validity(weight, kept)[list(kept)]


def _bands(weight: Tensor, kept: Sequence[int]) -> Tensor:
    """Of stacked bands, and of a validity each where there are more columns."""
    parts = list(weight.split(WIDTHS, dim=1)) if weight.shape[1] == sum(WIDTHS) else []
    if not parts:
        *parts, validity = weight.split([*WIDTHS, len(MODALITIES)], dim=1)
        return torch.cat([*(parts[i] for i in kept), validity[:, list(kept)]], dim=1)
    return torch.cat([parts[i] for i in kept], dim=1)


PARTS: dict[str, dict[str, Part]] = {
    "upseg": {
        r"^interaction\.gates$": _take(1),
        r"\.modality_token$": _take(0),
        r"\.modality_bias$": _take(0),
        r"^fusions\.\d\.linear\.weight$": _columns,
    },
    "late_fusion": {
        r"^fusion\..*\.score\.weight$": _scores,
        r"^fusion\..*\.score\.bias$": _take(0),
        r"^fusion\..*\.linear\.weight$": _with_validity,
    },
    "galileo": {
        r"^fusions\..*\.score\.weight$": _scores,
        r"^fusions\..*\.score\.bias$": _take(0),
        r"^fusions\..*\.linear\.weight$": _with_validity,
        r"^backbone\.stem\.0\.weight$": _bands,  # of the image itself
    },
    "early_fusion": {r"^backbone\.(stem\.conv1|vit\.patch_embed\.proj)\.weight$": _bands},
}
#: Tested below by hand: their weights have no part that a modality leaves unused, or they must have
#: both sensors.
BY_HAND = {"sslvit", "decur", "croma"}
#: A single modality.
NONE_MISSING = {"single"}


def _cases() -> list[Any]:
    cases = []
    for name in PARTS:
        for number, options in enumerate(SMALL[name]):
            # DOFA generates the kernels of stacked bands together: fewer bands, other kernels.
            if name == "early_fusion" and options["backbone"].startswith("dofa"):
                continue
            cases.append(pytest.param(name, options, id=f"{name}-{number}"))
        if name == "upseg":
            shared = SMALL[name][0] | {"gate": {"scope": "shared"}}
            cases.append(pytest.param(name, shared, id="upseg-shared"))
    fusions = [({"fusion": f}, f) for f in ("gated", "concat")]
    cases += [
        pytest.param("late_fusion", SMALL["late_fusion"][0] | extra, id=f"late_fusion-resnet-{f}")
        for extra, f in fusions
    ]
    return cases


def _images(batch: int = 1, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        m.name: 3 + 2 * torch.randn(batch, len(m.bands), SIDE, SIDE, generator=generator)
        for m in MODALITIES
    }


def _without(images: dict[str, Tensor], kept: Sequence[int], sample: int) -> None:
    for index, m in enumerate(MODALITIES):
        if index not in kept:
            images[m.name][sample] = torch.nan


def _of_the_others(
    whole: Segmenter, method: str, options: dict[str, Any], kept: Sequence[int]
) -> Segmenter:
    """A model of some modalities with the weights that the whole one has for them."""
    names = [MODALITIES[i].name for i in kept]
    options = deepcopy(options)
    prompt = options.get("prompt", {})
    if prompt.get("hosts"):
        prompt["hosts"] = [name for name in prompt["hosts"] if name in names]
    model = Case(method, options).start([MODALITIES[i] for i in kept])
    state, every = {}, whole.state_dict()
    for name, value in model.state_dict().items():
        known = every[name]
        part = next((f for pattern, f in PARTS[method].items() if re.search(pattern, name)), None)
        state[name] = known if part is None else part(known, kept)
        assert state[name].shape == value.shape, name
    model.load_state_dict(state)
    return model  # type: ignore[no-any-return]


def _uneven(model: Segmenter) -> Segmenter:
    """With other weights for each modality also where a layer starts as their mean."""
    for name, weight in model.named_parameters():
        if name.endswith("linear.weight") and "fusion" in name:
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    return model


def test_every_method_that_may_miss_modalities_takes_part() -> None:
    known = {name for name, method in METHODS.items() if method.supports_missing}
    assert known == {*PARTS, *BY_HAND, *NONE_MISSING}


@torch.no_grad()
@pytest.mark.parametrize(("method", "options"), _cases())
def test_what_is_missing_was_never_known(method: str, options: dict[str, Any]) -> None:
    whole = _uneven(Case(method, options, MODALITIES).make())
    # A sample for each: what its neighbours have must not matter either.
    together = _images(1 + len(REMAINING))
    for sample, kept in enumerate(REMAINING, start=1):
        _without(together, kept, sample)
    mixed = whole(together).logits
    everything = whole({name: x[:1] for name, x in _images(1 + len(REMAINING)).items()}).logits
    # A model of one modality has no fusion; a linear one pulls what is left alone towards 0.
    is_linear = "concat" in str(options.get("fusion"))
    for sample, kept in enumerate(REMAINING, start=1):
        if is_linear and len(kept) == 1 and method != "late_fusion":
            continue
        left = {MODALITIES[i].name: together[MODALITIES[i].name][sample : sample + 1] for i in kept}
        expected = _of_the_others(whole, method, options, kept)(left).logits
        atol = 2e-5 * float(expected.abs().max())
        torch.testing.assert_close(whole(left).logits, expected, rtol=1e-4, atol=atol)
        torch.testing.assert_close(mixed[sample : sample + 1], expected, rtol=1e-4, atol=atol)
        assert (everything - expected).abs().max() > 100 * atol
    # Both lack the first modality, one of them another one too.
    rows = [1 + REMAINING.index(kept) for kept in ((1, 2), (2,))]
    found = whole({m.name: together[m.name][rows] for m in MODALITIES[1:]}).logits
    torch.testing.assert_close(found, mixed[rows], rtol=1e-4, atol=2e-5 * float(mixed.abs().max()))


@torch.no_grad()
@pytest.mark.parametrize("kept", REMAINING)
def test_sslvit_by_hand(kept: tuple[int, ...]) -> None:
    """Zeros in the place of a stream, each stream in its own place."""
    model: Any = Case("sslvit", SMALL["sslvit"][0], MODALITIES).make()
    images = _images()
    streams = []
    for index, m in enumerate(MODALITIES):
        branch = model.branches[m.name]
        size = (model.stride, model.stride)
        image = F.pad((images[m.name] - 3) / 2, (0, size[1] - SIDE, 0, size[0] - SIDE))
        stream = model.decoders[m.name](*run_stages(branch, image))
        streams.append(stream if index in kept else torch.zeros_like(stream))
    expected = model.classifier(model.expand(torch.cat(streams, dim=3)).permute(0, 3, 1, 2))
    _without(images, kept, 0)
    found = model(images).logits
    torch.testing.assert_close(found, expected[..., :SIDE, :SIDE], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kept", REMAINING)
@pytest.mark.parametrize("number", [0, 2])
def test_decur_by_hand(kept: tuple[int, ...], number: int) -> None:
    """Zeros in the place of a modality's levels, each in its own place."""
    model: Any = Case("decur", SMALL["decur"][number], MODALITIES).make()
    images = _images()
    by_branch = []
    for index, m in enumerate(MODALITIES):
        # From ±2 deviations to 0 … 1.
        levels = model.branches[m.name](((images[m.name] - 3) / 2 / 4 + 0.5).clamp(0, 1))
        by_branch.append([x if index in kept else torch.zeros_like(x) for x in levels])
    levels = [torch.cat(maps, dim=1) for maps in zip(*by_branch, strict=True)]
    is_published = isinstance(model.head, ScaleClassifiers)
    logits = model.head(levels[-3:], (SIDE, SIDE)) if is_published else model.head(levels)
    expected = F.interpolate(logits, (SIDE, SIDE), mode="bilinear") if not is_published else logits
    _without(images, kept, 0)
    torch.testing.assert_close(model(images).logits, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("features", ["joint", "concat"])
@pytest.mark.parametrize("kept", REMAINING)
def test_croma_by_hand(kept: tuple[int, ...], features: str) -> None:
    """RGB and heights share the optical transformer: a missing one of them is at its mean."""
    options = SMALL["croma"][0] | {"features": features}
    model: Any = Case("croma", options, MODALITIES).make()
    assert [[m.name for m in part] for part in (model.radar, model.optical)] == [
        ["sar"], ["rgb", "dsm"],
    ]  # fmt: skip
    images = _images()
    standard = [(images[m.name] - 3) / 2 * (i in kept) for i, m in enumerate(MODALITIES)]
    sar, optical = standard[1], torch.cat([standard[0], standard[2]], dim=1)
    has_sar, has_optical = 1 in kept, bool({0, 2} & set(kept))
    backbone = model.backbone
    radar_tokens, grid = backbone.sar.embed(backbone.rescale(sar))
    optical_tokens, _ = backbone.optical.embed(backbone.rescale(optical))
    bias = backbone.bias(grid, radar_tokens)
    radar, colour = backbone.sar(radar_tokens, bias), backbone.optical(optical_tokens, bias)
    joint = backbone.joint(radar, colour, bias)
    seen: list[Tensor] = []
    backbone.pyramid.register_forward_pre_hook(lambda _, args: seen.extend(args[0]))
    _without(images, kept, 0)
    model(images)
    last = seen[-1].flatten(2).mT  # (1, L, D)
    if features == "concat":
        parts = [radar * has_sar, colour * has_optical, joint * (has_sar and has_optical)]
        expected = torch.cat(parts, dim=2)
    else:
        expected = joint if has_sar and has_optical else radar if has_sar else colour
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-4)

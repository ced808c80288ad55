"""Galileo equals stored tensors of the original, and a second, plain way to write its masks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from golden_files import load_metadata, load_tensors, part
from shared import SHARED
from terrafuse.backbones import Galileo
from terrafuse.backbones.galileo import weights as galileo_weights
from terrafuse.backbones.galileo.encoder import (
    GalileoEncoder,
    GalileoVariant,
    month_codes,
    resize_matrix,
    sine_code,
)
from terrafuse.backbones.galileo.inputs import CHANNELS, KINDS, MOMENTS, scale_of
from terrafuse.backbones.galileo.tensors import (
    GalileoInput,
    GalileoOutput,
    added_codes,
    encode,
    project_tokens,
)
from terrafuse.modalities import BandStatistics, Modality

pytestmark = pytest.mark.parity
#: Of the stored tensors: five times and more their own error in float32.
CLOSE = {"atol": 5e-5, "rtol": 1e-4}
SHORT = {"space_time": "s_t", "space": "sp", "time": "t", "static": "st"}
NANO = SHARED / "weights" / "galileo_nano"
REAL = SHARED / "golden" / "galileo" / "nano_real.safetensors"
S1 = Modality("s1", ("VV", "VH"), "sar", unit="db")
S2 = Modality(
    "s2", ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12"), "optical",
    unit="reflectance_10000",
)  # fmt: skip


@cache
def _tiny() -> tuple[dict[str, Tensor], dict[str, Any]]:
    cases = json.loads(load_metadata("galileo/tiny")["cases"])
    return load_tensors("galileo/tiny"), cases


def _encoder(state: Mapping[str, Tensor]) -> GalileoEncoder:
    encoder = GalileoEncoder(GalileoVariant(32, 2, 4, mlp_ratio=2))
    torch.testing.assert_close(encoder.dates, state["pos_embed"], atol=1e-6, rtol=0)
    torch.testing.assert_close(encoder.months, state["month_embed.weight"], atol=1e-6, rtol=0)
    fixed = ("pos_embed", "month_embed.weight")
    encoder.load_state_dict({k: v for k, v in state.items() if k not in fixed})
    return encoder.eval()


def _given(case: Mapping[str, Tensor]) -> GalileoInput:
    return GalileoInput(
        {kind: case[f"in.{short}_x"] for kind, short in SHORT.items()},
        {kind: case[f"in.{short}_m"] > 0 for kind, short in SHORT.items()},
        case["in.months"].long(),
    )


CASES = tuple(_tiny()[1])


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_every_stored_case(name: str) -> None:
    stored, cases = _tiny()
    case, options = part(stored, f"{name}."), cases[name]
    encoder, given = _encoder(part(stored, "sd.")), _given(case)
    output = encode(
        encoder, given, patch_size=options["patch_size"],
        input_resolution_m=options["input_resolution_m"], exit_after=options.get("exit_after"),
        final_norm=options.get("add_layernorm_on_exit", True),
    )  # fmt: skip
    compared = 0
    for kind, short in SHORT.items():
        torch.testing.assert_close(output.tokens[kind], case[f"out.{short}_x"], **CLOSE)
        assert torch.equal(output.hidden[kind], case[f"out.{short}_m"] > 0)
        compared += 2
    if "out.average" in case:
        torch.testing.assert_close(output.mean(), case["out.average"], **CLOSE)
        compared += 1
    if "mid.proj_s_t" in case:
        tokens = project_tokens(encoder, given, options["patch_size"])
        codes = added_codes(
            encoder, given.months, tokens, options["patch_size"] * options["input_resolution_m"]
        )
        for kind, short in SHORT.items():
            # Of a group that is hidden everywhere the original makes no tokens.
            shown = ~output.hidden[kind].flatten(0, -2).all(dim=0)
            for found, key in ((tokens, "proj"), (codes, "enc")):
                expected = case[f"mid.{key}_{short}"][..., shown, :]
                torch.testing.assert_close(found[kind][..., shown, :], expected, **CLOSE)
            compared += 2
    # The mean of a place is stored as well; tests/test_golden.py says why it is left out.
    stored_results = {key for key in case if key.startswith(("out.", "mid."))}
    assert compared == len(stored_results - {"out.average_per_patch"})


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 12])
def test_kernels_are_resized_by_the_stored_matrices(size: int) -> None:
    stored = _tiny()[0][f"mid.resize_pinv.p{size}"]
    torch.testing.assert_close(resize_matrix(8, size).float(), stored, atol=1e-5, rtol=0)


def test_codes_by_hand() -> None:
    """The exponents are i / 2d: the second of four frequencies of d = 8 is 10 000^(−1/16)."""
    code = sine_code(torch.tensor([0.0, 2.0]), 8)
    w = [10_000 ** (-i / 16) for i in range(4)]
    assert code[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    expected = torch.tensor([2 * x for x in w])
    torch.testing.assert_close(code[1], torch.cat([expected.sin(), expected.cos()]))
    months = month_codes(4)
    torch.testing.assert_close(months[3], torch.tensor([1.0, 1.0, 0.0, 0.0]))
    torch.testing.assert_close(months[6], torch.tensor([0.0, 0.0, -1.0, -1.0]))


def _plainly(
    state: Mapping[str, Tensor], tokens: Tensor, keep: Tensor, heads: int
) -> Tensor:  # fmt: skip
    """Visible tokens of one sample (L, D) through all blocks, written out; 0 for the others."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        x = x - x.mean(dim=1, keepdim=True)
        x = x / (x.pow(2).mean(dim=1, keepdim=True) + 1e-5).sqrt()
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    x = tokens[keep]  # the others are not there at all
    for i in range(2):
        y = norm(f"blocks.{i}.norm1", x)
        attended = []
        for q, k, v in zip(
            *(linear(f"blocks.{i}.attn.{n}", y).chunk(heads, dim=1) for n in "qkv"), strict=True
        ):
            scores = (q @ k.T / q.shape[1] ** 0.5).exp()
            attended.append(scores / scores.sum(dim=1, keepdim=True) @ v)
        x = x + linear(f"blocks.{i}.attn.proj", torch.cat(attended, dim=1))
        y = linear(f"blocks.{i}.mlp.fc1", norm(f"blocks.{i}.norm2", x))
        x = x + linear(f"blocks.{i}.mlp.fc2", y * (1 + torch.erf(y / 2**0.5)) / 2)
    result = torch.zeros_like(tokens)
    result[keep] = x
    return norm("norm", result)


@pytest.mark.parametrize("seed", range(6))
@torch.no_grad()
def test_masks_equal_taking_tokens_away(seed: int) -> None:
    """Samples of one batch hide different shares, one all but a single token."""
    generator = torch.Generator().manual_seed(seed)
    state = part(_tiny()[0], "sd.")
    encoder = _encoder(state)
    samples, dates, side = 3, 1 + seed % 3, 4 + 4 * (seed % 2)
    shapes = {
        "space_time": ((side, 8, dates), 13, 7),
        "space": ((side, 8), 16, 3),
        "time": ((dates,), 6, 3),
        "static": ((), 18, 4),
    }
    values, hidden = {}, {}
    for kind, (shape, channels, groups) in shapes.items():
        values[kind] = torch.randn(samples, *shape, channels, generator=generator)
        share = torch.tensor([0.0, 0.5, 1.0]).view(samples, *[1] * (len(shape) + 1))
        mask = torch.rand(samples, *shape, groups, generator=generator) < share
        if len(shape) > 1:  # the first pixel of a patch decides
            mask = mask[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2)
        hidden[kind] = mask
    hidden["static"][2, 1] = False  # one token is left
    months = torch.randint(12, (samples, dates), generator=generator)
    given = GalileoInput(values, hidden, months)
    output = encode(encoder, given, patch_size=4)
    tokens = project_tokens(encoder, given, 4)
    codes = added_codes(encoder, months, tokens, 40.0)
    for i in range(samples):
        flat = torch.cat([(tokens[k] + codes[k])[i].flatten(0, -2) for k in KINDS])
        keep = ~torch.cat([output.hidden[k][i].flatten() for k in KINDS])
        found = torch.cat([output.tokens[k][i].flatten(0, -2) for k in KINDS])
        expected = _plainly(state, flat, keep, 4)
        torch.testing.assert_close(found, expected, atol=5e-6, rtol=3e-5)
        mean = expected[keep].mean(dim=0)
        torch.testing.assert_close(output.mean()[i], mean, atol=5e-6, rtol=3e-5)


@torch.no_grad()
def test_what_is_hidden_has_no_influence_and_samples_may_be_permuted() -> None:
    stored, _ = _tiny()
    encoder, given = _encoder(part(stored, "sd.")), _given(part(stored, "random_p4."))
    output = encode(encoder, given, patch_size=4)
    changed = dict(given.values)
    # The group that is hidden everywhere: near infrared, channel 8.
    changed["space_time"] = given.values["space_time"].clone()
    changed["space_time"][..., 8] = 1e6
    again = encode(encoder, GalileoInput(changed, given.hidden, given.months), patch_size=4)
    order = torch.tensor([1, 0])
    swapped = GalileoInput(
        {k: v[order] for k, v in given.values.items()},
        {k: v[order] for k, v in given.hidden.items()},
        given.months[order],
    )
    other: GalileoOutput = encode(encoder, swapped, patch_size=4)
    for kind in KINDS:
        assert torch.equal(again.tokens[kind], output.tokens[kind])
        torch.testing.assert_close(other.tokens[kind][order], output.tokens[kind])


def test_places_depend_on_the_ground_only() -> None:
    encoder = GalileoEncoder(GalileoVariant(32, 1, 4))
    coarse = encoder.places((3, 5), torch.tensor(2 * 20.0))
    fine = encoder.places((3, 5), torch.tensor(4 * 10.0))
    assert torch.equal(coarse, fine)
    assert not coarse[:24].any()
    # The column comes first.
    assert torch.equal(coarse[24:28, 0], coarse[24:28, 2])
    assert not torch.equal(coarse[28:, 0], coarse[28:, 2])


def _nano(modalities: list[Modality], patch_size: int, **options: Any) -> Galileo:
    if not NANO.exists() or not REAL.exists():
        pytest.skip("Galileo's weights and tensors are not beside this checkout")
    backbone = Galileo(
        "galileo_nano", sum(len(m.bands) for m in modalities), modalities, weights=str(NANO),
        patch_size=patch_size, neck="none", out_indices=(0, 1, 2, 3), month=(1,), **options,
    )  # fmt: skip
    backbone.set_statistics(  # images come as they are
        {
            m.name: BandStatistics(*((v,) * len(m.bands) for v in (0.0, 1.0, 0.0, 0.0, 1)))
            for m in modalities
        }
    )
    return backbone.eval()


@pytest.mark.parametrize("patch_size", [4, 8])
@pytest.mark.parametrize("case", ["s1", "s2", "s1s2"])
@torch.no_grad()
def test_real_weights_on_real_pixels(case: str, patch_size: int) -> None:
    """The whole way from decibels and reflectances × 10 000, with the months of both samples."""
    modalities = [m for m in (S1, S2) if m.name in case]
    backbone = _nano(modalities, patch_size, ndvi=case == "s1s2")
    stored = load_file(REAL)
    raw = {"s1": stored["in.raw_s1_db"], "s2": stored["in.raw_s2_dn"]}
    image = torch.cat([raw[m.name] for m in modalities], dim=3).permute(0, 3, 1, 2)
    golden = part(stored, f"{case}_p{patch_size}.")
    for sample, month in enumerate(stored["in.months"][:, 0].tolist()):
        backbone.months = (month,)
        tokens, grid = backbone.embed(image[sample : sample + 1])
        means = []
        for index in range(4):
            tokens = backbone.run_block(index, tokens, grid)
            means.append(backbone.at_places(tokens, grid)[0])
        found = backbone.vit.norm(tokens)[0].unflatten(0, (*grid, -1))  # (h, w, G, D)
        torch.testing.assert_close(found, golden["out.tokens"][sample], **CLOSE)
        average = found.flatten(0, 2).mean(dim=0)
        torch.testing.assert_close(average, golden["out.average"][sample], **CLOSE)
        if "mid.block_means" in golden:
            expected = golden["mid.block_means"][sample].flatten(1, 2)
            torch.testing.assert_close(torch.stack(means), expected, **CLOSE)


@pytest.mark.parametrize("patch_size", [4, 8])
@torch.no_grad()
def test_real_weights_as_four_tensors(patch_size: int) -> None:
    _nano([S1], patch_size)  # skips
    stored = load_file(REAL)
    state = load_file(NANO / "encoder.safetensors")
    encoder = GalileoEncoder(galileo_weights.VARIANTS["galileo_nano"]).eval()
    galileo_weights.load_published(
        encoder, "galileo_nano", encoder.variant, str(NANO / "encoder.safetensors")
    )
    assert torch.equal(encoder.blocks[0].attn.q.weight, state["blocks.0.attn.q.weight"])
    x = stored["in.s_t_x"]
    samples, height, width = x.shape[:3]
    values = {
        "space_time": x,
        "space": torch.zeros(samples, height, width, 16),
        "time": torch.zeros(samples, 1, 6),
        "static": torch.zeros(samples, 18),
    }
    for case in ("s1", "s2", "s1s2"):
        shown = stored[f"{case}.in.s_t_m_groups"] == 0
        hidden = {
            "space_time": ~shown.expand(samples, height, width, 1, 7),
            "space": torch.ones(samples, height, width, 3, dtype=torch.bool),
            "time": torch.ones(samples, 1, 3, dtype=torch.bool),
            "static": torch.ones(samples, 4, dtype=torch.bool),
        }
        given = GalileoInput(values, hidden, stored["in.months"].long())
        output = encode(encoder, given, patch_size=patch_size)
        golden = part(stored, f"{case}_p{patch_size}.")
        found = output.tokens["space_time"][:, :, :, 0, shown]
        torch.testing.assert_close(found, golden["out.tokens"], **CLOSE)
        torch.testing.assert_close(output.mean(), golden["out.average"], **CLOSE)


def test_normalisation_of_real_pixels() -> None:
    _nano([S1], 8)
    stored = load_file(REAL)
    raw = torch.cat([stored["in.raw_s1_db"], stored["in.raw_s2_dn"]], dim=3)
    ndvi = stored["in.s_t_x"][:, :, :, 0, 12:]
    scales = [scale_of(channel) for channel in CHANNELS["space_time"]]
    scale, shift = torch.tensor(scales, dtype=torch.float64).unbind(1)
    found = (torch.cat([raw, ndvi], dim=3).double() * scale + shift).float()
    torch.testing.assert_close(found, stored["in.s_t_x"][:, :, :, 0], atol=0, rtol=0)


def test_the_table_is_the_published_one() -> None:
    if not NANO.exists():
        pytest.skip("Galileo's weights are not beside this checkout")
    table = json.loads((NANO / "normalization.json").read_text())
    for kind in KINDS:
        own = table[str(len(CHANNELS[kind]))]
        for channel, mean, std in zip(CHANNELS[kind], own["mean"], own["std"], strict=True):
            if channel in MOMENTS:
                assert MOMENTS[channel] == (mean, std)
    assert len(MOMENTS) == 21

"""UNetFormer's decoder: equal to the original where that runs, and right on maps of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from golden_files import load_golden, part
from terrafuse.decoders import UNetFormerDecoder, convert_unetformer_state_dict, create_decoder
from terrafuse.decoders.global_local import (
    GlobalLocalAttention,
    GlobalLocalBlock,
    create_position_index,
)
from terrafuse.decoders.layers import reflect_pad
from terrafuse.decoders.unetformer import FeatureRefinement, WeightedFusion
from terrafuse.errors import ModelError, WeightsMismatchError
from terrafuse.weights import load_strict

CHANNELS = (6, 8, 10, 12)


def _parts(case: str) -> dict[str, Tensor]:
    stored, _ = load_golden("mfnet/decoder_parts")
    return part(stored, f"{case}.")


def _levels(batch: int, height: int, width: int) -> list[Tensor]:
    sizes = [(-(-height // 2**i), -(-width // 2**i)) for i in range(len(CHANNELS))]
    return [torch.randn(batch, c, *size) for c, size in zip(CHANNELS, sizes, strict=True)]


def _trained(module: nn.Module) -> nn.Module:
    """Norms as training would leave them, since at its start they may hide a mistake."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point() and tensor.ndim == 1:
            nn.init.uniform_(tensor, 0.5 if name.endswith("running_var") else 0.1, 1.5)
    return module


def _record(module: nn.Module, outputs: dict[str, Tensor], name: str) -> None:
    module.register_forward_hook(lambda _, __, output: outputs.__setitem__(name, output.detach()))


# Tolerances are those of the stored tensors: two to five times their own error in float32.


@pytest.mark.parity
@pytest.mark.parametrize(
    "case", ["block_8x16", "block_10x16", "block_5x8", "block_ws4", "block_widthpad_10x13"]
)
@torch.no_grad()
def test_a_block_is_the_original(case: str) -> None:
    stored = _parts(case)
    state = {f"b4.{k}": v for k, v in part(stored, "sd.").items()}
    block = GlobalLocalBlock(16, window_size=4 if case == "block_ws4" else 8).eval()
    load_strict(block, part(convert_unetformer_state_dict(state), "blocks.0."), where=case)
    outputs: dict[str, Tensor] = {}
    _record(block.attention, outputs, "attn")
    torch.testing.assert_close(block(stored["in.x"]), stored["out"], rtol=2e-5, atol=5e-6)
    torch.testing.assert_close(outputs["attn"], stored["mid.attn"], rtol=2e-5, atol=5e-6)


@pytest.mark.parity
@pytest.mark.parametrize("case", ["wf", "wf_negative", "frh"])
@torch.no_grad()
def test_fusion_and_refinement_are_the_original(case: str) -> None:
    stored = _parts(case)
    state = convert_unetformer_state_dict({f"p1.{k}": v for k, v in part(stored, "sd.").items()})
    fusion = WeightedFusion(16, 24, norm="batch").eval()
    load_strict(fusion, part(state, "fusions.2."), where=case)
    x = fusion(stored["in.x"], stored["in.res"])
    if case == "frh":
        refine = FeatureRefinement(16, norm="batch").eval()
        load_strict(refine, part(state, "refine."), where=case)
        x = refine(x)
    torch.testing.assert_close(x, stored["out"], rtol=2e-5, atol=5e-6)


@pytest.mark.parity
@torch.no_grad()
def test_the_decoder_of_a_single_map_is_the_original() -> None:
    """MFNet "without DFM"; with it, the whole network is compared (tests/methods)."""
    stored, config = load_golden("mfnet/decoder_no_dfm")
    decoder = UNetFormerDecoder(
        (config["in_channels"],), config["num_classes"], channels=config["decode_channels"],
        window_size=config["window_size"], doublings=3,
    ).eval()  # fmt: skip
    state = convert_unetformer_state_dict(part(stored, "sd."), skips=False)
    load_strict(decoder, state, where="stored weights")
    logits = F.interpolate(decoder([stored["in.x"]]), tuple(config["out_hw"]), mode="bilinear")
    torch.testing.assert_close(logits, stored["out.logits"], rtol=3e-5, atol=3e-5)


def test_it_has_as_many_parameters_as_the_original() -> None:
    decoder = UNetFormerDecoder((256,) * 4, 6)
    assert sum(p.numel() for p in decoder.parameters()) == 515_102


def _reference_state() -> dict[str, Tensor]:
    stored, _ = load_golden("mfnet/mfnet_full_adapter")
    return part(stored, "sd.decoder.")


def _reference_sizes() -> UNetFormerDecoder:
    """A decoder that these weights fit."""
    return UNetFormerDecoder((32,) * 4, 5, channels=16, window_size=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p4.weights": torch.ones(2)}, "unexpected: p4.weights"),
        ({"b3.norm1.bias": None}, "missing: blocks.1.norm1.bias"),
        ({"p3.pre_conv.0.weight": torch.zeros(2)}, "fusions.0.skip.weight is 2, expected 16×32"),
    ],
)
def test_other_weights_are_refused(change: dict[str, Tensor | None], message: str) -> None:
    state = {k: v for k, v in (_reference_state() | change).items() if v is not None}
    with pytest.raises(WeightsMismatchError, match=message):
        load_strict(_reference_sizes(), convert_unetformer_state_dict(state), where="weights")


def test_weights_with_another_order_of_positions_are_refused() -> None:
    state = _reference_state()
    state["b3.attn.relative_position_index"] = state["b3.attn.relative_position_index"].T
    with pytest.raises(WeightsMismatchError, match=r"'b3.attn.relative_position_index' orders"):
        convert_unetformer_state_dict(state)


def test_unused_weights_are_left_out_only_where_they_are_unused() -> None:
    """A decoder with skip connections must not load without their weights."""
    converted = convert_unetformer_state_dict(_reference_state(), skips=False)
    with pytest.raises(WeightsMismatchError, match=r"missing: fusions.0.weights"):
        load_strict(_reference_sizes(), converted, where="w")


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    bottom=st.integers(0, 30),
    right=st.integers(0, 30),
)
def test_padding_is_that_of_numpy(height: int, width: int, bottom: int, right: int) -> None:
    x = torch.arange(2.0 * height * width).view(1, 2, height, width)
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (0, bottom), (0, right)), mode="reflect")
    assert np.array_equal(reflect_pad(x, bottom, right).numpy(), expected)


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    batch=st.integers(1, 2),
    training=st.booleans(),
)
def test_maps_of_any_size(height: int, width: int, batch: int, training: bool) -> None:
    decoder = UNetFormerDecoder(CHANNELS, 3, channels=16).train(training)
    logits = decoder(_levels(batch, height, width))
    assert logits.shape == (batch, 3, height, width)
    assert logits.isfinite().all()


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("training", [False, True])
def test_a_single_pixel(training: bool, norm: str) -> None:
    decoder = create_decoder("unetformer", CHANNELS, (4, 8, 16, 32), 3, norm=norm).train(training)
    logits = decoder(_levels(1, 1, 1))
    assert logits.shape == (1, 3, 1, 1)
    assert logits.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("window_size", [1, 3, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 2), (13, 10)])
def test_attention_is_the_formula(window_size: int, size: tuple[int, int]) -> None:
    """Against plain loops over the padded windows, the rows and the columns."""
    attention = _trained(GlobalLocalAttention(8, num_heads=2, window_size=window_size)).eval()
    nn.init.normal_(attention.bias_table)
    x = torch.randn(2, 8, *size)
    torch.testing.assert_close(attention(x), _attention_by_loops(attention, x))


def _pad(x: Tensor, top: int, left: int, bottom: int, right: int, mode: str) -> Tensor:
    widths = ((0, 0), (0, 0), (top, bottom), (left, right))
    return torch.from_numpy(np.pad(x.numpy(), widths, mode=mode))


def _attention_by_loops(attention: GlobalLocalAttention, x: Tensor) -> Tensor:
    s, heads = attention.window_size, attention.num_heads
    height, width = x.shape[-2:]
    padded = _pad(x, 0, 0, -height % s, -width % s, "reflect")
    attended = torch.zeros_like(padded)
    pixels = [(i, j) for i in range(s) for j in range(s)]
    bias = attention.bias_table.view(2 * s - 1, 2 * s - 1, heads)
    for top in range(0, padded.shape[2], s):
        for left in range(0, padded.shape[3], s):
            window = attention.qkv(padded[:, :, top : top + s, left : left + s])
            q, k, v = window.flatten(2).unflatten(1, (3, heads, -1)).unbind(1)  # (N, heads, d, L)
            for n, (i, j) in enumerate(pixels):
                logits = torch.einsum("bhd,bhdl->bhl", q[..., n], k) * q.shape[2] ** -0.5
                for m, (y, z) in enumerate(pixels):
                    logits[..., m] += bias[i - y + s - 1, j - z + s - 1]
                values = torch.einsum("bhl,bhdl->bhd", logits.softmax(-1), v)
                attended[:, :, top + i, left + j] = values.flatten(1)
    attended = attended[:, :, :height, :width]
    # A reach of s pixels from (s - 1) // 2 before each; one more mirrored row where s is even.
    before, end = (s - 1) // 2, 1 - s % 2
    tall = _pad(_pad(attended, 0, 0, end, 0, "reflect"), before, 0, before, 0, "constant")
    wide = _pad(_pad(attended, 0, 0, 0, end, "reflect"), 0, before, 0, before, "constant")
    pooled = sum(tall[:, :, i : i + height] for i in range(s)) / s
    pooled = pooled + sum(wide[..., i : i + width] for i in range(s)) / s
    mixed = pooled + attention.local3(x) + attention.local1(x)
    return attention.project(_pad(mixed, 0, 0, end, end, "reflect"))


def test_positions_of_a_window_of_two() -> None:
    """Pixels in reading order; above and left of a query is positive."""
    assert create_position_index(2).tolist() == [
        [4, 3, 1, 0],
        [5, 4, 2, 1],
        [7, 6, 4, 3],
        [8, 7, 5, 4],
    ]


@torch.no_grad()
def test_levels_that_are_not_doubled() -> None:
    """The running map is resized to the level, whatever the ratio."""
    fusion = _trained(WeightedFusion(4, 6, norm="batch")).eval()
    fusion.skip.weight.zero_()
    x, level = torch.randn(1, 4, 5, 3), torch.randn(1, 6, 9, 10)
    share = fusion.weights[1] / fusion.weights.sum()
    resized = F.interpolate(x, (9, 10), mode="bilinear", align_corners=False)
    torch.testing.assert_close(fusion(x, level), fusion.smooth(share * resized))


@torch.no_grad()
@pytest.mark.parametrize(
    ("num_levels", "doublings", "blocks"), [(1, 0, 1), (1, 3, 3), (2, 0, 1), (3, 1, 3), (5, 0, 4)]
)
def test_any_number_of_levels_and_doublings(num_levels: int, doublings: int, blocks: int) -> None:
    channels = (6,) * num_levels
    decoder = UNetFormerDecoder(channels, 3, channels=16, doublings=doublings).eval()
    assert len(decoder.blocks) == blocks
    levels = [torch.randn(1, 6, 16 >> i, 16 >> i) for i in range(num_levels)]
    assert decoder(levels).shape == (1, 3, 16 << doublings, 16 << doublings)


@pytest.mark.parametrize("doublings", [0, 2])
def test_every_parameter_learns(doublings: int) -> None:
    decoder = _trained(UNetFormerDecoder(CHANNELS, 3, channels=32, doublings=doublings)).train()
    # Its inputs are ≥ 0: with weights ≥ 0 its ReLU6 is open, else it might not learn.
    decoder.refine.channel_gate[0].weight.data.abs_()
    decoder(_levels(2, 24, 17)).square().mean().backward()
    assert [n for n, p in decoder.named_parameters() if not p.grad.abs().sum() > 0] == []


@torch.no_grad()
def test_samples_do_not_depend_on_their_neighbours() -> None:
    decoder = _trained(UNetFormerDecoder(CHANNELS, 3, channels=16)).eval()
    levels = _levels(3, 19, 11)
    together = decoder(levels)
    alone = torch.cat([decoder([x[i : i + 1] for x in levels]) for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_half_precision() -> None:
    decoder = UNetFormerDecoder(CHANNELS, 3, channels=16, dropout=0.0).train()
    levels = _levels(2, 24, 17)
    with torch.autocast("cpu", torch.bfloat16):
        logits = decoder(levels)
    logits.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in decoder.parameters())
    # bfloat16 keeps 8 bits; some forty layers follow each other.
    difference = (logits.float() - decoder(levels)).abs().mean()
    assert difference < 0.05 * logits.float().abs().mean()


def test_initialisation_of_the_bias_table() -> None:
    """Truncated normal with deviation 0.02; 1,800 values."""
    table = GlobalLocalAttention(16).bias_table
    assert 0.018 < table.std() < 0.022
    assert table.abs().max() > 0.04


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 7}, "num_heads is 7, which does not divide the 64 channels"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"window_size": 0}, "window_size is 0; it must be at least 1"),
        ({"doublings": -1}, "doublings is -1; it must be at least 0"),
    ],
)
def test_mistakes_are_named(options: dict[str, int], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        create_decoder("unetformer", CHANNELS, (4, 8, 16, 32), 2, **options)

"""Decoders: the papers' formulas, any levels, any batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from terrafuse.decoders import (
    DECODERS,
    FCNHead,
    LinearDecoder,
    SegFormerDecoder,
    UPerNetDecoder,
    create_decoder,
)
from terrafuse.decoders.layers import BatchNorm2d, create_norm
from terrafuse.errors import ModelError, UnknownNameError

CHANNELS, STRIDES = (6, 8, 10, 12), (4, 8, 16, 32)


def _levels(
    batch: int, height: int, width: int, channels: tuple[int, ...] = CHANNELS
) -> list[torch.Tensor]:
    sizes = [(-(-height // 2**i), -(-width // 2**i)) for i in range(len(channels))]
    return [torch.randn(batch, c, *size) for c, size in zip(channels, sizes, strict=True)]


def _narrow(name: str) -> dict[str, Any]:
    if name == "hamburger":
        return {"channels": 8, "ham_channels": 6, "rank": 4}
    return {} if name == "linear" else {"channels": 8}  # which has no width of its own


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    num_levels=st.integers(1, 5),
    batch=st.integers(1, 2),
    training=st.booleans(),
)
def test_any_levels_of_any_size(
    name: str, height: int, width: int, num_levels: int, batch: int, training: bool
) -> None:
    channels = (4, 6, 8, 10, 12)[:num_levels]
    strides = (2, 4, 8, 16, 32)[:num_levels]
    decoder = create_decoder(name, channels, strides, 3, **_narrow(name)).train(training)
    logits = decoder(_levels(batch, height, width, channels))
    assert logits.shape == (batch, 3, height, width)
    assert logits.isfinite().all()


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", DECODERS)
def test_every_parameter_learns_from_one_sample(name: str, norm: str) -> None:
    decoder = create_decoder(name, CHANNELS, STRIDES, 3, **_narrow(name), norm=norm).train()
    decoder(_levels(1, 8, 8)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())


@pytest.mark.parametrize("name", DECODERS)
def test_samples_do_not_depend_on_their_neighbours(name: str) -> None:
    decoder = create_decoder(name, CHANNELS, STRIDES, 3, **_narrow(name)).eval()
    levels = _levels(3, 9, 7)
    with torch.no_grad():
        together = decoder(levels)
        alone = torch.cat([decoder([x[i : i + 1] for x in levels]) for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_segformer_is_the_papers_formula() -> None:
    """Equation 4: a linear layer per level, upsampled, concatenated, a linear layer, a classifier.

    Ours applies the fusing layer before upsampling; the difference is rounding.
    """
    decoder = SegFormerDecoder(CHANNELS, 5, channels=8).eval()
    decoder.norm.running_mean.uniform_(-1, 1)
    levels = _levels(2, 11, 6)
    with torch.no_grad():
        upsampled = [
            F.interpolate(linear(x), (11, 6), mode="bilinear", align_corners=False)
            for linear, x in zip(decoder.linears, levels, strict=True)
        ]
        fused = F.relu(decoder.norm(decoder.fuse(torch.cat(upsampled, dim=1))))
        expected = decoder.classifier(fused)
        torch.testing.assert_close(decoder(levels), expected)


def test_segformer_has_as_many_parameters_as_the_paper() -> None:
    """B0 has levels of 32, 64, 160, 256 channels and a decoder of 0.4 M (table 1a)."""
    decoder = SegFormerDecoder((32, 64, 160, 256), 150)
    assert sum(p.numel() for p in decoder.parameters()) == (
        (32 + 64 + 160 + 256 + 4) * 256  # a linear layer per level
        + 4 * 256 * 256 + 2 * 256  # fuse, norm
        + (256 + 1) * 150
    )  # fmt: skip


def test_upernet_is_the_papers_figure() -> None:
    decoder = UPerNetDecoder(CHANNELS, 5, channels=8, bins=(1, 2)).eval()
    fine, middle, coarse, top = levels = _levels(2, 16, 8)

    def up(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)

    with torch.no_grad():
        pooling = decoder.pooling
        pools = [
            up(pooling.branches[i](F.adaptive_avg_pool2d(top, bins)), top)
            for i, bins in enumerate((1, 2))
        ]
        p4 = pooling.bottleneck(torch.cat([top, *pools], dim=1))
        p3 = decoder.laterals[2](coarse) + up(p4, coarse)
        p2 = decoder.laterals[1](middle) + up(p3, middle)
        p1 = decoder.laterals[0](fine) + up(p2, fine)
        smoothed = [s(p) for s, p in zip(decoder.smooths, (p1, p2, p3), strict=True)]
        fused = decoder.fuse(torch.cat([up(p, fine) for p in (*smoothed, p4)], dim=1))
        torch.testing.assert_close(decoder(levels), decoder.classifier(fused))


def test_upernet_sees_the_whole_map() -> None:
    """Through pooling bin 1 a far corner changes the logits; the convolutions alone reach less."""
    decoder = UPerNetDecoder((4,), 2, channels=8, bins=(1,)).eval()
    x = torch.randn(1, 4, 32, 32)
    moved = x.clone()
    moved[..., -1, -1] += 10
    with torch.no_grad():
        change = (decoder([moved]) - decoder([x])).abs()
    assert change[..., 0, 0].max() > 0


def test_batch_norm_of_a_single_value_uses_running_statistics() -> None:
    norm = BatchNorm2d(3).train()
    norm.running_mean.fill_(2.0)
    x = torch.tensor([5.0, 6.0, 7.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(norm(x), (x - 2) / (1 + norm.eps) ** 0.5)
    assert norm.num_batches_tracked == 0, "a value without variance is not tracked"
    reference = torch.nn.BatchNorm2d(3).train()
    reference.load_state_dict(norm.state_dict())
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(norm(x), reference(x))
    torch.testing.assert_close(norm.running_var, reference.running_var)


@pytest.mark.parametrize("channels", [2, 3, 7, 12, 64, 512])
def test_group_norm_works_on_one_pixel(channels: int) -> None:
    norm = create_norm("group", channels).train()
    assert norm(torch.randn(1, channels, 1, 1)).abs().max() > 0


def test_auxiliary_head() -> None:
    head = FCNHead(6, 3, channels=8).train()
    assert head(torch.randn(1, 6, 5, 7)).shape == (1, 3, 5, 7)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("upernett", {}, UnknownNameError, r"unknown decoder 'upernett'. Did you mean 'upernet'"),
        (
            "upernet",
            {"chanels": 8},
            UnknownNameError,
            r"option of decoder 'upernet' 'chanels'. Did",
        ),
        ("upernet", {"channels": "many"}, ModelError, r"option 'channels' .* is 'many': .*integer"),
        ("segformer", {"norm": "layer"}, ModelError, r"is 'layer': .*'batch' or 'group'"),
    ],
)
def test_mistakes_are_named(
    name: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        create_decoder(name, CHANNELS, STRIDES, 2, **options)


def test_levels_out_of_order_are_refused() -> None:
    with pytest.raises(ModelError, match="fine to coarse"):
        create_decoder("upernet", CHANNELS, STRIDES[::-1], 2)


def test_a_linear_decoder_is_linear_once_trained() -> None:
    decoder = create_decoder("linear", CHANNELS, STRIDES, 3)
    decoder(_levels(4, 9, 7))  # statistics of the norms
    decoder.eval()
    one, other = _levels(2, 9, 7), _levels(2, 9, 7)
    zero = [torch.zeros_like(x) for x in one]
    both = decoder([a + 2 * b for a, b in zip(one, other, strict=True)])
    expected = decoder(one) + 2 * (decoder(other) - decoder(zero))
    torch.testing.assert_close(both, expected, rtol=1e-4, atol=1e-5)


def test_a_linear_decoder_sums_its_levels_by_hand() -> None:
    decoder = LinearDecoder([1, 2], 1).eval()
    fine, coarse = decoder.classifiers
    with torch.no_grad():
        fine.weight.fill_(3.0)
        fine.bias.fill_(0.5)
        coarse.weight.copy_(torch.tensor([1.0, -2.0]).view(1, 2, 1, 1))
    levels = [
        torch.full((1, 1, 4, 4), 2.0),
        torch.ones(1, 2, 2, 2) * torch.tensor([5.0, 1.0])[:, None, None],
    ]
    expected = torch.full((1, 1, 4, 4), 3 * 2 + 0.5 + 5 - 2 * 1)
    torch.testing.assert_close(decoder(levels), expected, rtol=1e-4, atol=1e-4)  # eps of the norms

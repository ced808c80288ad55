"""DFormer beyond the published tensors: sizes, X of several bands, weights, determinism."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from golden_files import load_golden, part
from terrafuse.decoders import HamburgerDecoder
from terrafuse.decoders.hamburger import factorize
from terrafuse.describe import without_values
from terrafuse.describe.costs import forward_flops, saved_activations
from terrafuse.describe.parts import describe_parts
from terrafuse.errors import (
    ModelError,
    UnknownNameError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from terrafuse.methods import create_segmenter
from terrafuse.methods.dformer import DFormer
from terrafuse.methods.dformer.geometry import GeometryPrior, measure, measure_all
from terrafuse.modalities import Modality

RGB, DEPTH = Modality("rgb", ("r", "g", "b")), Modality("depth", ("z",), "elevation")
SAR = Modality("sar", ("vv", "vh"), "sar")
TINY: dict[str, Any] = {
    "backbone": "dformer_tiny",
    "backbone_options": {
        "channels": [8, 16, 24, 32], "depths": [1, 1, 2, 2], "num_heads": [1, 2, 4, 8],
    },
    "decoder_options": {"channels": 10, "ham_channels": 14, "rank": 6},
}  # fmt: skip


def tiny(*modalities: Modality, **options: Any) -> DFormer:
    torch.manual_seed(0)
    segmenter = create_segmenter("dformer", modalities or (RGB, DEPTH), 7, TINY | options).eval()
    assert isinstance(segmenter, DFormer)
    return segmenter


@pytest.mark.parametrize(
    ("backbone", "millions"),
    [
        ("dformer_tiny", (4.96, 6.00)),
        ("dformer_small", (17.48, 18.75)),
        ("dformer_base", (28.26, 29.52)),
        ("dformer_large", (37.68, 39.03)),
        ("dformer_v2_small", (25.42, 26.69)),
        ("dformer_v2_base", (52.60, 53.92)),
        ("dformer_v2_large", (93.78, 95.55)),
    ],
)
def test_sizes_are_those_of_the_papers(backbone: str, millions: tuple[float, float]) -> None:
    options = {"backbone": backbone}
    segmenter = without_values(lambda: create_segmenter("dformer", (RGB, DEPTH), 40, options))
    assert isinstance(segmenter, DFormer)
    counts = [sum(p.numel() for p in m.parameters()) for m in (segmenter.encoder, segmenter)]
    assert [round(count / 1e6, 2) for count in counts] == list(millions)


@pytest.mark.parametrize(
    ("backbone", "tensors"),
    [("dformer_tiny", 152), ("dformer_small", 116), ("dformer_base", 236), ("dformer_large", 236),
     ("dformer_v2_small", 29), ("dformer_v2_base", 45 + 66)],
)  # fmt: skip
def test_what_the_published_optimiser_forgets(backbone: str, tensors: int) -> None:
    options = {"backbone": backbone, "freeze_as_published": True}
    segmenter = without_values(lambda: create_segmenter("dformer", (RGB, DEPTH), 40, options))
    assert sum(not p.requires_grad for p in segmenter.parameters()) == tensors


def test_everything_learns_by_default() -> None:
    assert all(p.requires_grad for p in tiny().parameters())


def test_evaluation_is_deterministic_and_training_is_not() -> None:
    images = {"rgb": torch.randn(1, 3, 64, 64), "depth": torch.randn(1, 1, 64, 64)}
    one, other = tiny(), tiny()
    torch.manual_seed(5)
    with torch.no_grad():
        logits = one(images).logits
        assert torch.equal(one(images).logits, logits)
        assert torch.equal(other(images).logits, logits)
    decoder = one.decoder.train()
    levels = [x[:, :, :4, :4].detach() for x in one.encoder(torch.cat([*images.values()], dim=1))]
    decoder.dropout.p = 0.0  # type: ignore[union-attr, assignment]
    first, second = decoder(levels[1:]), decoder(levels[1:])
    assert not torch.equal(first, second)
    torch.manual_seed(9)
    third = decoder(levels[1:])
    torch.manual_seed(9)
    assert torch.equal(decoder(levels[1:]), third)


@settings(max_examples=20, deadline=None)
@given(
    dim=st.integers(2, 12), pixels=st.integers(2, 20), rank=st.integers(1, 5), seed=st.integers(0)
)
def test_factorisation_comes_nearer_and_stays_positive(
    dim: int, pixels: int, rank: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed % 2**31)
    x = torch.rand(1, dim, pixels, generator=generator, dtype=torch.float64)
    bases = torch.rand(1, dim, rank, generator=generator, dtype=torch.float64) + 0.01
    bases = torch.nn.functional.normalize(bases, dim=1)
    results = [factorize(x, bases, steps) for steps in (1, 5, 25)]
    distances = [float((result - x).norm()) for result in results]
    # Lee and Seung show that the distance never grows; ε moves it by next to nothing.
    assert distances[2] <= distances[1] + 1e-4
    assert distances[1] <= distances[0] + 1e-4
    assert all((result >= 0).all() for result in results)


def test_a_matrix_of_that_rank_is_found() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 10, 2, dtype=torch.float64) @ torch.rand(1, 2, 30, dtype=torch.float64)
    bases = torch.nn.functional.normalize(torch.rand(1, 10, 2, dtype=torch.float64), dim=1)
    torch.testing.assert_close(factorize(x, bases, 2000), x, rtol=0, atol=1e-2)


def test_sizes_of_the_decoder_are_checked() -> None:
    with pytest.raises(ModelError, match="rank 0, train_steps 6, eval_steps 7; each must"):
        HamburgerDecoder([8], 3, rank=0)


def test_the_prior_by_hand() -> None:
    """Two heads with decays ln(1 − 2^−2) and ln(1 − 2^−4), on a map of 2 × 3."""
    prior = GeometryPrior(2, 4)
    with torch.no_grad():
        prior.weight.copy_(torch.tensor([1.0, 10.0]))
    x = torch.tensor([[[[0.0, 1.0, 3.0], [0.5, 0.5, 0.5]]]])
    decays = torch.log(torch.tensor([0.75, 0.9375]))
    along_rows = prior(measure(x)[0])
    assert along_rows.shape == (1, 2, 2, 3, 3)
    torch.testing.assert_close(along_rows[0, :, 0, 0, 2], decays * (2 + 10 * 3))
    torch.testing.assert_close(along_rows[0, :, 1, 2, 1], decays * 1)
    every = prior(measure_all(x))
    torch.testing.assert_close(every[0, :, 1, 5], decays * (2 + 10 * 0.5))
    assert not every.diagonal(dim1=2, dim2=3).any()


def test_differences_are_averaged_over_bands() -> None:
    x = torch.randn(2, 3, 4, 5)
    for i in (0, 1):
        both = measure(x)[i].depth
        alone = torch.stack([measure(x[:, c : c + 1])[i].depth for c in range(3)]).mean(dim=0)
        torch.testing.assert_close(both, alone)


@pytest.mark.parametrize("backbone", ["dformer_tiny", "dformer_v2_small"])
def test_further_modalities_are_bands_of_x(backbone: str) -> None:
    options: dict[str, Any] = {"backbone": backbone}
    if backbone == "dformer_v2_small":
        options["backbone_options"] = TINY["backbone_options"] | {"num_heads": [2, 2, 3, 4]}
    three = tiny(RGB, SAR, DEPTH, **options)
    images = {m.name: torch.randn(1, len(m.bands), 40, 70) for m in (RGB, SAR, DEPTH)}
    both = Modality("both", ("vv", "vh", "z"), "other")
    two = tiny(RGB, both, **options)
    stacked = {"rgb": images["rgb"], "both": torch.cat([images["sar"], images["depth"]], dim=1)}
    with torch.no_grad():
        torch.testing.assert_close(three(images).logits, two(stacked).logits)


def stored_weights() -> dict[str, Tensor]:
    stored, _ = load_golden("dformer/v1_full_small")
    return part(stored, "sd.")


def options_for(path: Path) -> dict[str, Any]:
    return {"weights": str(path), "backbone_options": TINY["backbone_options"]}


def test_a_published_model_is_all_weights(tmp_path: Path) -> None:
    stored, _ = load_golden("dformer/v1_full_small")
    torch.save({"model": dict(stored_weights())}, tmp_path / "whole.pth")
    segmenter = tiny(**options_for(tmp_path / "whole.pth"))
    assert isinstance(segmenter.decoder, HamburgerDecoder)
    segmenter.decoder.bases.copy_(stored["mid.bases_normalised"][0])
    images = {"rgb": stored["in.rgb"], "depth": stored["in.depth"][:, :1]}
    with torch.no_grad():
        logits = segmenter(images).logits
    torch.testing.assert_close(logits, stored["out.logits"], rtol=0, atol=3e-5)


def test_pretraining_is_the_encoder(tmp_path: Path) -> None:
    state = {
        f"module.{k.removeprefix('backbone.')}": v
        for k, v in stored_weights().items()
        if k.startswith("backbone.")
    }
    state["module.head.weight"] = torch.zeros(1000, 32)
    old = {k: v + 1 for k, v in state.items()}
    torch.save({"state_dict_ema": state, "state_dict": old}, tmp_path / "DFormer_Tiny.pth.tar")
    segmenter = tiny(RGB, SAR, **options_for(tmp_path / "DFormer_Tiny.pth.tar"))
    found = segmenter.encoder.state_dict()
    name = "stages.1.0.attention.query.weight"
    assert torch.equal(found[name], state["module.stages.1.0.attn.q.weight"])
    first = state["module.downsample_layers_e.0.0.weight"]
    ours = found["downs.0.1.0.weight"]  # for one band; another one starts with a part of its own
    assert torch.equal(ours[:, :1], first)
    assert 0.01 < (ours[:, 1:] / first).abs().mean() != 1
    assert segmenter.encoder.pretrained is not None
    assert "non-commercial" in segmenter.encoder.pretrained.licence
    fresh = tiny(RGB, SAR)
    assert torch.equal(
        segmenter.decoder.state_dict()["squeeze.0.weight"],
        fresh.decoder.state_dict()["squeeze.0.weight"],
    )


def test_weights_of_version_2_may_lack_norms_of_levels(tmp_path: Path) -> None:
    stored, config = load_golden("dformer/v2_full_small")
    backbone = part(stored, "sd.backbone.")
    state = {k: v for k, v in backbone.items() if "extra_norms" not in k}
    torch.save({"model": state}, tmp_path / "v2.pth")
    sizes = {
        "channels": config["embed_dims"], "depths": config["depths"],
        "num_heads": config["num_heads"], "mlp_ratios": config["mlp_ratios"],
        "layer_scales": config["layerscales"],
    }  # fmt: skip
    segmenter = tiny(
        backbone="dformer_v2_small", backbone_options=sizes, weights=str(tmp_path / "v2.pth")
    )
    found = segmenter.encoder.state_dict()
    assert (found["norms.0.weight"] == 1).all()
    assert torch.equal(found["stem.0.weight"], state["patch_embed.proj.0.weight"])


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    state = {k.removeprefix("backbone."): v for k, v in stored_weights().items()}
    del state["stages.2.1.attn.q.weight"]
    encoder = {k: v for k, v in state.items() if not k.startswith("decode_head")}
    torch.save(encoder, tmp_path / "part.pth")
    with pytest.raises(WeightsMismatchError, match=r"missing: stages\.2\.1\.attention\.query"):
        tiny(**options_for(tmp_path / "part.pth"))
    with pytest.raises(WeightsNotFoundError, match="no weights 'timm' for 'dformer_tiny'"):
        tiny(weights="timm")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": [1, 1, 1]}, r"four values of at least 1, one per stage; got \{'depths': \[1"),
        ({"channels": [8, 16, 0, 8]}, "four values of at least 1"),
        ({"num_heads": [1, 5, 4, 8]}, "5 heads cannot share half of 16 channels"),
        ({"drop_path_rate": 1.5}, "'drop_path_rate' of method 'dformer' is 1.5"),
    ],
)
def test_faults_in_sizes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tiny(backbone_options=TINY["backbone_options"] | options)


@pytest.mark.parametrize(
    ("backbone", "tuning"),
    [
        ("dformer_tiny", None), ("dformer_tiny", "adapter"), ("dformer_tiny", "lora"),
        ("dformer_v2_base", "frozen"), ("dformer_v2_base", "lora"),
    ],
)  # fmt: skip
def test_parts_and_cost_are_known_without_values(backbone: str, tuning: str | None) -> None:
    sizes = TINY["backbone_options"] | {"num_heads": [2, 2, 3, 4]}
    options: dict[str, Any] = {"backbone": backbone, "tuning": tuning, "backbone_options": sizes}
    if (backbone, tuning) == ("dformer_tiny", "lora"):
        # Its queries are those of a 7 × 7 grid.
        with pytest.raises(ModelError, match="has no layer for 'q'"):
            tiny(**options)
        return
    real = tiny(**options)
    shapes = without_values(lambda: tiny(**options))
    rows = describe_parts(shapes)
    assert rows == describe_parts(real)
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in real.parameters())
    learns = sum(p.numel() for p in real.parameters() if p.requires_grad)
    assert sum(row.trainable for row in rows) == learns
    assert forward_flops(shapes, 64) > forward_flops(shapes, 32) > 0
    assert saved_activations(shapes, 64, 2) > 0


@pytest.mark.parametrize("backbone", ["dformer_tiny", "dformer_v2_base"])
def test_blocks_may_be_computed_again(backbone: str) -> None:
    """With less memory the gradients are the same."""
    sizes = TINY["backbone_options"] | {"num_heads": [2, 2, 3, 4], "drop_path_rate": 0.0}
    image = torch.randn(1, 4, 64, 64)
    found = []
    for again in (False, True):
        encoder = tiny(backbone=backbone, backbone_options=sizes).encoder.train()
        encoder.gradient_checkpointing = again
        kept: list[int] = []
        with saved_tensors_hooks(lambda x, k=kept: (k.append(x.numel()), x)[1], lambda x: x):
            loss = sum(level.square().mean() for level in encoder(image))
        assert isinstance(loss, Tensor)
        loss.backward()
        found.append((sum(kept), [p.grad for p in encoder.parameters()]))
    assert found[1][0] < found[0][0] / 2
    torch.testing.assert_close(found[1][1], found[0][1])


def test_misspelt_names_are_named() -> None:
    with pytest.raises(UnknownNameError, match=r"'dformer_smal'\. Did you mean 'dformer_small'"):
        tiny(backbone="dformer_smal")
    with pytest.raises(UnknownNameError, match="unknown option of backbone 'dformer_tiny' 'depth'"):
        tiny(backbone_options={"depth": 3})
    with pytest.raises(ModelError, match="7 heads cannot share 64 channels"):
        create_segmenter(
            "dformer",
            (RGB, DEPTH),
            3,
            {"backbone": "dformer_v2_small", "backbone_options": {"num_heads": [7, 7, 7, 7]}},
        )


def test_attention_has_the_four_dimensions_of_fused_kernels_and_onnx(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    attend = F.scaled_dot_product_attention

    def watched(*tensors: Tensor) -> Tensor:
        seen.extend(x.ndim for x in tensors)
        return attend(*tensors)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    sizes = {"channels": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4]}
    segmenter = tiny(backbone="dformer_v2_small", backbone_options=sizes)
    segmenter({"rgb": torch.randn(1, 3, 64, 96), "depth": torch.randn(1, 1, 64, 96)})
    # Along rows and columns in three stages, over all pixels in the last; with masks.
    assert seen == [4] * (2 * 3 + 1) * 4

"""DFormer, both versions, equals what the published code computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden_files import load_golden, part
from terrafuse.decoders import HamburgerDecoder, convert_hamburger_state_dict
from terrafuse.decoders.hamburger import factorize
from terrafuse.fusion import ChannelNorm, DepthwiseMlp, GuidedBlock, LayerNorm2d
from terrafuse.methods import create_segmenter
from terrafuse.methods.dformer import DFormer, convert_reference_state_dict
from terrafuse.methods.dformer.geometry import (
    GeometryAttention,
    GeometryPrior,
    Rotation,
    measure,
    measure_all,
)
from terrafuse.methods.dformer.v1 import GuidedAttention
from terrafuse.methods.dformer.v2 import ConvFeedForward, GeometryBlock, GeometryEncoder
from terrafuse.modalities import Modality
from terrafuse.training.losses import CrossEntropy
from terrafuse.weights import load_strict

RGB, DEPTH = Modality("rgb", ("r", "g", "b")), Modality("depth", ("z",), "elevation")


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """As stated beside the files: an independent float32 implementation keeps to it."""
    atol = 5e-6 * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def load(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return load_golden(f"dformer/{name}")


def fill(module: nn.Module, state: Mapping[str, Tensor], here: str, there: str) -> Any:
    """A module with stored weights, which the original has at `there` and we at `here`."""
    original = {there + k: v for k, v in state.items()}
    if there.startswith(("layers.", "extra")):
        original["patch_embed.proj.0.bias"] = torch.zeros(1)  # tells version 2
    converted = convert_reference_state_dict(original)
    load_strict(module, part(converted, here), where="stored weights")
    return module.eval()


@pytest.mark.parametrize("order", ["first", "last"])
def test_norms(order: str) -> None:
    stored, config = load(f"v1_layernorm_channels_{order}")
    norm: nn.LayerNorm = (
        ChannelNorm(config["dim"])
        if order == "last"
        else LayerNorm2d(config["dim"], eps=config["eps"])
    )
    assert norm.eps == config["eps"]
    norm.load_state_dict(part(stored, "sd."))
    assert_close(norm(stored["in.x"]), stored["out.y"])


def test_mlp_of_version_1() -> None:
    stored, config = load("v1_mlp")
    mlp = DepthwiseMlp(config["dim"], config["mlp_ratio"])
    fill(mlp, part(stored, "sd."), "encoder.stages.0.0.mlp.", "stages.0.0.mlp.")
    assert_close(mlp(stored["in.x"]), stored["out.y"])


@pytest.mark.parametrize("name", ["v1_block", "v1_block_window0", "v1_block_dropdepth"])
def test_block_of_version_1(name: str) -> None:
    stored, config = load(name)
    last, dim = config["drop_depth"], config["dim"]
    heads = config["num_head"] if config["window"] else 0
    attention = GuidedAttention(dim, heads, last=last)
    settings = {"mlp_ratio": config["mlp_ratio"], "drop_path": 0.0, "layer_scale_init": 1e-6}
    block = GuidedBlock(attention, dim, None if last else dim // 2, **settings)
    fill(block, part(stored, "sd."), "encoder.stages.1.0.", "stages.1.0.")
    x, guide = block(stored["in.x"], stored["in.x_e"])
    assert_close(x, stored["out.x"])
    assert_close(guide, stored["in.x_e"] if last else stored["out.x_e"])


def small(config: Mapping[str, Any], backbone: str, **options: Any) -> DFormer:
    """Both versions; names of sizes differ."""
    sizes = {
        "channels": config.get("dims", config.get("embed_dims")),
        "depths": config["depths"],
        "num_heads": config["num_heads"],
        "mlp_ratios": config["mlp_ratios"],
    }
    if "heads_ranges" in config:
        sizes |= {"heads_ranges": config["heads_ranges"], "layer_scales": config["layerscales"]}
    settings = {
        "backbone": backbone,
        "backbone_options": sizes,
        "decoder_options": {
            "channels": config.get("channels", 8),
            "ham_channels": config.get("ham_channels", 8),
            "rank": config.get("MD_R", 4),
        },
    }
    segmenter = create_segmenter("dformer", (RGB, DEPTH), 7, settings | options).eval()
    assert isinstance(segmenter, DFormer)
    return segmenter


SMALL = {"v1": "dformer_tiny", "v2": "dformer_v2_base"}


@pytest.mark.parametrize("version", SMALL)
def test_logits_and_loss(version: str) -> None:
    stored, config = load(f"{version}_full_small")
    segmenter = small(config, SMALL[version])
    state = convert_reference_state_dict(part(stored, "sd."), rank=config["MD_R"])
    own = segmenter.state_dict()
    statistics = {k: v for k, v in own.items() if k.startswith(("mean_", "std_"))}
    normalised = F.normalize(stored["mid.bases_raw"], dim=1)
    assert_close(normalised, stored["mid.bases_normalised"])
    bases = {"decoder.bases": normalised[0]}
    load_strict(segmenter, state | statistics | bases, where="stored weights")
    if isinstance(segmenter.encoder, GeometryEncoder):
        assert {norm.eps for norm in segmenter.encoder.norms} == {1e-5}  # hardly seen in values
    images = {"rgb": stored["in.rgb"], "depth": stored["in.depth"][:, :1]}
    with torch.no_grad():
        logits = segmenter(images).logits
    assert_close(logits, stored["out.logits"])
    loss = CrossEntropy(torch.ones(7))(logits, stored["in.label"].long())
    assert_close(loss, stored["out.ce_loss"][0])


def test_factorisation() -> None:
    stored, config = load("nmf2d")
    x, bases = stored["in.x"], stored["in.bases_normalised"]
    raw = stored["in.bases_raw"]
    assert_close(F.normalize(raw, dim=1), bases)
    for steps, name in ((config["train_steps"], "train_6"), (config["eval_steps"], "eval_7")):
        y = factorize(x.flatten(2), bases, steps).view(x.shape)
        assert_close(y, stored[f"out.y_{name}_steps"])


def test_decoder() -> None:
    stored, config = load("ham_head")
    decoder = HamburgerDecoder(
        config["in_channels"],
        config["num_classes"],
        channels=config["channels"],
        ham_channels=config["ham_channels"],
        rank=config["MD_R"],
        eval_steps=config["eval_steps"],
    ).eval()
    state = convert_hamburger_state_dict(part(stored, "sd."), config["MD_R"])
    load_strict(decoder, state, where="stored weights")
    found: dict[str, Tensor] = {}
    for name, module in {"squeeze": decoder.squeeze, "leave": decoder.leave}.items():
        module.register_forward_hook(lambda _, __, y, name=name: found.update({name: y}))
    levels = [stored[f"in.feat.{i}"] for i in config["in_index"]]
    assert_close(F.normalize(stored["mid.bases_raw"], dim=1), stored["mid.bases_normalised"])
    for sample, bases in enumerate(stored["mid.bases_normalised"]):
        decoder.bases.copy_(bases)
        with torch.no_grad():
            logits = decoder([x[sample : sample + 1] for x in levels])
        assert_close(logits[0], stored["out.logits"][sample])
        assert_close(found["squeeze"][0], stored["mid.squeeze"][sample])
        entered = F.relu(decoder.enter(found["squeeze"]))
        assert_close(entered[0], stored["mid.ham_in"][sample])
        context = factorize(entered.flatten(2), bases[None], config["eval_steps"])
        # Stored as "ham_out" is what goes into that layer.
        assert_close(context.view_as(entered)[0], stored["mid.ham_out"][sample])
        left = F.relu(found["squeeze"] + found["leave"])
        assert_close(left[0], stored["mid.hamburger"][sample])


def geometry(stored: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
    return F.interpolate(stored["in.depth"], size, mode="bilinear", align_corners=False)


def test_prior() -> None:
    stored, config = load("v2_geo_prior")
    size = (config["H"], config["W"])
    prior = GeometryPrior(config["num_heads"], config["heads_range"])
    assert_close(prior.decay, stored["sd.decay"])
    prior.load_state_dict({"weight": stored["sd.weight"].flatten()})
    depth = geometry(stored, size)
    along_rows, along_cols = measure(depth)
    assert_close(prior(along_rows), stored["out.mask_w"])
    assert_close(prior(along_cols), stored["out.mask_h"])
    assert_close(prior(measure_all(depth)), stored["out.mask_full"])
    rotation = Rotation(*size, config["embed_dim"] // config["num_heads"], depth.device)
    assert_close(rotation.sin, stored["out.sin"])
    assert_close(rotation.cos, stored["out.cos"])


@pytest.mark.parametrize("name", ["v2_decomposed_gsa", "v2_full_gsa"])
def test_attention_of_version_2(name: str) -> None:
    stored, config = load(name)
    split = name == "v2_decomposed_gsa"
    module = GeometryAttention(config["embed_dim"], config["num_heads"], split=split)
    there = "layers.0.blocks.0.Attention."
    fill(module, part(stored, "sd."), "encoder.stages.0.0.attn.", there)
    rotation = Rotation(5, 7, config["embed_dim"] // config["num_heads"], torch.device("cpu"))
    assert_close(rotation.sin, stored["in.sin"])
    assert_close(rotation.cos, stored["in.cos"])
    masks = [stored["in.mask_w"], stored["in.mask_h"]] if split else [stored["in.mask"]]
    assert_close(module(stored["in.x"], rotation, masks), stored["out.y"])


@pytest.mark.parametrize("name", ["v2_block_split", "v2_block_full_layerscale"])
def test_block_of_version_2(name: str) -> None:
    stored, config = load(name)
    dim, heads = config["embed_dim"], config["num_heads"]
    block = GeometryBlock(
        dim,
        heads,
        heads_range=config["heads_range"],
        mlp_ratio=config["ffn_dim"] // dim,
        split=config["split"],
        layer_scale_init=1e-6 if config["layerscale"] else None,
    )
    fill(block, part(stored, "sd."), "encoder.stages.0.0.", "layers.0.blocks.0.")
    depth = geometry(stored, (5, 7))
    distances = measure(depth) if config["split"] else (measure_all(depth),)
    rotation = Rotation(5, 7, dim // heads, depth.device)
    assert_close(block(stored["in.x"], rotation, distances), stored["out.y"])


def test_feed_forward_of_version_2() -> None:
    stored, config = load("v2_ffn")
    module = ConvFeedForward(config["embed_dim"], config["ffn_dim"])
    there = "layers.0.blocks.0.ffn."
    fill(module, part(stored, "sd."), "encoder.stages.0.0.mlp.", there)
    assert_close(module(stored["in.x"]), stored["out.y"])


def test_step_down_of_version_2() -> None:
    stored, config = load("v2_patch_merging")
    sizes = {
        "embed_dims": [config["dim"], config["out_dim"], 16, 16], "depths": [1] * 4,
        "num_heads": [2] * 4, "mlp_ratios": [1] * 4,
    }  # fmt: skip
    encoder = small(sizes, SMALL["v2"]).encoder
    assert isinstance(encoder, GeometryEncoder)
    fill(encoder.downs[0], part(stored, "sd."), "encoder.downs.0.", "layers.0.downsample.")
    down = encoder.downs[0](stored["in.x"].permute(0, 3, 1, 2))
    assert_close(down.permute(0, 2, 3, 1), stored["out.y"])

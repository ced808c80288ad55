"""CMX equals what the published code computes: modules, whole networks, gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden_files import load_golden, part
from terrafuse.decoders import (
    FCNHead,
    SegFormerDecoder,
    UPerNetDecoder,
    convert_segformer_state_dict,
)
from terrafuse.methods import create_segmenter
from terrafuse.methods.cmx import (
    CMX,
    ChannelEmbedding,
    ContextExchange,
    FeatureExchange,
    FeatureFusion,
    FeatureRectification,
    convert_reference_state_dict,
)
from terrafuse.modalities import Modality
from terrafuse.training.losses import CrossEntropy
from terrafuse.weights import load_strict

RGB, X = Modality("rgb", ("r", "g", "b")), Modality("x", ("h", "a", "d"), "other")


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """As stated beside the files: an independent float32 implementation keeps to it."""
    atol = 5e-6 * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def load(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return load_golden(f"cmx/{name}")


def fill(module: nn.Module, state: Mapping[str, Tensor], here: str, there: str) -> Any:
    """A module with stored weights, which the original has at `there` and we at `here`."""
    converted = convert_reference_state_dict({there + k: v for k, v in state.items()})
    load_strict(module, part(converted, here), where="stored weights")
    return module.eval()


def rectification(name: str) -> tuple[FeatureRectification, dict[str, Tensor]]:
    stored, config = load(name)
    module = FeatureRectification(
        config["dim"],
        channel_weight=config["lambda_c"],
        spatial_weight=config["lambda_s"],
        reduction=config["reduction"],
    )
    state = part(stored, "sd.")
    return fill(module, state, "rectifications.0.", "backbone.FRMs.0."), stored


@pytest.mark.parametrize("name", ["frm", "frm_reduction2"])
def test_rectification(name: str) -> None:
    module, stored = rectification(name)
    a, b = module(stored["in.x1"], stored["in.x2"])
    assert_close(a, stored["out.x1"])
    assert_close(b, stored["out.x2"])


def test_weights_of_rectification() -> None:
    module, stored = rectification("frm")
    both = torch.cat([stored["in.x1"], stored["in.x2"]], dim=1)
    of_channels = module.channel_mlp(stored["mid.pooled"]).sigmoid()
    expected = stored["mid.channel_weights"]  # modality by modality (2, N, C, 1, 1)
    assert_close(of_channels, torch.cat(list(expected.flatten(2)), dim=1))
    at = module.spatial_mlp(both).sigmoid()
    assert_close(at, torch.cat(list(stored["mid.spatial_weights"]), dim=1))


def test_context_exchange() -> None:
    stored, config = load("cross_attention")
    module = ContextExchange(config["dim"], config["num_heads"])
    there = "backbone.FFMs.0.cross.cross_attn."
    fill(module, part(stored, "sd."), "fusions.0.exchange.exchange.", there)
    a, b = stored["in.x1"], stored["in.x2"]
    assert_close(module.context(0, a), stored["mid.ctx1"])
    assert_close(module.context(1, b), stored["mid.ctx2"])
    for found, name in zip(module(a, b), ("x1", "x2"), strict=True):
        assert_close(found, stored[f"out.{name}"])


def test_feature_exchange() -> None:
    stored, config = load("cross_path")
    module = FeatureExchange(config["dim"], config["num_heads"], reduction=config["reduction"])
    fill(module, part(stored, "sd."), "fusions.0.exchange.", "backbone.FFMs.0.cross.")
    for found, name in zip(module(stored["in.x1"], stored["in.x2"]), ("x1", "x2"), strict=True):
        assert_close(found, stored[f"out.{name}"])


def test_channel_embedding() -> None:
    stored, config = load("channel_embed")
    module = ChannelEmbedding(
        config["in_channels"], config["out_channels"], reduction=config["reduction"]
    )
    fill(module, part(stored, "sd."), "fusions.0.embedding.", "backbone.FFMs.0.channel_emb.")
    size = (config["H"], config["W"])
    tokens = stored["in.x"]  # (N, H·W, 2C)
    assert_close(module(tokens.transpose(1, 2).unflatten(2, size)), stored["out.y"])


@pytest.mark.parametrize("name", ["ffm", "ffm_reduction2"])
def test_feature_fusion(name: str) -> None:
    stored, config = load(name)
    module = FeatureFusion(config["dim"], config["num_heads"], reduction=config["reduction"])
    fill(module, part(stored, "sd."), "fusions.0.", "backbone.FFMs.0.")
    maps = [stored["in.x1"], stored["in.x2"]]
    tokens = module.exchange(*(x.flatten(2).transpose(1, 2) for x in maps))
    assert_close(tokens[0], stored["mid.cross_x1"])
    assert_close(tokens[1], stored["mid.cross_x2"])
    assert_close(module(*maps), stored["out.y"])


def small_cmx(config: Mapping[str, Any], **options: Any) -> CMX:
    sizes = {
        "channels": config["embed_dims"],
        "depths": config["depths"],
        "num_heads": config["num_heads"],
    }
    settings = {
        "backbone_options": sizes,
        "decoder_options": {"channels": config.get("decoder_embed_dim", 8)},
    }
    classes = config.get("num_classes", 7)
    segmenter = create_segmenter("cmx", (RGB, X), classes, settings | options).eval()
    assert isinstance(segmenter, CMX)
    return segmenter


def load_whole(segmenter: CMX, state: Mapping[str, Tensor]) -> None:
    statistics = {k: v for k, v in segmenter.state_dict().items() if k.startswith(("mean", "std"))}
    load_strict(segmenter, convert_reference_state_dict(state) | statistics, where="stored")


@pytest.mark.parametrize("eps", [1e-3, 1e-5])
def test_logits(eps: float) -> None:
    stored, config = load("full_small")
    segmenter = small_cmx(config, **({} if eps == 1e-3 else {"head_norm_eps": eps}))
    load_whole(segmenter, part(stored, "sd."))
    with torch.no_grad():
        logits = segmenter({"rgb": stored["in.rgb"], "x": stored["in.x"]}).logits
    digits = round(-torch.tensor(eps).log10().item())
    assert_close(logits, stored[f"out.logits_head_eps_1e{digits}"])
    if eps == 1e-3:
        loss = CrossEntropy(torch.ones(config["num_classes"]))(logits, stored["in.label"].long())
        assert_close(loss, stored["out.ce_loss_head_eps_1e3"][0])


def test_gradients() -> None:
    stored, config = load("full_small")
    expected, _ = load("full_small_grads")
    segmenter = small_cmx(config)
    load_whole(segmenter, part(stored, "sd."))
    images = {name: stored[f"in.{name}"].requires_grad_() for name in ("rgb", "x")}
    loss = CrossEntropy(torch.ones(config["num_classes"]))(
        segmenter(images).logits, stored["in.label"].long()
    )
    loss.backward()
    assert_close(loss.detach(), expected["out.loss"][0])
    for name, image in images.items():
        assert image.grad is not None
        assert_close(image.grad, expected[f"out.grad_{name}"])
    found = {name: p.grad for name, p in segmenter.named_parameters()}
    wanted = convert_reference_state_dict(part(expected, "mid.grad."))
    assert len(wanted) == 9  # eight of the original, of which keys and values are two here
    for name, gradient in wanted.items():
        grad = found[name]
        assert grad is not None, name
        assert_close(grad, gradient)
        # Absolute tolerance alone would let small gradients pass whatever they are.
        assert F.cosine_similarity(grad.flatten(), gradient.flatten(), dim=0) > 0.9999, name


def test_mlp_decoder() -> None:
    stored, config = load("mlp_decoder")
    decoder = SegFormerDecoder(
        config["in_channels"], config["num_classes"], channels=config["embed_dim"]
    ).eval()
    load_strict(decoder, convert_segformer_state_dict(part(stored, "sd.")), where="stored")
    assert_close(decoder([stored[f"in.feat.{i}"] for i in range(4)]), stored["out.logits"])


def without_offsets(state: Mapping[str, Tensor], pairs: Mapping[str, str]) -> dict[str, Tensor]:
    """Convolutions before norms lose their offsets, which move the norms' running means."""
    state = dict(state)
    for conv, norm in pairs.items():
        mean = f"{norm}.running_mean"
        state[mean] = state[mean] - state.pop(f"{conv}.bias")
    return state


def test_upernet() -> None:
    stored, config = load("uper_head")
    decoder = UPerNetDecoder(
        config["in_channels"],
        config["num_classes"],
        channels=config["channels"],
        bins=tuple(config["pool_scales"]),
        dropout=0.0,
    ).eval()
    places = {"bottleneck": "pooling.bottleneck", "fpn_bottleneck": "fuse"}
    places |= {f"psp_modules.{i}": f"pooling.branches.{i}" for i in range(4)}
    places |= {f"lateral_convs.{i}": f"laterals.{i}" for i in range(3)}
    places |= {f"fpn_convs.{i}": f"smooths.{i}" for i in range(3)}
    state = part(stored, "sd.")
    renamed = {k.replace("conv_seg.", "classifier."): v for k, v in state.items()}
    pairs = {}
    for there, here in places.items():
        first = 1 if there.startswith("psp") else 0  # after the pooling, which has no values
        for old, new in ((first, 0), (first + 1, 1)):
            for key in [k for k in renamed if k.startswith(f"{there}.{old}.")]:
                renamed[key.replace(f"{there}.{old}.", f"<{here}.{new}.", 1)] = renamed.pop(key)
        pairs[f"{here}.0"] = f"{here}.1"
    renamed = {k.removeprefix("<"): v for k, v in renamed.items()}
    load_strict(decoder, without_offsets(renamed, pairs), where="stored")
    assert_close(decoder([stored[f"in.feat.{i}"] for i in range(4)]), stored["out.logits"])


def test_auxiliary_head() -> None:
    stored, config = load("fcn_head")
    head = FCNHead(config["in_channels"], config["num_classes"], channels=config["channels"]).eval()
    names = {"conv.0.": "0.0.", "conv.1.": "0.1.", "classifier.": "2."}
    state = {
        new + k.removeprefix(old): v
        for k, v in part(stored, "sd.").items()
        for old, new in names.items()
        if k.startswith(old)
    }
    load_strict(head, without_offsets(state, {"0.0": "0.1"}), where="stored")
    assert_close(head(stored["in.x"]), stored["out.logits"])


def test_swin() -> None:
    stored, config = load("swin_encoder_small")
    sizes = {
        "window_size": config["window_size"], "embed_dim": config["embed_dim"],
        "depths": config["depths"], "num_heads": config["num_heads"],
        "mlp_ratio": config["mlp_ratio"],
    }  # fmt: skip
    settings = {"backbone": "swin_tiny_patch4_window7_224", "backbone_options": sizes}
    segmenter = create_segmenter("cmx", (RGB, X), 7, settings).eval()
    own = segmenter.state_dict()
    state = {k: v for k, v in own.items() if k.startswith(("mean", "std", "head"))}
    state |= _of_swin(part(stored, "sd."))
    load_strict(segmenter, state, where="stored")
    assert isinstance(segmenter, CMX)
    fused: list[Tensor] = []
    for fusion in segmenter.fusions:
        fusion.register_forward_hook(lambda _, __, output: fused.append(output))
    with torch.no_grad():
        segmenter({"rgb": stored["in.rgb"], "x": stored["in.x"]})
    for level, found in enumerate(fused):
        assert_close(found, stored[f"out.fused.{level}"])


def _of_swin(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the original on Swin, which has the step down at the end of a stage."""
    fusion = {f"backbone.{k}": v for k, v in state.items() if k.startswith(("FRMs", "FFMs"))}
    converted = convert_reference_state_dict(fusion)
    for key, value in state.items():
        which = int(key.startswith(("patch_embed_d", "layers_d", "downsamples_d", "norm_d")))
        first, *rest = key.replace("_d", "", which).split(".")
        stream, inner = f"encoders.{('image', 'x')[which]}", ".".join(rest)
        if first == "patch_embed":
            converted[f"{stream}.stem.patch_embed.{inner}"] = value
        elif first == "downsamples":
            stage = int(rest[0]) + 1
            name = f"{stream}.stages.{stage}.layers_{stage}.downsample.{'.'.join(rest[1:])}"
            converted[name] = value
        elif first == "layers" and rest[-1] != "relative_position_index":
            converted[f"{stream}.stages.{rest[0]}.layers_{inner}"] = value
        elif first.startswith("norm"):
            converted[f"norms.{first[-1]}.{which}.{inner}"] = value
    return converted

"""How tunings are named in a run file, and what a wrong name or value is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from small_backbones import BACKBONES, make
from terrafuse.backbones import create_backbone
from terrafuse.errors import ModelError, UnknownNameError
from terrafuse.methods import METHODS, create_segmenter
from terrafuse.modalities import Modality
from terrafuse.tuning import apply_tuning, parse_tuning

#: Methods that run on any plain transformer, so that one small model tries them all.
ON_TRANSFORMERS = ("single", "early_fusion", "late_fusion", "mfnet", "upseg")
MODALITIES = (Modality("rgb", ("r", "g", "b")), Modality("dsm", ("z",)))


@pytest.mark.parametrize(
    ("tuning", "expected"),
    [
        ("lora", [("lora", {})]),
        (" adapter + lora ", [("adapter", {}), ("lora", {})]),
        ({"name": "lora", "rank": 8}, [("lora", {"rank": 8})]),
        (
            [{"name": "adapter", "ratio": 0.5}, "norms", {"name": "lora", "targets": ["q"]}],
            [("adapter", {"ratio": 0.5}), ("norms", {}), ("lora", {"targets": ("q",)})],
        ),
        (["adapter+lora", "norms"], [("adapter", {}), ("lora", {}), ("norms", {})]),
    ],
)
def test_ways_to_write_it(tuning: Any, expected: list[tuple[str, dict[str, Any]]]) -> None:
    assert parse_tuning(tuning) == expected


@pytest.mark.parametrize(
    ("tuning", "error", "message"),
    [
        ("adaptor", UnknownNameError, r"unknown tuning 'adaptor'\. Did you mean 'adapter'"),
        ("adapter+lorra", UnknownNameError, r"unknown tuning 'lorra'\. Did you mean 'lora'"),
        ("adapter+", UnknownNameError, "unknown tuning ''"),
        ("", UnknownNameError, "unknown tuning ''"),
        ({"rank": 4}, UnknownNameError, "unknown tuning ''"),
        ([], ModelError, "tuning is an empty list; name one or more"),
        (
            {"name": "lora", "rnak": 4},
            UnknownNameError,
            r"unknown option of tuning 'lora' 'rnak'\. Did you mean 'rank'",
        ),
        ({"name": "frozen", "rank": 4}, UnknownNameError, "option of tuning 'frozen' 'rank'"),
        (
            {"name": "adapter+lora", "rank": 4},
            ModelError,
            r"'adapter\+lora' cannot have options; write a list: "
            r"\[\{name: adapter, …\}, \{name: lora, …\}\]",
        ),
        ("lora+lora", ModelError, "a tuning is named twice: lora, lora"),
        (["adapter", {"name": "adapter"}], ModelError, "a tuning is named twice"),
        ({"name": "lora", "rank": 0}, ModelError, "rank 0 and alpha 1; .*rank of at least 1"),
        ({"name": "dora", "alpha": 0}, ModelError, "'dora' are rank 4 and alpha 0"),
        ({"name": "lora", "rank": 2.5}, ModelError, "option 'rank' of tuning 'lora' is 2.5"),
        ({"name": "lora", "targets": ["qk"]}, ModelError, r"'targets' .*'q', 'k', 'v'"),
        ({"name": "lora", "targets": []}, ModelError, r"'targets' of tuning 'lora' is \[\]"),
        ({"name": "lora", "targets": ["q", "q"]}, ModelError, r"is \['q', 'q'\]; .*each once"),
        ({"name": "lora", "targets": ["qkv", "k"]}, ModelError, r"is \['qkv', 'k'\]; .*each once"),
        ({"name": "lora", "targets": "q"}, ModelError, "option 'targets' of tuning 'lora' is 'q'"),
        ({"name": "adapter", "ratio": 0.01}, ModelError, r"is 0.01, .*\(16 channels\); .* 0.0625"),
        ({"name": "adapter", "ratio": -1}, ModelError, "without width"),
        (
            {"name": "prompt", "num_tokens": 0},
            ModelError,
            "'num_tokens' .* is 0; it must be at least 1",
        ),
        ("lora+dora", ModelError, "two low-rank tunings cannot share a layer"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(tuning: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        apply_tuning(make("vit"), tuning)


def test_low_rank_tunings_of_different_layers_go_together() -> None:
    backbone = make("vit")
    tuning: Any = [{"name": "lora", "targets": ["mlp"]}, {"name": "dora", "targets": ["q"]}]
    apply_tuning(backbone, tuning)
    assert backbone.tuning == "lora+dora"
    kinds = [type(m).__name__ for m in backbone.modules()]
    assert (kinds.count("LoRALinear"), kinds.count("DoRALinear")) == (4, 2)


@pytest.mark.parametrize("name", [n for n in BACKBONES if n in ("swin", "hiera", "pvt", "resnet")])
def test_prompts_need_a_plain_transformer(name: str) -> None:
    backbone = make(name)
    with pytest.raises(ModelError, match=r"'prompt' adds tokens .* has stages\. Choose vit_\*"):
        apply_tuning(backbone, "prompt")


@pytest.mark.parametrize("tuning", ["adapter", "lora", "dora"])
def test_backbones_without_blocks_are_refused(tuning: str) -> None:
    message = rf"tuning '{tuning}' changes transformer blocks, .*\(TimmPyramid\) has none"
    with pytest.raises(ModelError, match=message):
        apply_tuning(make("resnet"), tuning)
    # The smallest ConvNeXts have convolutions in place of linear layers.
    small = create_backbone("convnext_atto", 3, dims=(8, 8, 8, 8), depths=(1, 1, 1, 1))
    with pytest.raises(ModelError, match="convnext_tiny and larger"):
        apply_tuning(small, tuning)


@pytest.mark.parametrize("tuning", ["lora", "dora"])
def test_targets_that_no_block_has_are_refused(tuning: str) -> None:
    """A tuning that changes nothing would train a frozen backbone without a word."""
    message = rf"'targets' of tuning '{tuning}' is \['q', 'proj'\], .*\(ConvNeXtBlock\) have none"
    with pytest.raises(ModelError, match=message):
        apply_tuning(make("convnext"), {"name": tuning, "targets": ["q", "proj"]})


def test_none_leaves_everything_as_it_is() -> None:
    backbone = make("vit")
    apply_tuning(backbone, None)
    assert backbone.tuning == ""
    assert not backbone.added
    assert all(p.requires_grad for p in backbone.parameters())


def test_adapters_beside_the_mlp_can_be_left_out() -> None:
    backbone = make("samvit")
    apply_tuning(backbone, {"name": "adapter", "mlp": False}, 2)
    assert {n.split(".adapters.")[0] for n in backbone.added} == {
        f"vit.blocks.{i}.attn.proj" for i in range(3)
    }


@pytest.mark.parametrize("method", ON_TRANSFORMERS)
def test_every_method_takes_a_list(method: str) -> None:
    modalities = MODALITIES[: METHODS[method].num_modalities[1] or 2]
    options: dict[str, Any] = {
        "backbone": "vit_tiny_patch16_224",
        "backbone_options": {
            "embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64, "neck_channels": 8,
        },
        "tuning": [{"name": "adapter", "ratio": 0.5}, {"name": "lora", "rank": 2}],
        "decoder_options": {"channels": 8},
    }  # fmt: skip
    if method == "upseg":  # has a neck of its own
        del options["backbone_options"]["neck_channels"]
    model = create_segmenter(method, modalities, 2, options).eval()
    for backbone in model.backbones():
        assert backbone.tuning == "adapter+lora"
        shapes = {n: tuple(p.shape) for n, p in backbone.named_parameters()}
        count = 2 if method == "mfnet" else 1  # others have a backbone per modality or for all
        assert shapes["vit.blocks.0.mlp.adapters.0.down.weight"] == (8, 16)
        assert shapes["vit.blocks.1.attn.qkv.down"] == (count, 4, 16)
        assert {"vit.blocks.0.mlp.adapters.0.down.weight", "vit.blocks.1.attn.qkv.down"} <= (
            backbone.added
        )
    with torch.no_grad():
        logits = model({m.name: torch.randn(1, len(m.bands), 64, 64) for m in modalities}).logits
    assert logits.shape == (1, 2, 64, 64)


@pytest.mark.parametrize("method", ON_TRANSFORMERS)
def test_every_method_names_a_misspelt_tuning(method: str) -> None:
    modalities = MODALITIES[: METHODS[method].num_modalities[1] or 2]
    options = {"backbone": "vit_tiny_patch16_224", "tuning": "frozn"}
    with pytest.raises(UnknownNameError, match="unknown tuning 'frozn'"):
        create_segmenter(method, modalities, 2, options)
    with pytest.raises(ModelError, match="option 'tuning' of method"):
        create_segmenter(method, modalities, 2, options | {"tuning": 3})

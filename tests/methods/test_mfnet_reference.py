"""MFNet equals the published network: outputs, gradients, names, shapes, and what learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden_files import load_facts, load_golden, load_rows, part
from terrafuse.decoders.global_local import create_position_index
from terrafuse.errors import WeightsMismatchError
from terrafuse.methods import create_segmenter
from terrafuse.methods.mfnet import MFNet, convert_reference_state_dict
from terrafuse.modalities import Modality
from terrafuse.weights import load_strict

MODALITIES = (Modality("rgb", ("r", "g", "b")), Modality("dsm", ("z",)))
INDEX = ".relative_position_index"
#: Tolerances of the stored tensors: some four times the difference found on one processor.
ATOL = {"adapter": 3e-5, "lora": 2e-5}


def _golden(tuning: str) -> tuple[MFNet, dict[str, Tensor], dict[str, Any]]:
    """Our network with the stored weights, in evaluation mode."""
    stored, config = load_golden(f"mfnet/mfnet_full_{tuning}")
    options = {
        "backbone_options": {
            "embed_dim": config["embed_dim"], "depth": config["depth"],
            "num_heads": config["heads"], "window_size": config["window"],
            "global_attn_indexes": config["global_idx"],
            "neck_channels": config["pyramid_channels"],
        },
        "tuning": tuning,
        "decoder_options": {
            "channels": config["decode_channels"], "window_size": config["decoder_window"],
        },
    }  # fmt: skip
    model = create_segmenter("mfnet", MODALITIES, config["num_classes"], options)
    assert isinstance(model, MFNet)
    converted = convert_reference_state_dict(part(stored, "sd."))
    load_strict(model, converted | _statistics(model), where="stored weights")
    return model.eval(), stored, config


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    """Ours alone: the original is given images in [0, 1], which mean 0 and deviation 1 keep."""
    return {k: v for k, v in model.state_dict().items() if k.startswith(("mean_", "std_"))}


def _images(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"rgb": stored["in.image"].float(), "dsm": stored["in.dsm"].float().unsqueeze(1)}


@pytest.mark.parity
@pytest.mark.parametrize("tuning", ["adapter", "lora"])
@torch.no_grad()
def test_every_stage_is_the_original(tuning: str) -> None:
    model, stored, config = _golden(tuning)
    backbone: Any = model.backbone
    fusion: Any = model.fusion
    found: dict[str, Tensor] = {}

    def keep(name: str, pair: Tensor) -> None:
        found[f"{name}x"], found[f"{name}y"] = pair.chunk(2)

    images = _images(stored)
    tokens, grid = backbone.embed(torch.cat([images["rgb"], images["dsm"].expand(-1, 3, -1, -1)]))
    keep("tokens_", tokens.unflatten(1, grid))
    for i in range(config["depth"]):
        tokens = backbone.run_block(i, tokens, grid)
        keep(f"block{i}_", tokens.unflatten(1, grid))
    (maps,) = backbone.neck([backbone.to_map(tokens, grid)])
    keep("deep", maps)
    levels = fusion(maps.chunk(2))
    found |= {f"res{i}": level for i, level in enumerate(levels, start=1)}
    found["logits_stride4"] = model.decoder(levels)
    expected = part(stored, "mid.")
    assert len(expected) >= 11
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=3e-5, atol=ATOL[tuning], msg=name)
    logits = model(images).logits
    torch.testing.assert_close(logits, stored["out.logits"], rtol=3e-5, atol=ATOL[tuning])


@pytest.mark.parity
@pytest.mark.parametrize("tuning", ["adapter", "lora"])
def test_loss_and_gradients_are_the_originals(tuning: str) -> None:
    """Each gradient's norm within 0.02 %; the stored ones are to be compared within 0.1 %."""
    model, stored, _ = _golden(tuning)
    target = stored["in.target"].long()
    target[target < 0] = 255
    loss = F.cross_entropy(model(_images(stored)).logits, target, ignore_index=255)
    torch.testing.assert_close(loss[None], stored["out.loss"], rtol=1e-6, atol=1e-6)
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    norms = part(stored, "gradnorm.")
    assert len(norms) > 10
    # Numbers in place of values go through the conversion and show where each value went.
    state = part(stored, "sd.")
    names = [name for name in state if not name.endswith(INDEX)]
    marks = {name: torch.full(state[name].shape, float(i)) for i, name in enumerate(names)}
    marked = convert_reference_state_dict(marks)
    for name, expected in norms.items():
        number = names.index(name)
        (own,) = [n for n, mark in marked.items() if n in gradients and (mark == number).any()]
        norm = gradients[own][marked[own] == number].norm()
        torch.testing.assert_close(norm[None], expected, rtol=2e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize(
    "name", ["mlp.mixing.own", "attn.rel_pos_w", "attn.proj.adapters.1.up.bias", "norm2.bias"]
)
@torch.no_grad()
def test_the_comparison_would_see_a_mistake(name: str) -> None:
    """Values of one parameter of the first block in reverse order: gates, positions and more."""
    model, stored, _ = _golden("adapter")
    parameter = model.backbone.get_parameter(f"vit.blocks.0.{name}")
    parameter.copy_(parameter.flip(0))
    difference = (model(_images(stored)).logits - stored["out.logits"]).abs().max()
    assert difference > 10 * ATOL["adapter"]


def test_the_second_copy_of_the_encoder_must_be_the_first() -> None:
    stored, _ = load_golden("mfnet/mfnet_full_adapter")
    state = part(stored, "sd.")
    copies = {f"sam.{k}": v for k, v in state.items() if k.startswith("image_encoder.")}
    unused = {"sam.prompt_encoder.x.weight": torch.ones(1), "sam.mask_decoder.y": torch.ones(1)}
    converted = convert_reference_state_dict(state | copies | unused)
    assert converted.keys() == convert_reference_state_dict(state).keys()
    name = "sam.image_encoder.blocks.2.norm1.bias"
    for other in (state | copies | {name: copies[name] + 1}, copies):
        with pytest.raises(WeightsMismatchError, match=r"'sam\.image_encoder\..*differs from"):
            convert_reference_state_dict(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_encoder.blocks.1.wx_Adapter": None}, r"missing: .*blocks\.1\.mlp\.mixing\.own"),
        ({"image_encoder.blocks.1.wy_Adapter": None}, r"'blocks\.1\.wy_Adapter' is not, though"),
        (
            {"image_encoder.blocks.1.norm1.bias": None},
            r"missing: backbone\.vit\.blocks\.1\.norm1\.",
        ),
        ({"image_encoder.blocks.1.norm3.bias": torch.ones(1)}, r"unexpected: .*blocks\.1\.norm3"),
        ({"head.weight": torch.ones(1)}, r"unexpected: head\.weight"),
        ({"decoder.b2.norm1.bias": None}, r"missing: decoder\.blocks\.2\.norm1\.bias"),
        ({"fpn2x.0.bias": torch.ones(3)}, r"other shape: fusion\.pyramids\.0\.up2\.bias is 3"),
        ({"image_encoder.neck.0.weight": torch.ones(1)}, r"backbone\.vit\.neck\.0\.weight is 1"),
    ],
)
def test_other_weights_are_refused(change: dict[str, Tensor | None], message: str) -> None:
    model, stored, _ = _golden("adapter")
    state = part(stored, "sd.") | {k: v for k, v in change.items() if v is not None}
    left = {k: v for k, v in state.items() if k not in change or change[k] is not None}
    with pytest.raises(WeightsMismatchError, match=message):
        load_strict(model, convert_reference_state_dict(left) | _statistics(model), where="weights")


# Published sizes, on no device: only names, shapes and counts are compared.

SIZES = {"b": "base", "l": "large", "h": "huge"}
#: Table VI of the paper, in full digits: parameters that are tuned.
TUNED = {
    ("b", "adapter"): 14_201_880, ("l", "adapter"): 50_454_576, ("h", "adapter"): 105_062_464,
    ("b", "lora"): 1_032_240, ("l", "lora"): 2_752_608, ("h", "lora"): 4_587_648,
}  # fmt: skip
DFM_AND_DECODER = 2_158_238


def _published(size: str, **options: Any) -> MFNet:
    options["backbone"] = f"samvit_{SIZES[size]}_patch16"
    with torch.device("meta"):
        model = create_segmenter("mfnet", MODALITIES, 6, options)
    assert isinstance(model, MFNet)
    return model


def _listing(size: str, tuning: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Values without storage by the original's names, and their roles."""
    rows = load_rows(f"mfnet/state_dict_keys_vit_{size}_{tuning}")
    state = {key: torch.empty(shape, device="meta") for key, shape, _, _ in rows}
    state |= {key: create_position_index(8) for key in state if key.endswith(INDEX)}
    return state, {key: role for key, _, _, role in rows}


def _check_same(converted: dict[str, Tensor], model: MFNet) -> None:
    ours = _statistics(model)
    own = {k: tuple(v.shape) for k, v in model.state_dict().items() if k not in ours}
    assert {k: tuple(v.shape) for k, v in converted.items()} == own


@pytest.mark.parametrize(("size", "tuning"), TUNED)
def test_names_and_shapes_of_the_published_sizes(size: str, tuning: str) -> None:
    state, roles = _listing(size, tuning)
    model = _published(size, tuning=tuning)
    converted = convert_reference_state_dict(state)
    _check_same(converted, model)
    # What is frozen goes over as it is; of pairs for two modalities, which are joined, all learn.
    role_of = {id(value): roles[key] for key, value in state.items()}
    found = {k: role_of.get(id(value), "trainable") for k, value in converted.items()}
    learns = {k for k, p in model.named_parameters() if p.requires_grad}
    assert {k for k, role in found.items() if role == "trainable"} == learns
    buffers = {k for k, _ in model.named_buffers()} & converted.keys()
    assert {k for k, role in found.items() if role == "buffer"} == buffers
    frozen = [k for k, role in roles.items() if role == "frozen"]
    assert sum(role == "frozen" for role in found.values()) == len(frozen)


@pytest.mark.parametrize(("size", "tuning"), TUNED)
def test_counts_of_the_paper(size: str, tuning: str) -> None:
    model = _published(size, tuning=tuning)
    learns = {k: p.numel() for k, p in model.named_parameters() if p.requires_grad}
    tuned = {k: n for k, n in learns.items() if k.startswith("backbone.")}
    recorded = load_facts("mfnet/protocol")["parameter_counts"][f"vit_{size}_{tuning}"]
    assert sum(tuned.values()) == TUNED[size, tuning] == recorded["encoder_trainable"]
    frozen = sum(p.numel() for p in model.backbone.parameters() if not p.requires_grad)
    assert frozen == recorded["encoder_frozen"]
    assert {k.removeprefix("backbone.") for k in tuned} == model.backbone.added
    rest = sum(learns.values()) - sum(tuned.values())
    assert rest == DFM_AND_DECODER == recorded["dfm_and_decoder"]
    # Stored by the original and never run, beside a second copy of the encoder.
    state, _ = _listing(size, tuning)
    unused = {k for k in state if k.startswith("sam.") and ".image_encoder." not in k}
    assert not unused & convert_reference_state_dict(state).keys()
    total = sum(state[k].numel() for k in unused if not k.endswith("gaussian_matrix"))  # fixed
    assert total == recorded["unused_sam_prompt_encoder_and_mask_decoder"]


def test_without_relative_positions_the_tables_of_a_file_are_left_over() -> None:
    """As published they are zero: the same network is the one that does without them."""
    state, _ = _listing("b", "lora")
    model = _published("b", tuning="lora", backbone_options={"rel_pos": "zero"})
    converted = convert_reference_state_dict(state)
    tables = {k for k in converted if ".rel_pos_" in k}
    assert len(tables) == 24
    assert converted.keys() - tables == model.state_dict().keys() - _statistics(model).keys()


def test_without_deep_fusion_names_are_the_ablations() -> None:
    state, _ = _listing("b", "adapter")
    without = {k: v for k, v in state.items() if not k.startswith(("fpn", "fusion"))}
    model = _published("b", deep_fusion=False)
    _check_same(convert_reference_state_dict(without), model)

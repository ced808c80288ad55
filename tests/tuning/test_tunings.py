"""What every tuning keeps, on every kind of backbone: neutral, isolated, and the base untouched."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from small_backbones import BACKBONES, TOKENS, WITH_BLOCKS, image_for, make, nudge
from terrafuse.backbones import Backbone
from terrafuse.tuning import TUNINGS, TuningOption, apply_tuning, pretrained_parameters

CHOOSING = ("full", "frozen", "bitfit", "norms")
ADDING = ("adapter", "lora", "dora", "adapter+lora", "prompt")
# Adding and choosing, in both orders.
BOTH = ("lora+bitfit", "norms+adapter", "prompt+dora", "full+lora")
NEUTRAL: tuple[TuningOption, ...] = (
    "lora",
    "dora",
    {"name": "adapter", "zero_init": True},
    [{"name": "adapter", "zero_init": True}, {"name": "lora"}],
)


def _suits(tuning: str, backbone: str) -> bool:
    return backbone in TOKENS if tuning == "prompt" else backbone in WITH_BLOCKS


PAIRS = [
    *((tuning, backbone) for tuning in CHOOSING for backbone in BACKBONES),
    *(
        (tuning, backbone)
        for tuning in ADDING
        for backbone in BACKBONES
        if _suits(tuning, backbone)
    ),
]
# Adding nothing, the first four know no modalities; the others are tried with one to three.
CASES = [(*pair, 1 if pair[0] in CHOOSING else 2) for pair in PAIRS]
CASES += [(tuning, backbone, 2) for tuning in BOTH for backbone in ("samvit", "dinov3")]
CASES += [(t, b, m) for t in ADDING for b in ("samvit", "vit", "swin") for m in (1, 3)
          if _suits(t, b)]  # fmt: skip


def _tuned(backbone: str, tuning: TuningOption, num_modalities: int = 1) -> Backbone:
    made = make(backbone)
    torch.manual_seed(3)
    apply_tuning(made, tuning, num_modalities)
    return made


def _expected_to_learn(tuning: str, untuned: Backbone) -> set[str]:
    """Names of pretrained parameters that learn, told from the model as it is without tuning."""
    in_norms = {
        id(p)
        for m in untuned.modules()
        if isinstance(m, (nn.LayerNorm, nn.BatchNorm2d))
        for p in m.parameters()
    }
    learns = set()
    for name, p in pretrained_parameters(untuned).items():
        by_tuning = {
            "full": True,
            "bitfit": name.endswith((".bias", ".q_bias", ".v_bias")),
            "norms": id(p) in in_norms,
        }
        if any(by_tuning.get(part, False) for part in tuning.split("+")):
            learns.add(name)
    return learns


def test_every_tuning_is_tried() -> None:
    assert set(CHOOSING) | {t for name in ADDING for t in name.split("+")} == set(TUNINGS)


@pytest.mark.parametrize(("tuning", "name", "num_modalities"), CASES)
def test_only_what_is_meant_learns(tuning: str, name: str, num_modalities: int) -> None:
    untuned = make(name)
    backbone = _tuned(name, tuning, num_modalities)
    assert backbone.tuning == tuning
    assert bool(backbone.added) == (tuning not in CHOOSING)
    new = {n for n, _ in untuned.named_parameters()} - set(pretrained_parameters(untuned))
    expected = backbone.added | new | _expected_to_learn(tuning, untuned)
    # A layer that is wrapped keeps its values one name further in.
    found = {n for n, p in backbone.named_parameters() if p.requires_grad}
    unwrapped = {n if n in backbone.added else n.replace(".base.", ".") for n in found}
    assert unwrapped == expected
    # Nothing was lost: what is not added are the pretrained values.
    kept = [p for n, p in backbone.named_parameters() if n not in backbone.added]
    assert sum(p.numel() for p in kept) == sum(p.numel() for p in untuned.parameters())


@pytest.mark.parametrize(
    ("tuning", "name", "num_modalities"),
    [
        *((tuning, name, m) for tuning in NEUTRAL for name in WITH_BLOCKS for m in (1, 2)),
        *((tuning, name, 2) for tuning in CHOOSING for name in ("samvit", "resnet")),
    ],
    ids=str,
)
def test_it_starts_as_the_pretrained_backbone(
    tuning: TuningOption, name: str, num_modalities: int
) -> None:
    untuned = make(name).eval()
    backbone = copy.deepcopy(untuned)
    apply_tuning(backbone, tuning, num_modalities)
    image = image_for(untuned, 2 * num_modalities)
    with torch.no_grad():
        for level, expected in zip(backbone.eval()(image), untuned(image), strict=True):
            assert expected.std() > 0.01
            torch.testing.assert_close(level, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tuning", ["adapter", "prompt"])
def test_as_published_these_do_not_start_neutral(tuning: str) -> None:
    untuned, backbone = make("samvit").eval(), _tuned("samvit", tuning).eval()
    image = image_for(untuned, 1)
    with torch.no_grad():
        assert (backbone(image)[-1] - untuned(image)[-1]).abs().max() > 1e-3


@pytest.mark.parametrize(("tuning", "name", "num_modalities"), CASES)
def test_a_step_moves_what_learns_and_nothing_else(
    tuning: str, name: str, num_modalities: int
) -> None:
    backbone = _tuned(name, tuning, num_modalities)
    nudge(backbone)
    backbone.train()
    learns = {n: p for n, p in backbone.named_parameters() if p.requires_grad}
    before = {n: p.detach().clone() for n, p in backbone.named_parameters()}
    if learns:
        levels = backbone(image_for(backbone, num_modalities))
        sum(_loss(level) for level in levels).backward()
        # Weight decay moves also what has a gradient of 0, and would move what is frozen.
        torch.optim.SGD(backbone.parameters(), lr=0.1, weight_decay=0.1).step()
    for n, parameter in backbone.named_parameters():
        if n in learns:
            assert parameter.grad is not None, n
            assert parameter.grad.isfinite().all(), n
            assert parameter.grad.any(), f"{n} has no influence"
            assert not torch.equal(parameter, before[n]), n
        else:
            assert parameter.grad is None, n
            assert torch.equal(parameter, before[n]), n


def _loss(level: Tensor) -> Tensor:
    """Of a kind that no norm at the end makes constant."""
    weights = torch.linspace(-1, 1, level.numel()).view_as(level).sin()
    return (level * weights).mean() + level.pow(3).mean()


@pytest.mark.parametrize("tuning", ["lora", "dora"])
def test_low_rank_updates_start_as_published(tuning: str) -> None:
    """B is 0; A is not, and not the same for all, since two zeros would never learn."""
    backbone = _tuned("vit", tuning, 3).train()
    sum(_loss(level) for level in backbone(image_for(backbone, 3))).backward()
    for name, parameter in backbone.named_parameters():
        if name.endswith(".up"):
            assert not parameter.any()
            assert parameter.grad.flatten(1).any(dim=1).all(), name
        if name.endswith(".down"):
            bound = parameter.shape[2] ** -0.5  # Kaiming's uniform with a = √5
            assert 0.8 * bound < parameter.abs().max() <= bound
            assert not torch.equal(parameter[0], parameter[1])


def _of_modality(backbone: Backbone, modality: int) -> list[Tensor]:
    """Added values that belong to one modality, as views that can be changed."""
    found = []
    for name, p in backbone.named_parameters():
        if name not in backbone.added or ".mixing." in name:
            continue
        if ".adapters." in name:
            if f".adapters.{modality}." in name:
                found.append(p.data)
        elif name == "prompts.tokens":
            found.append(p.data[:, modality])
        else:  # .down, .up, .lengths.i: (M, …)
            found.append(p.data[modality])
    return found


ISOLATED: dict[str, TuningOption] = {
    "adapter": {"name": "adapter", "mix": False},
    "lora": {"name": "lora", "mix": False},
    "dora": "dora",
    "prompt": "prompt",
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in ISOLATED for name in BACKBONES if _suits(kind, name)],
)
@pytest.mark.parametrize("modality", [0, 2])
def test_without_mixing_modalities_are_apart(kind: str, name: str, modality: int) -> None:
    """Also where samples are cut into windows: these stay in the modality's part of the batch."""
    backbone = _tuned(name, ISOLATED[kind], 3)
    nudge(backbone)
    backbone.eval()
    image = image_for(backbone, 3 * 2)
    with torch.no_grad():
        before = backbone(image)
        for values in _of_modality(backbone, modality):
            values += 0.3 * torch.randn(values.shape)
        after = backbone(image)
    changed = [
        sum(float((a.chunk(3)[m] - b.chunk(3)[m]).abs().max()) for a, b in
            zip(after, before, strict=True)) for m in range(3)
    ]  # fmt: skip
    for m in range(3):
        assert (changed[m] > 1e-3) == (m == modality), changed
        assert m == modality or changed[m] == 0


@pytest.mark.parametrize("name", ["samvit", "vit", "swin", "hiera", "convnext", "pvt"])
@pytest.mark.parametrize("tuning", ["adapter", "lora"])
def test_mixing_carries_one_modality_into_the_other(tuning: str, name: str) -> None:
    backbone = _tuned(name, tuning, 2).eval()
    nudge(backbone)
    image = image_for(backbone, 2)
    with torch.no_grad():
        before = backbone(image)
        image[1] += 1.0
        after = backbone(image)
    for own in (0, 1):
        assert max(float((a[own] - b[own]).abs().max()) for a, b in
                   zip(after, before, strict=True)) > 1e-4  # fmt: skip


@pytest.mark.parametrize("tuning", ["lora", "dora", "adapter", "prompt"])
def test_samples_do_not_depend_on_their_neighbours(tuning: str) -> None:
    backbone = _tuned("samvit", tuning, 2).eval()
    nudge(backbone)
    image = image_for(backbone, 2 * 3).unflatten(0, (2, 3))  # (M, N, …)
    with torch.no_grad():
        together = backbone(image.flatten(0, 1))
        for i in range(3):
            alone = backbone(image[:, i])
            for a, b in zip(together, alone, strict=True):
                torch.testing.assert_close(a.unflatten(0, (2, 3))[:, i], b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_one_modality_is_the_tuning_of_the_literature(name: str) -> None:
    """A LoRA layer of one modality is W x + b + (alpha / r) B A x for every target."""
    backbone = _tuned(name, {"name": "lora", "rank": 2, "alpha": 6})
    nudge(backbone)
    layers = [m for m in backbone.modules() if type(m).__name__ == "LoRALinear"]
    assert layers
    for layer in layers:
        assert layer.mixing is None
        x = torch.randn(2, 5, layer.down.shape[-1])
        expected = layer.base(x).clone()
        parts = len(layer.rows)
        for i, (first, last) in enumerate(layer.rows):
            a, b = layer.down[0].chunk(parts)[i], layer.up[0].chunk(parts)[i]
            expected[..., first:last] += 3 * x @ a.T @ b.T
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def _widths(backbone: Backbone) -> set[str]:
    return {n.rpartition(".")[0] for n in backbone.added if n.endswith((".down", ".up"))}


@pytest.mark.parametrize("name", [n for n in WITH_BLOCKS if n != "convnext"])
@pytest.mark.parametrize(
    "targets", [["mlp"], ["q"], ["proj", "k"], ["qkv"], ["q", "k", "v", "proj", "mlp"]]
)
def test_targets_choose_layers(name: str, targets: list[str]) -> None:
    lora: Any = {"name": "lora", "targets": targets, "mix": False}
    backbone = _tuned(name, lora)
    kinds = {n.split(".")[-2] for n in backbone.added if n.endswith((".down", ".up"))}
    in_attention = kinds & {"qkv", "q", "k", "v", "kv", "q_proj", "k_proj", "v_proj"}
    assert bool(in_attention) == bool({"q", "k", "v", "qkv"} & set(targets))
    assert ("proj" in kinds) == ("proj" in targets)
    assert ("fc2" in kinds) == bool({"fc1", "fc1_g"} & kinds) == ("mlp" in targets)


@pytest.mark.parametrize("name", [n for n in WITH_BLOCKS if n != "convnext"])
@pytest.mark.parametrize("target", ["q", "k", "v"])
def test_queries_keys_and_values_are_the_right_rows(name: str, target: str) -> None:
    backbone = _tuned(name, {"name": "lora", "targets": [target], "rank": 1})
    layers = {n.rpartition(".")[2]: m for n, m in backbone.named_modules()
              if type(m).__name__ == "LoRALinear"}  # fmt: skip
    ((kind, layer),) = layers.items()  # one kind of layer holds the target in all blocks
    held = {"qkv": "qkv", "kv": "kv"}.get(kind, target)
    assert kind in (held, f"{target}_proj")
    size = layer.base.out_features // len(held)
    assert layer.rows == ((held.index(target) * size, (held.index(target) + 1) * size),)

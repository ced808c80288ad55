"""Parts and cost of models, derived from shapes: by hand, and against models that really run."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from terrafuse.config import RunConfig
from terrafuse.config.base import parse_settings
from terrafuse.describe import describe_segmenter, mean_gates, without_values
from terrafuse.describe.costs import derive_cost, forward_flops, saved_activations
from terrafuse.describe.parts import describe_parts, find_source, name_sources
from terrafuse.errors import UnknownNameError
from terrafuse.methods import create_segmenter, tuned_state
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput

RGB, DSM = Modality("rgb", ("r", "g", "b"), kind="optical"), Modality("dsm", ("height",))
COARSE = Modality("sar", ("vv", "vh"), kind="sar", scale=2)

SMALL_VIT: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_options": {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64},
    "decoder": "segformer",
    "decoder_options": {"channels": 8},
}
SMALL_RESNET: dict[str, Any] = {
    "backbone": "resnet18",
    "backbone_options": {"channels": [4, 6, 8, 10], "layers": [1, 1, 1, 1]},
    "decoder": "segformer",
    "decoder_options": {"channels": 8},
}


def shapes(method: str, modalities=(RGB, DSM), classes: int = 6, **options: Any) -> Segmenter:
    return without_values(lambda: create_segmenter(method, modalities, classes, options))


def settings(**sections: Any) -> RunConfig:
    values: dict[str, Any] = {
        "data": {"manifest": "dataset.yaml", "crop_size": 64, "batch_size": 4},
        "method": {"name": "single"},
        "training": {},
    }
    for name, changes in sections.items():
        values[name] |= changes
    return parse_settings(RunConfig, values, "run.yaml")


class Toy(Segmenter):
    """Two convolutions."""

    def __init__(self, modalities, num_classes: int) -> None:
        super().__init__(modalities, num_classes)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, num_classes, 1)
        self.stride = 1

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        return SegmenterOutput(self.second(self.first(inputs.images["rgb"]).relu()))


class LooksAtValues(Toy):
    def segment(self, inputs: Inputs) -> SegmenterOutput:
        factor = inputs.images["rgb"].mean().item()
        return SegmenterOutput(super().segment(inputs).logits * factor)


@pytest.mark.parametrize(
    ("size", "tuning", "added"),
    [
        ("base", "adapter", 14_201_880),
        ("large", "adapter", 50_454_576),
        ("huge", "adapter", 105_062_464),
        ("base", "lora", 1_032_240),
        ("large", "lora", 2_752_608),
        ("huge", "lora", 4_587_648),
    ],
)
def test_sam_tuned_as_published(size, tuning, added):
    segmenter = shapes(
        "mfnet",
        backbone=f"samvit_{size}_patch16",
        tuning=tuning,
        weights="sam_vit_b_01ec64.pth",
        backbone_options={"rel_pos": "zero"},
    )
    name_sources(segmenter)
    rows = {(row.part, row.piece): row for row in describe_parts(segmenter)}
    tuned = rows.pop(("backbone", f"tuning {tuning}"))
    assert (tuned.parameters, tuned.trainable) == (added, added)
    pretrained = rows.pop(("backbone", "pretrained part"))
    assert (pretrained.trainable, pretrained.frozen) == (0, pretrained.parameters)
    assert set(rows) == {("fusion", ""), ("decoder", "")}
    assert sum(row.trainable for row in rows.values()) == 2_158_238
    assert all(p.is_meta for p in segmenter.parameters())


def test_cost_of_sam_tuned_as_published():
    segmenter = shapes(
        "mfnet", weights="sam_vit_b_01ec64.pth", backbone_options={"rel_pos": "zero"}
    )
    overview = describe_segmenter(segmenter, settings(data={"crop_size": 256}))
    assert overview["total"]["trainable"] == 14_201_880 + 2_158_238
    parameters = dict(segmenter.named_parameters())
    buffers = sum(v.numel() for n, v in segmenter.state_dict().items() if n not in parameters)
    assert overview["saved_values"] == overview["total"]["trainable"] + buffers
    # Projections and MLPs of 12 blocks, on 256 tokens of two modalities.
    assert overview["cost"]["flops"] > 2 * 512 * 12 * 12 * 768**2


#: Methods that run on any plain transformer, so that one small model tries them all.
ON_TRANSFORMERS = ("single", "early_fusion", "late_fusion", "mfnet", "upseg")


@pytest.mark.parametrize("method", ON_TRANSFORMERS)
@pytest.mark.parametrize("tuning", [None, "full", "frozen", "bitfit", "norms", "adapter", "lora",
                                    "dora", "prompt", "adapter+lora"])  # fmt: skip
def test_parts_are_those_of_the_model(method, tuning):
    modalities = (RGB,) if method == "single" else (RGB, DSM)
    options = SMALL_VIT | {"tuning": tuning}
    real = create_segmenter(method, modalities, 6, options)
    segmenter = shapes(method, modalities, **options)
    rows = describe_parts(segmenter)
    assert rows == describe_parts(real)
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in real.parameters())
    assert sum(row.trainable for row in rows) == sum(
        p.numel() for p in real.parameters() if p.requires_grad
    )
    assert all(row.frozen == row.parameters - row.trainable for row in rows)
    cost = describe_segmenter(segmenter, settings())["cost"]
    assert "error" not in cost
    assert cost["flops"] > 0


def test_a_block_of_rows_per_modality():
    segmenter = shapes(
        "late_fusion",
        backbone={"rgb": "vit_tiny_patch16_224", "dsm": "resnet10t"},
        weights={"rgb": "timm"},
        tuning="frozen",
    )
    overview = describe_segmenter(segmenter, settings())
    rows = [(r["part"], r["piece"], r["modality"]) for r in overview["parts"]]
    assert rows == [
        ("branches.rgb", "pretrained part", "rgb"),
        ("branches.rgb", "neck", "rgb"),
        ("branches.dsm", "from scratch", "dsm"),
        ("projections", "", None),
        ("head", "", None),
    ]
    rgb, dsm = overview["backbones"]
    assert (rgb["backbone"], rgb["tuning"]) == ("vit_tiny_patch16_224", "frozen")
    assert rgb["source"].startswith("timm/vit_tiny_patch16_224")
    assert rgb["licence"] == "apache-2.0"
    assert (dsm["backbone"], dsm["source"], dsm["licence"]) == ("resnet10t", None, None)
    # What is frozen from scratch is saved, what is frozen as published is not.
    left_out = overview["parts"][0]["frozen"]
    assert left_out > 0
    held = sum(v.numel() for v in segmenter.state_dict().values())
    assert overview["saved_values"] == held - left_out


@pytest.mark.parametrize(
    ("weights", "source", "licence"),
    [
        ("/data/sam_vit_b_01ec64.pth", "/data/sam_vit_b_01ec64.pth", "apache-2.0"),
        ("mine.safetensors", "mine.safetensors", "unknown"),
        ("timm", "timm/samvit_base_patch16.sa1b", "apache-2.0"),
    ],
)
def test_sources(weights, source, licence):
    found = find_source("samvit_base_patch16", weights)
    assert (found.backbone, found.source, found.licence) == (
        "samvit_base_patch16", source, licence,
    )  # fmt: skip


def test_the_source_of_dofa():
    found = find_source("dofa_base_patch16", "hub")
    assert found.source == "hf://torchgeo/dofa/dofa_base_patch16_224-a0275954.pth"
    assert found.licence == "cc-by-4.0"
    assert find_source("dofa_base_patch16", "/data/mine.pth").licence == "unknown"


def test_a_run_folder_says_where_weights_came_from():
    segmenter = shapes("mfnet", **SMALL_VIT, weights="moved.safetensors")
    known = ({"backbone": "vit_tiny_patch16_224", "source": "hf://a/b/c", "licence": "mit"},)
    (base,) = describe_segmenter(segmenter, settings(), known)["backbones"]
    assert (base["source"], base["licence"]) == ("hf://a/b/c", "mit")


@pytest.mark.parametrize("tuning", ["adapter", "bitfit", "full"])
def test_saved_values_are_those_of_a_model_with_weights(tuning, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64).state_dict(), path)
    options = {
        "backbone": "vit_tiny_patch16_224",
        "backbone_options": {"depth": 2, "img_size": 64},
        "weights": str(path),
        "tuning": tuning,
    }
    real = create_segmenter("mfnet", (RGB, DSM), 6, options)
    held = sum(value.numel() for value in tuned_state(real).values())
    overview = describe_segmenter(shapes("mfnet", **options), settings())
    assert overview["saved_values"] == held
    assert (held < overview["total"]["parameters"]) == (tuning != "full")


def test_flops_by_hand():
    toy = without_values(lambda: Toy((RGB,), 5))
    assert forward_flops(toy, 32) == 2 * 32 * 32 * (3 * 3 * 3 * 8 + 8 * 5)
    assert forward_flops(toy, 64) == 4 * forward_flops(toy, 32)


def test_saved_activations_by_hand():
    toy = without_values(lambda: Toy((RGB,), 5))
    pixels = 32 * 32
    image, hidden, log_probabilities, labels = 3 * 4, 8 * 4, 5 * 4, 8
    per_sample = pixels * (image + hidden + log_probabilities + labels)
    weight_of_the_mean = 4
    for samples in (1, 2, 7):
        expected = samples * per_sample + weight_of_the_mean
        assert saved_activations(toy, 32, samples) == expected
    toy.first.requires_grad_(False)
    assert saved_activations(toy, 32, 1) == per_sample - pixels * image + weight_of_the_mean


def flops_in_reality(segmenter: Segmenter, crop: int) -> int:
    # Attention taken apart: not every version of torch knows how to count all kernels.
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        segmenter.eval()(real_images(segmenter, crop, 1))
    return counter.get_total_flops()


def real_images(segmenter: Segmenter, crop: int, samples: int) -> dict[str, Tensor]:
    sizes = {m: m.size_at(crop) for m in segmenter.modalities}
    return {m.name: torch.rand(samples, len(m.bands), size, size) for m, size in sizes.items()}


def kept_in_reality(segmenter: Segmenter, crop: int, samples: int) -> int:
    """The same sum over tensors that a real pass keeps."""
    own = {x.data_ptr() for x in (*segmenter.parameters(), *segmenter.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in own:
            kept.setdefault(x.untyped_storage().data_ptr(), x)
        return x

    segmenter.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        output = segmenter(real_images(segmenter, crop, samples))
        for logits in (output.logits, *output.aux_logits):
            F.cross_entropy(logits, torch.zeros(samples, crop, crop, dtype=torch.long))
    return sum(x.untyped_storage().nbytes() for x in kept.values())


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("early_fusion", SMALL_RESNET | {"aux": True}),
        ("early_fusion", SMALL_VIT),
        ("late_fusion", SMALL_RESNET | {"fusion": "gated"}),
        ("mfnet", SMALL_RESNET | {"tuning": "full"}),
        ("mfnet", SMALL_VIT | {"tuning": "adapter"}),
        ("mfnet", SMALL_VIT | {"tuning": "lora"}),
    ],
)
def test_cost_is_that_of_a_real_pass(method, options):
    modalities = (RGB, COARSE)
    real = create_segmenter(method, modalities, 6, options)
    segmenter = shapes(method, modalities, **options)
    assert saved_activations(segmenter, 64, 2) == kept_in_reality(real, 64, 2)
    assert forward_flops(segmenter, 64) == flops_in_reality(real, 64)


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "convnext_atto"])
def test_what_keeps_less(backbone):
    full = shapes("mfnet", backbone=backbone, tuning="full")
    everything = saved_activations(full, 128, 2)
    for inner in full.backbones():
        inner.gradient_checkpointing = True
    assert saved_activations(full, 128, 2) < 0.75 * everything
    frozen = shapes("mfnet", backbone=backbone, tuning="frozen")
    assert saved_activations(frozen, 128, 2) < 0.75 * everything


def test_mixed_precision_keeps_about_half():
    def of_a_sample(precision: str) -> int:
        segmenter = shapes("early_fusion", **SMALL_RESNET)
        two, three = (saved_activations(segmenter, 64, n, precision) for n in (2, 3))
        return three - two

    single = of_a_sample("32-true")
    for precision in ("16-mixed", "bf16-mixed"):
        assert 0.5 * single < of_a_sample(precision) < 0.75 * single


@pytest.mark.parametrize(
    ("training", "values"),
    [
        ({}, 2),
        ({"optimizer": "adam", "amsgrad": True}, 3),
        ({"optimizer": "sgd"}, 1),
        ({"optimizer": "sgd", "momentum": 0.0}, 0),
    ],
)
def test_memory_of_training(training, values):
    toy = without_values(lambda: Toy((RGB,), 5))
    toy.second.requires_grad_(False)
    config = settings(training=training, data={"batch_size": 9, "crop_size": 32})
    cost = derive_cost(toy, config).to_dict()
    memory = cost["training_bytes"]
    first, second, statistics = 8 * 27 + 8, 5 * 8 + 5, 6
    assert memory["parameters"] == 4 * (first + second + statistics)
    assert memory["gradients"] == 4 * first
    assert memory["optimizer"] == values * memory["gradients"]
    assert memory["activations"] == saved_activations(toy, 32, 9)
    assert memory["total"] == sum(count for name, count in memory.items() if name != "total")
    assert cost["activation_bytes_per_sample"] == 32 * 32 * (12 + 32 + 20 + 8)
    assert cost["flops"] == forward_flops(toy, 32)


def test_averaged_weights_are_a_second_copy():
    toy = without_values(lambda: Toy((RGB,), 5))
    plain = derive_cost(toy, settings()).to_dict()["training_bytes"]
    averaged = derive_cost(toy, settings(training={"ema_decay": 0.99})).to_dict()["training_bytes"]
    assert averaged["total"] - plain["total"] == averaged["average"] == plain["parameters"]


def test_a_backbone_that_does_not_learn_is_frozen():
    segmenter = shapes("early_fusion", **SMALL_RESNET)
    overview = describe_segmenter(segmenter, settings(training={"backbone_lr_factor": 0}))
    backbone, head = overview["parts"]
    assert backbone["frozen"] == backbone["parameters"]
    assert head["frozen"] == 0


def test_what_shapes_do_not_tell():
    overview = describe_segmenter(without_values(lambda: LooksAtValues((RGB,), 5)), settings())
    assert "item" in overview["cost"]["error"]
    assert [row["part"] for row in overview["parts"]] == ["first", "second"]


def test_a_crop_that_breaks_a_pixel_is_said():
    segmenter = shapes("late_fusion", (RGB, COARSE), **SMALL_RESNET)
    overview = describe_segmenter(segmenter, settings(data={"crop_size": 63}))
    assert "multiple of 2" in overview["cost"]["error"]


def test_a_constructor_that_looks_at_values():
    class Exotic(Toy):
        def __init__(self, modalities, num_classes: int) -> None:
            super().__init__(modalities, num_classes)
            self.rates = torch.linspace(0, 1, 3).tolist()

    segmenter = without_values(lambda: Exotic((RGB,), 5))
    assert all(p.is_meta for p in segmenter.parameters())
    assert segmenter.rates == [0, 0.5, 1]
    assert "error" not in describe_segmenter(segmenter, settings())["cost"]


def test_misspelt_names_are_refused():
    with pytest.raises(UnknownNameError, match="mfnet"):
        shapes("mfnett")


def test_mean_gates_by_hand():
    segmenter = shapes("mfnet", (DSM, RGB), **SMALL_VIT, tuning="adapter")
    names = [n for n, _ in segmenter.named_parameters() if n.endswith("mixing.own")]
    assert len(names) == 2
    state = {
        names[0]: torch.tensor([0.2, 0.5]),
        names[1]: torch.tensor([0.6, 0.7]),
        "decoder.mixing.own": torch.tensor([9.0, 9.0]),
    }
    assert mean_gates(segmenter, state) == pytest.approx({"dsm": 0.4, "rgb": 0.6})
    assert mean_gates(shapes("mfnet", **SMALL_VIT, tuning="frozen"), state) == {}


@pytest.mark.parametrize(
    "backbone",
    ["samvit_base_patch16", "sam2_hiera_tiny", "swin_tiny_patch4_window7_224",
     "mobilenetv3_small_100", "vit_small_patch16_dinov3", "eva02_tiny_patch14_224"],
)  # fmt: skip
def test_cost_of_many_backbones(backbone):
    options = {"decoder": "segformer", "decoder_options": {"channels": 8}}
    segmenter = shapes("late_fusion", (RGB, COARSE), backbone=backbone, **options)
    cost = describe_segmenter(segmenter, settings(data={"crop_size": 96}))["cost"]
    assert cost.get("error") is None
    assert cost["flops"] > 1e7
    per_sample = cost["activation_bytes_per_sample"]
    assert 0 < cost["training_bytes"]["activations"] - 4 * per_sample < per_sample

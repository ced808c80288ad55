"""Galileo for segmentation: what its tokens see, subsets, fusions, runs that read their data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shared import shared_data
from terrafuse.backbones import Galileo
from terrafuse.data import load_manifest
from terrafuse.describe import without_values
from terrafuse.describe.costs import forward_flops
from terrafuse.errors import ModelError
from terrafuse.fusion.levels import SumFusion
from terrafuse.methods import create_segmenter
from terrafuse.methods.galileo import GalileoSegmenter
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.samples import Window
from terrafuse.weights import read_state

pytestmark = pytest.mark.usefixtures("without_figures")

S1 = Modality("s1", ("VV", "VH"), "sar", unit="db")
S2 = Modality("s2", ("B2", "B3", "B4", "B8"), "optical", unit="reflectance_10000")
K = 3
OPTIONS: dict[str, Any] = {
    "backbone_options": {
        "embed_dim": 16, "depth": 2, "num_heads": 2, "neck_channels": 8, "patch_size": 4,
    },
    "decoder_options": {"channels": 8},
}  # fmt: skip


def _make(*modalities: Modality, **options: Any) -> GalileoSegmenter:
    torch.manual_seed(0)
    more = options.pop("backbone_options", {})
    chosen = OPTIONS | options
    chosen["backbone_options"] = OPTIONS["backbone_options"] | more
    model = create_segmenter("galileo", modalities or (S1, S2), K, chosen)
    assert isinstance(model, GalileoSegmenter)
    model.set_statistics(
        {
            "s1": BandStatistics((-12.0,) * 2, (5.0,) * 2, (-22.0,) * 2, (-2.0,) * 2, (500,) * 2),
            "s2": BandStatistics(
                (1400.0,) * 4, (900.0,) * 4, (200.0,) * 4, (4000.0,) * 4, (500,) * 4
            ),
        }
    )
    return model.eval()


def _images(batch: int = 2, size: int = 48) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "s1": torch.randn(batch, 2, size, size, generator=generator) * 5 - 12,
        "s2": torch.rand(batch, 4, size, size, generator=generator) * 4000,
    }


@torch.no_grad()
def test_decibels_and_reflectances_arrive_as_in_pretraining() -> None:
    model = _make()
    images = _images()
    seen: list[Tensor] = []
    group = model.backbone.vit.space_time_embed["S2_RGB"]
    group.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    model(images)
    expected = (images["s2"][:, 0] - (1395.3408730676722 - 2 * 917.7041440370853)) / (
        4 * 917.7041440370853
    )
    torch.testing.assert_close(seen[0][:, 0], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["joint", "sum", "concat", "gated"])
def test_a_missing_modality_has_no_tokens(fusion: str) -> None:
    """The only modality that is left is seen as by a model that knows no other."""
    model = _make(fusion=fusion)
    images = _images()
    lengths: list[int] = []
    model.backbone.blocks[0].register_forward_pre_hook(
        lambda _, inputs: lengths.append(inputs[0].shape[1])
    )
    logits = model({"s2": images["s2"]}).logits
    assert lengths == [12 * 12 * 2]
    model(images)
    assert lengths[1] == 12 * 12 * 3
    if fusion in ("joint", "sum"):
        alone = _make(S2)
        missing = alone.load_state_dict(model.state_dict(), strict=False)
        assert not missing.missing_keys
        torch.testing.assert_close(alone({"s2": images["s2"]}).logits, logits)


@torch.no_grad()
def test_what_is_no_data_is_hidden() -> None:
    model = _make()
    images = _images(batch=1)
    gap = {name: x.clone() for name, x in images.items()}
    gap["s2"][..., :16, :16] = torch.nan
    keys: list[Tensor] = []
    model.backbone.blocks[0].register_forward_pre_hook(
        lambda _, __, kwargs: keys.append(kwargs["seen"]), with_kwargs=True
    )
    model(gap)
    seen = keys[0].view(1, 12, 12, 3)  # radar, blue to red, near infrared
    assert seen[..., 0].all()
    assert not seen[:, :4, :4, 1:].any()
    assert seen[:, 4:, :, 1:].all()
    model(images)
    assert keys[1] is None, "nothing is hidden, no mask is needed"


@torch.no_grad()
def test_maps_of_modalities_are_fused_where_they_have_data() -> None:
    model = _make(fusion="sum")
    assert all(isinstance(fusion, SumFusion) for fusion in model.fusions)
    joint = _make(fusion="joint")
    missing = joint.load_state_dict(model.state_dict(), strict=False)
    assert not missing.unexpected_keys
    images = _images()
    # Two optical groups and one of radar: means of means differ from the mean.
    difference = (model(images).logits - joint(images).logits).abs().max()
    assert difference > 1e-4


def test_the_pixel_size_reaches_the_backbone() -> None:
    model = _make()
    model.set_pixel_size(20.0)
    for reader in model.backbone.readers.values():
        assert float(reader.pixel_size_m) == 20
    # Where modalities arrive at their own scale, pixels have their own size.
    coarse = Modality("s1", ("VV", "VH"), "sar", scale=2.0)
    late = create_segmenter("late_fusion", (S2, coarse), K, OPTIONS | {"backbone": "galileo_nano"})
    late.set_pixel_size(10.0)
    sizes = {
        name: float(branch.readers[name].pixel_size_m) for name, branch in late.branches.items()
    }
    assert sizes == {"s2": 10, "s1": 20}


def test_only_galileo() -> None:
    with pytest.raises(ModelError, match="runs on galileo_nano"):
        create_segmenter("galileo", (S2,), K, {"backbone": "vit_tiny_patch16_224"})


def test_sizes_without_values() -> None:
    model = without_values(
        lambda: create_segmenter("galileo", (S1, S2), K, {"backbone": "galileo_base"})
    )
    assert isinstance(model.backbone, Galileo)
    blocks = sum(p.numel() for p in model.backbone.blocks.parameters())
    assert blocks == 12 * 7_087_872
    # Four times the tokens for half of the patch, more for their attention.
    flops = [
        forward_flops(
            without_values(
                lambda p=p: create_segmenter(
                    "galileo", (S1, S2), K, {"backbone_options": {"patch_size": p}}
                )
            ),
            64,
        )
        for p in (4, 8)
    ]
    assert flops[0] > 4 * flops[1] > 0


@pytest.mark.filterwarnings("ignore:.*no labelled scenes in split 'val'")
def test_tuned_runs_name_their_base(
    tmp_path: Any, make_raster: Any, command_line: Any
) -> None:  # fmt: skip
    """A run on decibels and × 10 000: trained, saved without the base, scored and mapped."""
    from safetensors.torch import save_file

    from terrafuse.backbones.galileo.encoder import GalileoEncoder
    from terrafuse.backbones.galileo.weights import VARIANTS

    encoder = GalileoEncoder(VARIANTS["galileo_nano"])
    (tmp_path / "weights").mkdir()
    save_file(dict(encoder.state_dict()), tmp_path / "weights" / "encoder.safetensors")
    rng = np.random.default_rng(0)
    make_raster(tmp_path / "s1.tif", rng.normal(-12, 4, (2, 48, 48)).astype(np.float32))
    make_raster(tmp_path / "s2.tif", rng.uniform(50, 4000, (4, 48, 48)).astype(np.float32))
    make_raster(tmp_path / "labels.tif", rng.integers(0, 2, (1, 48, 48), dtype=np.uint8))
    scenes = "\n".join(
        f"  - {{id: {split}, split: {split}, s1: s1.tif, s2: s2.tif, labels: labels.tif, "
        f"window: [{row}, 0, 24, 48]}}"
        for split, row in (("train", 0), ("test", 24))
    )
    (tmp_path / "dataset.yaml").write_text(
        "classes:\n  - {name: a, code: 0}\n  - {name: b, code: 1}\n"
        "modalities:\n  s1: {kind: sar, bands: [VV, VH], unit: db}\n"
        "  s2: {kind: optical, bands: [B2, B3, B4, B8], unit: reflectance_10000}\n"
        f"scenes:\n{scenes}\n"
    )
    (tmp_path / "run.yaml").write_text(
        "data: {manifest: dataset.yaml, crop_size: 16, batch_size: 2, workers: 0}\n"
        "method: {name: galileo, weights: weights, tuning: lora, decoder: linear,\n"
        "  backbone_options: {neck: none, out_indices: [-1], month: 3}}\n"
        "training: {steps: 2, warmup_steps: 0, validate_every: 2, accelerator: cpu}\n"
    )
    out = tmp_path / "run"
    code, _, message = command_line("train", tmp_path / "run.yaml", "--out", out)
    assert code == 0, message
    state = read_state(out)
    assert not any(name.endswith("attn.q.base.weight") for name in state)
    assert float(state["backbone.readers.s2.pixel_size_m"]) == 10
    assert state["backbone.readers.s1.mean"][0] == pytest.approx(-12, abs=1)
    code, _, message = command_line("evaluate", out)
    assert code == 0, message
    # Another scale, or bands without names, are found before anything is trained.
    linear = 10 ** (rng.normal(-12, 4, (2, 48, 48)) / 10)
    make_raster(tmp_path / "s1.tif", linear.astype(np.float32))
    code, _, message = command_line("train", tmp_path / "run.yaml", "--out", tmp_path / "bad")
    assert code == 2
    assert "as linear power is" in " ".join(message.split())


def test_the_chilean_offset_is_subtracted() -> None:
    """Of configs/galileo: one image of two has the offset of 1000, which a VRT takes off."""
    shared_data("terramesh_s1_s2_dem")
    path = Path(__file__).parents[2] / "configs" / "galileo" / "terramesh_dataset.yaml"
    scenes = {scene.id: scene for scene in load_manifest(path).scenes()}
    darkest = {
        name: float(scene.read(scene.grid.window).images["s2"].nan_to_num(9e9).min())
        for name, scene in scenes.items()
    }
    assert max(darkest.values()) < 150, darkest
    assert scenes["chile_west"].read(Window(0, 0, 8, 8)).images["s2"].shape == (10, 8, 8)

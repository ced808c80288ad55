"""Files of `terrafuse pretrain`: what they say, what fits them, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from small_backbones import make, train_a_little
from terrafuse.backbones import create_backbone, is_own, save_backbone
from terrafuse.backbones.pretrained_files import read_own
from terrafuse.errors import WeightsError, WeightsMismatchError
from terrafuse.modalities import Modality
from terrafuse.weights import read_metadata, read_weights, write_tensors

S1 = Modality("s1", ("before", "after"), kind="sar")
TURNED = Modality("s1", ("after", "before"), kind="sar")
OTHER = Modality("s1", ("before", "later"), kind="sar")
THREE = Modality("s1", ("before", "after", "later"), kind="sar")
RESNET: dict[str, Any] = {"channels": (4, 6, 8, 10), "layers": (1, 1, 1, 1)}
VIT: dict[str, Any] = {"embed_dim": 16, "depth": 4, "num_heads": 2, "img_size": 64}
DOFA: dict[str, Any] = VIT | {"depth": 2, "dynamic_embed_dim": 8}


def resnet(*modalities: Modality, weights: Any = None, **options: Any) -> Any:
    bands = sum(len(m.bands) for m in modalities)
    return create_backbone(
        "resnet18", bands, weights=weights, modalities=modalities, **RESNET | options
    )


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A small ResNet that has seen `S1`."""
    path = tmp_path / "s1.safetensors"
    backbone = train_a_little(resnet(S1))
    save_backbone(path, backbone, "resnet18", {"layers": [1, 1, 1, 1]}, {"image": [S1]}, "decur")
    return str(path)


def test_a_file_says_what_it_holds(file: str) -> None:
    assert read_metadata(file)["terrafuse"]
    own = read_own(file)
    assert own is not None
    assert (own.backbone, own.objective, own.options["layers"]) == ("resnet18", "decur", [1] * 4)
    assert own.bands == {"image": (("s1", "before"), ("s1", "after"))}
    assert is_own(file)


def test_names_are_those_of_the_layers_not_of_the_stages(file: str) -> None:
    assert "layer1.0.conv1.weight" in read_weights(file)
    # With a stride fewer, two layers make one stage; with fewer levels, the last is not built.
    for options in ({"output_stride": 16}, {"strides": (4, 8)}, {"strides": (2, 4, 8, 16, 32)}):
        backbone = resnet(S1, weights=file, **options)
        values = [
            v for k, v in backbone.state_dict().items() if k.endswith("layer2.0.conv1.weight")
        ]
        assert torch.equal(values[0], read_weights(file)["layer2.0.conv1.weight"])


@pytest.mark.parametrize(
    ("modalities", "text"),
    [
        ((TURNED,), "for the bands before, after, and the image has after, before, the same in an"),
        ((OTHER,), "for the bands before, after, and the image has before, later. Choose"),
        ((THREE,), "for the bands before, after, and the image has before, after, later"),
        ((S1, TURNED), "and the image has before, after, after, before"),
    ],
)
def test_other_bands_are_refused(file: str, modalities: tuple[Modality, ...], text: str) -> None:
    with pytest.raises(WeightsMismatchError, match=text):
        resnet(*modalities, weights=file)


def test_number_of_bands_where_nothing_else_is_known(file: str) -> None:
    assert create_backbone("resnet18", 2, weights=file, **RESNET).pretrained is not None
    with pytest.raises(WeightsMismatchError, match=r"for 2 bands \(before, after\), and the image"):
        create_backbone("resnet18", 3, weights=file, **RESNET)


def test_other_sizes_are_refused_with_those_of_the_file(file: str) -> None:
    with pytest.raises(WeightsMismatchError, match=r"made with backbone_options .*do not fit"):
        resnet(S1, weights=file, channels=(4, 6, 8, 16))


def test_blocks_after_the_last_tap_and_norms_may_be_absent(tmp_path: Path) -> None:
    path = tmp_path / "s1.safetensors"
    whole = make("vit", 2, neck="none", depth=4)
    save_backbone(path, whole, "vit_tiny_patch16_224", {}, {"image": [S1]}, "mae")
    for options in (
        {"out_indices": [1, 2]}, {"final_norm": False}, {"neck": "map"}, {"neck_channels": 8},
    ):  # fmt: skip
        backbone = create_backbone(
            "vit_tiny_patch16_224", 2, weights=str(path), modalities=[S1], **VIT | options
        )
        key = "vit.blocks.2.mlp.fc1.weight"
        assert torch.equal(backbone.state_dict()[key], read_weights(path)[key])
    with pytest.raises(WeightsMismatchError, match=r"missing: vit.blocks.4"):
        create_backbone("vit_tiny_patch16_224", 2, weights=str(path), modalities=[S1],
                        **VIT | {"depth": 6})  # fmt: skip


def test_bands_of_dofa_may_come_in_any_order_and_company(tmp_path: Path) -> None:
    optical = Modality("s2", ("red", "nir"), "optical", wavelengths_um=(0.665, 0.84))
    height = Modality("dsm", ("low", "high"), "elevation")
    path = str(tmp_path / "backbone.safetensors")

    def dofa(modalities: list[Modality], *, one_image: bool, weights: str | None = None) -> Any:
        bands = sum(len(m.bands) for m in modalities)
        return create_backbone(
            "dofa_base_patch16", bands, weights=weights, modalities=modalities,
            one_image=one_image, **DOFA,
        )  # fmt: skip

    learnt = train_a_little(dofa([optical, height], one_image=False))
    images = {"s2": [optical], "dsm": [height]}
    save_backbone(Path(path), learnt, "dofa_base_patch16", DOFA, images, "mae")
    expected = learnt.pseudo_bands["dsm"]
    turned = Modality("dsm", ("high", "low"), "elevation")
    found = dofa([turned, optical], one_image=True, weights=path)
    assert torch.equal(found.pseudo_bands["all"], expected[[1, 0]])
    assert torch.equal(found.vit.cls_token, learnt.vit.cls_token)
    unknown = Modality("slope", ("s",), "elevation")
    found = dofa([unknown, height], one_image=False, weights=path)
    start = dofa([unknown], one_image=True).pseudo_bands["all"]
    assert torch.equal(found.pseudo_bands["dsm"], expected)
    assert found.pseudo_bands["slope"].shape == start.shape


def test_other_files_are_not_ours(tmp_path: Path) -> None:
    plain, odd = tmp_path / "plain.safetensors", tmp_path / "odd.safetensors"
    write_tensors(plain, {"x": torch.ones(2)}, {})
    assert not is_own(str(plain))
    assert not any(is_own(name) for name in (None, "timm", "hub", "hf://a/b/c.safetensors", "no"))
    write_tensors(odd, {"x": torch.ones(2)}, {"terrafuse_backbone": '{"backbone": "resnet18"}'})
    with pytest.raises(WeightsError, match="does not say what it holds"):
        is_own(str(odd))

"""Pre-trained → file → method: it starts with these values. For every method there is."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from terrafuse.backbones import DOFA, save_backbone
from terrafuse.config.base import parse_settings
from terrafuse.config.pretrain import PretrainConfig
from terrafuse.errors import ModelError, TerrafuseError, WeightsMismatchError
from terrafuse.methods import METHODS, create_segmenter
from terrafuse.modalities import Modality
from terrafuse.pretraining import Pretrainer, create_pretrainer
from terrafuse.weights import digest_values, read_weights, without_pretrained

RGB = Modality("rgb", ("r", "g", "b"), kind="optical", wavelengths_um=(0.665, 0.56, 0.49))
SAR = Modality("sar", ("vv", "vh"), kind="sar")
S1 = Modality("s1", ("VV", "VH"), kind="sar", unit="db")
DSM = Modality("dsm", ("z",), kind="elevation")

RESNET = {"channels": [4, 6, 8, 10], "layers": [1, 1, 1, 1]}
BOTTLENECK = {"channels": [4, 4, 8, 16], "layers": [1, 1, 1, 1]}
MIT = {"channels": [8, 8, 10, 16], "depths": [1, 1, 1, 1]}
VIT = {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64}
WIDE_VIT = VIT | {"embed_dim": 64}
DOFA_SMALL = VIT | {"dynamic_embed_dim": 8}
SWIN = {
    "embed_dim": 8, "depths": [2, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4,
    "img_size": 64,
}  # fmt: skip
CROMA = {"embed_dim": 16, "depth": 2, "num_heads": 2}
DECUR = {"name": "decur", "hidden": 8, "dim": 8, "common": 6, "shared_projector": False}
MAE = {"name": "mae", "decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2}
UPERNET = {"decoder": "upernet", "decoder_options": {"channels": 8, "bins": [1, 2]}}
SEGFORMER = {"decoder": "segformer", "decoder_options": {"channels": 8}}
UPSEG = UPERNET | {"neck_channels": 8, "vem": {"dim": 8, "heads": 2}}


@dataclass(frozen=True)
class Start:
    """A pre-training and a method that starts from it.

    Args:
        method: The method.
        objective: And its options.
        backbone: Of both.
        options: Of the backbone.
        more: Further options of the method.
        modalities: Of both.
    """

    method: str
    objective: dict[str, Any]
    backbone: str
    options: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)
    modalities: tuple[Modality, ...] = (RGB, SAR)

    def pretrainer(self) -> Pretrainer:
        torch.manual_seed(1)
        values = {
            "data": {"manifest": "dataset.yaml"},
            "objective": self.objective,
            "backbone": self.backbone,
            "backbone_options": self.options,
        }
        pretrainer = create_pretrainer(
            parse_settings(PretrainConfig, values, "pretrain.yaml"), self.modalities
        )
        with torch.no_grad():
            for value in pretrainer.parameters():
                value.add_(0.1 * torch.randn_like(value))
        return pretrainer

    def create(self, weights: Any) -> Any:
        options = {"backbone": self.backbone, "backbone_options": self.options, **self.more}
        return create_segmenter(self.method, self.modalities, 3, {**options, "weights": weights})


STARTS = [
    Start("single", DECUR, "resnet18", RESNET, UPERNET, (SAR,)),
    Start("single", MAE, "vit_tiny_patch16_224", VIT, SEGFORMER, (SAR,)),
    Start("early_fusion", MAE, "dofa_base_patch16", DOFA_SMALL, SEGFORMER, (RGB, SAR, DSM)),
    Start("late_fusion", DECUR, "resnet18", RESNET, UPERNET, (RGB, SAR, DSM)),
    Start("late_fusion", {"name": "infonce"}, "convnext_tiny",
          {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}, UPERNET),
    Start("late_fusion", MAE, "dofa_base_patch16", DOFA_SMALL, SEGFORMER, (SAR, DSM)),
    Start("mfnet", MAE | {"shared": True}, "vit_tiny_patch16_224", VIT,
          SEGFORMER | {"tuning": "lora"}),
    Start("mfnet", MAE, "dofa_base_patch16", DOFA_SMALL, SEGFORMER | {"tuning": "adapter"}),
    Start("croma", {"name": "croma", "decoder_dim": 8, "decoder_heads": 2}, "croma_base", CROMA,
          UPERNET),
    Start("decur", DECUR, "resnet50", BOTTLENECK, {"channels": [4, 6, 8]}),
    Start("decur", DECUR, "resnet50", BOTTLENECK, {"channels": [4, 6, 8], "attention": True}),
    Start("sslvit", {"name": "infonce"}, "swin_tiny_patch4_window7_224", SWIN),
    Start("upseg", MAE, "dofa_base_patch16", DOFA_SMALL, UPSEG, (RGB, SAR, DSM)),
    Start("upseg", MAE, "dofa_base_patch16", DOFA_SMALL, UPSEG | {"wave_delta": True}),
    Start("upseg", MAE | {"shared": True}, "vit_tiny_patch16_224", VIT, UPSEG),
    Start("vsgnet", MAE, "vit_tiny_patch16_224", WIDE_VIT,
          {"channels": [8, 12], "depths": [1, 1], "num_heads": [1, 2], "mlp_ratios": [2, 1],
           "decoder_options": {"channels": 8}}),
    Start("cmx", DECUR, "mit_b0", MIT, {"decoder_options": {"channels": 8}}),
    Start("galileo", DECUR, "galileo_nano", {}, SEGFORMER, (S1,)),
    Start("mcanet", DECUR, "resnet18", RESNET, {"low_channels": 6, "high_channels": 8}),
    Start("ammfusenet", DECUR, "resnet18", RESNET,
          {"projection_channels": 4, "context_channels": 6, "hidden_channels": 8}),
]  # fmt: skip
#: Methods with encoders that no other method has; they say so.
OWN_ENCODERS: dict[str, dict[str, Any]] = {
    "pagnet": {"variant": "mobile", "channels": 8, "key_channels": 4, "num_heads": 2},
    "dformer": {
        "backbone": "dformer_tiny",
        "backbone_options": {"channels": [8, 8, 12, 16], "depths": [1, 1, 2, 1],
                             "num_heads": [1, 2, 2, 4], "mlp_ratios": [2, 2, 1, 1]},
        "decoder_options": {"channels": 8, "ham_channels": 8, "rank": 4},
    },
}  # fmt: skip


def ids(start: Start) -> str:
    return f"{start.method}-{start.objective['name']}-{start.backbone.split('_')[0]}"


def save(pretrainer: Pretrainer, folder: Path, objective: str) -> Any:
    """Files as `pretrain` names them; what `method.weights` takes."""
    files = {}
    for name, found in pretrainer.learned.items():
        files[name] = str(folder / f"{name}.safetensors")
        save_backbone(
            Path(files[name]), found.backbone, found.name, found.options, found.images, objective
        )
    return files if len(files) > 1 else next(iter(files.values()))


def test_every_method_is_here() -> None:
    assert {start.method for start in STARTS} | set(OWN_ENCODERS) == set(METHODS)


@pytest.mark.parametrize("start", STARTS, ids=ids)
def test_method_starts_with_what_was_learnt(start: Start, tmp_path: Path) -> None:
    pretrainer = start.pretrainer()
    weights = save(pretrainer, tmp_path, start.objective["name"])
    segmenter = start.create(weights)
    backbones = segmenter.backbones()
    sources = {backbone.pretrained.source for backbone in backbones}
    files = {weights} if isinstance(weights, str) else set(weights.values())
    assert sources == files
    for backbone in backbones:
        assert backbone.pretrained.backbone == start.backbone
        learnt = read_weights(backbone.pretrained.source)
        own = {_name_in_file(key, start.backbone): v for key, v in backbone.state_dict().items()}
        common = [key for key in learnt if key in own and not key.startswith("pseudo_bands")]
        assert len(common) >= len(learnt) - 3, set(learnt) - set(common)
        for key in common:
            assert torch.equal(own[key], learnt[key]), key
    _check_pseudo_bands(pretrainer, backbones)


def _name_in_file(key: str, backbone: str) -> str:
    # A tuning, and attention after a stage, put the values of a layer one step deeper.
    key = key.replace(".base.", ".").replace(".stage.", ".")
    return key if backbone.startswith("mit") else re.sub(r"^(stem|stages\.\d+)\.", "", key)


def _check_pseudo_bands(pretrainer: Pretrainer, backbones: list[Any]) -> None:
    (first, *_) = (found.backbone for found in pretrainer.learned.values())
    if not isinstance(first, DOFA) or "dsm" not in first.pseudo_bands:
        return
    learnt = first.pseudo_bands["dsm"]
    found = [rows[-1:] for b in backbones for name, rows in b.pseudo_bands.items() if name != "sar"]
    assert found
    assert all(torch.equal(rows, learnt) for rows in found)


@pytest.mark.parametrize("start", STARTS[:1] + STARTS[8:9], ids=ids)
def test_weights_matter_and_are_left_out_where_not_wanted(start: Start, tmp_path: Path) -> None:
    weights = save(start.pretrainer(), tmp_path, start.objective["name"])
    digests = []
    for source in (None, weights):
        torch.manual_seed(0)
        digests.append(digest_values(start.create(source).state_dict()))
    assert digests[0] != digests[1]
    torch.manual_seed(0)
    with without_pretrained():
        assert digest_values(start.create(weights).state_dict()) == digests[0]


@pytest.mark.parametrize("method", OWN_ENCODERS)
def test_methods_with_encoders_of_their_own_say_so(method: str, tmp_path: Path) -> None:
    weights = save(STARTS[0].pretrainer(), tmp_path, "decur")
    modalities = (RGB, DSM)
    with pytest.raises(WeightsMismatchError, match=f"for backbone 'resnet18'; method '{method}'"):
        create_segmenter(method, modalities, 3, OWN_ENCODERS[method] | {"weights": weights})


@pytest.mark.parametrize("start", [s for s in STARTS if s.backbone != "croma_base"], ids=ids)
def test_other_backbones_are_refused(start: Start, tmp_path: Path) -> None:
    other = "resnet34" if start.backbone != "resnet34" else "resnet18"
    wrong = Start("single", DECUR, other, RESNET, modalities=(SAR,))
    weights = save(wrong.pretrainer(), tmp_path, "decur")
    with pytest.raises(
        WeightsMismatchError, match=f"for backbone '{start.backbone}' were made .*'{other}'"
    ):
        start.create(weights)


def test_streams_take_files_of_modalities(tmp_path: Path) -> None:
    start = next(s for s in STARTS if s.method == "cmx")
    weights = save(start.pretrainer(), tmp_path, "decur")
    segmenter = start.create({"image": weights["rgb"], "x": weights["sar"]})
    assert [b.pretrained.source for b in segmenter.backbones()] == list(weights.values())
    partly = start.create({"sar": weights["sar"]})
    assert [b.pretrained is None for b in partly.backbones()] == [True, False]
    with pytest.raises(TerrafuseError, match=r"stream in option 'weights' 'sat'.*sar"):
        start.create({"sat": weights["sar"]})


def test_objectives_refuse_what_does_not_suit() -> None:
    def fails(kind: type[TerrafuseError], text: str, **changes: Any) -> None:
        base = {"method": "single", "objective": MAE, "backbone": "resnet18", "options": RESNET}
        with pytest.raises(kind, match=text):
            Start(**{**base, **changes}).pretrainer()

    fails(ModelError, "backbone 'resnet18' is a pyramid")
    fails(ModelError, "one transformer for all bands", objective=MAE | {"shared": False},
          backbone="dofa_base_patch16", options=DOFA_SMALL)  # fmt: skip
    fails(ModelError, "CROMA needs a modality for each", objective={"name": "croma"},
          backbone="croma_base", options=CROMA, modalities=(SAR, SAR))  # fmt: skip
    fails(ModelError, "contrast needs two or more sensors", objective={"name": "infonce"},
          modalities=(SAR,))  # fmt: skip
    fails(ModelError, "'view_area' is", objective=DECUR | {"view_area": [0.5, 0.2]})

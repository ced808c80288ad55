"""Real pretrained weights, which lie beside the checkout: read, trained on, found again.

python -m pytest -m weights
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file

import terrafuse
from made_rasters import TWO_SENSORS, make_rasters
from shared import SHARED
from terrafuse.backbones import create_backbone
from terrafuse.config import load_run_config
from terrafuse.errors import WeightsMismatchError, WeightsNotFoundError
from terrafuse.modalities import Modality
from terrafuse.training import train
from terrafuse.weights import digest

LITE = SHARED / "weights" / "efficientnet_lite0" / "tf_efficientnet_lite0.safetensors"
NANO = SHARED / "weights" / "galileo_nano"
pytestmark = [
    pytest.mark.weights,
    pytest.mark.skipif(
        not (LITE.exists() and NANO.exists()), reason="there are no weights in ../shared/weights"
    ),
]
RGB = Modality("rgb", ("red", "green", "blue"), "optical")
BGRN = Modality("s2", ("blue", "green", "red", "nir"), "optical")
SHA256 = "fc57f6b149e1dcc8ecf1b5d36f0833364ae6c1cbbd17c0b4d13d047814c63f76"


@torch.no_grad()
def test_levels_are_those_of_the_library() -> None:
    assert digest(LITE) == SHA256
    backbone = create_backbone("tf_efficientnet_lite0", 3, weights=str(LITE), modalities=[RGB])
    theirs = timm.create_model("tf_efficientnet_lite0", features_only=True, pretrained=False)
    state = load_file(LITE)
    known = {k: v for k, v in state.items() if k in theirs.state_dict()}
    missing = theirs.load_state_dict(known, strict=False)
    assert not missing.missing_keys
    image = torch.randn(1, 3, 96, 64)
    expected = theirs.eval()(image)
    levels = backbone.eval()(image)
    for level, value in zip(levels, expected[1:], strict=True):  # theirs begin at half the size
        torch.testing.assert_close(level, value, rtol=1e-4, atol=1e-4)
    assert backbone.pretrained is not None
    assert backbone.pretrained.source == str(LITE)


@torch.no_grad()
def test_bands_in_another_order_meet_their_kernels() -> None:
    """Blue, green, red and, at its mean, near infrared: the levels are those of the photograph."""
    photo = create_backbone("tf_efficientnet_lite0", 3, weights=str(LITE), modalities=[RGB]).eval()
    four = create_backbone("tf_efficientnet_lite0", 4, weights=str(LITE), modalities=[BGRN]).eval()
    image = torch.randn(1, 3, 64, 64)
    mixed = torch.cat([image.flip(1), torch.zeros(1, 1, 64, 64)], dim=1)
    for level, value in zip(four(mixed), photo(image), strict=True):
        torch.testing.assert_close(level, value, rtol=1e-4, atol=1e-4)
    mixed[:, 3] = 1
    assert (four(mixed)[0] - photo(image)[0]).abs().max() > 1e-3


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(WeightsMismatchError):
        create_backbone("resnet18", 3, weights=str(LITE), modalities=[RGB])
    with pytest.raises(WeightsMismatchError):
        create_backbone("tf_efficientnet_lite0", 3, weights=str(NANO / "encoder.safetensors"))


@pytest.fixture
def trained(tmp_path: Path) -> Any:
    """Function that trains a method with real weights for two steps."""
    values = {**TWO_SENSORS, "modalities": {
        "s1": {"kind": "sar", "bands": ["VV", "VH"], "unit": "db"},
        "s2": {"kind": "optical", "bands": ["B2", "B3", "B4", "B8"], "unit": "reflectance_10000"},
    }}  # fmt: skip
    make_rasters(tmp_path, values)
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(values))

    def make(name: str, method: dict[str, Any]) -> Path:
        run = {
            "data": {"manifest": "dataset.yaml", "crop_size": 32, "batch_size": 2, "workers": 0},
            "method": method,
            "training": {"steps": 2, "accelerator": "cpu"},
            "prediction": {"crop_size": 96, "overlap": 0},
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(run))
        config = load_run_config(tmp_path / f"{name}.yaml")
        return train(config, tmp_path / name, progress=False)

    return make


@pytest.mark.parametrize(
    ("name", "method", "file"),
    [
        (
            "lite",
            {"name": "late_fusion", "backbone": "tf_efficientnet_lite0", "tuning": "frozen",
             "decoder": "segformer", "decoder_options": {"channels": 16}},
            LITE,
        ),
        (
            "nano",
            {"name": "galileo", "backbone": "galileo_nano", "tuning": "lora",
             "backbone_options": {"patch_size": 8}, "decoder_options": {"channels": 16}},
            NANO / "encoder.safetensors",
        ),
    ],
)  # fmt: skip
def test_a_tuned_run_keeps_only_its_own_and_finds_the_rest(
    trained: Any, tmp_path: Path, name: str, method: dict[str, Any], file: Path
) -> None:
    base = tmp_path / "weights" / file.name
    base.parent.mkdir()
    shutil.copy(file, base)
    folder = trained(name, method | {"weights": str(base)})
    run = terrafuse.load(folder)
    assert run.info.base_weights[0]["source"] == str(base)
    names = set(load_file(folder / "model.safetensors"))
    left_out = {name for name, _ in run.segmenter.named_parameters()} - names
    held = sum(p.numel() for name, p in run.segmenter.named_parameters() if name in left_out)
    assert held > 5e5, "most of the encoder is that of the file"
    scores = run.evaluate(split="test", device="cpu")["subsets"]
    base.rename(tmp_path / base.name)
    with pytest.raises(WeightsNotFoundError, match=base.name):
        terrafuse.load(folder)
    (tmp_path / base.name).rename(folder / base.name)
    again = terrafuse.load(folder)
    assert again.evaluate(split="test", device="cpu")["subsets"] == scores

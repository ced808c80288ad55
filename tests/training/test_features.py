"""Features of frozen backbones: the same losses with less work, and refused where they change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from remedies import said
from small_methods import RESNET, SMALL, VIT
from terrafuse.contract import Case, random_images
from terrafuse.errors import ConfigError
from terrafuse.methods import load_segmenter
from terrafuse.segmenter import Segmenter
from terrafuse.training import train
from terrafuse.training.features import FeatureCache, feature_budget
from terrafuse.training.log import read_log

Make = Callable[..., Any]
STILL = {
    "sampling": "grid",
    "augment": {"flip": False, "rotate": False, "gain": 0.0, "offset": 0.0},
}
FROZEN = {"cache_features": True, "backbone_lr_factor": 0}

pytestmark = [
    pytest.mark.usefixtures("without_figures"),
    pytest.mark.filterwarnings("ignore:the backbone has no pretrained weights"),
]


def frozen(method: str, options: dict[str, Any]) -> Segmenter:
    segmenter: Segmenter = Case(method, options | {"tuning": "frozen"}).make()
    for backbone in segmenter.backbones():
        backbone.requires_grad_(False)
    return segmenter.train()


def test_losses_are_those_of_a_run_without(
    tmp_path: Path, make_dataset: Make, make_config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, losses, states = make_dataset(), [], []
    for name, training in (("with", FROZEN), ("without", {"backbone_lr_factor": 0})):
        config = make_config(
            manifest,
            data=STILL | {"crop_size": 48},
            training={"ema_decay": 0.9, **training},
        )
        out = train(config, tmp_path / name)
        losses.append([float(row["loss"]) for row in read_log(out / "log.csv") if row["loss"]])
        states.append(load_segmenter(out)[0].state_dict())
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=1e-5, atol=1e-6)
    # Two scenes as large as a window, and eight steps of two samples.
    told = capsys.readouterr().err
    assert "features: 2 kept in" in told
    assert "14 of 16 samples came from there" in told


def test_what_is_returned_is_that_of_the_very_image() -> None:
    segmenter = frozen("late_fusion", RESNET).eval()
    images = random_images(segmenter.modalities, (64, 64), batch=3)
    expected = segmenter(images).logits
    cache = FeatureCache(segmenter, 1 << 30)
    with cache.training():
        assert torch.equal(segmenter(images).logits, expected)
        assert (cache.hits, cache.misses) == (0, 6)  # of two modalities
        turned = {name: image.flip(0) for name, image in images.items()}
        turned["rgb"] = torch.cat([turned["rgb"][:2], turned["rgb"][:1]])
        torch.testing.assert_close(
            segmenter(turned).logits[:2], expected.flip(0)[:2], rtol=1e-4, atol=1e-5
        )
        assert (cache.hits, cache.misses) == (6, 6)
        turned["sar"] = turned["sar"] + 1e-3
        segmenter(turned)
        assert (cache.hits, cache.misses) == (9, 9)
    segmenter(images)  # validation
    assert (cache.hits, cache.misses) == (9, 9)
    cache.close()
    assert all("forward" not in vars(backbone) for backbone in segmenter.backbones())
    assert torch.equal(segmenter(images).logits, expected)


def test_the_budget_holds_and_what_came_first_stays() -> None:
    segmenter = frozen("single", VIT)
    images = random_images(segmenter.modalities, (64, 64), batch=4)
    whole = FeatureCache(segmenter, 1 << 30)
    with whole.training():
        segmenter(images)
    one = whole.used // 4
    whole.close()
    small = FeatureCache(segmenter, 2 * one + one // 2)
    with small.training():
        for _ in range(3):
            segmenter(images)
    assert small.used == 2 * one
    assert (small.hits, small.misses) == (4, 4 + 2 * 2)
    assert small.told.startswith("features: 2 kept in ")
    assert feature_budget(3) == 3 << 20
    assert feature_budget(None) > 1 << 20


@pytest.mark.parametrize(
    ("data", "training", "against"),
    [
        ({"sampling": "random"}, {}, r"data\.sampling is 'random'"),
        (
            {"augment": {}},
            {},
            r"by data\.augment\.flip, data\.augment\.rotate, data\.augment\.gain",
        ),
        ({"augment": STILL["augment"] | {"scale": [0.5, 1]}}, {}, r"by data\.augment\.scale \("),
        ({"augment": STILL["augment"] | {"speckle": 0.1}}, {}, r"by data\.augment\.speckle \("),
        ({}, {"backbone_lr_factor": 0.1}, r"'body\.0\.weight' and 3 more learn"),
    ],
)
def test_what_stands_against_it_is_named(
    tmp_path: Path,
    make_dataset: Make,
    make_config: Make,
    data: dict[str, Any],
    training: dict[str, Any],
    against: str,
) -> None:
    config = make_config(make_dataset(), data=STILL | data, training=FROZEN | training)
    with pytest.raises(ConfigError, match=against) as told:
        train(config, tmp_path / "run")
    said("training.features:check_features | or leave cache_features out", str(told.value))
    assert str(told.value).count(";") == 0  # nothing else stands against it
    assert not (tmp_path / "run").exists()


def test_a_method_that_takes_its_backbone_apart_is_refused() -> None:
    segmenter = frozen("upseg", SMALL["upseg"][0])
    cache = FeatureCache(segmenter, 1 << 20)
    with cache.training():
        segmenter(random_images(segmenter.modalities, (64, 64)))
    with pytest.raises(ConfigError, match="UPSeg runs its parts one by one") as told:
        cache.check_used(segmenter)
    said("training.features:FeatureCache.check_used | Leave cache_features out", str(told.value))

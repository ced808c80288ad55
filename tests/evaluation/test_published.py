"""Scores and class scores as the published code of CMX and DFormer makes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from golden_files import load_golden
from published_scores import (
    average_windows,
    resize_bytes,
    sum_exponentials,
    sum_probabilities,
)
from terrafuse.evaluation import ConfusionMatrix, score, score_classes

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """As stated beside the files: an independent float32 implementation keeps to it."""
    atol = 2e-5 * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


class Convolution:
    """The "network" of the stored values: one convolution of both images; counts its calls."""

    def __init__(self, stored: dict[str, Tensor]) -> None:
        self.stored = stored
        self.calls = 0

    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        self.calls += len(images[0])
        weight, bias = self.stored["sd.c.weight"], self.stored["sd.c.bias"]
        return F.conv2d(torch.cat(list(images), dim=1), weight, bias, padding=1)


@pytest.mark.parametrize("name", ["slide_single", "whole_pad", "slide_ms_flip"])
def test_scores_of_cmx(name: str) -> None:
    stored, config = load_golden("cmx/sliding_eval")
    images = [stored[f"in.{key}"].permute(2, 0, 1)[None] for key in ("rgb", "x")]
    scores = sum_exponentials(
        Convolution(stored),
        images,
        (config["crops"][name][0], config["crops"][name][1]),
        normalise=lambda image: (image / 255 - MEAN) / STD,
        scales=config["scales"].get(name, [1.0]),
        flip=config["flip"][name],
    )[0].permute(1, 2, 0)
    assert_close(scores, stored[f"out.{name}_score"])
    assert torch.equal(scores.argmax(dim=-1), stored[f"out.{name}_pred"].long())


def test_metrics_of_cmx() -> None:
    stored, config = load_golden("cmx/schedule_and_metric")
    matrix = ConfusionMatrix(config["num_classes"])
    labels, found = (stored[f"in.{k}"].numpy().astype(np.uint8) for k in ("label", "pred"))
    matrix.update(labels, found)
    assert matrix.matrix.tolist() == stored["out.confusion"].tolist()
    classes, overall = score_classes(matrix.matrix), score(matrix.matrix)
    undefined = config["nan_iou_stored_as"]
    iou = np.where(np.isnan(classes.iou), undefined, classes.iou)
    np.testing.assert_allclose(iou, stored["out.iou"].numpy(), rtol=1e-12)
    for ours, theirs in (
        (overall.miou, "miou"), (overall.fwiou, "freq_iou"), (overall.oa, "pixel_acc"),
        (overall.mpa, "mean_pixel_acc"),
    ):  # fmt: skip
        assert ours == pytest.approx(float(stored[f"out.{theirs}"]), rel=1e-12)


def test_scores_of_dformer() -> None:
    stored, config = load_golden("dformer/evaluation")
    network, crop = Convolution(stored), tuple(config["crop"])
    images = [stored["in.rgb"], stored["in.depth"]]
    whole = sum_probabilities(network, images, scales=config["scales"], flip=config["flip"])
    assert_close(whole, stored["out.msf_flip_prob_sum"])
    assert network.calls == 2 * 5 * 2  # two samples, five scales, mirrored or not
    assert torch.equal(whole, sum_probabilities(network, images))  # the defaults
    windows = sum_probabilities(network, images, scales=config["slide_scales"], crop=crop)
    assert_close(windows, stored["out.msf_slide_flip_prob_sum"])
    assert_close(average_windows(network, images, crop), stored["out.slide_logits"])
    small = [image[..., :20, :40] for image in images]
    assert_close(average_windows(network, small, crop), stored["out.slide_logits_small_input"])


def test_metrics_of_dformer() -> None:
    """In percent, rounded; a class that is not there counts as 0."""
    stored, _ = load_golden("dformer/evaluation")
    found = sum_probabilities(Convolution(stored), [stored["in.rgb"], stored["in.depth"]])
    matrix = ConfusionMatrix(5)
    for order in ([0, 1], [1, 0]):
        class_map = found.argmax(dim=1)[order].numpy().astype(np.uint8)
        matrix.update(stored["in.label"][order].numpy(), class_map)
    assert matrix.matrix.tolist() == stored["out.confusion"].tolist()
    classes = score_classes(matrix.matrix)
    for ours, theirs in ((classes.iou, "iou"), (classes.recall, "acc"), (classes.f1, "f1")):
        values = 100 * np.nan_to_num(ours)
        expected = stored[f"out.{theirs}_percent"].numpy()
        np.testing.assert_allclose(values.round(2), expected, atol=1e-5)
        mean = float(stored[f"out.m{theirs}_percent"])
        assert round(float(values.mean()), 2) == pytest.approx(mean, abs=1e-9)


def test_bytes_resized_are_nearly_those_of_exact_interpolation() -> None:
    image = torch.randint(0, 256, (1, 2, 17, 23), dtype=torch.uint8)
    for size in ((9, 30), (40, 11), (17, 23)):
        found = resize_bytes(image, size)
        exact = F.interpolate(image.float(), size, mode="bilinear", align_corners=False)
        assert found.dtype == torch.uint8
        assert (found.float() - exact).abs().max() < 1.5
    constant = torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)
    assert (resize_bytes(constant, (21, 5)).float() - 255).abs().max() <= 1

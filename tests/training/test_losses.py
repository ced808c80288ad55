"""Losses against torch, against numbers worked out by hand, and at their edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from golden_files import load_tensors
from terrafuse.classes import ClassScheme
from terrafuse.config import LossConfig
from terrafuse.errors import ConfigError, LabelError, ModelError, UnknownNameError
from terrafuse.segmenter import SegmenterOutput
from terrafuse.training.losses import (
    LOSSES,
    CrossEntropy,
    Dice,
    Focal,
    Lovasz,
    Tversky,
    balanced_weights,
    create_loss,
)

COUNTS = torch.tensor([600, 300, 100])
SCHEME = ClassScheme(("a", "b", "c"))


def random_case(seed: int = 0, ignored: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 3, 5, 7, generator=generator)
    labels = torch.randint(0, 3, (2, 5, 7), generator=generator)
    labels[torch.rand(2, 5, 7, generator=generator) < ignored] = 255
    return logits, labels


def hard_logits(classes: Tensor, num_classes: int) -> Tensor:
    """Scores whose softmax is exactly 0 or 1."""
    return F.one_hot(classes, num_classes).movedim(-1, 1).float() * 1e4


# 3 × 3: class 0 is predicted on 4 of its 5 known pixels and on one pixel of class 1.
TRUTH = torch.tensor([[[0, 0, 0], [0, 0, 1], [1, 1, 255]]])
GUESS = torch.tensor([[[0, 0, 0], [0, 1, 1], [1, 0, 0]]])
# Intersections 4 and 2; predicted 5 and 3 (known pixels); labelled 5 and 3; unions 6 and 4.
DICE_BY_HAND = 1 - (2 * 4 / 10 + 2 * 2 / 6) / 2
JACCARD_BY_HAND = 1 - (4 / 6 + 2 / 4) / 2


@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_equals_the_published_one(weighted: bool) -> None:
    """Recorded from the MFNet code, where a negative target is invalid too."""
    golden = load_tensors("mfnet/loss")
    labels = golden["in.target"].long()
    assert (labels == -1).any()
    assert (labels == 255).any()
    labels[labels < 0] = 255
    weights = golden["in.weights"].tolist() if weighted else None
    loss = CrossEntropy(torch.ones(6), class_weights=weights)
    expected = golden[f"out.loss_{'weighted' if weighted else 'unweighted'}"].squeeze()
    # Tolerance as given with the recording.
    torch.testing.assert_close(loss(golden["in.logits"], labels), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5]])
def test_cross_entropy_equals_torch(weights: list[float] | None, smoothing: float) -> None:
    logits, labels = random_case()
    loss = CrossEntropy(COUNTS, class_weights=weights, label_smoothing=smoothing)
    expected = F.cross_entropy(
        logits,
        labels,
        None if weights is None else torch.tensor(weights),
        ignore_index=255,
        label_smoothing=smoothing,
    )
    torch.testing.assert_close(loss(logits, labels), expected)


def test_ohem_keeps_the_hardest_share() -> None:
    logits, labels = random_case()
    pixelwise = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")
    known = pixelwise[labels != 255].sort(descending=True).values
    keep = -(-len(known) // 4)
    loss = CrossEntropy(COUNTS, ohem=0.25)
    torch.testing.assert_close(loss(logits, labels), known[:keep].mean())
    torch.testing.assert_close(
        CrossEntropy(COUNTS, ohem=1.0)(logits, labels), CrossEntropy(COUNTS)(logits, labels)
    )


def test_dice_by_hand() -> None:
    loss = Dice(torch.tensor([5, 3]))
    assert loss(hard_logits(GUESS, 2), TRUTH).item() == pytest.approx(DICE_BY_HAND)
    # Even probabilities: class 0 has 2 · 2.5 / (4 + 5), class 1 has 2 · 1.5 / (4 + 3).
    even = 1 - (5 / 9 + 3 / 7) / 2
    assert loss(torch.zeros(1, 2, 3, 3), TRUTH).item() == pytest.approx(even)


def test_dice_leaves_absent_classes_out() -> None:
    two = Dice(torch.tensor([5, 3]))(hard_logits(GUESS, 2), TRUTH)
    three = Dice(COUNTS)(hard_logits(GUESS, 3), TRUTH)
    assert three.item() == pytest.approx(two.item())


def test_tversky_by_hand() -> None:
    """Even probabilities; class 0 has 5 of 8 known pixels, so errors of the two kinds differ."""
    logits = torch.zeros(1, 2, 3, 3)
    found = Tversky(torch.tensor([5, 3]), alpha=0.2, beta=0.9)(logits, TRUTH).item()
    zero = 2.5 / (2.5 + 0.2 * 1.5 + 0.9 * 2.5)
    one = 1.5 / (1.5 + 0.2 * 2.5 + 0.9 * 1.5)
    assert found == pytest.approx(1 - (zero + one) / 2)
    halves = Tversky(torch.tensor([5, 3]), alpha=0.5, beta=0.5)
    assert halves(hard_logits(GUESS, 2), TRUTH).item() == pytest.approx(DICE_BY_HAND)
    absent = Tversky(COUNTS, alpha=0.5, beta=0.5)(hard_logits(GUESS, 3), TRUTH)
    assert absent.item() == pytest.approx(DICE_BY_HAND)
    with pytest.raises(ConfigError, match=r"'beta' is 1\.5; allowed is 0 to 1"):
        Tversky(COUNTS, beta=1.5)


def test_focal_without_discount_is_cross_entropy() -> None:
    logits, labels = random_case()
    expected = F.cross_entropy(logits, labels, ignore_index=255)
    torch.testing.assert_close(Focal(COUNTS, gamma=0.0)(logits, labels), expected)


def test_focal_by_hand() -> None:
    probs = torch.tensor([0.9, 0.2])  # of the labelled class: 1, then 0
    logits = torch.stack([torch.tensor([0.1, 0.2]), torch.tensor([0.9, 0.8])]).log()
    labels = torch.tensor([1, 0]).view(1, 1, 2)
    alpha = np.array([3.0, 0.5])  # by labelled class of the two pixels: 0.5, 3
    p = probs.numpy()
    expected = (alpha[[1, 0]] * (1 - p) ** 2 * -np.log(p)).mean()
    loss = Focal(torch.tensor([1, 1]), gamma=2.0, alpha=[3.0, 0.5])
    assert loss(logits.view(1, 2, 1, 2), labels).item() == pytest.approx(expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_gradient_is_finite_where_sure(gamma: float) -> None:
    logits = hard_logits(GUESS, 2).requires_grad_()
    Focal(torch.tensor([1, 1]), gamma=gamma)(logits, TRUTH).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_lovasz_of_hard_predictions_by_hand() -> None:
    loss = Lovasz(torch.tensor([5, 3]))
    assert loss(hard_logits(GUESS, 2), TRUTH).item() == pytest.approx(JACCARD_BY_HAND)


@settings(deadline=None, max_examples=25)
@given(
    truth=st.lists(st.sampled_from([0, 1, 2, 255]), min_size=12, max_size=12),
    guess=st.lists(st.sampled_from([0, 1, 2]), min_size=12, max_size=12),
)
def test_lovasz_of_hard_predictions_is_the_jaccard_loss(truth: list[int], guess: list[int]) -> None:
    labels, classes = torch.tensor(truth).view(1, 3, 4), torch.tensor(guess).view(1, 3, 4)
    loss = Lovasz(COUNTS)(hard_logits(classes, 3), labels)
    known = labels != 255
    ious = [
        ((labels == k) & (classes == k)).sum() / ((labels == k) | (known & (classes == k))).sum()
        for k in range(3)
        if (labels == k).any()
    ]
    expected = 1 - float(torch.stack(ious).mean()) if ious else 0.0
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_batch_without_labels_is_exactly_zero(name: str, dtype: torch.dtype) -> None:
    logits = torch.randn(2, 3, 4, 4).to(dtype).requires_grad_()
    labels = torch.full((2, 4, 4), 255)
    loss = LOSSES[name](COUNTS)(logits, labels)
    loss.backward()
    assert loss.item() == 0.0
    assert loss.dtype == torch.float32
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_ohem_of_a_batch_without_labels_is_zero() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = CrossEntropy(COUNTS, ohem=0.5, class_weights="balanced")(
        logits, torch.full((1, 4, 4), 255)
    )
    loss.backward()
    assert loss.item() == 0.0


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_do_not_matter(name: str) -> None:
    logits, labels = random_case()
    loss = LOSSES[name](COUNTS)
    other = torch.where((labels == 255).unsqueeze(1), torch.tensor(7.0), logits)
    other[:, 0][labels == 255] = -3.0
    torch.testing.assert_close(loss(other, labels), loss(logits, labels), rtol=0, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_falls_when_followed(name: str) -> None:
    logits, labels = random_case(seed=3)
    logits.requires_grad_()
    loss = LOSSES[name](COUNTS)
    optimizer = torch.optim.Adam([logits], lr=0.2)
    start = loss(logits, labels).item()
    for _ in range(50):
        optimizer.zero_grad()
        loss(logits, labels).backward()
        optimizer.step()
    assert loss(logits, labels).item() < 0.8 * start


def test_half_precision_is_computed_in_float32() -> None:
    logits, labels = random_case()
    loss = create_loss([LossConfig(name=name) for name in LOSSES], SCHEME, COUNTS)
    coarse = logits.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        terms = loss(SegmenterOutput(coarse), labels)
    exact = loss(SegmenterOutput(coarse.float()), labels)
    assert all(torch.equal(terms[name], exact[name]) for name in terms)


def test_balanced_weights_by_hand() -> None:
    weights = balanced_weights(torch.tensor([81, 16, 0]))
    # Shares 81/97 and 16/97: weights 97 / (9 + 4) / 9 and … / 4; a class never seen gets 1.
    assert weights.tolist() == pytest.approx([97 / 13 / 9, 97 / 13 / 4, 1.0])
    shares = torch.tensor([81, 16, 0]) / 97
    assert (shares * weights).sum().item() == pytest.approx(1.0)


def test_weighted_sum_of_heads_and_own_terms() -> None:
    logits, labels = random_case()
    aux, _ = random_case(seed=1)
    loss = create_loss(
        [LossConfig(name="cross_entropy", weight=0.5), LossConfig(name="dice", weight=2.0)],
        SCHEME,
        COUNTS,
    )
    output = SegmenterOutput(logits, (aux, aux), {"prior": torch.tensor(0.25)})
    terms = loss(output, labels, aux_weight=0.4)

    def of(scores: Tensor) -> Tensor:
        return 0.5 * CrossEntropy(COUNTS)(scores, labels) + 2.0 * Dice(COUNTS)(scores, labels)

    assert list(terms) == ["total", "cross_entropy", "dice", "aux", "prior"]
    torch.testing.assert_close(terms["aux"], 2 * of(aux))
    torch.testing.assert_close(terms["total"], of(logits) + 0.4 * terms["aux"] + 0.25)


def test_same_loss_twice_keeps_both() -> None:
    logits, labels = random_case()
    loss = create_loss(
        [LossConfig(name="cross_entropy"), LossConfig(name="cross_entropy", ohem=0.2)],
        SCHEME,
        COUNTS,
    )
    terms = loss(SegmenterOutput(logits), labels)
    assert list(terms) == ["total", "cross_entropy", "cross_entropy_again"]
    torch.testing.assert_close(terms["total"], terms["cross_entropy"] + terms[list(terms)[2]])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LossConfig(name="lovas"), r"unknown loss 'lovas'. Did you mean 'lovasz'\?"),
        (
            LossConfig(name="cross_entropy", label_smoth=0.1),
            r"unknown option of loss 'cross_entropy' 'label_smoth'. Did you mean 'label_smoothing'",
        ),
        (LossConfig(name="dice", counts=1), "option of loss 'dice' 'counts'"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(config: LossConfig, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        create_loss([config], SCHEME, COUNTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cross_entropy", "label_smoothing": 2}, "'label_smoothing' is 2; allowed is 0"),
        ({"name": "cross_entropy", "ohem": 0}, "'ohem' is 0"),
        ({"name": "cross_entropy", "class_weights": [1, 2]}, "give 3 numbers"),
        ({"name": "focal", "alpha": [1, 2, -1]}, "'alpha' is .*not negative"),
        ({"name": "focal", "gamma": -1}, "'gamma' is -1; allowed is 0"),
        ({"name": "dice", "weight": 0}, "every weight in training.losses is 0"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_loss([LossConfig(**options)], SCHEME, COUNTS)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "focal", "gamma": "two"},
        {"name": "cross_entropy", "class_weights": "median"},
        {"name": "cross_entropy", "class_weights": [1, "b", 2]},
    ],
)
def test_values_of_another_type_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=r"of loss '\w+' is"):
        create_loss([LossConfig(**options)], SCHEME, COUNTS)


def test_nothing_labelled_is_refused() -> None:
    with pytest.raises(LabelError, match="no labelled pixel"):
        create_loss([LossConfig(name="dice")], SCHEME, torch.zeros(3, dtype=torch.int64))

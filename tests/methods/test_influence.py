"""No band, date or modality stays without influence: each can be learnt from.

That none begins without is among the checks of the contract.

Every method of METHODS is tested with its small options, from the values that its constructor
draws.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from small_methods import DFORMER, SMALL
from terrafuse.config import TrainingConfig
from terrafuse.contract import statistics_of
from terrafuse.contract.influence import LEAST, MODALITIES, change, in_groups
from terrafuse.contract.learning import accuracy, signs_of, train_until, with_all_learning
from terrafuse.methods import METHODS, create_segmenter
from terrafuse.modalities import Modality
from terrafuse.segmenter import Segmenter

#: Weights that start at 0, so that what they multiply has no influence at first, and why. They open
#: (`test_what_is_closed_at_the_start_opens`), and no band is seen through them alone.
CLOSED = {
    r"\.(bn[23]|norm[23])\.weight$": "residual blocks of ResNets start as the identity (timm)",
    r"\.up$": "LoRA and DoRA: a tuned backbone starts as the pretrained one",
    r"interaction\.gates$": "UPSeg: prompts enter through gates, so that the backbone starts as is",
    r"prompt\.adapter\.up\.weight$": "UPSeg: what a prompt is adapted by is added to it",
    r"prompt\.modality_token$": "UPSeg: an offset of prompts",
    r"aligned\.up\.weight$": "UPSeg: what is added to a prompt at its place",
    r"fusions\.\d+\.(score|linear)\.weight$": "gated fusion starts as the mean",
    r"wave_delta\.terrain$": "DOFA: an offset; bands without wavelength differ without it",
}
#: Backbones to which modalities beside the first are but distances between pixels, mean over the
#: bands, as published for their one band of depth. Bands of X are alike then, and have no sign.
DISTANCES_ONLY = ("dformer_v2_",)
#: Per method, what its small options lack to learn within 100 steps.
LEARNING: dict[str, dict[str, Any]] = {
    "croma": {
        "backbone_options": {"embed_dim": 32, "depth": 2, "num_heads": 4, "neck_channels": 8}
    },
    "dformer": {"backbone_options": DFORMER["backbone_options"] | {"channels": [16, 16, 24, 32]}},
    "pagnet": {"channels": 32, "key_channels": 8, "dropout": 0.0},
}
#: Samples of a batch by method, where 8 are too few: Galileo's transformer of 16 channels learns
#: unsteadily, and of PAGNet's last norms running means move by
#: a hundredth per step.
BATCHES = {"galileo": 16, "pagnet": 16}
#: Methods that have no small form: learning takes them a quarter of a minute, and is slow.
HEAVY = ("pagnet",)
#: By method, further small options (places in `SMALL`) for the quick test of learning: DOFA, which
#: takes bands of one wavelength for one if it is not told.
AT_RISK = {"early_fusion": (2,), "upseg": (1,)}


@dataclass(frozen=True)
class Case:
    """A method with small options."""

    method: str
    number: int

    @property
    def options(self) -> dict[str, Any]:
        return SMALL.get(self.method, [{}])[self.number]

    @property
    def groups(self) -> list[tuple[Modality, ...]]:
        return in_groups(METHODS[self.method].num_modalities[1])

    @property
    def sees_distances_only(self) -> bool:
        return str(self.options.get("backbone")).startswith(DISTANCES_ONLY)

    def make(self, modalities: tuple[Modality, ...], **options: Any) -> Segmenter:
        torch.manual_seed(0)
        segmenter = create_segmenter(self.method, modalities, 2, self.options | options)
        segmenter.set_statistics(statistics_of(modalities))
        return segmenter.eval()


CASES = [Case(name, number) for name in METHODS for number in range(len(SMALL.get(name, [{}])))]


def _name(value: Any) -> str:
    return (
        f"{value.method}-{value.number}" if isinstance(value, Case) else "-".join(map(str, value))
    )


def _logits(segmenter: Segmenter, images: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return segmenter(images).logits


def _targets() -> list[tuple[str, int]]:
    return [(m.name, band) for m in MODALITIES for band in range(len(m.bands))]


def _at_risk() -> list[tuple[str, int]]:
    """The last band of the first modality, which is of the later date, and that of the last one."""
    return [(m.name, len(m.bands) - 1) for m in (MODALITIES[0], MODALITIES[-1])]


def _learnt(*, quick: bool) -> list[Any]:
    """Cases and bands: one of each method and the quick ones at risk, or all others.

    That each band has an influence is in the contract, of all methods and options.
    """
    first, last = _at_risk()
    found = []
    for case in CASES:
        own = [first] if case.sees_distances_only else [last]
        own += [first] if case.number in AT_RISK.get(case.method, ()) else []
        chosen = case.number in (0, *AT_RISK.get(case.method, ())) and case.method not in HEAVY
        for target in _targets() if case.number == 0 else (first, last):
            if case.sees_distances_only and target[0] != MODALITIES[0].name:
                continue
            if quick == (chosen and target in own):
                found.append((case, target))
    return found


def _check_learning(case: Case, target: tuple[str, int]) -> None:
    modalities = next(g for g in case.groups if target[0] in [m.name for m in g])
    options = with_all_learning(case.method, case.options | LEARNING.get(case.method, {}))
    segmenter = case.make(modalities, **options)
    generator = torch.Generator().manual_seed(1)
    fresh = signs_of(modalities, target, torch.Generator().manual_seed(2))
    config = TrainingConfig(steps=100, lr=1e-2, warmup_steps=10)
    step, scores = train_until(
        segmenter,
        config,
        lambda: signs_of(modalities, target, generator, batch=BATCHES.get(case.method, 8)),
        lambda: accuracy(segmenter, fresh),
        0.9,
    )
    print(f"{case.method}-{case.number}, {target}: 0.9 after {step} steps")
    assert step is not None, f"accuracies {', '.join(f'{x:.2f}' for x in scores)}"


@pytest.mark.parametrize(("case", "target"), _learnt(quick=True), ids=_name)
def test_bands_that_are_easily_lost_are_learnt_from(case: Case, target: tuple[str, int]) -> None:
    _check_learning(case, target)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "target"), _learnt(quick=False), ids=_name)
def test_every_band_is_learnt_from(case: Case, target: tuple[str, int]) -> None:
    _check_learning(case, target)


def _closed(segmenter: Segmenter) -> dict[str, torch.nn.Parameter]:
    """Weights that learn and are 0."""
    return {
        name: parameter
        for name, parameter in segmenter.named_parameters()
        if parameter.requires_grad and not name.endswith("bias") and not parameter.any()
    }


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_what_is_closed_at_the_start_opens(case: Case) -> None:
    """All that starts at 0 is named, leaves it, and has an influence then."""
    modalities = case.groups[0]
    segmenter = case.make(modalities)
    closed = _closed(segmenter)
    unknown = [n for n in closed if not any(re.search(pattern, n) for pattern in CLOSED)]
    assert not unknown
    if not closed:
        return
    generator = torch.Generator().manual_seed(1)
    config = TrainingConfig(steps=4, lr=1e-2, schedule="constant")
    batch = signs_of(modalities, (modalities[-1].name, 0), generator, batch=2)
    train_until(segmenter, config, lambda: batch, lambda: 0.0, 1.0)
    assert not set(closed) & set(_closed(segmenter))
    segmenter.eval()
    open_ = _logits(segmenter, batch[0])
    with torch.no_grad():
        for parameter in closed.values():
            parameter.zero_()
    assert change(open_, _logits(segmenter, batch[0])) > LEAST


@pytest.mark.slow
def test_every_exemption_is_needed() -> None:
    """A name in `CLOSED` that no method has any more goes."""
    found = {n for case in CASES for n in _closed(case.make(case.groups[0]))}
    assert [p for p in CLOSED if not any(re.search(p, n) for n in found)] == []

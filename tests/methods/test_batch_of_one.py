"""A batch of one sample of the smallest crop trains, or is refused with settings that do."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from small_methods import SMALL
from terrafuse.config import RunConfig
from terrafuse.config.base import parse_settings
from terrafuse.contract import Case
from terrafuse.contract.inputs import random_images
from terrafuse.describe.memory import check_small_batch
from terrafuse.errors import ConfigError
from terrafuse.methods import METHODS
from terrafuse.modalities import window_alignment
from terrafuse.samples import round_up

SMALLEST = 8
CASES = [pytest.param(Case(name, SMALL.get(name, [{}])[0]), id=name) for name in METHODS]


def settings(crop: int, batch: int) -> RunConfig:
    values: dict[str, Any] = {
        "data": {"manifest": "dataset.yaml", "crop_size": crop, "batch_size": batch},
        "method": {"name": "single"},
    }
    return parse_settings(RunConfig, values, "run.yaml")


def learn(case: Case, crop: int, batch: int) -> None:
    """A forward and a backward pass."""
    segmenter = case.start().train()
    output = segmenter(random_images(case.inputs, (crop, crop), batch=batch))
    assert output.logits.isfinite().all()
    terms = [x.mean() for x in (output.logits, *output.aux_logits, *output.losses.values())]
    torch.stack(terms).sum().backward()


@pytest.mark.parametrize("case", CASES)
def test_a_batch_of_one_trains_or_is_refused(case: Case) -> None:
    crop = round_up(SMALLEST, window_alignment(list(case.inputs)))
    segmenter = case.start()
    try:
        check_small_batch(segmenter, settings(crop, 1))
    except ConfigError as error:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            learn(case, crop, 1)
        remedy = r"Set data\.batch_size to 2 or more(?:, or data\.crop_size (\d+))?$"
        found = re.search(remedy, str(error))
        assert found is not None
        remedies = [(crop, 2)] + ([(int(found[1]), 1)] if found[1] else [])
    else:
        remedies = [(crop, 1)]
    for side, batch in remedies:
        check_small_batch(segmenter, settings(side, batch))
        learn(case, side, batch)


def test_some_are_refused() -> None:
    """Else the test above would hold of a check that does nothing."""
    case = Case("single", SMALL["single"][0])
    with pytest.raises(ConfigError, match=r"8 × 8 .* Single one value .* or data\.crop_size 48"):
        check_small_batch(case.start(), settings(8, 1))

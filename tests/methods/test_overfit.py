"""Every method learns one batch by heart: four crops like those of OMBRIA, within 200 steps.

Sizes, learning rate and batch are those under which docs compare the methods from scratch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from small_methods import SMALL
from terrafuse.config import TrainingConfig
from terrafuse.contract.learning import Labelled, accuracy, train_until, with_all_learning
from terrafuse.methods import METHODS, create_segmenter
from terrafuse.modalities import BandStatistics, Modality

COMPARED = Path(__file__).parents[2] / "configs" / "compare" / "methods_tiny.yaml"
MODALITIES = (
    Modality(
        "s2",
        ("before_1", "before_2", "before_3", "after_1", "after_2", "after_3"),
        kind="optical",
        wavelengths_um=(2.19, 0.865, 0.665, 2.19, 0.865, 0.665),
    ),
    Modality("s1", ("VV_t1", "VV_t2"), kind="sar"),
)
SIZE = 128
#: Side of a field, in pixels: the patch of transformers.
FIELD = 16
ENOUGH = 0.95


def crops() -> Labelled:
    """Four crops of 8 bits per band, of two dates and two sensors, and where land was flooded.

    Fields are bright or dark at each date. What was bright and is dark is flooded: neither date
    tells it alone, nor does the sum of both (other fields were dark and are bright). Radar has
    bright and dark fields of its own, the same at both dates, and shows the flood in two crops
    only: in the others wind roughens the water. There is next to no noise, by which fields could
    be known again.
    """
    generator = torch.Generator().manual_seed(0)

    def fields() -> Tensor:
        coarse = torch.randint(0, 2, (4, 1, SIZE // FIELD, SIZE // FIELD), generator=generator)
        return coarse.bool().repeat_interleave(FIELD, 2).repeat_interleave(FIELD, 3)

    was_bright, is_bright, rough = fields(), fields(), fields()
    flooded = was_bright & ~is_bright
    shade = torch.tensor([1.0, 0.8, 0.6]).view(1, 3, 1, 1)
    optical = torch.cat([shade * (60 + 90 * bright) for bright in (was_bright, is_bright)], dim=1)
    is_calm = torch.tensor([True, True, False, False]).view(4, 1, 1, 1)
    before = 90 + 60 * rough
    radar = torch.cat([before, before - 60 * (flooded & is_calm)], dim=1)
    images = {
        name: (image + torch.randn(image.shape, generator=generator)).round()
        for name, image in (("s2", optical), ("s1", radar))
    }
    return images, flooded[:, 0].long()


def _measured(images: dict[str, Tensor]) -> dict[str, BandStatistics]:
    found = {}
    for name, image in images.items():
        values = image.transpose(0, 1).flatten(1)
        rows = (values.mean(1), values.std(1), values.amin(1), values.amax(1))
        plain = [tuple(row.tolist()) for row in rows]
        found[name] = BandStatistics(*plain, (values.shape[1],) * len(values))
    return found


def _compared() -> list[Any]:
    """Rows of the comparison that start from scratch; small options of methods without one."""
    rows = yaml.safe_load(COMPARED.read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = {
        title: row["method"] for title, row in rows.items() if "pretrain" not in row
    }
    named = {method["name"] for method in found.values()}
    found |= {
        name: {"name": name, **SMALL.get(name, [{}])[0]} for name in METHODS if name not in named
    }
    return [pytest.param(method, id=title) for title, method in found.items()]


@pytest.mark.slow
@pytest.mark.parametrize("method", _compared())
def test_one_batch_is_learnt_by_heart(method: dict[str, Any]) -> None:
    options = dict(method)
    name = options.pop("name")
    images, labels = crops()
    _, most = METHODS[name].num_modalities
    modalities = MODALITIES[: most or 2]
    images = {m.name: images[m.name] for m in modalities}
    torch.manual_seed(0)
    segmenter = create_segmenter(name, modalities, 2, with_all_learning(name, options))
    segmenter.set_statistics(_measured(images))
    batch = (images, labels)
    config = TrainingConfig(steps=200, lr=1e-3, warmup_steps=20)
    step, scores = train_until(
        segmenter, config, lambda: batch, lambda: accuracy(segmenter, batch), ENOUGH, every=4
    )
    print(f"{ENOUGH} after {step} steps")
    assert step is not None, f"best {max(scores):.3f}, last {scores[-1]:.3f} after 200 steps"

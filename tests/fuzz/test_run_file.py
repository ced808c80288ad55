"""Mutated run files: `validate` works with one, or says what is wrong with it in one message."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import (
    ODD_VALUES,
    byte_changes,
    change_bytes,
    change_text,
    change_tree,
    few,
    judge,
    limited_memory,
    many,
    text_edits,
    tree_edits,
)
from small_methods import RESNET
from stored_run import make_data, write_config
from terrafuse import api
from terrafuse.config import RunConfig, load_run_config

FURTHER = {
    "data": {"train_splits": ["train"], "augment": {"flip": True, "scale": [0.8, 1.25]}},
    "training": {
        "seed": 0, "optimizer": "adamw", "precision": "32-true", "accelerator": "cpu",
        "devices": 1, "losses": [{"name": "cross_entropy", "weight": 1.0}],
    },
    "evaluation": {"split": "val", "boundary_tolerance_px": 3.0},
    "prediction": {"crop_size": 32, "overlap": 8},
}  # fmt: skip


class Place:
    """A data set, and two run files that fit it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        upseg = yaml.safe_load(write_config(folder, make_data(folder)).read_text())
        for section, values in FURTHER.items():
            upseg[section] = values | upseg.get(section, {})
        options = upseg["method"]["backbone_options"]
        options["out_indices"] = options.pop("taps")  # its name since
        # Relative, so that a mutated run file is refused for what was mutated.
        upseg["data"]["manifest"] = "dataset.yaml"
        late = upseg | {"method": {"name": "late_fusion", **RESNET}}
        self.seeds = [upseg, late]
        self.path = folder / "run.yaml"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("run"))
    for seed in place.seeds:
        place.path.write_text(yaml.safe_dump(seed))
        api.validate(place.path)
    with limited_memory():
        yield place


# One value of a section that the whole file would seldom lead to.
values = st.tuples(st.sampled_from(("data", "training", "method", "evaluation", "prediction")),
                   st.integers(0, 99), st.sampled_from(ODD_VALUES))  # fmt: skip
mutated = st.tuples(
    tree_edits, text_edits, byte_changes, values, st.integers(0, 9), st.integers(0, 1)
)


def content_of(place: Place, case: Any) -> bytes:
    edits, texts, changes, (section, number, value), how, seed = case
    tree = place.seeds[seed]
    if how == 0:
        return change_bytes(yaml.safe_dump(tree).encode(), changes)
    if how < 4:
        keys = _keys(section, tree)
        tree = tree | {section: tree.get(section, {}) | {keys[number % len(keys)]: value}}
    elif how > 5:
        tree = change_tree(tree, edits)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    return (change_text(text, texts) if how in (4, 5, 6) else text).encode(errors="replace")


def _keys(section: str, tree: Any) -> list[str]:
    """All keys of a section, of which a run file names few."""
    if section == "method":
        return list(tree["method"])
    return list(RunConfig.model_fields[section].annotation.model_fields)  # type: ignore[union-attr]


def check(place: Place, case: Any) -> None:
    place.path.write_bytes(content_of(place, case))
    if not judge(lambda: api.validate(place.path)):
        assert_sensible(load_run_config(place.path))


def assert_sensible(config: RunConfig) -> None:
    """Fail on what was once accepted in silence."""
    for number in _numbers(config.model_dump()):
        assert math.isfinite(number), number
    training = config.training
    assert 0 < training.lr < 1e6
    assert 0 <= training.seed < 2**63
    assert training.steps >= 1
    assert training.devices == "auto" or isinstance(training.devices, list) or training.devices > 0
    assert training.accelerator in ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
    assert config.data.batch_size >= 1


def _numbers(node: Any) -> Iterator[float]:
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list | tuple):
        for item in node:
            yield from _numbers(item)
    elif isinstance(node, float):
        yield node


@few(100)
@given(case=mutated)
def test_some_run_files(place: Place, case: Any) -> None:
    check(place, case)


@pytest.mark.fuzz
@many
@given(case=mutated)
def test_many_run_files(place: Place, case: Any) -> None:
    check(place, case)

"""configs/compare: one protocol for all methods, and every method in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from terrafuse.api.sweep_plan import plan_sweep, read_methods
from terrafuse.config import load_run_config
from terrafuse.describe import without_values
from terrafuse.methods import METHODS, create_segmenter
from terrafuse.modalities import Modality

COMPARE = Path(__file__).parents[1] / "configs" / "compare"
FILES = {path.stem: path for path in COMPARE.glob("*.yaml")}
METHOD_FILES = {name: path for name, path in FILES.items() if name.startswith("methods_")}
RUNS = {name: path for name, path in FILES.items() if name not in METHOD_FILES}
FROM_SCRATCH = ("landscape", "ombria")
PUBLISHED = sorted(RUNS.keys() - set(FROM_SCRATCH))
MODALITIES = (
    Modality(
        "optical", tuple("bgrn"), kind="optical", wavelengths_um=(0.49, 0.56, 0.665, 0.842)
    ),
    Modality("sar", ("VV", "VH"), kind="sar"),
)  # fmt: skip


def test_the_published_sets_are_all_there() -> None:
    assert PUBLISHED == ["forests", "gid15", "mmhunan", "potsdam", "vaihingen", "whu_opt_sar"]


@pytest.mark.parametrize("name", sorted(RUNS))
def test_weights_are_chosen_on_scenes_that_are_not_judged(name: str) -> None:
    config = load_run_config(RUNS[name])
    assert config.training.validation_split == "val"
    assert config.evaluation.split == "test"
    assert config.data.train_splits == ("train",)
    assert len(config.data.modalities or ()) == 2
    every = config.training.validate_every
    assert every is not None
    assert config.training.steps % every == 0
    assert config.training.steps > every  # there is something to choose from


def test_published_sets_share_the_protocol() -> None:
    first = load_run_config(RUNS[PUBLISHED[0]])
    for name in PUBLISHED:
        config = load_run_config(RUNS[name])
        assert config.method == first.method
        free = ("steps", "warmup_steps", "validate_every")
        shared = config.training.model_dump(exclude=set(free))
        assert shared == first.training.model_dump(exclude=set(free)), name
        for key in free[1:]:  # the same share of all steps
            own, others = (getattr(c.training, key) / c.training.steps for c in (config, first))
            assert own == others, name
        assert config.data.batch_size == first.data.batch_size
        assert config.data.augment == first.data.augment
        assert config.predict_crop_size == config.data.crop_size
        assert config.predict_overlap * 4 == config.data.crop_size


@pytest.mark.parametrize("name", sorted(METHOD_FILES))
def test_every_method_is_in_it_and_can_be_built(name: str) -> None:
    methods = read_methods(METHOD_FILES[name])
    named = {entry.method.name for entry in methods.values()}
    assert named == set(METHODS) - {"galileo"}  # which needs the bands of Sentinel, by name
    for title, entry in methods.items():
        modalities = MODALITIES[:1] if entry.modalities == "each" else MODALITIES
        segmenter = without_values(
            lambda m=modalities, e=entry.method: create_segmenter(e.name, m, 2, e.options)
        )
        assert segmenter.num_classes == 2, title


def test_tiny_methods_are_tiny_and_from_scratch() -> None:
    for title, entry in read_methods(METHOD_FILES["methods_tiny"]).items():
        assert entry.method.options.get("weights") is None, title
        modalities = MODALITIES[:1] if entry.modalities == "each" else MODALITIES
        model = without_values(
            lambda m=modalities, e=entry.method: create_segmenter(e.name, m, 2, e.options)
        )
        count = sum(p.numel() for p in model.parameters())
        # PAGNet's encoders have no smaller form.
        assert count < (7e6 if entry.method.name == "pagnet" else 2.2e6), title


@pytest.mark.parametrize("name", FROM_SCRATCH)
def test_a_row_with_pretraining_differs_by_it_alone(name: str, tmp_path: Path) -> None:
    methods = read_methods(METHOD_FILES["methods_tiny"])
    pairs = {title: entry for title, entry in methods.items() if entry.pretrain}
    objectives = {e.pretrain.objective.name for e in pairs.values() if e.pretrain}
    assert objectives == {"decur", "infonce", "croma", "mae"}
    for title, entry in pairs.items():
        assert entry.method == methods[title.removesuffix(", pre-trained")].method
    if name == "landscape" and not load_run_config(RUNS[name]).data.manifest.exists():
        pytest.skip("terrafuse demo was not run here")
    jobs = plan_sweep(
        [RUNS[name]], tmp_path, methods=METHOD_FILES["methods_tiny"], seeds=3
    )  # fmt: skip
    assert len(jobs) == 3 * (len(methods) + 1)  # a row for each of the two modalities alone

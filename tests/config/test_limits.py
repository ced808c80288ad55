"""Every numeric setting has limits: what no run can mean is refused, wherever it is written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from terrafuse.api import validate
from terrafuse.cli.options import pairs
from terrafuse.config import load_run_config
from terrafuse.config.base import NamedOptions
from terrafuse.config.options import check_options
from terrafuse.config.pretrain import PretrainConfig, load_pretrain_config
from terrafuse.config.run import LossConfig, RunConfig
from terrafuse.errors import ConfigError, ModelError
from terrafuse.modalities import Modality

RUN = "data: {manifest: d.yaml}\nmethod: {name: single, backbone: resnet18}\n"
PRETRAIN = "data: {manifest: d.yaml}\nobjective: {name: mae}\nbackbone: resnet18\n"
SENSELESS: tuple[float, ...] = (math.nan, math.inf, -math.inf, -1e30, 1e30, -(10**20), 10**20)
# What makes each class of settings valid apart from the field in question.
NEEDED: dict[str, dict[str, Any]] = {
    "DataConfig": {"manifest": "d.yaml"},
    "LossConfig": {"name": "dice"},
    "NamedOptions": {"name": "x"},
}


def shapes(annotation: Any) -> Iterator[Any]:
    """Yield functions that put a number where an annotation has one."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in (int, float):
        yield lambda value: value
    elif origin is Annotated:
        yield from shapes(inner[0])
    elif origin is tuple:
        for shape in shapes(inner[0]):
            count = 1 if Ellipsis in inner else len(inner)
            yield lambda value, shape=shape, count=count: [shape(value)] * count
    elif origin is dict:
        for shape in shapes(inner[1]):
            yield lambda value, shape=shape: {"x": shape(value)}
    elif origin is Union or type(annotation).__name__ == "UnionType":
        for member in inner:
            yield from shapes(member)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def numeric_fields() -> list[Any]:
    """Every field of the two settings files that may hold a number, with a way to write one."""
    waiting: list[type[BaseModel]] = [RunConfig, PretrainConfig]
    found = {}
    for model in waiting:  # grows while it is iterated over
        for name, field in model.model_fields.items():
            waiting += [m for m in models_in(field.annotation) if m not in waiting]
            for number, shape in enumerate(shapes(field.annotation)):
                found[f"{model.__name__}.{name}.{number}"] = (model, name, shape)
    return [pytest.param(*case, id=id) for id, case in found.items()]


def test_the_enumeration_finds_fields_of_every_kind() -> None:
    ids = {str(case.id) for case in numeric_fields()}
    assert {
        "TrainingConfig.lr.0", "TrainingConfig.milestones.0", "LossConfig.weight.0",
        "DataConfig.modality_dropout.1", "AugmentConfig.scale.0", "FixedStatistics.std.1",
        "PretrainTrainingConfig.save_every.0", "PredictionConfig.overlap.0",
    } <= ids  # fmt: skip
    assert len(ids) >= 50


@pytest.mark.parametrize(("model", "name", "shape"), numeric_fields())
def test_every_number_has_limits(model: type[BaseModel], name: str, shape: Any) -> None:
    needed = NEEDED.get(model.__name__, {})
    for value in (*SENSELESS, True):
        if value is True and name == "flip":
            continue
        with pytest.raises(ValidationError):
            model.model_validate(needed | {name: shape(value)})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lr: .inf", "'training.lr' is inf: Input should be a finite number (line 3, column 12)"),
        ("lr: .nan", "'training.lr' is nan"),
        ("lr: 0", "greater than 0"),
        ("lr: -1e-3", "greater than 0"),
        ("lr: 1e9", "less than or equal to 1000"),
        ("seed: 1e20", "'training.seed' is 1e+20: give a whole number of 64 bits at most"),
        ("seed: 1e10", "less than or equal to 4294967295"),
        ("seed: -1", "greater than or equal to 0"),
        ("seed: 0.5", "valid integer"),
        ("devices: -1", "greater than or equal to 1"),
        ("devices: 0", "greater than or equal to 1"),
        ("devices: '-1'", "numbers of devices ('0,1'), or 'auto'"),
        ("accelerator: gpuu", "'auto', 'cpu', 'gpu', 'cuda' or 'mps'"),
        ("strategy: dpp", "give auto, ddp or fsdp"),
        ("precision: 64", "'32-true', '16-mixed' or 'bf16-mixed'"),
        ("steps: 0", "greater than or equal to 1"),
        ("steps: 1e9", "less than or equal to 100000000"),
        ("nodes: 0", "greater than or equal to 1"),
        ("weight_decay: -.1", "greater than or equal to 0"),
        ("momentum: 1", "less than 1"),
    ],
)
@pytest.mark.parametrize("verb", [load_run_config, load_pretrain_config])
def test_a_senseless_setting_of_training_is_refused_with_its_line(
    tmp_path: Path, verb: Any, setting: str, message: str
) -> None:
    path = tmp_path / "settings.yaml"
    text = PRETRAIN if verb is load_pretrain_config else RUN
    line = len(text.splitlines()) + 1
    path.write_text(f"{text}training: {{{setting}}}\n")
    with pytest.raises(ConfigError) as caught:
        verb(path)
    assert message.replace("line 3", f"line {line}") in str(caught.value)
    assert f"(line {line}, column 12)" in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("crop_size: 0", "greater than or equal to 8"),
        ("crop_size: 1000000000", "less than or equal to 65536"),
        ("batch_size: -4", "greater than or equal to 1"),
        ("batch_size: 1000000000", "less than or equal to 65536"),
        ("label_share: 1.5", "less than or equal to 1"),
        ("label_share: .nan", "finite number"),
        ("workers: 1e6", "less than or equal to 1024"),
        ("augment_on: gpu", "'auto', 'reader' or 'device'"),
        ("block_cache_mb: -1", "greater than or equal to 0"),
        ("block_cache_mb: 0.5", "integer"),
        ("block_cache_mb: 1e9", "less than or equal to 16777216"),
        ("modality_dropout: .nan", "finite number"),
        ("modality_dropout: {a: .inf}", "finite number"),
        ("normalization: {s1: {std: 0}}", "above 0"),
        ("augment: {gain: 2}", "less than or equal to 1"),
    ],
)
def test_a_senseless_setting_of_the_data_is_refused(
    tmp_path: Path, setting: str, message: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(RUN.replace("d.yaml}", f"d.yaml, {setting}}}"))
    with pytest.raises(ConfigError, match=message) as caught:
        load_run_config(path)
    assert "(line 1, column " in str(caught.value)


@pytest.mark.parametrize("text", [RUN, PRETRAIN])
def test_validate_refuses_them_before_it_looks_for_the_manifest(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(f"{text}training: {{seed: -1}}\n")
    with pytest.raises(ConfigError, match=r"'training\.seed' is -1"):
        validate(path)
    path.write_text(f"{text}training: {{seed: 1}}\n")
    with pytest.raises(ConfigError, match=r"there is no file '.*d\.yaml'"):
        validate(path)


def test_a_value_of_the_command_line_is_told_from_one_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(RUN + "training: {lr: 0.1}\n")
    with pytest.raises(ConfigError, match=r"'training\.lr' is inf: .*\(set on the command line\)"):
        load_run_config(path, {"training.lr": ".inf"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: .nan", "'seed' is nan; give a finite number of 64 bits"),
        ("sizes: [1, 1e20]", r"'sizes' is 1e\+20"),
        ("inner: {big: 99999999999999999999}", r"'inner\.big' is 99999999999999999999"),
        ("pretrained: no", "'pretrained' is 'no', which is a text in YAML 1.2; write false"),
        ("inner: {deep: [On]}", r"'inner\.deep' is 'On', .* write true"),
    ],
)
def test_options_whose_type_is_not_known_yet_are_plain(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"data: {{manifest: d}}\nmethod: {{name: single, {text}}}\n")
    with pytest.raises(ConfigError, match=message):
        load_run_config(path)
    path.write_text(f"{PRETRAIN}backbone_options: {{{text}}}\n")
    with pytest.raises(ConfigError, match=message):
        load_pretrain_config(path)
    with pytest.raises(ValidationError, match="64 bits"):
        LossConfig(name="dice", weight=1.0, more=math.inf)
    assert NamedOptions(name="x", even=2**62, small=-1e-9, word="none").options["even"] == 2**62


def test_an_option_that_is_not_finite_is_refused_by_its_signature() -> None:
    def method(*, rate: float = 0.1) -> None: ...

    with pytest.raises(ModelError, match=r"option 'rate' of method 'mine' is nan: .*finite"):
        check_options("method", "mine", method, {"rate": math.nan})
    assert check_options("method", "mine", method, {"rate": 1}) == {"rate": 1.0}


def test_a_setting_that_is_given_twice_on_the_command_line_is_refused() -> None:
    assert pairs(["a.b=1", "a.c= 2"]) == {"a.b": "1", "a.c": "2"}
    with pytest.raises(ConfigError, match=r"'a\.b' is given twice; leave one out"):
        pairs(["a.b=1", " a.b =1"])


@pytest.mark.parametrize("scale", [math.nan, math.inf, 0.0, -1.0])
def test_a_modality_of_code_has_a_scale(scale: float) -> None:
    with pytest.raises(ConfigError, match="allowed is a positive ratio"):
        Modality("s1", ("VV",), scale=scale)

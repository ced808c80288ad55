"""What exported files say about themselves: whole when read back, one clear message when not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from remedies import refused
from terrafuse.classes import ClassScheme
from terrafuse.errors import WeightsError, WeightsMismatchError
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.weights import PortableInfo, RunInfo

NAN = float("nan")
RUN = RunInfo(
    method="late_fusion",
    method_options={"backbone": "resnet18"},
    modalities=(
        Modality("s2", ("B4", "B8"), "optical", wavelengths_um=(0.665, 0.842), unit="reflectance"),
        Modality("s1", ("VV",), "sar", unit="db", scale=2.5),
    ),
    scheme=ClassScheme(("dry", "open water"), ("#c8b48c", "#1f5fd0"), ((0,), (254, 255)), (9,)),
    statistics={
        "s2": BandStatistics((0.1, 0.3), (0.05, 0.1), (0.0, 0.1), (0.2, 0.5), (10, 0)),
        "s1": BandStatistics((NAN,), (3.0,), (-20.0,), (-5.0,), (10,)),
    },
    crop_size=128,
    overlap=32,
)
INFO = PortableInfo(
    model=RUN.to_dict(),
    windows={"crop_size": 128, "overlap": 32, "blending": "taper", "batch_size": 8},
    stride=32,
    supports_missing=True,
    calibration={"format": 1, "subsets": {}},
    licence="CC-BY-4.0",
    precision="float16",
    opset=18,
    checked={"equal_labels": 1.0, "largest_difference": NAN},
)


def changed(**values: Any) -> str:
    return json.dumps({**json.loads(INFO.to_json()), **values})


def without(key: str) -> str:
    return json.dumps({k: v for k, v in json.loads(INFO.to_json()).items() if k != key})


def test_everything_comes_back() -> None:
    text = INFO.to_json()
    back = PortableInfo.from_json(text.encode(), "m.onnx")
    assert json.loads(text)["format"] == 1
    assert ": NaN" not in text
    assert back.to_json() == text
    # NaN has no equal, and becomes null outside of the statistics.
    assert replace(back.run, statistics=RUN.statistics) == RUN
    assert back.run.statistics["s2"] == RUN.statistics["s2"]
    assert back.checked == {"equal_labels": 1.0, "largest_difference": None}
    assert replace(back, model=INFO.model, checked=INFO.checked) == INFO


def test_inputs_are_modalities_or_their_stack() -> None:
    assert INFO.inputs == {"s2": 2, "s1": 1}
    assert replace(INFO, stacked=True).inputs == {"image": 3}


def test_keys_that_a_file_may_leave_out() -> None:
    assert not PortableInfo.from_json(without("stacked"), "m.onnx").stacked
    assert PortableInfo.from_json(without("least_size"), "m.onnx").least_size == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is damaged: Expecting property name"),
        (b"\xff\xfe\x00{", "is damaged"),
        ("[1]", "is damaged: no 'format'"),
        (without("format"), "is damaged: no 'format'"),
        (without("stride"), "is damaged: no 'stride'"),
        (changed(stride=0), "is damaged: 'stride' is 0"),
        (changed(stride=True), "is damaged: 'stride' is of type bool"),
        (changed(supports_missing=1), "is damaged: 'supports_missing' is of type int"),
        (changed(precision="int4"), "is damaged: 'precision' is 'int4'"),
        (changed(stacked="no"), "is damaged: 'stacked' is of type str"),
        (changed(least_size=0), "is damaged: 'least_size' is 0"),
        (changed(model={}), r"is damaged: no '\w+'"),
        (changed(model={**RUN.to_dict(), "modalities": 3}), "is damaged: 'modalities' is of type"),
    ],
)
def test_damage_is_named(text: str | bytes, said: str) -> None:
    with refused("weights.portable:damaged | Copy the file again", WeightsError) as told:
        PortableInfo.from_json(text, "m.onnx")
    assert re.match(f"what 'm.onnx' says about itself {said}", told.text)


@pytest.mark.parametrize(
    "text",
    [changed(format=2), changed(model={**RUN.to_dict(), "format_version": 2})],
)
def test_a_newer_file_is_not_guessed_at(text: str) -> None:
    place = "weights.portable:_read | or export the run again with this one"
    with refused(place, WeightsMismatchError):
        PortableInfo.from_json(text, "m.onnx")


def test_a_foreign_file_is_told_apart() -> None:
    with refused("weights.portable:PortableInfo.from_json | Export the run again"):
        PortableInfo.from_json(None, "m.onnx")


def test_no_torch_is_needed() -> None:
    program = (
        "import sys\n"
        "sys.modules['torch'] = None\n"  # an import of it fails from now on
        "from terrafuse.weights import PortableInfo, RunInfo\n"
        "text = sys.stdin.read()\n"
        "assert PortableInfo.from_json(text, 'm.onnx').to_json() == text\n"
    )
    subprocess.run([sys.executable, "-c", program], input=INFO.to_json(), text=True, check=True)

from __future__ import annotations

import numpy as np
import pytest

from terrafuse.api import suggested_fixes
from terrafuse.data.grid import Grid
from terrafuse.data.schema import SceneEntry
from terrafuse.doctor.scales import check_scales
from terrafuse.doctor.summary import ModalityRecord, SceneRecord
from terrafuse.modalities import Modality

RNG = np.random.default_rng(0)


@pytest.fixture
def check(look_at):
    """Function that checks one array per scene, or a list of them, as one modality."""

    def run(*arrays: np.ndarray, kind: str = "optical", unit: str = "dn") -> list:
        records = []
        for i, array in enumerate(arrays):
            seen = look_at(m=(array, {"kind": kind}, {})).seen["m"]
            entry = SceneEntry(f"x{i}", "train", {"m": ("m.tif",)})
            grid = Grid(None, None, 32, 32)
            record = SceneRecord(entry, grid, False, np.zeros(2, np.int64))
            record.summaries["m"] = ModalityRecord.of(seen)
            records.append(record)
        modality = Modality("m", tuple(f"b{i}" for i in range(len(arrays[0]))), kind, unit=unit)
        return list(check_scales(modality, records))

    return run


def reflectance(bands: int = 2, size: int = 48) -> np.ndarray:
    return RNG.gamma(2, 0.05, (bands, size, size)).astype(np.float32).clip(0.001, 1)


def decibels() -> np.ndarray:
    return RNG.normal(-12, 4, (1, 48, 48)).astype(np.float32)


def test_one_scale_says_nothing(check):
    assert check(reflectance(), reflectance(), unit="reflectance") == []
    assert check(reflectance() * 1e4, reflectance() * 5e3, unit="reflectance_10000") == []
    assert check(decibels(), decibels(), kind="sar", unit="db") == []
    assert check(10 ** (decibels() / 10), kind="sar", unit="linear") == []
    assert check(10 ** (decibels() / 10), kind="sar") == []


@pytest.mark.parametrize(
    ("factor", "said", "better"),
    [(1e4, "reflectance", "reflectance_10000"), (200, "reflectance", "dn"),
     (1, "reflectance_10000", "reflectance")],
)  # fmt: skip
def test_another_unit_than_declared(check, factor, said, better):
    (finding,) = check(*[reflectance() * factor for _ in range(3)], unit=said)
    assert (finding.severity, finding.code, finding.scene) == ("warning", "unit", None)
    assert finding.fix == {"modalities.m.unit": better}
    assert "3 of 3 scenes" in finding.message


@pytest.mark.parametrize("factor", [1e4, 250])
def test_one_scene_of_another_scale(check, factor):
    arrays = [reflectance() for _ in range(4)]
    arrays[2] = (arrays[2] * factor).clip(0, 255 if factor < 1e3 else None)
    (finding,) = check(*arrays, unit="reflectance")
    assert (finding.code, finding.scene) == ("mixed-scale", "x2")
    exact = {"scenes": {"x2": {"value_scale": {"m": 0.0001}}}}
    assert finding.fix == (exact if factor == 1e4 else {})
    assert "'value_scale" in finding.remedy


def test_a_dark_scene_is_no_other_scale(check):
    dark = (reflectance() * 200).clip(0, 255)  # water only, of 16 bits
    assert check(reflectance() * 1e3, reflectance() * 1e3, dark) == []


def test_an_offset_in_some_scenes(check):
    arrays = [np.round(reflectance() * 1e4) for _ in range(4)]
    arrays[3] += 1000
    (finding,) = check(*arrays)
    assert (finding.severity, finding.code, finding.scene) == ("warning", "offset", "x3")
    assert "04.00" in finding.message
    assert "add 'value_offset: {m: -1000}' to scene 'x3'" in finding.remedy
    assert finding.fix == {"scenes": {"x3": {"value_offset": {"m": -1000}}}}
    tagged = check(*[a / 1e4 for a in arrays])[0]
    assert tagged.fix == {"scenes": {"x3": {"value_offset": {"m": -0.1}}}}
    assert check(*[a / 1e4 for a in arrays])[0].code == "offset"
    assert check(*[arrays[3]] * 2) == []  # everywhere: nothing is mixed
    assert check(arrays[0], arrays[1] + 3000) == []  # snow


def test_decibels_and_linear(check):
    power = 10 ** (decibels() / 10)
    (finding,) = check(decibels(), power, decibels(), kind="sar", unit="db")
    assert (finding.code, finding.scene) == ("mixed-scale", "x1")
    (finding,) = check(power, power, kind="sar", unit="dB")
    assert (finding.code, finding.fix) == ("unit", {"modalities.m.unit": "linear"})
    (finding,) = check(decibels(), kind="sar", unit="linear")
    assert finding.fix == {"modalities.m.unit": "db"}
    (finding,) = check(decibels() * 100, kind="sar", unit="db")
    assert "multiplied by 100 to store" in finding.remedy
    assert finding.fix == {"modalities.m.value_scale": 0.01}
    (finding,) = check(decibels(), decibels() * 10, kind="sar", unit="db")
    assert "add 'value_scale: {m: 0.1}' to scene 'x1'" in finding.remedy
    assert finding.fix == {"scenes": {"x1": {"value_scale": {"m": 0.1}}}}
    (finding,) = check(decibels(), kind="sar", unit="dn")
    assert (finding.severity, finding.fix) == ("note", {"modalities.m.unit": "db"})
    bytes_ = RNG.integers(1, 255, (1, 48, 48)).astype(np.uint8)
    assert check(bytes_, kind="sar", unit="dn") == []
    (finding,) = check(bytes_, kind="sar", unit="db")
    assert finding.fix == {"modalities.m.unit": "dn"}


def test_heights_in_centimetres(check):
    hills = [RNG.random((1, 48, 48)).astype(np.float32) * 80 + 200 for _ in range(4)]
    assert check(*hills, kind="elevation", unit="m") == []
    hills[1] = hills[1] * 100
    (finding,) = check(*hills, kind="elevation", unit="m")
    assert (finding.code, finding.scene) == ("mixed-scale", "x1")
    assert finding.fix == {"scenes": {"x1": {"value_scale": {"m": 0.01}}}}


def test_tags_of_the_files_are_part_of_the_line(check):
    """A scene of scale tag 0.0001 among untagged ones, whose lowest value is that of 04.00."""
    arrays = [np.round(reflectance() * 1e4) + 1 for _ in range(3)]
    arrays[0] = (arrays[0] / 1e4 + 0.1).astype(np.float32)
    findings = check(*arrays)
    assert [f.code for f in findings] == ["mixed-scale", "offset"]
    merged = suggested_fixes(findings)["scenes"]["x0"]
    # The doctor's line is (v - 0.1) · 10000, whichever of the findings is read first.
    assert merged == {"value_scale": {"m": 10000}, "value_offset": {"m": -1000}}

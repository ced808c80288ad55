"""Every fault of the benchmark's catalogue is told, in error or warning, with its place."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from terrafuse.data import load_manifest
from terrafuse.doctor import check_manifest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "doctor"
sys.path.insert(0, str(BENCHMARK))
try:
    from faults import CATALOGUE
    from faulty_data import make_faulty, make_sound
finally:
    sys.path.remove(str(BENCHMARK))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    make_sound(folder, seed=0)
    return folder


def test_the_catalogue_is_as_large_as_promised():
    assert len(CATALOGUE.faults) >= 30
    assert len({fault.name for fault in CATALOGUE.faults}) == len(CATALOGUE.faults)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sound_data_have_neither_errors_nor_warnings(seed, tmp_path):
    findings = check_manifest(load_manifest(make_sound(tmp_path, seed)))
    assert [str(f) for f in findings if f.severity != "note"] == []


@pytest.mark.parametrize("fault", CATALOGUE.faults, ids=lambda fault: fault.name)
def test_faults_are_told(fault, sound, tmp_path):
    manifest = make_faulty(sound, tmp_path / "faulty", fault, seed=0)
    findings = check_manifest(load_manifest(manifest))
    told = [finding for finding in findings if fault.is_told_by(finding)]
    assert told, [str(finding) for finding in findings]
    assert told[0].message

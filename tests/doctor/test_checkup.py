"""The order of a check: scenes in parallel, findings in the manifest's order."""

from __future__ import annotations

import ast
import re
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from rasterio.transform import from_origin

from terrafuse.api.datasets import data_check
from terrafuse.data import kept, load_manifest
from terrafuse.doctor import check_manifest, checkup, files, iterate_findings

SIZE = 40


@pytest.fixture
def manifest(make_raster, tmp_path):
    """Twelve scenes without CRS or with; every third has labels outside the scheme."""
    rng = np.random.default_rng(0)
    scenes = []
    for i in range(12):
        place = {"transform": from_origin(500_000 + 10_000 * i, 5_000_000, 10, 10)}
        labels = rng.integers(0, 2, (1, SIZE, SIZE)).astype(np.uint8)
        labels[0, 0, : i + 1] = 9 if i % 3 == 0 else 0
        image = rng.random((2, SIZE + (i == 4), SIZE)).astype(np.float32)
        crs = None if i == 4 else "EPSG:32633"  # one row more than its labels: matched by pixel
        make_raster(tmp_path / f"{i}.tif", image, crs=crs, **place)
        make_raster(tmp_path / f"{i}_labels.tif", labels, crs=crs, **place)
        split = ("train", "val", "test")[min(i // 5, 2)]
        scene = {"id": f"s{i}", "split": split, "m": f"{i}.tif", "labels": f"{i}_labels.tif"}
        scenes.append(scene)
    values = {
        "classes": [{"name": "a", "code": 0}, {"name": "b", "code": 1}],
        "modalities": {"m": {"bands": ["x", "y"]}},
        "scenes": scenes,
    }
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(values))
    return load_manifest(tmp_path / "dataset.yaml")


@pytest.mark.parametrize("deep", [True, False])
def test_findings_do_not_depend_on_the_number_of_workers(manifest, deep):
    alone = check_manifest(manifest, deep=deep, workers=1)
    for workers in (2, 4, 16):
        assert check_manifest(manifest, deep=deep, workers=workers) == alone
    labels = [finding.scene for finding in alone if finding.code == "labels"]
    assert labels == ["s0", "s3", "s6", "s9"]
    warned = [finding for finding in alone if finding.code == "reading"]
    assert [finding.scene for finding in warned] == ["s4"]
    assert "the rest has no data" in warned[0].message


def test_the_filter_of_warnings_is_as_before(manifest):
    before = list(warnings.filters)
    check_manifest(manifest, workers=4)
    assert warnings.filters == before


def test_findings_are_reported_as_they_come(manifest):
    reported = []
    seen_at = []
    found = check_manifest(
        manifest,
        workers=2,
        report=reported.append,
        progress=lambda done, total: seen_at.append((done, len(reported))),
    )
    assert reported == found
    assert [done for done, _ in seen_at] == list(range(1, 13))
    assert seen_at[0][1] >= 1  # that of the first scene is known before the second


def test_reading_stops_where_the_reader_stops(manifest, monkeypatch):
    begun = []
    inner = checkup._examine

    def note(manifest, entry, **how):
        begun.append(entry.id)
        return inner(manifest, entry, **how)

    monkeypatch.setattr(checkup, "_examine", note)
    findings = iterate_findings(manifest, workers=2)
    next(findings)
    findings.close()
    assert len(begun) <= 5
    assert not [t for t in threading.enumerate() if t.name.startswith("doctor")]


def test_a_fault_of_ours_is_not_swallowed(manifest, monkeypatch):
    def fail(case):
        raise ZeroDivisionError

    monkeypatch.setattr(checkup, "observe", fail)
    with pytest.raises((ZeroDivisionError, TypeError)):
        check_manifest(manifest, workers=2)


def test_how_many_workers(monkeypatch):
    monkeypatch.setattr(checkup, "usable_cores", lambda: 64)
    assert checkup._count_workers(None, deep=True) == 4
    assert checkup._count_workers(None, deep=False) == 1  # training's own check costs as before
    assert checkup._count_workers(9, deep=True) == 9


def test_bands_of_one_wavelength_are_named(manifest):
    text = yaml.safe_load(manifest.path.read_text())
    dates = {"bands": ["nir_may", "nir_july"], "wavelengths_um": [0.842, 0.842], "kind": "optical"}
    text["modalities"]["m"] = dates
    manifest.path.write_text(yaml.safe_dump(text))
    for deep in (True, False):
        found = check_manifest(load_manifest(manifest.path), deep=deep)
        (note,) = [finding for finding in found if finding.code == "alike-bands"]
        assert (note.severity, note.modality) == ("note", "m")
        assert "nir_may, nir_july" in note.message
        assert (Path(__file__).parents[2] / note.remedy.split()[4]).is_file()


def test_every_code_is_in_the_documentation_and_only_those():
    """Codes stand second in `Finding(severity, code, …)`, and in the table of errors."""
    root = Path(__file__).parents[2]
    found = set(files._CODES.values()) | {"data"}
    for path in (root / "src" / "terrafuse" / "doctor").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
                code = node.args[1]
                found |= {code.value} if isinstance(code, ast.Constant) else set()
    page = (root / "docs" / "howto" / "check.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = {code for row in rows for code in re.findall(r"`([a-z0-9-]+)`", row)}
    named = {code for code in named if not code.startswith("--")}
    assert named == found


def test_findings_are_kept_while_nothing_changes(manifest, monkeypatch):
    """Deep and quick ones apart, in the same order, reported alike."""
    monkeypatch.setattr(kept, "_SETTLED_NS", 0)
    real, checked = checkup.observe, []

    def note(scene, *more):
        checked.append(scene.id)
        return real(scene, *more)

    monkeypatch.setattr(checkup, "observe", note)
    reported, said = [], []
    first = data_check(manifest, report=reported.append, say=said.append)
    assert checked
    assert not said
    checked.clear()
    again = []
    assert data_check(manifest, report=again.append, say=said.append) == first
    assert again == reported
    assert not checked
    assert "--fresh checks them again" in said[0]
    quick = data_check(manifest, quick=True)
    assert quick == data_check(manifest, quick=True)
    assert len(said) == 1
    assert data_check(manifest, fresh=True) == first
    assert checked

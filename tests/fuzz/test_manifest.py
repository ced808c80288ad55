"""Mutated manifests: the quick check works with one, or says what is wrong with it in one message.

A manifest that is taken must not hold what has no sense (`assert_sensible`).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rasterio.transform import from_origin

from fuzzing import (
    byte_changes,
    change_bytes,
    change_text,
    change_tree,
    few,
    judge,
    many,
    text_edits,
    tree_edits,
)
from terrafuse import api
from terrafuse.data import Manifest, load_manifest

SIDE = 16
MANIFEST = {
    "classes": [
        {"name": "dry", "code": 0, "color": "#c8b48c"},
        {"name": "flooded", "code": [1, 3], "color": "#1f5fd0"},
    ],
    "void": [255],
    "modalities": {
        "s1": {"kind": "sar", "bands": ["VV"], "unit": "db", "required": False},
        "s2": {
            "kind": "optical", "bands": ["B8", "B4"], "wavelengths_um": [0.842, 0.665],
            "unit": "dn", "nodata": 0, "value_scale": 0.0001, "scale": 1, "read_bands": [1, 2],
        },
    },
    "grid": "s2",
    "scenes": [
        {"id": "0001", "split": "train", "s1": "s1_0.tif", "s2": "s2_0.tif", "labels": "l_0.tif"},
        {"id": "b", "split": "val", "s2": "s2_1.tif", "labels": "l_1.tif", "window": [0, 0, 8, 8]},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifest")
    rng = np.random.default_rng(0)
    for scene in (0, 1):
        arrays = {
            "s1": rng.normal(-10, 3, (1, SIDE, SIDE)).astype(np.float32),
            "s2": rng.integers(1, 200, (2, SIDE, SIDE)).astype(np.uint16),
            "l": rng.choice([0, 1, 3, 255], (1, SIDE, SIDE)).astype(np.uint8),
        }
        for name, array in arrays.items():
            with rasterio.open(
                folder / f"{name}_{scene}.tif", "w", driver="GTiff", count=len(array),
                height=SIDE, width=SIDE, dtype=array.dtype, crs="EPSG:32633",
                transform=from_origin(500_000 + 10_000 * scene, 5_000_000, 10, 10),
            ) as dataset:  # fmt: skip
                dataset.write(array)
    (folder / "dataset.yaml").write_text(yaml.safe_dump(MANIFEST))
    found = api.data_check(folder / "dataset.yaml", quick=True)
    assert not [finding for finding in found if finding.severity == "error"]
    return folder


mutated = st.tuples(tree_edits, text_edits, byte_changes, st.integers(0, 9))


def content_of(case: Any) -> bytes:
    edits, texts, changes, how = case
    if how == 0:
        return change_bytes(yaml.safe_dump(MANIFEST).encode(), changes)
    tree = change_tree(MANIFEST, edits) if how > 3 else MANIFEST
    text = yaml.safe_dump(tree, sort_keys=how % 2 == 0, allow_unicode=True)
    return (change_text(text, texts) if how < 7 else text).encode(errors="replace")


def check(folder: Path, case: Any) -> None:
    path = folder / "dataset.yaml"
    path.write_bytes(content_of(case))
    taken: list[Manifest] = []
    judge(lambda: taken.append(load_manifest(path)))
    if taken:
        assert_sensible(taken[0])
        judge(lambda: api.data_check(path, quick=True))


def assert_sensible(manifest: Manifest) -> None:
    """Fail on what was once accepted in silence."""
    names = [*manifest.scheme.names, *manifest.known]
    names += [band for modality in manifest.known.values() for band in modality.bands]
    names += [e.id for e in manifest.entries] + [e.split for e in manifest.entries if e.split]
    for name in names:
        assert isinstance(name, str)
        assert name == name.strip() != "", repr(name)
        assert name.isprintable(), repr(name)
    for code in (code for codes in manifest.scheme.codes for code in codes):
        assert type(code) is int or isinstance(code, str), repr(code)  # texts are of polygons
    for modality in manifest.known.values():
        for wavelength in modality.wavelengths_um or ():
            assert 0 < wavelength < 1e6, wavelength  # radar has centimetres
            if modality.kind == "optical":
                assert wavelength < 100, wavelength  # in nm, say
        assert math.isfinite(modality.scale)
    splits = {entry.split for entry in manifest.entries if entry.split}
    assert len({split.casefold() for split in splits}) == len(splits), splits
    assert len({entry.id for entry in manifest.entries}) == len(manifest.entries)


@few(120)
@given(case=mutated)
def test_some_manifests(folder: Path, case: Any) -> None:
    check(folder, case)


@pytest.mark.fuzz
@many
@given(case=mutated)
def test_many_manifests(folder: Path, case: Any) -> None:
    check(folder, case)

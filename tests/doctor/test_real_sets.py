"""Real data: the traps that their READMEs name are told, and no error beyond them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared import shared_data
from terrafuse.data import Manifest, load_manifest, write_manifest
from terrafuse.doctor import Finding, check_manifest

CONFIGS = Path(__file__).parents[2] / "configs"

S2_UM = [0.443, 0.490, 0.560, 0.665, 0.705, 0.740, 0.783, 0.842, 0.865, 0.945, 1.375, 1.610, 2.190]


def told(findings: Sequence[Finding], *codes: str) -> list[str | None]:
    """Scenes of the findings of these kinds."""
    return [finding.scene for finding in findings if finding.code in codes]


def errors(findings: Sequence[Finding]) -> set[str]:
    return {finding.code for finding in findings if finding.severity == "error"}


def warned(findings: Sequence[Finding]) -> set[str]:
    return {finding.code for finding in findings if finding.severity == "warning"}


def classes(*names: str, first: int = 1) -> list[dict[str, Any]]:
    return [{"name": name, "code": code} for code, name in enumerate(names, first)]


def make(folder: Path, values: dict[str, Any]) -> Manifest:
    return load_manifest(write_manifest(values, folder / "dataset.yaml"))


def ombria(ids: Sequence[str] | None = None) -> Manifest:
    shared_data("ombria_flood")
    manifest = load_manifest(CONFIGS / "ombria" / "dataset.yaml")
    kept = tuple(entry for entry in manifest.entries if ids is None or entry.id in ids)
    return replace(manifest, entries=kept)


WRAPPED = ["0112", "0118", "0137", "0140", "0217", "0605"]
FRAMED = ["0001", "0019", "0137", "0171"]


def test_ombria_bright_values_that_ran_over_and_frames_without_data():
    sound = ["0003", "0005", "0648", "0741", "0646", "0600"]
    findings = check_manifest(ombria([*WRAPPED, *FRAMED, *sound]))
    assert errors(findings) == set()
    assert sorted(told(findings, "wrap-around")) == WRAPPED
    assert set(FRAMED) <= set(told(findings, "undeclared-nodata"))
    assert not set(sound) & set(told(findings, "undeclared-nodata", "wrap-around", "zeros"))


@pytest.mark.slow
def test_ombria_whole():
    findings = check_manifest(ombria())
    assert errors(findings) == set()
    assert sorted(told(findings, "wrap-around")) == WRAPPED
    # Near-duplicates there are none, it says; shifts beyond 2 px in 4 % of the chips.
    assert told(findings, "leak", "duplicate") == []
    shifted = told(findings, "registration")
    sure = [f for f in findings if f.code == "registration" and f.severity == "warning"]
    assert len(sure) <= 0.04 * 310, shifted
    assert warned(findings) <= {"wrap-around", "undeclared-nodata", "registration"}


def test_ombria_masks_are_0_and_255_not_1(tmp_path):
    manifest = ombria(["0001", "0003"])
    values = manifest.to_dict() | {"root": str(shared_data("ombria_flood"))}
    values["classes"] = classes("dry", "flooded", first=0)
    findings = check_manifest(make(tmp_path, values))
    assert told(findings, "labels") == ["0001", "0003"]
    assert "255 (" in findings[0].message


def terramesh(folder: Path, names: Sequence[str], void: Sequence[int]) -> Manifest:
    ids = {"637U_59R_1_3": "train", "433D_629L_3_1": "train", "38D_378R_2_3": "val",
           "609U_541L_3_0": "test"}  # fmt: skip
    shared_data("terramesh_s1_s2_dem")
    values = load_manifest(CONFIGS / "terramesh" / "dataset.yaml").to_dict()
    values["root"] = str(shared_data("terramesh_s1_s2_dem"))
    values["classes"], values["void"] = classes(*names), list(void)
    folders = {"s1": "S1RTC", "s2": "S2L2A", "dem": "DEM", "labels": "LULC"}
    values["scenes"] = [
        {"id": id, "split": split} | {name: f"{f}/{id}.tif" for name, f in folders.items()}
        for id, split in ids.items()
    ]
    return make(folder, values)


def test_terramesh_offset_of_1000_in_some_scenes(tmp_path):
    names = ("water", "trees", "flooded", "crops", "built", "bare", "snow", "clouds", "range")
    findings = check_manifest(terramesh(tmp_path, names, [0]))
    assert errors(findings) == set()
    assert told(findings, "offset") == ["433D_629L_3_1"]
    assert told(findings, "one-class") == ["609U_541L_3_0"]  # the frozen bay
    absent = {f.message for f in findings if f.code == "class-missing"}
    assert {"'bare'", "'snow'", "'clouds'"} == {message.split()[1] for message in absent}
    assert warned(findings) <= {"offset", "class-missing"}


def test_enmap_bands_without_data(tmp_path):
    root = shared_data("enmap_potsdam")
    scenes = []
    for split in ("train", "val", "test"):
        for line in (root / "splits" / f"{split}.txt").read_text().split()[:5]:
            name = line.removesuffix(".tif")
            files = {k: f"{k}/{name}.tif" for k in ("vnir", "swir")}
            scenes.append({"id": name, "split": split, "labels": f"label/{name}.tif"} | files)
    optical = {"kind": "optical", "unit": "reflectance_10000"}
    values = {
        "root": str(root),
        "classes": classes("roof", "pavement", "low vegetation", "tree", "soil", "water"),
        "void": [0],
        "modalities": {
            "vnir": optical | {"bands": [f"v{i}" for i in range(1, 92)]},
            "swir": optical | {"bands": [f"s{i}" for i in range(1, 134)]},
        },
        "scenes": scenes,
    }
    findings = check_manifest(make(tmp_path, values))
    assert errors(findings) == {"band-without-data"}
    (finding,) = [f for f in findings if f.severity == "error"]
    assert "6 bands of modality 'swir'" in finding.message
    assert "'s39', 's40', 's41', 's42', 's43', 's44'" in finding.message
    for key, value in finding.fix.items():
        values["modalities"]["swir"][key.rpartition(".")[2]] = value
    mended = check_manifest(make(tmp_path, values))
    assert errors(mended) == set()
    # Over water the product has no short-wave infrared: 0 in all 127 bands.
    doubts = [f for f in mended if f.severity == "warning"]
    assert {f.modality for f in doubts} == {"swir"}
    assert {f.code for f in doubts} == {"undeclared-nodata", "zeros"}
    absent = [f.message for f in mended if f.code == "class-not-judged"]
    assert absent == ["split 'test' has no pixel of 'water'"]


def test_chesapeake_absent_classes_and_scenes_of_one_class(tmp_path):
    root = shared_data("chesapeake_wv")
    layers = ("naip_new", "landsat_leaf_on", "buildings")
    scenes = [
        {"id": path.stem, "split": split, "labels": f"{split}/landcover/{path.name}"}
        | {layer: f"{split}/{layer}/{path.name}" for layer in layers}
        for split in ("train", "test")
        for path in sorted((root / split / "landcover").iterdir())
    ]
    landsat = ["coastal", "blue", "green", "red", "nir", "swir1", "swir2", "tirs1", "tirs2"]
    values = {
        "root": str(root),
        "classes": classes("water", "tree canopy", "low vegetation", "barren", "other", "roads"),
        "void": [0, 15],
        "modalities": {
            "naip_new": {"kind": "optical", "bands": ["red", "green", "blue", "nir"]},
            "landsat_leaf_on": {"kind": "optical", "bands": landsat},
            "buildings": {"kind": "structure", "bands": ["building"]},
        },
        "scenes": scenes,
    }
    findings = check_manifest(make(tmp_path, values))
    assert errors(findings) == set()
    missing = [f.message.split("'")[1] for f in findings if f.code == "class-missing"]
    assert missing == ["water", "barren", "roads"]
    assert len(told(findings, "one-class")) == 5
    assert warned(findings) <= {"class-missing", "no-val", "registration"}


def test_sen1floods11_labels_of_minus_1(tmp_path):
    chip = "Spain_7370579"
    values = {
        "root": str(shared_data("sen1floods11_chip")),
        "classes": classes("dry", "water", first=0),
        "void": [-1],
        "modalities": {
            "s1": {"kind": "sar", "unit": "db", "bands": ["VV", "VH"]},
            "s2": {"kind": "optical", "unit": "reflectance_10000", "wavelengths_um": S2_UM,
                   "bands": [f"B{i}" for i in range(13)]},
        },
        "scenes": [
            {"id": half, "split": split, "window": [0, column, 512, 256],
             "s1": f"S1Hand/{chip}_S1Hand.tif", "s2": f"S2Hand/{chip}_S2Hand.tif",
             "labels": f"LabelHand/{chip}_LabelHand.tif"}
            for half, split, column in (("left", "train", 0), ("right", "val", 256))
        ],
    }  # fmt: skip
    findings = check_manifest(make(tmp_path, values))
    assert errors(findings) | warned(findings) == set()
    values["void"] = []
    findings = check_manifest(make(tmp_path, values))
    assert "labels" in errors(findings)
    assert any("-1 (99 px" in f.message or "-1 (" in f.message for f in findings)
    values["void"] = [-1]
    values["modalities"]["s1"]["unit"] = "linear"
    (finding,) = [f for f in check_manifest(make(tmp_path, values)) if f.code == "unit"]
    assert finding.fix == {"modalities.s1.unit": "db"}


def test_slovenia_reflectance_and_odd_sizes():
    shared_data("slovenia_s2_dem")
    findings = check_manifest(load_manifest(CONFIGS / "slovenia" / "dataset.yaml"))
    assert errors(findings) == set()
    assert warned(findings) <= {"no-val"}


def test_alexandria_heights_with_declared_holes(tmp_path):
    values = {
        "root": str(shared_data("alexandria_dsm_buildings")),
        "classes": classes("ground", "building", first=0),
        "void": [255],
        "modalities": {
            name: {"kind": "elevation", "unit": "m", "bands": [f"{name} height"]}
            for name in ("dsm", "dtm", "hag")
        },
        "scenes": [
            {"id": "a", "split": "train", "labels": "buildings_mask.tif"}
            | {name: f"{name}.tif" for name in ("dsm", "dtm", "hag")}
        ],
    }
    findings = check_manifest(make(tmp_path, values))
    assert errors(findings) == set()
    assert warned(findings) <= {"no-val"}
    # The tag of the mask says the same of 255.
    values["void"] = []
    assert errors(check_manifest(make(tmp_path, values))) == set()

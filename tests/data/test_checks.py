from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from rasterio.transform import from_origin

from shared import shared_data
from terrafuse.data import load_manifest
from terrafuse.doctor import Finding, check_manifest, refuse_untrainable
from terrafuse.errors import DataError

RNG = np.random.default_rng(0)
SIZE = 40


def noise(bands: int = 1, dtype: type = np.float32) -> np.ndarray:
    return (RNG.random((bands, SIZE, SIZE)) * 100 + 1).astype(dtype)


def two_classes() -> np.ndarray:
    return RNG.integers(0, 2, (1, SIZE, SIZE)).astype(np.uint8)


@pytest.fixture
def check(make_raster, tmp_path):
    """Function that writes scenes, given as changes of a sound one, and checks them."""

    def run(
        *scenes: dict,
        deep: bool = True,
        classes: str = "ab",
        drop_splits: bool = False,
        drop_val: bool = False,
        options: dict | None = None,
        notes: bool = False,
        **rules,
    ) -> list[Finding]:
        entries = []
        given = list(scenes) or [{}]
        if not drop_val and not any(s.get("split") == "val" for s in given):
            given.append({"split": "val"})
        for i, changes in enumerate(given):
            parts = {"s2": noise(2), "s1": noise(), "labels": two_classes()} | changes
            entry: dict = {"id": f"x{i}", "split": parts.pop("split", "train")}
            if drop_splits:
                del entry["split"]
            profiles = parts.pop("options", {})
            origin = parts.pop("origin", (500_000 + 10_000 * i, 5_000_000))
            transform = from_origin(*origin, 10, 10)
            for name, value in parts.items():
                if isinstance(value, np.ndarray):
                    path = tmp_path / f"{i}_{name}.tif"
                    make_raster(path, value, **{"transform": transform} | profiles.get(name, {}))
                    entry[name] = path.name
                elif value is not None:
                    entry[name] = value
            entries.append(entry)
        values = {
            "classes": [{"name": name, "code": i} for i, name in enumerate(classes)],
            "void": [255],
            "modalities": {
                "s2": {"kind": "optical", "bands": ["r", "n"], "required": False},
                "s1": {"kind": "sar", "bands": ["vv"], "required": False} | rules,
            },
            "scenes": entries,
        }
        (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(values))
        manifest = load_manifest(tmp_path / "dataset.yaml")
        findings = check_manifest(manifest, deep=deep, **options or {})
        return [finding for finding in findings if notes or finding.severity != "note"]

    return run


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, [str(finding) for finding in findings]
    return findings[0]


@pytest.mark.parametrize("deep", [True, False])
def test_sound_data_has_no_findings(check, deep):
    assert check({}, {}, deep=deep) == []


@pytest.mark.parametrize("deep", [True, False])
def test_missing_file_is_found_and_the_rest_still_checked(check, deep):
    findings = check(
        {"s2": "gone.tif"}, {"labels": np.full((1, SIZE, SIZE), 7, np.uint8)}, deep=deep
    )
    missing, unknown = findings[:2]
    assert (missing.severity, missing.code, missing.scene) == ("error", "unreadable", "x0")
    assert "gone.tif" in missing.message
    assert (unknown.severity, unknown.code, unknown.scene) == ("error", "labels", "x1")
    assert "7 (1600 px" in unknown.message


@pytest.mark.parametrize("deep", [True, False])
def test_truncated_file(check, tmp_path, deep):
    check({})
    path = tmp_path / "0_s2.tif"
    path.write_bytes(path.read_bytes()[:-2000])
    finding = check({"s2": path.name}, deep=deep)[0]
    assert (finding.severity, finding.code) == ("error", "unreadable")
    assert "0_s2.tif" in str(finding)


def test_a_real_truncated_file(check):
    folder = shared_data("geotiff_zoo")
    finding = check({"s1": str(folder / "corrupt_truncated.tif")}, deep=False)[0]
    assert (finding.severity, finding.scene) == ("error", "x0")


def test_wrong_number_of_bands(check):
    finding = check({"s1": noise(3)})[0]
    assert (finding.severity, finding.code, finding.scene) == ("error", "bands", "x0")


@pytest.mark.parametrize("deep", [True, False])
def test_scene_without_any_data(check, deep):
    empty = {name: {"nodata": -1} for name in ("s1", "s2")}
    scene = {"s2": noise(2) * 0 - 1, "s1": noise() * 0 - 1, "options": empty}
    finding = only(check({}, scene, deep=deep))
    assert (finding.severity, finding.code, finding.scene) == ("error", "no-data", "x1")
    assert "all nodata" in str(finding)


@pytest.mark.parametrize("deep", [True, False])
def test_modality_without_data_in_one_scene_and_in_all(check, deep):
    scene = {"s1": noise() * 0 - 1, "options": {"s1": {"nodata": -1}}}
    finding = only(check({}, scene, deep=deep))
    assert (finding.severity, finding.code) == ("warning", "no-data-in-modality")
    findings = check(scene, deep=deep)
    assert findings[-1].severity == "error"
    assert findings[-1].code == "modality-without-data"
    assert "'s1'" in findings[-1].message


def test_labels_all_ignored(check):
    ignored = {"labels": np.full((1, SIZE, SIZE), 255, np.uint8)}
    finding = only(check({}, ignored))
    assert (finding.severity, finding.code, finding.scene) == ("warning", "labels-ignored", "x1")
    findings = check(ignored)
    assert [finding.severity for finding in findings] == ["warning", "error"]
    assert "labels of split 'train' are all ignored" in str(findings[1])


def test_scenes_without_labels(check):
    assert only(check({}, {"labels": None})).code == "no-labels"
    findings = check({"labels": None})
    assert [(f.severity, f.code) for f in findings] == [
        ("warning", "no-labels"),
        ("error", "no-labels"),
    ]


def test_class_that_is_only_in_validation(check):
    labels = two_classes()
    labels[0, :3, :5] = 2
    finding = only(check({}, {"split": "val", "labels": labels}, classes="abc"))
    assert (finding.severity, finding.code) == ("warning", "class-missing")
    assert "class 'c'" in str(finding)
    assert "15 pixels" in str(finding)


def test_constant_band_over_the_training_split(check):
    constant = noise(2)
    constant[1] = 5
    finding = only(check({"s2": constant}, {}))  # constant in one scene only
    assert (finding.severity, finding.code, finding.scene) == ("warning", "constant-in-scene", "x0")
    finding = check({"s2": constant}, {"s2": constant})[-1]
    assert (finding.severity, finding.code) == ("error", "constant-band")
    assert finding.fix["modalities.s2.read_bands"] == [1]
    assert "band 'n' of modality 's2' is 5 everywhere" in str(finding)


def test_nan_beside_a_nodata_value(check):
    values = noise()
    values[0, :2, :3] = np.nan
    assert check({"s1": values}) == []  # NaN alone is how data can be missing
    tagged = {"s1": values, "options": {"s1": {"nodata": -9999}}}
    finding = only(check(tagged))
    assert (finding.severity, finding.code) == ("warning", "nan-beside-nodata")
    assert "6 NaN" in str(finding)
    assert finding.path is not None
    assert only(check({"s1": values}, {}, nodata=-9999.0)).code == "nan-beside-nodata"
    assert check(tagged, deep=False) == []


def test_splits_that_show_the_same_ground(check):
    origin = (500_100, 4_999_900)
    findings = check({"origin": (500_000, 5_000_000)}, {"origin": origin, "split": "val"})
    finding = only(findings)
    assert (finding.severity, finding.code) == ("warning", "split-overlap")
    assert "'x0' (train) and 'x1' (val)" in str(finding)
    assert check({}, {"origin": (500_000, 5_000_000)}, {"origin": origin}) == []


def test_a_split_to_judge_by_is_missed_in_a_note(check):
    assert [f.code for f in check({}, notes=True)] == ["no-test"]
    assert check({}, {"split": "test"}, notes=True) == []
    findings = check({}, {"split": "test", "labels": None}, notes=True)
    assert [(f.severity, f.code) for f in findings] == [("note", "no-labels")]


def test_splits_that_are_missing(check):
    finding = check({}, drop_splits=True)[0]
    assert (finding.severity, finding.code) == ("error", "no-train")
    assert "terrafuse data split" in str(finding)
    finding = only(check({}, {"split": "test"}, drop_val=True))
    assert (finding.severity, finding.code) == ("warning", "no-val")


def test_other_splits_to_learn_from(check):
    both = {"train_splits": ["train", "more"], "validation_split": "dev"}
    labels = two_classes()
    labels[0, 0, 0] = 2
    scenes = ({}, {"split": "more", "labels": labels}, {"split": "dev"})
    assert check(*scenes, classes="abc", options=both) == []
    alone = check(*scenes, classes="abc", drop_val=True)
    assert [f.code for f in alone] == ["no-val", "class-missing"]
    assert "'c' has no pixel in split 'train'" in str(alone[1])
    assert "other splits have 1 pixels" in str(alone[1])
    # Scenes of splits that are all learned from may show the same ground.
    origin = {"origin": (500_000, 5_000_000)}
    same = ({}, {"split": "more"} | origin, {"split": "dev"})
    assert check(*same, options=both) == []
    assert only(check(*same, options=both | {"train_splits": ["train"]})).code == "split-overlap"
    findings = check({}, {"split": "more", "labels": None}, {"split": "dev"}, options=both)
    assert "scene 'x1' is in split 'more' but has no labels" in str(only(findings))
    ignored = {"labels": np.full((1, SIZE, SIZE), 255, np.uint8)}
    findings = check(ignored, ignored | {"split": "more"}, {"split": "dev"}, options=both)
    assert "labels of splits 'train', 'more' are all ignored" in str(findings[-1])
    findings = check({}, {"split": "dev"}, options=both)
    assert only(findings).code == "no-train"
    assert "is in split 'more'; splits found: train, dev, val" in str(findings[0])


@pytest.mark.parametrize("deep", [True, False])
def test_labels_to_score_with(check, deep):
    eroded = two_classes()
    eroded[0, :5] = 255
    assert check({"labels_eroded": eroded}, deep=deep) == []
    finding = only(check({"labels_eroded": "gone.tif"}, deep=deep))
    assert (finding.severity, finding.code, finding.scene) == ("error", "unreadable", "x0")
    assert "labels_eroded of scene 'x0': there is no file" in finding.message
    eroded[0, 7, 7] = 9
    finding = only(check({"labels_eroded": eroded}, deep=deep))
    assert (finding.severity, finding.code) == ("error", "labels")
    assert "9 (1 px, 0.1%)" in finding.message
    nothing = np.full((1, SIZE, SIZE), 255, np.uint8)
    finding = only(check({"labels_eroded": nothing}, deep=deep))
    assert (finding.severity, finding.code) == ("warning", "labels-ignored")


def test_rescaled_modalities_are_looked_at_as_they_are_in_the_files(check, monkeypatch):
    def refuse(*_):
        raise AssertionError("all of the scene was read")

    monkeypatch.setattr("terrafuse.data.rasters.SceneRange.measure", refuse)
    assert check({}, rescale="scene_range", deep=False) == []
    constant = {"s1": noise() * 0 + 3}
    finding = check(constant, rescale="scene_range")[-1]
    assert finding.code == "constant-band"
    assert "is 3 everywhere" in str(finding)


def test_grids_that_do_not_fit(check):
    far = {"s1": {"transform": from_origin(900_000, 7_000_000, 10, 10)}}
    finding = check({"options": far})[0]
    assert (finding.severity, finding.code, finding.scene) == ("error", "grid", "x0")


def test_refusing_lists_ten_errors():
    refuse_untrainable([Finding("warning", "a", "only a warning")])
    one = Finding("error", "a", "it is broken", remedy="Mend it")
    with pytest.raises(DataError, match=r"^it is broken\. Mend it$"):
        refuse_untrainable([one, Finding("note", "b", "by the way")])
    many = [Finding("error", "a", f"fault {i}") for i in range(13)]
    with pytest.raises(DataError) as caught:
        refuse_untrainable(many)
    assert "13 errors" in str(caught.value)
    assert "fault 9." in str(caught.value)
    assert "fault 10" not in str(caught.value)
    assert "3 more" in str(caught.value)


def test_progress_counts_scenes(check, tmp_path):
    check({}, {})
    steps: list[tuple[int, int]] = []
    manifest = load_manifest(Path(tmp_path / "dataset.yaml"))
    check_manifest(manifest, progress=lambda *step: steps.append(step))
    assert steps == [(1, 3), (2, 3), (3, 3)]

"""Scenes are opened when they are needed: no verb opens thousands of rasters before it begins."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from terrafuse.api import describe_model, validate
from terrafuse.api.datasets import data_describe
from terrafuse.api.mapping import split_scene_name
from terrafuse.config import EvaluationConfig
from terrafuse.data import Manifest, compute_statistics, load_manifest, write_manifest
from terrafuse.data.band_names import BandNamesWarning
from terrafuse.data.streaming import expected_total
from terrafuse.errors import ConfigError, MissingModalityError, RasterReadError
from terrafuse.evaluation import evaluate
from terrafuse.methods import create_segmenter
from terrafuse.prediction import WindowSettings
from terrafuse.samples import Window

MakeRaster = Callable[..., Path]
COUNT = 5


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the rasters that GDAL opens from here on."""
    from terrafuse.data import handles

    names: list[str] = []
    real = handles.open_stored

    def count(spec: str) -> Any:
        names.append(Path(spec).name)
        return real(spec)

    monkeypatch.setattr(handles, "open_stored", count)
    return names


def manifest_of(scenes: list[dict[str, Any]], folder: Path, **further: Any) -> Path:
    values = {
        "classes": [{"name": "dry", "code": 0}, {"name": "wet", "code": 1}],
        "modalities": {"s1": {"kind": "sar", "bands": ["VV"]}},
        "scenes": scenes,
    }
    return write_manifest(values | further, folder / "dataset.yaml")


@pytest.fixture
def path(make_raster: MakeRaster, tmp_path: Path) -> Path:
    """A manifest of five scenes that differ in width, of which the first validates."""
    scenes = []
    for n in range(COUNT):
        make_raster(tmp_path / f"s1_{n}.tif", np.full((1, 16, 17 + n), n, np.float32))
        make_raster(tmp_path / f"labels_{n}.tif", np.full((1, 16, 17 + n), n % 2, np.uint8))
        split = "train" if n else "val"
        scenes.append(
            {"id": f"no#{n}", "split": split, "s1": f"s1_{n}.tif", "labels": f"labels_{n}.tif"}
        )
    return manifest_of(scenes, tmp_path)


def test_scenes_are_opened_when_first_needed_and_once(path: Path, opened: list[str]) -> None:
    scenes = load_manifest(path).scenes("train")
    assert [scene.id for scene in scenes] == [f"no#{n}" for n in range(1, COUNT)]
    assert all(scene.has_labels and not scene.missing for scene in scenes)
    assert repr(scenes[1]) == "Scene('no#2', s1, not opened)"
    scenes[2].close()
    assert opened == []
    assert scenes[1].grid.width == 19
    assert set(opened) == {"s1_2.tif", "labels_2.tif"}
    held = len(opened)
    assert scenes[1].read(Window(0, 0, 4, 4)).images["s1"].unique().tolist() == [2]
    assert scenes[1].alignment == 1
    assert len(opened) == held
    assert repr(scenes[1]) == "Scene('no#2', 16 × 19, s1)"


def test_a_scene_is_the_same_whenever_it_is_opened(path: Path) -> None:
    manifest = load_manifest(path)
    late, now = manifest.scenes()[3], manifest.scene("no#3")
    copied = pickle.loads(pickle.dumps(manifest.scenes()[3]))  # as workers receive it
    for scene in (late, copied):
        assert scene.grid == now.grid
        assert scene.paths() == now.paths()
        window = scene.full_window
        assert (scene.read(window).labels == now.read(window).labels).all()
    converted = manifest.scenes()[3].convert_values({})
    assert converted.grid == now.grid


def test_missing_files_are_told_at_once_without_opening_the_others(
    path: Path, opened: list[str]
) -> None:
    (path.parent / "s1_3.tif").unlink()
    with pytest.raises(RasterReadError, match=r"'s1' of scene 'no#3': there is no file .*s1_3"):
        load_manifest(path).scenes()
    assert opened == []
    (path.parent / "labels_2.tif").unlink()
    with pytest.raises(RasterReadError, match=r"labels of scene 'no#2': there is no file"):
        load_manifest(path).scenes()
    assert set(opened) == {"s1_2.tif"}
    text = path.read_text().replace("s1: s1_1.tif", "s1: null, s0: s1_1.tif")
    text = text.replace("  s1:\n", "  s0: {bands: [VV], required: false}\n  s1:\n", 1)
    path.write_text(text)
    with pytest.raises(MissingModalityError, match="'no#1' has no raster for modality 's1'"):
        load_manifest(path).scenes()


def test_bands_taken_by_name_are_told_when_first_met(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    for n in range(3):
        for band in ("B8", "B4"):
            make_raster(tmp_path / f"{n}/{band}.tif", np.zeros((1, 4, 4), np.uint8))
    modalities = {"s2": {"kind": "optical", "bands": ["B8", "B4"]}}
    scenes = [{"id": str(n), "s2": [f"{n}/B4.tif", f"{n}/B8.tif"]} for n in range(3)]
    manifest = load_manifest(manifest_of(scenes, tmp_path, modalities=modalities))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scenes_of_it = manifest.scenes()
    with pytest.warns(
        BandNamesWarning, match=r"told once for all scenes alike\).* by name"
    ) as told:
        assert [scene.grid.width for scene in scenes_of_it] == [4, 4, 4]
    assert sum(isinstance(warning.message, BandNamesWarning) for warning in told) == 1
    with pytest.warns(BandNamesWarning, match=r"of scene '2': '.*2/B4\.tif' [^(]"):
        manifest.scene("2")


def test_validate_and_describe_open_nothing(path: Path, opened: list[str]) -> None:
    run = path.with_name("run.yaml")
    run.write_text(
        "data: {manifest: dataset.yaml, crop_size: 16}\n"
        "method: {name: single, backbone: resnet10t, decoder_options: {channels: 8}}\n"
    )
    assert validate(run)["scenes"] == {"val": 1, "train": COUNT - 1}
    describe_model(run)
    assert opened == []


def test_one_scene_of_many_opens_its_own_files_only(path: Path, opened: list[str]) -> None:
    file, id = split_scene_name(f"{path}#no#4")
    assert (file, id) == (path, "no#4")
    assert load_manifest(file).scene(id).grid.width == 21
    assert set(opened) == {"s1_4.tif", "labels_4.tif"}


def test_a_scene_is_named_whatever_holds_a_hash(path: Path) -> None:
    other = path.with_name("a#b.yaml")
    other.write_bytes(path.read_bytes())
    assert split_scene_name(f"{other}#no#1") == (other, "no#1")
    assert split_scene_name("none.yaml#a#b") == (Path("none.yaml"), "a#b")
    for text in ("dataset.yaml", "dataset.yaml#", "#a", "#"):
        with pytest.raises(ConfigError, match=r"is not of the form dataset\.yaml#id"):
            split_scene_name(text)


def test_scenes_are_found_by_id_without_a_search(path: Path) -> None:
    manifest = load_manifest(path)
    first = manifest.only("no#1").entries
    assert first == (manifest.entries[1],)
    assert vars(manifest)["_by_id"] is manifest._by_id  # made once


def test_a_total_of_many_scenes_is_estimated_from_the_first(
    path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = load_manifest(path).scenes()
    monkeypatch.setattr("terrafuse.data.streaming._FIRST_SCENES", 2)
    assert expected_total(scenes, lambda scene: scene.grid.width) == round((17 + 18) * 5 / 2)
    assert not {"s1_2.tif", "s1_3.tif", "s1_4.tif"} & set(opened)
    assert expected_total([], lambda scene: 1) == 0


def test_statistics_begin_before_all_scenes_are_open(
    path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("terrafuse.data.streaming._FIRST_SCENES", 2)
    manifest = load_manifest(path)
    seen: list[tuple[int, int, int]] = []
    result = compute_statistics(
        manifest.scenes(),
        list(manifest.modalities.values()),
        progress=lambda done, total: seen.append((done, total, len(set(opened)))),
    )
    widths = [17 + n for n in range(COUNT)]
    mean = sum(n * w for n, w in enumerate(widths)) / sum(widths)
    assert result["s1"].mean[0] == pytest.approx(mean)
    assert seen[0] == (1, 5, 4)  # rasters and labels of the first two
    assert seen[-1][:2] == (5, 5)
    assert all(done <= total for done, total, _ in seen)


def test_evaluation_begins_before_all_scenes_are_open(
    path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("terrafuse.data.streaming._FIRST_SCENES", 2)
    manifest = load_manifest(path)
    segmenter = create_segmenter(
        "single", list(manifest.modalities.values()), 2,
        {"backbone": "resnet10t", "decoder_options": {"channels": 8}},
    )  # fmt: skip
    seen: list[tuple[int, int, int]] = []
    metrics = evaluate(
        segmenter.eval(), manifest.scenes(), manifest.scheme, EvaluationConfig(split="any"),
        WindowSettings(crop_size=32, overlap=0), device="cpu",
        progress=lambda done, total: seen.append((done, total, len(set(opened)))),
    )  # fmt: skip
    assert metrics["scenes"] == COUNT
    assert seen[0] == (1, 5, 4)
    assert seen[-1][:2] == (5, 5)


def test_a_manifest_that_cannot_be_read_is_not_left_behind(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    rows = ["scene,modality,path,split"]
    for name, split in (("a", "fold"), ("b", "Fold")):
        make_raster(tmp_path / f"{name}.tif", np.zeros((1, 8, 8), np.uint8))
        make_raster(tmp_path / f"{name}_labels.tif", np.zeros((1, 8, 8), np.uint8))
        rows += [f"{name},s1,{name}.tif,{split}", f"{name},labels,{name}_labels.tif,{split}"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    out, options = tmp_path / "dataset.yaml", {"file": "list.csv"}
    with pytest.raises(ConfigError, match=r"'b' is in split 'Fold' .* scene 'a' in 'fold'"):
        data_describe(tmp_path, out, layout="items", options=options)
    assert not out.exists()
    (tmp_path / "list.csv").write_text("\n".join(rows).replace("Fold", "fold"))
    assert data_describe(tmp_path, out, layout="items", options=options).splits == {"fold": 2}


def test_describing_a_folder_opens_each_raster_a_few_times(
    make_raster: MakeRaster, tmp_path: Path, opened: list[str]
) -> None:
    for n in range(20):
        make_raster(tmp_path / f"data/sar/{n}.tif", np.zeros((1, 8, 8), np.float32))
        make_raster(tmp_path / f"data/labels/{n}.tif", np.full((1, 8, 8), n % 3, np.uint8))
    manifest = data_describe(tmp_path / "data", tmp_path / "dataset.yaml", options={})
    assert isinstance(manifest, Manifest)
    assert len(manifest.entries) == 20
    assert manifest.scheme.num_classes == 3
    assert len(opened) <= 5 * 20  # image and labels, names of pages and pixels of the labels

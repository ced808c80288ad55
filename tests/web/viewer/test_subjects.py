"""What may be named to be shown, and what is answered where it cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from terrafuse.errors import ConfigError, DataError, SceneNotFoundError, TerrafuseError
from terrafuse.web.viewer.subjects import find_subjects, plain_id
from viewed import SIDE, make_scene, write_map

EMPTY = "classes: [{name: a}]\nmodalities: {x: {kind: optical, bands: [b]}}\nscenes: []\n"
NOTHING = np.zeros((SIDE, SIDE))


def test_a_folder_of_maps_shows_all(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_map(tmp_path / name, NOTHING)
    (tmp_path / "log").mkdir()
    assert list(find_subjects(tmp_path).subjects) == ["a", "b"]


def test_a_raster_of_classes_is_a_map(tmp_path: Path) -> None:
    folder = write_map(tmp_path / "map", NOTHING)
    (subject,) = find_subjects(folder / "class_map.tif").subjects.values()
    assert subject.map == folder / "class_map.tif"


def test_a_folder_with_a_manifest_is_a_data_set(tmp_path: Path) -> None:
    make_scene(tmp_path)
    assert list(find_subjects(tmp_path).subjects) == ["a"]


def test_ids_are_plain_and_differ() -> None:
    assert plain_id("north_1.b") == "north_1.b"
    found = [plain_id(text) for text in ("a/b", "a:b", "../a", "ä", "", "..", ".hidden", "a" * 200)]
    assert len(set(found)) == len(found)
    for id in found:
        assert id.replace("_", "").replace("-", "").isalnum()
        assert len(id) < 80


def test_ids_are_folders_on_any_disk(tmp_path: Path) -> None:
    """Also where disks fold case, drop a dot at the end, or call devices by names."""
    manifest = make_scene(tmp_path)
    values = yaml.safe_load(manifest.read_text())
    (scene,) = values["scenes"]
    ids = ["North", "north", "north.", "con", "NUL.b", "console"]
    values["scenes"] = [{**scene, "id": id} for id in ids]
    manifest.write_text(yaml.safe_dump(values))
    found = find_subjects(manifest).subjects
    assert [subject.scene_id for subject in found.values()] == ids
    first, second, third, device, other, plain = found
    assert (first, second, plain) == ("North", "north-2", "console")
    assert third.startswith("north-")
    assert device.startswith("con-")
    assert other.startswith("NUL_b-")


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda p: p / "none", DataError, "does not exist. Give the folder of a map"),
        (lambda p: p, DataError, "is no folder of a map (it has no class_map.tif), no run"),
        (lambda p: _file(p / "x.gpkg"), DataError, "Give the GeoPackage of `terrafuse sample`"),
        (lambda p: _file(p / "x.yaml"), ConfigError, "x.yaml"),
        (lambda p: _file(p / "e.yaml", EMPTY), ConfigError, "'scenes' is empty; list at least"),
    ],
)
def test_what_is_nothing_of_ours(  # type: ignore[no-untyped-def]
    tmp_path: Path, make, kind: type[TerrafuseError], text: str
) -> None:
    with pytest.raises(kind) as error:
        find_subjects(make(tmp_path))
    assert text in str(error.value)


def _file(path: Path, text: str = "") -> Path:
    path.write_text(text)
    return path


def test_scenes_that_are_not_there(tmp_path: Path) -> None:
    manifest = make_scene(tmp_path)
    with pytest.raises(SceneNotFoundError, match=r"unknown scene 'b'.*Known: a"):
        find_subjects(manifest, scenes=["b"])
    folder = write_map(tmp_path / "map", NOTHING)
    with pytest.raises(ConfigError, match=r"give it once, as dataset.yaml#id"):
        find_subjects(folder, scenes=["a#b", "a#c"])
    with pytest.raises(ConfigError, match=r"not of the form dataset.yaml#id"):
        find_subjects(folder, scenes=["a"])
    with pytest.raises(ConfigError, match=r"--map names the map of a sample"):
        find_subjects(folder, map_=folder)

"""The page as a folder: nothing in it leads elsewhere, and scripts hold the rasters' bytes."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("fastapi", reason="the extra web is not installed")

from terrafuse import web
from terrafuse.errors import DataError, OutputError
from terrafuse.web.built_page import page_files
from terrafuse.web.viewer.document import View, ViewIndex
from terrafuse.web.viewer.serving import open_viewer
from terrafuse.web.viewer.static import write_page
from viewed import SIDE, make_scene, write_map

SCRIPT = re.compile(r'terrafuseData\("([^"]+)", (.*)\);\n', re.DOTALL)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("static")
    manifest = make_scene(folder / "data")
    levels = np.arange(SIDE**2).reshape(SIDE, -1) % 255
    write_map(folder / "map", np.eye(SIDE), confidence=levels)
    web.write_static(folder / "map", folder / "page", scenes=[f"{manifest}#a"])
    return folder / "page"


def test_documents_are_relative(made: Path) -> None:
    index = ViewIndex.model_validate_json((made / "index.json").read_text())
    assert index.is_static
    (entry,) = index.views
    assert (entry.href, entry.state, entry.make) == ("v/map/view.json", "ready", None)
    place = made / "v" / "map"
    view = View.model_validate_json((place / "view.json").read_text())
    assert (view.why, view.pixel, view.labelling) == (None, None, None)
    for layer in view.layers:
        assert (place / layer.href).is_file()
        assert layer.embedded == f"{layer.href}.js"
    addresses = [p.thumbnail for one in view.places for p in one.places]
    assert addresses
    for address in addresses:
        assert address is not None
        assert (place / address).read_bytes().startswith(b"\x89PNG")


def test_scripts_hold_the_same(made: Path) -> None:
    for document in ("index", "v/map/view"):
        found = SCRIPT.fullmatch((made / f"{document}.js").read_text())
        assert found is not None
        assert found[1] == f"{document}.json"
        assert json.loads(found[2]) == json.loads((made / f"{document}.json").read_text())
    rasters = sorted((made / "v" / "map" / "rasters").glob("*.tif"))
    assert len(rasters) == 7
    for raster in rasters:
        found = SCRIPT.fullmatch(raster.with_name(f"{raster.name}.js").read_text())
        assert found is not None
        assert found[1] == raster.relative_to(made).as_posix()
        assert base64.b64decode(json.loads(found[2]), validate=True) == raster.read_bytes()


def test_nothing_leads_elsewhere(made: Path) -> None:
    own = set(page_files("index.html"))
    for path in made.rglob("*"):
        name = path.relative_to(made).as_posix()
        if path.suffix in (".json", ".js", ".html") and name not in own:
            text = path.read_text()
            assert "http" not in text, name
            assert str(made.parent) not in text, name
            assert "../" not in text, name
    for name in own:
        assert (made / name).read_bytes() == page_files("index.html")[name].read_bytes()


def test_large_rasters_are_for_servers(made: Path, tmp_path: Path) -> None:
    preparer, _ = open_viewer(made.parent / "map")
    # The names of classes make its file the larger one.
    most = (made.parent / "map" / "confidence.tif").stat().st_size
    notes = write_page(preparer, tmp_path / "page", most_embedded=most)
    (note,) = notes
    assert note.startswith("map: Class map (0 MB) cannot be shown by a page opened from disk")
    assert note.endswith("Run: python -m http.server")
    view = View.model_validate_json((tmp_path / "page/v/map/view.json").read_text())
    assert {one.id: one.embedded for one in view.layers} == {
        "class_map": None, "confidence": "rasters/confidence.tif.js",
    }  # fmt: skip
    assert not (tmp_path / "page/v/map/rasters/class_map.tif.js").exists()
    assert note.removeprefix("map: ") in view.notes


def test_an_own_folder_is_replaced_and_no_other(made: Path, tmp_path: Path) -> None:
    source, out = made.parent / "map", tmp_path / "page"
    out.mkdir()
    web.write_static(source, out)
    (out / "index.json").write_text("old")
    (out / "v" / "map" / "view.json").unlink()
    web.write_static(source, out)
    assert json.loads((out / "index.json").read_text())["is_static"]
    assert (out / "v" / "map" / "view.json").exists()
    before = sorted(out.rglob("*"))
    (out / "v" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds 'v/notes.txt', which is no part of a page"):
        web.write_static(source, out)
    assert (out / "v" / "notes.txt").read_text() == "mine"
    assert sorted(out.rglob("*")) == sorted([*before, out / "v" / "notes.txt"])
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".lock"] == ["page"]
    with pytest.raises(OutputError, match=r"is no folder. Choose another name for --static"):
        web.write_static(source, out / "index.json")


def test_the_folder_one_is_in(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "page"
    out.mkdir()
    monkeypatch.chdir(out)
    web.write_static(made.parent / "map", ".")
    assert (out / "index.html").exists()
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".lock"] == ["page"]


def test_a_broken_scene_is_left_out_and_said(tmp_path: Path) -> None:
    manifest = make_scene(tmp_path / "data")
    values = yaml.safe_load(manifest.read_text())
    (sound,) = values["scenes"]
    values["scenes"] = [{**sound, "id": "gone", "photo": "none.tif"}, sound]
    manifest.write_text(yaml.safe_dump(values))
    (note,) = web.write_static(manifest, tmp_path / "page")
    assert note.startswith("gone is left out: nothing of 'gone' can be shown: ")
    index = ViewIndex.model_validate_json((tmp_path / "page" / "index.json").read_text())
    assert [entry.id for entry in index.views] == ["a"]
    assert [path.name for path in (tmp_path / "page" / "v").iterdir()] == ["a"]
    values["scenes"] = values["scenes"][:1]
    manifest.write_text(yaml.safe_dump(values))
    with pytest.raises(DataError, match="nothing of 'gone' can be shown"):
        web.write_static(manifest, tmp_path / "page")
    assert (tmp_path / "page" / "v" / "a" / "view.json").exists()

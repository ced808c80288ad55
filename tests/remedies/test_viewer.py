"""Instructions of the viewer."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("fastapi", reason="the extra web is not installed")

from fastapi.testclient import TestClient

from made_runs import make_run
from remedies import refused, said
from small_methods import SMALL
from terrafuse import api, web
from terrafuse.data import load_manifest
from terrafuse.web.listening import listen
from terrafuse.web.viewer import copies, preparing
from terrafuse.web.viewer.serving import open_viewer
from terrafuse.web.viewer.static import write_page
from terrafuse.web.viewer.subjects import find_subjects
from terrafuse.web.viewer.why import explain_pixel
from viewed import SIDE, make_scene, write, write_map

ADDRESS = "http://127.0.0.1:8765"
NOTHING = np.zeros((SIDE, SIDE))


@pytest.fixture
def map_(tmp_path: Path) -> Path:
    return write_map(tmp_path / "map", NOTHING, confidence=NOTHING + 100)


def client_of(target: Path, **options: Any) -> TestClient:
    return TestClient(open_viewer(target, **options)[1], base_url=ADDRESS)


# What is named


def test_what_can_be_looked_at(tmp_path: Path, map_: Path) -> None:
    place = "web.viewer.subjects: | Give the folder of a map or of a trained run, dataset.yaml, a"
    with refused(place):
        find_subjects(tmp_path / "none")
    api.sample(map_, tmp_path / "points.gpkg", points=9)
    named = map_, make_scene(tmp_path / "data"), map_ / "class_map.tif", tmp_path / "points.gpkg"
    for target in named:
        assert find_subjects(target).subjects


def test_the_map_of_a_sample(tmp_path: Path, map_: Path) -> None:
    place = "web.viewer.subjects:find_subjects | Give the GeoPackage of `terrafuse sample`, or"
    with refused(place):
        find_subjects(map_, map_=map_)
    assert find_subjects(map_).sample is None
    points = tmp_path / "points.gpkg"
    api.sample(map_, points, points=9)
    assert find_subjects(points, map_=map_).sample == points
    moved = tmp_path / "elsewhere"
    map_.rename(moved)
    with refused("web.viewer.subjects:_of_sample | Name it with --map"):
        find_subjects(points)
    assert find_subjects(points, map_=moved).sample == points


def test_the_scene_of_a_map(tmp_path: Path, map_: Path) -> None:
    manifest = make_scene(tmp_path / "data")
    once = "web.viewer.subjects:_of_maps | give it once, as dataset.yaml#id, with one map"
    with refused(once):
        find_subjects(map_, scenes=["a", "b"])
    (unknown,) = find_subjects(map_).subjects.values()
    place = "web.viewer.subjects:_of_map | its own layers are shown. Name its scene with --scene"
    said(place, unknown.notes[0])
    record = '{"scene": "a", "inputs": {"model": "../run", "scene": "../gone.yaml#a"}}'
    (map_ / "prediction.json").write_text(record)
    (gone,) = find_subjects(map_).subjects.values()
    said(
        "web.viewer.subjects:_mapped_scene | . Name it with --scene dataset.yaml#id", gone.notes[0]
    )
    (named,) = find_subjects(map_, scenes=[f"{manifest}#a"]).subjects.values()
    assert named.notes == ()
    assert named.scene is not None
    assert named.scene().id == "a"


def run_folder(folder: Path, manifest: Path) -> Path:
    """What a viewer needs to know of a run before it maps."""
    folder.mkdir()
    values = {"data": {"manifest": str(manifest)}, "method": {"name": "late_fusion"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    (folder / "model.json").write_text("{}")
    return folder


def test_scenes_of_a_run(tmp_path: Path, map_: Path) -> None:
    manifest = make_scene(tmp_path / "data")
    run = run_folder(tmp_path / "run", manifest)
    manifest.write_text(manifest.read_text().replace("split: test", "split: train"))
    with refused("web.viewer.subjects:_of_run | Name some with --scene ID"):
        find_subjects(run)
    assert list(find_subjects(run, scenes=["a"]).subjects) == ["a"]
    manifest.unlink()
    place = "web.viewer.subjects:_of_run | and look at the map"
    with refused(place) as error:
        find_subjects(run)
    assert f"terrafuse predict {run}" in error
    assert find_subjects(map_).subjects


@pytest.mark.filterwarnings("ignore:.*values.*")
def test_maps_of_subsets(tmp_path: Path, map_: Path) -> None:
    place = "web.viewer.subjects:find_subjects | is none. Leave --subsets out"
    with refused(place):
        find_subjects(map_, subsets=True)
    assert find_subjects(map_).subjects
    runs = (
        make_run(tmp_path / "mcanet", "mcanet", SMALL["mcanet"][0]),
        make_run(tmp_path / "late_fusion"),
    )
    needs_all, may_lack = (find_subjects(run, subsets=True).subjects["scene2"] for run in runs)
    place = "web.viewer.subjects:_MapMaker._subset_folders | Leave --subsets out, or train a"
    with refused(place):
        needs_all.is_made()
    assert not find_subjects(runs[0]).subjects["scene2"].is_made()
    assert not may_lack.is_made()


# Preparing


def test_another_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with refused("web.viewer.copies:Store.folder | Name another cache with XDG_CACHE_HOME"):
        copies.Store(tmp_path / "file").folder  # noqa: B018
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert copies.Store(tmp_path / "file").folder.is_dir()


def test_what_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "SOON", 10)
    client = client_of(make_scene(tmp_path))
    answer = client.get("/v/a/view.json")
    place = "web.viewer.preparing:Preparer.ready | is not ready yet. POST v/"
    told = said(place, answer.json()["error"])
    before = threading.enumerate()
    client.post("/" + told.find(r"POST (\S+),"))
    for thread in set(threading.enumerate()) - set(before):
        thread.join(30)
    assert client.get("/v/a/view.json").status_code == 200


# Serving


def test_ports_and_hosts() -> None:
    with refused("web.listening:listen | is no port; give a number from 1 to"):
        listen("127.0.0.1", -1)
    with listen("127.0.0.1", 0) as found:
        free = found.getsockname()[1]
    listen("127.0.0.1", free).close()
    place = "web.listening:listen | Choose another --port, or a --host of this machine"
    with refused(place):
        listen("192.0.2.1", free)
    listen("127.0.0.1", 0).close()


def test_numbers_in_addresses(map_: Path) -> None:
    client = client_of(map_)
    answer = client.get("/v/map/pixel?row=x&col=0")
    place = "web.viewer.app:_refuse_values | Give whole numbers: ?row=0&col=0"
    query = said(place, answer.json()["error"]).find(r"\?\S+")
    assert client.get(f"/v/map/pixel{query}").status_code == 200


def test_a_raster_that_is_gone(map_: Path) -> None:
    client = client_of(map_)
    away = map_ / "confidence.old"
    (map_ / "confidence.tif").rename(away)
    place = "web.viewer.app:_file_routes.raster | was removed meanwhile. Start the viewer again"
    said(place, client.get("/v/map/rasters/confidence.tif").json()["error"])
    ids = [one["id"] for one in client_of(map_).get("/v/map/view.json").json()["layers"]]
    assert ids == ["class_map"]


@pytest.mark.filterwarnings("ignore:.*values.*")
def test_why(tmp_path: Path, map_: Path) -> None:
    place = "web.viewer.app:_pixel_routes.why | Look at the run itself: terrafuse view RUN"
    said(place, client_of(map_).get("/v/map/why?row=0&col=0").json()["error"])
    run = make_run(tmp_path / "own")
    data = run.parent / "data"
    # A corner without data, and a scene that has one modality alone.
    for name, bands in (("s2", 4), ("s1", 1)):
        values = np.full((bands, 32, 32), 5, np.float32)
        values[:, :9, :9] = np.nan
        write(data / f"{name}_2.tif", values, "utm")
    write(data / "labels_2.tif", np.zeros((1, 32, 32), np.uint8), "utm")
    preparer, app = open_viewer(run)
    preparer.shown("scene2")
    client = TestClient(app, base_url=ADDRESS)
    answer = client.get("/v/scene2/why?row=0&col=0")
    place = "web.viewer.why:explain_pixel | Choose a pixel that has a class"
    said(place, answer.json()["error"])
    assert client.get("/v/scene2/why?row=20&col=20").status_code == 200
    explainer = preparer.subject("scene2").explainer
    assert explainer is not None
    predictor, _ = explainer.model.predictor()
    predictor.model.supports_missing = False
    manifest = load_manifest(data / "dataset.yaml")
    rules = {name: replace(rule, required=False) for name, rule in manifest.rules.items()}
    (entry,) = manifest.only("scene2").entries
    entry = replace(entry, rasters={"s2": entry.rasters["s2"]})
    alone = replace(manifest, rules=rules, entries=(entry,)).scene("scene2")
    with refused("web.viewer.why:explain_pixel | Give a scene that has it"):
        explain_pixel(predictor, alone, 20, 20, ["bare", "wet"])
    assert explain_pixel(predictor, manifest.scene("scene2"), 20, 20, ["bare", "wet"]).mapped


# Folders


def test_folders_of_others(tmp_path: Path, map_: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").touch()
    place = "web.viewer.static:_check_own | Choose another folder for --static"
    with refused(place):
        web.write_static(map_, other)
    with refused("web.viewer.static:_check_own | Choose another name for --static"):
        web.write_static(map_, other / "notes.txt")
    web.write_static(map_, tmp_path / "page")
    assert (tmp_path / "page" / "index.html").exists()


def test_a_server_of_python_shows_large_rasters(tmp_path: Path, map_: Path) -> None:
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    from urllib.request import urlopen

    notes = write_page(open_viewer(map_)[0], tmp_path / "page", most_embedded=10)
    said("web.viewer.static:_write_scene | Run: python -m http.server", notes[0])
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "page")
    handler.func.log_message = lambda *_: None  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/v/map/rasters/confidence.tif"
        with urlopen(address) as answer:
            assert answer.read() == (map_ / "confidence.tif").read_bytes()
        server.shutdown()
    shutil.rmtree(tmp_path / "page")

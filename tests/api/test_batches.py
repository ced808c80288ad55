"""Maps of many scenes: of manifests and of STAC documents, on this disk and on a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from range_server import RangeServer, serving
from stored_run import make_data
from terrafuse import api
from terrafuse.api.batches import folder_names
from terrafuse.errors import ConfigError, DataError, ModelError
from terrafuse.prediction import WindowSettings, WorkerSettings, torch_model

RUN = Path(__file__).parents[1] / "golden" / "stored_run" / "whole"
BANDS = ("blue", "green", "red", "nir")


@pytest.fixture(scope="module")
def run() -> api.Run:
    return api.load(RUN)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Three scenes, of which two are of the split "train"."""
    return make_data(tmp_path / "data")


@pytest.fixture
def server(manifest: Path) -> Iterator[RangeServer]:
    with serving(manifest.parent) as server:
        yield server


def item(number: int, *, id: str = "") -> dict[str, Any]:
    """The optical file of a scene in one asset, the radar in another."""
    return {
        "type": "Feature",
        "id": id or f"item{number}",
        "assets": {
            "image": {"href": f"s2_{number}.tif", "bands": [{"name": band} for band in BANDS]},
            "VV": {"href": f"s1_{number}.tif"},
        },
    }


def class_map(folder: Path) -> bytes:
    return (folder / "class_map.tif").read_bytes()


def test_one_bad_scene_does_not_end_the_others(
    run: api.Run, manifest: Path, tmp_path: Path, command_line: Any
) -> None:
    broken = manifest.parent / "s2_0.tif"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200])
    out = tmp_path / "maps"
    words = ("predict", RUN, "--scenes", manifest, "--split", "train", "--out", out)
    code, printed, told = command_line(*words)
    assert code == 2
    assert "1 of 2 scenes are mapped" in printed
    assert "scene0" in printed[printed.index("not mapped") :]
    assert "run the same command with --resume" in told
    assert sorted(path.name for path in out.iterdir()) == ["scene1"]
    before = (out / "scene1" / "class_map.tif").stat().st_mtime_ns
    # What the message says to do.
    broken.write_bytes(whole)
    code, printed, told = command_line(*words, "--resume")
    assert code == 0, told
    assert "2 of 2 scenes are mapped" in printed
    assert "1 of them before" in printed
    assert (out / "scene1" / "class_map.tif").stat().st_mtime_ns == before
    run.predict(tmp_path / "alone", scene=f"{manifest}#scene0")
    assert class_map(out / "scene0") == class_map(tmp_path / "alone")


def test_resume_maps_again_what_was_made_otherwise(
    run: api.Run, manifest: Path, tmp_path: Path
) -> None:
    def states(**options: Any) -> list[str]:
        places = api.places_of_manifest(run, manifest)
        done = api.predict_batch(run, places, tmp_path / "maps", resume=True, **options)
        return [one.state for one in done]

    assert states() == ["mapped"] * 3
    assert states() == ["there already"] * 3
    assert states(products=["class_map"], areas=True) == ["mapped"] * 3
    raster = manifest.parent / "s1_2.tif"
    raster.write_bytes(raster.read_bytes())  # as good as another: it is newer
    assert states(products=["class_map"], areas=True) == [*["there already"] * 2, "mapped"]
    (tmp_path / "maps" / "scene1" / "class_map.tif").unlink()
    (tmp_path / "maps" / "scene0" / "prediction.json").write_text("[]")
    assert states(products=["class_map"], areas=True) == ["mapped", "mapped", "there already"]


def test_resume_tells_apart_all_that_makes_a_map(
    run: api.Run, manifest: Path, tmp_path: Path
) -> None:
    places = api.places_of_manifest(run, manifest)[:1]

    def state(**options: Any) -> str:
        (one,) = api.predict_batch(
            run, places, tmp_path / "maps", products=["class_map"], resume=True, **options
        )
        return one.state

    windows = WindowSettings.of_run(run.config)
    options: dict[str, Any] = {}
    for further in (
        {},
        {"tta": ["flips"]},
        {"tta": ["turns"]},  # as many passes
        {"abstain": 0.9},
        {"sieve": 4},
        {"values": "index"},
        {"windows": replace(windows, overlap=windows.overlap + 8)},
        {"tiles": 2048},
        {"areas": True},
    ):
        options |= further
        assert state(**options) == "mapped", further
        assert state(**options) == "there already", further
    for name in ("areas.csv", "class_map/class_map_r000_c000.tif"):
        (tmp_path / "maps" / "scene0" / name).unlink()
        assert state(**options) == "mapped", name
    weight = next(run.segmenter.parameters())
    with torch.no_grad():
        weight.add_(1)
        assert state(**options) == "mapped"
        weight.sub_(1)


def test_settings_that_suit_no_scene_end_a_batch_and_a_fault_of_one_does_not(
    run: api.Run, manifest: Path, tmp_path: Path
) -> None:
    out, places = tmp_path / "maps", api.places_of_manifest(run, manifest)
    for wrong in (
        {"areas": True, "products": ["entropy"]},
        {"values": "cod"},
        {"abstain": 2.0},
        {"products": ["entropi"]},
        {"device": "cuda:99"},
        {"convert": {"s3": None}},
        {"workers": 0},
    ):
        with pytest.raises((ConfigError, ModelError)):
            api.predict_batch(run, places, out, **wrong)
    run.segmenter.odd = lambda: None
    with pytest.raises(ModelError, match=r"cannot be sent to other processes .* --workers 1"):
        api.predict_batch(run, places, out, workers=2)
    del run.segmenter.odd
    assert not out.exists()
    for error in (ConfigError("too small"), ModelError("odd scores")):

        def fail(error: Exception = error) -> Any:
            raise error

        broken = [places[0], api.Place("odd", fail), places[1]]
        done = api.predict_batch(run, broken, out, products=["class_map"], resume=True)
        assert [(one.state, one.message) for one in done][1] == ("failed", str(error))
        assert "failed" not in {done[0].state, done[2].state}


def test_the_model_is_digested_once_for_all_scenes(
    run: api.Run, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    digest = torch_model.digest_values

    def count(values: Any) -> str:
        calls.append(1)
        return str(digest(values))

    monkeypatch.setattr(torch_model, "digest_values", count)
    places = api.places_of_manifest(run, manifest)
    api.predict_batch(run, places, tmp_path / "maps", products=["class_map"])
    assert len(calls) == 1
    # It is not remembered for longer: the model may be trained meanwhile.
    before = torch_model.model_digest(run.segmenter)
    weight = next(run.segmenter.parameters())
    with torch.no_grad():
        weight.add_(1)
        assert torch_model.model_digest(run.segmenter) != before
        weight.sub_(1)


def test_workers_map_each_scene_and_do_not_make_another_map(
    run: api.Run, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def map_here(order: Any, tasks: Any, workers: Any, profile: Any, progress: Any) -> None:
        asked.append(workers.total)
        for task in tasks:
            order.map(task, profile, progress)

    monkeypatch.setattr("terrafuse.prediction.predictor.map_by_workers", map_here)
    places = api.places_of_manifest(run, manifest, "train")
    out = tmp_path / "maps"
    done = api.predict_batch(run, places, out, workers=WorkerSettings(2))
    assert (asked, [one.state for one in done]) == ([2, 2], ["mapped"] * 2)
    # One process finds the maps of two, and would have made the same.
    done = api.predict_batch(run, places, out, resume=True)
    assert [one.state for one in done] == ["there already"] * 2
    run.predict(tmp_path / "alone", scene=f"{manifest}#scene0")
    assert class_map(out / "scene0") == class_map(tmp_path / "alone")


def test_items_of_a_server_give_the_maps_of_the_files(
    run: api.Run, manifest: Path, server: RangeServer, tmp_path: Path, command_line: Any
) -> None:
    odd = item(1, id="a/b c")
    lacking = {"type": "Feature", "id": "none", "assets": {"thumbnail": {"href": "t.png"}}}
    search = {"type": "FeatureCollection", "features": [item(0), odd, lacking]}
    (manifest.parent / "search.json").write_text(json.dumps(search))
    out = tmp_path / "maps"
    code, printed, _ = command_line(
        "predict", RUN, "--items", server.url("search.json"), "--out", out
    )
    assert code == 2
    assert "2 of 3 scenes" in printed
    assert "thumbnail" in printed
    for number, name in ((0, "item0"), (1, folder_names(["a/b c"])[0])):
        alone = tmp_path / f"alone{number}"
        run.predict(alone, scene=f"{manifest}#scene{number}")
        assert class_map(out / name) == class_map(alone)
        record = json.loads((out / name / "prediction.json").read_text())
        assert record["scene"] == ("item0", "a/b c")[number]
        assert record["modalities"] == ["s2", "s1"]


def test_an_item_as_a_raster(
    run: api.Run, manifest: Path, server: RangeServer, tmp_path: Path, command_line: Any
) -> None:
    (manifest.parent / "one.json").write_text(json.dumps(item(0)))
    run.predict(tmp_path / "alone", scene=f"{manifest}#scene0")
    code, _, told = command_line(
        "predict", RUN, "-r", f"s2={manifest.parent / 'one.json'}",
        "-r", f"s1={server.url('s1_0.tif')}", "--out", tmp_path / "map",
    )  # fmt: skip
    assert code == 0, told
    assert class_map(tmp_path / "map") == class_map(tmp_path / "alone")
    # Files that are not what the item says.
    for place in (0, 4):
        wrong = item(0)
        wrong["assets"]["image"]["bands"].insert(place, {"name": "coastal"})
        (manifest.parent / "one.json").write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=r"s2_0.tif'.*STAC item says 5.* -r s2=URL"):
            run.predict(tmp_path / "no", rasters={"s2": manifest.parent / "one.json"})
    given = {name: server.url(f"{name}_0.tif") for name in ("s1", "s2")}
    run.predict(tmp_path / "given", rasters=given)
    assert class_map(tmp_path / "given") == class_map(tmp_path / "alone")


def test_scenes_of_a_manifest_may_lie_on_a_server(
    run: api.Run, manifest: Path, server: RangeServer, tmp_path: Path, command_line: Any
) -> None:
    values = yaml.safe_load(manifest.read_text())
    for scene in values["scenes"]:
        scene.update({name: server.url(scene[name]) for name in ("s1", "s2")})
    far = manifest.with_name("far.yaml")
    far.write_text(yaml.safe_dump(values))
    code, printed, _ = command_line("data", "check", far)
    near_code, near_printed, _ = command_line("data", "check", manifest)
    assert code == near_code == 0
    assert printed.replace(str(far), "M") == near_printed.replace(str(manifest), "M")
    # And what a server does not give is found.
    values["scenes"][0]["s1"] = server.url("none.tif")
    far.write_text(yaml.safe_dump(values))
    code, printed, _ = command_line("data", "check", far)
    assert code == 1
    assert "The server has no such file: correct the URL" in " ".join(printed.split())
    values["scenes"][0]["s1"] = server.url("s1_0.tif")
    values["scenes"] = [{k: v for k, v in s.items() if k != "labels"} for s in values["scenes"]]
    far.write_text(yaml.safe_dump(values))
    run.predict(tmp_path / "a", scene=f"{far}#scene2")
    run.predict(tmp_path / "b", scene=f"{manifest}#scene2")
    assert class_map(tmp_path / "a") == class_map(tmp_path / "b")


@pytest.mark.parametrize("count", [500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_scenes_are_listed_without_being_opened(
    count: int, run: api.Run, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = yaml.safe_load(manifest.read_text())
    first = values["scenes"][0]
    values["scenes"] = [{**first, "id": f"p{n}"} for n in range(count)]
    many = manifest.with_name("many.yaml")
    many.write_text(yaml.dump(values, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))
    opened: list[Any] = []
    monkeypatch.setattr("terrafuse.data.scene.Scene._open", opened.append)
    places = api.places_of_manifest(run, many)
    assert len(set(folder_names([place.id for place in places]))) == count
    assert not opened


def test_names_of_folders_are_safe_and_differ() -> None:
    names = folder_names(["a", "A", "b/c", "b-c", "..", "x" * 300, "T32.SAFE", "-o"])
    assert names[3] == "b-c"
    assert names[6] == "T32.SAFE"
    assert len({name.casefold() for name in names}) == 8
    assert all(0 < len(name) <= 110 for name in names)
    assert not any("/" in name or name.startswith(("-", ".")) for name in names)
    with pytest.raises(DataError, match="several scenes have the id"):
        folder_names(["a", "a"])
    assert folder_names(["a", "b"]) == ["a", "b"]


def test_what_is_mapped_is_said_in_one_way(command_line: Any, tmp_path: Path) -> None:
    for words, text in (
        ((), "nothing given to map; give one of --scene"),
        (("--scene", "a.yaml#a", "--items", "b.json"), "--scene and --items given to map"),
        (("--items", "b.json", "--split", "new"), "--split chooses among the scenes of --scenes"),
        (("--scenes", "a.yaml", "--shard", "1/2"), "--shard divides one scene"),
        (("--scenes", "a.yaml", "--profile"), "--profile is of one map; prediction.json of each"),
        (("--items", "b.json", "--profile"), "--profile is of one map"),
    ):
        code, _, told = command_line("predict", RUN, *words, "--out", tmp_path / "map")
        assert code == 2
        assert text in told

"""A trained run and other data: values of another scale, other manifests, areas, the page."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from rasterio.transform import from_origin

from terrafuse import api
from terrafuse.data.value_conversion import ValueConversion
from terrafuse.errors import DataError, NotEnoughMemoryError
from terrafuse.evaluation.evidence import read_evidence

SIZE = 64
LEVELS = np.array([[300, 2500], [400, 1500]])  # of two classes, per band
RUN = {
    "data": {"manifest": "dataset.yaml", "crop_size": 32, "batch_size": 2, "workers": 0},
    "method": {
        "name": "single",
        "backbone": "resnet10t",
        "decoder": "segformer",
        "decoder_options": {"channels": 16},
    },
    "training": {"steps": 2, "accelerator": "cpu"},
}


def write(path, array, number, **profile):
    path.parent.mkdir(exist_ok=True, parents=True)
    transform = from_origin(500_000 + 10_000 * number, 5_000_000, 10, 10)
    with rasterio.open(
        path, "w", driver="GTiff", count=len(array), height=SIZE, width=SIZE, dtype=array.dtype,
        crs="EPSG:32633", transform=transform, **profile,
    ) as dataset:  # fmt: skip
        dataset.write(array)


def make_place(folder, number, change=lambda x: x, dtype="uint16"):
    rng = np.random.default_rng(number)
    truth = rng.integers(0, 2, (8, 8)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    image = LEVELS[:, truth] + rng.normal(0, 20, (2, SIZE, SIZE))
    write(folder / f"img_{number}.tif", change(image).astype(dtype), number)
    write(folder / f"lab_{number}.tif", truth[None], number)


def make_manifest(path, splits, more=""):
    values = {
        "classes": [{"name": "dry", "code": 0}, {"name": "wet", "code": 1}],
        "modalities": {"img": {"kind": "optical", "bands": ["red", "nir"]}},
        "scenes": [
            {"id": f"{split}_{n}", "split": split, "img": f"img_{n}.tif", "labels": f"lab_{n}.tif"}
            for n, split in enumerate(splits)
        ],
    }
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained run, its data, and two other data sets: one of the same scale, one of another."""
    folder = tmp_path_factory.mktemp("other")
    for number in range(5):
        make_place(folder, number)
    make_manifest(folder / "dataset.yaml", ["train", "train", "val", "test", "test"])
    for name, change, dtype in (
        ("same", lambda x: 0.9 * x, "uint16"),
        ("scaled", lambda x: x / 1e4, "float32"),
    ):
        for number in range(3):
            make_place(folder / name, number, change, dtype)
        make_manifest(folder / name / "dataset.yaml", ["train", "test", "test"])
    (folder / "run.yaml").write_text(yaml.safe_dump(RUN))
    api.train(folder / "run.yaml", folder / "run")
    return folder


@pytest.fixture
def terrafuse(command_line):
    """Function: stdout and stderr of words that must succeed."""

    def run(*words):
        code, out, message = command_line(*words)
        assert code == 0, message
        return out, message

    return run


def test_the_run_keeps_what_it_was_trained_on(folder):
    statistics = json.loads((folder / "run" / "model.json").read_text())["statistics"]["img"]
    assert statistics["dtypes"] == ["uint16"]
    assert len(statistics["quantiles"]) == 2
    assert len(statistics["quantiles"][0]) == 5
    # The 5th and the 95th percentile of red are near the levels of both classes.
    lowest, *_, highest = statistics["quantiles"][0]
    assert lowest == pytest.approx(280, abs=30)
    assert highest == pytest.approx(2520, abs=30)


def test_runs_of_before_are_held_to_their_scale_too(folder, command_line):
    old = shutil.copytree(folder / "run", folder / "old")
    values = json.loads((old / "model.json").read_text())
    del values["statistics"]["img"]["quantiles"], values["statistics"]["img"]["dtypes"]
    (old / "model.json").write_text(json.dumps(values))
    for name, wanted in (("scaled", 2), ("same", 0)):
        raster = f"img={folder / name / 'img_1.tif'}"
        code, _, said = command_line("predict", old, "-r", raster, "--out", folder / "old_map")
        assert code == wanted, said


def test_another_scale_is_refused_and_the_remedy_helps(folder, command_line, terrafuse):
    raster = f"img={folder / 'scaled' / 'img_1.tif'}"
    code, _, said = command_line("predict", folder / "run", "-r", raster, "--out", folder / "no")
    assert code == 2
    assert "Traceback" not in said
    assert "measured factor 9" in said or "measured factor 1e+04" in said
    assert not (folder / "no").exists()
    option = re.search(r"'(--convert \S+)'", said)[1].split()
    assert option == ["--convert", "img=10000"]
    terrafuse("predict", folder / "run", "-r", raster, "--out", folder / "yes", *option)
    record = json.loads((folder / "yes" / "prediction.json").read_text())
    assert record["converted"] == {"img": "10000"}
    assert record["warnings"] == []
    # The same ground in the training's scale gives the same map.
    make_place(folder / "plain", 1, dtype="float32")
    plain = f"img={folder / 'plain' / 'img_1.tif'}"
    terrafuse("predict", folder / "run", "-r", plain, "--out", folder / "again")
    maps = [rasterio.open(folder / name / "class_map.tif").read() for name in ("yes", "again")]
    assert np.mean(maps[0] == maps[1]) > 0.999


@pytest.mark.filterwarnings("ignore:modality 'img' of scene")
def test_values_can_be_trusted(folder, terrafuse):
    raster = f"img={folder / 'scaled' / 'img_1.tif'}"
    out = folder / "trusted"
    terrafuse("predict", folder / "run", "-r", raster, "--out", out, "--trust-values")
    (text,) = json.loads((out / "prediction.json").read_text())["warnings"]
    assert "may have another scale" in text


def test_doubts_are_warned_of_and_stand_in_the_record(folder):
    make_place(folder / "zeros", 0, lambda x: 0 * x)
    with pytest.warns(UserWarning, match="every value is 0"):
        made = api.load(folder / "run").predict(
            folder / "doubtful", rasters={"img": folder / "zeros" / "img_0.tif"}, device="cpu"
        )
    (text,) = json.loads(made.record.read_text())["warnings"]
    assert "every value is 0" in text


def test_unknown_conversions(folder, command_line):
    raster = f"img={folder / 'img_3.tif'}"
    common = ["predict", folder / "run", "-r", raster, "--out", folder / "none"]
    for words, text in (
        (["--convert", "imgg=2"], "Did you mean 'img'"),
        (["--convert", "img=two"], "FACTOR,OFFSET"),
        (["-s", "training.lr=1"], "the run is trained"),
        (["-s", "prediction.overlapp=1"], "Did you mean 'overlap'"),
    ):
        code, _, said = command_line(*common, *words)
        assert (code, text in said) == (2, True), said


def test_settings_of_predict(folder, terrafuse):
    out = folder / "settings"
    terrafuse(
        "predict", folder / "run", "--scene", f"{folder / 'dataset.yaml'}#test_3", "--out", out,
        "-s", "prediction.overlap=5", "-s", "prediction.batch_size=7", "--crop-size", "48",
        "--precision", "bf16-mixed", "--device", "cpu",
    )  # fmt: skip
    windows = json.loads((out / "prediction.json").read_text())["windows"]
    wanted = {"crop_size": 48, "overlap": 5, "batch_size": 7, "precision": "bf16-mixed"}
    assert windows == windows | wanted


def test_areas_are_printed_and_written(folder, terrafuse):
    scene = f"{folder / 'dataset.yaml'}#test_3"
    out, _ = terrafuse(
        "predict", folder / "run", "--scene", scene, "--out", folder / "a", "--areas"
    )
    with rasterio.open(folder / "a" / "class_map.tif") as dataset:
        found = dataset.read(1)
    with (folder / "a" / "areas.csv").open() as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["dry", "wet", "no data"]
    for index, name in enumerate(("dry", "wet")):
        pixels = int((found == index).sum())
        assert int(rows[name]["pixels"]) == pixels
        assert float(rows[name]["hectares"]) == pytest.approx(pixels / 100)  # 10 m pixels
        assert float(rows[name]["percent"]) == pytest.approx(100 * pixels / SIZE**2, abs=1e-3)
        assert f"{pixels / 100:,.2f}" in out


def test_another_manifest_has_files_of_its_own(folder, terrafuse):
    run = folder / "run"
    terrafuse("evaluate", run, "--no-report")
    before = (run / "metrics.json").read_bytes() + (run / "model.json").read_bytes()
    assert not (run / "report.html").exists()
    other = folder / "same" / "dataset.yaml"
    out, said = terrafuse("evaluate", run, "--manifest", other, "--split", "test")
    assert (run / "metrics.json").read_bytes() + (run / "model.json").read_bytes() == before
    found = json.loads((run / "metrics_same_test.json").read_text())
    assert list(found["per_scene"]) == ["test_1", "test_2"]
    assert found["pixels"] == 2 * SIZE**2
    evidence = read_evidence(run / "evidence_same_test.npz")
    assert evidence.counts("confusion").sum() == 2 * SIZE**2
    for id in found["per_scene"]:
        assert id in out
    assert "report_same_test.html" in said
    assert "test_2" in (run / "report_same_test.html").read_text()


def test_chosen_scenes(folder, terrafuse, command_line):
    out, _ = terrafuse(
        "evaluate", folder / "run", "--scenes", "test_4,va*", "--json", "--no-report"
    )
    found = json.loads(out)
    assert list(found["per_scene"]) == ["val_2", "test_4"]
    assert found["split"] == "any"
    assert (folder / "run" / "metrics_scenes.json").exists()
    code, _, said = command_line("evaluate", folder / "run", "--scenes", "test_5")
    assert code == 2
    assert "Did you mean 'test_" in said


def test_evaluating_on_another_scale(folder, command_line, terrafuse):
    other = folder / "scaled" / "dataset.yaml"
    words = ("evaluate", folder / "run", "--manifest", other, "--split", "test", "--no-report")
    code, _, said = command_line(*words)
    assert code == 2
    assert "2 of 2 scenes: 'test_1', 'test_2' has another scale" in said
    out, _ = terrafuse(*words, "--convert", "img=10000", "--json")
    found = json.loads(out)
    assert found["settings"]["converted"] == {"img": "10000"}
    # The same ground in both scales: the same scores.
    run = api.load(folder / "run")
    for number in range(3):
        make_place(folder / "float", number, dtype="float32")
    manifest = make_manifest(folder / "float" / "dataset.yaml", ["train", "test", "test"])
    plain = run.evaluate(manifest=manifest, split="test", device="cpu")
    again = run.evaluate(
        manifest=other, split="test", convert={"img": ValueConversion(1e4)}, device="cpu"
    )
    one, two = (m["subsets"]["img"]["scores"]["miou"] for m in (plain, again))
    assert two == pytest.approx(one, abs=1e-3)


def test_scenes_are_opened_and_checked_as_they_come(folder, monkeypatch):
    from terrafuse.data import handles

    run, manifest = api.load(folder / "run"), folder / "same/dataset.yaml"
    how = {"manifest": manifest, "scenes": ["*"], "device": "cpu"}
    expected = run.evaluate(**how)
    assert expected["scenes"] == 3
    opened, seen, real = set(), [], handles.open_stored

    def open_stored(spec):
        opened.add(spec.rpartition("/")[2])
        return real(spec)

    handles.pool.close()
    monkeypatch.setattr(handles, "open_stored", open_stored)
    monkeypatch.setattr("terrafuse.data.streaming._FIRST_SCENES", 1)
    metrics = run.evaluate(**how, progress=lambda *_: seen.append(set(opened)))
    assert seen[0] == {"img_0.tif", "lab_0.tif"}
    assert seen[-1] == opened == {f"{kind}_{n}.tif" for kind in ("img", "lab") for n in range(3)}
    assert metrics == expected


def test_values_of_a_scene_that_comes_later(folder, tmp_path, monkeypatch):
    for number in range(3):
        change = (lambda x: x / 1e4) if number == 2 else (lambda x: 0.9 * x)
        make_place(tmp_path, number, change, "float32" if number == 2 else "uint16")
    manifest = make_manifest(tmp_path / "dataset.yaml", ["test"] * 3)
    shutil.copytree(folder / "run", tmp_path / "run")
    run, maps = api.load(tmp_path / "run"), []
    how = {
        "manifest": manifest, "split": "test", "device": "cpu",
        "on_map": lambda scene, *_: maps.append(scene.id),
    }  # fmt: skip
    before = sorted(path.name for path in run.folder.iterdir())
    with pytest.raises(DataError, match=r"of 1 of 3 scenes: 'test_2' has another scale") as refused:
        run.evaluate(**how)
    assert maps == []  # those few that are opened at first are all
    with pytest.warns(UserWarning, match="may have another scale"):
        expected = run.evaluate(**how, trust_values=True)
    monkeypatch.setattr("terrafuse.data.streaming._FIRST_SCENES", 1)
    maps.clear()
    with pytest.raises(DataError, match=re.escape(str(refused.value))):
        run.evaluate(**how)
    assert maps == ["test_0", "test_1"]
    with pytest.warns(UserWarning, match="may have another scale") as warned:
        metrics = run.evaluate(**how, trust_values=True, resume=True)
    told = [str(w.message) for w in warned if w.category is UserWarning]
    assert told == metrics["warnings"]
    assert maps == ["test_0", "test_1", "test_2"]
    assert metrics == expected
    further = {path.name for path in run.folder.iterdir()} - set(before)
    assert {name.partition("_")[0] for name in further} == {"metrics", "evidence"}


def test_a_scene_too_large_for_memory_is_named(folder, monkeypatch):
    run, seen = api.load(folder / "run"), []
    module = sys.modules["terrafuse.api.runs"]

    def check(segmenter, crop, batch, sizes, *_, **__):
        seen.append(list(sizes))
        if len(seen) > 1:
            raise NotEnoughMemoryError("it needs 9 GB")

    monkeypatch.setattr(module, "check_prediction", check)
    monkeypatch.setattr("terrafuse.data.streaming._FIRST_SCENES", 1)
    run.evaluate(device="cpu")  # both have one size
    assert seen == [[(SIZE, SIZE)]]
    monkeypatch.setattr(module._Look, "see", lambda self, scenes: None)
    seen.clear()
    with pytest.raises(NotEnoughMemoryError, match=r"^scene 'test_4': it needs 9 GB"):
        run.evaluate(device="cpu")
    assert seen == [[(SIZE, SIZE)]] * 2
    monkeypatch.undo()
    assert run.evaluate(device="cpu", resume=True)["scenes"] == 2


def test_scores_in_shards(folder, terrafuse):
    run = folder / "run"
    expected = json.loads(terrafuse("evaluate", run, "--json")[0])
    said, _ = terrafuse("evaluate", run, "--shard", "2/2")
    assert "shard 2/2 is done; 1 scenes of other shards are missing" in said
    assert (run / "scored").is_dir()
    found = json.loads(terrafuse("evaluate", run, "--shard", "1/2", "--json")[0])
    assert found == expected == json.loads((run / "metrics.json").read_text())
    assert not (run / "scored").exists()


@pytest.mark.slow
def test_scores_and_page_by_workers(folder, terrafuse):
    run = folder / "run"
    expected = json.loads(terrafuse("evaluate", run, "--subsets", "--json")[0])
    page = _timeless(run / "report.html")
    found = json.loads(terrafuse("evaluate", run, "--subsets", "--workers=2", "--json")[0])
    assert found == expected
    assert _timeless(run / "report.html") == page


def _timeless(page: Path) -> str:
    """A page without the times of day on it."""
    return re.sub(r"\b\d\d:\d\d(:\d\d)?\b", "", page.read_text())


def test_the_page_of_a_run(folder, terrafuse):
    run = folder / "run"
    terrafuse("evaluate", run)
    page = (run / "report.html").read_text()
    assert 'class="compare"' in page  # the swipe
    for text in ("img", "truth", "map", "errors", "test_3", "test_4", "Confusion", "Scenes"):
        assert text in page, text
    (run / "report.html").unlink()
    out, _ = terrafuse("report", run)
    assert out.strip() == f"open {run / 'report.html'}"
    assert "test_3" in (run / "report.html").read_text()


def test_the_page_of_two_runs(folder, terrafuse, monkeypatch):
    shutil.copytree(folder / "run", folder / "second", dirs_exist_ok=True)
    monkeypatch.chdir(folder)
    out, _ = terrafuse("report", "run", "second", "-o", folder / "both.html")
    page = (folder / "both.html").read_text()
    assert "map of run" in page
    assert "map of second" in page
    assert out.strip().endswith("both.html")

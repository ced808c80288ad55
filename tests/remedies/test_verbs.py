"""Verbs on data sets, sweeps, label shares and settings: what the message says to do, done."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from remedies import refused, said
from terrafuse import api
from terrafuse.api import copy_configs, data_check, data_describe, data_fix, data_split
from terrafuse.api.efficiency import _check_comparable, _check_shares, _names, _Subject
from terrafuse.api.reporting import report
from terrafuse.api.sweep_choice import choose_value
from terrafuse.api.sweep_plan import Candidates, plan_sweep
from terrafuse.api.sweeps import RECORD, _stored
from terrafuse.classes import ClassScheme
from terrafuse.cli.evaluate import _parts
from terrafuse.cli.options import load_run
from terrafuse.config import load_run_config
from terrafuse.data import load_manifest
from terrafuse.demo import _fresh_folder
from terrafuse.errors import ConfigError, OutputError, TerrafuseError
from terrafuse.landscape import make_landscape
from terrafuse.training import run_state
from terrafuse.training.run_state import SplitStatistics
from terrafuse.weights import digest

# Data sets


@pytest.mark.parametrize("way", ["another", "remove"])
def test_manifests_that_exist(place: Any, way: str) -> None:
    place.modality("b")["nodata"] = -10
    place.load()
    images, labels = place.folder / "set" / "images", place.folder / "set" / "labels"
    for number in range(2):
        place.make_raster(images / f"{number}.tif", place.pixels())
        place.make_raster(labels / f"{number}.tif", place.pixels("train", "l"))
    out = place.folder / "new.yaml"
    shares = {"train": 0.5, "val": 0.5}
    image = place.pixels()
    image[:, -5:] = 255
    place.raster("train_a.tif", image)
    findings = data_check(place.manifest)

    def describe(path: Path) -> None:
        data_describe(place.folder / "set", path, layout="folder", options={})

    def split(path: Path) -> None:
        data_split(place.manifest, path, shares=shares, block_px=8, buffer_px=0)

    def fix(path: Path) -> None:
        data_fix(place.manifest, findings, path)

    verbs = {
        "api.datasets:data_describe | exists; choose another name or remove it first": describe,
        "api.datasets:data_split | exists; choose another name or remove it first": split,
        "api.datasets:data_fix | exists; choose another name or remove it first": fix,
    }
    for number, (name, verb) in enumerate(verbs.items()):
        out.write_text("")
        with refused(name, OutputError):
            verb(out)
        if way == "remove":
            out.unlink()
        written = out if way == "remove" else place.folder / f"another{number}.yaml"
        verb(written)
        load_manifest(written)


def test_statistics_without_splits(place: Any) -> None:
    for entry in place.values["scenes"]:
        del entry["split"]
    place.write()
    with refused("api.datasets:data_stats_by_split | create some with terrafuse data split"):
        api.data_stats_by_split(place.manifest)
    split = place.folder / "split.yaml"
    data_split(place.manifest, split, shares={"train": 0.5, "val": 0.5}, block_px=8, buffer_px=0)
    assert set(api.data_stats_by_split(split)) == {"train", "val"}


def test_shares_of_splits(place: Any) -> None:
    place.load()

    def split(name: str, **shares: float) -> None:
        data_split(place.manifest, place.folder / name, shares=shares, block_px=8, buffer_px=0)

    with refused("splits.splitting:_check_shares | give positive numbers that sum to 1"):
        split("a.yaml", train=0.5, val=0.2)
    split("b.yaml", train=0.8, val=0.2)


def test_sizes_of_a_landscape(tmp_path: Path) -> None:
    with refused("landscape.scenes:make_landscape | or more") as error:
        make_landscape(tmp_path, size=16, train=1, val=0, test=0)
    make_landscape(tmp_path, size=int(error.find(r"use (\d+) or more")), train=1, val=0, test=0)


def test_the_folder_of_a_demo(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with refused("demo:_fresh_folder | is not an earlier demo; choose another --out"):
        _fresh_folder(tmp_path)
    (tmp_path / "demo").mkdir()
    _fresh_folder(tmp_path / "demo")


# Settings that ship


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two settings files in place of the real ones."""
    folder = tmp_path / "shipped"
    files = {
        "sets/flood.yaml": "# A flood.\nroot: pixels\nscenes:\n  - {id: a, s1: a.tif}\n",
        "runs/flood.yaml": "# A.\ndata: {manifest: ../sets/flood.yaml}\nmethod: {name: single}\n",
        "runs/own.yaml": "# Own.\ndata: {manifest: sets/own.yaml}\nmethod: {name: single}\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setattr("terrafuse.api.shipped._folder", lambda: folder)
    return folder


@pytest.mark.usefixtures("shipped")
def test_copies_of_settings(tmp_path: Path) -> None:
    out = tmp_path / "own"
    copy_configs("runs/flood", out)
    with refused("api.shipped:copy_configs | choose another folder, or remove it") as error:
        copy_configs("runs/flood", out)
    copy_configs("runs/flood", tmp_path / "another")
    Path(error.find("^'(.*?)' exists")).unlink()
    copy_configs("runs/flood", out)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "sets").symlink_to(tmp_path / "elsewhere")
    with refused("api.shipped:copy_configs | copy into another folder"):
        copy_configs("runs/flood", tmp_path / "linked")
    copy_configs("runs/flood", tmp_path / "third")


@pytest.mark.usefixtures("shipped")
def test_what_copies_refer_to(tmp_path: Path) -> None:
    from terrafuse.api.shipped import _missing

    out = tmp_path / "own"
    made = copy_configs("runs/flood", out)
    said("api.shipped:_missing | does not exist; set the dataset's folder", " ".join(made.notes))
    dataset = out / "sets" / "flood.yaml"
    (tmp_path / "pixels").mkdir()
    dataset.write_text(dataset.read_text().replace("root: pixels", f"root: {tmp_path / 'pixels'}"))
    assert list(_missing(list(made.written), out)) == []
    made = copy_configs("runs/own", out)
    name = (
        "api.shipped:_missing | (the head of the file may say how; terrafuse data describe), or set"
    )
    said(name, " ".join(made.notes))
    (out / "runs" / "sets").mkdir()
    (out / "runs" / "sets" / "own.yaml").write_text("scenes: []\n")
    assert list(_missing(list(made.written), out)) == []


# Sweeps


def plan(place: Any, **how: Any) -> Any:
    place.write()
    return plan_sweep([place.folder / "run.yaml"], place.folder / "out", **{"seeds": 1} | how)


def test_what_a_sweep_chooses_from(place: Any) -> None:
    with refused(
        "api.sweep_plan:Candidates.parse | write a key and two or more values, as in"
    ) as error:
        Candidates.parse("training.lr=3e-4")
    candidates = Candidates.parse(error.find("as in (.*)$"))
    plan(place, candidate=(candidates.key, candidates.values[0]))
    with refused(
        "api.sweep_plan:_check_candidate | only settings of training can, except"
    ) as error:
        plan(place, candidate=("data.crop_size", "64"))
    for key in error.find(r"\((.*?) …\)").split(", "):
        plan(place, candidate=(key, "0.1"))
    # As rows of their own.
    run = place.folder / "other.yaml"
    run.write_text(yaml.safe_dump(place.run | {"data": place.run["data"] | {"crop_size": 64}}))
    jobs = plan_sweep([place.folder / "run.yaml", run], place.folder / "out", seeds=1)
    assert [job.config.data.crop_size for job in jobs] == [32, 64]
    with refused("api.sweep_plan:_check_candidate | leave out one of them"):
        plan(place, candidate=("training.lr", "1"), overrides={"training.lr": "3"})
    plan(place, candidate=("training.lr", "1"))
    plan(place, overrides={"training.lr": "3"})


def test_a_choice_without_validation(place: Any) -> None:
    candidates = Candidates("training.lr", ("1", "2"))

    def choose() -> None:
        jobs = [plan(place, candidate=("training.lr", value))[0] for value in candidates.values]

        def train(_: Any) -> Path:
            raise ConfigError("not here")

        choose_value(candidates, jobs, train, lambda _: None)

    with refused("api.sweep_choice:choose_value | Set it, or give one value with -s") as error:
        choose()
    section, key = error.find(r"no (training\.\w+)\. Set it").split(".")
    place.run[section][key] = 1
    choose()
    plan(place, overrides={"training.lr": "2"})  # one value


def test_rows_of_a_sweep(place: Any) -> None:
    methods = place.folder / "methods.yaml"
    method = {"method": {"name": "late_fusion", "backbone": "resnet10t", "decoder": "linear"}}
    methods.write_text(yaml.safe_dump({"A b": method, "a/B": method}))
    with refused(
        "api.sweep_plan:_check_names | must differ by more than case, spaces and punctuation"
    ):
        plan(place, methods=methods)
    methods.write_text(yaml.safe_dump({"A b": method, "another": method}))
    plan(place, methods=methods)
    before = {"objective": {"name": "mae"}}
    own = {"method": {"name": "pagnet"}, "pretrain": before}
    methods.write_text(yaml.safe_dump({"mae": own}))
    with refused(
        "api.sweep_plan:_pretraining | name the backbone to pre-train, under 'pretrain' or"
    ):
        plan(place, methods=methods)
    own["pretrain"] = before | {"backbone": "vit_tiny_patch16_224"}
    methods.write_text(yaml.safe_dump({"mae": own}))
    plan(place, methods=methods)
    own |= {"method": {"name": "single", "backbone": "vit_tiny_patch16_224"}, "pretrain": before}
    methods.write_text(yaml.safe_dump({"mae": own}))
    plan(place, methods=methods)


@pytest.mark.parametrize("way", ["restore", "remove", "another"])
def test_a_sweep_whose_manifest_has_changed(place: Any, way: str) -> None:
    import json
    import shutil

    (job,) = plan(place)
    run_state.begin(job.folder, job.config, SplitStatistics({}, (1, 1), digest(place.manifest)))
    record = {"manifest_sha256": digest(place.manifest), "split": "test"}
    (job.folder / RECORD).write_text(json.dumps(record))
    assert _stored(job, None) == record
    before = place.manifest.read_text()
    place.manifest.write_text(f"{before}\n# Changed.\n")
    with refused("api.sweeps:_stored | Restore it, remove the run, or sweep into another folder"):
        _stored(job, None)
    if way == "restore":
        place.manifest.write_text(before)
        assert _stored(job, None) == record
    elif way == "remove":
        shutil.rmtree(job.folder)
        assert _stored(job, None) is None
    else:
        (other,) = plan_sweep([place.folder / "run.yaml"], place.folder / "out2", seeds=1)
        assert _stored(other, None) is None


# Label efficiency, reports, settings of runs


def test_shares_of_labels() -> None:
    with refused("api.efficiency:_check_shares | give values above 0, at most 1"):
        _check_shares([0, 2])
    assert _check_shares([1, 0.1]) == (0.1, 1)
    with refused("cli.evaluate:_parts | give percentages such as") as error:
        _parts("a few")
    assert _parts(error.find("such as (.*)$")) == [0.01, 0.1, 1.0]


def test_runs_to_compare(place: Any) -> None:
    with refused("api.efficiency:_names | give another one to compare with"):
        _names("run", "run")
    _names("run", "other")
    place.write()
    ours = _Subject(place.folder / "ours", place.config())
    place.run["training"]["seed"] = 1
    theirs = _Subject(place.folder / "theirs", place.config())
    with refused("api.efficiency:_check_comparable | with the settings of the other") as error:
        _check_comparable(ours, theirs)
    section, key = error.find(r"compared: (\S+) must be the same").split(".")
    place.run[section][key] = getattr(ours.config.training, key)
    _check_comparable(ours, _Subject(place.folder / "theirs", place.config()))


def test_a_report_of_other_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    from terrafuse.api.runs import Run

    def run(*classes: str) -> Run:
        info: Any = SimpleNamespace(scheme=ClassScheme(classes))
        return Run(Path("-".join(classes)), None, info, None)  # type: ignore[arg-type]

    with refused("api.reporting:report | give runs of the same", ConfigError):
        report([run("a", "b"), run("a", "c")])

    class ReachedError(Exception):
        pass

    def reach(*_: Any) -> None:
        raise ReachedError

    monkeypatch.setattr("terrafuse.api.reporting._titles", reach)
    with pytest.raises(ReachedError):
        report([run("a", "b"), run("a", "b")])


def test_settings_of_a_trained_run(place: Any) -> None:
    sections = ("evaluation", "prediction")
    with refused("cli.options:replaced | Train again to change the rest") as error:
        load_run(place.folder, ["training.lr=1"], sections)
    named = error.find("only (.*?) can be replaced").replace("'", "").split(" and ")
    for key in named:
        # What is refused then is that nothing was trained here.
        with pytest.raises(TerrafuseError, match="not a run folder"):
            load_run(place.folder, [f"{key.replace('…', 'split')}=test"], sections)
    # Training again takes the setting.
    place.write()
    assert load_run_config(place.folder / "run.yaml", {"training.lr": "1"}).training.lr == 1

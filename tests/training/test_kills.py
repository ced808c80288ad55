"""Every verb that writes: killed, stopped, and started twice at once.

`benchmarks/kills.py` does the same to whole commands, at random moments.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from children import (
    at_rename,
    end_of,
    fork,
    kill_at_rename,
    run,
    running,
    wait_for_a_signal,
    wait_for_ever,
)
from kills import differences, files, traces
from terrafuse import api
from terrafuse.config import RunConfig
from terrafuse.config.base import parse_settings
from terrafuse.config.pretrain import PretrainConfig
from terrafuse.demo import run_demo
from terrafuse.errors import OutputError, StoppedError
from terrafuse.reports import figures  # noqa: F401  # before forking, to import it once
from terrafuse.stopping import Stopped, listening
from terrafuse.training import pretrain, train
from terrafuse.training.pictures import SamplePicture
from terrafuse.training.task import LearningTask, SegmentationTask

Make = Callable[..., Any]
RESNET = {"channels": [4, 4, 8, 8], "layers": [1, 1, 1, 1]}


@dataclass(frozen=True)
class World:
    """What the verbs work on."""

    folder: Path
    manifest: Path
    config: RunConfig
    photo: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def pretraining(self) -> PretrainConfig:
        data = {"manifest": self.manifest, "crop_size": 16, "batch_size": 4, "workers": 0}
        values = {
            "data": data,
            "objective": {"name": "infonce"},
            "backbone": "resnet18",
            "backbone_options": RESNET,
            "training": {"steps": 4, "accelerator": "cpu", "save_every": 2},
        }
        return parse_settings(PretrainConfig, values, "pretrain.yaml")

    def trained(self) -> Path:
        """A run in `out`, always the same."""
        kept, run_folder = self.folder / "trained", self.out / "run"
        if not kept.exists():
            assert run(lambda: train(self.config, kept, progress=False)) == 0
        if not run_folder.exists():
            shutil.copytree(kept, run_folder)
        return run_folder


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than learning."""
    monkeypatch.setattr(SamplePicture, "__call__", lambda *_: None)
    for name in ("train", "pretrain"):
        module = sys.modules[f"terrafuse.training.{name}"]
        monkeypatch.setattr(module, "save_curves", lambda *_: None)


@pytest.fixture
def world(tmp_path: Path, make_dataset: Make, make_config: Make, make_raster: Make) -> World:
    manifest = make_dataset(("train", "train", "val", "test"))
    rng = np.random.default_rng(0)
    photo = make_raster(tmp_path / "photo.tif", rng.integers(0, 255, (3, 80, 80), np.uint8))
    config = make_config(manifest)
    values = config.model_dump(mode="json")
    values["training"] |= {"steps": 2, "validate_every": 1}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    return World(tmp_path, manifest, config, photo)


def _fix(world: World) -> None:
    from terrafuse.doctor import Finding

    finding = Finding("warning", "x", "y", fix={"grid": "a"})
    api.data_fix(world.manifest, [finding], world.out / "fixed.yaml")


#: Verb, as its lock names it → call that goes on where an earlier one stopped.
VERBS: dict[str, Callable[[World], Any]] = {
    "train": lambda w: train(w.config, w.out / "run", resume=True, progress=False),
    "pretrain": lambda w: pretrain(w.pretraining, w.out / "pre", resume=True, progress=False),
    "sweep": lambda w: api.sweep(
        [w.folder / "run.yaml"], w.out / "sweep", seeds=1, progress=False
    ),
    "generate": lambda w: api.generate(
        w.photo, kind="superpixels", out=w.out / "made", rgb=(1, 2, 3), window=48, overlap=16
    ),
    "predict": lambda w: api.predict(
        w.folder / "trained", w.out / "map", scene=f"{w.manifest}#scene3", device="cpu",
        resume=True,
    ),
    "evaluate": lambda w: api.evaluate(w.out / "run", device="cpu", resume=True),
    "data split": lambda w: api.data_split(
        w.manifest, w.out / "split.yaml", shares={"train": 0.5, "test": 0.5}, block_px=16,
        buffer_px=0,
    ),
    "data describe": lambda w: api.data_describe(
        w.manifest.parent, w.out / "described.yaml", layout="folder",
        options={"labels": "labels*.tif", "a": "a*.tif"},
    ),
}  # fmt: skip
#: Those that are not killed here.
FURTHER: dict[str, Callable[[World], Any]] = {
    "evaluate --label-efficiency": lambda w: api.label_efficiency(
        w.out / "run", shares=[1.0], seeds=1, progress=False
    ),
    "report": lambda w: api.report(w.out / "run", device="cpu"),
    "demo": lambda w: run_demo(w.out / "demo", steps=1, size=64),
    "data check": lambda w: api.data_check(w.manifest, quick=True, html=w.out / "page.html"),
    "data check --fix": _fix,
    "data preview": lambda w: api.data_preview(w.manifest, w.out / "preview.png", scenes=1),
    "configs copy": lambda w: api.copy_configs("compare/gid15", w.out / "configs"),
}
NEEDS_RUN = ("predict", "evaluate", "evaluate --label-efficiency", "report")


def begin(verb: str, world: World) -> None:
    shutil.rmtree(world.out, ignore_errors=True)
    world.out.mkdir()
    if verb in NEEDS_RUN:
        world.trained()


def count_renames(verb: str, world: World) -> int:
    """Run a verb to its end; how often it moves a file to its place."""
    note = world.folder / "renames"

    def work() -> None:
        seen: list[int] = []
        at_rename(0, lambda: None)
        replace = Path.replace

        def count(self: Path, target: Any) -> Path:
            seen.append(1)
            return replace(self, target)

        Path.replace = count  # type: ignore[method-assign]
        VERBS[verb](world)
        note.write_text(str(len(seen)))

    assert run(work) == 0
    return int(note.read_text())


@pytest.mark.parametrize("verb", VERBS)
def test_killed_anywhere_and_run_again_it_was_never_killed(verb: str, world: World) -> None:
    begin(verb, world)
    total = count_renames(verb, world)
    expected = files(world.out)
    begin(verb, world)
    # Just before its last file but one, where files belong together; then as it goes on.
    assert run(lambda: (kill_at_rename(max(1, total - 1)), VERBS[verb](world))) == -9
    assert traces(world.out)
    assert run(lambda: (kill_at_rename(2), VERBS[verb](world))) in (-9, 0)
    if not verb.startswith("data") or not files(world.out):
        assert run(lambda: VERBS[verb](world)) == 0
    assert differences(expected, files(world.out)) == []
    assert traces(world.out) == []
    written = [path for path in world.out.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in written} == {0o666 & ~umask()}


def umask() -> int:
    os.umask(found := os.umask(0o077))
    return found


def as_command(work: Callable[[], Any]) -> None:
    """As `terrafuse` runs it, with its exit codes."""
    try:
        with listening():
            work()
    except Stopped as stop:
        raise SystemExit(stop.exit_code) from None
    except StoppedError as error:
        print(error)
        raise SystemExit(2) from None


def stop_group(work: Callable[[Callable[[], None]], Any], number: signal.Signals) -> int:
    """Signal the group of a command once it says so; its exit code."""
    reading, writing = os.pipe()

    def wait() -> None:
        os.write(writing, b".")
        wait_for_a_signal()

    child = fork(lambda: as_command(lambda: work(wait)), leads_group=True)
    assert os.read(reading, 1)
    os.killpg(child, number)
    code = end_of(child)
    until = time.monotonic() + 30
    with contextlib.suppress(ProcessLookupError):
        while True:  # its workers see that it has ended
            os.killpg(child, 0)
            assert time.monotonic() < until, "an orphan goes on"
            time.sleep(0.01)
    os.close(reading)
    os.close(writing)
    return code


@pytest.mark.parametrize("verb", ["generate", "predict", "evaluate", "data split", "data describe"])
def test_sigterm_leaves_nothing_half_done(verb: str, world: World) -> None:
    begin(verb, world)
    before = set(files(world.out))
    number = signal.SIGTERM

    def work(wait: Callable[[], None]) -> None:
        at_rename(1, wait)
        VERBS[verb](world)

    assert stop_group(work, number) == 128 + number
    left = {name for name in files(world.out) if ".partial/" not in name}  # windows are kept
    assert traces(world.out, windows=False) == []
    assert run(lambda: VERBS[verb](world)) == 0
    assert traces(world.out) == []
    assert left in (before, set(files(world.out)))  # several files are all there, or none


def wait_at_batch(number: int, wait: Callable[[], None]) -> None:
    start, waiting = LearningTask.on_train_batch_start, [number]

    def hook(self: Any, batch: Any, batch_idx: int) -> Any:
        if batch_idx in waiting:
            waiting.clear()
            wait()
        return start(self, batch, batch_idx)

    LearningTask.on_train_batch_start = hook  # type: ignore[method-assign]
    SegmentationTask.on_train_batch_start = hook  # type: ignore[method-assign]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_group_of_readers_survives_until_the_run_is_saved(
    world: World, number: signal.Signals, make_config: Make
) -> None:
    """What `timeout`, SLURM and containers send reaches the processes that read, too."""
    config = make_config(world.manifest, data={"workers": 2})

    def work(wait: Callable[[], None]) -> None:
        wait_at_batch(2, wait)
        train(config, world.out / "run", progress=False)

    assert stop_group(work, number) == 2
    assert (world.out / "run" / "last.ckpt").exists()
    assert traces(world.out) == []
    # How many processes read is free.
    assert run(lambda: train(world.config, world.out / "run", resume=True, progress=False)) == 0
    found = files(world.out / "run")
    begin("evaluate", world)  # makes the run that was never stopped
    expected = files(world.out / "run")
    assert differences({**expected, "config.yaml": found["config.yaml"]}, found) == []


def test_pretraining_is_saved_as_well(world: World) -> None:
    def work(wait: Callable[[], None]) -> None:
        wait_at_batch(1, wait)
        pretrain(world.pretraining, world.out / "pre", progress=False)

    assert stop_group(work, signal.SIGTERM) == 2
    assert (world.out / "pre" / "last.ckpt").exists()
    assert traces(world.out) == []


@pytest.mark.parametrize("batch", [0, 1])
def test_a_sweep_begins_no_further_trial(world: World, batch: int) -> None:
    """Also where the signal comes in the last step, after which the trial is finished."""

    def work(wait: Callable[[], None]) -> None:
        wait_at_batch(batch, wait)
        api.sweep([world.folder / "run.yaml"], world.out / "sweep", seeds=2, progress=False)

    is_last = batch == 1
    assert stop_group(work, signal.SIGTERM) == 2
    assert {p.name for p in (world.out / "sweep").iterdir() if p.is_dir()} == {"run-0"}
    assert (world.out / "sweep/run-0/model.json").exists() == is_last
    assert traces(world.out) == []


@pytest.mark.parametrize("verb", [*VERBS, *FURTHER])
def test_the_second_of_two_is_told_who_holds_it(verb: str, world: World) -> None:
    begin(verb, world)
    call = (VERBS | FURTHER)[verb]

    def work(tell: Callable[[], None]) -> None:
        at_rename(1, lambda: (tell(), wait_for_ever()))
        call(world)

    with running(work) as number:
        before = files(world.out)
        with pytest.raises(OutputError, match=rf"in use by terrafuse {verb} \(process {number} "):
            call(world)
        assert files(world.out) == before


def test_of_two_trainings_started_at_once_one_works(world: World) -> None:
    assert run(lambda: train(world.config, world.out / "run", progress=False)) == 0
    expected = files(world.out / "run")
    shutil.rmtree(world.out)
    start, done = os.pipe(), os.pipe()

    def work() -> None:
        os.close(start[1])
        os.close(done[1])
        wait_at_batch(1, lambda: os.read(done[0], 1) and None)  # until the other has ended
        os.read(start[0], 1)  # until both are there
        with pytest.raises(OutputError, match=r"in use by terrafuse train \(process"):
            train(world.config, world.out / "run", resume=True, progress=False)
        raise SystemExit(7)

    children = [fork(work), fork(work)]
    os.close(start[1])
    first, status = os.wait()
    assert os.waitstatus_to_exitcode(status) == 7
    os.close(done[1])
    children.remove(first)
    assert end_of(children[0]) == 1  # pytest.raises: it did not raise
    os.close(start[0])
    os.close(done[0])
    assert differences(expected, files(world.out / "run")) == []
    assert json.loads((world.out / "run/model.json").read_text())["method"]["name"] == "tiny"


def test_what_is_read_is_not_written_over(world: World) -> None:
    begin("predict", world)
    scene = f"{world.manifest}#scene3"
    (world.out / "map").mkdir()
    raster = world.manifest.parent / "b3.tif"
    (world.out / "map" / "confidence.tif").hardlink_to(raster)
    (world.out / "made").mkdir()
    (world.out / "made" / "photo.png").hardlink_to(world.photo)  # the preview's name
    (world.out / "sheet.png").hardlink_to(world.manifest.parent / "labels0.tif")
    run_folder = world.out / "run"
    before = files(world.folder)
    calls: dict[str, Callable[[], Any]] = {
        "b3.tif": lambda: api.predict(run_folder, world.out / "map", scene=scene, device="cpu"),
        "photo.tif": lambda: VERBS["generate"](world),
        "model.json": lambda: api.report(run_folder, run_folder / "model.json", device="cpu"),
        "labels0.tif": lambda: api.data_preview(world.manifest, world.out / "sheet.png"),
        "dataset.yaml": lambda: api.data_check(world.manifest, quick=True, html=world.manifest),
    }
    for name, call in calls.items():
        with pytest.raises(OutputError, match=rf"{name}'.* is read and would be overwritten"):
            call()
    api.evaluate(run_folder, device="cpu")  # the page was refused, the scores are its own
    shutil.rmtree(run_folder)
    before = {name: value for name, value in before.items() if not name.startswith("out/run/")}
    assert differences(before, files(world.folder)) == []

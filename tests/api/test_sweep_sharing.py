"""A sweep in shards and on Ray: the table of one machine, whoever does which run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from terrafuse import api
from terrafuse.api import sweep_sharing, sweeps
from terrafuse.api.sweep_plan import plan_sweep
from terrafuse.api.sweep_sharing import RaySlots, Trial, check_alone, of_shard
from terrafuse.errors import ConfigError, InUseError, StoppedError
from terrafuse.landscape import make_landscape
from terrafuse.prediction import Shard

pytestmark = pytest.mark.usefixtures("without_figures")

RUN: dict[str, Any] = {
    "data": {
        "modalities": ["optical", "dsm"], "crop_size": 64,
        "batch_size": 2, "workers": 0,
    },
    "method": {
        "name": "early_fusion", "backbone": "resnet10t",
        "backbone_options": {"channels": [4, 4, 8, 8]},
        "decoder_options": {"channels": 8, "bins": [1, 2]},
    },
    "training": {"steps": 1, "accelerator": "cpu", "validate_every": 1},
    "prediction": {"crop_size": 64, "overlap": 0},
}  # fmt: skip


@pytest.fixture(scope="module")
def landscape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("landscape")
    make_landscape(folder, size=96, train=1, val=1, test=1)
    return folder


@pytest.fixture
def folder(tmp_path: Path, landscape: Path) -> Path:
    """Two run files of a landscape."""
    run = {**RUN, "data": {**RUN["data"], "manifest": str(landscape / "dataset.yaml")}}
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(run))
    return tmp_path


class Stub:
    """Stands for training and scoring: the score of a run is that of its name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained: list[str] = []
        self.scored: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.before: Callable[[Path], None] = lambda folder: None
        monkeypatch.setattr(sweeps, "train", self.train)
        monkeypatch.setattr(sweeps, "load", self.load)
        monkeypatch.setattr(sweeps, "forward_seconds", lambda *_, **__: 0.5)
        overview = {"total": {"parameters": 9, "trainable": 5}, "cost": {}}
        monkeypatch.setattr(sweeps, "describe_model", lambda folder: overview)
        self.segmenter = None

    def train(self, config: Any, out: Path, **_: Any) -> Path:
        self.before(out)
        if out.name in self.fails:
            raise self.fails[out.name]
        if not (out / "model.json").exists():
            self.trained.append(out.name)
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
        (out / "log.csv").write_text(f"step,val_miou\n1,{config.training.lr}\n")
        (out / "model.json").write_text("{}")
        return out

    def load(self, folder: Path) -> Any:
        self.scored.append(folder.name)
        self.score = sum(folder.name.encode()) / 10_000
        return self

    def evaluate(self, *, split: str | None, device: str) -> dict[str, Any]:
        scored = {"scores": {"miou": self.score}, "per_class": {"water": {"iou": self.score}}}
        return {"split": split or "test", "full": "all", "subsets": {"all": scored}}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    return Stub(monkeypatch)


def sweep(folder: Path, out: str, shard: str | None = None, **options: Any) -> api.Sweep:
    runs = [folder / "one.yaml", folder / "two.yaml"]
    options = {"seeds": 3, "device": "cpu", "progress": False} | options
    return api.sweep(runs, folder / out, shard=shard, **options)


def scores(results: dict[str, Any]) -> Any:
    """What a table says of the runs, without times."""
    rows = [(row["title"], row["n"], row["scores"], row.get("chosen")) for row in results["rows"]]
    return rows, [(run["name"], run.get("scores"), run.get("error")) for run in results["runs"]]


def test_trials_are_divided_in_turn() -> None:
    trials: Sequence[Any] = list("abcdefg")
    found = [of_shard(trials, Shard(number, 3)) for number in (1, 2, 3)]
    assert found == [["a", "d", "g"], ["b", "e"], ["c", "f"]]
    assert of_shard(trials, None) == trials


def test_the_last_shard_writes_the_table_of_one_machine(folder: Path, stub: Stub) -> None:
    alone = sweep(folder, "alone")
    stub.trained.clear()
    first = sweep(folder, "out", "1/2")
    assert stub.trained == ["one-0", "one-2", "two-1"]
    assert (first.waits_for, first.results) == (3, {})
    assert not (folder / "out/table.md").exists()
    last = sweep(folder, "out", "2/2")
    assert stub.trained[3:] == ["one-1", "two-0", "two-2"]
    assert last.waits_for == 0
    assert scores(last.results) == scores(alone.results)
    assert (folder / "out/table.md").exists()
    assert sweep(folder, "out", "1/2").waits_for == 0  # nothing is left to do
    assert len(stub.trained) == 6


def test_the_words_are_those_of_maps(folder: Path, stub: Stub, command_line: Any) -> None:
    words = ("sweep", folder / "one.yaml", "--seeds", 2, "--out", folder / "out")
    code, out, told = command_line(*words, "--shard", "1/2")
    assert code == 0, told
    assert out == (
        "shard 1/2 is done; 1 runs of other shards are missing. The shard that finishes the last "
        f"one writes the table to {folder / 'out'}; run again those that have died\n"
    )
    code, table, _ = command_line(*words, "--shard", "2/2")
    assert (code, table) == (0, (folder / "out/table.md").read_text())


def test_a_shard_that_died_is_run_again(folder: Path, stub: Stub) -> None:
    stub.fails = {"one-2": StoppedError("training was stopped by SIGTERM")}
    with pytest.raises(StoppedError, match="the same command resumes the sweep"):
        sweep(folder, "out", "1/2")
    stub.fails = {}
    assert sweep(folder, "out", "2/2").waits_for == 2
    assert sweep(folder, "out", "1/2").waits_for == 0
    assert sorted(stub.trained) == sorted(set(stub.trained))


def test_failures_of_other_shards_are_in_the_table(folder: Path, stub: Stub) -> None:
    stub.fails = {"one-0": ConfigError("not so")}
    assert sweep(folder, "out", "1/2").failures == {"one-0": "not so"}
    last = sweep(folder, "out", "2/2")
    assert last.waits_for == 0
    assert last.failures == {"one-0": "not so"}
    stub.fails = {}
    assert not sweep(folder, "out", "1/2").failures  # tried again
    assert "one-0" in stub.trained


def test_a_run_of_another_process_is_left_to_it(
    folder: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    lock = sweep_sharing.folder_lock

    def in_use(path: Path, verb: str) -> Any:
        if path.name == "one-1":
            raise InUseError("in use by another process")
        return lock(path, verb)

    monkeypatch.setattr(sweep_sharing, "folder_lock", in_use)
    assert sweep(folder, "out", "1/1", say=said.append).waits_for == 1
    assert "[2/6] one-1: another process has it" in said
    assert "one-1" not in stub.trained


def test_what_another_shard_does_meanwhile_is_not_done_again(folder: Path, stub: Stub) -> None:
    def meanwhile(out: Path) -> None:  # all but the run that is being trained
        stub.before = lambda out: None
        assert sweep(folder, "out", "1/1").waits_for == 1

    stub.before = meanwhile
    assert sweep(folder, "out", "1/2").waits_for == 0
    names = [f"{row}-{seed}" for row in ("one", "two") for seed in range(3)]
    assert sorted(stub.scored) == names == sorted(stub.trained)


def test_the_shard_that_finishes_the_candidates_does_the_rest(folder: Path, stub: Stub) -> None:
    choose = {"choose": "training.lr=1e-3,1e-2", "seeds": 2}
    alone = sweep(folder, "alone", **choose)
    stub.trained.clear()
    assert sweep(folder, "out", "1/2", **choose).waits_for == 4  # no row has chosen
    assert stub.trained == ["one-1e-3-0", "two-1e-3-0"]
    last = sweep(folder, "out", "2/2", **choose)
    assert stub.trained[2:] == ["one-1e-2-0", "two-1e-2-0", "one-1e-2-1", "two-1e-2-1"]
    assert last.waits_for == 0
    assert scores(last.results) == scores(alone.results)


def test_a_candidate_that_is_trained_and_not_scored_stays_chosen(
    folder: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(**_: Any) -> Any:
        raise ConfigError("no scores")

    choose = {"choose": "training.lr=1e-3,1e-2", "seeds": 1}
    with monkeypatch.context() as patch:
        patch.setattr(stub, "evaluate", fails)
        first = sweep(folder, "out", "1/1", **choose)
    assert first.failures == {"one-1e-2-0": "no scores", "two-1e-2-0": "no scores"}
    again = sweep(folder, "out", "1/1", **choose)
    assert not again.failures
    assert [row["chosen"]["value"] for row in again.results["rows"]] == ["1e-2", "1e-2"]


@pytest.mark.parametrize(
    ("devices", "is_one"),
    [(1, True), ("1", True), ("auto", True), ("3,", True),
     (2, False), ("2", False), ("0,1", False), ("0,1,", False)],
)  # fmt: skip
def test_runs_of_shards_have_one_device(devices: int | str, is_one: bool) -> None:
    training = SimpleNamespace(devices=devices, nodes=1)
    job: Any = SimpleNamespace(config=SimpleNamespace(training=training), title="run")
    with nullcontext() if is_one else pytest.raises(ConfigError, match="one process"):
        check_alone([job], "--shard 1/2")


def test_what_shards_and_ray_refuse(folder: Path, stub: Stub) -> None:
    with pytest.raises(ConfigError, match="shard is '3/2'; allowed are 1/2 to 2/2"):
        sweep(folder, "out", "3/2")
    with pytest.raises(ConfigError, match=r"both divide the runs\. Leave out one"):
        sweep(folder, "out", "1/2", engine="ray")
    with pytest.raises(ConfigError, match="engine"):
        sweep(folder, "out", engine="rai")
    two = {"overrides": {"training.devices": "2"}}
    with pytest.raises(ConfigError, match="--shard 1/2 gives each run one process"):
        sweep(folder, "out", "1/2", **two)
    assert not stub.trained
    one = {"overrides": {"training.devices": "1"}, "seeds": 1}  # as the messages say
    assert sweep(folder, "out", "1/2", **one).waits_for == 1
    assert stub.trained == ["one-0"]


class LostError(Exception):
    """Stands for Ray's error about a process that has died."""


class FakeRay:
    """Ray with one slot, in this process; calls in `loses` die."""

    exceptions = SimpleNamespace(RayTaskError=ZeroDivisionError, RayError=LostError)

    def __init__(self, loses: dict[str, int]) -> None:
        self.loses = loses

    def remote(self, **options: Any) -> Any:
        assert options == {"num_cpus": 1, "num_gpus": 0, "max_retries": 0}
        return lambda work: SimpleNamespace(remote=lambda trial: partial(work, trial))

    def wait(self, pending: list[Any], num_returns: int) -> Any:
        return pending[:1], pending[1:]

    def get(self, reference: Any) -> Any:
        name = reference.args[0].job.name
        if self.loses.get(name, 0):
            self.loses[name] -= 1
            raise LostError
        return reference()


def test_a_lost_trial_is_resumed(folder: Path) -> None:
    jobs = plan_sweep([folder / "one.yaml"], folder / "out", seeds=3)
    slots = RaySlots.__new__(RaySlots)
    slots._ray = FakeRay({"one-0": 1, "one-2": 5})
    slots._options = {"num_cpus": 1, "num_gpus": 0, "max_retries": 0}
    said: list[str] = []
    trials = [Trial(job, scores=True) for job in jobs]
    found = {
        trial.job.name: message for trial, message in slots.run(trials, lambda _: None, said.append)
    }
    assert found == {
        "one-0": None,
        "one-1": None,
        "one-2": "its process was lost 3 times (LostError)",
    }
    assert said.count("one-0: its process was lost; it is resumed") == 1
    assert len(said) == 3


@pytest.mark.slow
def test_ray_gives_the_table_of_one_machine(folder: Path) -> None:
    pytest.importorskip("ray")
    choose = {"choose": "training.lr=1e-3,1e-2", "seeds": 2}
    alone = sweep(folder, "alone", **choose)
    said: list[str] = []
    found = sweep(folder, "out", engine="ray", say=said.append, **choose)
    assert scores(found.results) == scores(alone.results)
    assert any("runs in the slots of the Ray cluster" in line for line in said)


def kill_once(trial: Trial, folder: Path) -> str | None:
    mark = folder / "killed"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return None


@pytest.mark.slow
def test_ray_resumes_what_was_killed(folder: Path) -> None:
    pytest.importorskip("ray")
    (job,) = plan_sweep([folder / "one.yaml"], folder / "out", seeds=1)
    said: list[str] = []
    with RaySlots(None, uses_gpus=False) as slots:
        work = partial(kill_once, folder=folder)
        found = list(slots.run([Trial(job, scores=True)], work, said.append))
    assert [message for _, message in found] == [None]
    assert said == ["one-0: its process was lost; it is resumed"]


@pytest.mark.slow
def test_shards_that_really_train(folder: Path) -> None:
    alone = sweep(folder, "alone", seeds=2)
    sweep(folder, "out", "2/2", seeds=2)
    found = sweep(folder, "out", "1/2", seeds=2)
    assert scores(found.results) == scores(alone.results)
    assert isinstance(found.results["runs"][0]["scores"], dict)

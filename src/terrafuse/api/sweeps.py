"""`sweep`: many runs one after the other, with their scores side by side."""

from __future__ import annotations

import datetime
import gc
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from terrafuse.api.comparing import Setting, judge_rows
from terrafuse.api.learning import train
from terrafuse.api.pretraining import pretrain, pretrained_weights
from terrafuse.api.runs import load
from terrafuse.api.sweep_choice import choose_value
from terrafuse.api.sweep_plan import Candidates, SweepRun, plan_sweep
from terrafuse.api.sweep_sharing import (
    RaySlots,
    Trial,
    check_alone,
    claim,
    note_failure,
    noted_failure,
    of_shard,
    when_free,
)
from terrafuse.data import open_dataset
from terrafuse.data.kept import forget
from terrafuse.data.painted import learnt_in, painted_path
from terrafuse.describe.overview import describe_model
from terrafuse.errors import (
    ConfigError,
    OutputError,
    ScoresError,
    StoppedError,
    TerrafuseError,
    TrainingError,
    WeightsNotFoundError,
)
from terrafuse.evaluation import HEADLINE, SCORES
from terrafuse.locking import is_first_process
from terrafuse.prediction import (
    EngineName,
    Shard,
    WorkerSettings,
    describe_device,
    forward_seconds,
)
from terrafuse.reports.sweep_tables import Choice, JudgedRows, write_tables
from terrafuse.stopping import when_stopped
from terrafuse.version import VERSION
from terrafuse.weights import MODEL_JSON, digest
from terrafuse.writing import claimed, written_whole

#: File in the run folder with scores and costs of a finished run of a sweep.
RECORD = "sweep.json"
_COSTS = ("parameters", "trainable", "flops")
_PIXELS = 1_000_000

Record = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """Result of a sweep.

    Args:
        out: Folder of the sweep, with `table.md`, `table.csv`, `results.json` and `scores.png`.
        results: The content of `results.json`.
        failures: Messages of failed runs, by name of the run.
        waits_for: Number of runs that other shards have not finished; the tables are then not
            written, and `results` is empty.
    """

    out: Path
    results: dict[str, Any]
    failures: dict[str, str]
    waits_for: int = 0


def sweep(
    configs: Sequence[str | Path],
    out: str | Path,
    *,
    methods: str | Path | None = None,
    seeds: int = 3,
    overrides: Mapping[str, str] | None = None,
    choose: str | None = None,
    split: str | None = None,
    device: str = "auto",
    shard: Shard | str | None = None,
    engine: EngineName = "local",
    ray_address: str | None = None,
    fresh: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> Sweep:
    """Train and score every run file, or every method on each of them, with several seeds.

    Each run has its folder in `out`. Finished runs are kept and an interrupted one is resumed, so
    the same call resumes an interrupted sweep. A run that fails is noted, and the others continue.
    Tables and figure are written from the first run on.

    Args:
        out: Folder to create, or of a sweep to resume.
        methods: Methods file (title → `method`, `modalities`, `pretrain`), each entry of which
            replaces the run files' own method.
        seeds: Number of seeds, which are 0, 1 …
        overrides: Dotted keys → YAML values that replace those of every run.
        choose: "key=value,value,…" of a setting of training: each row takes the value whose run
            with the first seed validates best; the split to score on chooses nothing.
        split: To score on; default: `evaluation.split` of each run.
        device: To score on: "auto", "cpu", "cuda", "cuda:1" …
        shard: Share of the runs to do, such as "2/8", beside calls that do the others, with the
            same `out` on a disk that all see. The shard that finishes the last one writes the
            tables; of a row that chooses, the one that finishes the last candidate does the rest.
        engine: "local": one run after the other; "ray": one in each slot of a Ray cluster, a GPU
            or a CPU.
        ray_address: A running Ray cluster; None: RAY_ADDRESS, else this machine alone.
        fresh: Read the data again once, whatever is kept of it beside the manifests.
        progress: Show progress of each run: a bar, or lines where stderr is no terminal.
        say: Called with a line per run.

    Raises:
        ConfigError: Settings are invalid, or a folder holds a run with other settings.
        UnknownNameError: A method or one of its options does not exist.
        OutputError: `out` cannot be written, or another process writes there.
        StoppedError: Ctrl-C or SIGTERM stopped a run; the same call resumes it.
    """
    out = Path(out)
    share = Shard.parse(shard) if isinstance(shard, str) else shard
    slots = _slots(engine, ray_address, share, device)
    candidates = Candidates.parse(choose) if choose else None
    plans = [
        plan_sweep(
            [Path(path) for path in configs],
            out,
            methods=None if methods is None else Path(methods),
            seeds=seeds,
            overrides=overrides,
            candidate=None if candidates is None else (candidates.key, value),
        )
        for value in (candidates.values if candidates else ("",))
    ]
    hint = "finished runs are kept, and the same command resumes the sweep"
    if share or engine == "ray":
        option = f"--shard {share}" if share else "--engine ray"
        check_alone([job for plan in plans for job in plan], option)
    part = None if share is None else str(share)
    with (
        when_stopped(hint),
        claimed(out, "sweep", takes_part=is_first_process(), part=part),
    ):
        if fresh:
            for manifest in {job.config.data.manifest for plan in plans for job in plan}:
                forget(manifest)
        work = _Sweeping(out, plans, candidates, split, device, progress, say, share)
        if share is None and engine == "local":
            for row in work.rows:
                work.run_row(row)
        else:
            with slots() as ray:
                work.run_shared(ray)
        missing = work.missing()
        if not missing:
            work.judge()
    return Sweep(out, work.results, work.failures, missing)


def _slots(
    engine: EngineName, address: str | None, shard: Shard | None, device: str
) -> Callable[[], AbstractContextManager[RaySlots | None]]:
    """How the slots of the engine are opened.

    Raises:
        ConfigError: No such engine, or what excludes each other.
    """
    WorkerSettings(engine=engine, address=address)  # refuses unknown ones
    if engine == "local":
        return nullcontext
    if shard is not None:
        raise ConfigError(
            "--shard and --engine ray both divide the runs. Leave out one of them: Ray gives each "
            "slot of its cluster a run"
        )
    return partial(RaySlots, address, uses_gpus=device != "cpu")


class _Sweeping:
    """A sweep in progress.

    Args:
        plans: All runs, per candidate value; one plan without candidates.
        candidates: Values from which each row chooses.
        split: Split to score on; None: `evaluation.split` of each run.
        progress: Show progress bars if stderr is a terminal.
        say: Called with a line per run.
        shard: Share of the runs to do; None: all.
    """

    def __init__(
        self,
        out: Path,
        plans: Sequence[list[SweepRun]],
        candidates: Candidates | None,
        split: str | None,
        device: str,
        progress: bool,
        say: Callable[[str], None],
        shard: Shard | None = None,
    ) -> None:
        self.shard = shard
        self.out, self.plans, self.candidates = out, plans, candidates
        self.split, self.device, self.progress, self.say = split, device, progress, say
        self.rows = list(dict.fromkeys(job.row for job in plans[0]))
        self.choices: dict[tuple[str, str], Choice] = {}
        self.failures: dict[str, str] = {}
        self.judged: dict[str, JudgedRows] = {}
        stored = {job.name: _stored(job, split) for plan in plans for job in plan}
        self.found = {name: record for name, record in stored.items() if record is not None}
        self.clock = _Clock(sum(job.name not in self.found for job in self.jobs))
        self.results = self._write() if shard is None else {}

    @property
    def jobs(self) -> list[SweepRun]:
        """Runs of the tables; those of the first candidate for rows that have not chosen yet."""
        return [self._plan_of(job.row)[number] for number, job in enumerate(self.plans[0])]

    def run_row(self, row: tuple[str, str]) -> None:
        """Choose among the candidates, if any, then train and score every seed."""
        if self.candidates is not None:
            train = partial(_train, progress=self.progress)
            first = self._first_of(row)
            self.choices[row] = choose_value(self.candidates, first, train, self.say)
        for number, job in enumerate(self.jobs, start=1):
            if job.row == row and job.name not in self.found:
                self._run(number, job)
        self.results = self._write()

    def run_shared(self, slots: RaySlots | None) -> None:
        """Do a shard's runs, or all of them in the slots of a cluster."""
        if self.candidates is not None:
            first = [job for row in self.rows for job in self._first_of(row)]
            mine = of_shard([Trial(job, scores=False) for job in first], self.shard)
            self._do([t for t in mine if not self._is_trained(t.job)], slots)
            self._choose_known()
            # Whoever finishes the last candidate of a row does the rest of it.
            trials = [Trial(job, scores=True) for job in self.jobs if job.row in self.choices]
        else:
            trials = of_shard([Trial(job, scores=True) for job in self.jobs], self.shard)
        self._do([trial for trial in trials if trial.job.name not in self.found], slots)
        self._look_again()

    def missing(self) -> int:
        """Number of runs that other shards have not finished."""
        if self.shard is None:
            return 0
        done = {*self.found, *self.failures}
        left = sum(job.name not in done for job in self.jobs)
        undecided = 0 if self.candidates is None else len(self.rows) - len(self.choices)
        return max(left, undecided)

    def _do(self, trials: Sequence[Trial], slots: RaySlots | None) -> None:
        total, work = len(trials), partial(run_trial, split=self.split, device=self.device)
        if slots is not None:
            self.say(f"{total} runs in the slots of the Ray cluster …")
            for number, (trial, message) in enumerate(slots.run(trials, work, self.say), start=1):
                self._note(f"[{number}/{total}] {trial.job.name}", trial, message)
            return
        for number, trial in enumerate(trials, start=1):
            head = f"[{number}/{total}] {trial.job.name}"
            with claim(trial.job, self.shard) as is_ours:
                if not is_ours:
                    self.say(f"{head}: another process has it")
                elif not self._is_done(trial):
                    self.say(f"{head} …")
                    note_failure(trial.job, None)
                    self._note(head, trial, work(trial, progress=self.progress))

    def _is_done(self, trial: Trial) -> bool:
        """Tell whether another shard has done it since this one began."""
        if not trial.scores:
            return self._is_trained(trial.job)
        return _stored(trial.job, self.split) is not None

    def _note(self, head: str, trial: Trial, message: str | None) -> None:
        job = trial.job
        if self.shard is not None:
            note_failure(job, message)
        if message is not None:
            self.failures[job.name] = message
            self.say(f"{head} failed: {message}")
            return
        record = _stored(job, self.split) if trial.scores else None
        if trial.scores and record is None:
            raise OutputError(
                f"the run in '{job.folder}' is finished, and its scores are not there. Choose an "
                "--out on a disk that all nodes share"
            )
        if record is not None:
            self.found[job.name] = record
        self.say(f"{head}: {'trained' if record is None else _in_a_line(record)}")
        if self.shard is None:
            self.results = self._write()

    def _look_again(self) -> None:
        """Take up what other shards have done meanwhile."""
        self._choose_known()
        for job in self.jobs:
            record = None if job.name in self.found else _stored(job, self.split)
            if record is not None:
                self.found[job.name] = record
            elif job.name not in self.found and (message := self._failure(job)):
                self.failures[job.name] = message

    def _first_of(self, row: tuple[str, str]) -> list[SweepRun]:
        """The row's run with the first seed, by candidate value."""
        return [next(job for job in plan if job.row == row) for plan in self.plans]

    def _choose_known(self) -> None:
        """Choose for each row whose candidates have all ended."""
        if self.candidates is None:
            return

        def finished(job: SweepRun) -> Path:
            if self._is_trained(job):  # that it could not be scored afterwards decides nothing
                return job.folder
            raise TrainingError(str(self._failure(job)))

        for row in self.rows:
            jobs = self._first_of(row)
            if row not in self.choices and all(
                self._is_trained(job) or self._failure(job) for job in jobs
            ):
                self.choices[row] = choose_value(self.candidates, jobs, finished, self.say)

    def _failure(self, job: SweepRun) -> str | None:
        return noted_failure(job) if self.shard is not None else self.failures.get(job.name)

    def _is_trained(self, job: SweepRun) -> bool:
        return (job.folder / MODEL_JSON).exists()

    def judge(self) -> None:
        """Compare the rows of each table over ground and seeds, and write the tables with that."""
        self.judged = {
            group: self._judge([job for job in self.jobs if job.group == group])
            for group in dict.fromkeys(job.group for job in self.jobs)
        }
        self.results = self._write()

    def _judge(self, jobs: Sequence[SweepRun]) -> JudgedRows:
        rows: dict[str, list[Path]] = {}
        for job in jobs:
            if job.name in self.found:
                rows.setdefault(job.title, []).append(job.folder)
        done = [self.found[job.name] for job in jobs if job.name in self.found]
        if not done:
            return JudgedRows(missing="no run is finished")
        scores = [kind.name for kind in SCORES.values() if "sweep" in kind.summaries]
        settings = [Setting(title, tuple(runs)) for title, runs in rows.items()]
        try:
            found = judge_rows(settings, done[0]["split"], scores, list(done[0]["iou"]))
        except ScoresError as error:  # of an earlier version, or of rows with classes of their own
            return JudgedRows(missing=str(error))
        return JudgedRows(found.comparison, found.blocks)

    def _plan_of(self, row: tuple[str, str]) -> list[SweepRun]:
        if self.candidates is None or row not in self.choices:
            return self.plans[0]
        return self.plans[self.candidates.values.index(self.choices[row].value)]

    def _run(self, number: int, job: SweepRun) -> None:
        head = f"[{number}/{len(self.jobs)}] {job.name}"
        self.say(f"{head} …{self.clock.left()}")
        try:
            # The cost of a model does not depend on the seed.
            twins = (self.found.get(j.name) for j in self.jobs if j.row == job.row)
            twin = next((record for record in twins if record is not None), None)
            self.found[job.name] = _run(job, self.split, self.device, self.progress, twin)
            self.say(f"{head}: {_in_a_line(self.found[job.name])}")
        except StoppedError as error:
            raise StoppedError(f"{error.event}. The same command resumes the sweep") from None
        except Exception as error:  # whatever it is, it concerns one run only
            self.failures[job.name] = _message(error)
            self.say(f"{head} failed: {self.failures[job.name]}")
        self.clock.tick()
        self.results = self._write()
        gc.collect()  # free a failed run and all that its traceback held

    def _write(self) -> dict[str, Any]:
        return write_tables(
            self.out, self.jobs, self.found, self.failures, self.choices, self.judged
        )


def run_trial(
    trial: Trial, *, split: str | None, device: str, progress: bool = False
) -> str | None:
    """Train a run and score it if that is wanted; return the message of its failure.

    Raises:
        StoppedError: Ctrl-C or SIGTERM stopped it.
    """
    try:
        if trial.scores:
            _run(trial.job, split, device, progress, None)
        else:
            _train(trial.job, progress)
    except StoppedError as error:
        raise StoppedError(error.event, "the same command resumes the sweep") from None
    except Exception as error:  # whatever it is, it concerns one run only
        return _message(error)
    finally:
        gc.collect()
    return None


def _train(job: SweepRun, progress: bool) -> Path:
    """Train a candidate's run without scoring it."""
    if job.pretrain is not None:
        job = _pretrained(job, progress)
    return train(job.config, job.folder, resume=True, progress=progress)


def _run(
    job: SweepRun, split: str | None, device: str, progress: bool, twin: Record | None
) -> Record:
    """Train, score and measure one run; finished parts are kept.

    Args:
        split: Split to score on; None: `evaluation.split` of the run.
        progress: Show progress bars if stderr is a terminal.
        twin: Record of the same run with another seed, if there is one.
    """
    started = time.perf_counter()
    if job.pretrain is not None:
        job = _pretrained(job, progress)
    pretrained = time.perf_counter()
    train(job.config, job.folder, resume=True, progress=progress)
    trained = time.perf_counter()
    run = load(job.folder)
    metrics = run.evaluate(split=split, device=device)
    evaluated = time.perf_counter()
    crop = job.config.predict_crop_size
    seconds = forward_seconds(run.segmenter, crop, device=device)
    costs = {key: twin[key] for key in _COSTS} if twin else _derive_costs(job)
    scored = metrics["subsets"][metrics["full"]]
    record: Record = {
        "scores": scored["scores"],
        "iou": {name: row["iou"] for name, row in scored["per_class"].items()},
        **costs,
        "crop_size": job.config.data.crop_size,
        "ms_per_megapixel": 1000 * seconds * _PIXELS / crop**2,
        "seconds": {
            "pretraining": pretrained - started,
            "training": trained - pretrained,
            "evaluation": evaluated - trained,
        },
        "split": metrics["split"],
        "manifest_sha256": digest(job.config.data.manifest),
        "machine": describe_device(device),
        "date": str(datetime.date.today()),
        "version": VERSION,
    }
    with written_whole(job.folder / RECORD) as (partial,):
        partial.write_text(json.dumps(record, indent=2), encoding="utf-8")
    return record


def _derive_costs(job: SweepRun) -> dict[str, int | None]:
    overview = describe_model(job.folder)
    counts = {key: overview["total"][key] for key in ("parameters", "trainable")}
    return counts | {"flops": overview["cost"].get("flops")}


def _pretrained(job: SweepRun, progress: bool) -> SweepRun:
    """Return the job with its pre-trained weights; pre-train them first if needed."""
    assert job.pretrain is not None
    # Candidates share it, and so may shards.
    folder = when_free(
        partial(pretrain, job.pretrain, job.pretrain_folder, resume=True, progress=progress)
    )
    method = job.config.method.model_copy(update={"weights": pretrained_weights(folder)})
    return replace(job, config=job.config.model_copy(update={"method": method}))


def _stored(job: SweepRun, split: str | None) -> Record | None:
    """Read the record of a run that an earlier call finished; None if there is none.

    Raises:
        ConfigError: The folder holds a run with other settings or another manifest.
    """
    from terrafuse.training import check_startable  # Lightning takes seconds to import

    if not job.folder.exists():
        return None
    if job.pretrain is not None:
        try:
            pretrained_weights(job.pretrain_folder)
        except WeightsNotFoundError:
            return None
        job = _pretrained(job, progress=False)  # compares settings, and computes nothing
    check_startable(job.folder, job.config, resume=True)
    try:
        record: Record = json.loads((job.folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    manifest = job.config.data.manifest
    if record["manifest_sha256"] != digest(manifest):
        raise ConfigError(
            f"data.manifest '{manifest}' differs from that of the run in '{job.folder}'. "
            "Restore it, remove the run, or sweep into another folder"
        )
    _check_same_painting(job)
    wanted = split or job.config.evaluation.split
    return record if record["split"] == wanted else None


def _check_same_painting(job: SweepRun) -> None:
    """Refuse a finished run that learnt from other painted polygons than there are now.

    Raises:
        ConfigError: Names the run.
    """
    data, was = job.config.data, (learnt_in(job.folder) or {}).get("digest")
    if was is None and data.painted == "auto" and not painted_path(data.manifest).exists():
        return
    painted = open_dataset(data).painted
    if was != (painted.digest if painted is not None and painted.layers else None):
        raise ConfigError(
            f"the painted polygons beside '{data.manifest}' differ from those of the run in "
            f"'{job.folder}'. Restore them, remove the run, or sweep into another folder"
        )


def _message(error: Exception) -> str:
    if isinstance(error, TerrafuseError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}: {error}"


def _in_a_line(record: Record) -> str:
    kind, score = SCORES[HEADLINE], record["scores"][HEADLINE]
    scored = "nothing scored" if score is None else f"{kind.label} {kind.text(score)}"
    return f"{scored}, {sum(record['seconds'].values()):.0f} s"


class _Clock:
    """Estimate of the remaining time, from the mean of the runs so far.

    Args:
        total: Number of runs to do.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.start = time.perf_counter()

    def tick(self) -> None:
        """Count a finished run."""
        self.done += 1

    def left(self) -> str:
        """Format the remaining time as the end of a line; empty before the first run is done."""
        if not self.done:
            return ""
        seconds = (time.perf_counter() - self.start) / self.done * (self.total - self.done)
        return f" (about {seconds / 60:.0f} min left)"

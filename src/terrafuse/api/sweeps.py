"""`sweep`: many runs one after the other, with their scores side by side."""

from __future__ import annotations

import datetime
import gc
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from terrafuse.api.comparing import Setting, judge_rows
from terrafuse.api.pretraining import pretrain, pretrained_weights
from terrafuse.api.runs import load, train
from terrafuse.api.sweep_choice import choose_value
from terrafuse.api.sweep_plan import Candidates, SweepRun, plan_sweep
from terrafuse.describe.overview import describe_model
from terrafuse.errors import (
    ConfigError,
    ScoresError,
    StoppedError,
    TerrafuseError,
    WeightsNotFoundError,
)
from terrafuse.evaluation import HEADLINE, SCORES
from terrafuse.locking import is_first_process
from terrafuse.prediction import describe_device, forward_seconds
from terrafuse.reports.sweep_tables import Choice, JudgedRows, write_tables
from terrafuse.stopping import when_stopped
from terrafuse.version import VERSION
from terrafuse.weights import digest
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
    """

    out: Path
    results: dict[str, Any]
    failures: dict[str, str]


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
        progress: Show progress of each run: a bar, or lines where stderr is no terminal.
        say: Called with a line per run.

    Raises:
        ConfigError: Settings are invalid, or a folder holds a run with other settings.
        UnknownNameError: A method or one of its options does not exist.
        OutputError: `out` cannot be written, or another process writes there.
        StoppedError: Ctrl-C or SIGTERM stopped a run; the same call resumes it.
    """
    out = Path(out)
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
    with when_stopped(hint), claimed(out, "sweep", takes_part=is_first_process()):
        work = _Sweeping(out, plans, candidates, split, device, progress, say)
        for row in work.rows:
            work.run_row(row)
        work.judge()
    return Sweep(out, work.results, work.failures)


class _Sweeping:
    """A sweep in progress.

    Args:
        plans: All runs, per candidate value; one plan without candidates.
        candidates: Values from which each row chooses.
        split: Split to score on; None: `evaluation.split` of each run.
        progress: Show progress bars if stderr is a terminal.
        say: Called with a line per run.
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
    ) -> None:
        self.out, self.plans, self.candidates = out, plans, candidates
        self.split, self.device, self.progress, self.say = split, device, progress, say
        self.rows = list(dict.fromkeys(job.row for job in plans[0]))
        self.choices: dict[tuple[str, str], Choice] = {}
        self.failures: dict[str, str] = {}
        self.judged: dict[str, JudgedRows] = {}
        stored = {job.name: _stored(job, split) for plan in plans for job in plan}
        self.found = {name: record for name, record in stored.items() if record is not None}
        self.clock = _Clock(sum(job.name not in self.found for job in self.jobs))
        self.results = self._write()

    @property
    def jobs(self) -> list[SweepRun]:
        """Runs of the tables; those of the first candidate for rows that have not chosen yet."""
        return [self._plan_of(job.row)[number] for number, job in enumerate(self.plans[0])]

    def run_row(self, row: tuple[str, str]) -> None:
        """Choose among the candidates, if any, then train and score every seed."""
        if self.candidates is not None:
            first = [next(job for job in plan if job.row == row) for plan in self.plans]
            self.choices[row] = choose_value(self.candidates, first, self._train, self.say)
        for number, job in enumerate(self.jobs, start=1):
            if job.row == row and job.name not in self.found:
                self._run(number, job)
        self.results = self._write()

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

    def _train(self, job: SweepRun) -> Path:
        """Train a candidate's run without scoring it."""
        if job.pretrain is not None:
            job = _pretrained(job, self.progress)
        return train(job.config, job.folder, resume=True, progress=self.progress)

    def _write(self) -> dict[str, Any]:
        return write_tables(
            self.out, self.jobs, self.found, self.failures, self.choices, self.judged
        )


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
    folder = pretrain(job.pretrain, job.pretrain_folder, resume=True, progress=progress)
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
    wanted = split or job.config.evaluation.split
    return record if record["split"] == wanted else None


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

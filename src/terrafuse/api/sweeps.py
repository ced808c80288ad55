"""`sweep`: many runs one after the other, and their scores side by side."""

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

from terrafuse.api.pretraining import pretrain, pretrained_weights
from terrafuse.api.runs import load, train
from terrafuse.api.sweep_plan import Job, plan_sweep
from terrafuse.api.sweep_tables import write_tables
from terrafuse.errors import ConfigError, StoppedError, TerrafuseError, WeightsNotFoundError
from terrafuse.overview import describe_model
from terrafuse.prediction import describe_device, forward_seconds
from terrafuse.version import VERSION
from terrafuse.weights import digest
from terrafuse.writing import written_whole

#: What a finished run of a sweep scored and cost, in its run folder.
RECORD = "sweep.json"
_COSTS = ("parameters", "trainable", "flops")
_PIXELS = 1_000_000

Record = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """What came of a sweep.

    Args:
        out: Its folder, with `table.md`, `table.csv`, `results.json` and `scores.png`.
        results: The content of `results.json`.
        failures: Message by name of run.
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
    split: str | None = None,
    device: str = "auto",
    progress: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> Sweep:
    """Train and score every run file, or every method on each of them, with several seeds.

    Each run has its folder in `out`. What is done is not done again and an interrupted run is gone
    on with, so the same call goes on with an interrupted sweep. A run that fails is noted, and the
    others go on. Tables and picture are there from the first run on.

    Args:
        configs: Run files.
        out: Folder to make, or to go on in.
        methods: A file of methods (title → `method`, `modalities`, `pretrain`), each of which takes
            the place of the run files' own.
        seeds: How many; they are 0, 1 …
        overrides: Dotted keys → YAML values that replace those of every run.
        split: To score on; default: `evaluation.split` of each run.
        device: To score on: "auto", "cpu", "cuda", "cuda:1" …
        progress: Show a progress bar for each run where the output is a terminal.
        say: Called with a line per run.

    Raises:
        ConfigError: Settings are wrong, or a folder holds a run with others.
        UnknownNameError: No such method, or no such option of it.
        OutputError: `out` cannot be written.
        StoppedError: Ctrl-C or SIGTERM stopped a run; the same call goes on.
    """
    jobs = plan_sweep(
        [Path(path) for path in configs],
        Path(out),
        methods=None if methods is None else Path(methods),
        seeds=seeds,
        overrides=overrides,
    )
    out = Path(out)
    found = {job.name: done for job in jobs if (done := _stored(job, split)) is not None}
    failures: dict[str, str] = {}
    clock = _Clock(len(jobs) - len(found))
    results = write_tables(out, jobs, found, failures)
    for number, job in enumerate(jobs, start=1):
        if job.name in found:
            continue
        head = f"[{number}/{len(jobs)}] {job.name}"
        say(f"{head} …{clock.left()}")
        try:
            # What a model costs does not depend on the seed.
            same = (found[j.name] for j in jobs if j.row == job.row and j.name in found)
            found[job.name] = _run(job, split, device, progress, next(same, None))
            say(f"{head}: {_in_a_line(found[job.name])}")
        except StoppedError as error:
            raise StoppedError(f"{error}. The same command goes on with the sweep") from None
        except Exception as error:  # whatever it is, it concerns one run
            failures[job.name] = _message(error)
            say(f"{head} failed: {failures[job.name]}")
        clock.tick()
        results = write_tables(out, jobs, found, failures)
        gc.collect()  # of a failed run, with what its traceback held
    return Sweep(out, results, failures)


def _run(job: Job, split: str | None, device: str, progress: bool, twin: Record | None) -> Record:
    """Train, score and measure one run; what is done of it already stays.

    Args:
        job: The run.
        split: To score on.
        device: To score on.
        progress: Whether to show bars.
        twin: What was found of the same run with another seed.
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


def _derive_costs(job: Job) -> dict[str, int | None]:
    overview = describe_model(job.folder)
    counts = {key: overview["total"][key] for key in ("parameters", "trainable")}
    return counts | {"flops": overview["cost"].get("flops")}


def _pretrained(job: Job, progress: bool) -> Job:
    """The job with weights that its pre-training has made, which goes before where need be."""
    assert job.pretrain is not None
    folder = pretrain(job.pretrain, job.pretrain_folder, resume=True, progress=progress)
    method = job.config.method.model_copy(update={"weights": pretrained_weights(folder)})
    return replace(job, config=job.config.model_copy(update={"method": method}))


def _stored(job: Job, split: str | None) -> Record | None:
    """What an earlier call found of a run that is done.

    Raises:
        ConfigError: The folder holds a run with other settings, or with another manifest.
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
            f"the run in '{job.folder}' was made with another data.manifest than '{manifest}' is "
            "now. Restore it, remove the run, or sweep into another folder"
        )
    wanted = split or job.config.evaluation.split
    return record if record["split"] == wanted else None


def _message(error: Exception) -> str:
    if isinstance(error, TerrafuseError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}: {error}"


def _in_a_line(record: Record) -> str:
    score = record["scores"]["miou"]
    scored = "nothing scored" if score is None else f"mIoU {100 * score:.1f}"
    return f"{scored}, {sum(record['seconds'].values()):.0f} s"


class _Clock:
    """Time that is left, by the mean of the runs so far.

    Args:
        total: Runs to do.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.start = time.perf_counter()

    def tick(self) -> None:
        """A run is done."""
        self.done += 1

    def left(self) -> str:
        """As the end of a line; empty before the first run is done."""
        if not self.done:
            return ""
        seconds = (time.perf_counter() - self.start) / self.done * (self.total - self.done)
        return f" (about {seconds / 60:.0f} min left)"

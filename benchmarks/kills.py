"""Does anything get lost, or stay, when a command is killed?

    python benchmarks/kills.py [--moments 10] [--seed 0] [--only train predict …] [--work FOLDER]

Every command is run once without interruption and then stopped at moments spread over that time:
by SIGKILL, by SIGTERM to its whole group (as `timeout`, SLURM and containers do) and by SIGINT, in
turn. The same command is then run again. Its files must be those of the unbroken run, byte for
byte but for times and dates, and nothing else may be left: no partial file, no lock, no process, no
traceback.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from machine import processor
from terrafuse.landscape import make_landscape
from terrafuse.writing import is_trace

#: Exit codes: finished before; killed; in order, as an error or by the signal's number; by the
#: signal itself before the command listens, or after it has finished.
ENDS = {signal.SIGKILL: {0, -9}, signal.SIGTERM: {0, 2, 143, -15}, signal.SIGINT: {0, 2, 130, -2}}
_TIMES = re.compile(r"^profile$|^created$|seconds|date|ms_per_megapixel|machine|_version$")
_TIMED_COLUMNS = re.compile(r"seconds|ms / Mpx|ms_per_megapixel")
_WAIT_SECONDS = 120

RUN = {
    "data": {
        "manifest": "data/dataset.yaml", "modalities": ["optical", "dsm"], "crop_size": 64,
        "batch_size": 2, "workers": 1, "sampling": "balanced",
    },
    "method": {
        "name": "late_fusion", "backbone": "resnet10t",
        "backbone_options": {"channels": [4, 4, 8, 8]},
        "decoder_options": {"channels": 8, "bins": [1, 2]},
    },
    "training": {"steps": 24, "accelerator": "cpu", "validate_every": 6},
    "prediction": {"crop_size": 64, "overlap": 32},
}  # fmt: skip
PRETRAIN = {
    "data": {k: v for k, v in RUN["data"].items() if k != "sampling"},
    "objective": {"name": "infonce"},
    "backbone": "resnet18",
    "backbone_options": {"channels": [4, 4, 8, 8], "layers": [1, 1, 1, 1]},
    "training": {"steps": 16, "accelerator": "cpu", "save_every": 4},
}


@dataclass(frozen=True)
class Verb:
    """A command that writes.

    Args:
        words: Its words.
        again: Words that are added when it is run again.
        out: Folder, or file, that it writes.
        prepared: Copied to `out` before it is run: it writes into what is there.
    """

    words: tuple[str, ...]
    out: str
    again: tuple[str, ...] = ()
    prepared: str | None = None


VERBS = {
    "train": Verb(("train", "run.yaml", "--out", "out/run"), "out/run", ("--resume",)),
    "pretrain": Verb(("pretrain", "pretrain.yaml", "--out", "out/pre"), "out/pre", ("--resume",)),
    "sweep": Verb(
        ("sweep", "run.yaml", "--out", "out/sweep", "--seeds", "2", "-s", "training.steps=6"),
        "out/sweep",
    ),
    "generate": Verb(
        ("generate", "data/dataset.yaml", "--kind", "superpixels", "--out", "out/made", "-o",
         "out/made/dataset.yaml", "--window", "64", "--overlap", "16", "--workers", "2"),
        "out/made",
    ),
    "predict": Verb(
        ("predict", "trained", "--scene", "data/dataset.yaml#test_1", "--out", "out/map",
         "--areas"),
        "out/map",
        ("--resume",),
    ),
    # Without --resume scores are begun anew; with it, those of finished scenes are gone on with.
    "evaluate": Verb(("evaluate", "out/scored"), "out/scored", prepared="trained"),
    "evaluate --resume": Verb(
        ("evaluate", "out/scored", "--scenes", "*", "--subsets"), "out/scored", ("--resume",),
        prepared="trained",
    ),
    "data split": Verb(
        ("data", "split", "data/dataset.yaml", "-o", "out/split/dataset.yaml", "--block", "32",
         "--buffer", "8"),
        "out/split",
    ),
    "data describe": Verb(
        ("data", "describe", "folders", "-o", "out/described/dataset.yaml", "--layout", "folder"),
        "out/described",
    ),
}  # fmt: skip


@dataclass
class Outcome:
    """Results of all moments of a verb."""

    seconds: float = 0.0
    codes: dict[str, list[int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    moments: int = 0


def files(folder: Path) -> dict[str, bytes]:
    """Content by name, without times and dates."""
    return {
        path.relative_to(folder).as_posix(): plain(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not is_trace(path)
    }


def traces(folder: Path, *, windows: bool = True) -> list[str]:
    """Locks, and what is unfinished.

    Args:
        windows: Also finished windows of `generate`, which it goes on with.
    """
    found = [
        path
        for path in folder.rglob("*")
        if is_trace(path) or (windows and path.suffix == ".partial")
    ]
    return [path.relative_to(folder).as_posix() for path in found]


def plain(path: Path) -> bytes:
    """Content of a file without times and dates."""
    if path.suffix == ".json":
        return json.dumps(_without_times(json.loads(path.read_text()))).encode()
    if path.suffix in (".csv", ".md"):
        return _without_columns(path.read_text()).encode()
    if path.suffix == ".html":
        return re.sub(r"\d{4}-\d\d-\d\d( \d\d:\d\d)?", "", path.read_text()).encode()
    return path.read_bytes()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if not _TIMES.search(k)}
    return [_without_times(v) for v in value] if isinstance(value, list) else value


def _without_columns(text: str) -> str:
    """A table without the columns that hold times."""
    rows, timed = [], set[int]()
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|" if line.startswith("|") else ",")]
        timed |= {i for i, cell in enumerate(cells) if re.fullmatch(_TIMED_COLUMNS, cell)}
        rows.append(",".join(cell for i, cell in enumerate(cells) if i not in timed))
    return "\n".join(rows)


def differences(expected: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    """Names of files that differ, with what is wrong."""
    faults = [f"{name} is missing" for name in expected.keys() - found.keys()]
    faults += [f"{name} is left over" for name in found.keys() - expected.keys()]
    return faults + [
        f"{name} differs"
        for name in expected.keys() & found.keys()
        if expected[name] != found[name]
    ]


def run(words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "terrafuse", *words],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def interrupt(
    words: Sequence[str], folder: Path, seconds: float, number: signal.Signals
) -> tuple[int, str, bool]:
    """Run a command and stop it; its exit code, what it said, and whether a process is left."""
    process = subprocess.Popen(
        [sys.executable, "-m", "terrafuse", *words],
        cwd=folder, start_new_session=True, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        if number == signal.SIGTERM:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    # What is left of its group holds the pipe open.
    try:
        _, said = process.communicate(timeout=_WAIT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        _, said = process.communicate()
        return process.returncode, said, True
    return process.returncode, said, False


def try_verb(verb: Verb, folder: Path, moments: int, rng: random.Random) -> Outcome:
    """Stop a command at all moments, and compare what it leaves."""
    outcome = Outcome()
    started = time.perf_counter()
    _prepare(verb, folder)
    done = run(verb.words, folder)
    assert done.returncode == 0, done.stderr
    outcome.seconds = time.perf_counter() - started
    expected = files(folder / verb.out)
    for n in range(moments):
        number = list(ENDS)[n % len(ENDS)]
        at = (n + rng.random()) / moments * outcome.seconds
        _prepare(verb, folder)
        code, said, has_orphans = interrupt(verb.words, folder, at, number)
        outcome.moments += 1
        outcome.codes.setdefault(number.name, []).append(code)
        where = f"{number.name} after {at:.1f} s (exit code {code})"
        found = [f"exit code {code}"] if code not in ENDS[number] else []
        found += ["a traceback"] if "Traceback" in said else []
        found += ["a process goes on"] if has_orphans else []
        if number != signal.SIGKILL:
            found += [f"left {name}" for name in traces(folder / "out", windows=False)]
        if code != 0 and not _is_whole(verb, folder):
            again = run((*verb.words, *verb.again), folder)
            found += [again.stderr] if again.returncode or "Traceback" in again.stderr else []
        found += differences(expected, files(folder / verb.out))
        found += [f"left {name} at the end" for name in traces(folder / "out")]
        outcome.faults += [f"{where}: {fault}" for fault in found]
        print(f"  {where}: {'; '.join(found) or 'equal'}", file=sys.stderr, flush=True)
    return outcome


def _prepare(verb: Verb, folder: Path) -> None:
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").mkdir()
    if verb.prepared:
        shutil.copytree(folder / verb.prepared, folder / verb.out)


def _is_whole(verb: Verb, folder: Path) -> bool:
    """Whether the one file is there already, which the same command refuses to replace."""
    return verb.words[0] == "data" and (folder / verb.out / "dataset.yaml").exists()


def make_world(folder: Path, size: int) -> None:
    """Data, settings and a trained run."""
    make_landscape(folder / "data", size=size, train=2, val=1, test=1)
    names = {"optical": "optical", "dsm": "dsm", "labels": "labels"}
    for scene in yaml.safe_load((folder / "data/dataset.yaml").read_text())["scenes"]:
        for key, name in names.items():
            target = folder / "folders" / name / f"{scene['id']}.tif"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "data" / scene[key], target)
    (folder / "run.yaml").write_text(yaml.safe_dump(RUN))
    (folder / "pretrain.yaml").write_text(yaml.safe_dump(PRETRAIN))
    done = run(("train", "run.yaml", "--out", "trained", "-s", "training.steps=6"), folder)
    assert done.returncode == 0, done.stderr


def table(outcomes: dict[str, Outcome]) -> str:
    """Rows of all verbs, in Markdown."""
    lines = [
        "| command | seconds unbroken | moments | exit codes | equal, nothing left |",
        "|---|---|---|---|---|",
    ]
    for name, outcome in outcomes.items():
        codes = ", ".join(f"{k} {sorted(set(v))}" for k, v in outcome.codes.items())
        bad = len({fault.partition(":")[0] for fault in outcome.faults})
        lines.append(
            f"| {name} | {outcome.seconds:.1f} | {outcome.moments} | {codes} | "
            f"{outcome.moments - bad} of {outcome.moments} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--only", nargs="*", choices=[*VERBS], default=[*VERBS])
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    outcomes = {}
    with tempfile.TemporaryDirectory(dir=given.work) as work:
        make_world(Path(work), given.size)
        for name in given.only:
            print(name, file=sys.stderr)
            rng = random.Random(f"{given.seed} {name}")
            outcomes[name] = try_verb(VERBS[name], Path(work), given.moments, rng)
    print(table(outcomes))
    print(f"\n{datetime.date.today()}, {processor()}, seed {given.seed}")
    for name, outcome in outcomes.items():
        for fault in outcome.faults:
            print(f"{name}: {fault}")
    sys.exit(any(outcome.faults for outcome in outcomes.values()))


if __name__ == "__main__":
    main()

"""Would the tests notice? Plant faults in a copy of the source and run the tests that should fail.

    python benchmarks/mutants.py --jobs 2
    python benchmarks/mutants.py --only sampling --only training/best-score-forgotten
    python benchmarks/mutants.py --list

The faults are in `benchmarks/mutants/ROOM.yaml`; add yours there. Each has

    name    what goes wrong, in a few words with hyphens
    file    below src/terrafuse
    old     exact text, which occurs once in the file
    new     text that replaces it
    tests   files, or file::function, that should notice
    why     what a user would see

A fault is `killed` if a test fails, or if the tests do not end within the limit; otherwise it
`survived`, and a test is missing. The tests named must pass without faults: they are run once
before (`--trust` leaves this out).
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import yaml

from machine import processor

ROOT = Path(__file__).resolve().parents[1]
FAULTS = Path(__file__).resolve().parent / "mutants"
_NOT_COPIED = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "site", "demo", "runs"
)
_PASSED, _FAILED, _INTERRUPTED = 0, 1, 2  # exit codes of pytest; 2: a file could not be imported


class OutOfDateError(ValueError):
    """The list of faults does not fit the source."""


@dataclass(frozen=True)
class Fault:
    """A fault to plant, see the top of this file."""

    room: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    why: str

    @property
    def id(self) -> str:
        """Room and name."""
        return f"{self.room}/{self.name}"

    def planted(self, root: Path) -> str:
        """Text of the file with the fault.

        Raises:
            OutOfDateError: The old text does not occur once, or the result is no Python.
        """
        path = root / "src" / "terrafuse" / self.file
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        count = text.count(self.old)
        if count != 1 or self.old == self.new:
            told = f"occurs {count} times in '{self.file}'" if count != 1 else "is the new text"
            raise OutOfDateError(
                f"the list is out of date: the old text of '{self.id}' {told}. Correct "
                f"benchmarks/mutants/{self.room}.yaml"
            )
        text = text.replace(self.old, self.new)
        try:
            compile(text, self.file, "exec")
        except SyntaxError as error:
            raise OutOfDateError(f"with '{self.id}', '{self.file}' is no Python: {error}") from None
        return text


@dataclass(frozen=True)
class Outcome:
    """Result of the tests with one fault.

    Args:
        verdict: "killed", "survived", or "error" if the tests could not be run.
        reason: The first test that failed, or what is wrong.
    """

    fault: Fault
    verdict: str
    reason: str
    seconds: float


def read_faults(folder: Path = FAULTS) -> list[Fault]:
    """Read all faults, sorted by room."""
    return [
        Fault(path.stem, **{**entry, "tests": tuple(entry["tests"])})
        for path in sorted(folder.glob("*.yaml"))
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))
    ]


def choose(faults: Iterable[Fault], names: Sequence[str]) -> list[Fault]:
    """Select faults by room, or by id; all without names."""
    chosen = [f for f in faults if not names or f.room in names or f.id in names]
    found = {name for f in chosen for name in (f.room, f.id)}
    if unknown := [name for name in names if name not in found]:
        sys.exit(f"no room or fault '{unknown[0]}'; see --list")
    return chosen


def copy_project(root: Path, folder: Path) -> Path:
    """Copy the files that tests use; real data beside the original are beside the copy too."""
    copy = folder / "terrafuse"
    shutil.copytree(root, copy, ignore=_NOT_COPIED, symlinks=True)
    for name in (".github", ".ci", ".pre-commit-config.yaml", ".gitignore"):
        if (root / name).exists():
            (copy / name).symlink_to(root / name)
    if (root.parent / "shared").exists():
        (folder / "shared").symlink_to(root.parent / "shared")
    return copy


def run_tests(
    copy: Path, tests: Iterable[str], limit_s: float, *flags: str
) -> tuple[int | None, str]:
    """Run tests on the source of a copy: exit code (None: not ended in time), and the output."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *flags, *tests]
    paths = [str(copy / "src"), os.environ.get("PYTHONPATH", "")]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",  # a size and a time to the second may not tell two faults
        "OMP_NUM_THREADS": "1",
    }
    with subprocess.Popen(
        command, cwd=copy, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return None, ""
    return process.returncode, output


def try_fault(fault: Fault, copy: Path, limit_s: float) -> Outcome:
    """Plant a fault in a copy, run its tests, and put the file right again."""
    path = copy / "src" / "terrafuse" / fault.file
    sound = path.read_bytes()
    start = time.perf_counter()
    try:
        path.write_text(fault.planted(copy), encoding="utf-8")
        code, output = run_tests(copy, fault.tests, limit_s, "-x")
    finally:
        path.write_bytes(sound)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.M)
    if code is None:
        verdict, reason = "killed", f"not ended after {limit_s:.0f} s"
    elif code == _PASSED:
        verdict, reason = "survived", fault.why
    elif code in (_FAILED, _INTERRUPTED) and failed:
        verdict, reason = "killed", failed[1]
    else:
        told = re.search(r"^ERROR: (.+)", output, re.M)
        verdict, reason = "error", told[1] if told else f"exit code {code}: {output[-200:]}"
    return Outcome(fault, verdict, reason, time.perf_counter() - start)


def try_faults(
    faults: Sequence[Fault], root: Path, *, jobs: int = 1, limit_s: float = 300, trust: bool = False
) -> Iterator[Outcome]:
    """Try faults, `jobs` at a time, in order; each job has a copy of its own.

    Raises:
        OutOfDateError: A fault cannot be planted.
        ValueError: A test fails without a fault.
    """
    for fault in faults:
        fault.planted(root)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(jobs) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            copies.put(copy_project(root, Path(name) / str(number)))

        def attempt(fault: Fault) -> Outcome:
            copy = copies.get()
            try:
                return try_fault(fault, copy, limit_s)
            finally:
                copies.put(copy)

        if not trust:
            tests = sorted({test for fault in faults for test in fault.tests})
            copy = copies.get()
            code, output = run_tests(copy, tests, limit_s * len(tests))
            copies.put(copy)
            if code != _PASSED:
                raise ValueError(f"the tests do not pass without a fault:\n{output[-3000:]}")
        yield from pool.map(attempt, faults)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", default=[], help="a room, or room/name")
    parser.add_argument("--list", action="store_true", help="print the faults, run nothing")
    parser.add_argument("--jobs", type=int, default=1, help="faults tried at a time")
    parser.add_argument("--limit", type=float, default=300, help="seconds for the tests of a fault")
    parser.add_argument("--trust", action="store_true", help="the tests are known to pass")
    options = parser.parse_args()
    faults = choose(read_faults(), options.only)
    if options.list:
        for fault in faults:
            print(f"{fault.id:45} {fault.why}")
        print(f"{len(faults)} faults")
        return
    counts = {"killed": 0, "survived": 0, "error": 0}
    outcomes = try_faults(
        faults, ROOT, jobs=options.jobs, limit_s=options.limit, trust=options.trust
    )
    try:
        for outcome in outcomes:
            counts[outcome.verdict] += 1
            told = f"{outcome.verdict:8} {outcome.fault.id:45} {outcome.seconds:4.0f} s"
            print(f"{told}  {outcome.reason}", flush=True)
    except ValueError as error:
        sys.exit(str(error))
    share = counts["killed"] / max(1, len(faults))
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    print(f"\n{len(faults)} faults: {told} ({share:.1%} killed)")
    print(f"{datetime.date.today()}, {processor()}")
    if counts["survived"] or counts["error"]:
        sys.exit(1)


if __name__ == "__main__":
    main()

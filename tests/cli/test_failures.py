"""What escapes a command ends in one line, an exit code, and a file with the traceback."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from terrafuse import api
from terrafuse.errors import ConfigError

CommandLine = Callable[..., tuple[int, str, str]]
LINE = re.compile(
    r"internal error (?P<reference>[0-9a-f]{8}): (?P<what>.*); the traceback is in (?P<file>.*)\n"
)


@pytest.fixture
def fail(
    monkeypatch: pytest.MonkeyPatch, command_line: CommandLine, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Function that runs `terrafuse WORDS validate`, where `validate` does what is given."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def run(act: Callable[[], Any], *words: str) -> tuple[int, str, str]:
        # Not with `setattr`, which would import the verb, and torch with it.
        monkeypatch.setitem(vars(api), "validate", lambda *_: act())
        return command_line(*words, "validate", "run.yaml")

    return run


def divide() -> None:
    """Fail as no one foresaw."""
    1 / 0  # noqa: B018


def recur() -> None:
    recur()


def test_the_line_names_a_file_with_the_traceback(fail, tmp_path) -> None:
    code, printed, told = fail(divide)
    line = LINE.fullmatch(told)
    assert line, told
    assert (code, printed) == (70, "")
    assert line["what"] == "ZeroDivisionError: division by zero"
    file = Path(line["file"])
    assert file.parent == tmp_path
    assert line["reference"] in file.name
    text = file.read_text()
    assert "terrafuse validate run.yaml" in text
    assert "in divide" in text
    assert text.endswith("ZeroDivisionError: division by zero\n")
    assert file.stat().st_mode & 0o077 == 0  # the command line may hold what is private


def test_the_reference_is_of_the_place(fail) -> None:
    first, again, other = (LINE.fullmatch(fail(act)[2]) for act in (divide, divide, recur))
    assert first
    assert again
    assert other
    assert first["reference"] == again["reference"] != other["reference"]
    assert first["file"] != again["file"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "MemoryError;"),
        (RuntimeError("first\nsecond"), "RuntimeError: first;"),
        (OSError(errno.EIO, "Input/output error"), "OSError: [Errno 5] Input/output error;"),
        (ValueError("x" * 500), f"ValueError: {'x' * 200} …;"),
        (GeneratorExit("odd"), "GeneratorExit: odd;"),
    ],
)
def test_any_error_is_one_line(fail, error: BaseException, told: str) -> None:
    def act() -> None:
        raise error

    code, _, line = fail(act)
    assert code == 70
    assert told in line
    assert LINE.fullmatch(line)


def test_endless_recursion_is_one_line(fail) -> None:
    code, _, line = fail(recur)
    assert code == 70
    assert LINE.fullmatch(line)
    assert "RecursionError: maximum recursion depth exceeded" in line


def test_debug_prints_the_traceback_and_writes_nothing(fail, tmp_path) -> None:
    code, _, told = fail(divide, "--debug")
    assert code == 70
    assert told.startswith("Traceback (most recent call last):\n")
    last = told.splitlines()[-1]
    assert re.fullmatch(r"internal error [0-9a-f]{8}: ZeroDivisionError: division by zero", last)
    assert list(tmp_path.iterdir()) == []


def test_debug_is_an_option_before_the_verb(command_line) -> None:
    assert command_line("validate", "--debug", "run.yaml")[0] == 2


def test_a_disk_that_is_full_is_told(fail, monkeypatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    code, _, told = fail(divide)
    assert code == 70
    assert "could not be written (No space left on device): run 'terrafuse --debug …'" in told
    code, _, told = fail(divide, "--debug")  # as it says
    assert code == 70
    assert "in divide" in told
    assert "could not be written" not in told


def test_errors_of_the_user_are_as_before(fail, tmp_path) -> None:
    def act() -> None:
        raise ConfigError("'lr' is wrong")

    assert fail(act) == (2, "", "error: 'lr' is wrong\n")
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_a_thread_is_one_line_and_the_command_goes_on(fail) -> None:
    def act() -> dict[str, int]:
        thread = threading.Thread(target=divide)
        thread.start()
        thread.join()
        return {"scenes": 3}

    code, printed, told = fail(act)
    assert code == 0
    assert "scenes: 3" in printed
    assert LINE.fullmatch(told)
    assert "ZeroDivisionError" in told


def test_an_error_in_a_destructor_is_one_line(fail) -> None:
    class Bad:
        def __del__(self) -> None:
            divide()

    code, _, told = fail(lambda: bool(Bad()) and {})
    assert code == 0
    assert LINE.fullmatch(told)


def test_warnings_are_one_line_and_hooks_are_given_back(fail) -> None:
    before = warnings.formatwarning, threading.excepthook, sys.unraisablehook

    def act() -> dict[str, str]:
        return {"shown": warnings.formatwarning(UserWarning("odd"), UserWarning, "a.py", 7)}

    assert "shown: warning: odd\n" in fail(act)[1]
    assert (warnings.formatwarning, threading.excepthook, sys.unraisablehook) == before


def test_a_warning_that_is_an_error_is_one_line(fail) -> None:
    def act() -> None:
        warnings.warn("odd", stacklevel=1)  # pytest makes it an error

    code, _, told = fail(act)
    assert code == 70
    assert "UserWarning: odd;" in told


def test_another_pipe_that_breaks_is_no_end_of_output(fail) -> None:
    def act() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    code, _, told = fail(act)
    assert code == 70
    assert "BrokenPipeError: [Errno 32] Broken pipe;" in told


PRINTING = """
import sys
from terrafuse import api
from terrafuse.cli.app import main
{change}
sys.argv = ["terrafuse", *sys.argv[1:]]
main()
"""
# More than a pipe holds.
MUCH = "api.validate = lambda *_: {str(n): 'x' * 50 for n in range(20_000)}"
RICH = """
from rich.console import Console
def validate(*_):
    for _ in range(3_000):
        Console().print("x" * 50)
    return {}
api.validate = validate
"""


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
@pytest.mark.parametrize("change", [MUCH, RICH], ids=["echo", "rich"])
def test_a_reader_that_leaves_ends_the_command_quietly(change: str, tmp_path: Path) -> None:
    script = PRINTING.format(change=change)
    with subprocess.Popen(
        [sys.executable, "-c", script, "validate", "run.yaml"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        told = process.stderr.read()
    assert told == b""
    assert process.returncode == 141
    assert list(tmp_path.iterdir()) == []

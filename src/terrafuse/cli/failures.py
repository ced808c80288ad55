"""What ends a command: one message or one line and an exit code, never a traceback.

Errors that a user can cause are messages (exit code 2). Whatever else escapes is a fault of ours or
of a library: a line with a short reference, and the traceback in a file that can be sent along.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import select
import shlex
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from terrafuse.errors import TerrafuseError
from terrafuse.stopping import Stopped, how_to_go_on, listening
from terrafuse.version import VERSION

MISTAKE, INTERNAL, INTERRUPTED, CLOSED_PIPE = 2, 70, 130, 141
#: Option before the verb that prints tracebacks instead of writing them to a file.
DEBUG = "--debug"
_LONGEST_LINE = 200
#: Packages that `terrafuse` needs and `terrafuse-runtime` does without.
NOT_IN_RUNTIME = (
    "torch", "torchvision", "timm", "lightning", "scipy", "matplotlib", "pyogrio",
    "huggingface_hub",
)  # fmt: skip


def run_guarded(command: Callable[[], Any]) -> int:
    """Run a command of the command line; return its exit code, whatever happens.

    0 or what the command exits with; 2 after an error that a user can mend; 70 after any other; 128
    and its number after a signal; 141 when nobody reads the output any more (`terrafuse … | head`).
    """
    debug = DEBUG in takewhile(lambda word: word.startswith("-"), sys.argv[1:])
    with _background_failures(debug):
        try:
            return _run(command, debug)
        except BrokenPipeError as error:  # when the rest of the output was written
            return _end_of_pipe(error, debug)


def _run(command: Callable[[], Any], debug: bool) -> int:
    try:
        with listening():
            command()
        code = 0
    except SystemExit as end:
        # Typer and rich end with 1 where the reader of their output is gone.
        if isinstance(end.__context__, BrokenPipeError) and end.code == 1:
            return _end_of_pipe(end.__context__, debug)
        code = _code(end)
    except BrokenPipeError as error:
        return _end_of_pipe(error, debug)
    except TerrafuseError as error:
        _tell(f"error: {error}")
        code = MISTAKE
    except ModuleNotFoundError as error:
        is_known = (error.name or "").partition(".")[0] in NOT_IN_RUNTIME
        _tell(lacks_package(error) if is_known else describe_failure(error, debug=debug))
        code = MISTAKE if is_known else INTERNAL
    except Stopped as stop:
        _tell(f"{stop}: {how_to_go_on(stop)}")
        code = stop.exit_code
    except KeyboardInterrupt:
        _tell("interrupted")
        code = INTERRUPTED
    except BaseException as error:
        _tell(describe_failure(error, debug=debug))
        code = INTERNAL
    sys.stdout.flush()
    return code


def lacks_package(error: ModuleNotFoundError) -> str:
    """The message where only what mapping needs is installed."""
    return (
        f"error: this needs the package '{error.name}', which is not installed: terrafuse-runtime "
        "maps with ONNX files, and no more. Install the whole package in its place (pip uninstall "
        "terrafuse-runtime, then pip install terrafuse)"
    )


def _code(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    _tell(str(end.code))
    return 1


def describe_failure(error: BaseException, *, debug: bool = False) -> str:
    """The line about an error that nobody expected; its traceback goes to a file.

    Args:
        debug: Whether the traceback comes before the line instead.
    """
    trace = "".join(traceback.format_exception(error))
    lines = str(error).strip().splitlines() or [""]
    first = lines[0] if len(lines[0]) <= _LONGEST_LINE else f"{lines[0][:_LONGEST_LINE]} …"
    kind = type(error).__name__
    line = f"internal error {_reference(error)}: {kind}{': ' if first else ''}{first}"
    if debug:
        return f"{trace}{line}"
    try:
        return f"{line}; the traceback is in {_write(trace, _reference(error))}"
    except OSError as problem:
        reason = problem.strerror or str(problem)
        return f"{line}; the traceback could not be written ({reason}): run 'terrafuse {DEBUG} …'"


def _reference(error: BaseException) -> str:
    """Eight digits that tell failures at different places apart, and are the same at the same."""
    steps = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(step.filename).name}:{step.name}:{step.lineno}" for step in steps]
    text = "\n".join([type(error).__name__, *places])
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:8]


def _write(trace: str, reference: str) -> str:
    """Write a traceback to a file of its own among the temporary files; return its path."""
    about = [
        f"terrafuse {VERSION}, Python {platform.python_version()}, {platform.platform()}",
        shlex.join(["terrafuse", *sys.argv[1:]]),
        "",
        trace,
    ]
    handle, path = tempfile.mkstemp(prefix=f"terrafuse-{reference}-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write("\n".join(about))
    return path


def _end_of_pipe(error: BaseException, debug: bool) -> int:
    """End quietly where nobody reads stdout or stderr any more; another pipe is a failure."""
    if not (any(map(_is_closed, (sys.__stdout__, sys.__stderr__))) or _is_of_rich(error)):
        _tell(describe_failure(error, debug=debug))
        return INTERNAL
    # What is still buffered goes nowhere, so that Python does not complain of it at its end.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None and _is_closed(stream):
                os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return CLOSED_PIPE


def _is_of_rich(error: BaseException) -> bool:
    """Tell whether rich met the closed pipe; it leads stdout to nowhere by itself."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == "rich.console" for frame, _ in frames)


def _is_closed(stream: Any) -> bool:
    """Tell whether a stream is a pipe that nobody reads."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))
    except AttributeError:  # no poll on Windows; or no stream
        return stream is not None
    except (OSError, ValueError):
        return False


def _tell(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody may be listening
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _background_failures(debug: bool) -> Iterator[None]:
    """Report failures in threads and in destructors in the same way, and warnings in one line."""

    def in_thread(failure: threading.ExceptHookArgs) -> None:
        if failure.exc_value is not None and failure.exc_type is not SystemExit:
            _tell(describe_failure(failure.exc_value, debug=debug))

    def in_destructor(failure: Any) -> None:
        if failure.exc_value is None or "rasterio._env.log_error" in str(failure.object):
            return  # rasterio does not log a warning of GDAL that is not UTF-8
        _tell(describe_failure(failure.exc_value, debug=debug))

    def of_library(kind: type[BaseException], error: BaseException, _: Any) -> None:
        if kind is not UnicodeDecodeError:  # as above: Cython prints what it cannot raise
            _tell(describe_failure(error, debug=debug))

    changes = [
        (sys, "excepthook", of_library),
        (threading, "excepthook", in_thread),
        (sys, "unraisablehook", in_destructor),
        (logging, "raiseExceptions", debug),
        (warnings, "formatwarning", _format_warning),
    ]
    before = [getattr(owner, name) for owner, name, _ in changes]
    _set(changes)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            # Names of files may hold what the terminal cannot show.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        yield
    finally:
        _set([(owner, name, old) for (owner, name, _), old in zip(changes, before, strict=True)])


def _set(changes: Sequence[tuple[Any, str, Any]]) -> None:
    for owner, name, value in changes:
        setattr(owner, name, value)


def _format_warning(message: Warning | str, *_: Any, **__: Any) -> str:
    return f"warning: {message}\n"  # the line of code is of no interest to users

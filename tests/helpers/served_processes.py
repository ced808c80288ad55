"""A service as processes of its own, which a test may kill."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from terrafuse.web.service.database import Database
from terrafuse.web.service.jobs import Queue

HELPERS = Path(__file__).parent
_PATIENCE = 240.0


@dataclass
class Served:
    """A service of a run, in a folder.

    Args:
        words: Further words of the command.
    """

    run: Path
    data: Path
    root: Path
    url: str | None = None
    words: tuple[str, ...] = ()
    port: int = 0
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> Served:
        self.port = self.port or _free_port()
        self.start()
        self.queue = Queue(Database(self.url or f"sqlite:///{self.data / 'jobs.sqlite'}"))
        return self

    def __exit__(self, *_: object) -> None:
        self.queue.database.close()
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @property
    def server(self) -> subprocess.Popen[bytes]:
        """The server that was started last."""
        return self.processes[-1]

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        self.processes.append(
            self.command(
                "serve",
                str(self.run),
                "--data",
                str(self.data),
                "--root",
                str(self.root),
                "--port",
                str(self.port),
                *self.words,
            )
        )
        wait_for(self._answers, "the server")

    def command(self, *words: str, host: str = "") -> subprocess.Popen[bytes]:
        """Start a command."""
        source = HELPERS.parents[1] / "src"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(source), str(HELPERS)]),
            "OMP_NUM_THREADS": "1",
            "TERRAFUSE_TEST_HOST": host,
            **({"TERRAFUSE_DATABASE": self.url} if self.url else {}),
        }
        self.data.mkdir(parents=True, exist_ok=True)
        with (self.data.parent / "said.txt").open("ab") as said:
            return subprocess.Popen(
                [sys.executable, str(HELPERS / "serving_small.py"), *words],
                env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            )  # fmt: skip

    def ask(self, address: str, body: Any = None) -> Any:
        """What the server answers."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{address}", data=data, headers=headers
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def worker_numbers(self) -> list[int]:
        """Numbers of the worker processes that the database knows."""
        return [row.pid for row in self.queue.workers()]

    def kill(self, *, server: bool, workers: bool) -> None:
        """Kill -9; a server that was killed is started again."""
        numbers = self.worker_numbers() if workers else []
        if server:
            self.server.kill()
        for number in numbers:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        if server:
            self.server.wait()
            self.start()

    def states(self) -> list[str]:
        """States of all jobs, oldest first."""
        return [row.state for row in reversed(self.queue.page(user=None, limit=500))]

    def said(self) -> str:
        """All that the processes have printed."""
        return (self.data.parent / "said.txt").read_text(errors="replace")

    def _answers(self) -> bool:
        assert self.server.poll() is None, self.said()
        with suppress(OSError):
            return bool(self.ask("/health")["state"] == "ok")
        return False


def wait_for(condition: Callable[[], Any], what: str, seconds: float = _PATIENCE) -> Any:
    """Wait until something is true, and return it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come about within {seconds:g} s")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])

"""The client of the service, against servers that behave, break off, refuse and lie."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loopback import serving_by
from terrafuse.client import Client, Job
from terrafuse.errors import ConfigError, OutputError, ServiceError

CONTENT = bytes(range(256)) * 40  # 10,240 bytes, none like the next


def record(state: str = "done", **changed: Any) -> dict[str, Any]:
    results = [{"name": "class_map.tif", "bytes": len(CONTENT), "media_type": "image/tiff"}]
    return {
        "id": "j1", "state": state, "done": 0, "total": None, "error": None,
        "results": results if state == "done" else [], **changed,
    }  # fmt: skip


@dataclass
class Script:
    """What the server answers: method and path → one answer after the other; the last stays.

    An answer is a status and a body, with headers; or a function of the handler.
    """

    answers: dict[str, list[Any]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    def paths(self) -> list[str]:
        return [request for request, _, _ in self.requests]


class Handler(BaseHTTPRequestHandler):
    script: Script
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        key = f"{self.command} {self.path}"
        body = self.rfile.read(length)
        self.script.requests.append((key, dict(self.headers), body))
        queue = self.script.answers.get(key) or [(404, {"error": f"nothing at {self.path}"})]
        answer = queue.pop(0) if len(queue) > 1 else queue[0]
        if callable(answer):
            answer(self)
            return
        status, content, *headers = answer
        self.reply(status, content, *headers)

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815

    def reply(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def break_off(self, content: bytes, status: int = 200, **headers: str) -> None:
        """Send a part and close the connection."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def service(**answers: list[Any]) -> Iterator[Script]:
    script = Script({key.replace("_", " ", 1): value for key, value in answers.items()})

    class Scripted(Handler):
        pass

    Scripted.script = script
    with serving_by(Scripted) as address:
        script.url = f"http://{address}"
        yield script


@pytest.fixture
def script() -> Iterator[Script]:
    with service() as found:
        yield found


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No test waits; a clock runs instead."""
    waited: list[float] = []
    clock = SimpleNamespace(sleep=waited.append, monotonic=lambda: sum(waited))
    monkeypatch.setattr("terrafuse.client.time", clock)
    monkeypatch.delenv("TERRAFUSE_TOKEN", raising=False)
    return waited


def test_it_needs_nothing_but_python() -> None:
    """As on a machine where nothing else is installed."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['numpy', 'torch', 'rasterio', 'fastapi', "
        "'httpx', 'requests', 'pydantic', 'rich'])); import terrafuse.client"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_submitting(script: Script, tmp_path: Path) -> None:
    raster = tmp_path / "s1 a.tif"
    raster.write_bytes(CONTENT)
    upload = {"id": "u1", "name": "s1 a.tif", "bytes": len(CONTENT),
              "sha256": hashlib.sha256(CONTENT).hexdigest()}  # fmt: skip
    script.answers = {
        "POST /api/uploads?name=s1+a.tif": [(201, upload)],
        "POST /api/jobs": [(201, record("queued"))],
        "GET /api/models": [(200, [{"name": "flood"}])],
    }
    client = Client(script.url + "/", token="tf_x")
    assert client.models() == [{"name": "flood"}]
    job = client.submit({"s1": raster, "s2": ["b4.tif", "b3.tif"]}, model="flood", priority=-1)
    assert (job.id, job.state, job.has_ended, job.results) == ("j1", "queued", False, {})
    _, headers, sent = script.requests[1]
    assert sent == CONTENT
    assert headers["Content-Type"] == "application/octet-stream"
    assert json.loads(script.requests[2][2]) == {
        "rasters": {"s1": "upload:u1", "s2": ["b4.tif", "b3.tif"]},
        "model": "flood",
        "priority": -1,
    }
    assert {headers["Authorization"] for _, headers, _ in script.requests} == {"Bearer tf_x"}


def test_a_file_that_changes_while_it_is_sent(script: Script, tmp_path: Path) -> None:
    raster = tmp_path / "a.tif"
    raster.write_bytes(CONTENT)
    wrong = {"id": "u1", "sha256": "0" * 64}
    script.answers = {"POST /api/uploads?name=a.tif": [(201, wrong)]}
    with pytest.raises(ServiceError, match=r"was changed while it was sent. Send it again"):
        Client(script.url).upload(raster)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        Client(script.url).upload(tmp_path / "none.tif")


def test_refusals_are_the_services_own_message(script: Script, tmp_path: Path) -> None:
    message = "modality 's2' is missing. Give rasters of all"
    script.answers = {
        "POST /api/jobs": [(422, {"error": message})],
        "GET /api/models": [(502, b"<html>Bad gateway</html>")],
        "GET /api/jobs/x%2F..": [(404, {"error": "there is no job 'x/..'"})],
        "GET /api/jobs?": [(303, b"", {"Location": "http://elsewhere.example/login"})],
    }
    client = Client(script.url, token="tf_x", patience=0)
    with pytest.raises(ServiceError) as caught:
        client.submit({"s1": "a.tif"})
    assert (str(caught.value), caught.value.status) == (message, 422)
    assert isinstance(caught.value, OSError)
    with pytest.raises(ServiceError, match="answers 502"):
        client.models()
    with pytest.raises(ServiceError, match=r"there is no job 'x/..'"):
        client.job("x/..")
    with pytest.raises(ServiceError, match=r"elsewhere.example/login, which is not followed"):
        next(client.jobs())


def test_answers_that_are_no_service(script: Script) -> None:
    script.answers = {"GET /api/models": [(200, b"<html>")]}
    with pytest.raises(ServiceError, match=r"something else than JSON.*Check the address"):
        Client(script.url).models()


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8766", "file:///etc/passwd", "ftp://a/b", "http://", "http://a:b",
            "http://user:secret@host", "http://[::1"],
)  # fmt: skip
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match=r"Give one such as http://127.0.0.1:8766"):
        Client(url)


def test_tokens_do_not_travel_as_plain_text_unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """client:Client.__init__ | Use https."""
    with pytest.warns(UserWarning, match=r"the token travels to maps\.example.*Use https"):
        Client("http://maps.example", token="tf_x")
    Client("https://maps.example", token="tf_x")
    Client("http://localhost:1", token="tf_x")
    monkeypatch.setenv("TERRAFUSE_TOKEN", "tf_y")
    assert Client("http://127.0.0.1:1")._token == "tf_y"
    assert "tf_y" not in repr(Client("http://127.0.0.1:1"))


def test_a_service_that_is_not_there(pauses: list[float]) -> None:
    with service() as gone:
        url = gone.url
    with pytest.raises(ServiceError, match=r"cannot be reached: .*refused.*Check that the service"):
        Client(url).submit({"s1": "a.tif"})
    assert pauses == []
    client = Client(url, patience=5)
    with pytest.raises(ServiceError, match="cannot be reached"):
        list(Job(client, record("running")).events())
    assert pauses == [0.2, 0.4, 0.8, 1.6]


def test_too_many_requests_wait_as_told(script: Script, pauses: list[float]) -> None:
    busy = (429, {"error": "requests come too fast"}, {"Retry-After": "7"})
    script.answers = {"GET /api/models": [busy, busy, (200, [])], "POST /api/jobs": [busy]}
    assert Client(script.url).models() == []
    assert pauses == [7, 7]
    with pytest.raises(ServiceError, match="too fast"):  # a job is asked for once
        Client(script.url).submit({"s1": "a.tif"})
    assert script.paths().count("POST /api/jobs") == 1


def event(number: int, job: dict[str, Any]) -> bytes:
    return f"id: {number}\ndata: {json.dumps(job)}\n\n".encode()


def test_waiting_goes_on_where_it_was(script: Script) -> None:
    """The connection ends twice; the second time within an event."""
    running = [record("running", done=done, total=4) for done in (1, 2, 3)]
    end = event(4, record("done", done=4, total=4)) + b"id: 4\nevent: end\ndata: done\n\n"
    third = event(3, running[2])
    script.answers = {
        "GET /api/jobs/j1/events": [
            lambda to: to.break_off(b"retry: 2000\n\n: hi\n\n" + event(1, running[0])),
            lambda to: to.break_off(event(2, running[1]) + third[: len(third) // 2]),
            (503, {"error": "not now"}),
            lambda to: to.break_off(third + end),
        ]
    }
    seen: list[tuple[int, int]] = []
    job = Job(Client(script.url), record("queued"))
    ended = job.wait(lambda done, total: seen.append((done, total)))
    assert ended.state == "done"
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    sent = [headers.get("Last-Event-ID") for _, headers, _ in script.requests]
    assert sent == [None, "1", "2", "2"]


def test_jobs_that_do_not_end_well(script: Script) -> None:
    end = b"event: end\ndata: x\n\n"
    client = Client(script.url)
    for state, message in {
        "failed": "job j1 failed: out of memory",
        "cancelled": r"was cancelled. Go on with it by resume\(\)",
    }.items():
        last = event(1, record(state, error="out of memory")) + end
        script.answers["GET /api/jobs/j1/events"] = [lambda to, last=last: to.break_off(last)]
        with pytest.raises(ServiceError, match=message):
            Job(client, record("running")).wait()
    script.answers |= {
        "POST /api/jobs/j1/resume": [(200, record("queued"))],
        "POST /api/jobs/j1/cancel": [(200, record("cancelling"))],
        "DELETE /api/jobs/j1": [(204, b"")],
        "GET /api/jobs/j1/log": [(200, b"begun\n")],
        "GET /api/jobs/j1": [(200, record("cancelled"))],
    }
    job = Job(client, record("cancelled"))
    assert job.resume().state == "queued"
    assert job.cancel().state == "cancelling"
    assert job.refresh().has_ended
    assert job.log() == "begun\n"
    job.delete()
    script.answers["GET /api/jobs/j1/events"] = [(404, {"error": "there is no job 'j1'"})]
    with pytest.raises(ServiceError, match="there is no job"):
        job.wait()


def test_jobs_page_by_page(script: Script) -> None:
    script.answers = {
        "GET /api/jobs?state=done": [(200, {"jobs": [record(id="a")], "next": "7"})],
        "GET /api/jobs?state=done&cursor=7": [(200, {"jobs": [record(id="b")], "next": None})],
    }
    assert [job.id for job in Client(script.url).jobs(state="done")] == ["a", "b"]


RESULT = "GET /api/jobs/j1/results/class_map.tif"


def ranged(to: Handler) -> None:
    """Answer as a server that knows ranges."""
    wanted = to.headers.get("Range")
    start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
    to.reply(206 if wanted else 200, CONTENT[start:])


def part(until: int) -> Callable[[Handler], None]:
    def answer(to: Handler) -> None:
        wanted = to.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        length = str(len(CONTENT) - start)
        to.break_off(CONTENT[start:until], 206 if wanted else 200, Content_Length=length)

    return answer


def test_downloads_go_on_where_they_broke(script: Script, tmp_path: Path) -> None:
    script.answers = {RESULT: [part(4000), part(9000), ranged]}
    job = Job(Client(script.url), record())
    seen: list[tuple[int, int]] = []
    paths = job.download(tmp_path / "map", progress=lambda done, all: seen.append((done, all)))
    assert paths == [tmp_path / "map/class_map.tif"]
    assert paths[0].read_bytes() == CONTENT
    assert [path.name for path in paths[0].parent.iterdir()] == ["class_map.tif"]
    ranges = [headers.get("Range") for _, headers, _ in script.requests]
    assert ranges == [None, "bytes=4000-", "bytes=9000-"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    job.download(tmp_path / "map")  # it is there
    assert len(script.requests) == 3


def test_a_download_goes_on_in_another_process(script: Script, tmp_path: Path) -> None:
    script.answers = {RESULT: [part(4000), (404, {"error": "gone for now"})]}
    job = Job(Client(script.url), record())
    with pytest.raises(ServiceError, match="gone for now"):
        job.download(tmp_path)
    assert not (tmp_path / "class_map.tif").exists()
    script.answers = {RESULT: [ranged]}
    job.download(tmp_path)
    assert (tmp_path / "class_map.tif").read_bytes() == CONTENT
    assert script.requests[-1][1]["Range"] == "bytes=4000-"


def test_whoever_sends_all_again_is_understood(script: Script, tmp_path: Path) -> None:
    script.answers = {RESULT: [part(4000), (200, CONTENT)]}
    Job(Client(script.url), record()).download(tmp_path)
    assert (tmp_path / "class_map.tif").read_bytes() == CONTENT


def test_results_that_are_not_as_the_job_says(script: Script, tmp_path: Path) -> None:
    script.answers = {RESULT: [(200, CONTENT + b"more")]}
    job = Job(Client(script.url), record())
    with pytest.raises(ServiceError, match=r"is longer than its job says\. Download it again"):
        job.download(tmp_path)
    assert list(tmp_path.iterdir()) == []
    script.answers = {RESULT: [(200, CONTENT[:-1])]}
    with pytest.raises(ServiceError):
        Job(Client(script.url, patience=3), record()).download(tmp_path)
    assert not (tmp_path / "class_map.tif").exists()


def test_results_that_there_are_not(script: Script, tmp_path: Path) -> None:
    job = Job(Client(script.url), record())
    with pytest.raises(ServiceError, match=r"has no result 'x.tif'; it has class_map.tif"):
        job.download(tmp_path, ["x.tif"])
    script.answers = {"GET /api/jobs/j1": [(200, record("running"))]}
    with pytest.raises(ServiceError, match=r"is running and has no results yet. Wait for it"):
        Job(Client(script.url), record("running")).download(tmp_path)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "..", "a\\b", "C:\\x", ""])
def test_a_service_cannot_choose_where_files_go(script: Script, tmp_path: Path, name: str) -> None:
    results = [{"name": name, "bytes": 3, "media_type": "x"}]
    with pytest.raises(ServiceError, match="which is no file name"):
        Job(Client(script.url), record(results=results)).download(tmp_path / "in")
    assert script.requests == []
    assert list(tmp_path.rglob("*")) == []


def test_a_folder_that_cannot_be_written(script: Script, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    script.answers = {RESULT: [(200, CONTENT)]}
    with pytest.raises(OutputError, match="cannot be written"):
        Job(Client(script.url), record()).download(tmp_path / "file")


FOLLOWED = (
    "client:Job.wait | Go on with it by resume()",
    "client:Job.download | Wait for it",
    "client:Client.__init__ | Give one such as",
    "client:Client.__init__ | Use https",
    "client:Client.upload | Send it again",
    "client:Client._fetch | Download it again",
    "client:Client._json | Check the address",
    "client:Client._opened | Check that the service runs",
    "client:_Patience.spend | Check that the service runs",
    "client:_refusal | Give that address",
)

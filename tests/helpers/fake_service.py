"""A service that answers as messages.py says, and whose jobs go on as a test tells them to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.responses import StreamingResponse as Streaming

import terrafuse.web
from loopback import serving_app
from terrafuse.web.access.guard import SECURITY_HEADERS
from terrafuse.web.access.tokens import LOCAL, Right, User
from terrafuse.web.built_page import page_routes
from terrafuse.web.refusals import Refusal
from terrafuse.web.service.answers import answer_errors
from terrafuse.web.service.asker import asker_router
from terrafuse.web.service.files import files_router
from terrafuse.web.service.messages import ENDED, Job, JobList, JobRequest, ResultFile, Upload

PAGE = Path(terrafuse.web.__file__).parent / "page"
_PAGE_OF_JOBS = 20
_PATIENCE_S = 10.0

CARDS: list[dict[str, Any]] = [
    {
        "name": "all_modalities",
        "method": "late_fusion",
        "modalities": [
            {"name": "optical", "kind": "optical", "bands": ["blue", "green", "red", "nir"],
             "unit": "reflectance"},
            {"name": "sar", "kind": "sar", "bands": ["VV", "VH"], "unit": "db"},
            {"name": "dsm", "kind": "elevation", "bands": ["height"], "unit": "m"},
        ],
        "classes": [
            {"name": "water", "code": 0, "color": "#3b7dd8"},
            {"name": "wetland", "code": 1, "color": "#2fb5b0"},
            {"name": "arable", "code": 2, "color": "#e3b34c"},
            {"name": "grassland", "code": 3, "color": "#a5cf63"},
            {"name": "forest", "code": 4, "color": "#1f7a3d"},
            {"name": "buildings", "code": 5, "color": "#b5384b"},
        ],
        "crop_size": 256,
        "overlap": 64,
        "scores": {
            "optical+sar+dsm": {"oa": 0.6907, "miou": 0.5598, "mf1": 0.7006},
            "optical+sar": {"oa": 0.6512, "miou": 0.5034, "mf1": 0.6555},
            "optical": {"oa": 0.5511, "miou": 0.4012, "mf1": 0.5555},
        },
        "licence": "CC-BY-4.0",
        "supports_missing": False,
    },
    {
        "name": "optical",
        "method": "segformer",
        "modalities": [{"name": "optical", "kind": "optical", "bands": ["red", "green", "blue"]}],
        "classes": [{"name": "water", "code": 0, "color": "#3b7dd8"}],
        "crop_size": 512,
        "overlap": 128,
        "scores": {},
        "licence": None,
        "supports_missing": False,
    },
]  # fmt: skip


@dataclass
class FakeService:
    """The state behind the addresses.

    Args:
        roots: Folders that the chooser shows.
        preview: PNG of finished jobs.
        token: That is asked for; "": none is.
        may: What its user may.
        url_hosts: Whose addresses it reads.
        requests: Method and path of every request.
    """

    roots: tuple[Path, ...] = ()
    preview: Path | None = None
    token: str = ""
    may: frozenset[Right] = frozenset(("upload",))
    url_hosts: tuple[str, ...] = ()
    address: str = ""
    jobs: dict[str, Job] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    #: Status by which streams and lists are refused; 0: they are not.
    refuses_streams: int = 0
    refuses_lists: int = 0
    #: Grows by one when all streams are to break off.
    breaks: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def set(self, id: str, **parts: object) -> Job:
        """Change a job."""
        with self._lock:
            self.jobs[id] = self.jobs[id].model_copy(update=parts)
            return self.jobs[id]

    def run(self, id: str, done: int, total: int = 40) -> Job:
        """Let a job run so far."""
        job = self.jobs[id]
        started = job.started or datetime.now(UTC) - timedelta(seconds=30)
        return self.set(
            id, state="running", started=started, done=done, total=total, attempts=1, worker="w1"
        )

    def finish(self, id: str) -> Job:
        """Let a job end well."""
        files = [
            ResultFile(name="class_map.tif", bytes=33_109, media_type="image/tiff"),
            ResultFile(name="confidence.tif", bytes=175_514, media_type="image/tiff"),
        ]
        if self.preview:
            size = self.preview.stat().st_size
            files.append(ResultFile(name="preview.png", bytes=size, media_type="image/png"))
        total = self.jobs[id].total or 40
        now = datetime.now(UTC)
        return self.set(
            id, state="done", done=total, total=total, results=tuple(files),
            started=self.jobs[id].started or now, ended=now,
            view=f"/view/{id}/", tilejson=f"/api/jobs/{id}/tilejson.json",
        )  # fmt: skip

    def fail(self, id: str, message: str) -> Job:
        """Let a job fail."""
        now = datetime.now(UTC)
        return self.set(id, state="failed", error=message, started=now, ended=now, attempts=1)

    def add(self, request: JobRequest, user: str = "local") -> Job:
        """Queue a job."""
        with self._lock:
            number = len(self.jobs)
            created = datetime.now(UTC) - timedelta(seconds=max(0, 60 - number))
            job = Job(
                id=f"{number:08x}", model=request.model or "all_modalities", title=request.title,
                user=user, state="queued", priority=request.priority, created=created,
                started=None, ended=None, done=0, total=None, attempts=0, worker=None, error=None,
                request=request,
            )  # fmt: skip
            self.jobs[job.id] = job
            return job

    def find(self, id: str) -> Job:
        """A job, or a refusal."""
        if id not in self.jobs:
            raise Refusal(404, f"there is no job '{id}'")
        return self.jobs[id]


def fake_app(service: FakeService) -> FastAPI:
    """The addresses."""
    app = FastAPI()
    answer_errors(app)

    @app.middleware("http")
    async def ask_for_token(request: Request, call_next: Any) -> Response:
        path = request.url.path
        service.requests.append(f"{request.method} {path}")
        is_open = not path.startswith("/api/") or not service.token
        if not is_open and request.cookies.get("session") != service.token:
            answer: Response = JSONResponse({"error": "no valid token was given"}, 401)
        else:
            request.state.user = User("ann", service.may) if service.token else LOCAL
            answer = await call_next(request)
        for name, value in SECURITY_HEADERS.items():
            answer.headers.setdefault(name, value)
        return answer

    _add_access(app, service)
    _add_jobs(app, service)
    _add_results(app, service)
    app.include_router(files_router(service.roots))
    app.include_router(asker_router(service.url_hosts))
    app.include_router(page_routes("jobs.html", "docs"))
    return app


def _add_access(app: FastAPI, service: FakeService) -> None:
    @app.post("/login")
    async def log_in(request: Request) -> Response:
        if (await request.body()).decode() != f"token={service.token}":
            return PlainTextResponse("no", 401)
        answer = Response(status_code=303, headers={"location": "/"})
        answer.set_cookie("session", service.token, httponly=True, samesite="strict")
        return answer

    @app.post("/logout")
    def log_out() -> Response:
        answer = Response(status_code=303, headers={"location": "/"})
        answer.delete_cookie("session", httponly=True, samesite="strict")
        return answer

    @app.post("/api/uploads", status_code=201)
    async def upload(request: Request, name: Annotated[str, Query()]) -> Upload:
        body = await request.body()
        if body[:4] not in (b"II*\0", b"MM\0*"):
            raise Refusal(422, f"'{name}' is no raster that this service takes")
        id = f"{len(service.uploads):032x}"
        service.uploads[id] = body
        return Upload(id=id, name=name, bytes=len(body), sha256="0" * 64)


def _add_jobs(app: FastAPI, service: FakeService) -> None:
    @app.get("/api/models")
    def models() -> list[dict[str, Any]]:
        return CARDS

    @app.post("/api/jobs", status_code=201)
    def submit(request: JobRequest) -> Job:
        if "refused" in request.title:
            raise Refusal(429, "'local' has 100 jobs that wait or run; wait until one has ended")
        return service.add(request)

    @app.get("/api/jobs")
    def jobs(cursor: str | None = None) -> JobList:
        if service.refuses_lists:
            raise Refusal(service.refuses_lists, "the service is busy")
        listed = sorted(service.jobs.values(), key=lambda job: job.created, reverse=True)
        start = int(cursor or 0)
        end = start + _PAGE_OF_JOBS
        following = str(end) if end < len(listed) else None
        return JobList(jobs=tuple(listed[start:end]), next=following)

    @app.get("/api/jobs/{id}")
    def job(id: str) -> Job:
        return service.find(id)

    @app.post("/api/jobs/{id}/cancel")
    def cancel(id: str) -> Job:
        service.find(id)
        return service.set(id, state="cancelled", ended=datetime.now(UTC))

    @app.post("/api/jobs/{id}/resume")
    def resume(id: str) -> Job:
        service.find(id)
        return service.set(id, state="queued", ended=None, error=None)

    @app.delete("/api/jobs/{id}", status_code=204)
    def remove(id: str) -> None:
        service.find(id)
        del service.jobs[id]

    @app.get("/api/jobs/{id}/log")
    def log(id: str) -> PlainTextResponse:
        return PlainTextResponse(f"job {service.find(id).id}\n16 of 40 units are kept\n")

    @app.get("/api/jobs/{id}/events")
    def events(id: str) -> Response:
        service.find(id)
        if service.refuses_streams:
            raise Refusal(service.refuses_streams, "the service is stopping")
        return Streaming(_events(service, id), media_type="text/event-stream")


async def _events(service: FakeService, id: str) -> AsyncIterator[str]:
    """A job's changes, until it ends, streams break off, or nothing has happened for long."""
    breaks, shown, waited = service.breaks, "", 0.0
    yield "retry: 50\n\n"
    while id in service.jobs and service.breaks == breaks and waited < _PATIENCE_S:
        job = service.jobs[id]
        text = job.model_dump_json()
        if text != shown:
            shown, waited = text, 0.0
            yield f"id: {job.done}\ndata: {text}\n\n"
        if job.state in ENDED:
            yield f"event: end\ndata: {job.state}\n\n"
            return
        await asyncio.sleep(0.02)
        waited += 0.02


def _add_results(app: FastAPI, service: FakeService) -> None:
    @app.get("/api/jobs/{id}/results/{name}")
    def result(id: str, name: str) -> Response:
        found = next((file for file in service.find(id).results if file.name == name), None)
        if found is None:
            raise Refusal(404, f"job '{id}' has no result '{name}'")
        if name == "preview.png" and service.preview:
            return FileResponse(service.preview)
        return Response(b"\0" * found.bytes, media_type=found.media_type)

    @app.get("/api/jobs/{id}/tilejson.json")
    def tilejson(id: str, request: Request) -> dict[str, Any]:
        base = str(request.base_url)
        tiles = f"{base}api/jobs/{service.find(id).id}/tiles/class_map/{{z}}/{{x}}/{{y}}.png"
        return {"tilejson": "3.0.0", "tiles": [tiles]}


@contextmanager
def serving_fake(service: FakeService) -> Iterator[str]:
    """Serve it on a free port of loopback; yields the address of its page."""
    with serving_app(fake_app(service)) as service.address:
        try:
            yield service.address
        finally:
            service.breaks += 1

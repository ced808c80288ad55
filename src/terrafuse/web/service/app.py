"""The service as an app: models, jobs, results, and how it is doing.

app = create_service_app(ServiceSettings(models=("runs/flood",), data=Path("service")))
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.concurrency import run_in_threadpool

from terrafuse.errors import cut
from terrafuse.version import VERSION
from terrafuse.web.access.protect import protect
from terrafuse.web.access.settings import Access
from terrafuse.web.access.tokens import User
from terrafuse.web.access.users import current_user, is_let_in, sees
from terrafuse.web.built_page import page_routes
from terrafuse.web.ranges import send_file
from terrafuse.web.refusals import Refusal, fault
from terrafuse.web.service import tiles
from terrafuse.web.service.answers import answer_errors
from terrafuse.web.service.asker import asker_router
from terrafuse.web.service.checks import Checker
from terrafuse.web.service.events import job_events
from terrafuse.web.service.files import files_router
from terrafuse.web.service.folders import MEDIA_TYPES
from terrafuse.web.service.jobs import JobRow, to_message
from terrafuse.web.service.messages import (
    WITHOUT_NUL,
    Fault,
    Job,
    JobList,
    JobRequest,
    JobState,
)
from terrafuse.web.service.metrics import Timing, describe_metrics
from terrafuse.web.service.pages import list_addresses
from terrafuse.web.service.settings import ServiceSettings
from terrafuse.web.service.state import Service, service_of
from terrafuse.web.service.uploads import uploads_router
from terrafuse.web.service.viewing import Viewers

Asking = Annotated[User, Depends(current_user)]
#: Of the log that one request gets.
_MOST_LOG_BYTES = 1 << 20
_REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Fault, "description": "Refused; the message says why and what to do."},
    503: {"model": Fault, "description": "Not now; try again."},
}


Served = Annotated[Service, Depends(service_of)]


def create_service_app(settings: ServiceSettings) -> FastAPI:
    """Make the app.

    Raises:
        ConfigError: A setting is wrong.
        OutputError: Folder or database cannot be used.
        WeightsError: A model cannot be read.
    """
    service = Service(settings)
    access = Access(
        settings.host, settings.names, settings.tokens, upload_bytes=service.uploads.most_bytes
    )
    app = FastAPI(
        title="terrafuse",
        summary="Maps by trained models, as jobs.",
        version=VERSION,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        lifespan=_life,
        responses=_REFUSALS,
        separate_input_output_schemas=False,
    )
    app.state.service = service
    answer_errors(app)
    app.include_router(router)
    app.include_router(uploads_router(service.uploads))
    app.include_router(tiles.router)
    app.include_router(files_router(settings.roots))
    app.include_router(asker_router(settings.url_hosts))
    app.mount("/view", Viewers(service))
    app.include_router(page_routes("jobs.html", "docs"))
    protect(app, access)
    app.add_middleware(Timing, durations=service.durations)
    return app


@asynccontextmanager
async def _life(app: FastAPI) -> AsyncGenerator[None, None]:
    service: Service = app.state.service
    service.folders.clear()
    service.supervisor.start(service.keep_order)
    try:
        yield
    finally:
        service.is_stopping = True
        service.watch.stop()
        service.supervisor.stop()
        service.database.close()


router = APIRouter()


@router.get("/api/models", dependencies=[Depends(current_user)])
def list_models(service: Served) -> list[dict[str, Any]]:
    """The cards of all models."""
    return [service.card(model) for model in service.shelf]


@router.get("/api/models/{name}", dependencies=[Depends(current_user)])
def show_model(name: str, service: Served) -> dict[str, Any]:
    """The card of a model: bands, units, classes, scores by subsets, licence."""
    return service.card(service.shelf.find(name, 404))


@router.post("/api/jobs", status_code=201)
def submit(wanted: JobRequest, service: Served, user: Asking, response: Response) -> Job:
    """Queue a map, once all is checked that can be before."""
    settings, folders = service.settings, service.folders
    checker = Checker(settings, service.shelf, service.uploads, service.queue.supports_missing)
    free = folders.free_bytes - service.queue.reserved_bytes()
    checked = checker.check(wanted, user, free)
    max_queued = user.max_queued or settings.max_queued
    max_running = user.max_running or settings.max_running
    row = service.queue.add(
        wanted,
        user=user,
        model=checked.model.name,
        rasters=checked.rasters,
        max_queued=max_queued,
        max_running=max_running,
        need_bytes=checked.need_bytes,
        has_crs=checked.has_crs,
    )
    response.headers["Location"] = f"/api/jobs/{row.id}"
    return to_message(row)


@router.get("/api/jobs")
def list_jobs(
    service: Served,
    user: Asking,
    state: JobState | None = None,
    model: Annotated[str | None, Query(max_length=200, pattern=WITHOUT_NUL)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[int | None, Query(ge=0, lt=1 << 62)] = None,
) -> JobList:
    """The user's jobs, newest first."""
    owner = None if sees(user, None) else user.name
    rows = service.queue.page(user=owner, state=state, model=model, limit=limit + 1, before=cursor)
    shown = rows[:limit]
    following = str(shown[-1].seq) if len(rows) > limit else None
    return JobList(jobs=tuple(map(to_message, shown)), next=following)


@router.get("/api/jobs/{id}")
def show_job(id: str, service: Served, user: Asking) -> Job:
    """A job as it stands."""
    return to_message(service.job(id, user))


@router.post("/api/jobs/{id}/cancel")
def cancel(id: str, service: Served, user: Asking) -> Job:
    """Have a job stop; what is kept of it can be gone on with."""
    service.job(id, user)
    return to_message(service.queue.cancel(id))


@router.post("/api/jobs/{id}/resume")
def resume(id: str, service: Served, user: Asking) -> Job:
    """Put a cancelled or failed job back into the queue; it goes on with what is kept."""
    service.job(id, user)
    row = service.queue.resume(id, max_queued=user.max_queued or service.settings.max_queued)
    return to_message(row)


@router.delete("/api/jobs/{id}", status_code=204)
def delete(id: str, service: Served, user: Asking) -> None:
    """Forget a job that has ended, and remove its files."""
    service.job(id, user)
    service.remove(id)


@router.get("/api/jobs/{id}/events", response_class=StreamingResponse)
async def follow(
    id: str,
    request: Request,
    user: Asking,
    last: Annotated[str | None, Header(alias="Last-Event-ID", max_length=40)] = None,
) -> StreamingResponse:
    """Server-sent events: the job at each change, and `end` with its state."""
    service = service_of(request)

    def read() -> JobRow | None:
        return service.queue.get(id)

    def is_over() -> bool:
        return service.is_stopping or not is_let_in(request)

    await run_in_threadpool(service.job, id, user)
    known = int(last) if last is not None and last.isascii() and last.isdigit() else None
    events = job_events(service.watch, read, id, known, is_over)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


@router.get("/api/jobs/{id}/log", response_class=PlainTextResponse)
def read_log(id: str, service: Served, user: Asking) -> str:
    """What workers have said of the job; of a long log the end."""
    service.job(id, user)
    try:
        with service.folders.log(id).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _MOST_LOG_BYTES))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


@router.get("/api/jobs/{id}/results/{name}", response_class=FileResponse)
@router.head("/api/jobs/{id}/results/{name}", include_in_schema=False)
def send_result(
    id: str, name: str, request: Request, service: Served, user: Asking
) -> FileResponse:
    """A file of a finished map; parts of it by Range."""
    folder = service.finished(id, user)
    names = [file.name for file in to_message(service.job(id, user)).results]
    if name not in names:
        known = ", ".join(names) or "none"
        raise Refusal(404, f"job {id} has no result '{cut(name)}'; there are: {known}")
    path = folder / name
    media_type = MEDIA_TYPES.get(path.suffix, "application/octet-stream")
    gone = f"result '{name}' of job {id} is not there any more. Submit the job again"
    return send_file(request, path, media_type, gone=gone)


@router.get("/health")
def health() -> dict[str, str]:
    """That the server answers."""
    return {"state": "ok", "version": VERSION}


@router.get("/ready")
def ready(service: Served) -> JSONResponse:
    """Whether a job would be done: database, worker, disk; 503 if not."""
    workers = service.queue.alive_workers()  # 503 by itself where the database is gone
    free = service.folders.free_bytes
    problems = [] if workers else ["no worker has been heard of"]
    if free < service.settings.min_free_bytes:
        problems.append(f"only {free / 1e6:,.0f} MB of disk are left")
    if problems:
        return fault(503, "; ".join(problems))
    return JSONResponse({"state": "ready", "workers": workers, "free_bytes": free})


@router.get("/metrics", response_class=PlainTextResponse, dependencies=[Depends(current_user)])
def metrics(service: Served) -> PlainTextResponse:
    """Metrics in Prometheus' text format."""
    text = describe_metrics(service.queue, service.durations, service.folders.free_bytes)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> HTMLResponse:
    """The addresses as a page that loads nothing from elsewhere."""
    return HTMLResponse(list_addresses(request.app.openapi()))

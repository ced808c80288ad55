"""The page of jobs, and the viewer on each finished map: `/view/{id}/`."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from importlib import resources
from pathlib import Path

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from terrafuse.errors import OutputError, SceneNotFoundError, TerrafuseError
from terrafuse.web.service.folders import VIEW
from terrafuse.web.service.refusals import Refusal, answer_refusals, fault
from terrafuse.web.service.state import Service
from terrafuse.web.service.users import current_user
from terrafuse.web.service.veil import Veil
from terrafuse.web.viewer.app import page_routes, view_routes
from terrafuse.web.viewer.preparing import NotReadyError, Preparer
from terrafuse.web.viewer.subjects import find_subjects

#: Maps whose viewer is kept, as each may hold a model that says why.
_MOST_VIEWERS = 16
_STATUS: tuple[tuple[type[TerrafuseError], int], ...] = (
    (NotReadyError, 409),
    (SceneNotFoundError, 404),
    (OutputError, 503),
)


class Viewers:
    """An app at `/view`: of each finished job the viewer on its map.

    Args:
        service: Whose jobs.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._apps: OrderedDict[str, ASGIApp] = OrderedDict()
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        inner = scope["path"].removeprefix(scope.get("root_path", ""))
        id, slash, _ = inner.lstrip("/").partition("/")
        try:
            app = await run_in_threadpool(self._find, id, Request(scope))
        except Refusal as refusal:
            await fault(refusal.status, str(refusal))(scope, receive, send)
            return
        except TerrafuseError as error:
            await _cannot_show(Request(scope), error)(scope, receive, send)
            return
        if not slash:  # addresses of the page are relative
            await RedirectResponse(f"{scope['path']}/", 307)(scope, receive, send)
            return
        root = f"{scope.get('root_path', '')}/{id}"
        await app({**scope, "root_path": root}, receive, send)

    def _find(self, id: str, request: Request) -> ASGIApp:
        user = current_user(request)
        folder = self._service.finished(id, user)
        title = self._service.job(id, user).title or id
        with self._lock:
            if id not in self._apps:
                own = folder / VIEW if (folder / VIEW).is_dir() else folder
                self._apps[id] = _viewer(own, title)
            self._apps.move_to_end(id)
            while len(self._apps) > _MOST_VIEWERS:
                self._apps.popitem(last=False)
            return self._apps[id]


def _viewer(folder: Path, title: str) -> ASGIApp:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    answer_refusals(app)
    app.add_exception_handler(TerrafuseError, _cannot_show)
    collection = replace(find_subjects(folder), title=title)
    app.include_router(view_routes(Preparer(collection, hide=Veil({}))))
    app.include_router(page_routes())
    return app


def _cannot_show(_: Request, error: Exception) -> Response:
    """Say why, without paths of the server: nobody has named one here."""
    found = (code for kind, code in _STATUS if isinstance(error, kind))
    return fault(next(found, 422), Veil({})(str(error)))


def add_page(app: FastAPI) -> None:
    """Add the page of jobs: its files are known from the start."""
    folder = Path(str(resources.files("terrafuse.web"))) / "page"
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stem not in ("index", "viewer")
    }

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return _send("jobs.html")

    @app.get("/assets/{name}", include_in_schema=False)
    def file(name: str) -> Response:
        return _send(f"assets/{name}")

    def _send(name: str) -> Response:
        if name not in files:
            raise Refusal(404, "this installation has no page; /docs lists the addresses")
        return FileResponse(files[name], headers={"cache-control": "no-cache"})

"""The page of jobs, and the viewer on each finished map: `/view/{id}/`."""

from __future__ import annotations

import threading
from collections import OrderedDict
from importlib import resources
from pathlib import Path

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from terrafuse.web.access.users import current_user
from terrafuse.web.refusals import Refusal, fault
from terrafuse.web.service.answers import answer_errors
from terrafuse.web.service.folders import VIEW
from terrafuse.web.service.state import Service
from terrafuse.web.viewer.app import page_routes, view_routes
from terrafuse.web.viewer.preparing import Preparer
from terrafuse.web.viewer.subjects import find_subjects

#: Maps whose viewer is kept, as each may hold a model that says why.
_MOST_VIEWERS = 16


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
        if not slash:  # addresses of the page are relative
            await RedirectResponse(f"{scope['path']}/", 307)(scope, receive, send)
            return
        root = f"{scope.get('root_path', '')}/{id}"
        await app({**scope, "root_path": root}, receive, send)

    def _find(self, id: str, request: Request) -> ASGIApp:
        user = current_user(request)
        folder = self._service.finished(id, user)
        with self._lock:
            if id not in self._apps:
                self._apps[id] = _viewer(folder / VIEW if (folder / VIEW).is_dir() else folder)
            self._apps.move_to_end(id)
            while len(self._apps) > _MOST_VIEWERS:
                self._apps.popitem(last=False)
            return self._apps[id]


def _viewer(folder: Path) -> ASGIApp:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    answer_errors(app)
    app.include_router(view_routes(Preparer(find_subjects(folder))))
    app.include_router(page_routes())
    return app


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

"""The viewer on each finished map: `/view/{id}/`."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from terrafuse.errors import TerrafuseError
from terrafuse.web.access.users import current_user
from terrafuse.web.refusals import Refusal, fault
from terrafuse.web.service.folders import VIEW
from terrafuse.web.service.jobs import JobRow
from terrafuse.web.service.messages import JobRequest
from terrafuse.web.service.state import Service
from terrafuse.web.service.veil import Veil, names_given
from terrafuse.web.viewer.app import bare_viewer_app, status_of
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
        except TerrafuseError as error:
            await fault(status_of(error), Veil({})(str(error)))(scope, receive, send)
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
                self._apps[id] = self._viewer(folder, self._service.job(id, user))
            self._apps.move_to_end(id)
            while len(self._apps) > _MOST_VIEWERS:
                self._apps.popitem(last=False)
            return self._apps[id]

    def _viewer(self, folder: Path, row: JobRow) -> ASGIApp:
        """The viewer on a map, without labels; its messages name no path of the server."""
        collection = find_subjects(folder / VIEW if (folder / VIEW).is_dir() else folder)
        given = names_given(JobRequest.model_validate_json(row.request), json.loads(row.rasters))
        models = {place: name for name, place in self._service.shelf.places.items()}
        return bare_viewer_app(
            Preparer(
                replace(collection, title=row.title or f"Job {row.id}"),
                veil=Veil({**models, str(folder): "results", **given}),
            )
        )

"""The viewer's server: the page, its documents, its rasters by range requests.

Files are found by ids only: no part of an address is ever a path of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from terrafuse.errors import (
    DataError,
    InUseError,
    MissingDependencyError,
    SceneNotFoundError,
    TerrafuseError,
    cut,
)
from terrafuse.web.viewer.document import ViewIndex
from terrafuse.web.viewer.preparing import NotReadyError, Preparer
from terrafuse.web.viewer.scenes import Shown, check_pixel

#: What the page may load and do: its own files, and pictures that it makes itself.
HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; worker-src 'self' blob:; "
        "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
#: Hosts that stand for every address of the machine.
EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_TIFF = "image/tiff"
_RANGES = re.compile(
    r"bytes=\s*(\d{1,18}-\d{0,18}|-\d{1,18})(\s*,\s*(\d{1,18}-\d{0,18}|-\d{1,18})){0,31}"
)
_STATUS: tuple[tuple[type[TerrafuseError], int], ...] = (
    (SceneNotFoundError, 404),
    (NotReadyError, 409),
    (InUseError, 409),
    (MissingDependencyError, 501),
)
_PLACEHOLDER = (
    "<!doctype html><meta charset=utf-8><title>terrafuse</title><p>The page is not part of this "
    "installation. Its documents are there: <a href=index.json>index.json</a>."
)


def create_viewer_app(
    preparer: Preparer,
    *,
    host: str = "127.0.0.1",
    routers: Sequence[APIRouter] = (),
    middleware: Sequence[Middleware] = (),
) -> FastAPI:
    """The server of a page.

    Args:
        preparer: Of its scenes.
        host: Name under which it may be asked for, beside those of loopback.
        routers: Further routes, such as those that take labels.
        middleware: Inside the check of hosts, such as one of tokens.
    """
    app = FastAPI(
        title="terrafuse view", docs_url=None, redoc_url=None, openapi_url=None,
        middleware=[Middleware(Guard, host=host), *middleware],
    )  # fmt: skip
    app.add_exception_handler(TerrafuseError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_http)
    app.add_exception_handler(RequestValidationError, _refuse_values)
    for router in routers:
        app.include_router(router)
    app.include_router(view_routes(preparer))
    app.include_router(page_routes())
    return app


def view_routes(preparer: Preparer) -> APIRouter:
    """Routes of the documents and rasters of scenes."""
    router = APIRouter()

    @router.get("/index.json")
    def index() -> ViewIndex:
        return preparer.index()

    @router.get("/v/{id}/view.json")
    def view(id: str) -> JSONResponse:
        shown = preparer.ready(id)
        return JSONResponse(shown.view.model_dump(mode="json"))

    @router.post("/v/{id}/make")
    def begin(id: str) -> dict[str, Any]:
        return dict(preparer.begin(id))

    @router.get("/v/{id}/make")
    def progress(id: str) -> dict[str, Any]:
        return dict(preparer.progress(id))

    @router.api_route("/v/{id}/rasters/{name}", methods=["GET", "HEAD"])
    def raster(id: str, name: str, request: Request) -> Response:
        path = _raster_of(preparer.ready(id), name)
        if path is None:
            return _answer(404, f"scene '{id}' has no such raster")
        if not path.is_file():
            return _answer(
                404, f"the raster '{name}' was removed meanwhile. Start the viewer again"
            )
        wanted = request.headers.get("range")
        if wanted is not None and not _is_range(wanted):
            return _answer(416, f"'{cut(wanted)}' is no range of bytes, such as bytes=0-1023")
        return FileResponse(path, media_type=_TIFF, headers={"cache-control": "no-cache"})

    @router.get("/v/{id}/places/{name}")
    def thumbnail(id: str, name: str) -> Response:
        picture = preparer.ready(id).thumbnail(f"places/{name}")
        if picture is None:
            return _answer(404, f"scene '{id}' has no such place")
        return Response(picture, media_type="image/png")

    @router.get("/v/{id}/pixel")
    def pixel(id: str, row: int = Query(), col: int = Query()) -> JSONResponse:
        return JSONResponse(preparer.ready(id).values(row, col))

    @router.get("/v/{id}/why")
    def why(id: str, row: int = Query(), col: int = Query()) -> JSONResponse:
        subject, shown = preparer.subject(id), preparer.ready(id)
        check_pixel(shown.view, row, col)
        if subject.explainer is None or subject.as_trained is None:
            raise DataError(
                "the model that made this map is not known or not there, so that it cannot say "
                "why. Look at the run itself: terrafuse view RUN"
            )
        found = subject.explainer.explain(id, subject.as_trained, row, col)
        return JSONResponse(found.model_dump(mode="json"))

    return router


def page_routes() -> APIRouter:
    """Routes of the page's own files, all of which are known from the start."""
    router = APIRouter()
    files = page_files()

    @router.get("/")
    def page() -> Response:
        if "index.html" not in files:
            return Response(_PLACEHOLDER, media_type="text/html; charset=utf-8")
        return FileResponse(files["index.html"])

    @router.get("/{name:path}")
    def file(name: str) -> Response:
        if name not in files:
            return _answer(404, "there is no such page")
        return FileResponse(files[name], headers={"cache-control": "no-cache"})

    return router


def page_files() -> dict[str, Path]:
    """The built page: address → file; none where it is not installed.

    The page of jobs, which lies beside it, is the service's.
    """
    folder = Path(str(resources.files("terrafuse.web"))) / "page"
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stem != "jobs"
    }


def _raster_of(shown: Shown, name: str) -> Path | None:
    layer, dot, end = name.rpartition(".")
    return shown.rasters.get(layer) if dot and end == "tif" else None


def _is_range(text: str) -> bool:
    """Tell whether a header names ranges of bytes, none of which ends before it begins."""
    if not _RANGES.fullmatch(text):
        return False
    pairs = (one.strip().split("-") for one in text.partition("=")[2].split(","))
    return all(not (first and last) or int(first) <= int(last) for first, last in pairs)


def _answer(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status_code=status)


def _refuse(request: Request, error: Exception) -> JSONResponse:
    """The product's own message; a failure to read or write is the server's."""
    del request
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 400)
    return JSONResponse({"error": str(error)}, status_code=status)


def _refuse_http(request: Request, error: Exception) -> JSONResponse:
    del request
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    return JSONResponse({"error": f"{error.detail}"}, error.status_code, headers)


def _refuse_values(request: Request, error: Exception) -> JSONResponse:
    del request
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _answer(422, f"'{first['loc'][-1]}': {first['msg']}. Give whole numbers: ?row=0&col=0")


class Guard:
    """Refuses what comes from pages of others, and adds the headers of every answer.

    A page of another site can have its name lead to this machine (DNS rebinding); its requests then
    name that site as their host, and are refused, as are changes that another origin asks for.

    Args:
        app: What is guarded.
        host: Name that is allowed beside those of loopback; one that stands for every address of
            the machine allows any.
    """

    def __init__(self, app: ASGIApp, host: str = "127.0.0.1") -> None:
        self._app = app
        self._hosts = None if host in EVERYWHERE else _LOOPBACK | {host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {key.lower() for key, _ in message["headers"]}
                own = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                added = [(key, value) for key, value in own if key not in given]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        reason = self._reason(scope)
        if reason:
            refusal = JSONResponse({"error": reason}, status_code=403)
            await refusal(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _reason(self, scope: Scope) -> str:
        """Why a request is refused, or ""."""
        headers = {key.decode("latin-1"): v.decode("latin-1") for key, v in scope["headers"]}
        host = headers.get("host", "")
        if self._hosts is not None and _name_of(host) not in self._hosts:
            return "this server does not go by that name. Open the address that it printed"
        if scope["method"] not in _SAFE:
            origin = headers.get("origin")
            if origin is not None and origin.partition("://")[2] != host:
                return "changes are taken from this server's own page only"
            if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
                return "changes are taken from this server's own page only"
        return ""


def _name_of(host: str) -> str:
    """The host without its port, in lower case."""
    if host.startswith("["):
        name, end, _ = host[1:].partition("]")
        return name.lower() if end else ""
    return host.partition(":")[0].lower()

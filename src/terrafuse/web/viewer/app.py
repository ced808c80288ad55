"""The viewer's server: the page, its documents, its rasters by range requests.

Files are found by ids only: no part of an address is ever a path of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from terrafuse.errors import (
    DataError,
    InUseError,
    MissingDependencyError,
    SceneNotFoundError,
    TerrafuseError,
    cut,
)
from terrafuse.web.access.protect import protect
from terrafuse.web.access.settings import Access
from terrafuse.web.sent_files import SentFile
from terrafuse.web.viewer.document import ViewIndex
from terrafuse.web.viewer.preparing import NotReadyError, Preparer
from terrafuse.web.viewer.scenes import Shown, check_pixel

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
    preparer: Preparer, access: Access | None = None, *, routers: Sequence[APIRouter] = ()
) -> FastAPI:
    """The server of a page.

    Args:
        preparer: Of its scenes.
        access: Who may ask; default: programs of this machine.
        routers: Further routes, such as those that take labels.

    Raises:
        ConfigError: The file of tokens cannot be used.
    """
    app = FastAPI(title="terrafuse view", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(TerrafuseError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_http)
    app.add_exception_handler(RequestValidationError, _refuse_values)
    for router in routers:
        app.include_router(router)
    app.include_router(view_routes(preparer))
    protect(app, access or Access())
    app.include_router(page_routes())  # last: it takes every address that is left
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
        wanted = request.headers.get("range")
        if wanted is not None and not _is_range(wanted):
            return _answer(416, f"'{cut(wanted)}' is no range of bytes, such as bytes=0-1023")
        answer = SentFile(path, media_type=_TIFF, headers={"cache-control": "no-cache"})
        answer.gone = f"the raster '{name}' was removed meanwhile. Start the viewer again"
        return answer

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

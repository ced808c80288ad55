"""The viewer's server: the page, its documents, its rasters by range requests.

Files are found by ids only: no part of an address is ever a path of this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from terrafuse.data.painted import StalePolygonsError
from terrafuse.errors import (
    DataError,
    LabelError,
    MissingDependencyError,
    OutputError,
    SceneNotFoundError,
    TerrafuseError,
)
from terrafuse.web.access.protect import protect
from terrafuse.web.access.settings import Access
from terrafuse.web.built_page import page_routes
from terrafuse.web.ranges import send_file
from terrafuse.web.refusals import Refusal, answer_refusals, fault
from terrafuse.web.viewer.document import ViewIndex
from terrafuse.web.viewer.preparing import NotReadyError, Preparer
from terrafuse.web.viewer.shown import Shown, check_pixel

#: Error → status of its answer; the first that fits counts. Others are 400.
_STATUS: tuple[tuple[type[TerrafuseError], int], ...] = (
    (SceneNotFoundError, 404),
    (NotReadyError, 409),
    (StalePolygonsError, 412),
    (OutputError, 409),
    (LabelError, 422),
    (MissingDependencyError, 501),
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
    app = bare_viewer_app(preparer, routers)
    protect(app, access or Access())
    return app


def bare_viewer_app(preparer: Preparer, routers: Sequence[APIRouter] = ()) -> FastAPI:
    """The server of a page, without access control: within an app that has it."""
    app = FastAPI(title="terrafuse view", docs_url=None, redoc_url=None, openapi_url=None)
    answer_errors(app, preparer.veil)
    for router in (*routers, view_routes(preparer), page_routes("index.html", "index.json")):
        app.include_router(router)
    return app


def answer_errors(app: FastAPI, veil: Callable[[str], str] = str) -> None:
    """Have an app answer errors with the product's own message.

    Args:
        veil: Makes of a message what those who look at the page may read.
    """

    def refuse(_: Request, error: Exception) -> JSONResponse:
        return fault(status_of(error), veil(str(error)))

    answer_refusals(app)
    app.add_exception_handler(TerrafuseError, refuse)
    app.add_exception_handler(RequestValidationError, _refuse_values)


def status_of(error: Exception) -> int:
    """The status that tells browsers of an error of ours."""
    return next((code for kind, code in _STATUS if isinstance(error, kind)), 400)


def view_routes(preparer: Preparer) -> APIRouter:
    """Routes of the documents of scenes, of their files, and of single pixels."""
    router = APIRouter()
    for part in (_document_routes, _file_routes, _pixel_routes):
        router.include_router(part(preparer))
    return router


def _document_routes(preparer: Preparer) -> APIRouter:
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

    return router


def _file_routes(preparer: Preparer) -> APIRouter:
    router = APIRouter()

    @router.api_route("/v/{id}/rasters/{name}", methods=["GET", "HEAD"])
    def raster(id: str, name: str, request: Request) -> Response:
        path = _raster_of(preparer.ready(id), name)
        if path is None:
            raise Refusal(404, f"scene '{id}' has no such raster")
        gone = f"the raster '{name}' was removed meanwhile. Start the viewer again"
        return send_file(request, path, "image/tiff", {"cache-control": "no-cache"}, gone=gone)

    @router.get("/v/{id}/places/{name}")
    def thumbnail(id: str, name: str) -> Response:
        picture = preparer.ready(id).thumbnail(f"places/{name}")
        if picture is None:
            raise Refusal(404, f"scene '{id}' has no such place")
        return Response(picture, media_type="image/png")

    return router


def _pixel_routes(preparer: Preparer) -> APIRouter:
    router = APIRouter()

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


def _raster_of(shown: Shown, name: str) -> Path | None:
    layer, dot, end = name.rpartition(".")
    return shown.rasters.get(layer) if dot and end == "tif" else None


def _refuse_values(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return fault(422, f"'{first['loc'][-1]}': {first['msg']}. Give whole numbers: ?row=0&col=0")

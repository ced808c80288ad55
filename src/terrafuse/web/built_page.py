"""Files of the built page: `index.html` is the viewer, `jobs.html` the page of the service."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, Response

#: Page → stems of the files that only the other one needs.
_OF_OTHERS = {"index.html": ("jobs",), "jobs.html": ("index", "viewer")}
_PLACEHOLDER = (
    "<!doctype html><meta charset=utf-8><title>terrafuse</title><p>The page is not part of this "
    "installation. <a href={0}>{0}</a> is there."
)
# An installation that is updated has other files of the same names.
_FRESH = {"cache-control": "no-cache"}

Page = Literal["index.html", "jobs.html"]


def page_files(page: Page) -> dict[str, Path]:
    """The files of a page: address → file; none where it is not installed."""
    folder = Path(str(resources.files("terrafuse.web"))) / "page"
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stem not in _OF_OTHERS[page]
    }


def page_routes(page: Page, elsewhere: str) -> APIRouter:
    """Routes of a page and its files, all of which are known from the start.

    Args:
        page: Shown at `/`.
        elsewhere: What an installation without the page has instead, relative to it.
    """
    router = APIRouter(include_in_schema=False)
    files = page_files(page)

    @router.get("/")
    def show() -> Response:
        if page not in files:
            return HTMLResponse(_PLACEHOLDER.format(elsewhere))
        return FileResponse(files[page], headers=_FRESH)

    for name in files:
        router.add_api_route(f"/{name}", _sending(files[name]), methods=["GET"])
    return router


def _sending(path: Path) -> Callable[[], Response]:
    def send() -> Response:
        return FileResponse(path, headers=_FRESH)

    return send

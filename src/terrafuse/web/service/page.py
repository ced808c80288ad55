"""The page of the service: its built files, what it lets people choose, and who they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from fastapi.responses import FileResponse

from terrafuse.web.service.files import files_router
from terrafuse.web.service.messages import Message
from terrafuse.web.service.refusals import Refusal
from terrafuse.web.service.users import LOCAL, User, current_user

_PAGE = "jobs.html"
#: Of the page's own files; those of the viewer lie in the same folder.
_FILES = ("assets/jobs.js", "assets/jobs.css", "THIRD_PARTY.txt")
_NOT_BUILT = (
    "<!doctype html><html lang=en><meta charset=utf-8><title>terrafuse</title><p>The page is not "
    'part of this installation; <a href="docs">the addresses</a> are. Build it: make web'
)


class Asker(Message):
    """Who asks.

    Args:
        name: Of the token; "local" without tokens.
        may: Of "priority", "upload", "urls".
        has_session: Whether there is anything to sign out of.
    """

    name: str
    may: tuple[str, ...]
    has_session: bool


def page_router(roots: Sequence[Path]) -> APIRouter:
    """Routes of the page.

    Args:
        roots: Folders whose rasters may be named in requests.
    """
    router = APIRouter()
    folder = Path(str(resources.files("terrafuse.web"))) / "page"

    @router.get("/", include_in_schema=False)
    def show_page() -> Response:
        if not (folder / _PAGE).is_file():
            return Response(_NOT_BUILT, media_type="text/html")
        return FileResponse(folder / _PAGE, headers={"Cache-Control": "no-cache"})

    @router.get("/jobs.html", include_in_schema=False)
    def show_page_by_name() -> Response:
        return show_page()

    for name in _FILES:
        router.add_api_route(f"/{name}", _file_route(folder / name), include_in_schema=False)

    @router.get("/api/me")
    def show_asker(user: Annotated[User, Depends(current_user)]) -> Asker:
        """Who asks, and what they may."""
        has_session = user.name != LOCAL.name
        return Asker(name=user.name, may=tuple(sorted(user.may)), has_session=has_session)

    router.include_router(files_router(roots))
    return router


def _file_route(path: Path) -> Callable[[], Response]:
    """A route of its own for each file: no text of a request becomes a path."""

    def show_file() -> Response:
        if not path.is_file():
            raise Refusal(
                404, f"'{path.name}' is not part of this installation. Build it: make web"
            )
        return FileResponse(path, headers={"Cache-Control": "no-cache"})

    return show_file

"""The addresses of the service's page."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient
from starlette.middleware.base import RequestResponseEndpoint

from terrafuse.web.access.tokens import User
from terrafuse.web.built_page import page_routes
from terrafuse.web.service.answers import answer_errors
from terrafuse.web.service.asker import asker_router


def _client(user: User | None = None) -> TestClient:
    app = FastAPI()
    app.include_router(asker_router(("data.org",)))
    app.include_router(page_routes("jobs.html", "docs"))
    answer_errors(app)

    @app.middleware("http")
    async def know(request: Request, call_next: RequestResponseEndpoint) -> Response:
        if user is not None:
            request.state.user = user
        return await call_next(request)

    return TestClient(app)


def test_the_page_and_its_files_are_served_and_nothing_else() -> None:
    client = _client()
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert 'src="assets/jobs.js"' in page.text
    assert client.get("/assets/jobs.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/assets/jobs.css").headers["content-type"].startswith("text/css")
    for address in ("/index.html", "/assets/", "/assets/..%2fjobs.html", "/assets/viewer.js"):
        assert client.get(address).status_code == 404
    assert client.post("/").status_code == 405


def test_the_page_knows_who_asks_and_what_they_may_name() -> None:
    assert _client().get("/api/me").json() == {
        "name": "local",
        "may": ["all", "priority", "upload", "urls"],
        "url_hosts": ["data.org"],
        "has_session": False,
    }
    ann = _client(User("ann", frozenset(("upload",)))).get("/api/me").json()
    assert ann == {"name": "ann", "may": ["upload"], "url_hosts": [], "has_session": True}

"""The viewer's server: documents, ranges of rasters, and what it refuses."""

from __future__ import annotations

import io
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra web is not installed")

import uvicorn
from fastapi.testclient import TestClient
from PIL import Image

from terrafuse.errors import ConfigError, OutputError
from terrafuse.stopping import Stopped
from terrafuse.web.access.guard import SECURITY_HEADERS
from terrafuse.web.access.settings import Access
from terrafuse.web.access.tokens import add_token
from terrafuse.web.built_page import page_files
from terrafuse.web.viewer import scenes
from terrafuse.web.viewer.document import View, ViewIndex
from terrafuse.web.viewer.serving import open_viewer, serve_view
from viewed import SIDE, make_scene, write_map

ADDRESS = "http://127.0.0.1:8765"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map with the scene that it is of."""
    folder = tmp_path_factory.mktemp("viewed")
    make_scene(folder / "data")
    write_map(folder / "map", np.eye(SIDE), confidence=np.arange(SIDE**2).reshape(SIDE, -1) % 255)
    return folder


@pytest.fixture(scope="module")
def client(shown: Path) -> TestClient:
    _, app = open_viewer(shown / "map", scenes=[f"{shown / 'data' / 'dataset.yaml'}#a"])
    return TestClient(app, base_url=ADDRESS)


def test_documents_are_of_the_contract(client: TestClient) -> None:
    index = ViewIndex.model_validate(client.get("/index.json").json())
    (entry,) = index.views
    assert (entry.id, entry.state, index.is_static) == ("map", "ready", False)
    view = View.model_validate(client.get(f"/{entry.href}").json())
    assert view.labelling is not None
    for layer in view.layers:
        answer = client.head(f"/v/map/{layer.href}")
        assert answer.status_code == 200
        assert answer.headers["accept-ranges"] == "bytes"
    picture = client.get(f"/v/map/{view.places[0].places[0].thumbnail}")
    assert picture.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(picture.content)).size == (196, 96)


def test_rasters_come_by_ranges(client: TestClient, shown: Path) -> None:
    content = (shown / "map" / "confidence.tif").read_bytes()
    href = "/v/map/rasters/confidence.tif"
    assert client.get(href).content == content
    for text, first, part in (
        ("bytes=0-99", 0, content[:100]),
        ("bytes=7-7", 7, content[7:8]),
        ("bytes=100-", 100, content[100:]),
        ("bytes=-10", len(content) - 10, content[-10:]),
        (f"bytes=5-{10**9}", 5, content[5:]),
    ):
        answer = client.get(href, headers={"range": text})
        assert answer.status_code == 206
        assert answer.content == part
        last = first + len(part) - 1
        assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(content)}"
    for text in (f"bytes={len(content)}-", "bytes=5-2", "bytes=a-b", "rows=0-1", "bytes=", "x"):
        answer = client.get(href, headers={"range": text})
        assert answer.status_code == 416, text


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc/passwd",
        "//etc/passwd",
        "/v/map/rasters/..%2fclass_map.tif",
        "/v/map/rasters/%2fetc%2fpasswd",
        "/v/map/rasters/class_map.tif%00",
        "/v/map/rasters/class_map.tif.aux.xml",
        "/v/map/rasters/prediction.json",
        "/v/map/places/..%2f..%2fclass_map.tif",
        "/v/%2e%2e/view.json",
        "/v/..%5c..%5cmap/view.json",
        "/v/none/view.json",
        "/v/none/make",
        "/page/index.html",
        "/jobs.html",
    ],
)
def test_no_address_is_a_path(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert list(answer.json()) == ["error"]
    assert "/viewed" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost", "[::1]:8765", "LOCALHOST:1"])
def test_hosts_of_loopback_are_served(client: TestClient, host: str) -> None:
    assert client.get("/index.json", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "", "[::1", "10.0.0.1"]
)
def test_names_of_others_are_refused(client: TestClient, host: str) -> None:
    answer = client.get("/index.json", headers={"host": host})
    assert answer.status_code == 421
    assert "Call it by the address that it printed" in answer.json()["error"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_others_are_let_in_by_token(shown: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"terrafuse token add NAME"):
        serve_view(shown / "map", host="0.0.0.0", browser=False)
    tokens = tmp_path / "tokens.json"
    token, _ = add_token(tokens, "ann")
    _, app = open_viewer(shown / "map", Access("0.0.0.0", ("maps.lan",), tokens))
    own = TestClient(app, base_url="http://maps.lan:8765", follow_redirects=False)
    for path in ("/index.json", "/v/map/rasters/class_map.tif", "/", "/assets/viewer.js"):
        assert own.get(path).status_code == 401, path
    assert own.get("/", headers={"accept": "text/html"}).headers["location"] == "/login?next=/"
    assert own.post("/login", data={"token": token}).status_code == 303
    assert own.get("/index.json").status_code == 200
    assert own.get("/index.json", headers={"host": "other.lan"}).status_code == 421


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": ADDRESS, "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_changes_come_from_the_own_page(
    client: TestClient, headers: dict[str, str], status: int
) -> None:
    assert client.post("/v/map/make", headers=headers).status_code == status


def test_every_answer_has_the_headers_and_none_allows_others(client: TestClient) -> None:
    for path in ("/", "/index.json", "/v/map/rasters/class_map.tif", "/none", "/v/map/why?row=x"):
        answer = client.get(path, headers={"origin": "http://evil.example"})
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers[name] == value
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_values_outside_are_refused(client: TestClient) -> None:
    for query, status in (
        ("row=-1&col=0", 400),
        (f"row=0&col={SIDE}", 400),
        ("row=1e9&col=0", 422),
        ("row=0", 422),
        (f"row={10**30}&col=0", 400),
    ):
        answer = client.get(f"/v/map/pixel?{query}")
        assert answer.status_code == status, query
        assert list(answer.json()) == ["error"]
    assert client.put("/index.json").status_code == 405
    answer = client.get("/v/map/why?row=0&col=0")
    assert answer.status_code == 400
    assert "terrafuse view RUN" in answer.json()["error"]


def test_polygons_are_kept_beside_the_manifest(client: TestClient, shown: Path) -> None:
    view = client.get("/v/map/view.json").json()
    address = client.get("/v/map/view.json").url.join(view["labelling"]["href"])
    first = client.get(address)
    assert first.json()["features"] == []
    ring = [[10, 20], [30, 20], [30, 40], [10, 20]]
    body = {"type": "FeatureCollection", "features": [
        {"type": "Feature", "properties": {"id": "p1", "class": "ice"},
         "geometry": {"type": "Polygon", "coordinates": [ring]}},
    ]}  # fmt: skip
    assert client.put(address, json=body, headers={"if-match": "*"}).status_code == 200
    (feature,) = client.get(address).json()["features"]
    assert feature["properties"]["class"] == "ice"
    assert (shown / "data" / view["labelling"]["file"]).exists()


def test_a_body_has_a_limit_that_polygons_of_a_scene_keep(shown: Path) -> None:
    apps: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "terrafuse.web.viewer.serving.run_app", lambda app, *_, **__: apps.append(app)
        )
        scene = f"{shown / 'data' / 'dataset.yaml'}#a"
        serve_view(shown / "map", scenes=[scene], port=0, browser=False, say=lambda _: None)
    own = TestClient(apps[0], base_url=ADDRESS)
    for size, status in ((2 << 20, 400), ((64 << 20) + 1, 413)):
        headers = {"if-match": "*", "content-length": str(size)}
        answer = own.put("/paint/0/map/labels", content=b"no JSON", headers=headers)
        assert answer.status_code == status
        assert list(answer.json()) == ["error"]


def test_what_takes_long_is_asked_for(shown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terrafuse.web.viewer.preparing.SOON", 10)
    data = shown / "data"
    for path in (data / ".terrafuse" / "view").glob("*.tif"):
        path.unlink()
    preparer, app = open_viewer(data / "dataset.yaml")
    own = TestClient(app, base_url=ADDRESS)
    (entry,) = own.get("/index.json").json()["views"]
    assert (entry["state"], entry["make"]) == ("waiting", "v/a/make")
    waiting = {"state": "waiting", "done": 0, "total": 0, "error": None}
    assert own.get("/v/a/make").json() == waiting
    answer = own.get("/v/a/view.json")
    assert answer.status_code == 409
    assert "POST v/a/make" in answer.json()["error"]
    begun = threading.enumerate()
    own.post("/v/a/make")
    for thread in set(threading.enumerate()) - set(begun):
        thread.join(30)
    done = own.get("/v/a/make").json()
    assert done == {"state": "ready", "done": 2 * SIDE**2, "total": 2 * SIDE**2, "error": None}
    assert own.get("/v/a/view.json").status_code == 200
    assert own.get("/index.json").json()["views"][0]["state"] == "ready"
    assert preparer.progress("a")["state"] == "ready"


def test_what_fails_says_so(shown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terrafuse.web.viewer.preparing.SOON", -1)
    said: list[str] = []
    preparer, app = open_viewer(shown / "data" / "dataset.yaml", say=said.append)

    def fail(*_: Any) -> None:
        raise OutputError("the disk is full. Free space")

    monkeypatch.setattr(scenes.Plan, "show", fail)
    begun = threading.enumerate()
    preparer.begin("a")
    for thread in set(threading.enumerate()) - set(begun):
        thread.join(30)
    own = TestClient(app, base_url=ADDRESS)
    assert own.get("/v/a/make").json()["state"] == "failed"
    assert own.get("/v/a/make").json()["error"] == "the disk is full. Free space"
    assert said == ["a: the disk is full. Free space"]


def test_the_page_is_served(client: TestClient) -> None:
    files = page_files("index.html")
    assert "index.html" in files
    for name, path in files.items():
        assert client.get(f"/{name}").content == path.read_bytes()
    page = client.get("/")
    assert page.content == files["index.html"].read_bytes()
    assert page.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    ("host", "end"),
    [("127.0.0.1", KeyboardInterrupt()), ("0.0.0.0", Stopped(signal.SIGINT))],
)
def test_the_address_is_said_and_a_signal_ends_it(
    shown: Path, tmp_path: Path, host: str, end: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Any, sockets: Any) -> None:
        assert sockets[0].getsockname()[0] == host
        raise end

    monkeypatch.setattr(uvicorn.Server, "run", interrupted)
    said: list[str] = []
    tokens = tmp_path / "tokens.json"
    add_token(tokens, "ann")
    serve_view(shown / "map", host=host, tokens=tokens, port=0, browser=False, say=said.append)
    assert said[-1].startswith(f"map: http://{'localhost' if host == '0.0.0.0' else host}:")
    assert len(said) == (1 if host == "127.0.0.1" else 2)
    if len(said) == 2:
        assert "whoever has a token can look at these rasters" in said[0]

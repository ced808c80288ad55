"""What every request passes."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse
from starlette.testclient import TestClient

from terrafuse.web.access.guard import Buckets, host_names, presented_token
from terrafuse.web.access.protect import protect
from terrafuse.web.access.sessions import Sessions
from terrafuse.web.access.settings import Access
from terrafuse.web.access.tokens import User, add_token, remove_token
from terrafuse.web.access.users import current_user
from terrafuse.web.refusals import answer_refusals


def app_with(access: Access) -> FastAPI:
    app = FastAPI()
    answer_refusals(app)

    @app.get("/who")
    def who(user: Annotated[User, Depends(current_user)]) -> str:
        return user.name

    @app.get("/health")
    def health() -> str:
        return "ok"

    @app.get("/own")
    def own() -> PlainTextResponse:
        return PlainTextResponse("own", headers={"Content-Security-Policy": "default-src 'none'"})

    @app.post("/length")
    async def length(request: Request) -> int:
        return len(await request.body())

    @app.post("/json")
    def json(content: dict[str, Any]) -> int:
        return len(content)

    protect(app, access)
    return app


def client_of(access: Access, **given: Any) -> TestClient:
    given.setdefault("base_url", "http://127.0.0.1:8766")
    return TestClient(app_with(access), raise_server_exceptions=False, **given)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


@pytest.fixture
def local() -> TestClient:
    return client_of(Access(body_bytes=1000))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_loopback_without_tokens_is_one_user(local: TestClient) -> None:
    assert local.get("/who").json() == "local"
    assert local.get("/login").status_code == 404


def test_headers_of_every_answer(local: TestClient) -> None:
    for answer in (
        local.get("/who"),
        local.get("/nothing"),
        local.get("/who", headers={"Host": "evil.example"}),
        local.post("/length", content=b"x" * 2000),
        local.post("/length", headers={"Origin": "http://evil.example"}),
    ):
        headers = answer.headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "'unsafe" not in headers["content-security-policy"]
        assert "geolocation=()" in headers["permissions-policy"]
        assert not [name for name in headers if name.startswith("access-control-")]  # no CORS
    assert local.get("/own").headers.get_list("content-security-policy") == ["default-src 'none'"]


@pytest.mark.parametrize("host", ["127.0.0.1:8766", "localhost", "LOCALHOST:1", "[::1]:8766"])
def test_hosts_of_loopback(local: TestClient, host: str) -> None:
    assert local.get("/who", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "evil.example:8766",
        "", "127.0.0.1:abc", "127.0.0.1@evil.example", "evil@127.0.0.1", "127.0.0.1/x", "[::1",
        "192.168.1.3", "127.0.0.1, evil.example",
    ],
)  # fmt: skip
def test_hosts_of_others(local: TestClient, host: str) -> None:
    """A name of somebody else that leads to this machine (DNS rebinding)."""
    answer = local.get("/who", headers={"Host": host})
    assert answer.status_code == 421
    assert "Call it by the address that it printed" in answer.json()["error"]


def test_names_of_hosts(tokens: Path) -> None:
    """web.access.guard:HostCheck | start it with --name HOST"""
    secret, _ = add_token(tokens, "ana")
    assert host_names("maps.example.org") == {"maps.example.org"}
    assert "*" in host_names("0.0.0.0")
    every = client_of(Access(host="0.0.0.0", names=("Maps.example.org",), tokens=tokens))
    for host, status in {
        "maps.example.org": 200,
        "192.168.1.3:8766": 200,  # an address is nobody's name
        "[fe80::1]": 200,
        "evil.example": 421,
    }.items():
        answer = every.get("/who", headers={"Host": host, **bearer(secret)})
        assert answer.status_code == status, host


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # a program
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:8766"}, 200),
        ({"Origin": "http://127.0.0.1:8766"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),  # another port of this machine
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:9000"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:8766.evil.example"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"}, 403),
    ],
)
def test_changes_asked_for_by_other_pages(
    local: TestClient, headers: dict[str, str], status: int
) -> None:
    answer = local.post("/length", content=b"abc", headers=headers)
    assert answer.status_code == status
    assert local.get("/who", headers=headers).status_code == 200
    if status == 403:
        assert "another origin cannot change anything" in answer.json()["error"]


def test_bodies_are_limited_by_what_they_say_and_send(local: TestClient) -> None:
    def pieces(count: int) -> Iterator[bytes]:
        for _ in range(count):
            yield b"x" * 100

    assert local.post("/length", content=b"x" * 1000).json() == 1000
    assert local.post("/length", content=pieces(10)).json() == 1000
    for answer in (
        local.post("/length", content=b"x" * 1001),
        local.post("/length", content=pieces(11)),  # without Content-Length
        local.post("/json", content=pieces(11)),
        local.post("/length", content=b"x", headers={"Content-Length": "9" * 30}),
    ):
        assert answer.status_code == 413
        assert answer.json() == {
            "error": "a request may have 1,000 bytes, and this one is longer. Send less"
        }
    wrong = local.post("/length", content=b"x", headers={"Content-Length": "-1"})
    assert wrong.status_code == 400
    assert "Send the body's length" in wrong.json()["error"]


def test_uploads_may_be_longer() -> None:
    client = client_of(Access(body_bytes=10, upload_bytes=2000))
    assert client.post("/api/uploads", content=b"x" * 2000).status_code == 404  # let through
    answer = client.post("/api/uploads", content=b"x" * 2001)
    assert answer.status_code == 413
    assert "an upload may have 2,000 bytes" in answer.json()["error"]
    assert client.post("/api/uploads/", content=b"x" * 11).status_code == 413


def test_tokens(tokens: Path) -> None:
    secret, _ = add_token(tokens, "ana")
    other, _ = add_token(tokens, "ben")
    client = client_of(Access(tokens=tokens))
    basic = base64.b64encode(f"anything:{other}".encode()).decode()
    assert client.get("/who", headers=bearer(secret)).json() == "ana"
    assert client.get("/who", headers={"Authorization": f"Basic {basic}"}).json() == "ben"
    assert client.get("/health").json() == "ok"
    for headers in (
        {},
        bearer(secret + "x"),
        bearer(""),
        {"Authorization": secret},
        {"Authorization": "Basic %%%"},
        {"Authorization": "Basic /////w=="},
        {"Cookie": f"terrafuse_session={secret}"},
        {"Cookie": "terrafuse_session=" + "\\" * 3},
    ):
        answer = client.get("/who", headers=headers)
        assert answer.status_code == 401, headers
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert "'terrafuse token add'" in answer.json()["error"]
    assert client.get("/who", params={"token": secret}).status_code == 401
    remove_token(tokens, "ana")
    assert client.get("/who", headers=bearer(secret)).status_code == 401
    tokens.chmod(0o666)
    answer = client.get("/who", headers=bearer(other))
    assert answer.status_code == 503
    assert str(tokens) not in answer.text


def test_strangers_are_slowed_down(tokens: Path) -> None:
    secret, _ = add_token(tokens, "ana")
    client = client_of(Access(tokens=tokens))
    found = [client.get("/who", headers=bearer(f"tf_{i}")).status_code for i in range(25)]
    assert found[:20] == [401] * 20
    assert set(found[20:]) <= {401, 429}
    assert 429 in found[20:]
    assert client.get("/who", headers=bearer(secret)).json() == "ana"


def test_a_browser_gives_its_token_once(tokens: Path) -> None:
    secret, _ = add_token(tokens, "ana")
    client = client_of(Access(tokens=tokens), follow_redirects=False)
    sent = client.get("/who", headers={"Accept": "text/html"})
    assert sent.status_code == 303
    assert sent.headers["location"] == "/login?next=/who"
    page = client.get(sent.headers["location"])
    assert 'name="next" value="/who"' in page.text
    assert "style-src 'sha256-" in page.headers["content-security-policy"]
    wrong = client.post("/login", data={"token": "tf_wrong", "next": "/who"})
    assert wrong.status_code == 401
    assert "This is no token of this service." in wrong.text
    assert "set-cookie" not in wrong.headers
    right = client.post("/login", data={"token": secret, "next": "/who"})
    assert (right.status_code, right.headers["location"]) == (303, "/who")
    cookie = right.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Secure" not in cookie  # it would not come back over plain http
    assert secret not in cookie
    assert client.get("/who").json() == "ana"
    forged = client.post("/length", content=b"x", headers={"Origin": "http://evil.example"})
    assert forged.status_code == 403
    assert client.post("/logout").status_code == 303
    assert client.get("/who").status_code == 401


def test_over_tls_the_cookie_stays_there(tokens: Path) -> None:
    secret, _ = add_token(tokens, "ana")
    access = Access(host="0.0.0.0", names=("maps.example.org",), tokens=tokens)
    client = client_of(access, base_url="https://maps.example.org", follow_redirects=False)
    origin = {"Origin": "https://maps.example.org"}
    answer = client.post("/login", data={"token": secret}, headers=origin)
    assert "Secure" in answer.headers["set-cookie"]
    assert client.get("/who").json() == "ana"
    remove_token(tokens, "ana")  # its sessions go with a token
    assert client.get("/who").status_code == 401


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "///evil.example",
        "////evil.example/a",
        "http://evil.example",
        "/\\evil.example",
        "evil",
        "/a\nb",
        "javascript:x",
        "",
    ],
)
def test_a_login_leads_nowhere_else(tokens: Path, target: str) -> None:
    secret, _ = add_token(tokens, "ana")
    client = client_of(Access(tokens=tokens), follow_redirects=False)
    assert 'value="/"' in client.get("/login", params={"next": target}).text
    answer = client.post("/login", data={"token": secret, "next": target})
    assert answer.headers["location"] == "/"


def test_what_is_named_on_the_login_page_is_text(tokens: Path) -> None:
    add_token(tokens, "ana")
    page = client_of(Access(tokens=tokens)).get("/login", params={"next": '/"><script>x'})
    assert "<script" not in page.text


def test_sessions_end() -> None:
    now = 0.0
    sessions = Sessions(hours=1, clock=lambda: now)
    value = sessions.begin("ana")
    other = sessions.begin("ana")
    assert value != other
    assert sessions.name(value) == "ana"
    now = 3599
    assert sessions.name(value) == "ana"
    now = 3601
    assert sessions.name(value) is None
    assert sessions.name("") is None


def test_buckets_by_hand() -> None:
    now = 0.0
    buckets = Buckets(rate=2, burst=3, clock=lambda: now)
    assert [buckets.take("ana") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("ben") == 0  # everyone has their own
    now = 0.25
    assert buckets.take("ana") == 0.25
    now = 0.5
    assert buckets.take("ana") == 0
    now = 100  # never more than the burst
    assert [buckets.take("ana") for _ in range(4)] == [0, 0, 0, 0.5]


def test_buckets_forget_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terrafuse.web.access.guard._MOST_BUCKETS", 10)
    now = 0.0
    buckets = Buckets(rate=1, burst=2, clock=lambda: now)
    for i in range(8):
        buckets.take(f"old{i}")
    now = 60
    for i in range(3):
        buckets.take(f"new{i}")
    assert set(buckets._filled) == {"new0", "new1", "new2"}
    for i in range(100):
        buckets.take(f"many{i}")
    assert len(buckets._filled) <= 10


def test_requests_that_come_too_fast() -> None:
    """web.access.guard:_too_fast | ask less often"""
    client = client_of(Access(requests_per_second=0.001, burst=2))
    assert [client.get("/who").status_code for _ in range(2)] == [200, 200]
    answer = client.get("/who")
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 1
    assert "requests come too fast. Wait" in answer.json()["error"]
    assert client.get("/health").status_code == 200


def test_tokens_of_headers() -> None:
    assert presented_token("Bearer abc") == "abc"
    assert presented_token("bearer  abc ") == "abc"
    assert presented_token("Digest abc") is None
    assert presented_token("Basic " + base64.b64encode(b"user:a:b").decode()) == "a:b"


FOLLOWED = (
    "web.access.guard:SameOrigin | Open this server's own page",
    "web.access.guard:BodyLimit | Send the body's length",
    "web.access.guard:BodyLimit._too_long | and this one is longer. Send less",
    "web.access.guard:Authentication._refuse | Send one as",
    "web.access.users:current_user | Send one as",
)

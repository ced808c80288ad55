"""The page on serving: its curl lines and its Python, against a service that runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from made_runs import make_run
from made_service import make_worker, write_rasters
from terrafuse import api
from terrafuse.client import Client
from terrafuse.errors import ServiceError
from terrafuse.web.access.tokens import add_token
from terrafuse.web.service.app import create_service_app
from terrafuse.web.service.settings import ServiceSettings

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "serve.md"

pytestmark = pytest.mark.slow


@contextmanager
def serving(folder: Path, tokens: Path) -> Iterator[str]:
    """A service on loopback, with one worker in this process."""
    app = create_service_app(
        ServiceSettings(
            models=(str(folder / "run"),), data=folder / "data", roots=(folder / "rasters",),
            workers=0, tokens=tokens,
        )
    )  # fmt: skip
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=3)
    )
    ending = threading.Event()
    worker = make_worker(app.state.service, "worker")

    def work() -> None:
        while not ending.wait(0.05):
            worker.run_once()

    threads = [threading.Thread(target=target, daemon=True) for target in (server.run, work)]
    for thread in threads:
        thread.start()
    try:
        while not server.started:
            threads[0].join(0.01)
            assert threads[0].is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        ending.set()
        server.should_exit = True
        for thread in threads:
            thread.join()
        worker.database.close()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving")
    make_run(folder)
    write_rasters(folder / "rasters", 64)
    return folder


@pytest.fixture(scope="module")
def service(place: Path) -> Iterator[tuple[str, str]]:
    """Address and a token that may send rasters."""
    secret, _ = add_token(place / "tokens.json", "ana", may=["upload"])
    with serving(place, place / "tokens.json") as url:
        yield url, secret


def expected(place: Path, out: Path) -> bytes:
    rasters = {name: place / "rasters" / f"{name}.tif" for name in ("s1", "s2")}
    api.open_model(place / "run").predict(out, rasters=rasters)
    return (out / "class_map.tif").read_bytes()


@pytest.fixture
def desk(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, with a raster to send."""
    shutil.copy(place / "rasters" / "s1.tif", tmp_path / "s1.tif")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_pages_curl_lines(
    service: tuple[str, str], place: Path, desk: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    url, token = service
    (lines,) = blocks("sh")
    lines = lines.replace("python3 -c", f"{sys.executable} -c")
    found = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],
        cwd=desk, capture_output=True, text=True, timeout=120,
        env={**os.environ, "URL": url, "TOKEN": token, "no_proxy": "127.0.0.1"},
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    assert "event: end\ndata: done" in found.stdout
    assert '"tilejson":"3.0.0"' in found.stdout
    map_of_predict = expected(place, tmp_path_factory.mktemp("curl"))
    assert (desk / "class_map.tif").read_bytes() == map_of_predict


def test_the_pages_python(
    service: tuple[str, str],
    place: Path,
    desk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    url, token = service
    monkeypatch.setenv("TERRAFUSE_TOKEN", token)
    (code,) = blocks("python")
    assert "http://127.0.0.1:8766" in code
    exec(compile(code.replace("http://127.0.0.1:8766", url), "serve.md", "exec"), {})
    assert "1 of 1" in capsys.readouterr().out
    map_of_predict = expected(place, tmp_path_factory.mktemp("python"))
    assert (desk / "map" / "class_map.tif").read_bytes() == map_of_predict
    assert not [path for path in (desk / "map").iterdir() if path.name.startswith(".")]


def test_the_client_and_the_service_agree(
    service: tuple[str, str], place: Path, desk: Path
) -> None:
    """Refusals, removal, and what somebody without a token hears."""
    url, token = service
    client = Client(url, token)
    assert client.models()[0]["name"] == "run"
    with pytest.raises(ServiceError, match="is no file in the folders") as caught:
        client.submit({"s1": "none.tif", "s2": "s2.tif"})
    assert caught.value.status is not None
    assert 400 <= caught.value.status < 500
    (desk / "bad.tif").write_bytes(b"no raster")
    with pytest.raises(ServiceError, match=r"'bad\.tif' is none of the formats"):
        client.upload(desk / "bad.tif")
    job = client.submit({"s1": "s1.tif", "s2": "s2.tif"}, title="one", outputs=["areas"]).wait()
    assert job.id in {other.id for other in client.jobs(state="done")}
    assert "attempt 1 begins" in job.log()
    with pytest.raises(ServiceError) as caught:
        Client(url).job(job.id)
    assert caught.value.status == 401
    job.delete()
    with pytest.raises(ServiceError) as caught:
        job.refresh()
    assert caught.value.status == 404
    write_rasters(desk / "more", 8)
    name = client.upload(desk / "more" / "s2.tif")
    assert re.fullmatch(r"upload:[0-9a-f]{32}", name)

"""The client against a service that runs, with tokens."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from loopback import serving_app
from made_runs import make_run
from made_service import make_worker, write_rasters
from terrafuse.client import Client
from terrafuse.errors import ServiceError
from terrafuse.web.access.tokens import add_token
from terrafuse.web.service.app import create_service_app
from terrafuse.web.service.settings import ServiceSettings

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
    ending = threading.Event()
    worker = make_worker(app.state.service, "worker")

    def work() -> None:
        while not ending.wait(0.05):
            worker.run_once()

    thread = threading.Thread(target=work, daemon=True)
    with serving_app(app, lifespan="on") as address:
        thread.start()
        try:
            yield address.rstrip("/")
        finally:
            ending.set()
            thread.join()
            worker.database.close()


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


@pytest.fixture
def desk(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, with a raster to send."""
    shutil.copy(place / "rasters" / "s1.tif", tmp_path / "s1.tif")
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
    about = client._json("GET", job.record["tilejson"])
    tile = about["tiles"][0].format(z=0, x=0, y=0)
    request = Request(tile, headers={"Authorization": f"Bearer {token}"})
    with urlopen(request) as answer:
        assert answer.read(4) == b"\x89PNG"
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

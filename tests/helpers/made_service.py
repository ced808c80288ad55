"""A service of a small model, its worker, and a client, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from fastapi.testclient import TestClient
from rasterio.transform import from_origin

from terrafuse.web.service.app import create_service_app
from terrafuse.web.service.settings import ServiceSettings
from terrafuse.web.service.state import Service
from terrafuse.web.service.working import Heart, Worker, WorkerSettings

ADDRESS = "http://127.0.0.1:8766"


@dataclass
class MadeService:
    """What a test speaks to.

    Args:
        worker: Does a job when it is told to.
    """

    client: TestClient
    service: Service
    worker: Worker

    def submit(self, **request: Any) -> str:
        """Queue a job; its id."""
        answer = self.client.post("/api/jobs", json=request)
        assert answer.status_code == 201, answer.text
        id = str(answer.json()["id"])
        assert answer.headers["location"] == f"/api/jobs/{id}"
        return id

    def job(self, id: str) -> dict[str, Any]:
        """A job as it stands."""
        answer = self.client.get(f"/api/jobs/{id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def error(self, answer: Any, status: int) -> str:
        """The message of a refusal."""
        assert answer.status_code == status, answer.text
        assert set(answer.json()) == {"error"}
        return str(answer.json()["error"])


@contextmanager
def made_service(
    run: Path, data: Path, root: Path, *, token: str | None = None, **settings: Any
) -> Iterator[MadeService]:
    """Serve a run without worker processes.

    Args:
        token: That the client sends.
    """
    app = create_service_app(
        ServiceSettings(models=(str(run),), data=data, roots=(root,), workers=0, **settings)
    )
    service: Service = app.state.service
    worker = make_worker(service, "worker")
    headers = {"Authorization": f"Bearer {token}"} if token else None
    client = TestClient(app, base_url=ADDRESS, headers=headers, raise_server_exceptions=False)
    try:
        yield MadeService(client, service, worker)
    finally:
        client.close()
        worker.database.close()
        service.database.close()


def make_worker(service: Service, name: str) -> Worker:
    """A worker of a service, in this process."""
    return Worker(
        WorkerSettings(
            id=name,
            models=dict(service.shelf.places),
            data=str(service.settings.data.absolute()),
            database=service.settings.database_url,
            lease_seconds=service.settings.lease_seconds,
            url_hosts=service.settings.url_hosts,
        )
    )


def write_rasters(
    folder: Path, side: int, *, bands: tuple[int, int] = (4, 1), crs: str | None = "EPSG:32633"
) -> dict[str, str]:
    """Rasters of the modalities s2 and s1 of `make_run`; their names by modality."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(side)
    means = {"s2": (100.0, 10.0, bands[0]), "s1": (-10.0, 2.0, bands[1])}
    for name, (mean, spread, count) in means.items():
        with rasterio.open(
            folder / f"{name}.tif", "w", driver="GTiff", count=count, height=side, width=side,
            dtype="float32", crs=crs, transform=from_origin(500_000, 5_000_000, 10, 10),
        ) as file:  # fmt: skip
            file.write(rng.normal(mean, spread, (count, side, side)).astype(np.float32))
    return {name: f"{name}.tif" for name in means}


def write_vrt(raster: Path) -> Path:
    """A file of text beside a raster that names it by its whole path."""
    path = raster.with_suffix(".vrt")
    rasterio.shutil.copy(raster, path, driver="VRT")
    text = path.read_text()
    relative = f'relativeToVRT="1">{raster.name}<'
    assert relative in text
    path.write_text(text.replace(relative, f'relativeToVRT="0">{raster}<'))
    return path


def act_at_window(
    put: Callable[[Any, str, Any], None], number: int, act: Callable[[], Any]
) -> None:
    """Act when workers have run that many windows; they then ask whether they are to go on.

    Args:
        put: `monkeypatch.setattr`.
    """
    progress, left = Heart.progress, [number]

    def count(self: Heart, done: int, total: int) -> None:
        if total:
            left[0] -= 1
            if not left[0]:
                act()
                self.beat()
        progress(self, done, total)

    put(Heart, "progress", count)

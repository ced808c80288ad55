"""Requests of people who mean harm, or who have made a mistake: refused, and nothing stays."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from made_runs import make_run
from made_service import MadeService, made_service, write_rasters
from terrafuse.web.access.secrets import HideSecrets
from terrafuse.web.access.tokens import add_token

VRT = """<VRTDataset rasterXSize="64" rasterYSize="64"><SRS>EPSG:32633</SRS>
<GeoTransform>500000,10,0,5000000,0,-10</GeoTransform><VRTRasterBand dataType="Float32" band="1"
subClass="VRTRawRasterBand"><SourceFilename relativeToVRT="0">/etc/passwd</SourceFilename>
<ImageOffset>0</ImageOffset><PixelOffset>4</PixelOffset><LineOffset>256</LineOffset>
</VRTRasterBand></VRTDataset>"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, good rasters, a secret beside them, and traps among them."""
    folder = tmp_path_factory.mktemp("hostile")
    make_run(folder)
    good = folder / "rasters"
    write_rasters(good, 64)
    write_rasters(folder / "secret", 64)
    (good / "link.tif").symlink_to(folder / "secret" / "s1.tif")
    (good / "trap.vrt").write_text(VRT)
    (good / "trap.tif").write_text(VRT)  # GDAL goes by the content
    os.mkfifo(good / "pipe.tif")
    profile: dict[str, Any] = {"driver": "GTiff", "count": 1, "height": 64, "width": 64,
                               "dtype": "float32", "crs": "EPSG:32633"}  # fmt: skip
    pixels = np.zeros((1, 64, 64), np.float32)
    for name, transform, crs in (
        ("nan", Affine(float("nan"), 0, 0, 0, -10, 0), "EPSG:32633"),
        ("far", Affine(1e200, 0, 0, 0, -1e200, 0), "EPSG:32633"),
        ("engineering", Affine(10, 0, 5e5, 0, -10, 5e6), 'LOCAL_CS["here",UNIT["metre",1]]'),
        ("elsewhere", Affine(10, 0, -9e6, 0, -10, 9e7), "EPSG:32633"),
    ):
        with rasterio.open(
            good / f"{name}.tif", "w", **{**profile, "crs": crs, "transform": transform}
        ) as file:
            file.write(pixels)
    huge = {**profile, "height": 400_000, "width": 400_000, "blockxsize": 4096, "blockysize": 4096,
            "tiled": True, "SPARSE_OK": True, "compress": "deflate", "BIGTIFF": "YES"}  # fmt: skip
    with rasterio.open(good / "huge.tif", "w", transform=Affine(2, 0, 5e5, 0, -2, 5e6), **huge):
        pass
    return folder


@pytest.fixture
def served(place: Path, tmp_path: Path) -> Iterator[MadeService]:
    with made_service(place / "run", tmp_path / "data", place / "rasters") as found:
        yield found


def files(folder: Path) -> set[str]:
    """Everything below a folder, but the database, whose pages stay."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not path.name.startswith("jobs.sqlite")
    }


S2 = {"s2": "s2.tif"}
#: What is posted as a job → a part of the message.
JOBS: list[tuple[Any, str]] = [
    ({"rasters": {**S2, "s1": "../secret/s1.tif"}}, "'..' and names of other machines"),
    ({"rasters": {**S2, "s1": "..%2fsecret%2fs1.tif"}}, "is no file in the folders"),
    ({"rasters": {**S2, "s1": "/etc/passwd"}}, "is no file in the folders"),
    ({"rasters": {**S2, "s1": "/proc/self/environ"}}, "is no file in the folders"),
    ({"rasters": {**S2, "s1": "/dev/zero"}}, "is no file in the folders"),
    ({"rasters": {**S2, "s1": "s1.tif\0.png"}}, "without control characters"),
    ({"rasters": {**S2, "s1": "\\\\host\\share\\s1.tif"}}, "names of other machines"),
    ({"rasters": {**S2, "s1": "link.tif"}}, "is no file in the folders"),
    ({"rasters": {**S2, "s1": "pipe.tif"}}, "is a pipe or a device"),
    ({"rasters": {**S2, "s1": "trap.vrt"}}, "is none of the formats that are taken"),
    ({"rasters": {**S2, "s1": "trap.tif"}}, "is none of the formats that are taken"),
    ({"rasters": {**S2, "s1": VRT}}, "is no "),
    ({"rasters": {**S2, "s1": "/vsicurl/http://127.0.0.1:9/a.tif"}}, "is no address"),
    ({"rasters": {**S2, "s1": "http://127.0.0.1:9/a.tif"}}, "reads nothing from host"),
    ({"rasters": {**S2, "s1": "http://169.254.169.254/latest/meta-data"}}, "reads nothing from"),
    ({"rasters": {**S2, "s1": "file:///etc/passwd"}}, "is no address"),
    ({"rasters": {**S2, "s1": "upload:" + "0" * 32}}, "there is no upload"),
    ({"rasters": {**S2, "s1": "upload:../../x"}}, "there is no upload"),
    ({"rasters": {**S2, "s1": "nan.tif"}}, "lies nowhere"),
    ({"rasters": {**S2, "s1": "far.tif"}}, ""),
    ({"rasters": {**S2, "s1": "engineering.tif"}}, ""),
    ({"rasters": {**S2, "s1": "elsewhere.tif"}}, ""),
    ({"rasters": {**S2, "s1": "huge.tif"}}, "values are allowed. Cut it into parts"),
    ({"rasters": {**S2, "s1": ["s1.tif"] * 10_000}}, ""),
    ({"rasters": {"x" * 1000: "s1.tif"}}, ""),
    ({"rasters": {**S2, "s1": "s1.tif"}, "crop_size": 10**30}, "'crop_size'"),
    ({"rasters": {**S2, "s1": "s1.tif"}, "crop_size": -1}, "'crop_size'"),
    ({"rasters": {**S2, "s1": "s1.tif"}, "overlap": 65536}, ""),
    ({"rasters": {**S2, "s1": "s1.tif"}, "priority": 11}, "'priority'"),
    ({"rasters": {**S2, "s1": "s1.tif"}, "products": ["class_map"] * 33}, "'products'"),
    ({"rasters": {**S2, "s1": "s1.tif"}, "products": ["../x"]}, ""),
    ({"rasters": {**S2, "s1": "s1.tif"}, "model": "../run"}, ""),
    ({"rasters": {**S2, "s1": "s1.tif"}, "title": "x" * 201}, "'title'"),
    ({"rasters": {**S2, "s1": "s1.tif"}, "shell": "rm"}, "'shell'"),
    ({"item": "file:///etc/passwd"}, ""),
    ({}, ""),
    ([], ""),
    (None, ""),
    ("s1.tif", ""),
]


def test_jobs_that_are_refused(served: MadeService, place: Path) -> None:
    """One message each; no job, no file, and no path of the server but what was named."""
    data = served.service.settings.data
    before = files(data)
    for request, message in JOBS:
        answer = served.client.post("/api/jobs", json=request)
        assert 400 <= answer.status_code < 500, (request, answer.text)
        error = answer.json()["error"]
        assert message in error, request
        assert error
        assert "Traceback" not in error
        for secret in (str(place), str(data), "root:x:"):
            assert secret not in error, request
    assert files(data) == before
    assert served.client.get("/api/jobs").json()["jobs"] == []


BODIES = [
    b"", b"{", b"\xff\xfe", b"nan", b"[" * 50_000, b'{"rasters": NaN}', b'{"priority": 1e999}',
    b'{"rasters": {"s1": "a", "s1": "b"}}', b'{"crop_size": ' + b"9" * 10_000 + b"}",
    b'{"title": "\\ud800"}', b'{"model": "\\u0000"}',
]  # fmt: skip
TARGETS = [
    "/api/jobs/..%2f..%2fetc", "/api/jobs/%00", "/api/jobs/" + "x" * 5000,
    "/api/jobs/..%2f..%2fx/log", "/api/jobs/x/results/..%2f..%2fjobs.sqlite",
    "/api/models/..%2frun", "/api/jobs?limit=0", "/api/jobs?limit=1e9", "/api/jobs?cursor=x",
    "/api/jobs?state=dead", "/api/uploads/..%2f..%2fjobs.sqlite", "/view/../../etc/passwd",
    "/view/..%2f..%2fetc/passwd", "/view/%00/", "/..%2fjobs.sqlite", "/assets/..%2f..%2fx",
    "/static/../../../etc/passwd", "/api/files?path=../..", "/api/files?path=/etc",
    "/api/files?path=%00", "//etc/passwd", "/api/jobs/x/events", "/%ff%fe",
]  # fmt: skip


def test_bodies_that_are_no_request(served: MadeService) -> None:
    for body in BODIES:
        for kind in ("application/json", "text/plain", "application/xml", "multipart/form-data"):
            answer = served.client.post("/api/jobs", content=body, headers={"Content-Type": kind})
            assert 400 <= answer.status_code < 500, (kind, body[:20], answer.text)
            assert answer.json()["error"]


def test_addresses_that_lead_nowhere(served: MadeService, place: Path) -> None:
    for target in TARGETS:
        for method in ("GET", "POST", "DELETE", "PUT", "OPTIONS", "TRACE"):
            answer = served.client.request(method, target)
            assert 300 <= answer.status_code < 500, (method, target, answer.text)
            assert "root:" not in answer.text
            assert str(place) not in answer.text


def test_secrets_are_in_no_log(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A token in every place where people put one, and a failure that is logged."""
    secret, _ = add_token(tmp_path / "tokens.json", "ana", may=["upload", "urls"])
    caplog.set_level(logging.DEBUG)
    caplog.handler.addFilter(HideSecrets())
    with made_service(
        place / "run", tmp_path / "data", place / "rasters", tokens=tmp_path / "tokens.json",
        token=secret,
    ) as served:  # fmt: skip
        client = served.client
        assert client.get("/api/models").status_code == 200
        answers = [
            client.get("/api/models", params={"token": secret}),
            client.get(f"/api/jobs/{secret}"),
            client.post(
                "/api/jobs", json={"rasters": {"s1": f"http://a.example/x?token={secret}"}}
            ),
            client.post("/login", data={"token": secret}, follow_redirects=False),
            client.post("/api/uploads", content=b"x", params={"name": "x"}),
        ]
        logging.getLogger("terrafuse.serve").error("failed with %s", {"token": f"token={secret}"})
        assert answers[3].status_code == 303
    assert "failed with" in caplog.text
    assert secret not in caplog.text
    assert secret not in (tmp_path / "data" / "jobs.sqlite").read_bytes().decode("latin-1")


def test_a_job_says_nothing_to_others(place: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    made = {name: add_token(tokens, name)[0] for name in ("ana", "ben")}
    with made_service(
        place / "run", tmp_path / "data", place / "rasters", tokens=tokens, token=made["ana"]
    ) as served:
        id = served.submit(rasters={"s2": "s2.tif", "s1": "s1.tif"})
        ben = {"Authorization": f"Bearer {made['ben']}"}
        for method, target in (
            ("GET", ""), ("POST", "/cancel"), ("POST", "/resume"), ("DELETE", ""), ("GET", "/log"),
            ("GET", "/events"), ("GET", "/results/class_map.tif"), ("GET", "/tilejson.json"),
            ("GET", "/tiles/class_map/0/0/0.png"),
        ):  # fmt: skip
            answer = served.client.request(method, f"/api/jobs/{id}{target}", headers=ben)
            assert answer.status_code == 404, (method, target, answer.text)
        assert served.client.get(f"/view/{id}/", headers=ben).status_code == 404
        assert served.client.get("/api/jobs", headers=ben).json()["jobs"] == []
        # Its owner hears of it, and that there is no map yet.
        assert served.client.get(f"/api/jobs/{id}").json()["state"] == "queued"
        assert served.client.get(f"/api/jobs/{id}/tilejson.json").status_code == 409
        served.worker.run_once()
        for target in ("", "index.json", "v/scene/view.json", "v/scene/rasters/class_map.tif"):
            assert served.client.get(f"/view/{id}/{target}").status_code == 200, target
            answer = served.client.get(f"/view/{id}/{target}", headers=ben)
            assert answer.status_code == 404, target
            assert f"there is no job '{id}'" in served.error(answer, 404)
            stranger = served.client.get(f"/view/{id}/{target}", headers={"Authorization": ""})
            assert "no valid token" in served.error(stranger, 401)


@pytest.mark.slow
def test_schemathesis_finds_no_failure_of_the_server(place: Path, tmp_path: Path) -> None:
    """Requests made of the OpenAPI document, valid ones and others: none is answered by 5xx."""
    schemathesis = pytest.importorskip("schemathesis")
    with made_service(place / "run", tmp_path / "data", place / "rasters") as served:
        id = served.submit(rasters={"s2": "s2.tif", "s1": "s1.tif"})
        served.worker.run_once()
        document = json.loads(served.client.get("/openapi.json").text)
        schema = schemathesis.openapi.from_dict(document)
        # Without a worker, 503 is what /ready is for.
        operations = [
            operation
            for operation in (found.ok() for found in schema.get_all_operations())
            if operation.path != "/ready"
        ]
        assert len(operations) > 15
        seen: dict[tuple[str, str], int] = {}
        for operation in operations:
            for mode in schemathesis.GenerationMode:
                seen[operation.label, mode.name] = _try(served, operation, mode, id)
        print(seen)
        assert sum(seen.values()) > 20 * len(operations)


def _try(served: MadeService, operation: Any, mode: Any, id: str) -> int:
    """Send requests of an operation; returns how many."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable

    count = 0

    @settings(
        max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        nonlocal count
        if case.path_parameters and "id" in case.path_parameters and count % 2:
            case.path_parameters["id"] = id  # one that exists, with the rest of the request
        answer = _sent(served, case)
        count += 1
        assert answer.status_code < 500, (operation.label, answer.text[:500])
        if answer.status_code >= 400 and case.method != "HEAD":
            assert answer.json()["error"]

    with suppress(Unsatisfiable):  # nothing can be wrong in it
        ask()
    return count


def _sent(served: MadeService, case: Any) -> Any:
    """Send a case by the test's own client, whose Host header is right."""
    wanted = case.as_transport_kwargs(base_url=str(served.client.base_url).rstrip("/"))
    wanted.pop("cookies", None)
    headers = {
        name: value
        for name, value in dict(wanted.pop("headers", None) or {}).items()
        if name.lower() not in ("host", "user-agent")
    }
    data = wanted.pop("data", None)
    if isinstance(data, dict):
        wanted["data"] = data
    elif data is not None:
        wanted["content"] = data
    return served.client.request(headers=headers, **wanted)

"""Rasters that users send."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from fastapi import FastAPI, Request
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from starlette.testclient import TestClient

from range_server import serving
from terrafuse.errors import DataError
from terrafuse.web.access.tokens import User
from terrafuse.web.service import rasters
from terrafuse.web.service.answers import answer_errors
from terrafuse.web.service.rasters import Limits, check_raster
from terrafuse.web.service.uploads import Uploads, uploads_router

HERE = Affine(10, 0, 500000, 0, -10, 4200000)


def raster(driver: str = "GTiff", size: int = 40, **given: Any) -> bytes:
    """A raster whose pixels all differ."""
    profile: dict[str, Any] = {
        "driver": driver, "height": size - 8, "width": size, "count": 1, "dtype": "uint8",
        **given,
    }  # fmt: skip
    if driver == "GTiff":
        profile = {"crs": "EPSG:32633", "transform": HERE, **profile}
    pixels = np.arange(profile["count"] * (size - 8) * size).reshape(-1, size - 8, size) % 251
    with MemoryFile() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with file.open(**profile) as dataset:
            dataset.write(pixels.astype(profile["dtype"]))
        return bytes(file.getbuffer())


def bomb(height: int, width: int) -> bytes:
    """A PNG of a few bytes that declares many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 1)  # interlaced
    body = zlib.compress(b"\0" * 10_000, 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(
        tmp_path / "uploads", most_bytes=20_000, quota_bytes=30_000, spare_bytes=0,
        limits=Limits(samples=1_000_000, whole=100_000, bands=5),
    )  # fmt: skip


def served(uploads: Uploads) -> TestClient:
    """A client; the header X-User says who asks, X-May what is allowed."""
    app = FastAPI()
    answer_errors(app)
    app.include_router(uploads_router(uploads))

    @app.middleware("http")
    async def who(request: Request, call_next: Any) -> Any:
        may = frozenset(request.headers.get("x-may", "upload").split(","))
        request.state.user = User(request.headers.get("x-user", "ana"), may)  # type: ignore[arg-type]
        return await call_next(request)

    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def client(uploads: Uploads) -> TestClient:
    return served(uploads)


def left(uploads: Uploads) -> list[str]:
    """All files and folders below the uploads."""
    return sorted(str(path.relative_to(uploads.folder)) for path in uploads.folder.rglob("*"))


@pytest.mark.parametrize("driver", ["GTiff", "PNG", "JPEG", "JP2OpenJPEG"])
def test_rasters_are_kept_as_sent(client: TestClient, uploads: Uploads, driver: str) -> None:
    content = raster(driver)
    answer = client.post("/api/uploads", params={"name": "a b.tif"}, content=content)
    assert answer.status_code == 201, answer.text
    upload = answer.json()
    assert upload["name"] == "a b.tif"
    assert upload["bytes"] == len(content)
    assert upload["sha256"] == hashlib.sha256(content).hexdigest()
    assert answer.headers["location"] == f"/api/uploads/{upload['id']}"
    assert client.get(answer.headers["location"]).json() == upload
    assert client.get("/api/uploads").json() == [upload]
    path = uploads.path(User("ana"), f"upload:{upload['id']}")
    assert path.read_bytes() == content
    assert uploads.get(User("ana"), upload["id"]).name == "a b.tif"
    assert client.delete(answer.headers["location"]).status_code == 204
    assert client.get(answer.headers["location"]).status_code == 404
    assert client.get("/api/uploads").json() == []


def test_pieces_without_length(client: TestClient) -> None:
    content = raster(size=100)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(content), 777):
            yield content[start : start + 777]

    upload = client.post("/api/uploads", content=pieces()).json()
    assert upload["sha256"] == hashlib.sha256(content).hexdigest()
    assert upload["name"] == "raster"


@pytest.mark.parametrize(
    "name", ["../../x.tif", "/etc/passwd", "a\0b", "upload.json", "x" * 200, "\\\\h\\s", ".", "ß\n"]
)
def test_names_never_become_paths(client: TestClient, uploads: Uploads, name: str) -> None:
    answer = client.post("/api/uploads", params={"name": name}, content=raster())
    assert answer.status_code == 201
    id = answer.json()["id"]
    home = next(uploads.folder.iterdir()).name
    assert left(uploads) == [
        home, f"{home}/{id}", f"{home}/{id}/raster", f"{home}/{id}/upload.json",
    ]  # fmt: skip


def test_users_see_their_own(client: TestClient, uploads: Uploads) -> None:
    id = client.post("/api/uploads", content=raster()).json()["id"]
    ben = {"X-User": "ben"}
    assert client.get("/api/uploads", headers=ben).json() == []
    for answer in (
        client.get(f"/api/uploads/{id}", headers=ben),
        client.delete(f"/api/uploads/{id}", headers=ben),
    ):
        assert answer.status_code == 404
        assert "of ben" in answer.json()["error"]
    with pytest.raises(DataError, match="Send the raster again"):
        uploads.path(User("ben"), f"upload:{id}")
    assert client.get(f"/api/uploads/{id}").status_code == 200


@pytest.mark.parametrize("id", ["", "..", "%2e%2e", "..%2f..", "0" * 31, "A" * 32, "0" * 32, "%00"])
def test_ids_that_are_none(client: TestClient, uploads: Uploads, id: str) -> None:
    client.post("/api/uploads", content=raster())
    before = left(uploads)
    assert client.delete(f"/api/uploads/{id}").status_code in (404, 405, 307)
    assert left(uploads) == before
    with pytest.raises(DataError):
        uploads.path(User("ana"), f"upload:{id}")


def test_without_the_right(client: TestClient) -> None:
    """web.access.users:require | Ask whoever runs the service"""
    answer = client.post("/api/uploads", content=raster(), headers={"X-May": "urls"})
    assert answer.status_code == 403
    assert "does not allow rasters that are sent" in answer.json()["error"]
    answer = client.post("/api/uploads", content=raster(), headers={"X-May": "urls,upload"})
    assert answer.status_code == 201


VRT = b"""<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="Byte" band="1">
<SimpleSource><SourceFilename relativeToVRT="0">/etc/passwd</SourceFilename></SimpleSource>
</VRTRasterBand></VRTDataset>"""
WMS = b"<GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1:9/${z}</ServerUrl></Service>"


def damaged() -> bytes:
    content = bytearray(raster(size=60, compress="deflate"))
    with MemoryFile(bytes(content)) as file, file.open() as dataset:
        offset = int(dataset.tags(ns="TIFF", bidx=1).get("BLOCK_OFFSET_0_0", 0) or 0)
    start = offset or len(content) - 400
    content[start : start + 300] = b"\xff" * 300
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 422, "none of the formats that are taken: GeoTIFF"),
        (b"no raster", 422, "GeoTIFF (COG), PNG, JPEG, JPEG 2000. Convert it to one"),
        (VRT, 422, "none of the formats"),
        (WMS, 422, "none of the formats"),
        (b'{"type": "FeatureCollection", "features": []}', 422, "none of the formats"),
        (raster()[:60], 422, "is damaged: it begins as a GTiff file"),
        (raster("PNG", 90)[:200], 422, "Check that it is complete, and send it again"),
        (damaged(), 422, "is damaged: its pixels at row"),
        (bomb(60_000, 60_000), 422, "declares 60000 × 60000 pixels × 4 bands"),
        (bomb(2**31 - 1, 2**31 - 1), 422, "'x.tif'"),
        (raster(count=6), 422, "has 6 bands; send at most 5"),
        (raster(transform=Affine(float("nan"), 0, 0, 0, -1, 0)), 422, "'x.tif' lies nowhere"),
        (raster(transform=Affine(10, 0, 0, 0, 0, 0)), 422, "'x.tif' lies nowhere"),
        (b"x" * 20_001, 413, "an upload may have 20,000 bytes"),
    ],
    ids=["nothing", "text", "vrt", "wms", "geojson", "header", "cut", "damaged", "bomb",
         "huge", "bands", "nan", "flat", "long"],
)  # fmt: skip
def test_what_is_refused_leaves_nothing(
    client: TestClient, uploads: Uploads, content: bytes, status: int, message: str
) -> None:
    answer = client.post("/api/uploads", params={"name": "x.tif"}, content=content)
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert str(uploads.folder) not in answer.text
    assert left(uploads) == []


def test_sparse_tiffs_that_declare_too_much(uploads: Uploads, tmp_path: Path) -> None:
    """Files of a few kilobytes that a reader would need gigabytes for."""
    path = tmp_path / "sparse.tif"
    profile: dict[str, Any] = {
        "driver": "GTiff", "height": 2000, "width": 2000, "count": 1, "dtype": "uint8",
        "SPARSE_OK": True, "compress": "deflate",
    }  # fmt: skip
    with rasterio.open(path, "w", transform=HERE, blockysize=2000, **profile):
        pass
    with pytest.raises(DataError, match=r"declares 2000 × 2000 .*Cut it into parts"):
        check_raster(path, "sparse.tif", uploads.limits)
    with pytest.raises(DataError, match=r"has blocks of 4,000,000 values.*tiled GeoTIFF"):
        check_raster(path, "sparse.tif", Limits(whole=3_999_999))
    assert check_raster(path, "sparse.tif", Limits(whole=4_000_000)).count == 1


def test_limits_are_checked_before_pixels_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(rasters, "_probe", fail)
    path = tmp_path / "bomb"
    path.write_bytes(bomb(60_000, 60_000))
    with pytest.raises(DataError, match=r"decoded as a whole\. Convert it to a tiled GeoTIFF"):
        check_raster(path, "bomb.png")


@pytest.mark.parametrize("driver", ["GTiff", "PNG", "JPEG"])
def test_a_file_is_opened_as_what_it_begins_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    """Any other driver may read further files, or addresses."""
    (tmp_path / "a").write_bytes(raster(driver))
    opened, real = [], rasterio.open

    def watched(path: Path, **options: Any) -> Any:
        opened.append(options.get("driver"))
        return real(path, **options)

    monkeypatch.setattr(rasterio, "open", watched)
    rasters.check_kind(tmp_path / "a", "a")
    assert opened == [driver]


def test_nothing_beside_a_raster_is_read(tmp_path: Path) -> None:
    """A world file or statistics that somebody else has put there."""
    path = tmp_path / "a.png"
    path.write_bytes(raster("PNG"))
    (tmp_path / "a.pgw").write_text("nan\n0\n0\n-1\n0\n0\n")
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
        assert check_raster(path, "a.png").grid.crs is None


def test_the_quota_is_shared_by_a_users_uploads(client: TestClient, uploads: Uploads) -> None:
    content = raster(size=110)  # 11 kB
    first = client.post("/api/uploads", content=content)
    assert first.status_code == 201
    assert client.post("/api/uploads", content=content).status_code == 201
    before = left(uploads)
    room = 30_000 - 2 * len(content)
    assert 0 < room < len(content)
    answer = client.post("/api/uploads", content=content)
    assert answer.status_code == 413
    assert f"there is room for {room:,} more bytes" in answer.json()["error"]
    assert left(uploads) == before
    assert client.post("/api/uploads", content=content, headers={"X-User": "ben"}).is_success
    client.delete(first.headers["location"])  # what the message says
    assert client.post("/api/uploads", content=content).status_code == 201


def test_the_quota_holds_to_the_byte(uploads: Uploads) -> None:
    content, client = raster(), served(uploads)
    uploads.quota_bytes = len(content) - 1
    assert client.post("/api/uploads", content=content).status_code == 413
    uploads.quota_bytes = len(content)
    assert client.post("/api/uploads", content=content).status_code == 201


def test_a_full_disk_is_no_quota(
    client: TestClient, uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, free = raster(), [0]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free[0]))
    for free[0] in (-1, len(content) - 1):  # below what is spared, too
        answer = client.post("/api/uploads", content=content)
        assert answer.status_code == 413
        told = f"the service's disk has room for {max(free[0], 0):,} more bytes. Ask whoever runs"
        assert told in answer.json()["error"]
        assert not left(uploads)
    free[0] = len(content)  # who runs it has made room
    assert client.post("/api/uploads", content=content).status_code == 201


def test_uploads_at_the_same_time_share_the_quota(uploads: Uploads) -> None:
    """What is still arriving counts, and no longer when it ends."""
    ana = User("ana")
    with uploads._counting(ana) as count:
        count(25_000)
        assert uploads._room(ana, used=0) == 5_000
        assert uploads._room(User("ben"), used=0) == 30_000
    assert uploads._room(ana, used=0) == 30_000
    assert not uploads._arriving


def test_uploads_expire(tmp_path: Path) -> None:
    now = 1e9
    uploads = Uploads(tmp_path / "u", keep_hours=2, spare_bytes=0, clock=lambda: now)
    client = served(uploads)
    ids = [client.post("/api/uploads", content=raster()).json()["id"] for _ in range(3)]
    ana = User("ana")
    for id in ids:
        uploads.path(ana, f"upload:{id}")  # used at 1e9
    now += 3600
    uploads.path(ana, f"upload:{ids[1]}")
    now += 3601
    assert uploads.expire(in_use={ids[2]}) == 1
    assert {upload.id for upload in uploads.listed(ana)} == {ids[1], ids[2]}
    now += 3600
    assert uploads.expire() == 2
    assert uploads.listed(ana) == ()


def test_what_a_killed_server_left_goes(uploads: Uploads, client: TestClient) -> None:
    from terrafuse.locking import mark

    home = uploads._home(User("ana"))
    home.mkdir(parents=True)
    name = mark("0" * 32).replace(f"+{os.getpid()}+", "+999999999+")
    (home / name).mkdir()
    (home / name / "raster").write_bytes(b"half")
    assert client.post("/api/uploads", content=raster()).status_code == 201
    assert not (home / name).exists()


def test_addresses_of_other_formats(tmp_path: Path) -> None:
    """web.service.rasters:check_address | Check the address"""
    (tmp_path / "good.tif").write_bytes(raster())
    (tmp_path / "trap.tif").write_bytes(VRT)
    with serving(tmp_path) as server:  # of this process: nothing may hold it up
        rasters.check_address(server.url("good.tif"), "good.tif")
        for name in ("trap.tif", "none.tif"):
            with pytest.raises(DataError, match=r"cannot be read, or is none.*Check the address"):
                rasters.check_address(server.url(name), name)
        with pytest.raises(DataError, match="declares 32 × 40 pixels"):
            rasters.check_address(server.url("good.tif"), "x", Limits(samples=1279))


FOLLOWED = (
    "web.service.uploads:Uploads._refuse | Send less",
    "web.service.uploads:Uploads._refuse | Ask whoever runs it to make room",
    "web.service.uploads:Uploads._refuse | Remove some",
    "web.service.uploads:Uploads._find | Send the raster again",
    "web.service.rasters:_open | Convert it to one",
    "web.service.rasters:_open | Check that it is complete",
    "web.service.rasters:_check_size | send at most",
    "web.service.rasters:_check_size | Cut it into parts",
    "web.service.rasters:_check_size | formats that are decoded as a whole. Convert it",
    "web.service.rasters:_check_size | Convert it to a tiled GeoTIFF",
    "web.service.rasters:_probe | Check that it is complete",
)

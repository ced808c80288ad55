"""Rasters on servers: a local one that counts, refuses and fails."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from array_scene import Identity
from range_server import RangeServer, serving
from terrafuse.classes import ClassScheme
from terrafuse.data import Scene, remote, scene_from_rasters
from terrafuse.data.remote import _PAUSES, HTTP_SETTINGS, read_patiently, state
from terrafuse.errors import OutputError, RasterReadError
from terrafuse.modalities import Modality
from terrafuse.prediction import ScenePredictor, WindowSettings
from terrafuse.samples import Window

SIDE, BLOCK = 512, 64
RGB = Modality("rgb", ("red", "green", "blue"), kind="optical")
SCHEME = ClassScheme(("a", "b", "c"))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries are of no interest here."""
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.001")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RangeServer]:
    with serving(tmp_path / "www") as server:
        yield server


@pytest.fixture
def file(tmp_path: Path, make_raster: Any) -> Path:
    """Noise, which no compression makes smaller: a block has 3 × 64 × 64 × 2 bytes."""
    noise = np.random.default_rng(0).integers(1, 60_000, (3, SIDE, SIDE), dtype=np.uint16)
    options = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "interleave": "pixel"}
    return make_raster(tmp_path / "www" / "bucket" / "x.tif", noise, **options)


def scene_of(name: Path | str) -> Scene:
    return scene_from_rasters([RGB], {"rgb": name}, scheme=SCHEME)


def mapped(scene: Scene, out: Path, **options: Any) -> bytes:
    predictor = ScenePredictor(Identity([RGB], 3), WindowSettings(crop_size=64, overlap=16))
    return predictor.predict(scene, out, scheme=SCHEME, **options).class_map.read_bytes()


def test_the_map_of_a_url_is_that_of_the_file(
    tmp_path: Path, file: Path, server: RangeServer
) -> None:
    near = mapped(scene_of(file), tmp_path / "near")
    assert mapped(scene_of(server.url("bucket/x.tif")), tmp_path / "far") == near
    # Each byte at most twice: blocks decoded are kept, those on the wire by their 16 KiB.
    assert file.stat().st_size <= server.sent <= 2 * file.stat().st_size
    assert not [path for _, path, _ in server.requests if not path.endswith("x.tif")]


@pytest.mark.parametrize("fails_every", [10, 3])
def test_a_server_that_fails_now_and_then_gives_the_same_pixels(
    fails_every: int, tmp_path: Path, file: Path, server: RangeServer
) -> None:
    near, far = scene_of(file), scene_of(server.url("bucket/x.tif"))
    server.fails_every = fails_every
    places = np.random.default_rng(0).permutation(64)[:40]  # in disorder: each costs a request
    for row, col in zip(places // 8 * 64, places % 8 * 64, strict=True):
        window = Window(int(row), int(col), 64, 64)
        assert torch.equal(far.read(window).images["rgb"], near.read(window).images["rgb"])
    assert server.failed >= 3
    assert mapped(far, tmp_path / "far") == mapped(near, tmp_path / "near")


def test_only_blocks_under_a_window_are_fetched(file: Path, server: RangeServer) -> None:
    scene = scene_of(server.url("bucket/x.tif"))
    server.forget()
    block = 3 * BLOCK * BLOCK * 2
    sample = scene.read(Window(256, 320, 64, 128), labels=False)  # two blocks side by side
    assert torch.equal(
        sample.images["rgb"], scene_of(file).read(Window(256, 320, 64, 128)).images["rgb"]
    )
    assert 2 * block <= server.sent <= 2 * block + 2 * 2**14
    assert len(server.requests) <= 2
    sent = server.sent
    scene.read(Window(256, 320, 64, 128), labels=False)
    assert server.sent == sent


def test_s3_is_read_by_gdals_own_settings(
    tmp_path: Path, file: Path, server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in {
        "AWS_S3_ENDPOINT": server.address,
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_NO_SIGN_REQUEST": "YES",
    }.items():
        monkeypatch.setenv(key, value)
    scene = scene_of("s3://bucket/x.tif")
    near = mapped(scene_of(file), tmp_path / "near")
    assert mapped(scene, tmp_path / "far") == near
    assert scene.states()[0][1:3] == (str(file.stat().st_size), server.tag(file.read_bytes()))


@pytest.mark.parametrize(
    ("change", "path", "text"),
    [
        ({"refuses": 401}, "bucket/x.tif", "401. The server gives it to those who sign in"),
        ({"refuses": 403}, "bucket/x.tif", "403. The server gives it to those who sign in"),
        ({"refuses": 503}, "bucket/x.tif", "503. The server was asked several times"),
        ({}, "bucket/y.tif", "404. The server has no such file"),
        ({"ranges": False}, "bucket/x.tif", "files only as a whole, so that no window"),
    ],
)
def test_a_server_that_refuses_is_one_message(
    change: dict[str, Any], path: str, text: str, file: Path, server: RangeServer
) -> None:
    for name, value in change.items():
        setattr(server, name, value)
    url = server.url(path)
    with pytest.raises(RasterReadError, match=f"modality 'rgb' of scene 'scene': '{url}'") as told:
        scene_of(url)
    assert text in str(told.value)
    assert len(server.requests) <= 5  # 503: four times again
    # What the message says to do.
    server.refuses, server.ranges = 0, True
    assert scene_of(server.url("bucket/x.tif")).grid.width == SIDE


def test_hosts_that_cannot_be_reached_are_one_message() -> None:
    for url in ("http://no.such.host.invalid/a.tif", "http://127.0.0.1:1/a.tif"):
        with pytest.raises(RasterReadError, match="Correct the name of the host, or try again"):
            scene_of(url)


def test_a_host_that_swallows_everything_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One accepts and is silent; another one does not even accept."""
    monkeypatch.setenv("GDAL_HTTP_LOW_SPEED_TIME", "1")
    monkeypatch.setenv("GDAL_HTTP_CONNECTTIMEOUT", "0.1")
    with socket.socket() as silent, socket.socket() as deaf, ExitStack() as stack:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):  # so many wait that the system takes no more
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        for host, reason in ((silent, "Operation too slow"), (deaf, "Connection timed out")):
            url = f"http://127.0.0.1:{host.getsockname()[1]}/a.tif"
            with pytest.raises(RasterReadError, match=rf"{reason}.*Correct the name of the host"):
                scene_of(url)


def test_no_answer_is_given_up_after_half_a_minute_in_all() -> None:
    number = {name: float(value) for name, value in HTTP_SETTINGS.items()}
    tries = int(number["GDAL_HTTP_MAX_RETRY"])
    pauses = [number["GDAL_HTTP_RETRY_DELAY"] * 2.5**n for n in range(tries)]
    assert (tries + 1) * number["GDAL_HTTP_CONNECTTIMEOUT"] + sum(pauses) < 35
    assert (len(_PAUSES) + 1) * number["GDAL_HTTP_LOW_SPEED_TIME"] + sum(_PAUSES) < 35


@pytest.mark.parametrize(
    ("reason", "name", "tries"),
    [
        ("CURL error: transfer closed", "https://host/a.tif", 3),
        ("CURL error: Operation too slow", "/vsicurl/https://host/a.tif", 3),
        ("CURL error: Connection timed out after 4000 ms", "https://host/a.tif", 1),
        ("HTTP response code: 403", "s3://bucket/a.tif", 1),
        ("CURL error: transfer closed", "/data/a.tif", 1),
    ],
)
def test_what_is_read_again(
    reason: str, name: str, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that fails so often as it is tried, and one that fails once."""
    done: list[int] = []
    forgotten: list[str] = []
    monkeypatch.setattr(remote, "forget", forgotten.append)

    def read(fails: int) -> int:
        done.append(1)
        if len(done) <= fails:
            raise RasterReadError(reason)
        return 7

    with pytest.raises(RasterReadError, match=reason):
        read_patiently(lambda: read(9), name)
    assert len(done) == tries
    assert forgotten == [name] * (tries - 1)  # GDAL would answer from what it remembers
    done.clear()
    if tries > 1:
        assert read_patiently(lambda: read(1), name) == 7
        assert len(done) == 2


@pytest.mark.parametrize(
    ("variable", "value", "wanted"),
    [
        ("GDAL_HTTP_USERPWD", "anna:secret", "Basic YW5uYTpzZWNyZXQ="),
        ("GDAL_HTTP_HEADERS", "Authorization: Bearer xyz", "Bearer xyz"),
    ],
)
def test_a_server_that_wants_credentials(
    variable: str, value: str, wanted: str, tmp_path: Path, file: Path, server: RangeServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    server.authorization = wanted
    url = server.url("bucket/x.tif")
    with pytest.raises(RasterReadError, match=rf"401\. The server gives it .* {variable}"):
        scene_of(url)
    monkeypatch.setenv(variable, value)  # as the message says
    window = Window(0, 0, 64, 64)
    assert torch.equal(
        scene_of(url).read(window).images["rgb"], scene_of(file).read(window).images["rgb"]
    )


def test_access_that_ends_meanwhile(file: Path, server: RangeServer) -> None:
    scene = scene_of(server.url("bucket/x.tif"))
    server.refuses = 403
    with pytest.raises(RasterReadError, match=r"cannot be read: .*rows 448 to 512") as told:
        scene.read(Window(448, 448, 64, 64), labels=False)
    assert "fetch it again" not in str(told.value)


def test_a_raster_that_changed_is_noticed(
    tmp_path: Path, make_raster: Any, server: RangeServer
) -> None:
    tall = np.random.default_rng(0).integers(1, 60_000, (3, 2560, 64), dtype=np.uint16)
    file = make_raster(
        tmp_path / "www" / "tall.tif", tall, tiled=True, blockxsize=64, blockysize=64
    )
    url, out = server.url("tall.tif"), tmp_path / "map"
    before = scene_of(url).states()
    assert scene_of(url + "?signature=1").states() == before

    def stop(done: int, total: int) -> None:
        if done == total:  # in the second of two units
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mapped(scene_of(url), out, progress=stop)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # of the same size
    file.write_bytes(content)
    assert scene_of(url).states() != before
    with pytest.raises(OutputError, match="differs in: rasters"):
        mapped(scene_of(url), out, resume=True)
    # GDAL's cache holds nothing of the file before.
    last = Window(2496, 0, 64, 64)
    assert torch.equal(
        scene_of(url).read(last).images["rgb"], scene_of(file).read(last).images["rgb"]
    )


@pytest.mark.parametrize("header", ["ETag", "etag", "Last-Modified", "Content-Length"])
def test_each_thing_that_a_server_says_of_a_file_tells_a_change(
    header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def state_with(value: str) -> object:
        monkeypatch.setattr(remote, "_headers", lambda _: [("Server", "x"), (header, value)])
        return state("https://host/a.tif?signature=1")

    assert state_with("1") == state_with("1")
    assert state_with("1") != state_with("2")


def test_a_scene_far_away_is_pickled_without_its_files(file: Path, server: RangeServer) -> None:
    scene = scene_of(server.url("bucket/x.tif"))
    again = pickle.loads(pickle.dumps(scene))
    window = Window(0, 0, 64, 64)
    assert torch.equal(again.read(window).images["rgb"], scene.read(window).images["rgb"])

"""What `GET /api/files` lists, and what it does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from terrafuse.errors import DataError
from terrafuse.web.service.answers import answer_errors
from terrafuse.web.service.files import files_router, list_folder
from terrafuse.web.service.roots import resolve


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    first, second = tmp_path / "first", tmp_path / "second"
    for name, size in {
        "first/2024/b10.tif": 3,
        "first/2024/b2.tif": 5,
        "first/notes.txt": 1,
        "first/.hidden.tif": 1,
        "second/2024/b2.tif": 7,
        "second/2024/C.JP2": 2,
        "second/north.png": 4,
        "outside/secret.tif": 9,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    (first / "leak").symlink_to(tmp_path / "outside")
    (first / "leak.tif").symlink_to(tmp_path / "outside/secret.tif")
    (first / "own.tif").symlink_to(first / "2024/b2.tif")
    os.mkfifo(first / "pipe.tif")
    return first, second


def test_the_folders_are_shown_as_one(roots: tuple[Path, Path]) -> None:
    top = list_folder("", roots)
    assert [(entry.name, entry.path) for entry in top.folders] == [("2024", "2024")]
    # Neither text, hidden, piped, nor what a link leads to outside of the folders.
    assert [(e.name, e.path, e.bytes) for e in top.rasters] == [
        ("north.png", "north.png", 4),
        ("own.tif", "own.tif", 5),
    ]
    inner = list_folder("2024", roots)
    assert [(entry.path, entry.bytes) for entry in inner.rasters] == [
        ("2024/b10.tif", 3),
        ("2024/b2.tif", 5),
        ("2024/C.JP2", 2),
    ]


def test_every_raster_that_is_listed_can_be_named(roots: tuple[Path, Path]) -> None:
    for folder in ("", "2024"):
        for raster in list_folder(folder, roots).rasters:
            assert resolve(raster.path, roots).stat().st_size == raster.bytes


@pytest.mark.parametrize(
    "path", ["..", "2024/../..", "/", "/etc", "leak", "a\\b", "2024\0", "no such", "own.tif"]
)
def test_other_folders_are_refused(path: str, roots: tuple[Path, Path]) -> None:
    with pytest.raises(DataError, match="is no folder of those that this service reads") as caught:
        list_folder(path, roots)
    assert str(roots[0].parent) not in str(caught.value)


def test_the_route(roots: tuple[Path, Path]) -> None:
    app = FastAPI()
    app.include_router(files_router(roots))
    answer_errors(app)
    with TestClient(app) as client:
        answer = client.get("/api/files", params={"path": "2024"})
        assert answer.status_code == 200
        assert answer.json()["rasters"][0] == {
            "name": "b10.tif",
            "path": "2024/b10.tif",
            "bytes": 3,
        }
        for path in ("../outside", "no such"):
            refused = client.get("/api/files", params={"path": path})
            assert refused.status_code == 404
            assert "Begin with /api/files, which lists them" in refused.json()["error"]
        # What the message says is to be done.
        assert client.get("/api/files").json()["folders"] == [{"name": "2024", "path": "2024"}]


def test_a_long_folder_says_how_much_is_left_out(tmp_path: Path) -> None:
    for number in range(1003):
        (tmp_path / f"{number:04}.tif").touch()
    listing = list_folder("", [tmp_path])
    assert len(listing.rasters) == 1000
    assert listing.left_out == 3


def test_nothing_is_listed_without_folders() -> None:
    listing = list_folder("", [])
    assert not listing.folders
    assert not listing.rasters

"""The page, the curl lines and the Python of docs/howto/jobs.md with a service that maps."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import rasterio

from made_runs import make_run

CHROMIUM = shutil.which("chromium")
PAGE = Path(__file__).parents[3] / "docs" / "howto" / "jobs.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_EXAMPLE = "http://127.0.0.1:8766"
pytestmark = pytest.mark.slow


@contextmanager
def serving(run: Path, *options: str) -> Iterator[str]:
    """A service of a run in a process of its own; yields its address, without the last slash."""
    command = [sys.executable, "-m", "terrafuse", "serve", f"first={run}", "--port", "0", *options]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        assert process.stderr is not None
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    # A pipe that nobody reads is full one day, and the service waits.
                    Thread(target=process.stderr.read, daemon=True).start()
                    yield found[0]
                    return
            pytest.fail(f"the service did not start:\n{''.join(said)}")
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and a folder `rasters` with the scene that the page names."""
    folder = tmp_path_factory.mktemp("service")
    make_run(folder)
    area = folder / "rasters" / "area_1"
    area.mkdir(parents=True)
    for name in ("s2", "s1"):
        source = next(
            path for path in sorted((folder / "data").rglob("*.tif")) if name in str(path)
        )
        shutil.copy(source, area / f"{name}.tif")
    shutil.copy(area / "s2.tif", folder / "area_1_s2.tif")
    return folder


@pytest.fixture(scope="module")
def address(place: Path) -> Iterator[str]:
    options = ["--data", str(place / "jobs"), "--root", str(place / "rasters"), "--device", "cpu"]
    with serving(place / "run", *options) as address:
        yield address


def blocks(language: str) -> list[str]:
    found = [text for kind, text in _BLOCK.findall(PAGE.read_text("utf-8")) if kind == language]
    assert found
    return found


def test_the_lines_of_curl_do_what_the_page_says(place: Path, address: str, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    shutil.copy(place / "area_1_s2.tif", tmp_path)
    script = "set -e\n" + "\n".join(blocks("sh")).replace(_EXAMPLE, address)
    ended = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert '"name":"first"' in ended.stdout
    assert "event: end\ndata: done" in ended.stdout
    with (
        rasterio.open(tmp_path / "class_map.tif") as file,
        rasterio.open(place / "rasters/area_1/s2.tif") as scene,
    ):
        assert file.shape == scene.shape
        assert file.transform == scene.transform
    assert (tmp_path / "areas.csv").read_text().startswith("class")
    assert re.search(r'"id":"[0-9a-f]{32}"', ended.stdout.splitlines()[-1])


def test_the_python_does_what_the_page_says(
    place: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(place / "area_1_s2.tif", tmp_path)
    (text,) = blocks("python")
    exec(compile(text.replace(_EXAMPLE, address), "jobs.md", "exec"), {"__name__": "page"})
    assert {"class_map.tif", "entropy.tif", "areas.csv"} <= {
        path.name for path in (tmp_path / "map").iterdir()
    }


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_page_makes_the_map_that_the_client_makes(address: str, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    from terrafuse.client import Client

    expect = sync_api.expect
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        requested: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        page.goto(f"{address}/")
        for modality in ("s2", "s1"):
            _choose(page, expect, modality)
        page.get_by_label("Title (optional)").fill("By the page")
        page.get_by_role("button", name="Make the map").click()
        job = page.get_by_role("article", name="By the page")
        expect(job.get_by_role("link", name="Look at the map")).to_be_visible(timeout=120_000)
        job.locator("details.results summary").click()
        with page.expect_download() as download:
            job.get_by_role("link", name="class_map.tif", exact=True).click()
        download.value.save_as(tmp_path / "page.tif")
        job.get_by_role("button", name="Log").click()
        expect(page.get_by_role("dialog")).to_contain_text("the map is made")
        page.keyboard.press("Escape")
        job.get_by_role("button", name="Copy for QGIS").click()
        expect(page.get_by_role("status").get_by_text(_tiles_of(address))).to_be_visible()
        job.get_by_role("link", name="Look at the map").click()
        expect(page.locator("canvas").first).to_be_visible(timeout=60_000)
        browser.close()
    assert not faults
    assert not [url for url in requested if not url.startswith((f"{address}/", "data:", "blob:"))]
    made = Client(address).submit({"s2": "area_1/s2.tif", "s1": "area_1/s1.tif"})
    made.wait().download(tmp_path / "map")
    with (
        rasterio.open(tmp_path / "page.tif") as page_map,
        rasterio.open(tmp_path / "map/class_map.tif") as client_map,
    ):
        np.testing.assert_array_equal(page_map.read(), client_map.read())


def _tiles_of(address: str) -> str:
    """The first address of tiles that the newest job's TileJSON names."""
    with urlopen(f"{address}/api/jobs") as answer:
        newest = json.load(answer)["jobs"][0]
    with urlopen(address + newest["tilejson"]) as answer:
        return str(json.load(answer)["tiles"][0])


def _choose(page: Any, expect: Any, modality: str) -> None:
    page.get_by_role("button", name=f"Choose rasters of {modality} on the server").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("li button").first).to_be_visible()
    if modality == "s2":  # the second time it begins where the first ended
        dialog.get_by_role("button", name="area_1/").click()
    dialog.get_by_role("button", name=f"{modality}.tif").click()
    dialog.get_by_role("button", name="Use this raster").click()

"""Chromium, a viewer's server on loopback, and a page that may speak to nobody else."""

from __future__ import annotations

import io
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_SECONDS = 20


@contextmanager
def chromium() -> Iterator[Any]:
    """A running Chromium; skips the test where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def serving_app(app: Any) -> Iterator[str]:
    """Serve an application at a free port of loopback; yields its address."""
    config = uvicorn.Config(app, port=0, log_level="error", access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
        if not thread.is_alive():
            raise AssertionError("the server did not start")
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join()


@dataclass
class Shown:
    """A page with a view, and what it asked for.

    Args:
        page: Of Playwright.
        address: Without what follows `#`.
        requests: Addresses, in order.
        faults: Messages of the console and errors of scripts.
    """

    page: Any
    address: str
    requests: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def settle(self) -> None:
        """Wait until the maps have drawn all that is in view."""
        self.page.wait_for_selector(".stage .map canvas", state="attached")
        # A change is seen with the next frame, and what it lacks is asked for after that one.
        self.page.wait_for_function(
            "() => new Promise(go => requestAnimationFrame(() => setTimeout(() =>"
            " requestAnimationFrame(() => setTimeout(go, 40)), 40))).then(() =>"
            " !document.querySelector('.stage[data-busy]'))"
        )

    def link(self, **parts: object) -> None:
        """Go to a look by its address."""
        scene = parts.pop("scene")
        text = "&".join(f"{key}={value}" for key, value in parts.items())
        self.page.evaluate("hash => { location.hash = hash }", f"scene={scene}&{text}")
        self.page.evaluate("() => new Promise(go => setTimeout(go))")
        self.settle()

    def box(self, pane: int = 0) -> dict[str, float]:
        """Rectangle of a map in the window."""
        return dict(self.page.locator(".map").nth(pane).bounding_box())

    def click(self, x: float, y: float) -> None:
        """Click at a distance from the middle of the map."""
        box = self.box()
        self.page.mouse.click(box["x"] + box["width"] / 2 + x, box["y"] + box["height"] / 2 + y)

    def colours(self) -> NDArray[np.uint8]:
        """What the window shows, (H, W, 3)."""
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        return np.asarray(picture)

    def colour(self, x: float, y: float) -> tuple[int, int, int]:
        """Colour at a distance from the middle of the map."""
        box = self.box()
        row = int(box["y"] + box["height"] / 2 + y)
        col = int(box["x"] + box["width"] / 2 + x)
        red, green, blue = self.colours()[row, col]
        return int(red), int(green), int(blue)

    def stored(self) -> dict[str, list[float]]:
        """The stored values that the page has read, by layer."""
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('[data-read]')].every(each => each.dataset.stored)"
        )
        rows = self.page.locator("[data-read]").evaluate_all(
            "all => all.map(each => [each.dataset.read, each.dataset.stored ?? null])"
        )
        return {id: [float(each) for each in text.split()] for id, text in rows if text}

    def rasters(self) -> int:
        """Number of requests for rasters so far."""
        return sum(1 for each in self.requests if re.search(r"\.tif(\.js)?$", each))


@contextmanager
def looking(
    browser: Any, address: str, *, width: int = 1200, height: int = 800, **options: Any
) -> Iterator[Shown]:
    """Open an address; at the end, nothing may have gone elsewhere or wrong."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    page = context.new_page()
    page.set_default_timeout(_SECONDS * 1000)
    shown = Shown(page, address)
    page.on("request", lambda request: shown.requests.append(request.url))
    page.on("pageerror", lambda error: shown.faults.append(str(error)))
    page.on(
        "console",
        lambda message: shown.faults.append(message.text) if message.type == "error" else None,
    )
    page.goto(address)
    yield shown
    home = urlsplit(address)
    for request in map(urlsplit, shown.requests):
        assert request.scheme in ("data", "blob") or request[:2] == home[:2], request.geturl()
    assert shown.faults == []
    context.close()


def static_page(folder: Path) -> str:
    """Address of a folder's page on disk."""
    return (folder / "index.html").resolve().as_uri()

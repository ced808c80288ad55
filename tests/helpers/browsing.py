"""Chromium, and a page of a server on loopback that may speak to nobody else."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from loopback import serving_app as serving_app

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_SECONDS = 40


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
            """async () => {
              const busy = () => document.querySelector('.stage[data-busy]') !== null;
              const frame = () =>
                new Promise(go => requestAnimationFrame(() => setTimeout(go, 30)));
              await frame(); await frame();
              if (busy()) return false;
              await frame(); await frame();
              return !busy();
            }"""
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

    def becomes(self, x: float, y: float, wanted: Callable[[tuple[int, int, int]], bool]) -> bool:
        """Whether a colour is as wanted, now or after some of the next frames."""
        for _ in range(_FRAMES):
            if wanted(self.colour(x, y)):
                return True
            self.settle()
        return False

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


# Pictures that are looked at before a colour is wrong: a browser on a busy machine paints late.
_FRAMES = 20


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

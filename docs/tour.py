"""Pictures of the viewer and the service: `python docs/tour.py DEMO` after `terrafuse demo`.

It starts `terrafuse view DEMO/map` and `terrafuse serve DEMO/runs/all_modalities`, uses their pages
as people do, by keys and buttons, writes docs/assets/tour-1.png … and the pictures of how-to pages
(docs/assets/service-*.png), and prints the table of the tour for the README.

Needs Playwright and a Chromium of the system; nothing leaves this machine.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

ASSETS = Path(__file__).with_name("assets")
MOST_BYTES = {"tour": 120_000, "service": 150_000}
_SIZE = {"width": 1200, "height": 800}
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/")
_PATIENCE_MS = 120_000
_COLOURS = (256, 128, 64, 32)
#: Those within sight; others are loaded only once somebody goes there.
_PICTURES_ARE_THERE = """() => [...document.images].every(
    (image) => image.complete || image.getBoundingClientRect().top > innerHeight)"""


@dataclass(frozen=True)
class Tour:
    """Where the pages are, and where their pictures go."""

    viewer: str
    service: str
    out: Path

    def picture(self, page: Page, name: str) -> None:
        """Write a picture of the page as it is, small enough for its place."""
        # What moves has come to rest: tiles are painted, and nothing is focused by chance.
        page.evaluate("document.activeElement?.blur()")
        page.wait_for_load_state("networkidle")
        page.wait_for_function(_PICTURES_ARE_THERE)
        page.wait_for_timeout(400)
        image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        most = MOST_BYTES[name.partition("-")[0]]
        content = next((c for c in map(_packed(image), _COLOURS) if len(c) <= most), None)
        if content is None:
            raise SystemExit(f"{name}.png needs more than {most} bytes in {_COLOURS[-1]} colours")
        (self.out / f"{name}.png").write_bytes(content)
        sys.stderr.write(f"{name}.png: {len(content):,} bytes\n")


def _packed(image: Image.Image) -> Any:
    """A function from a number of colours to the picture as PNG."""

    def pack(colours: int) -> bytes:
        held = io.BytesIO()
        # Without the second step, colours of small classes turn into their neighbours'.
        few = image.quantize(colours, kmeans=3, dither=Image.Dither.NONE)
        few.save(held, "PNG", optimize=True)
        return held.getvalue()

    return pack


#: Name of a picture → caption.
CAPTIONS = {
    "tour-1": "`terrafuse view demo/map`: the class map over what it was made from, with areas",
    "tour-2": "Swipe between any two layers: here the map and the image",
    "tour-3": "Click: probabilities, values of every modality, and why the pixel has its class",
    "tour-4": "`n` leads through the places where the model is least sure, or wrong",
    "tour-5": "`terrafuse serve demo/runs/all_modalities`: choose rasters, ask for a map",
    "tour-6": "Watch it, fetch it, or add it to QGIS by its address",
}


def look(page: Page, tour: Tour) -> None:
    """Pictures 1 to 4: the viewer."""
    page.goto(tour.viewer)
    expect(page.locator("canvas").first).to_be_visible(timeout=_PATIENCE_MS)
    tour.picture(page, "tour-1")

    page.keyboard.press("s")
    tour.picture(page, "tour-2")
    page.keyboard.press("o")

    for _ in range(3):
        page.keyboard.press("+")
    page.keyboard.press("Enter")
    page.keyboard.press("w")
    # Why: the model is loaded and run once more.
    expect(page.get_by_text(re.compile("without", re.IGNORECASE)).first).to_be_visible(
        timeout=_PATIENCE_MS
    )
    page.get_by_text(re.compile("without", re.IGNORECASE)).last.scroll_into_view_if_needed()
    tour.picture(page, "tour-3")

    page.keyboard.press("n")
    tour.picture(page, "tour-4")


def ask(page: Page, tour: Tour) -> None:
    """Pictures 5 and 6, and those of the page on the service."""
    page.goto(tour.service)
    for modality in ("optical", "sar", "dsm"):
        _choose(page, tour, modality, "test_2.tif")
    page.get_by_label("Title (optional)").fill("Test area 2")
    for name in ("entropy", "polygons", "areas"):
        page.get_by_role("checkbox", name=name).check()
    page.evaluate("scrollTo(0, 0)")
    tour.picture(page, "tour-5")

    page.get_by_role("button", name="Make the map").click()
    job = page.get_by_role("article").first
    expect(job.get_by_role("link", name="Look at the map")).to_be_visible(timeout=_PATIENCE_MS)
    job.locator("details.results summary").click()
    page.evaluate("scrollTo(0, 0)")
    tour.picture(page, "tour-6")
    page.locator("details.card summary").click()
    tour.picture(page, "service-jobs")


def _choose(page: Page, tour: Tour, modality: str, name: str) -> None:
    page.get_by_role("button", name=f"Choose rasters of {modality} on the server").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("li button").first).to_be_visible()
    up = dialog.get_by_role("button", name="All folders")
    if up.count():
        up.click()
    dialog.get_by_role("button", name=f"{modality}/").click()
    dialog.get_by_role("button", name=name).click()
    if modality == "sar":
        tour.picture(page, "service-files")
    dialog.get_by_role("button", name="Use this raster").click()


@contextmanager
def serving(*words: str) -> Iterator[str]:
    """A command that serves a page; yields the address that it prints."""
    command = [sys.executable, "-m", "terrafuse", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stderr is not None
        try:
            for line in process.stderr:
                found = _ADDRESS.search(line)
                if found:
                    # A pipe that nobody reads is full one day, and the command waits.
                    Thread(target=process.stderr.read, daemon=True).start()
                    yield found[0]
                    return
            raise SystemExit(f"'terrafuse {' '.join(words)}' has ended without an address")
        finally:
            process.terminate()


def main() -> None:
    """Run the tour."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("demo", type=Path, help="folder that `terrafuse demo` has written")
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder of the pictures")
    given = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("there is no chromium on the PATH; install one")
    demo, out = given.demo, given.out
    run = demo / "runs" / "all_modalities"
    with (
        tempfile.TemporaryDirectory() as folder,
        serving("view", str(demo / "map"), "--no-browser", "--port", "8765") as viewer,
        serving(
            "serve", str(run), "--root", str(demo / "data"), "--data", folder, "--port", "0"
        ) as service,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tour = Tour(viewer, service, out)
        page = browser.new_page(viewport=_SIZE, color_scheme="light", reduced_motion="reduce")
        look(page, tour)
        ask(page, tour)
        browser.close()
    for name, caption in CAPTIONS.items():
        sys.stdout.write(
            f"**{caption}**\n\n![{caption.replace('`', '')}](docs/assets/{name}.png)\n\n"
        )


if __name__ == "__main__":
    main()

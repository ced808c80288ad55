"""The viewer's page in a browser, on scenes in several grids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from numpy.typing import NDArray

pytest.importorskip("fastapi", reason="the extra web is not installed")

from browsing import Shown, chromium, looking, serving_app, static_page
from terrafuse import web
from terrafuse.data import Grid
from terrafuse.maps import (
    DrawnPixels,
    SampleFile,
    Stratum,
    read_labels,
    read_sample,
    write_sample,
)
from terrafuse.web.viewer.serving import open_viewer
from viewed import NAMES, write, write_map

pytestmark = pytest.mark.slow
HEIGHT, WIDTH = 900, 1300
PLACES = 30
GRIDS = ("utm", "degrees", "rotated")
FILL = 32


@dataclass(frozen=True)
class Made:
    """A map with its scene, and the arrays that were written."""

    folder: Path
    address: str
    classes: NDArray[np.uint8]
    photo: NDArray[np.uint16]
    radar: NDArray[np.float32]

    @property
    def target(self) -> tuple[Path, list[str]]:
        """What the viewer is opened with."""
        return self.folder / "map", [f"{self.folder / 'data' / 'dataset.yaml'}#a"]


def make(folder: Path, grid: str) -> dict[str, Any]:
    """Write a scene that has overviews, in a grid, and a map of it."""
    rng = np.random.default_rng(len(grid))
    shape = (-(-HEIGHT // FILL), -(-WIDTH // FILL))
    classes = np.kron(rng.integers(0, 3, shape), np.ones((FILL, FILL)))[:HEIGHT, :WIDTH]
    classes = classes.astype(np.uint8)
    photo = (300 + 900 * classes.astype(int) + rng.integers(0, 500, (4, HEIGHT, WIDTH))).astype(
        np.uint16
    )
    radar = rng.normal(-12, 3, (1, HEIGHT // 2, WIDTH // 2)).astype(np.float32)
    data = folder / "data"
    write(data / "photo.tif", photo, grid, nodata=0, scales=(0.01,) * 4)
    write(data / "radar.tif", radar, grid, pixels=2)
    write(data / "labels.tif", classes[None], grid, nodata=255)
    manifest = {
        "classes": [{"name": name, "code": k} for k, name in enumerate(NAMES)],
        "modalities": {
            "photo": {"kind": "optical", "bands": ["blue", "green", "red", "nir"]},
            "radar": {"kind": "sar", "bands": ["vv"], "unit": "db", "scale": 2},
        },
        "grid": "photo",
        "scenes": [{"id": "a", "split": "train", "photo": "photo.tif", "radar": "radar.tif",
                    "labels": "labels.tif"}],
    }  # fmt: skip
    (data / "dataset.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))
    confidence = rng.integers(0, 255, (HEIGHT, WIDTH))
    write_map(folder / "map", classes, grid, confidence=confidence)
    return {"folder": folder, "classes": classes, "photo": photo, "radar": radar}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module", params=[*GRIDS, "none"])
def any_made(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Made]:
    written = make(tmp_path_factory.mktemp("made"), request.param)
    yield from _served(written)


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any) -> Iterator[Made]:
    yield from _served(make(tmp_path_factory.mktemp("made"), "utm"))


def _served(written: dict[str, Any]) -> Iterator[Made]:
    made = Made(address="", **written)
    target, scenes = made.target
    _, app = open_viewer(target, scenes=scenes)
    with serving_app(app) as address:
        yield Made(address=address, **written)


@pytest.fixture
def shown(browser: Any, made: Made) -> Iterator[Shown]:
    with looking(browser, made.address) as page:
        page.settle()
        yield page


def colours(made: Made, shown: Shown) -> list[tuple[int, ...]]:
    """Colours of the classes, as the view says."""
    view = shown.page.evaluate("() => fetch('v/map/view.json').then(each => each.json())")
    texts = [each["colour"].lstrip("#") for each in view["classes"]]
    return [tuple(bytes.fromhex(text)) for text in texts]


def test_click_gives_the_values_of_the_files(browser: Any, any_made: Made) -> None:
    rng = np.random.default_rng(5)
    with looking(browser, any_made.address) as shown:
        shown.settle()
        box = shown.box()
        for _ in range(PLACES):
            zoom = rng.uniform(-1.5, 5)
            at = rng.uniform((20, 20), (WIDTH - 20, HEIGHT - 20)).round(2)
            reach = np.array([box["width"], box["height"]]) * 0.4
            offset = rng.uniform(-reach, reach).round()
            # The middle of the map may lie between two pixels of the page.
            place = at + offset / 2**zoom
            if not ((place > 1) & (place < (WIDTH - 1, HEIGHT - 1))).all():
                offset, place = np.zeros(2), at
            shown.link(scene="map", at=f"{at[0]},{at[1]}", zoom=round(zoom, 3))
            shown.click(*offset)
            shown.page.wait_for_selector("[data-pixel]")
            row, col = map(int, shown.page.get_attribute("[data-pixel]", "data-pixel").split(","))
            assert abs(col + 0.5 - place[0]) <= 1.5
            assert abs(row + 0.5 - place[1]) <= 1.5
            stored = shown.stored()
            assert stored["class_map"] == [any_made.classes[row, col]]
            assert stored["photo"] == pytest.approx(any_made.photo[:, row, col] / 100, rel=1e-6)
            at_radar = any_made.radar[0, min(row // 2, HEIGHT // 2 - 1), min(col // 2, 649)]
            assert stored["radar"] == [at_radar]


def test_pixels_are_drawn_where_they_lie(browser: Any, any_made: Made) -> None:
    rng = np.random.default_rng(6)
    with looking(browser, any_made.address) as shown:
        shown.settle()
        expected = colours(any_made, shown)
        for _ in range(PLACES):
            col, row = rng.integers((0, 0), (WIDTH, HEIGHT))
            zoom = rng.uniform(2.2, 5)
            shown.link(scene="map", at=f"{col + 0.5},{row + 0.5}", zoom=zoom, layers="class_map")
            assert shown.colour(0, 0) == expected[any_made.classes[row, col]], (row, col, zoom)


def test_swipe(shown: Shown, made: Made) -> None:
    page = shown.page
    shown.link(scene="map", at="650,450", zoom=-1.2, layers="class_map")
    at = {x: shown.colour(x, 20) for x in (-100, 100)}
    page.keyboard.press("s")
    page.wait_for_selector(".swipe:not([hidden])")
    shown.settle()
    assert shown.becomes(100, 20, lambda colour: colour == at[100])  # class map on the right
    assert shown.becomes(-100, 20, lambda colour: colour != at[-100])  # photo on the left
    bar, box = page.locator(".swipe").bounding_box(), shown.box()
    page.mouse.move(bar["x"] + bar["width"] / 2, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 - 150, box["y"] + 200, steps=4)
    page.mouse.up()
    shown.settle()
    assert shown.becomes(-100, 20, lambda colour: colour == at[-100])
    before = float(page.get_attribute(".swipe", "aria-valuenow"))
    page.keyboard.press("ArrowRight")
    assert float(page.get_attribute(".swipe", "aria-valuenow")) == pytest.approx(before + 2)
    page.select_option("select[aria-label='Layer on the right']", "radar")
    shown.settle()
    assert shown.becomes(100, 20, lambda colour: colour != at[100])


def test_classes_stretch_and_bands_are_painted_again_without_reading(
    shown: Shown, made: Made
) -> None:
    page = shown.page
    row, col = map(int, np.argwhere(made.classes == 1)[100])
    link = {"scene": "map", "at": f"{col + 0.5},{row + 0.5}", "zoom": 3}
    shown.link(**link, layers="photo,class_map")
    expected = colours(made, shown)
    assert shown.colour(0, 0) == expected[1]
    read = shown.rasters()
    page.locator("[data-layer=class_map] .legend li").nth(1).locator("input").uncheck()
    shown.settle()
    photo = shown.colour(0, 0)
    assert photo != expected[1]
    page.get_by_role("button", name="Style of photo").click()
    page.get_by_role("button", name="Whole range").click()
    shown.settle()
    whole = shown.colour(0, 0)
    assert whole != photo
    page.get_by_role("button", name="2–98 %").click()
    shown.settle()
    assert shown.colour(0, 0) == photo
    page.get_by_label("Stretch: to").first.fill("1000")
    page.keyboard.press("Tab")
    shown.settle()
    assert shown.colour(0, 0)[0] < photo[0]
    page.get_by_label("Red of photo").select_option("1")
    shown.settle()
    assert shown.rasters() == read
    page.get_by_role("button", name="Index", exact=True).click()
    shown.settle()
    assert shown.colour(0, 0) != photo


def test_layers_are_ordered_and_see_through(shown: Shown, made: Made) -> None:
    page = shown.page
    row, col = map(int, np.argwhere(made.classes == 1)[100])
    at = f"{col + 0.5},{row + 0.5}"
    shown.link(scene="map", at=at, zoom=3, layers="photo,class_map")
    above = np.array(shown.colour(0, 0))
    shown.link(scene="map", at=at, zoom=3, layers="photo,class_map*0.5")
    mixed = np.array(shown.colour(0, 0))
    page.get_by_role("button", name="Move photo up").click()
    shown.settle()
    below = np.array(shown.colour(0, 0))
    assert mixed == pytest.approx((above + below) / 2, abs=2)
    assert not np.array_equal(above, below)
    page.locator("[data-layer=class_map] .drag").drag_to(page.locator("[data-layer=photo]"))
    shown.settle()
    assert np.array_equal(shown.colour(0, 0), mixed)


def test_scenes_that_wait_are_made_ready(browser: Any, made: Made) -> None:
    manifest = made.folder / "data" / "dataset.yaml"
    two = yaml.safe_load(manifest.read_text())
    two["scenes"].append({**two["scenes"][0], "id": "b", "split": "val"})
    path = manifest.with_name("two.yaml")
    path.write_text(yaml.safe_dump(two))
    _, app = open_viewer(path)
    with serving_app(app) as address, looking(browser, address) as shown:
        shown.settle()
        shown.page.locator(".scene select").select_option("b")
        shown.page.wait_for_function("() => location.hash.startsWith('#scene=b')")
        shown.settle()
        shown.click(0, 0)
        shown.page.wait_for_selector("[data-read=truth][data-stored]")


@pytest.mark.parametrize("blind", [False, True])
def test_a_sample_is_labelled(browser: Any, made: Made, tmp_path: Path, blind: bool) -> None:
    path = tmp_path / "sample.gpkg"
    with rasterio.open(made.folder / "map" / "class_map.tif") as file:
        grid = Grid(file.crs, file.transform, HEIGHT, WIDTH)
    pixels = DrawnPixels(np.array([1, 0, 2]), np.array([30, 700, 190]), np.array([29, 4, 1200]))
    strata = tuple(Stratum(name, k, 300, 2.1) for k, name in enumerate(NAMES))
    about = {"blind": blind, "map": str(made.folder / "map")}
    write_sample(path, SampleFile(grid, strata, False, NAMES, pixels, about), blind=blind)
    _, app = open_viewer(path, map_=made.folder / "map")
    with serving_app(app) as address, looking(browser, address) as shown:
        page = shown.page
        shown.settle()
        page.wait_for_selector("[data-save=saved]")
        assert (page.locator("[data-layer=class_map]").count() == 0) is blind
        page.wait_for_function("() => document.body.innerText.includes('Point 1 ')")
        page.keyboard.press("2")
        page.wait_for_selector("[data-done='1']")
        page.keyboard.press("3")
        page.wait_for_selector("[data-done='2']")
        page.wait_for_selector("[data-save=saved]")
        page.keyboard.press("p")
        page.keyboard.press("0")
        page.wait_for_selector("[data-done='1']")
        page.wait_for_selector("[data-save=saved]")
    labels = read_labels(path, read_sample(path))
    assert sorted(labels.tolist()) in ([-1, -1, 1], [-1, -1, 2])


def test_a_link_brings_the_same_look_back(shown: Shown, browser: Any) -> None:
    page = shown.page
    shown.link(scene="map", at="400,300", zoom=1, layers="photo,class_map*0.4", view="four")
    page.locator(".map").first.click()
    page.wait_for_selector("[data-pixel]")
    page.wait_for_function("() => location.hash.includes('pixel=')")
    address = page.evaluate("() => location.href")
    pixel = page.get_attribute("[data-pixel]", "data-pixel")
    page.mouse.move(10, 10)
    with looking(browser, address) as again:
        again.settle()
        again.page.wait_for_selector("[data-pixel]")
        assert again.page.get_attribute("[data-pixel]", "data-pixel") == pixel
        assert again.page.locator(".map").count() == 4
        again.page.wait_for_function(f"() => location.href === {address!r}")
        assert np.array_equal(again.colours()[100:, 300:850], shown.colours()[100:, 300:850])


def test_measures_are_on_the_ground(shown: Shown) -> None:
    page = shown.page
    shown.link(scene="map", at="650,450", zoom=0)
    page.keyboard.press("m")
    shown.click(-100, 0)
    box = shown.box()
    page.mouse.dblclick(box["x"] + box["width"] / 2 + 100, box["y"] + box["height"] / 2)
    text = page.locator(".measured").inner_text()
    # 200 pixels of 10 m near the central meridian: a metre of the map is 1 / 0.9996 on the ground.
    assert text.endswith("km")
    assert float(text.split()[0]) == pytest.approx(2.0008, abs=2e-3)
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.locator(".measured").wait_for(state="detached")


def test_polygons_are_drawn_undone_and_saved(shown: Shown, made: Made) -> None:
    page = shown.page
    shown.link(scene="map", at="300,200", zoom=1)
    page.keyboard.press("g")
    page.wait_for_selector("[data-save=saved]")
    page.keyboard.press("2")
    for x, y in ((-40, -40), (40, -40), (40, 20)):
        shown.click(x, y)
    page.keyboard.press("Space")
    page.wait_for_selector("[data-polygons='1']")
    page.wait_for_selector("[data-save=saved]")
    saved = _labels(shown)
    (feature,) = saved["features"]
    assert feature["properties"]["class"] == NAMES[1]
    ring = np.array(feature["geometry"]["coordinates"][0])
    assert ring.min(0) == pytest.approx([280, 180], abs=0.51)
    assert ring.max(0) == pytest.approx([320, 210], abs=0.51)
    page.keyboard.press("Control+z")
    page.wait_for_selector("[data-polygons='0']")
    page.wait_for_selector("[data-save=saved]")
    assert _labels(shown)["features"] == []
    page.keyboard.press("Control+Shift+z")
    page.wait_for_selector("[data-polygons='1']")
    page.wait_for_selector("[data-save=saved]")
    # The brush takes pixels from the polygon, and a page opened anew shows both.
    page.keyboard.press("b")
    page.keyboard.press("1")
    box = shown.box()
    left, top = box["x"] + box["width"] / 2 - 60, box["y"] + box["height"] / 2 - 20
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(left + 120, top, steps=6)
    page.mouse.up()
    page.wait_for_selector("[data-polygons]:not([data-polygons='1'])")
    page.wait_for_selector("[data-save=saved]")
    classes = {each["properties"]["class"] for each in _labels(shown)["features"]}
    assert classes == {NAMES[0], NAMES[1]}
    assert list(made.folder.glob("data/*.painted.gpkg"))
    page.reload()
    page.get_by_role("button", name="Label", exact=True).click()
    page.wait_for_selector("[data-polygons]:not([data-polygons='0'])")


def _labels(shown: Shown) -> Any:
    return shown.page.evaluate(
        "() => fetch('v/map/view.json').then(each => each.json()).then(view =>"
        " fetch(new URL(view.labelling.href, new URL('v/map/view.json', location.href))))"
        ".then(each => each.json())"
    )


def test_what_cannot_be_saved_is_said_and_tried_again(shown: Shown) -> None:
    page = shown.page
    page.keyboard.press("b")
    page.wait_for_selector("[data-save=saved]")
    page.route("**/labels*", lambda route: route.abort())
    shown.click(120, 120)
    page.wait_for_selector("[data-save=failed]")
    assert "does not answer" in page.locator(".save").inner_text()
    page.unroute("**/labels*")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector("[data-save=saved]")
    shown.faults.clear()  # The browser's own line on the request that was cut.


def test_a_raster_that_cannot_be_read_is_named(browser: Any, made: Made) -> None:
    with looking(browser, "about:blank") as shown:
        shown.page.route("**/confidence*.tif", lambda route: route.abort())
        shown.requests.clear()
        shown.page.goto(made.address)
        shown.settle()
        shown.page.get_by_label("Confidence", exact=True).check()
        fault = shown.page.locator(".notices .fault")
        fault.wait_for()
        assert "Confidence" in fault.inner_text()
        shown.faults.clear()
        shown.requests.clear()


def test_keyboard_alone(shown: Shown) -> None:
    page = shown.page
    shown.link(scene="map", at="650.5,450.5", zoom=0)
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.classList.contains('map')"):
            break
    else:
        pytest.fail("Tab does not lead to the map")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-pixel='450,650']")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-pixel='546,746']")
    page.keyboard.press("+")
    page.wait_for_function("() => /zoom=0.58/.test(location.hash)")
    page.keyboard.press("n")
    page.wait_for_selector("[data-place][aria-current=true]")
    first = page.get_attribute("[data-place][aria-current=true]", "data-place")
    page.keyboard.press("n")
    page.keyboard.press("p")
    assert page.get_attribute("[data-place][aria-current=true]", "data-place") == first
    page.keyboard.press("l")
    page.wait_for_function("() => document.activeElement.closest('.layers') !== null")
    was = page.evaluate("() => document.activeElement.checked")
    page.keyboard.press("Space")
    assert page.evaluate("() => document.activeElement.checked") is not was
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="detached")
    page.keyboard.press("f")
    page.wait_for_selector("[data-panes='4']")
    page.keyboard.press("v")
    page.wait_for_selector("[data-save=saved]")  # what was painted before has been read
    page.keyboard.press("g")
    assert page.evaluate("() => document.activeElement.classList.contains('map')")
    for step in ("Enter", "ArrowRight", "Enter", "ArrowDown", "Enter"):
        page.keyboard.press(step)
    page.keyboard.press("Space")
    page.wait_for_selector("[data-polygons]:not([data-polygons='0'])")
    page.keyboard.press("Control+z")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_nothing_serious_for_axe(browser: Any, made: Made, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    options: dict[str, Any] = {"color_scheme": scheme, "bypass_csp": True}
    with looking(browser, made.address, width=width, **options) as shown:
        shown.settle()
        for key in ("Enter", "n", "s", "f", "b", "?"):
            shown.page.keyboard.press(key)
            shown.settle()
            found = axe.Axe().run(shown.page).response["violations"]
            serious = [
                (each["id"], each["nodes"][0]["html"], each["nodes"][0]["failureSummary"])
                for each in found
                if each["impact"] in ("serious", "critical")
            ]
            assert serious == [], key


def test_narrow(browser: Any, made: Made) -> None:
    with looking(browser, made.address, width=390, height=800, has_touch=True) as shown:
        page = shown.page
        shown.settle()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
        assert not page.locator(".panel.layers").is_visible()
        page.locator(".tabs").get_by_role("button", name="Layers").click()
        page.locator(".panel.layers").wait_for(state="visible")
        page.locator(".tabs").get_by_role("button", name="Layers").click()
        page.locator(".panel.layers").wait_for(state="hidden")
        box = shown.box()
        page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_selector("[data-pixel]")
        page.locator(".panel.details").wait_for(state="visible")


def test_opens_from_disk(browser: Any, made: Made, tmp_path: Path) -> None:
    target, scenes = made.target
    web.write_static(target, tmp_path / "page", scenes=scenes)
    with looking(browser, static_page(tmp_path / "page")) as shown:
        shown.settle()
        shown.click(10, 10)
        shown.page.wait_for_selector("[data-pixel]")
        row, col = map(int, shown.page.get_attribute("[data-pixel]", "data-pixel").split(","))
        expected = made.photo[:, row, col] / 100
        assert shown.stored()["photo"] == pytest.approx(expected, rel=1e-6)
        assert "are not" not in shown.page.locator(".notices").inner_text()
        assert shown.colour(10, 30) in colours_of(shown)


def colours_of(shown: Shown) -> list[tuple[int, ...]]:
    """Colours of the legend of the class map."""
    texts = shown.page.locator("[data-layer=class_map] .swatch").evaluate_all(
        "all => all.map(each => getComputedStyle(each).backgroundColor)"
    )
    return [tuple(map(int, text.strip("rgb()").split(","))) for text in texts]


HOSTILE = (
    "<script>window.stolen = 1</script>", "<img src=x onerror='window.stolen = 2'>", 'a "b" #1 %41',
)  # fmt: skip


def test_names_are_text(browser: Any, made: Made, tmp_path: Path) -> None:
    """Of folders, scenes, classes and bands: in the page as served, and opened from disk."""
    data = tmp_path / "d <i>#1% ü'"
    write(data / "x.tif", made.photo, "utm")
    write(data / "labels.tif", made.classes[None], "utm", nodata=255)
    manifest = {
        "classes": [{"name": name, "code": k} for k, name in enumerate(HOSTILE)],
        "modalities": {"x": {"kind": "optical", "bands": [*HOSTILE, "ü"]}},
        "scenes": [
            {"id": id, "split": "train", "x": "x.tif", "labels": "labels.tif"} for id in HOSTILE
        ],
    }
    path = data / "dataset.yaml"
    path.write_text(yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True))
    web.write_static(path, tmp_path / "p #1 % <b>")
    _, app = open_viewer(path)
    with serving_app(app) as address:
        for place in (address, static_page(tmp_path / "p #1 % <b>")):
            with looking(browser, place) as shown:
                page = shown.page
                for number, id in enumerate(HOSTILE):
                    select = page.locator(".scene select")
                    select.select_option(index=number)
                    assert id in select.locator("option").nth(number).inner_text()
                    shown.settle()
                    shown.click(3, 3)
                    page.wait_for_selector("[data-read=x][data-stored]")
                    text = page.locator("body").inner_text()
                    assert all(name in text for name in HOSTILE)
                    assert page.evaluate("() => window.stolen") is None
                    assert page.locator("body script, img[src=x], body i, body b").count() == 0

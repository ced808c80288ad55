"""The page of the service in a browser, against a service that a test drives."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from fake_service import PAGE, FakeService, serving_fake
from terrafuse.web.service.messages import JobRequest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
    pytest.mark.skipif(not (PAGE / "jobs.html").is_file(), reason="the page is not built"),
]
expect = sync_api.expect
_RASTERS: dict[str, str | list[str]] = {
    "optical": "north/optical.tif", "sar": "north/sar.tif", "dsm": "north/dsm.tif",
}  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def service(tmp_path: Path) -> FakeService:
    folder = tmp_path / "north"
    folder.mkdir()
    for name in ("optical", "sar", "dsm"):
        (folder / f"{name}.tif").write_bytes(b"II*\0" + name.encode())
    preview = tmp_path / "preview.png"
    Image.new("RGB", (8, 8), "green").save(preview)
    return FakeService(roots=(tmp_path,), preview=preview)


@contextmanager
def opened(browser: Any, service: FakeService, **options: Any) -> Iterator[Any]:
    """The page in a tab of its own; fails on faults of its scripts, and on any other origin."""
    faults: list[str] = []
    elsewhere: list[str] = []
    with serving_fake(service) as address:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "console",
            # Refusals of the service are no faults of the page.
            lambda message: (
                faults.append(message.text)
                if message.type == "error" and "status of" not in message.text
                else None
            ),
        )
        host = urlsplit(address).netloc
        page.on(
            "request",
            lambda request: (
                elsewhere.append(request.url)
                if not request.url.startswith(("data:", "blob:"))
                and urlsplit(request.url).netloc != host
                else None
            ),
        )
        page.goto(address)
        yield page
        context.close()
    assert not faults
    assert not elsewhere


def job_of(page: Any, title: str) -> Any:
    return page.get_by_role("article", name=title)


def choose(page: Any, modality: str) -> None:
    page.get_by_role("button", name=f"Choose rasters of {modality} on the server").click()
    dialog = page.get_by_role("dialog", name=f"Rasters of {modality}")
    if dialog.get_by_role("button", name="north/").count() or modality == "optical":
        dialog.get_by_role("button", name="north/").click()
    dialog.get_by_role("button", name=f"{modality}.tif").click()
    dialog.get_by_role("button", name="Use this raster").click()


def test_a_map_is_asked_for_watched_and_fetched(browser: Any, service: FakeService) -> None:
    with opened(browser, service) as page:
        expect(page.get_by_text("No maps yet.")).to_be_visible()
        for modality in ("optical", "sar", "dsm"):
            choose(page, modality)
        page.get_by_role("checkbox", name="entropy").check()
        page.get_by_role("checkbox", name="polygons").check()
        page.get_by_label("Title (optional)").fill("North bank")
        page.get_by_label("Priority").fill("3")
        page.get_by_role("button", name="Make the map").click()

        job = job_of(page, "North bank")
        expect(job).to_contain_text("waiting")
        (made,) = service.jobs.values()
        assert made.request == JobRequest(
            model="all_modalities",
            rasters=_RASTERS,
            products=["class_map", "confidence", "entropy"],
            outputs=["preview", "polygons"],
            priority=3,
            title="North bank",
        )
        service.run(made.id, 10)
        expect(job).to_contain_text("10 of 40 units, 25 %")
        assert job.get_by_role("progressbar").evaluate("bar => bar.value") == 0.25
        service.run(made.id, 30)
        expect(job).to_contain_text("30 of 40 units, 75 %")
        service.finish(made.id)
        expect(job).to_contain_text("done")
        view = job.get_by_role("link", name="Look at the map")
        assert view.get_attribute("href") == f"/view/{made.id}/"
        job.get_by_text("3 files").click()
        with page.expect_download() as download:
            job.get_by_role("link", name="class_map.tif").click()
        assert download.value.suggested_filename == "class_map.tif"
        assert Path(download.value.path()).stat().st_size == 33_109
        job.get_by_role("button", name="Copy for QGIS").click()
        tiles = f"{service.address}api/jobs/{made.id}/tiles/class_map/{{z}}/{{x}}/{{y}}.png"
        expect(page.get_by_text(tiles)).to_be_visible()


def test_what_is_missing_and_what_the_service_refuses_is_said(
    browser: Any, service: FakeService
) -> None:
    with opened(browser, service) as page:
        page.get_by_role("button", name="Make the map").click()
        sar = page.get_by_role("group", name="sar")
        expect(sar).to_contain_text("Choose a raster of sar, or upload one.")
        for modality in ("optical", "sar", "dsm"):
            choose(page, modality)
        expect(sar).not_to_contain_text("Choose a raster of sar, or upload one.")
        page.get_by_label("Title (optional)").fill("to be refused")
        page.get_by_role("button", name="Make the map").click()
        expect(page.get_by_role("alert")).to_contain_text(["has 100 jobs that wait or run"])
        assert not service.jobs
        # What was chosen is still there.
        expect(sar).to_contain_text("north/sar.tif")


def test_a_stac_item_and_other_windows(browser: Any, service: FakeService) -> None:
    with opened(browser, service) as page:
        expect(page.get_by_role("group", name="dsm")).to_be_visible()
        expect(page.get_by_label("Or a STAC item")).to_be_hidden()  # no host is allowed
    service.may, service.url_hosts = frozenset(("urls",)), ("data.org", "data.net:8443")
    service.token = "tf_secret"
    with opened(browser, service) as page:
        page.get_by_label("Token").fill("tf_secret")
        page.keyboard.press("Enter")
        item = page.get_by_label("Or a STAC item")
        expect(item).to_have_accessible_description("of data.org, data.net:8443")
        item.fill(" https://data.org/a/item.json ")
        choose(page, "optical")
        page.get_by_text("More settings").click()
        page.get_by_label("side", exact=True).fill("12.5")
        send = page.get_by_role("button", name="Make the map")
        send.click()
        expect(page.get_by_text("clear this field, or remove those chosen")).to_be_visible()
        expect(item).to_be_focused()
        page.get_by_role("button", name="Remove north/optical.tif").click()
        expect(page.get_by_text("clear this field, or remove those chosen")).to_be_hidden()
        send.click()
        expect(page.get_by_text("Sizes of windows are whole numbers of pixels.")).to_be_visible()
        expect(page.get_by_label("side", exact=True)).to_be_focused()
        page.get_by_label("side", exact=True).fill("128")
        page.get_by_label("overlap", exact=True).fill("0")
        send.click()
        expect(page.get_by_role("article")).to_have_count(1)
        (made,) = service.jobs.values()
        assert made.request == JobRequest(
            model="all_modalities", item="https://data.org/a/item.json", crop_size=128, overlap=0
        )
        page.get_by_role("button", name="Again with changes").click()
        expect(item).to_have_value("https://data.org/a/item.json")
        expect(page.get_by_label("overlap", exact=True)).to_have_value("0")


def test_rasters_are_uploaded_by_button_and_by_dropping(
    browser: Any, service: FakeService, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("no raster")
    with opened(browser, service) as page:
        optical = page.get_by_role("group", name="optical")
        with page.expect_file_chooser() as chooser:
            optical.get_by_role("button", name="Upload rasters of optical").click()
        chooser.value.set_files([tmp_path / "north/optical.tif", tmp_path / "notes.txt"])
        expect(optical.get_by_role("button", name="Remove optical.tif")).to_be_visible()
        expect(optical).to_contain_text("'notes.txt' is no raster that this service takes")
        (sent,) = service.uploads.values()
        assert sent == (tmp_path / "north/optical.tif").read_bytes()

        drop = page.evaluate_handle(
            """() => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array([0x49, 0x49, 42, 0])], 'dropped.tif'));
                return data;
            }"""
        )
        sar = page.get_by_role("group", name="sar")
        sar.dispatch_event("drop", {"dataTransfer": drop})
        expect(sar.get_by_role("button", name="Remove dropped.tif")).to_be_visible()
        choose_dsm = page.get_by_role("button", name="Choose rasters of dsm on the server")
        choose_dsm.click()
        page.get_by_label("Or a path").fill("north/dsm.tif")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Make the map").click()
        expect(page.get_by_role("article")).to_have_count(1)
        (made,) = service.jobs.values()
        first, second = service.uploads
        assert made.request.rasters == {
            "optical": f"upload:{first}", "sar": f"upload:{second}", "dsm": "north/dsm.tif",
        }  # fmt: skip


def test_jobs_are_stopped_resumed_read_about_and_deleted(
    browser: Any, service: FakeService
) -> None:
    made = service.add(JobRequest(title="North", rasters=_RASTERS))
    other = service.add(JobRequest(title="South", rasters=_RASTERS, tta=["flips"]))
    service.run(made.id, 16)
    service.fail(other.id, "the disk is full. Make room, then resume")
    with opened(browser, service) as page:
        job = job_of(page, "North")
        job.get_by_role("button", name="Log").click()
        dialog = page.get_by_role("dialog", name="Log of North")
        expect(dialog).to_contain_text("16 of 40 units are kept")
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        job.get_by_role("button", name="Stop").click()
        expect(job).to_contain_text("stopped")
        # The focus stays at the job although its button has gone.
        assert job.evaluate("node => node.contains(document.activeElement)")
        job.get_by_role("button", name="Go on").click()
        expect(job).to_contain_text("waiting")

        failed = job_of(page, "South")
        expect(failed).to_contain_text("the disk is full. Make room, then resume")
        page.get_by_role("button", name="Not done 1").click()
        expect(page.get_by_role("article")).to_have_count(1)
        failed.get_by_role("button", name="Again with changes").click()
        expect(page.get_by_label("Title (optional)")).to_have_value("South")
        expect(page.get_by_role("checkbox", name="flips")).to_be_checked()
        expect(page.get_by_role("group", name="sar")).to_contain_text("north/sar.tif")
        failed.get_by_role("button", name="Delete").click()
        page.get_by_role("button", name="Keep it").click()
        expect(failed).to_be_visible()
        failed.get_by_role("button", name="Delete").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(failed).to_have_count(0)
        assert set(service.jobs) == {made.id}


def test_events_go_on_after_a_break_and_after_refusals(browser: Any, service: FakeService) -> None:
    made = service.add(JobRequest(title="North", rasters=_RASTERS))
    service.run(made.id, 1)
    with opened(browser, service) as page:
        job = job_of(page, "North")
        expect(job).to_contain_text("1 of 40")
        # Only events tell: the list that is asked for every few seconds has nothing to say.
        service.refuses_lists = 503
        service.breaks += 1
        service.run(made.id, 7)
        expect(job).to_contain_text("7 of 40")
        service.refuses_streams = 503
        events = f"GET /api/jobs/{made.id}/events"
        before = service.requests.count(events)
        service.breaks += 1
        while service.requests.count(events) == before:
            page.wait_for_timeout(20)
        service.refuses_streams = 0
        service.run(made.id, 9)
        expect(job).to_contain_text("9 of 40")
        expect(page.get_by_role("status").get_by_text("Trying again")).to_be_visible()
        service.refuses_lists = 0
        expect(page.get_by_text("Trying again")).to_be_hidden()


def test_a_token_is_asked_for_and_not_kept(browser: Any, service: FakeService) -> None:
    service.token = "tf_secret"
    service.add(JobRequest(title="North", rasters=_RASTERS))
    with opened(browser, service) as page:
        dialog = page.get_by_role("dialog", name="Sign in")
        dialog.get_by_label("Token").fill("wrong")
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_have_text("This is no token of this service.")
        page.keyboard.press("Escape")
        expect(dialog).to_be_visible()
        dialog.get_by_label("Token").fill("tf_secret")
        page.keyboard.press("Enter")
        expect(job_of(page, "North")).to_be_visible()
        kept = page.evaluate(
            "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
        )
        assert "tf_secret" not in kept
        # This token may upload, and no more.
        assert page.get_by_label("Priority").get_attribute("max") == "0"
        expect(page.get_by_text("ann")).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("dialog", name="Sign in")).to_be_visible()


def test_everything_is_done_by_keys(browser: Any, service: FakeService) -> None:
    with opened(browser, service) as page:
        expect(page.get_by_text("No maps yet.")).to_be_visible()
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the jobs")).to_be_focused()
        for modality in ("optical", "sar", "dsm"):
            page.get_by_role("button", name=f"Choose rasters of {modality} on the server").focus()
            page.keyboard.press("Enter")
            dialog = page.get_by_role("dialog")
            if modality == "optical":
                expect(dialog.get_by_role("button", name="north/")).to_be_focused()
                page.keyboard.press("Enter")
            expect(dialog.get_by_role("button", name="dsm.tif")).to_be_focused()
            for _ in range({"dsm": 0, "optical": 1, "sar": 2}[modality]):
                page.keyboard.press("ArrowDown")
            page.keyboard.press("Space")
            expect(dialog.get_by_role("button", name=f"{modality}.tif")).to_have_attribute(
                "aria-pressed", "true"
            )
            page.keyboard.press("Tab")
            while not page.evaluate("document.activeElement.type === 'submit'"):
                page.keyboard.press("Tab")
            page.keyboard.press("Enter")
            # Back at the button that opened it.
            expect(
                page.get_by_role("button", name=f"Choose rasters of {modality} on the server")
            ).to_be_focused()
        page.get_by_label("Title (optional)").focus()
        page.keyboard.type("By keys")
        page.keyboard.press("Enter")
        expect(job_of(page, "By keys")).to_be_visible()
        (made,) = service.jobs.values()
        assert made.request.rasters == _RASTERS


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_screen(
    browser: Any, service: FakeService, scheme: str, width: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe")
    done, running, failed, _ = (
        service.add(JobRequest(title=title, rasters=_RASTERS))
        for title in ("A" * 90, "B", "C", "D")
    )
    service.run(done.id, 40)
    service.finish(done.id)
    service.run(running.id, 20)
    service.fail(failed.id, "the raster '" + "long/" * 30 + "sar.tif' cannot be read. Mend it")
    size = {"width": width, "height": 844}
    with opened(browser, service, viewport=size, color_scheme=scheme) as page:
        expect(page.get_by_role("article")).to_have_count(4)
        page.locator("details.card summary").click()
        page.get_by_text("More settings").click()
        page.get_by_text("3 files").click()
        _without_findings(axe, page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.get_by_role("button", name="Choose rasters of sar on the server").click()
        expect(page.get_by_role("button", name="north/")).to_be_visible()
        _without_findings(axe, page)
        page.get_by_role("button", name="Close").click()
        job_of(page, "B").get_by_role("button", name="Log").click()
        expect(page.get_by_text("are kept")).to_be_visible()
        _without_findings(axe, page)


def _without_findings(axe: Any, page: Any) -> None:
    violations = axe.Axe().run(page).response["violations"]
    grave = [
        (finding["id"], [node["html"][:120] for node in finding["nodes"]])
        for finding in violations
        if finding["impact"] in ("serious", "critical")
    ]
    assert not grave


def test_colours_change_and_stay(browser: Any, service: FakeService) -> None:
    with opened(browser, service, color_scheme="light") as page:
        ground = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(ground)
        page.get_by_role("button", name="Change to dark colours").click()
        dark = page.evaluate(ground)
        assert light != dark
        page.reload()
        expect(page.get_by_role("button", name="Change to light colours")).to_be_visible()
        assert page.evaluate(ground) == dark


def test_older_jobs_are_fetched_when_asked_for(browser: Any, service: FakeService) -> None:
    for number in range(25):
        made = service.add(JobRequest(title=f"map {number}", rasters=_RASTERS))
        service.fail(made.id, "no")
    with opened(browser, service) as page:
        expect(page.get_by_role("article")).to_have_count(20)
        page.get_by_role("button", name="Show older jobs").click()
        expect(page.get_by_role("article")).to_have_count(25)
        expect(page.get_by_role("article").last).to_contain_text("map 0")
        expect(page.get_by_role("button", name="Show older jobs")).to_be_hidden()

"""The start of the web page: what it offers, weighs and costs before a photo is chosen."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import httpx2
from selenium.webdriver.common.keys import Keys

from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.http.api_keys import ApiKeys

from ....support.browser import Browser
from ....support.http_service import Service
from ....support.page import await_end, choose, open_page, tile_names

Picture = Callable[..., Path]

PAGE_BYTES = 100_000
"""All that a first visit loads: markup, styles, modules and pictures."""
FIRST_PAINT = 300.0
"""Milliseconds, on the loopback."""


def test_a_first_visit_is_light_and_fast_and_asks_no_other_host(
    service: Service, browser: Browser
) -> None:
    paints = []
    for _ in range(3):  # other programs share the cores: the fastest visit is the page's own
        browser.send("Network.clearBrowserCache")
        open_page(browser, service.url)
        paints.append(browser.first_paint())
    assert min(paints) < FIRST_PAINT, paints
    assert browser.layout_shift() < 0.01
    urls = set(browser.requests())
    assert {url.split("/")[2] for url in urls if url.startswith("http")} == {
        service.url.removeprefix("http://")
    }
    files = [url for url in urls if "/v1/" not in url and url.startswith("http")]
    with httpx2.Client() as client:
        sizes = {url: len(client.get(url).content) for url in files}
    assert len(sizes) > 15
    assert sum(sizes.values()) < PAGE_BYTES, sizes
    assert browser.complaints() == []


def test_every_start_is_accessible(service: Service, browser: Browser) -> None:
    for dark in (False, True):
        browser.emulate(1200, 900, dark=dark)
        open_page(browser, service.url)
        assert browser.faults() == []
        browser.click("#options summary")
        assert browser.faults() == []


def test_it_fits_every_screen(service: Service, browser: Browser) -> None:
    for width in (320, 390, 768, 1440):
        browser.emulate(width, 800, mobile=width < 1000)
        open_page(browser, service.url)
        browser.click("#options summary")
        assert browser.run("return document.documentElement.scrollWidth") <= width


def test_it_warns_that_only_the_demo_model_is_there(service: Service, browser: Browser) -> None:
    open_page(browser, service.url)
    browser.until(lambda: browser.shown("#demo"))
    assert "bgpipe models pull birefnet-general" in browser.text("#demo")


def test_options_are_folded_away_kept_and_used(
    service: Service, browser: Browser, picture: Picture
) -> None:
    open_page(browser, service.url)
    assert not browser.shown("#option-fields")
    assert browser.text("#chosen") == "Balanced · PNG"
    browser.click("#options summary")
    browser.click("#option-fields .choice:has([value=portraits])")
    browser.one("#new-format").send_keys("WebP")
    assert browser.text("#chosen") == "Portraits · WEBP"
    disabled = browser.all("#new-model option:disabled")
    assert disabled
    assert all("not on this server" in each.text for each in disabled)
    open_page(browser, service.url)
    assert browser.text("#chosen") == "Portraits · WEBP"
    choose(browser, picture("bowl.png"))
    await_end(browser)
    job = browser.driver.current_url.partition("#")[2]
    with service.client() as client:
        summary = client.get(f"/v1/jobs/{job}").json()
    assert summary["format"] == "webp"
    assert summary["preset"]["blur"] == 2.0


def test_a_sample_opens_with_its_cutout_at_once(service: Service, browser: Browser) -> None:
    open_page(browser, service.url)
    browser.until(lambda: browser.loaded(".samples img"))
    browser.requests()
    browser.click("[data-sample=coffee]")
    browser.until(lambda: browser.loaded(".viewer img"), 5)
    assert browser.texts(".viewer h2") == ["Cup of coffee"]
    requests = browser.requests()
    assert any(url.endswith("/page/sample-coffee-cutout.webp") for url in requests)
    assert not [url for url in requests if "/v1/uploads" in url or url.endswith("/v1/jobs")]
    assert not [label for label in browser.texts(".viewer .actions button") if "Redo" in label]
    browser.press(Keys.ESCAPE)
    browser.until(lambda: browser.focused() == "Sample: cup of coffee", 5)
    assert not browser.shown(".viewer")


def test_a_folder_dropped_anywhere_starts_and_names_the_job(
    service: Service, browser: Browser, picture: Picture
) -> None:
    open_page(browser, service.url)
    drag = {
        "items": [],
        "files": [str(picture("shoot/b.png").parent)],
        "dragOperationsMask": 1,
    }
    picture("shoot/a.png")
    at = {"x": 5, "y": 800, "data": drag}  # far from the box in the middle
    browser.send("Input.dispatchDragEvent", type="dragEnter", **at)
    browser.until(lambda: browser.texts("#dropping") == ["Drop to remove backgrounds"])
    browser.send("Input.dispatchDragEvent", type="dragOver", **at)
    browser.send("Input.dispatchDragEvent", type="drop", **at)
    assert await_end(browser) == "2 done"
    assert not browser.shown("#dropping")
    assert tile_names(browser) == ["a.png", "b.png"]
    assert browser.text("#job-title") == "shoot"


def test_a_pasted_picture_starts_too(service: Service, browser: Browser, picture: Picture) -> None:
    open_page(browser, service.url)
    content = base64.b64encode(picture("pasted.png").read_bytes()).decode()
    browser.run(
        "const bytes = Uint8Array.from(atob(arguments[0]), (each) => each.charCodeAt(0));"
        "const data = new DataTransfer();"
        "data.items.add(new File([bytes], 'image.png', {type: 'image/png'}));"
        "document.body.dispatchEvent("
        "  new ClipboardEvent('paste', {clipboardData: data, bubbles: true}))",
        content,
    )
    assert await_end(browser) == "1 done"
    assert tile_names(browser) == ["image.png"]


def test_too_many_photos_are_refused_before_any_is_sent(
    service: Service, browser: Browser, picture: Picture
) -> None:
    with service.another(BGPIPE_SERVE__FILES="2") as small:
        open_page(browser, small.url)
        choose(browser, *(picture(f"{name}.png") for name in "abc"))
        browser.until(lambda: browser.shown("#home-error"))
        assert browser.text("#home-error") == "3 photos: this server takes 2 at once."
        assert not [url for url in browser.requests() if "/v1/uploads" in url]


def test_a_server_that_is_gone_is_named_beside_the_button(
    service: Service, browser: Browser, picture: Picture
) -> None:
    with service.another() as mortal:
        open_page(browser, mortal.url)
    choose(browser, picture())
    browser.until(lambda: browser.shown("#home-error"))
    assert browser.text("#home-error") == "The server cannot be reached. Check the connection."
    assert browser.shown("#home .choose")


def test_the_keyboard_reaches_everything_in_order(service: Service, browser: Browser) -> None:
    open_page(browser, service.url)
    browser.until(lambda: browser.shown("#demo"))
    names = []
    for _ in range(7):
        browser.tab()
        names.append(browser.focused())
    assert names == [
        "bgpipe",
        "Choose photos",
        "Choose a folder",
        "Options · Balanced · PNG",
        "Sample: cat",
        "Sample: cup of coffee",
        "Sample: astronaut",
    ]


def test_where_a_key_is_needed_the_page_asks_for_it_once(
    guarded: Service, browser: Browser
) -> None:
    with connect(guarded.redis_url) as redis:
        key = ApiKeys(redis).add("page")
    open_page(browser, guarded.url)
    browser.until(lambda: browser.shown("#key-dialog"))
    assert browser.faults() == []
    browser.one("#key").send_keys("wrong", Keys.ENTER)
    browser.until(lambda: "not an API key" in browser.text("#key-message"))
    browser.one("#key").clear()
    browser.one("#key").send_keys(key, Keys.ENTER)
    browser.until(lambda: not browser.shown("#key-dialog") and browser.all("#option-fields select"))
    open_page(browser, guarded.url)
    assert not browser.shown("#key-dialog")

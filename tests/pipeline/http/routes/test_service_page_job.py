"""One job on the web page: from the first photo sent to the download, with what fails on the way."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from selenium.webdriver.common.keys import Keys

from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.http.api_keys import ApiKeys
from bgpipe.pipeline.jobs.items import REFUSALS
from bgpipe.pipeline.jobs.store import JobStore

from ....support.browser import Browser
from ....support.http_service import Service
from ....support.page import await_end, choose, make_job, open_page, tile_names

Picture = Callable[..., Path]
NAMES = ["<b>lamp.png", "bowl.png", "cup & saucer.png", "shoe.jpg", "vase [1].jpg"]


@contextmanager
def slow_uploads(browser: Browser, kilobytes: int) -> Iterator[None]:
    """Send that many kilobytes a second at most."""
    speeds = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": kilobytes * 1024}
    browser.send("Network.emulateNetworkConditions", offline=False, **speeds)
    yield
    speeds["uploadThroughput"] = -1
    browser.send("Network.emulateNetworkConditions", offline=False, **speeds)


def test_photos_appear_at_once_and_become_cutouts_in_their_places(
    service: Service, browser: Browser, picture: Picture
) -> None:
    open_page(browser, service.url)
    choose(browser, *(picture(name) for name in NAMES))
    browser.until(lambda: browser.loaded("#grid .photo"), 5)
    browser.until(lambda: tile_names(browser) == NAMES, 5)
    assert browser.text("#job-title") == "<b>lamp.png + 4 more"
    places = browser.run(_PLACES)
    assert await_end(browser) == "5 done"
    assert browser.texts("#grid .state") == [""] * 5
    browser.until(lambda: len(browser.all(".tile.ready")) == 5)
    assert browser.run(_PLACES) == places
    assert browser.layout_shift() < 0.01
    assert browser.faults() == []
    assert browser.complaints() == []


_PLACES = "return [...document.querySelectorAll('.tile')].map((each) => each.offsetLeft + 'x' + each.offsetTop)"


def test_a_running_job_counts_and_a_reload_finds_it_again(
    service: Service, browser: Browser, picture: Picture
) -> None:
    open_page(browser, service.url)
    choose(browser, *(picture(f"{number:02}.png", size=(900, 700)) for number in range(8)))
    browser.until(lambda: "of 8 done" in browser.text("#summary"))
    browser.until(lambda: "images/s" in browser.text("#summary") or browser.shown("#delete"))
    await_end(browser)
    address = browser.driver.current_url
    browser.driver.refresh()
    assert await_end(browser) == "8 done"
    assert browser.driver.current_url == address
    assert browser.layout_shift() < 0.01
    assert len(tile_names(browser)) == 8
    assert browser.driver.title == "00.png + 7 more · bgpipe"


def test_a_refused_photo_says_why_in_its_place(
    service: Service, browser: Browser, picture: Picture, no_image: Path
) -> None:
    open_page(browser, service.url)
    choose(browser, picture("bowl.png"), no_image, picture("shoe.jpg"))
    assert await_end(browser) == "2 done · 1 refused"
    browser.until(lambda: tile_names(browser) == ["bowl.png", "notes.jpg", "shoe.jpg"], 5)
    assert browser.texts(".tile[data-state=refused] .state") == ["Not an image"]
    assert browser.texts(".problem") == ["This file is not a picture that can be read."]
    browser.click("[data-show=failed]")
    browser.until(lambda: tile_names(browser) == ["notes.jpg"], 5)


def test_photos_that_are_all_refused_leave_a_way_on(
    service: Service, browser: Browser, no_image: Path, picture: Picture
) -> None:
    open_page(browser, service.url)
    choose(browser, no_image)
    browser.until(lambda: browser.text("#summary").startswith("No photo could be used."))
    assert not browser.shown("#download")
    assert browser.texts(".actions button:enabled") == []
    browser.click("#new")
    browser.until(lambda: browser.shown("#home"))
    choose(browser, picture())
    assert await_end(browser) == "1 done"


def test_what_failed_and_what_to_check_is_filtered_and_explained(
    service: Service, browser: Browser, picture: Picture, damaged: Path
) -> None:
    job = make_job(
        browser, service.url, picture("bowl.png"), picture("turn.gif", frames=3), damaged
    )
    assert browser.text("#summary") == "2 done · 1 to check · 1 failed"
    assert browser.texts("[data-show]") == ["All 3", "To check 1", "Failed 1"]
    assert browser.texts(".tile.flagged .state") == ["Only the first frame"]
    assert not browser.shown(".tile .advice")
    browser.click("[data-show=flagged]")
    browser.until(lambda: tile_names(browser) == ["turn.gif"], 5)
    assert "Save the others as files of their own." in browser.text(".tile.flagged .advice")
    assert browser.faults() == []
    browser.click("[data-show=failed]")
    browser.until(lambda: tile_names(browser) == ["damaged.png"], 5)
    assert browser.texts(".problem") == ["Part of it is missing. Copy or export it again."]
    assert browser.faults() == []
    browser.requests()
    browser.click("#retry")
    browser.until(lambda: any(url.endswith(f"{job}/retry") for url in browser.requests()), 10)
    browser.until(lambda: browser.text("#summary") == "2 done · 1 to check · 1 failed")
    browser.click("[data-show=all]")
    browser.until(lambda: len(tile_names(browser)) == 3, 5)


def test_everything_is_downloaded_as_a_zip_and_one_photo_as_itself(
    service: Service, browser: Browser, picture: Picture
) -> None:
    make_job(browser, service.url, picture("bowl.png"), picture("shoe.jpg"))
    assert browser.text("#download") == "Download all"
    browser.click("#download")
    browser.until(lambda: list(browser.folder.glob("*.zip")))
    with zipfile.ZipFile(next(browser.folder.glob("*.zip"))) as archive:
        assert sorted(archive.namelist()) == ["bowl.png", "shoe.png"]
    browser.click('[aria-label="Download shoe.jpg"]')
    browser.until(lambda: (browser.folder / "shoe.png").exists())
    browser.click("#new")
    choose(browser, picture("vase.jpg"))
    browser.until(lambda: browser.text("#download") == "Download")
    await_end(browser)
    assert browser.all("#grid.single")
    browser.click("#download")
    browser.until(lambda: (browser.folder / "vase.png").exists())


def test_sending_shows_progress_and_can_be_stopped(
    service: Service, browser: Browser, tmp_path: Path, picture: Picture
) -> None:
    large = picture("large.bmp", size=(900, 700))
    open_page(browser, service.url)
    with slow_uploads(browser, 300):
        choose(browser, large)
        browser.until(lambda: 0 < float(browser.one("#progress").get_property("value")) < 1)
        assert browser.text("#summary") == "Sending 1 of 1"
        assert browser.texts(".tile .state") == ["Sending"]
        browser.click("#stop")
        browser.until(lambda: browser.shown("#home"))
    assert browser.text("#toast") == "Stopped. Nothing was kept."
    choose(browser, picture("small.png"))
    assert await_end(browser) == "1 done"
    browser.until(lambda: tile_names(browser) == ["small.png"], 5)


def test_a_running_job_can_be_stopped(guarded: Service, browser: Browser, picture: Picture) -> None:
    """On a cluster without workers, where a job stays open."""
    open_without_worker(browser, guarded)
    choose(browser, picture("bowl.png"), picture("shoe.jpg"))
    browser.until(lambda: browser.text("#summary") == "0 of 2 done")
    assert browser.texts("#grid .state") == ["Waiting", "Waiting"]
    assert browser.faults() == []
    browser.click("#stop")
    assert await_end(browser) == "stopped · 0 done"


@pytest.mark.slow
def test_a_job_that_waits_for_a_worker_says_so(
    guarded: Service, browser: Browser, picture: Picture
) -> None:
    open_without_worker(browser, guarded)
    choose(browser, picture("bowl.png"))
    browser.until(lambda: browser.text("#job-error").startswith("Still waiting for a worker."), 30)
    browser.click("#stop")
    assert await_end(browser) == "stopped · 0 done"


def test_a_paused_job_says_why(guarded: Service, browser: Browser, picture: Picture) -> None:
    open_without_worker(browser, guarded)
    choose(browser, picture("bowl.png"))
    browser.until(lambda: browser.text("#summary") == "0 of 1 done")
    with connect(guarded.redis_url) as redis:
        jobs = JobStore(redis)
        (job,) = (each for each in jobs.running_ids() if each in browser.driver.current_url)
        for _ in range(REFUSALS):
            claim = jobs.items.claim(job, 0, "worker")
            assert claim
            jobs.items.give_back(claim, "the disk is full: free it")
        browser.until(lambda: browser.text("#job-error").startswith("Paused since"))
        assert ": the disk is full: free it. It goes on" in browser.text("#job-error")
        jobs.unpause(job)
        browser.until(lambda: browser.text("#job-error") == "")


def open_without_worker(browser: Browser, guarded: Service) -> None:
    with connect(guarded.redis_url) as redis:
        key = ApiKeys(redis).add(f"stopper{redis.incr('stoppers')}")
    open_page(browser, guarded.url)
    browser.one("#key").send_keys(key, Keys.ENTER)
    browser.until(lambda: browser.all("#option-fields select"))


def test_a_large_job_loads_as_it_is_scrolled(
    service: Service, browser: Browser, damaged: Path
) -> None:
    """Of photos that fail, which takes a worker no time."""
    content = damaged.read_bytes()
    files = [("files", (f"{number:04}.png", content)) for number in range(210)]
    with service.client() as client:
        job = client.post("/v1/jobs/from-images", files=files).json()["job"]
        await_finished(client, job)
    browser.driver.get(f"{service.url}/#{job}")
    browser.until(lambda: browser.shown("#delete"))
    assert len(browser.all(".tile")) == 200
    browser.run("scrollTo(0, document.body.scrollHeight)")
    browser.until(lambda: len(browser.all(".tile")) == 210)


def await_finished(client: httpx2.Client, job: str) -> None:
    with client.stream("GET", f"/v1/jobs/{job}/events") as events:
        assert any("event: end" in line for line in events.iter_lines())


def test_a_job_that_is_gone_leads_home(service: Service, browser: Browser) -> None:
    browser.driver.get(f"{service.url}/#nosuchjob")
    browser.until(lambda: browser.text("#toast") == "This job is gone.")
    assert browser.shown("#home")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_a_phone(
    service: Service, browser: Browser, picture: Picture, *, dark: bool
) -> None:
    browser.emulate(360, 740, dark=dark, mobile=True)
    make_job(
        browser, service.url, picture("a long name that does not fit a phone.png"), picture("b.png")
    )
    assert browser.run("return document.documentElement.scrollWidth") <= 360
    assert browser.faults() == []
    browser.click(".open")
    browser.until(lambda: browser.loaded(".viewer img"))
    assert browser.run("return document.documentElement.scrollWidth") <= 360
    assert browser.faults() == []

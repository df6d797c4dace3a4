"""The list of jobs on the web page: titles, thumbnails, deletion with undo, redoing a whole job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ....support.browser import Browser
from ....support.http_service import Service
from ....support.page import await_end, make_job, open_page

Picture = Callable[..., Path]


def test_a_job_is_listed_by_its_photo_with_thumbnail_and_counts(
    service: Service, browser: Browser, picture: Picture
) -> None:
    job = make_job(browser, service.url, picture("bowl.png"), picture("turn.gif", frames=2))
    browser.click(".brand")
    row = f'[data-job="{job}"]'
    browser.until(lambda: browser.loaded(f"{row} img"))
    assert browser.texts(f"{row} a") == ["bowl.png"]
    line, counts = browser.texts(f"{row} p")
    assert line.startswith("2 photos · today ")
    assert counts == "2 done · 1 to check"
    assert browser.driver.title == "bgpipe: remove backgrounds"
    assert browser.faults() == []
    browser.click(f"{row} a")
    assert await_end(browser) == "2 done · 1 to check"
    browser.driver.back()
    browser.until(lambda: browser.shown(row), 10)


def test_a_deletion_can_be_undone(service: Service, browser: Browser, picture: Picture) -> None:
    job = make_job(browser, service.url, picture("bowl.png"))
    browser.click("#delete")
    browser.until(lambda: "“bowl.png” deleted." in browser.text("#toast"), 5)
    assert browser.shown("#home")
    browser.until(lambda: browser.shown("#demo"))
    assert not browser.all(f'[data-job="{job}"]')
    assert browser.faults() == []
    browser.click("#toast button")
    assert await_end(browser) == "1 done"
    assert job in browser.driver.current_url


@pytest.mark.slow
def test_a_deletion_is_final_once_it_can_no_longer_be_undone(
    service: Service, browser: Browser, picture: Picture
) -> None:
    job = make_job(browser, service.url, picture("bowl.png"))
    with service.client() as client:
        browser.click("#new")
        browser.click(f'[data-job="{job}"] button')
        browser.until(lambda: not browser.all(f'[data-job="{job}"]'), 5)
        assert client.get(f"/v1/jobs/{job}").status_code == 200  # there is time to undo it
        browser.until(lambda: client.get(f"/v1/jobs/{job}").status_code == 404, 20)
        assert not browser.shown("#toast button")


def test_leaving_the_page_makes_a_deletion_final(
    service: Service, browser: Browser, picture: Picture
) -> None:
    job = make_job(browser, service.url, picture("bowl.png"))
    browser.click("#delete")
    browser.until(lambda: browser.shown("#toast button"), 5)
    browser.driver.get("about:blank")
    with service.client() as client:
        browser.until(lambda: client.get(f"/v1/jobs/{job}").status_code == 404, 10)


def test_a_whole_job_is_redone_and_the_first_stays(
    service: Service, browser: Browser, picture: Picture
) -> None:
    first = make_job(browser, service.url, picture("bowl.png"), picture("shoe.png"))
    browser.click("#redo")
    assert browser.texts("#redo-title") == ["Redo 2 photos"]
    assert browser.all("#redo-dialog [value=balanced]:checked")
    browser.click("#redo-cancel")
    browser.until(lambda: not browser.shown("#redo-dialog"), 5)
    browser.click("#redo")
    browser.click("#redo-dialog .choice:has([value=products])")
    browser.click("#redo-dialog [type=submit]")
    browser.until(lambda: first not in browser.driver.current_url, 10)
    assert await_end(browser) == "2 done"
    open_page(browser, service.url)
    browser.until(lambda: browser.shown(f'[data-job="{first}"]'))


def test_an_upload_that_has_expired_is_named_in_the_dialog(
    service: Service, browser: Browser, picture: Picture
) -> None:
    job = make_job(browser, service.url, picture("bowl.png"))
    with service.client() as client:
        upload = client.get(f"/v1/jobs/{job}").json()["source"].removeprefix("upload:")
    for path in (service.home / "uploads").glob(f"*/uploads/{upload}/*"):
        path.unlink()
    browser.click("#redo")
    browser.click("#redo-dialog [type=submit]")
    browser.until(lambda: "it may have expired" in browser.text("#redo-error"), 10)
    assert browser.faults() == []

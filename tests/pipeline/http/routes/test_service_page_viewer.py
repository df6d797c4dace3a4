"""The viewer of the web page: compare, zoom, backgrounds, and what leaves it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from ....support.browser import Browser
from ....support.http_service import Service
from ....support.page import await_end, draw_photo, make_job

Picture = Callable[..., Path]
Color = tuple[int, int, int]


@pytest.fixture(scope="module")
def job(service: Service, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of a finished job of two photos, the second with a flag."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [draw_photo(folder / "bowl.png"), draw_photo(folder / "turn.gif", frames=2)]
    with service.client() as client:
        files = [("files", (path.name, path.read_bytes())) for path in paths]
        name = client.post("/v1/jobs/from-images", files=files).json()["job"]
        with client.stream("GET", f"/v1/jobs/{name}/events") as events:
            assert any("event: end" in line for line in events.iter_lines())
    return str(name)


@pytest.fixture
def viewer(service: Service, browser: Browser, job: str) -> Browser:
    """The browser, with the first photo in the viewer."""
    browser.driver.get(f"{service.url}/#{job}")
    browser.click('[aria-label="View bowl.png"]')
    await_picture(browser)
    return browser


def await_picture(browser: Browser) -> None:
    browser.until(lambda: browser.loaded(".viewer img"), 20)


def split(browser: Browser) -> float:
    """The place of the slider's handle, as a share of the stage."""
    return float(
        browser.run(
            "const stage = document.querySelector('.viewer-stage').getBoundingClientRect();"
            "const handle = document.querySelector('.handle').getBoundingClientRect();"
            "return (handle.x + handle.width / 2 - stage.x) / stage.width"
        )
    )


def scale(browser: Browser) -> float:
    script = "return getComputedStyle(document.querySelector('.viewer-stage')).getPropertyValue('--scale')"
    return float(browser.run(script))


def color_at(browser: Browser, x: float, y: float) -> Color:
    """The color on the screen at these shares of the picture's width and height."""
    box = browser.run("return document.querySelector('.cutout .frame').getBoundingClientRect()")
    shot = Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())).convert("RGB")
    pixel = shot.getpixel((box["x"] + x * box["width"], box["y"] + y * box["height"]))
    assert isinstance(pixel, tuple)
    return pixel[:3]


def is_orange(color: Color) -> bool:
    return color[0] > 180 and color[2] < 100


def test_the_slider_moves_by_keys_and_mouse(viewer: Browser) -> None:
    assert viewer.faults() == []
    assert viewer.focused() == "Compare original and cutout"
    viewer.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert split(viewer) == pytest.approx(0.52, abs=0.005)
    viewer.press(Keys.HOME)
    assert split(viewer) == pytest.approx(0, abs=0.005)
    viewer.press(Keys.END)
    assert split(viewer) == pytest.approx(1, abs=0.005)
    navy = color_at(viewer, 0.05, 0.5)
    assert navy[2] > 100 > navy[0]
    viewer.press(Keys.HOME)
    width = viewer.one(".viewer-stage").size["width"]
    handle = viewer.one(".handle")
    mouse = ActionChains(viewer.driver).move_to_element_with_offset(handle, 8, 0).click_and_hold()
    mouse.move_by_offset(int(width * 0.3), 0).release().perform()
    assert split(viewer) == pytest.approx(0.3, abs=0.02)


def test_the_slider_follows_a_finger_and_a_swipe_leads_on(viewer: Browser) -> None:
    viewer.emulate(390, 844, mobile=True)
    drag(viewer, (195, 300), (300, 300))
    assert split(viewer) == pytest.approx(300 / 390, abs=0.03)
    drag(viewer, (150, 200), (40, 205))
    viewer.until(lambda: viewer.texts(".viewer h2") == ["turn.gif"], 5)
    assert viewer.texts(".viewer .flag") == ["Only the first frame"]
    drag(viewer, (40, 200), (150, 205))
    viewer.until(lambda: viewer.texts(".viewer h2") == ["bowl.png"], 5)


def drag(browser: Browser, start: tuple[int, int], end: tuple[int, int]) -> None:
    """Move a finger over the screen."""
    steps = 8
    for step in range(steps + 1):
        x, y = (a + (b - a) * step / steps for a, b in zip(start, end, strict=True))
        kind = "touchStart" if step == 0 else "touchMove"
        browser.send("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
    browser.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])


def test_it_zooms_and_pans_within_the_picture(viewer: Browser) -> None:
    viewer.press("+")
    assert scale(viewer) == pytest.approx(1.5)
    assert viewer.text(".percent") == "150 %"
    viewer.requests()
    viewer.click('[aria-label="Zoom in (+)"]')
    viewer.until(lambda: any(url.endswith("/result") for url in viewer.requests()), 5)
    mouse = ActionChains(viewer.driver, duration=50)
    for _ in range(4):
        mouse.move_to_element_with_offset(viewer.one(".viewer-stage"), 300, 0).click_and_hold()
        mouse.move_by_offset(-600, 0).release()
    mouse.perform()
    stage, frame = (
        viewer.run("return document.querySelector(arguments[0]).getBoundingClientRect()", name)
        for name in (".viewer-stage", ".cutout .frame")
    )
    assert frame["x"] < stage["x"]
    assert frame["x"] + frame["width"] > stage["x"] + stage["width"] / 2
    viewer.press("0")
    assert scale(viewer) == 1
    wheel = {"x": 600, "y": 400, "deltaX": 0, "deltaY": -200}
    viewer.send("Input.dispatchMouseEvent", type="mouseWheel", **wheel)
    viewer.until(lambda: scale(viewer) > 1, 5)


def test_backgrounds_mask_and_original_are_what_is_shown(viewer: Browser, picture: Picture) -> None:
    viewer.click("[data-view-choice=cutout]")
    checks = {color_at(viewer, x, 0.05) for x in (0.02, 0.05, 0.08, 0.11)}
    assert len(checks) == 2
    viewer.click('[aria-label="white background"]')
    assert color_at(viewer, 0.05, 0.05) == (255, 255, 255)
    assert is_orange(color_at(viewer, 0.5, 0.5))
    viewer.click('[aria-label="black background"]')
    assert color_at(viewer, 0.05, 0.05) == (0, 0, 0)
    viewer.run(
        "const color = document.querySelector('.viewer [type=color]'); color.value = '#00ff00';"
        "color.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    assert color_at(viewer, 0.05, 0.05) == (0, 255, 0)
    behind = picture("behind.png")
    Image.new("RGB", (40, 40), "#ff00ff").save(behind)
    viewer.one(".viewer [type=file]").send_keys(str(behind))
    viewer.until(lambda: color_at(viewer, 0.05, 0.05) == (255, 0, 255), 5)
    viewer.click("[data-view-choice=mask]")
    viewer.until(lambda: color_at(viewer, 0.05, 0.05) == (0, 0, 0), 5)
    viewer.until(lambda: min(color_at(viewer, 0.5, 0.5)) > 200, 5)
    viewer.click("[data-view-choice=source]")
    viewer.until(lambda: color_at(viewer, 0.05, 0.05)[2] > 100, 5)
    assert viewer.complaints() == []


def test_a_download_has_the_chosen_background(viewer: Browser) -> None:
    viewer.click(".viewer .primary")
    viewer.until(lambda: (viewer.folder / "bowl.png").exists())
    with Image.open(viewer.folder / "bowl.png") as image:
        assert image.mode == "RGBA"
    viewer.click('[aria-label="white background"]')
    viewer.click(".viewer .primary")
    viewer.until(lambda: (viewer.folder / "bowl.jpg").exists())
    with Image.open(viewer.folder / "bowl.jpg") as image:
        assert image.size == (240, 180)
        assert min(image.convert("RGB").getpixel((4, 4))) > 250  # type: ignore[type-var]


def test_the_cutout_is_copied_as_a_png(viewer: Browser) -> None:
    permission = {"name": "clipboard-read"}, {"name": "clipboard-write"}
    for each in permission:
        viewer.send("Browser.setPermission", permission=each, setting="granted")
    viewer.click(".viewer .actions button")
    viewer.until(lambda: viewer.text(".viewer .message") == "Copied.", 20)
    size = viewer.driver.execute_async_script(
        "const report = arguments[0];"
        "navigator.clipboard.read()"
        "  .then(([item]) => item.getType('image/png'))"
        "  .then(createImageBitmap)"
        "  .then((image) => report([image.width, image.height]), (error) => report(String(error)))"
    )
    assert size == [240, 180]


def test_an_error_is_named_in_the_viewer(viewer: Browser) -> None:
    viewer.run("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    viewer.click(".viewer .actions button")
    viewer.until(lambda: "copies only on HTTPS" in viewer.text(".viewer .message.error"), 5)
    assert viewer.faults() == []


def test_next_previous_and_close_work_by_key(viewer: Browser) -> None:
    viewer.press("n")
    viewer.until(lambda: viewer.texts(".viewer h2") == ["turn.gif"], 5)
    assert viewer.texts(".viewer .place") == ["2 of 2"]
    assert viewer.all(".viewer .next:disabled")
    assert "Save the others as files of their own." in viewer.text(".viewer .notes")
    assert viewer.faults() == []
    viewer.press("p", "n", "m")
    assert viewer.all("[data-view-choice=mask][aria-pressed=true]")
    viewer.press(Keys.ESCAPE)
    viewer.until(lambda: viewer.focused() == "View turn.gif", 5)


def test_a_job_is_walked_by_the_keyboard_alone(
    service: Service, browser: Browser, job: str
) -> None:
    browser.driver.get(f"{service.url}/#{job}")
    browser.until(lambda: browser.focused() == "bowl.png + 1 more")
    names = []
    for _ in range(7):
        browser.tab()
        names.append(browser.focused())
    assert names == [
        "Download all",
        "Redo…",
        "Delete",
        "All 2",
        "To check 1",
        "View bowl.png",
        "Download bowl.png",
    ]
    browser.tab()
    browser.press(Keys.ENTER)
    browser.until(lambda: browser.focused() == "Compare original and cutout", 5)
    inside = set()
    for _ in range(25):
        browser.tab()
        if browser.run("return document.activeElement !== document.body"):  # between two rounds
            inside.add(browser.focused())
    assert {"Close (Esc)", "Previous image (p)", "Compare", "Mask", "Copy", "Download"} <= inside
    assert "" not in inside
    assert not inside & set(names[:5])
    browser.press(Keys.ESCAPE)
    browser.until(lambda: browser.focused() == "View turn.gif", 5)


def test_one_photo_is_redone_with_other_options(
    service: Service, browser: Browser, picture: Picture
) -> None:
    first = make_job(browser, service.url, picture("vase [1].png"), picture("vase 1.png"))
    browser.click('[aria-label="View vase [1].png"]')
    await_picture(browser)
    browser.click(".viewer .actions button:nth-child(2)")
    browser.until(lambda: browser.texts("#redo-title") == ["Redo vase [1].png"], 5)
    assert browser.faults() == []
    browser.click("#redo-dialog .choice:has([value=raw])")
    browser.click("#redo-dialog [type=submit]")
    browser.until(lambda: first not in browser.driver.current_url, 10)
    browser.until(lambda: browser.text("#job-title") == "vase [1].png", 20)
    assert await_end(browser) == "1 done"
    assert not browser.shown(".viewer")
    with service.client() as client:
        job = client.get(f"/v1/jobs/{browser.driver.current_url.partition('#')[2]}").json()
        assert (job["total"], job["preset"]["contrast"]) == (1, 1.0)
        assert client.get(f"/v1/jobs/{first}").json()["done"] == 2

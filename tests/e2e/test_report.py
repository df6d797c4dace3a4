"""The contact sheet in a real browser: what a person does with it, and what it must not do."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image, ImageDraw

from bgpipe.pipeline.report.contact_sheet import FLAGGED_SCORE, SheetImage, render_contact_sheet
from bgpipe.pipeline.types import Failure, JobId, JobState, JobSummary, Preset, Recipe, ReviewFlag

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

from ..support.programs import require_program  # noqa: E402

if TYPE_CHECKING:
    from .conftest import Bgpipe

NANO = ("--model", "birefnet-nano")
HOSTILE = "<img src=x onerror=\"document.title='taken'\">.jpg"
NAMES = [HOSTILE, "cat.jpg", "cup & saucer.png", "shoe.jpg", "sub folder/'\"shoe.jpg"]
FLAGS = {1: (ReviewFlag.TOUCHES_BORDER,), 3: (ReviewFlag.TOUCHES_BORDER, ReviewFlag.MANY_PIECES)}


def picture(colour: str, *, cut: bool) -> bytes:
    image = Image.new("RGBA", (160, 120), (0, 0, 0, 0) if cut else "navy")
    ImageDraw.Draw(image).ellipse((40, 20, 120, 100), fill=colour)
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=True)
    return file.getvalue()


def text_of(path: Path) -> dict[str, str]:
    with Image.open(path) as image:
        return {name: str(value) for name, value in image.info.items()}


def summary(failed: int) -> JobSummary:
    return JobSummary(
        job=JobId("spring-2024"),
        state=JobState.FINISHED,
        total=len(NAMES) + failed,
        done=len(NAMES),
        skipped=0,
        failed=failed,
        flagged=len(FLAGS),
        queued=0,
        running=0,
        seconds=75.4,
        images_per_second=0.2,
        source="/photos/<b>",
        out="/photos-cutouts",
        model="birefnet-nano",
        errors={"E_EMPTY": 1, "E_TRUNCATED": failed - 1},
    )


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    exhibits = [
        SheetImage(name, picture("red", cut=False), picture("red", cut=True), FLAGS.get(place, ()))
        for place, name in enumerate(NAMES)
    ]
    failures = [
        Failure(9, HOSTILE, "x.png", "E_EMPTY", "the file has no bytes", 1),
        Failure(10, "b.jpg", "b.png", "E_TRUNCATED", "<script>document.title='taken'</script>", 1),
    ]
    recipe = Recipe("birefnet-nano", "ab" * 32, (256, 256), Preset())
    path = tmp_path / "sheet 1.html"
    names = [path.name, "sheet 1-2.html"]
    lines = render_contact_sheet(summary(failed=2), recipe, exhibits, failures, names, number=1)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = require_program("chromium")
    for word in ("headless=new", "no-sandbox", "disable-gpu", "window-size=1400,900"):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(require_program("chromedriver")))
    yield driver
    driver.quit()


class Reader:
    """A person in front of the page."""

    def __init__(self, driver: webdriver.Chrome, path: Path) -> None:
        self.driver = driver
        driver.get_log("browser"), driver.get_log("performance")
        driver.get(path.as_uri())

    def press(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def click(self, selector: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def shown(self, selector: str) -> list[str]:
        found = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return [element.text for element in found if element.is_displayed()]

    def names(self) -> list[str]:
        figures = self.driver.find_elements(By.TAG_NAME, "figure")
        return [str(each.get_attribute("data-name")) for each in figures if each.is_displayed()]

    def wait_for_focus(self, name: str) -> None:
        """A dialog says that it closed, and the page moves the focus, a moment after it is gone."""
        figure = f'figure[data-name="{name}"]:focus'
        WebDriverWait(self.driver, 10).until(
            lambda driver: driver.find_elements(By.CSS_SELECTOR, figure)
        )

    def style(self, selector: str, name: str) -> str:
        element = self.driver.find_element(By.CSS_SELECTOR, selector)
        return str(element.value_of_css_property(name))


@pytest.fixture
def reader(chromium: webdriver.Chrome, sheet: Path) -> Reader:
    return Reader(chromium, sheet)


def test_it_shows_the_books_and_every_image_by_its_name(reader: Reader) -> None:
    assert reader.names() == NAMES
    assert reader.shown(".tiles dd") == ["finished", "7", "5", "0", "2", "2", "1 min 15 s", "0.20"]
    assert "/photos/<b>" in reader.shown(".facts")[0]
    assert reader.shown("#count") == ["5 of 5 shown"]
    loaded = reader.driver.execute_script(
        "return [...document.querySelectorAll('figure img')].map((image) => image.naturalWidth)"
    )
    assert loaded == [160] * 10


def test_nothing_is_asked_from_outside_and_no_name_runs(reader: Reader) -> None:
    reader.press("b", "m", "g", "f", "?", Keys.ESCAPE)
    assert reader.driver.title == "spring-2024"
    assert reader.driver.get_log("browser") == []
    requests = [
        message["params"]["request"]["url"]
        for line in reader.driver.get_log("performance")
        if (message := json.loads(line["message"])["message"])["method"]
        == "Network.requestWillBeSent"
    ]
    assert requests
    assert {url.split(":")[0] for url in requests} <= {"file", "data"}
    assert len([url for url in requests if url.startswith("file")]) == 1


def test_the_policy_refuses_whatever_is_put_into_the_page(reader: Reader) -> None:
    reader.driver.execute_script(
        "document.body.insertAdjacentHTML('beforeend',"
        " `<img src=x onerror=\"document.title='taken'\"><p id=painted style='color: red'>`)"
    )
    assert reader.driver.title == "spring-2024"
    assert reader.style("#painted", "color") != "rgba(255, 0, 0, 1)"
    assert "Content Security Policy" in str(reader.driver.get_log("browser"))


def test_the_slider_uncovers_the_source(reader: Reader) -> None:
    assert reader.style("figure .source", "visibility") == "hidden"
    reader.press("b")
    assert reader.style("figure .source", "visibility") == "visible"
    slider = reader.driver.find_element(By.CSS_SELECTOR, "figure input[type=range]")
    slider.click()
    for _ in range(10):
        slider.send_keys(Keys.ARROW_RIGHT)
    assert slider.get_attribute("value") == "60"
    assert "40%" in reader.style("figure .source", "clip-path")
    reader.press("b")
    assert reader.style("figure .source", "visibility") == "hidden"


def test_views_and_backgrounds_change_by_click_and_by_key(reader: Reader) -> None:
    reader.click('[data-background-choice="black"]')
    assert reader.style("figure .stage", "background-color") == "rgba(0, 0, 0, 1)"
    reader.press("g")
    assert reader.style("figure .stage", "background-color") == "rgba(0, 160, 0, 1)"
    reader.driver.execute_script(
        "const c = document.getElementById('color'); c.value = '#123456';"
        "c.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    assert reader.style("figure .stage", "background-color") == "rgba(18, 52, 86, 1)"
    reader.press("m")
    assert reader.style("figure .cutout", "filter") == "brightness(0) invert(1)"
    assert reader.style("figure .stage", "background-color") == "rgba(0, 0, 0, 1)"


def test_the_mask_is_white_on_black(reader: Reader) -> None:
    reader.click('[data-view-choice="mask"]')
    shot = Image.open(
        io.BytesIO(reader.driver.find_element(By.CLASS_NAME, "stage").screenshot_as_png)
    )
    width, height = shot.size
    assert shot.getpixel((width // 2, height // 2))[:3] == (255, 255, 255)
    assert shot.getpixel((5, 5))[:3] == (0, 0, 0)


@pytest.mark.parametrize(
    ("act", "left"),
    [
        (lambda reader: reader.click('[data-flag-choice="any"]'), [1, 3]),
        (lambda reader: reader.click('[data-flag-choice="many-pieces"]'), [3]),
        (lambda reader: reader.press("f"), [1, 3]),
        (lambda reader: reader.press("/", *"SHOE"), [3, 4]),
    ],
    ids=["flagged", "one flag", "key", "name"],
)
def test_filters_leave_what_was_asked_for(
    reader: Reader, act: Callable[[Reader], None], left: list[int]
) -> None:
    act(reader)
    assert reader.names() == [NAMES[place] for place in left]
    assert reader.shown("#count") == [f"{len(left)} of 5 shown"]


def test_failures_have_their_reasons_and_a_filter_of_their_own(reader: Reader) -> None:
    assert len(reader.shown("#failures tr")) == 3
    assert "<script>document.title='taken'</script>" in reader.shown("#failures tr")[2]
    reader.click('[data-code-choice="E_EMPTY"]')
    assert reader.shown("#failures tr")[1:] == [f"E_EMPTY {HOSTILE} the file has no bytes"]


def test_the_keyboard_walks_opens_and_closes(reader: Reader) -> None:
    reader.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ENTER)
    assert reader.shown(".viewer h2") == ["cat.jpg"]
    assert reader.shown(".viewer .notes")[0].startswith("Cut off by the frame")
    reader.press("n")
    assert reader.shown(".viewer h2") == ["cup & saucer.png"]
    reader.press(Keys.ESCAPE)
    assert reader.shown(".viewer") == []
    reader.wait_for_focus("cup & saucer.png")


def test_the_viewer_shows_each_flag_and_the_tile_leads_to_the_failures(reader: Reader) -> None:
    reader.press("f", Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ENTER)
    assert reader.shown(".viewer .flag") == ["Cut off by the frame", "Several pieces"]
    reader.click(".viewer .close")
    reader.click(".tiles a")
    WebDriverWait(reader.driver, 10).until(lambda driver: driver.current_url.endswith("#failures"))


def test_the_viewer_compares_masks_and_fills_the_background(reader: Reader) -> None:
    reader.press(Keys.ARROW_RIGHT, Keys.ENTER)
    assert reader.style(".viewer .source", "clip-path") == "inset(0px 50% 0px 0px)"
    reader.press(Keys.HOME)
    assert reader.style(".viewer .source", "clip-path") == "inset(0px 100% 0px 0px)"
    reader.click('.viewer [aria-label="black background"]')
    assert reader.style(".viewer .cutout .frame", "background-color") == "rgba(0, 0, 0, 1)"
    reader.press("m")
    assert reader.style(".viewer .cutout", "filter") == "brightness(0) invert(1)"
    assert reader.driver.get_log("browser") == []


def test_a_phone_has_room_for_the_images(chromium: webdriver.Chrome, sheet: Path) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        reader = Reader(chromium, sheet)
        assert chromium.execute_script("return document.documentElement.scrollWidth") <= 390
        assert reader.style(".bar", "position") == "static"
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_pages_lead_to_each_other_by_relative_names(reader: Reader) -> None:
    links = reader.driver.find_elements(By.CSS_SELECTOR, ".pages a")
    assert [link.get_dom_attribute("href") for link in links] == [
        "./sheet%201.html",
        "./sheet%201-2.html",
    ]
    assert links[0].get_dom_attribute("aria-current") == "page"


@pytest.mark.usefixtures("shared_cluster")
def test_each_cutout_has_a_score_which_sorts_lists_and_sheet(
    bgpipe: Bgpipe, photos: Path, tmp_path: Path, chromium: webdriver.Chrome
) -> None:
    cutouts, recipes = tmp_path / "cutouts", []
    for limit in ("0", "1"):
        (*_, last) = bgpipe.records(
            "submit", photos, *NANO, "--out", cutouts, "--review-below", limit, "--force", "--wait"
        )
        flags = last["flags"].get("low-score", 0)
        *low, summary = bgpipe.records("status", "--below", limit)
        assert summary["done"] == 4
        assert len(low) == flags
        recipes.append(text_of(cutouts / "coffee.png")["bgpipe:recipe"])
    assert len(set(recipes)) == 1  # cutouts stay up to date
    scores = [line["score"] for line in low]
    assert scores == sorted(scores)
    assert len(scores) == 4
    for line in low:
        assert text_of(cutouts / line["target"])["bgpipe:score"] == f"{line['score']:.2f}"
    assert bgpipe("report", "--out", tmp_path / "sheet.html").returncode == 0
    shown = Reader(chromium, tmp_path / "sheet.html").shown("figure .score")
    ranks = [min(float(score), FLAGGED_SCORE) for score in shown]
    assert ranks == sorted(ranks)
    assert len(ranks) == 4
    assert bgpipe("submit", photos, *NANO, "--review-below", "80").returncode == 2


def test_the_command_shows_flagged_images_first_on_as_many_pages_as_it_takes(
    bgpipe: Bgpipe, photos: Path, tmp_path: Path, chromium: webdriver.Chrome
) -> None:
    everything = {"BGPIPE_REVIEW__LEAST_SUBJECT": "1"}  # no subject is larger than the picture
    assert bgpipe("submit", photos, *NANO, **everything).returncode == 0
    *flagged, summary = bgpipe.records("status", "--flagged")
    assert (summary["flagged"], summary["flags"]) == (4, {"no-subject": 4})
    assert [line["flags"] for line in flagged] == [["no-subject"]] * 4
    done = bgpipe("report", "--out", tmp_path / "sheet.html", "--per-page", 3)
    assert done.returncode == 0, done.stderr
    pages = [Reader(chromium, tmp_path / name) for name in ("sheet.html", "sheet-2.html")]
    assert len(pages[1].names()) == 1
    pages[1].click(".pages a")
    assert pages[0].shown("#count") == ["3 of 3 shown"]
    assert pages[0].shown("figure .flag") == ["no-subject"] * 3

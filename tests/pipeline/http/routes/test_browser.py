"""The web page in a real browser: what a person does with it, and what it must not do."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.http.api_keys import ApiKeys

from ....support.http_service import Service

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.chrome.service import Service as Driver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

SECONDS = 90
NAMES = ["bowl.png", "cup & saucer.png", "<b>lamp.png", "shoe.jpg", "vase.jpg"]


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(f"not installed: {name}")
    if found is None:
        pytest.skip(f"not installed: {name}")
    return found


class Person:
    """A user of the page; downloads go to `folder`."""

    def __init__(self, folder: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = program("chromium")
        for word in ("headless=new", "no-sandbox", "disable-gpu", "window-size=1200,900"):
            options.add_argument(f"--{word}")
        options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.folder = folder
        self.driver = webdriver.Chrome(options=options, service=Driver(program("chromedriver")))

    def until(self, done: Callable[[], object]) -> None:
        WebDriverWait(self.driver, SECONDS, 0.1).until(lambda _: done())

    def open(self, url: str) -> None:
        """The page, once it knows what there is to choose."""
        self.driver.get(url)
        self.until(lambda: self.all("#preset option") or self.shown("#key-dialog"))

    def all(self, selector: str) -> list[object]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return str(self.driver.find_element(By.CSS_SELECTOR, selector).text)

    def shown(self, selector: str) -> bool:
        # In one step: the page may replace an element between two of the driver's requests.
        return bool(
            self.driver.execute_script(
                "return [...document.querySelectorAll(arguments[0])]"
                ".some((each) => each.checkVisibility({visibilityProperty: true}))",
                selector,
            )
        )

    def click(self, selector: str) -> None:
        self.until(lambda: self.shown(selector))
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def choose(self, *paths: Path) -> None:
        self.driver.find_element(By.ID, "files").send_keys("\n".join(map(str, paths)))

    def split(self) -> str:
        return str(
            self.driver.execute_script(
                "return getComputedStyle(document.querySelector('#viewer .stage'))"
                ".getPropertyValue('--split').trim()"
            )
        )

    def loaded(self, selector: str) -> bool:
        """Whether each of these pictures has arrived."""
        return bool(
            self.driver.execute_script(
                "const all = [...document.querySelectorAll(arguments[0])];"
                "return all.length > 0 && all.every((each) => each.naturalWidth > 0)",
                selector,
            )
        )

    def faults(self) -> list[str]:
        """What axe-core calls serious or critical, on the page as it is now."""
        script = Path(pytest.importorskip("axe_core_python").__file__).with_name("axe.min.js")
        # Not as an element of the page, which its policy forbids.
        self.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": script.read_text()})
        result = self.driver.execute_async_script(
            "const tell = arguments[0]; axe.run().then(tell, (error) => tell(String(error)))"
        )
        assert result["passes"], result
        return [
            f"{fault['id']}: {node['html']}"
            for fault in result["violations"]
            if fault["impact"] in {"serious", "critical"}
            for node in fault["nodes"]
        ]

    def complaints(self) -> list[str]:
        """What the browser refused for the sake of the page's policy, or ran into."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] == "SEVERE" and "the server responded with" not in entry["message"]
        ]

    def asked(self) -> set[str]:
        """Every host that the browser sent a request to."""
        events = [json.loads(entry["message"]) for entry in self.driver.get_log("performance")]
        urls = [
            event["message"]["params"]["request"]["url"]
            for event in events
            if event["message"]["method"] == "Network.requestWillBeSent"
        ]
        return {url.split("/")[2] for url in urls if url.startswith("http")}


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    folder = tmp_path / "downloads"
    folder.mkdir()
    user = Person(folder)
    yield user
    user.driver.quit()


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in NAMES]
    for path in paths:
        image = Image.new("RGB", (240, 180), "navy")
        ImageDraw.Draw(image).ellipse((60, 30, 180, 150), fill="orange")
        image.save(path)
    return paths


def test_a_person_uploads_compares_downloads_and_finds_the_job_again(
    service: Service, person: Person, pictures: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    person.open(service.url)
    assert person.faults() == []
    person.choose(*pictures, broken)
    person.until(lambda: person.text("#summary").startswith("finished: 5 of 5 done"))
    assert person.text("#refused") == "broken.png: the content is not a known image format"
    person.until(lambda: len(person.all("#gallery .done")) == len(NAMES))
    names = [str(element.text).split(" done")[0] for element in person.all("#gallery .name")]
    assert names == sorted(NAMES, key=str.encode)
    person.until(lambda: person.loaded("#gallery img"))
    assert person.faults() == []

    # Before and after, by keyboard alone.
    person.driver.execute_script("document.querySelector('#gallery button').focus()")
    person.press(Keys.ENTER)
    person.until(lambda: person.loaded("#viewer .cutout") and person.loaded("#viewer .source"))
    assert person.driver.switch_to.active_element.get_attribute("id") == "split"
    person.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    person.until(lambda: person.split() == "52%")
    person.press(Keys.HOME)
    person.until(lambda: person.split() == "0%")
    assert person.faults() == []
    person.click('[data-view-choice="mask"]')
    person.until(lambda: "of=mask" in person.driver.page_source.split('class="cutout mask"')[1])
    person.until(lambda: person.loaded("#viewer .cutout"))
    person.click("#next")
    person.until(lambda: person.text("#viewer-name").startswith(sorted(NAMES, key=str.encode)[1]))
    person.press(Keys.ESCAPE)
    person.until(lambda: not person.shown("#viewer"))

    person.click("#zip")
    person.until(lambda: list(person.folder.glob("*.zip")))
    with zipfile.ZipFile(next(person.folder.glob("*.zip"))) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == len(NAMES)

    address = person.driver.current_url
    job = address.partition("#")[2]
    person.driver.refresh()
    person.until(lambda: person.text("#summary").startswith("finished: 5 of 5 done"))
    assert person.driver.current_url == address
    assert person.shown(f'#jobs [data-job="{job}"]')
    assert person.complaints() == []
    assert person.asked() == {service.url.removeprefix("http://")}


def test_it_fits_a_phone_in_the_dark(
    service: Service, person: Person, pictures: list[Path]
) -> None:
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    person.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
    person.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    person.open(service.url)
    person.choose(pictures[0])
    person.until(lambda: person.text("#summary").startswith("finished: 1 of 1 done"))
    person.until(lambda: person.loaded("#gallery img"))
    assert person.driver.execute_script("return document.documentElement.scrollWidth") <= 360
    assert person.faults() == []
    person.click("#gallery button")
    person.until(lambda: person.loaded("#viewer .cutout"))
    assert person.faults() == []
    person.click("#close")
    person.click("#delete")
    person.until(lambda: not person.shown("#job"))


def test_where_a_key_is_needed_the_page_asks_for_it_once(guarded: Service, person: Person) -> None:
    with connect(guarded.redis_url) as redis:
        key = ApiKeys(redis).add("page")
    person.open(guarded.url)
    person.until(lambda: person.shown("#key-dialog"))
    assert person.faults() == []
    person.driver.find_element(By.ID, "key").send_keys("wrong", Keys.ENTER)
    person.until(lambda: "not an API key" in person.text("#key-message"))
    person.driver.find_element(By.ID, "key").clear()
    person.driver.find_element(By.ID, "key").send_keys(key, Keys.ENTER)
    person.until(lambda: not person.shown("#key-dialog") and person.all("#preset option"))
    person.driver.refresh()
    person.until(lambda: person.all("#preset option"))
    assert not person.shown("#key-dialog")

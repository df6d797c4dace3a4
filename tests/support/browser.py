"""A real Chromium with what a test asks of a page: what is shown, heard, loaded and measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.chrome.service import Service as Driver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

from .programs import require_program  # noqa: E402

SECONDS = 90
_SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
}).observe({type: "layout-shift", buffered: true});
"""


class Browser:
    """A user's browser; downloads go to `folder`."""

    def __init__(self, folder: Path, size: tuple[int, int] = (1200, 900)) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = require_program("chromium")
        for word in (
            "headless=new",
            "no-sandbox",
            "disable-gpu",
            f"window-size={size[0]},{size[1]}",
        ):
            options.add_argument(f"--{word}")
        options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.folder = folder
        self.driver = webdriver.Chrome(
            options=options, service=Driver(require_program("chromedriver"))
        )
        self.send("Page.addScriptToEvaluateOnNewDocument", source=_SHIFTS)

    def send(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(command, parameters)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, done: Callable[[], object], seconds: float = SECONDS) -> None:
        ignored = [StaleElementReferenceException]
        wait = WebDriverWait(self.driver, seconds, 0.1, ignored_exceptions=ignored)
        wait.until(lambda _: done())

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return str(self.one(selector).text)

    def texts(self, selector: str) -> list[str]:
        """Texts of the elements that are shown; in one step, as the page may replace one meanwhile."""
        return list(
            self.run(
                "return [...document.querySelectorAll(arguments[0])]"
                ".filter((each) => each.checkVisibility({visibilityProperty: true}))"
                ".map((each) => each.innerText.trim())",
                selector,
            )
        )

    def shown(self, selector: str) -> bool:
        return bool(self.texts(selector))

    def click(self, selector: str) -> None:
        self.until(lambda: self.shown(selector))
        self.one(selector).click()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def tab(self) -> None:
        """Move the focus as the key Tab does; file inputs take no text from the driver."""
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key="Tab", windowsVirtualKeyCode=9)

    def focused(self) -> str:
        """The accessible name of the element that has the focus."""
        return str(self.driver.switch_to.active_element.accessible_name)

    def loaded(self, selector: str) -> bool:
        """Whether each of these pictures has arrived."""
        return bool(
            self.run(
                "const all = [...document.querySelectorAll(arguments[0])];"
                "return all.length > 0 && all.every((each) => each.naturalWidth > 0)",
                selector,
            )
        )

    def emulate(self, width: int, height: int, *, dark: bool = False, mobile: bool = False) -> None:
        """A screen of this size in CSS pixels."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.send("Emulation.setDeviceMetricsOverride", **metrics)
        self.send("Emulation.setTouchEmulationEnabled", enabled=mobile)

    def faults(self) -> list[str]:
        """What axe-core calls serious or critical, on the page as it is now."""
        script = Path(pytest.importorskip("axe_core_python").__file__).with_name("axe.min.js")
        # Not as an element of the page, which its policy forbids.
        self.send("Runtime.evaluate", expression=script.read_text())
        result = self.driver.execute_async_script(
            "const report = arguments[0]; axe.run().then(report, (error) => report(String(error)))"
        )
        assert result["passes"], result
        return [
            f"{fault['id']}: {node['html']}"
            for fault in result["violations"]
            if fault["impact"] in {"serious", "critical"}
            for node in fault["nodes"]
        ]

    def complaints(self) -> list[str]:
        """What the browser refused because of the page's policy, and errors of scripts."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] == "SEVERE" and "the server responded with" not in entry["message"]
        ]

    def requests(self) -> list[str]:
        """URLs of all requests since the last call."""
        events = [json.loads(entry["message"]) for entry in self.driver.get_log("performance")]
        return [
            event["message"]["params"]["request"]["url"]
            for event in events
            if event["message"]["method"] == "Network.requestWillBeSent"
        ]

    def layout_shift(self) -> float:
        """The sum of layout shifts that no input caused, since the page was loaded."""
        return float(self.run("return window.shifted"))

    def first_paint(self) -> float:
        """Milliseconds from navigation to the first contentful paint."""
        script = (
            "return performance.getEntriesByName('first-contentful-paint')"
            ".map((entry) => entry.startTime)[0]"
        )
        self.until(lambda: self.run(script) is not None)
        return float(self.run(script))

    def quit(self) -> None:
        self.driver.quit()

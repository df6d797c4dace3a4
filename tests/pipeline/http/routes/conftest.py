"""One browser for the tests of a module, as new for each of them, and photos to give to it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from ....support.browser import Browser
from ....support.page import draw_photo

Picture = Callable[..., Path]


@pytest.fixture(scope="module")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("downloads"))
    yield browser
    browser.quit()


@pytest.fixture
def browser(_browser: Browser) -> Browser:
    """A browser without cookies, stored options, downloads and log entries, on a desktop screen."""
    _browser.driver.get("about:blank")
    _browser.send("Network.clearBrowserCookies")
    _browser.send("Storage.clearDataForOrigin", origin="*", storageTypes="all")
    _browser.emulate(1200, 900)
    _browser.complaints()
    _browser.requests()
    for file in _browser.folder.iterdir():
        file.unlink()
    return _browser


@pytest.fixture
def picture(tmp_path: Path) -> Picture:
    """`picture(name)`: an orange disc on navy; `frames` above one make it animated."""

    def make(name: str = "bowl.png", frames: int = 1, size: tuple[int, int] = (240, 180)) -> Path:
        return draw_photo(tmp_path / name, frames, size)

    return make


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A PNG of the right length whose pixels are overwritten: it is accepted, and fails."""
    file = io.BytesIO()
    Image.effect_noise((200, 200), 90).convert("RGB").save(file, "PNG")
    content = bytearray(file.getvalue())
    content[1000:9000] = bytes(8000)
    path = tmp_path / "damaged.png"
    path.write_bytes(content)
    return path


@pytest.fixture
def no_image(tmp_path: Path) -> Path:
    path = tmp_path / "notes.jpg"
    path.write_bytes(b"no image")
    return path

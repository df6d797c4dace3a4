"""What a user does on the web page of a service."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from .browser import Browser


def draw_photo(path: Path, frames: int = 1, size: tuple[int, int] = (240, 180)) -> Path:
    """An orange disc on navy; `frames` above one make it animated."""
    image = Image.new("RGB", size, "navy")
    width, height = size
    ImageDraw.Draw(image).ellipse((width / 4, height / 6, width * 3 / 4, height * 5 / 6), "orange")
    path.parent.mkdir(parents=True, exist_ok=True)
    if frames == 1:
        image.save(path)
    else:
        others = [image.rotate(turn) for turn in range(1, frames)]
        image.save(path, save_all=True, append_images=others)
    return path


def open_page(browser: Browser, url: str) -> None:
    """The page, once it knows what there is to choose, or asks for a key."""
    browser.driver.get(url)
    browser.until(lambda: browser.all("#option-fields select") or browser.shown("#key-dialog"))


def choose(browser: Browser, *paths: Path) -> None:
    browser.one("#files").send_keys("\n".join(map(str, paths)))


def await_end(browser: Browser) -> str:
    """The counts of the job shown, once it has ended and its cutouts are shown."""
    browser.until(lambda: browser.shown("#delete"))
    browser.until(
        lambda: (
            not browser.all(".tile[data-state=done] img.result")
            or browser.loaded(".tile[data-state=done] img.result")
        )
    )
    return browser.text("#summary")


def make_job(browser: Browser, url: str, *paths: Path) -> str:
    """The id of a finished job of these photos, which is shown."""
    open_page(browser, url)
    choose(browser, *paths)
    await_end(browser)
    return str(browser.driver.current_url).partition("#")[2]


def tile_names(browser: Browser) -> list[str]:
    return browser.texts("#grid .name")

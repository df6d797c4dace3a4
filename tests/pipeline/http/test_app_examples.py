"""The scripts of infra/examples, run against a server as a user would."""

from __future__ import annotations

import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx2
import pytest
from PIL import Image
from standardwebhooks.webhooks import Webhook

from bgpipe.pipeline.scheduling.webhook import post_webhook

from ...support.http_service import SECONDS, Service
from ...support.ports import await_listening, free_port

EXAMPLES = Path(__file__).resolve().parents[3] / "infra/examples/comfyui"
SHELL = ["bash", EXAMPLES / "curl.sh"]
NODE = ["node", EXAMPLES / "node.mjs"]
POWERSHELL = ["pwsh", "-NoProfile", "-File", EXAMPLES / "powershell.ps1"]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "a photo & more.jpg"
    image = Image.new("RGB", (120, 80), "navy")
    image.paste("orange", (30, 20, 90, 60))
    image.save(path)
    return path


def run(
    command: list[object], service: Service, photo: Path, cutout: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command), str(photo), str(cutout)],
        env=service.environment | {"COMFY_URL": service.url} | environment,
        cwd=cutout.parent,
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
        check=False,
    )


def require(program: str) -> None:
    if shutil.which(program):
        return
    if os.environ.get("CI") == "true" and program != "pwsh":
        pytest.fail(f"not installed: {program}")
    pytest.skip(f"not installed: {program}")


@pytest.mark.parametrize("command", [SHELL, NODE, POWERSHELL], ids=["curl", "node", "powershell"])
def test_a_script_makes_a_cutout(
    command: list[object], service: Service, photo: Path, tmp_path: Path
) -> None:
    require(str(command[0]) if command is not SHELL else "curl")
    cutout = tmp_path / "cutout.png"
    done = run(command, service, photo, cutout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cutout_")
    with Image.open(cutout) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (120, 80))


@pytest.mark.parametrize("command", [SHELL, NODE], ids=["curl", "node"])
def test_a_script_says_what_is_wrong(
    command: list[object], service: Service, photo: Path, tmp_path: Path
) -> None:
    require(str(command[0]) if command is not SHELL else "curl")
    cutout = tmp_path / "cutout.png"
    photo.write_bytes(b"no photo")
    done = run(command, service, photo, cutout)
    assert done.returncode != 0
    assert "E_NOT_IMAGE" in done.stderr
    assert not cutout.exists()


@pytest.fixture
def site() -> Iterator[str]:
    """The examples on a site of their own; its origin."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(EXAMPLES))
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def browser() -> Iterator[Callable[[], object]]:
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service as Driver

    for program in ("chromium", "chromedriver"):
        require(program)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for word in ("headless=new", "no-sandbox", "disable-gpu", "window-size=900,700"):
        options.add_argument(f"--{word}")
    driver = webdriver.Chrome(options=options, service=Driver(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def test_a_page_of_a_site_that_may_makes_a_cutout_and_one_of_another_does_not(
    service: Service, site: str, photo: Path, browser, tmp_path: Path
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    def ask(url: str) -> str:
        browser.get(f"{site}/browser.html")
        field = browser.find_element(By.NAME, "server")
        field.clear()
        field.send_keys(url)
        browser.find_element(By.NAME, "photo").send_keys(str(photo))
        browser.find_element(By.TAG_NAME, "button").click()
        output = browser.find_element(By.TAG_NAME, "output")
        WebDriverWait(browser, 2 * SECONDS).until(lambda _: output.text not in {"", "Working ..."})
        return str(output.text)

    with service.another(BGPIPE_SERVE__ORIGINS=f'["{site}"]') as open_to_it:
        assert ask(open_to_it.url).startswith("cutout_")
        width = "return document.querySelector('img').naturalWidth"
        WebDriverWait(browser, SECONDS).until(lambda _: browser.execute_script(width) == 120)
        browser.save_screenshot(str(tmp_path / "page.png"))
    assert "Failed to fetch" in ask(service.url)


def test_the_receiver_takes_each_message_once_and_refuses_forged_and_old_ones(
    tmp_path: Path,
) -> None:
    port, secret = free_port(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    url = f"http://127.0.0.1:{port}/"
    command = [sys.executable, EXAMPLES.parent / "webhook/receiver.py", str(port)]
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(command, stdout=output, env={"WEBHOOK_SECRET": secret})
    try:
        await_listening(port)
        assert post_webhook(url, {"done": 1}, secret, "job-1") == ""
        for wrong in ("whsec_AAAA", ""):
            assert post_webhook(url, {"done": 2}, wrong, "job-2") == "status 401"

        def post(identity: str, age: int, text: str = '{"done": 3}') -> int:
            sent = datetime.now(UTC) - timedelta(seconds=age)
            headers = {
                "webhook-id": identity,
                "webhook-timestamp": str(int(sent.timestamp())),
                "webhook-signature": Webhook(secret).sign(identity, sent, '{"done": 3}'),
            }
            return httpx2.post(url, content=text, headers=headers).status_code

        assert post("job-3", 20) == 204
        assert post("job-3", 10) == 200  # another attempt, whose predecessor's answer was lost
        assert post("job-4", 0, text='{"done": 4}') == 401
        assert post("job-5", 400) == 401
        now = datetime.now(UTC)
        headers = {"webhook-id": "job-6", "webhook-timestamp": str(int(now.timestamp()))}
        headers["webhook-signature"] = Webhook(secret).sign("job-6", now, "{}")
        replies = [httpx2.post(url, content="{}", headers=headers).status_code for _ in range(2)]
        assert replies == [204, 409]
    finally:
        process.terminate()
        process.wait(20)
    assert (tmp_path / "output").read_text().splitlines() == ['{"done": 1}', '{"done": 3}', "{}"]

"""Run a cluster of processes on this machine and compare the counts of ledger, Flower and Prometheus.

All processes listen on free ports of the loopback and end with this script; their data are removed.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import skimage
import yaml
from PIL import Image

from bgpipe.pipeline.broker.embedded import find_server

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
BROKEN = 2
"""Number of files that are not images, so that there are failures to count."""
ACCOUNT = "demo:" + base64.b32encode(os.urandom(10)).decode()
SUBMIT_TIMEOUT = 900.0
COUNT_TIMEOUT = 60.0
"""For counts to catch up with the ledger, in seconds."""

Counts = dict[str, int]


def main() -> int:
    """Run the demonstration. Returns 0 if all counts agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--picture", type=Path, help="file for a screenshot of Flower")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="bgpipe-demo-") as name, ExitStack() as stack:
        return _demonstrate(Path(name), stack, options)


def _demonstrate(home: Path, stack: ExitStack, options: argparse.Namespace) -> int:
    photos = _make_photos(home / "photos", options.images)
    redis, metrics, flower, prometheus = (_free_port() for _ in range(4))
    environment = _environment(home, redis)

    def start(name: str, *command: object) -> None:
        stack.enter_context(
            _running(home, name, [str(argument) for argument in command], environment)
        )

    start("redis", find_server(), "--port", redis, "--bind", "127.0.0.1", "--dir", home)
    _wait_for("redis", lambda: _listens(redis))
    start("dispatcher", BIN / "bgpipe", "dispatch", "--metrics", f"127.0.0.1:{metrics}")
    start("workers", BIN / "bgpipe", "worker", "--device", "cpu", "--device", "cpu")
    start("flower", BIN / "bgpipe", "flower", f"--port={flower}")
    program = shutil.which("prometheus")
    if program:
        file = _write_prometheus_file(home, metrics)
        arguments = (f"--config.file={file}", f"--storage.tsdb.path={home / 'prometheus'}")
        start("prometheus", program, *arguments, f"--web.listen-address=127.0.0.1:{prometheus}")
    pages = f"http://127.0.0.1:{flower}"
    _wait_for("flower and its workers", lambda: len(_get(f"{pages}/api/workers?refresh=1")) == 2)

    summary = _submit(photos, environment)
    _print(f"job {summary['job']}: {summary['state']}, {summary['seconds']:.1f} s")
    counts = {"ledger": {name: summary[name] for name in ("done", "failed")}}
    counts["flower"] = _wait_for_counts(lambda: _count_in_flower(pages), counts["ledger"])
    if program:
        url = f"http://127.0.0.1:{prometheus}"
        counts["prometheus"] = _wait_for_counts(lambda: _count_in_prometheus(url), counts["ledger"])
    else:
        _print("not installed: prometheus: its counts are not compared")
    if options.picture:
        _take_screenshot(f"http://{ACCOUNT}@127.0.0.1:{flower}/tasks", options.picture, home)
    return _compare(counts, options.images)


def _make_photos(folder: Path, count: int) -> Path:
    """Write distinct crops of the sample photos, and some files that are not images."""
    data = Path(skimage.__file__).parent / "data"
    for number in range(count):
        path = folder / f"shelf-{number * 3 // count + 1}" / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number >= count - BROKEN:
            path.write_text("no photo")
            continue
        with Image.open(data / PHOTOS[number % len(PHOTOS)]) as photo:
            width, height = photo.size
            left, top = number % (width // 4), number % (height // 4)
            part = photo.crop((left, top, left + width * 3 // 4, top + height * 3 // 4))
            part.convert("RGB").resize((320, 240)).save(path)
    return folder


def _environment(home: Path, redis: int) -> dict[str, str]:
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("BGPIPE_")}
    return inherited | {
        "BGPIPE_REDIS_URL": f"redis://127.0.0.1:{redis}/0",
        # Two workers share the cores: more threads would slow both down.
        "BGPIPE_WORKER__CPU_THREADS": "1",
        "FLOWER_BASIC_AUTH": ACCOUNT,
        "XDG_STATE_HOME": str(home / "state"),
    }


@contextmanager
def _running(
    home: Path, name: str, command: Sequence[str], environment: dict[str, str]
) -> Iterator[None]:
    """Run a process with its own log; terminate it at the end, and kill it after a minute."""
    with (home / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches only this script, which stops them in order
        )
    try:
        yield
    except BaseException:
        _print(f"--- end of {name}'s log\n{(home / f'{name}.log').read_text()[-1500:]}")
        raise
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _write_prometheus_file(home: Path, metrics: int) -> Path:
    """Write the project's configuration with this target and intervals for a short job."""
    folder = ROOT / "infra/prometheus"
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(folder / "rules.yml")]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{metrics}"]}]
    path = home / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def _submit(photos: Path, environment: dict[str, str]) -> dict[str, Any]:
    command = [str(BIN / "bgpipe"), "--json", "submit", str(photos), "--job", "demo", "--wait"]
    done = subprocess.run(
        [*command, "--model", "birefnet-nano"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=SUBMIT_TIMEOUT,
        check=False,
    )
    if done.returncode not in {0, 1}:
        raise SystemExit(f"bgpipe submit ended with exit code {done.returncode}")
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary


def _count_in_flower(url: str) -> Counts:
    """Count the tasks in Flower by final state."""
    tasks = _get(f"{url}/api/tasks?limit=100000&taskname=bgpipe.remove_background")
    states = Counter(task["state"] for task in tasks.values())
    return {"done": states["SUCCESS"], "failed": states["FAILURE"]}


def _count_in_prometheus(url: str) -> Counts:
    """Count the images in the metrics scraped from the dispatcher."""
    query = "sum by (outcome) (max by (outcome, code) (bgpipe_images_total))"
    response = _get(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
    values = {
        sample["metric"]["outcome"]: sample["value"][1] for sample in response["data"]["result"]
    }
    return {name: int(float(values.get(name, 0))) for name in ("done", "failed")}


def _wait_for_counts(count: Callable[[], Counts], expected: Counts) -> Counts:
    """Count until the result is `expected`, or time is up. Returns the last result."""
    deadline = time.monotonic() + COUNT_TIMEOUT
    while True:
        try:
            counts = count()
        except OSError:
            counts = {}
        if counts == expected or time.monotonic() > deadline:
            return counts
        time.sleep(0.5)


def _compare(counts: dict[str, Counts], images: int) -> int:
    for name, values in counts.items():
        _print(
            f"{name:<11} done {values.get('done', '?'):>5}   failed {values.get('failed', '?'):>3}"
        )
    agreed = all(values == counts["ledger"] for values in counts.values())
    complete = sum(counts["ledger"].values()) == images
    _print("counts agree" if agreed and complete else "counts do not agree")
    return 0 if agreed and complete else 1


def _take_screenshot(url: str, path: Path, home: Path) -> None:
    """Take a screenshot of Flower in Chromium, with few colors to keep it small."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("not on the PATH: chromium: install it, or omit --picture")
    shot = home / "flower.png"
    subprocess.run(
        [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--window-size=1360,720",
            f"--user-data-dir={home / 'chromium'}",
            "--virtual-time-budget=10000",
            f"--screenshot={shot}",
            url,
        ],
        capture_output=True,
        timeout=COUNT_TIMEOUT * 2,
        check=True,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(shot) as picture:
        picture.convert("RGB").quantize(128).save(path, optimize=True)
    _print(f"picture: {path}")


def _get(url: str) -> Any:  # noqa: ANN401  # JSON
    request = urllib.request.Request(url)  # noqa: S310  # loopback only
    request.add_header("Authorization", f"Basic {base64.b64encode(ACCOUNT.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        return json.load(response)


def _wait_for(name: str, is_ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 2 * COUNT_TIMEOUT
    while True:
        try:
            if is_ready():
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit(f"not ready after {2 * COUNT_TIMEOUT:.0f} s: {name}")
        time.sleep(0.2)


def _listens(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _print(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())

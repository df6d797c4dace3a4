"""What infra/scripts/demo-cluster runs: a cluster of processes on this machine, and three witnesses.

Everything listens on the loopback at free ports, keeps its data in one folder that is removed at the
end, and is ended with this script.
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

from bgpipe.pipeline.broker.server_process import find_server

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
BROKEN = 2
"""Files among the images that are none: so there are failures to agree on."""
ACCOUNT = "demo:" + base64.b32encode(os.urandom(10)).decode()
SECONDS = 900.0
PATIENCE = 60.0
"""Seconds for those that hear of an image's end after the ledger."""

Counts = dict[str, int]


def main() -> int:
    """Run the demonstration; 0 if all witnesses agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--picture", type=Path, help="write a screenshot of Flower there")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="bgpipe-demo-") as name, ExitStack() as stack:
        return _demonstrate(Path(name), stack, options)


def _demonstrate(home: Path, stack: ExitStack, options: argparse.Namespace) -> int:
    photos = _fill(home / "photos", options.images)
    redis, metrics, flower, prometheus = (_free_port() for _ in range(4))
    environment = _environment(home, redis)

    def start(name: str, *command: object) -> None:
        stack.enter_context(_running(home, name, [str(word) for word in command], environment))

    start("redis", find_server(), "--port", redis, "--bind", "127.0.0.1", "--dir", home)
    _await("redis", lambda: _listens(redis))
    start("dispatcher", BIN / "bgpipe", "dispatch", "--metrics", f"127.0.0.1:{metrics}")
    start("workers", BIN / "bgpipe", "worker", "--device", "cpu", "--device", "cpu")
    start("flower", BIN / "bgpipe", "flower", f"--port={flower}")
    program = shutil.which("prometheus")
    if program:
        file = _prometheus_file(home, metrics)
        options_of = (f"--config.file={file}", f"--storage.tsdb.path={home / 'prometheus'}")
        start("prometheus", program, *options_of, f"--web.listen-address=127.0.0.1:{prometheus}")
    pages = f"http://127.0.0.1:{flower}"
    _await("flower and its workers", lambda: len(_get(f"{pages}/api/workers?refresh=1")) == 2)

    summary = _submit(photos, environment)
    _say(f"job {summary['job']}: {summary['state']}, {summary['seconds']:.1f} s")
    witnesses = {"ledger": {name: summary[name] for name in ("done", "failed")}}
    witnesses["flower"] = _settled(lambda: _flower(pages), witnesses["ledger"])
    if program:
        there = f"http://127.0.0.1:{prometheus}"
        witnesses["prometheus"] = _settled(lambda: _prometheus(there), witnesses["ledger"])
    else:
        _say("prometheus is not installed: it bears no witness")
    if options.picture:
        _take_picture(f"http://{ACCOUNT}@127.0.0.1:{flower}/tasks", options.picture, home)
    return _compare(witnesses, options.images)


def _fill(folder: Path, count: int) -> Path:
    """Parts of the sample photos, each another one, and a few files that are no images."""
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
    kept = {name: text for name, text in os.environ.items() if not name.startswith("BGPIPE_")}
    return kept | {
        "BGPIPE_REDIS_URL": f"redis://127.0.0.1:{redis}/0",
        # Two networks share the cores: threads that wait for each other would slow both down.
        "BGPIPE_WORKER__CPU_THREADS": "1",
        "FLOWER_BASIC_AUTH": ACCOUNT,
        "XDG_STATE_HOME": str(home / "state"),
    }


@contextmanager
def _running(
    home: Path, name: str, command: Sequence[str], environment: dict[str, str]
) -> Iterator[None]:
    """A process with a log of its own, asked to end, and ended if it does not."""
    with (home / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is ours: we end them in order
        )
    try:
        yield
    except BaseException:
        _say(f"--- the end of {name}'s log\n{(home / f'{name}.log').read_text()[-1500:]}")
        raise
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _prometheus_file(home: Path, metrics: int) -> Path:
    """The project's configuration, but for the target and a pace that suits a short job."""
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
        timeout=SECONDS,
        check=False,
    )
    if done.returncode not in {0, 1}:
        raise SystemExit(f"bgpipe submit ended with exit code {done.returncode}")
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary


def _flower(pages: str) -> Counts:
    """How the tasks that Flower heard of ended."""
    tasks = _get(f"{pages}/api/tasks?limit=100000&taskname=bgpipe.remove_background")
    states = Counter(task["state"] for task in tasks.values())
    return {"done": states["SUCCESS"], "failed": states["FAILURE"]}


def _prometheus(there: str) -> Counts:
    """What it scraped from the dispatcher."""
    query = "sum by (outcome) (max by (outcome, code) (bgpipe_images_total))"
    answer = _get(f"{there}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
    values = {one["metric"]["outcome"]: one["value"][1] for one in answer["data"]["result"]}
    return {name: int(float(values.get(name, 0))) for name in ("done", "failed")}


def _settled(ask: Callable[[], Counts], expected: Counts) -> Counts:
    """What a witness says once it agrees, or after the patience with it is over."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            said = ask()
        except OSError:
            said = {}
        if said == expected or time.monotonic() > deadline:
            return said
        time.sleep(0.5)


def _compare(witnesses: dict[str, Counts], images: int) -> int:
    for name, said in witnesses.items():
        _say(f"{name:<11} done {said.get('done', '?'):>5}   failed {said.get('failed', '?'):>3}")
    agreed = all(said == witnesses["ledger"] for said in witnesses.values())
    complete = sum(witnesses["ledger"].values()) == images
    _say("they agree" if agreed and complete else "they do not agree")
    return 0 if agreed and complete else 1


def _take_picture(url: str, path: Path, home: Path) -> None:
    """A screenshot of Flower in a real Chromium, in few colours so that it stays small."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("not on the PATH: chromium; leave --picture out, or install it")
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
        timeout=PATIENCE * 2,
        check=True,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(shot) as picture:
        picture.convert("RGB").quantize(128).save(path, optimize=True)
    _say(f"picture: {path}")


def _get(url: str) -> Any:  # noqa: ANN401  # whatever JSON the page holds
    request = urllib.request.Request(url)  # noqa: S310  # our own addresses
    request.add_header("Authorization", f"Basic {base64.b64encode(ACCOUNT.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return json.load(answer)


def _await(what: str, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 2 * PATIENCE
    while True:
        try:
            if ready():
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit(f"not ready after {2 * PATIENCE:.0f} s: {what}")
        time.sleep(0.2)


def _listens(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())

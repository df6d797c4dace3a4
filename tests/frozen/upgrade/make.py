"""Write the upgrade data anew: what real commands of the present version leave behind.

    python tests/frozen/upgrade/make.py

Only deliberately: the data are worth something because an earlier version wrote them. They were
written at commit 6a20431. The commands run in FOLDER, because jobs hold absolute paths; the bucket
is on a moto server. `weights.safetensors` is written only where it is missing: a random network of
tiny widths, so that the data do not depend on the bundled model.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import redis
from PIL import Image

from bgpipe.pipeline.broker.embedded import find_server

HERE = Path(__file__).resolve().parent
FOLDER = Path("/tmp/bgpipe-upgrade")
BUCKET = "bgpipe-upgrade"
BGPIPE = Path(sys.executable).with_name("bgpipe")
MODEL = FOLDER / "weights.safetensors"
STATE = FOLDER / "state/bgpipe"
NAMES = ("a.jpg", "größe & more/b 1.jpg", "größe & more/c.jpg")
MANY = tuple(f"{number:02}.jpg" for number in range(16))
MOMENT = 1_700_000_000
ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}
PASSING = {".lock", ".sock", ".log", ".pid", ".mutex"}
"""Suffixes of what only lives as long as a command."""


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(mode=0o700)
    write_sources()
    server, environment = start_s3()
    try:
        client = boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"])
        fill_bucket(client)
        reported = run_jobs(environment)
        write_plain_log()
        save(client, reported)
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(FOLDER)


def write_sources() -> None:
    if not (HERE / MODEL.name).exists():
        write_weights(HERE / MODEL.name)
    put(MODEL.name, (HERE / MODEL.name).read_bytes())
    for seed, name in enumerate(NAMES):
        put(f"photos/{name}", photo(seed))
    put("mixed/good.jpg", photo(3))
    put("mixed/empty.jpg", b"")
    for seed, name in enumerate(MANY):
        put(f"many/{name}", photo(seed))


def write_weights(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from bgpipe.pipeline.networks.birefnet.config import ModelConfig, SwinConfig
    from bgpipe.pipeline.networks.birefnet.network import BiRefNet

    torch.manual_seed(0)
    network = BiRefNet(
        ModelConfig(
            backbone=SwinConfig(embed=8, depths=(1, 1, 1, 1), heads=(1, 2, 4, 8), window=4),
            inner=6,
            branch=10,
            kernels=(3,),
            image_inner=4,
            gate=2,
        )
    )
    save_file(network.half().state_dict(), path, {"bgpipe.size": "64x64"})


def photo(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).resize((64, 48)).save(data, "jpeg", quality=90)
    return data.getvalue()


def put(name: str, data: bytes) -> None:
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (MOMENT, MOMENT))


def start_s3() -> tuple[subprocess.Popen[bytes], dict[str, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.environ.update(ACCOUNT)
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.1)
    return server, {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


def fill_bucket(client: Any) -> None:
    client.create_bucket(Bucket=BUCKET)
    for seed, name in enumerate(NAMES):
        client.put_object(Bucket=BUCKET, Key=f"photos/{name}", Body=photo(seed))


def run_jobs(environment: dict[str, str]) -> dict[str, Any]:
    """Run four jobs; return what the commands say about them."""
    submit = ("submit", "--model", MODEL, "--json")
    bgpipe(*submit, FOLDER / "photos", "--job", "folder", **environment)
    bgpipe(*submit, f"s3://{BUCKET}/photos", "--job", "bucket", **environment)
    bgpipe(*submit, FOLDER / "mixed", "--job", "mixed", **environment)
    interrupt(*submit, FOLDER / "many", "--job", "unfinished", **environment)
    return {
        "jobs": bgpipe("jobs", "--json"),
        "errors": bgpipe("errors", "mixed", "--json"),
    }


def bgpipe(*arguments: object, **environment: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [str(BGPIPE), *map(str, arguments)],
        env=surroundings() | environment,
        stdout=subprocess.PIPE,
        cwd=FOLDER,
        check=False,
        text=True,
    )
    assert done.returncode in {0, 1}, done
    return [json.loads(line) for line in done.stdout.splitlines()]


def interrupt(*arguments: object, **environment: str) -> None:
    """Interrupt the command as soon as its first cutout is there."""
    process = subprocess.Popen(
        [str(BGPIPE), *map(str, arguments)],
        env=surroundings() | environment | {"BGPIPE_WORKER__LANES": "1"},
        cwd=FOLDER,
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None and not list(FOLDER.glob("many-cutouts/*.png")):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130, "it was done before it was interrupted: try again"


def surroundings() -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("BGPIPE_")}
    return kept | {
        "XDG_STATE_HOME": str(FOLDER / "state"),
        "XDG_DATA_HOME": str(FOLDER / "data"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }


def write_plain_log() -> None:
    """Rewrite Redis' file as plain commands, which every version of a server reads."""
    home, path = STATE / "redis", STATE / "redis/make.sock"
    server = subprocess.Popen(
        [
            find_server(),
            *("--port", "0", "--unixsocket", path, "--dir", home),
            *("--appendonly", "yes", "--aof-use-rdb-preamble", "no", "--save", ""),
        ],
        stdout=subprocess.DEVNULL,
    )
    while not path.exists():
        time.sleep(0.05)
    with redis.Redis(unix_socket_path=str(path)) as client:
        while client.info("persistence")["loading"]:
            time.sleep(0.05)
        client.bgrewriteaof()
        while pending(client.info("persistence")):
            time.sleep(0.05)
        client.shutdown()
    server.wait()


def pending(persistence: dict[str, Any]) -> bool:
    names = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")
    return any(persistence[name] for name in names)


def save(client: Any, reported: dict[str, Any]) -> None:
    shutil.rmtree(HERE / "content", ignore_errors=True)
    (HERE / "content").mkdir()
    record = {
        "files": list(saved_files()),
        "objects": list(saved_objects(client)),
        "reported": reported,
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    (HERE / "data.json").write_text(text + "\n", encoding="utf-8")


def saved_files() -> Iterator[dict[str, Any]]:
    """What the commands left on the disk; names that git would quote stand in the record."""
    kept = (path for path in sorted(FOLDER.rglob("*")) if path.suffix not in PASSING)
    for number, path in enumerate(path for path in kept if path.is_file() and path != MODEL):
        name = f"content/file-{number:02}{path.suffix}"
        (HERE / name).write_bytes(path.read_bytes())
        place = path.relative_to(FOLDER).as_posix()
        yield {"path": place, "content": name, "mtime_ns": path.stat().st_mtime_ns}


def saved_objects(client: Any) -> Iterator[dict[str, Any]]:
    listed = client.list_objects_v2(Bucket=BUCKET)["Contents"]
    for number, entry in enumerate(listed):
        found = client.get_object(Bucket=BUCKET, Key=entry["Key"])
        name = f"content/object-{number:02}{Path(entry['Key']).suffix}"
        (HERE / name).write_bytes(found["Body"].read())
        yield {
            "key": entry["Key"],
            "content": name,
            "content_type": found["ContentType"],
            "metadata": found["Metadata"],
            "etag": found["ETag"],
        }


if __name__ == "__main__":
    main()

"""Measure a sweep of 100,000 keys without changes: `python tests/bench/sweep.py [N]`.

A server process of its own (listing_server.py) holds N sources and N cutouts, and logs every
request. A child process lists them as a job does, first with one changed, one new and one deleted
source. Prints seconds, requests and the child's memory; the exit code is 1 if the sweep makes more
than 2 N / 1000 requests and a constant, takes more than 200 MB, or does not find those three.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bgpipe.config.presets import Preset
from bgpipe.config.settings import load_settings
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.broker.embedded import redis_server
from bgpipe.pipeline.jobs.store import NO_TOKEN, JobStore
from bgpipe.pipeline.planning.catalog import Catalog, CatalogRow, Catalogs, merge_join
from bgpipe.pipeline.planning.planner import list_job
from bgpipe.pipeline.planning.targets import assign_targets
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.pipeline.types import Job, JobId, JobState, Recipe

IMAGES = 100_000
SPARE_REQUESTS = 30
MEGABYTES = 200
SOURCE, TARGET = "s3://sweep/photos", "s3://sweep/cutouts"
RECIPE = Recipe("none", "0" * 64, (32, 32), Preset())


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        home = Path(folder)
        port, log = start_server(home, count, stack)
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        url = stack.enter_context(redis_server(home / "state"))
        settle(url)
        stores = StoreFactory(load_settings().s3)
        change(stores.open(SOURCE))
        found = measure("with three changes", url, log)
        ok = (found["todo"], found["deleted"]) == (2, 1)
        print(f"  {found['todo']} to do (expected: 2), {found['deleted']} deleted (expected: 1)")
        quiet = measure("again", url, log)
        limit = 2 * count // 1000 + SPARE_REQUESTS
        print(f"  at most {limit} requests and {MEGABYTES} MB allowed")
        ok = ok and max(found["requests"], quiet["requests"]) <= limit
        return 0 if ok and max(found["megabytes"], quiet["megabytes"]) < MEGABYTES else 1


def start_server(home: Path, count: int, stack: ExitStack) -> tuple[int, Path]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    log = home / "requests.log"
    script = Path(__file__).with_name("listing_server.py")
    process = subprocess.Popen(
        [sys.executable, script, str(port), str(count)],
        stdout=stack.enter_context(log.open("wb")),
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.1)
        else:
            return port, log


def settle(url: str) -> None:
    """Write the catalog that jobs have left behind which made all these cutouts."""
    stores = StoreFactory(load_settings().s3)
    source, target = stores.open(SOURCE), stores.open(TARGET)
    with connect(url) as client:
        catalog = Catalog(target, SOURCE, JobStore(client).items)
        job = make_job("before")
        writer = catalog.successor(job)
        for place in merge_join(assign_targets(source.list(), job), target.list(), []):
            assert place.planned
            assert place.listed
            made, entry = place.listed.identity, place.planned.source
            writer.add(CatalogRow(place.key, made, entry.key, entry.identity, RECIPE.hash))
        writer.close()


def change(source: Store) -> None:
    """One is changed, one is new, one is deleted."""
    source.write("07/0000007.jpg", b"another photo")
    source.write("07/0000007-new.jpg", b"a new photo")
    source.delete("08/0000008.jpg")


def measure(what: str, url: str, log: Path) -> dict[str, float]:
    """List in a child process."""
    before = len(log.read_text().splitlines())
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--list", url], check=True, stdout=subprocess.PIPE
    )
    found: dict[str, float] = json.loads(done.stdout)
    found["requests"] = len(log.read_text().splitlines()) - before
    seconds = time.perf_counter() - start
    print(
        f"{what}: {seconds:.1f} s, {found['requests']} requests, {found['megabytes']:.0f} MB; "
        f"{found['skipped']} up to date"
    )
    return found


def list_once(url: str) -> None:
    """Do what `bgpipe sweep run` does before the first image is published."""
    stores = StoreFactory(load_settings().s3)
    source, target = stores.open(SOURCE), stores.open(TARGET)
    with connect(url) as client:
        job_store = JobStore(client)
        job = make_job(f"sweep-{time.monotonic_ns()}")
        job_store.open(job)
        list_job(
            job_store, Catalogs(job_store.items, Path(os.devnull)), job, source, target, NO_TOKEN
        )
        summary = job_store.summary(job.id)
        if summary.state == JobState.RUNNING:
            job_store.cancel(summary.job)
        rows = Catalog(target, SOURCE, job_store.items).rows()
        deleted = sum(1 for row in rows) - summary.total
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    todo = summary.total - summary.skipped
    counted = {"todo": todo, "skipped": summary.skipped, "deleted": deleted, "megabytes": peak}
    print(json.dumps(counted))


def make_job(name: str) -> Job:
    return Job(JobId(name), SOURCE, TARGET, RECIPE, time.time())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--list"]:
        list_once(sys.argv[2])
    else:
        sys.exit(main())

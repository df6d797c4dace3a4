"""Every command line in the two README.md and infra/docs is run, or says in the document why it is not.

The rules for writing a document:

- A fenced block marked `sh` is run, line by line, in a sandbox; each line has to end with 0 (submit,
  status and resume also with 1: some images failed). `\\` continues a line, ` # ` begins a comment.
- `<!-- not run: REASON -->` in the lines above a block keeps it from being run; it is invisible on the
  rendered page. `<!-- not run, START OF A LINE: REASON -->` does so for single lines.
- Blocks marked `text` are drawings and output; other blocks with command lines need such a mark too.
- In `code like this`, commands of bgpipe and their long options have to exist, and so do the files that
  python, pytest and bash are to run.

The sandbox is a folder with links to what lies at the top of the repository, a home of its own with
`photos` and `goods`, an environment that names a real Redis with a dispatcher and a CPU worker, and
birefnet-nano as the model. A job that ended before, with one failure, is the latest one. What documents
call by example names (SUBSTITUTES) gets its real name. Servers (SERVERS) are left running to the end of
the document; they have to say that they are ready.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.broker.embedded import find_server
from bgpipe.pipeline.cli.app import command_tree
from bgpipe.pipeline.errors import RedisUnavailable
from bgpipe.pipeline.monitoring.collectors import read_cluster_stats

from ..support.ports import free_port
from ..support.programs import require_program
from ..support.redis_server import RedisServer
from ..support.source_tree import ROOT

PAGES = [ROOT / "README.md", ROOT / "infra/package/README.md"]
DOCUMENTS = sorted([*PAGES, *(ROOT / "infra/docs").rglob("*.md")])
BGPIPE = Path(sys.executable).with_name("bgpipe")
FENCE = re.compile(r"((?:^<!--.*?-->\n+)*)^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- not run(?:, (.+?))?: .+? -->", re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LONG = re.compile(r"--[a-z][a-z-]+")
SERVERS = {
    "bgpipe worker": "worker is ready",
    "bgpipe dispatch": "dispatcher started",
    "bgpipe serve": "http://",
    "bgpipe flower": "Visit me at",
}
SOME_FAILED = ("bgpipe submit", "bgpipe status", "bgpipe resume", "bgpipe retry")
SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Line:
    """A command line of a document, and why it is not run, if it is not."""

    text: str
    number: int
    mark: str | None


def lines(document: Path) -> Iterator[Line]:
    """The command lines of the blocks marked sh."""
    text = document.read_text()
    for block in FENCE.finditer(text):
        marks = MARK.findall(block[1])
        number = text.count("\n", 0, block.start(3)) + 1
        if block[2] != "sh":
            continue
        for line in block[3].replace("\\\n", " ").splitlines():
            command = re.split(r"(?:^|\s+)# ", line)[0].strip()
            if command:
                mark = next((m for m in marks if command.startswith(m)), None)
                yield Line(command, number, mark)


def unmarked(document: Path) -> list[Line]:
    return [line for line in lines(document) if line.mark is None]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A shell in `folder` that remembers what earlier lines did."""

    folder: Path
    shell: subprocess.Popen[str]
    substitutes: dict[str, str]
    url: str

    def run(self, line: Line) -> None:
        command = line.text
        for example, real in self.substitutes.items():
            command = command.replace(example, real)
        if command.startswith("bgpipe worker") and "--device" not in command:
            command += " --device cpu"
        bare = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", command)
        ready = next((SERVERS[name] for name in SERVERS if bare.startswith(name)), None)
        program = bare.split()[0]
        if self._ask(f"type {shlex.quote(program)} >/dev/null 2>&1; echo $?") != "0":
            require_program(program)
        if ready:
            self._serve(command, ready)
            return
        log = self.folder / "said"
        code = self._ask(f"{{ {command}\n}} >{shlex.quote(str(log))} 2>&1 </dev/null; echo $?")
        allowed = {"0", "1"} if command.startswith(SOME_FAILED) else {"0"}
        assert code in allowed, f"exit code {code}: {command}\n{log.read_text()}"
        if command.startswith(SOME_FAILED):
            self._await_jobs()

    def _serve(self, command: str, ready: str) -> None:
        """Start `command` and wait until it says `ready`; it ends with the shell."""
        log = self.folder / f"served-{time.monotonic_ns()}"
        log.touch()  # the shell may come to it later than we do
        pid = self._ask(f"{command} >{shlex.quote(str(log))} 2>&1 </dev/null & echo $!")
        deadline = time.monotonic() + SECONDS
        while ready not in log.read_text():
            assert Path(f"/proc/{pid}").exists(), f"ended: {command}\n{log.read_text()}"
            assert time.monotonic() < deadline, f"not ready: {command}\n{log.read_text()}"
            time.sleep(0.1)

    def _ask(self, command: str) -> str:
        assert self.shell.stdin
        assert self.shell.stdout
        self.shell.stdin.write(command + "\n")
        self.shell.stdin.flush()
        return self.shell.stdout.readline().strip()

    def _await_jobs(self) -> None:
        """What a document does next is about a job that has ended."""
        deadline = time.monotonic() + SECONDS
        with connect(self.url) as client:
            while read_cluster_stats(client).unsettled:
                assert time.monotonic() < deadline, "the job does not end"
                time.sleep(0.1)


@pytest.fixture(scope="module")
def redis_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a cluster with a dispatcher and a worker that knows birefnet-nano."""
    try:
        find_server()
    except RedisUnavailable:
        require_program("redis-server")
    home = tmp_path_factory.mktemp("cluster")
    server = RedisServer(home)
    with ExitStack() as stack:
        server.start()
        stack.callback(server.kill)
        for arguments in (("dispatch",), ("worker", "--device", "cpu")):
            stack.enter_context(running(home, server.url, *arguments))
        yield server.url


@contextmanager
def running(home: Path, url: str, *arguments: str) -> Iterator[None]:
    with (home / f"{arguments[0]}.log").open("w") as log:
        command = [str(BGPIPE), *arguments]
        process = subprocess.Popen(command, env=environment(home, url), cwd=home, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(SECONDS)


def environment(home: Path, url: str) -> dict[str, str]:
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("BGPIPE_", "XDG_", "HF_"))}
    return kept | {
        "HOME": str(home),
        "PATH": f"{BGPIPE.parent}{os.pathsep}{os.environ['PATH']}",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "BGPIPE_REDIS_URL": url,
        "BGPIPE_MODEL__NAME": "birefnet-nano",
        "BGPIPE_WORKER__CPU_THREADS": "1",
        "BGPIPE_SERVE__UPLOADS": str(home / "uploads"),
    }


@pytest.fixture
def sandbox(redis_address: str, tmp_path: Path) -> Iterator[Sandbox]:
    home, folder = tmp_path / "home", tmp_path / "checkout"
    folder.mkdir()
    for entry in ROOT.iterdir():
        if entry.name not in {".git", ".venv"}:
            (folder / entry.name).symlink_to(entry)
    (folder / ".venv").symlink_to(sys.prefix)
    for name in ("photos", "goods"):
        picture(home / name / "chair.jpg")
    (home / "photos/broken.jpg").write_text("no photo")
    earlier = f"earlier-{time.monotonic_ns()}"
    submit = [str(BGPIPE), "submit", str(home / "photos"), "--job", earlier, "--wait"]
    done = subprocess.run(
        submit, env=environment(home, redis_address), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    substitutes = {
        "redis://:password@redis.internal:6379/0": redis_address,
        "/mnt/photos": str(home / "goods"),
        "SOURCE": str(home / "photos"),
        "DEST": str(home / "cutouts"),
        "JOB": earlier,
        "127.0.0.1:9640": f"127.0.0.1:{free_port()}",
        "--port 8188": f"--port {free_port()}",
        "bgpipe flower": f"bgpipe flower --port={free_port()}",
    }
    shell = subprocess.Popen(
        ["bash", "--norc"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=folder,
        env=environment(home, redis_address),
        text=True,
        start_new_session=True,
    )
    yield Sandbox(folder, shell, substitutes, redis_address)
    assert shell.stdin
    shell.stdin.write("kill $(jobs -p) 2>/dev/null; wait; exit\n")
    try:
        shell.communicate(timeout=60)
    except subprocess.TimeoutExpired:  # Flower may hang in its own handler of the signal
        os.killpg(shell.pid, signal.SIGKILL)
        shell.communicate()


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(noise).resize((96, 72)).save(path)


@pytest.mark.parametrize(
    "document",
    [path for path in DOCUMENTS if unmarked(path)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
@pytest.mark.slow
def test_every_command_line_that_is_not_marked_works(document: Path, sandbox: Sandbox) -> None:
    for line in unmarked(document):
        sandbox.run(line)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_command_line_hides_in_a_block_that_is_not_marked_as_shell(document: Path) -> None:
    programs = re.compile(r"^(\$ |bgpipe |celery |docker |kubectl |pip |pytest |infra/scripts/)")
    for block in FENCE.finditer(document.read_text()):
        if block[2] not in {"sh", "text"} and not MARK.search(block[1]):
            found = [line for line in block[3].splitlines() if programs.match(line)]
            assert not found, f"mark the block as sh: {found}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_the_running_text_exist(document: Path) -> None:
    for span in SPAN.findall(FENCE.sub("", document.read_text())):
        words = span.split()
        if words[0] == "bgpipe" and len(words) > 1:
            check_command(words[1:], span)
        elif words[0] in {"python", "pytest", "bash"} or words[0].startswith("infra/scripts/"):
            files = [word for word in words if "/" in word and not word.startswith(("-", "$"))]
            assert all((ROOT / file.split("::")[0]).exists() for file in files), span


def check_command(words: list[str], span: str) -> None:
    """Whether the words begin with a command, and all long options are its own or global."""
    root = group = command_tree()
    known = spellings(group)
    for word in words:
        if word not in getattr(group, "commands", {}):
            break
        group = group.commands[word]
        known |= spellings(group)
    assert group is not root or words[0].startswith("-"), f"no such command: {span}"
    if not hasattr(group, "commands"):
        assert set(LONG.findall(span)) <= known, f"no such option: {span}"


def spellings(command: Any) -> set[str]:
    return {word for one in command.params for word in (*one.opts, *one.secondary_opts)} | {
        "--help"
    }


def test_the_page_of_commands_and_settings_is_up_to_date() -> None:
    script = ROOT / "infra/scripts/reference.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_pages_show_the_committed_figures() -> None:
    script = ROOT / "infra/scripts/figures.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

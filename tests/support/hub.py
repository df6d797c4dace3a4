"""A model hub on the loopback: it speaks the protocol of a real one for one repository."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote


class LoopbackHub(ThreadingHTTPServer):
    """Has the weights of each commit of `repo`; answers with a redirect to storage and hashes."""

    def __init__(
        self,
        repo: str,
        commits: dict[str, bytes],
        revision: str = "main",
        *,
        file: str = "model.safetensors",
        token: str = "",
    ) -> None:
        """`revision` is the name under which the newest commit, which comes first, is asked for.

        With a `token`, the repository is gated: it is for those who send it.
        """
        super().__init__(("127.0.0.1", 0), LoopbackHandler)
        self.repo = repo
        self.revision = revision
        self.file = file
        self.token = token
        self.newest = next(iter(commits))
        self.commits = commits
        self.damaged = False
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class LoopbackHandler(BaseHTTPRequestHandler):
    server: LoopbackHub

    def do_HEAD(self) -> None:
        self.server.asked.append(self.path)
        commit = unquote(self.path.removeprefix(f"/{self.server.repo}/resolve/").split("/")[0])
        commit = self.server.newest if commit == self.server.revision else commit
        if self.server.token not in self.headers.get("Authorization", ""):
            return self.answer(401, {"X-Error-Code": "GatedRepo"})
        if not self.path.endswith(f"/{self.server.file}") or commit not in self.server.commits:
            return self.answer(404, {"X-Error-Code": "RepoNotFound"})
        content = self.server.commits[commit]
        linked = {
            "X-Linked-Etag": f'"{sha256(content).hexdigest()}"',
            "X-Linked-Size": len(content),
        }
        # Another name for this host: the storage of a real hub is another host, too.
        location = f"http://localhost:{self.server.server_port}/storage/{commit}"
        return self.answer(302, {"X-Repo-Commit": commit, "Location": location, **linked})

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content = self.server.commits.get(self.path.removeprefix("/storage/"))
        if content is None:
            return self.answer(404, {})
        if self.server.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.answer(200, {"Content-Length": len(content)})
        self.wfile.write(content)
        return None

    def answer(self, status: int, headers: dict[str, object]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Keep stderr for what matters."""


@contextmanager
def serving(hub: LoopbackHub) -> Iterator[LoopbackHub]:
    with hub:
        thread = Thread(target=hub.serve_forever, args=(0.02,))
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()

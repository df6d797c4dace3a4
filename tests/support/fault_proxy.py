"""A proxy between boto3 and an S3 server that makes trouble, as a process of its own.

    python tests/support/fault_proxy.py --port 9001 --upstream http://127.0.0.1:9000 --rate 0.1 --seed 1
    python tests/support/fault_proxy.py ... --answer 'PUT /bucket/a.png 403 AccessDenied'

With --rate, that share of the requests ends in a fault, each kind as often as the others. --answer
names a method, what its path starts with, and the error to give instead of passing it on; with
--while, only as long as a file exists. The log on stdout has a line for each request: what became of it, its method and its path.
"""

from __future__ import annotations

import argparse
import http.client
import random
import socket
import struct
import sys
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from urllib.parse import unquote, urlsplit

ERROR = "<Error><Code>{code}</Code><Message>made by the proxy</Message></Error>"
STALL = 3.0
"""Seconds; the clients of the tests wait for one."""
FAULTS = ("internal-error", "slow-down", "reset", "answer-lost", "stall", "cut-short")


@dataclass(frozen=True, slots=True)
class Rule:
    method: str
    start: str
    status: int
    code: str

    @classmethod
    def parse(cls, text: str) -> Rule:
        method, _, rest = text.partition(" ")
        start, status, code = rest.rsplit(" ", 2)
        return cls(method, start, int(status), code)


@dataclass(slots=True)
class Plan:
    """Which requests are to fail, and how."""

    upstream: str
    rules: list[Rule]
    rate: float
    dice: random.Random
    lock: Lock
    switch: Path | None
    """The rules hold while this file exists."""

    def rule(self, method: str, path: str) -> Rule | None:
        if self.switch and not self.switch.exists():
            return None
        matching = (r for r in self.rules if r.method == method and path.startswith(r.start))
        return next(matching, None)

    def fault(self) -> str:
        with self.lock:
            return self.dice.choice(FAULTS) if self.dice.random() < self.rate else "passed"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    plan: Plan

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        rule = self.plan.rule(self.command, unquote(self.path))
        fault = f"refused-{rule.code}" if rule else self.plan.fault()
        print(fault, self.command, self.path, flush=True)
        if rule:
            self.refuse(rule.status, rule.code)
        elif fault == "internal-error":
            self.refuse(500, "InternalError")
        elif fault == "slow-down":
            self.refuse(503, "SlowDown")
        elif fault == "reset":
            self.reset()
        elif fault == "stall":
            time.sleep(STALL)
            self.reset()
        else:
            self.pass_on(body, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request  # noqa: N815

    def pass_on(self, body: bytes, fault: str) -> None:
        upstream = http.client.HTTPConnection(self.plan.upstream, timeout=60)
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        if fault == "answer-lost":
            self.reset()
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        if fault == "cut-short" and content:
            self.wfile.write(content[: len(content) // 2])
            self.reset()
        else:
            self.wfile.write(content)

    def refuse(self, status: int, code: str) -> None:
        content = b"" if self.command == "HEAD" else ERROR.format(code=code).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def reset(self) -> None:
        """End the connection with an RST, so that the client sees it broken and not closed."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        """The log is stdout's."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        # Without the polite shutdown that would come before the RST.
        self.close_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that went away are part of the exercise."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--answer", action="append", default=[])
    parser.add_argument("--while", type=Path, dest="switch")
    options = parser.parse_args()
    Handler.plan = Plan(
        upstream=urlsplit(options.upstream).netloc,
        rules=[Rule.parse(text) for text in options.answer],
        rate=options.rate,
        dice=random.Random(options.seed),
        lock=Lock(),
        switch=options.switch,
    )
    Server(("127.0.0.1", options.port), Handler).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())

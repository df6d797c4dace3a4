"""Receive bgpipe's webhooks (Standard Webhooks): print each message once, refuse all others.

WEBHOOK_SECRET=... python3 receiver.py [PORT]
"""

import base64
import hmac
import os
import sys
import time
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer

TOLERANCE = 300
"""Seconds by which a message's time may differ from the clock."""


class Verifier:
    """Checks signature and time, and knows the messages of the last minutes."""

    def __init__(self, secret: str) -> None:
        is_encoded = secret.startswith("whsec_")
        self._key = base64.b64decode(secret[6:]) if is_encoded else secret.encode()
        self._seen: dict[tuple[str, str], float] = {}

    def check(self, headers: Message, body: bytes) -> int:
        """Return an HTTP status: 204 for a new message, 200 for another attempt, 401, or 409."""
        identity, sent = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        signed = f"{identity}.{sent}.".encode() + body
        expected = b"v1," + base64.b64encode(hmac.digest(self._key, signed, "sha256"))
        signatures = headers.get("webhook-signature", "").encode().split(b" ")
        if not any(hmac.compare_digest(expected, signature) for signature in signatures):
            return 401  # forged or altered
        now = time.time()
        if abs(now - int(sent)) > TOLERANCE:
            return 401  # too old
        fresh = {key: seen for key, seen in self._seen.items() if now - seen < 2 * TOLERANCE}
        is_known = any(known == identity for known, _ in fresh)
        self._seen = fresh | {(identity, sent): now}
        if (identity, sent) in fresh:
            return 409  # replayed
        return 200 if is_known else 204


class Handler(BaseHTTPRequestHandler):
    verifier = Verifier(os.environ["WEBHOOK_SECRET"])

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.verifier.check(self.headers, body)
        if status == 204:
            print(body.decode(), flush=True)  # a program's own work goes here
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
    HTTPServer(("127.0.0.1", port), Handler).serve_forever()

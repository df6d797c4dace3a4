"""A real receiver on the loopback."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from bgpipe.pipeline.scheduling.webhook import post_webhook


@dataclass
class Receiver:
    """Answers with `statuses`, one after the other, and then with 204."""

    statuses: list[int]
    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def _receiver(statuses: tuple[int, ...]) -> Iterator[Receiver]:
    receiver = Receiver(list(statuses))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            receiver.headers.append(dict(self.headers))
            self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield receiver
        server.shutdown()
        thread.join()


@pytest.fixture
def listen() -> Iterator[Callable[..., Receiver]]:
    with ExitStack() as stack:
        yield lambda *statuses: stack.enter_context(_receiver(statuses))


@pytest.mark.parametrize(
    ("secret", "standard"),
    [
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", None),
        ("hush", base64.b64encode(b"hush").decode()),
    ],
    ids=["whsec", "text"],
)
def test_the_reference_verifier_accepts_the_message_and_no_other(
    listen: Callable[..., Receiver], secret: str, standard: str | None
) -> None:
    receiver = listen()
    assert post_webhook(receiver.url, {"sweep": "größe"}, secret, "job-1") == ""
    (body,), (headers,) = receiver.bodies, receiver.headers
    assert headers["webhook-id"] == "job-1"
    assert headers["Content-Type"] == "application/json"
    verifier = Webhook(standard or secret)
    assert verifier.verify(body, headers) == {"sweep": "größe"}
    later = str(int(headers["webhook-timestamp"]) + 1)
    for change in ({"webhook-id": "job-2"}, {"webhook-timestamp": later}):
        with pytest.raises(WebhookVerificationError):
            verifier.verify(body, headers | change)
    with pytest.raises(WebhookVerificationError):
        verifier.verify(body.replace(b"sweep", b"swept"), headers)


def test_without_a_secret_there_is_no_signature(listen: Callable[..., Receiver]) -> None:
    receiver = listen()
    assert post_webhook(receiver.url, {}, "", "job-1") == ""
    assert "webhook-signature" not in receiver.headers[0]


def test_a_busy_receiver_gets_the_message_again_with_the_time_of_the_attempt(
    listen: Callable[..., Receiver],
) -> None:
    receiver = listen(503)
    assert post_webhook(receiver.url, {"done": 3}, "hush", "job-1") == ""
    first, second = receiver.headers
    assert first["webhook-id"] == second["webhook-id"]
    assert int(second["webhook-timestamp"]) > int(first["webhook-timestamp"])
    assert len(set(receiver.bodies)) == 1


@pytest.mark.parametrize("status", [301, 400, 404])
def test_a_receiver_that_refuses_is_left_alone(
    listen: Callable[..., Receiver], status: int
) -> None:
    receiver = listen(*[status] * 9)
    assert str(status) in post_webhook(receiver.url, {}, "", "job-1")
    assert len(receiver.bodies) == 1

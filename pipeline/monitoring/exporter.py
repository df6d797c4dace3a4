"""The HTTP endpoint that Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "render_metrics", "serve_metrics"]


def render_metrics(collector: Collector) -> bytes:
    """Return the present metrics in the text format of CONTENT_TYPE."""
    return generate_latest(_registry(collector))


@contextmanager
def serve_metrics(collector: Collector, host: str, port: int) -> Iterator[None]:
    """Answer GET /metrics from a thread until the block ends.

    Raises:
        UsageError: the address cannot be bound.

    """
    try:
        server, thread = start_http_server(port, host, _registry(collector))
    except OSError as error:
        raise UsageError(
            f"metrics cannot be served: {host}:{port}: {error.strerror}: choose another address"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _registry(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry

"""Checks of `bgpipe doctor --security`: what others can access (infra/docs/security.md)."""

from __future__ import annotations

import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from ipaddress import ip_address
from socket import gaierror, getaddrinfo
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit, urlunsplit

import redis

from bgpipe.config.settings import secrets_folder, user_file
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.diagnostics.checks import Check, inspect_durability, run_check
from bgpipe.pipeline.errors import BgpipeError, RedisUnavailable
from bgpipe.pipeline.session import open_session

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings

FLOWER = "http://127.0.0.1:5555"
"""Default address of Flower."""


class Exposed(BgpipeError):
    """Others can access what they should not; the message names the remedy."""


def security_checks(settings: Settings) -> Iterator[Check]:
    """Run all checks; those of Redis only in a cluster."""
    yield run_check("files", _inspect_files, settings)
    if not settings.embedded:
        yield run_check("password", _inspect_password, settings)
        yield run_check("user", _inspect_user, settings)
        yield run_check("encryption", inspect_encryption, settings)
        yield run_check("places", _inspect_places, settings)
    yield run_check("durability", inspect_durability, settings)
    yield run_check("storage", _inspect_storage, settings)
    yield run_check("flower", _inspect_flower, settings)
    yield run_check("metrics", _inspect_metrics, settings)


def inspect_encryption(settings: Settings) -> str:
    """Check that traffic to Redis is encrypted or stays on this machine."""
    parts = urlsplit(settings.redis_url)
    if parts.scheme == "rediss":
        if parse_qs(parts.query).get("ssl_cert_reqs", ["required"])[0] != "required":
            raise Exposed("redis' certificate is not verified: drop ssl_cert_reqs from its address")
        return "rediss://, with a verified certificate"
    if parts.scheme == "unix" or _is_loopback(parts.hostname or ""):
        return "redis is on this machine"
    remedy = "use rediss://, or a network of your own"
    raise Exposed(f"passwords and keys go to {parts.hostname} unencrypted: {remedy}")


def _inspect_files(settings: Settings) -> str:
    folder = secrets_folder()
    files = [path for path in folder.iterdir() if path.is_file()] if folder else []
    secrets = [
        urlsplit(settings.redis_url).password,
        settings.serve.webhook_secret.get_secret_value(),
        *(sweep.secret.get_secret_value() for sweep in settings.sweeps.values()),
    ]
    text = user_file().read_text() if user_file().is_file() else ""
    if any(secret in text for secret in secrets if secret):
        files.append(user_file())
    readable = [str(path) for path in files if path.stat().st_mode & stat.S_IRWXO]
    if names := ", ".join(readable):
        raise Exposed(f"readable by all users of this machine: {names}: chmod o= them")
    return f"closed to others: {', '.join(map(str, files))}" if files else "no file holds a secret"


def _inspect_password(settings: Settings) -> str:
    """Check that Redis refuses a client without user and password."""
    parts = urlsplit(settings.redis_url)
    credentials = ("password=", "username=")
    query = (field for field in parts.query.split("&") if not field.startswith(credentials))
    host = parts.netloc.rpartition("@")[2]
    anonymous = parts._replace(netloc=host, query="&".join(query))
    try:
        connect(urlunsplit(anonymous)).close()
    except RedisUnavailable as error:
        if isinstance(error.__cause__, redis.AuthenticationError):
            return "redis requires a password"
        raise
    raise Exposed("redis requires no password: add users, as infra/docker/redis/users.acl does")


def _inspect_user(settings: Settings) -> str:
    """Check that the user of the settings may not administer the server."""
    with open_session(settings) as session:
        try:
            session.client.config_get("maxmemory")
        except RedisUnavailable as error:
            if isinstance(error.__cause__, redis.exceptions.NoPermissionError):
                return "a user without administration rights"
            raise
    raise Exposed(
        "bgpipe's user has all rights in redis, also to keys of other programs: limit them to those "
        "of infra/docker/redis/users.acl"
    )


def _inspect_places(settings: Settings) -> str:
    if settings.worker.places:
        return f"workers access only {', '.join(settings.worker.places)}"
    raise Exposed("workers may access any path named in Redis: restrict it with worker.places")


def _inspect_storage(settings: Settings) -> str:
    parts = urlsplit(settings.s3.endpoint_url)
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise Exposed(f"images go to {parts.hostname} unencrypted: set s3.endpoint_url to https://")
    return "encrypted, or on this machine"


def _inspect_flower(_: Settings) -> str:
    """Check that this machine's Flower requires authentication."""
    try:
        with urllib.request.urlopen(f"{FLOWER}/workers", timeout=5):  # noqa: S310  # a constant
            pass
    except urllib.error.HTTPError as error:
        if error.code in {401, 403}:  # authentication is required
            return f"requires a password: {FLOWER}"
        return f"shows nothing: {FLOWER}: {error}"
    except OSError:
        return f"none at {FLOWER}"
    raise Exposed(f"open without a password: {FLOWER}: start it with bgpipe flower")


def _inspect_metrics(settings: Settings) -> str:
    for address in (settings.metrics.dispatch, settings.metrics.worker):
        if address and not _is_loopback(address.rpartition(":")[0].strip("[]")):
            raise Exposed(f"metrics are exposed without authentication: {address}")
    return "off, or on the loopback interface"


def _is_loopback(host: str) -> bool:
    try:
        addresses = getaddrinfo(host, None)
    except gaierror:
        return False
    hosts = [str(address[0]).partition("%")[0] for *_, address in addresses]
    return all(ip_address(host).is_loopback for host in hosts)

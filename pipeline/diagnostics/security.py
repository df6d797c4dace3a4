"""What `bgpipe doctor --security` looks at: what is open to others (infra/docs/security.md)."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from socket import gaierror, getaddrinfo
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit, urlunsplit

from bgpipe.pipeline.diagnostics.checks import Check, check_durability, run_check
from bgpipe.pipeline.errors import BgpipeError
from bgpipe.pipeline.session import open_session

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings

FLOWER = "http://127.0.0.1:5555"
"""Where Flower listens unless it is told otherwise."""
GUARDED = (401, 403)
"""Answers of a server that wants to know who asks."""


class Exposed(BgpipeError):
    """Somebody may do what they should not."""


def security_checks(settings: Settings) -> Iterator[Check]:
    """What is open, each with what closes it."""
    yield run_check("files", lambda: _files(settings))
    if not settings.embedded:
        yield run_check("password", lambda: _password(settings))
        yield run_check("user", lambda: _user(settings))
        yield run_check("encryption", lambda: check_encryption(settings))
        yield run_check("places", lambda: _places(settings))
    yield run_check("durability", lambda: check_durability(settings))
    yield run_check("storage", lambda: _storage(settings))
    yield run_check("flower", _flower)
    yield run_check("metrics", lambda: _metrics(settings))


def _files(settings: Settings) -> str:
    """Who may read the files that hold secrets."""
    from bgpipe.config.settings import secrets_folder, user_file

    folder = secrets_folder()
    found = [path for path in folder.iterdir() if path.is_file()] if folder else []
    if user_file().is_file() and _holds_a_secret(settings, user_file()):
        found.append(user_file())
    readable = [path for path in found if stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO]
    if readable:
        raise Exposed(f"everybody on this machine may read {_listed(readable)}: chmod o= them")
    return f"closed to others: {_listed(found)}" if found else "no file holds a secret"


def _password(settings: Settings) -> str:
    """Whether Redis lets in who names no user and no password."""
    import redis

    from bgpipe.pipeline.broker.client import connect
    from bgpipe.pipeline.errors import RedisUnavailable

    parts = urlsplit(settings.redis_url)
    query = "&".join(
        word for word in parts.query.split("&") if not word.startswith(("password=", "username="))
    )
    anybody = parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query)
    try:
        connect(urlunsplit(anybody)).close()
    except RedisUnavailable as error:
        if isinstance(error.__cause__, redis.AuthenticationError):
            return "redis wants a password"
        raise
    raise Exposed("redis lets everybody in: give it users, as infra/docker/redis/users.acl does")


def _user(settings: Settings) -> str:
    """Whether our user may administer the server."""
    import redis

    from bgpipe.pipeline.errors import RedisUnavailable

    with open_session(settings) as session:
        try:
            session.client.config_get("maxmemory")
        except RedisUnavailable as error:
            if isinstance(error.__cause__, redis.exceptions.NoPermissionError):
                return "a user of its own, who may not administer redis"
            raise
    raise Exposed(
        "bgpipe's user may do everything in redis, also to other programs' keys: give it the rights "
        "of infra/docker/redis/users.acl"
    )


def check_encryption(settings: Settings) -> str:
    """Whether what goes to Redis can be read on its way.

    Raises:
        Open: it can.
    """
    parts = urlsplit(settings.redis_url)
    if parts.scheme == "rediss":
        if parse_qs(parts.query).get("ssl_cert_reqs", ["required"])[0] != "required":
            raise Exposed(
                "the certificate of redis is not checked: drop ssl_cert_reqs from its address"
            )
        return "rediss://, and the certificate is checked"
    if parts.scheme == "unix" or _is_loopback(parts.hostname or ""):
        return "redis is on this machine"
    raise Exposed(
        f"passwords and keys go to {parts.hostname} unencrypted: use rediss://, unless nobody else is "
        "in that network"
    )


def _places(settings: Settings) -> str:
    if settings.worker.places:
        return f"workers touch only {', '.join(settings.worker.places)}"
    raise Exposed(
        "who may write to redis may have workers read and write whatever they can: set worker.places"
    )


def _storage(settings: Settings) -> str:
    parts = urlsplit(settings.s3.endpoint_url)
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise Exposed(f"images go to {parts.hostname} unencrypted: set s3.endpoint_url to https://")
    return "encrypted, or on this machine"


def _flower() -> str:
    """Whether the Flower of this machine shows its pages to everybody."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"{FLOWER}/workers", timeout=5):  # noqa: S310  # a constant
            pass
    except urllib.error.HTTPError as error:
        if error.code in GUARDED:
            return f"wants a password: {FLOWER}"
        return f"does not tell anything: {FLOWER}: {error}"
    except OSError:
        return f"none at {FLOWER}"
    raise Exposed(f"open without a password: {FLOWER}: start it with bgpipe flower")


def _metrics(settings: Settings) -> str:
    for address in (settings.metrics.dispatch, settings.metrics.worker):
        if address and not _is_loopback(address.rpartition(":")[0].strip("[]")):
            raise Exposed(f"metrics have no password, and are told to others: {address}")
    return "off, or at the loopback"


def _holds_a_secret(settings: Settings, path: Path) -> bool:
    """Whether one of the secrets that hold is written in the file."""
    secrets = [
        urlsplit(settings.redis_url).password,
        settings.serve.webhook_secret.get_secret_value(),
    ]
    secrets += [sweep.secret.get_secret_value() for sweep in settings.sweeps.values()]
    text = path.read_text()
    return any(secret in text for secret in secrets if secret)


def _is_loopback(host: str) -> bool:
    try:
        found = getaddrinfo(host, None)
    except gaierror:
        return False
    return all(ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def _listed(paths: list[Path]) -> str:
    return ", ".join(map(str, paths))

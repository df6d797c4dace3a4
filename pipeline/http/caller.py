"""Who asks. Endpoints get the name that jobs and uploads belong to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection

LOCAL = "local"
"""Whoever asks at the loopback of a server without keys."""


@dataclass(frozen=True, slots=True)
class Caller:
    name: str
    """Of the API key: the owner of what is asked for."""
    everything: bool = False
    """Whether jobs of others, and of commands, may be seen."""


def get_caller(connection: HTTPConnection) -> Caller:
    """Whoever the gate let in (bgpipe.pipeline.http.gate), for requests and websockets."""
    caller: Caller = connection.scope["state"]["caller"]
    return caller


TheCaller = Annotated[Caller, Depends(get_caller)]

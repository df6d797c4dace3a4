"""What a request passes before anything of its body is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgpipe.pipeline.http.caller import LOCAL, Caller

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class Gate:
    """Finds out who calls."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"}:
            scope.setdefault("state", {})["caller"] = Caller(LOCAL, everything=True)
        await self._app(scope, receive, send)

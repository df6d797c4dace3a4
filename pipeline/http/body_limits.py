"""Middleware: the size and speed of request bodies, enforced before anything is parsed."""

import re
import time

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bgpipe.config.settings import Settings
from bgpipe.pipeline.errors import Code
from bgpipe.pipeline.http.problems import Problem

BODY_BYTES = 1 << 16
"""Maximum size of a body, and of what a form has besides its images."""
JOB_BYTES = 1 << 18
"""Maximum size of a request for a job, which may have 100 patterns of 2,000 characters."""
PROMPT_BYTES = 1 << 20
"""Maximum size of a workflow, to run or to keep, which Redis stores."""
ENCODED_BYTES = 1 << 25
"""Maximum size of a request with one image, which may be in Base64."""
BYTES_PER_SECOND = 1 << 14
"""Minimum speed of a body that takes longer than `serve.client_timeout`."""

_IMAGES = re.compile(r"/v1/jobs/from-images|/v1/uploads/[^/]+/files")
_ONE_IMAGE = re.compile(r"(/api)?/upload/\w+")
_REMOVEBG = re.compile(r"/v1\.0/removebg")
_PROMPT = re.compile(r"(/api)?/(prompt|userdata/.+)")


class BodyLimitMiddleware:
    """Fails an endpoint's reading of its body: Problem 413 if it is too large, 408 if too slow."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._timeout = settings.serve.client_timeout
        self._request_bytes = settings.serve.request_bytes
        self._image_bytes = min(self._request_bytes, settings.images.max_bytes + BODY_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        maximum = self._maximum(scope["path"], headers.get("content-type", ""))
        declared, received, waited = int(headers.get("content-length", 0)), 0, 0.0
        is_whole = has_response = False

        async def receive_limited() -> Message:
            nonlocal received, waited, is_whole
            if is_whole or has_response:  # the endpoint waits for the client's end
                return await receive()
            _check_size(declared, maximum)
            started = time.monotonic()
            try:
                with anyio.fail_after(self._timeout + received / BYTES_PER_SECOND - waited):
                    message = await receive()
            except TimeoutError as error:
                if has_response:
                    return {"type": "http.disconnect"}
                raise Problem(408, "slow-request", "body too slow: send it again") from error
            waited += time.monotonic() - started
            received += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if not has_response:
                _check_size(received, maximum)
            return message

        async def send_noticed(message: Message) -> None:
            nonlocal has_response
            has_response = True
            await send(message)

        await self._app(scope, receive_limited, send_noticed)

    def _maximum(self, path: str, content_type: str) -> int:
        if _PROMPT.fullmatch(path):
            return PROMPT_BYTES
        if path == "/v1/jobs":
            return JOB_BYTES
        if _REMOVEBG.fullmatch(path):
            return ENCODED_BYTES
        if content_type.lower().startswith("multipart/form-data"):
            if _IMAGES.fullmatch(path):
                return self._request_bytes
            if _ONE_IMAGE.fullmatch(path):
                return self._image_bytes
        return BODY_BYTES


def _check_size(size: int, maximum: int) -> None:
    if size > maximum:
        detail = f"request too large: the maximum is {maximum} bytes"
        raise Problem(413, Code.TOO_LARGE, detail)

"""Telling another program by HTTP that a sweep has finished.

The body is JSON. Whoever knows the secret can check that it comes from here and is whole:
`X-Bgpipe-Signature` is `sha256=` and the HMAC-SHA256 of the body, in hexadecimal digits.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

import httpx2

ATTEMPTS = 5
DELAY = 1.0
"""Seconds before the second attempt, doubled before each further one."""
TIMEOUT = 10.0
"""Seconds for one attempt."""
BUSY = (408, 425, 429)
"""Answers that blame the sender, and yet may change."""


def post_webhook(url: str, message: Mapping[str, Any], secret: str, delivery: str) -> str:
    """Post `message`, again where that may help; returns what was wrong in the end, or nothing.

    `delivery` is the same for every attempt, so that the receiver can tell a repetition.
    """
    body = json.dumps(message).encode()
    headers = {"Content-Type": "application/json", "X-Bgpipe-Delivery": delivery}
    if secret:
        headers["X-Bgpipe-Signature"] = signature(body, secret)
    trouble = ""
    for attempt in range(ATTEMPTS):
        time.sleep(DELAY * 2.0 ** (attempt - 1) if attempt else 0)
        trouble, lasting = _post(url, body, headers)
        if not trouble or lasting:
            break
    return trouble


def signature(body: bytes, secret: str) -> str:
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[str, bool]:
    """What was wrong, and whether it would be so again."""
    try:
        answer = httpx2.post(url, content=body, headers=dict(headers), timeout=TIMEOUT)
    except httpx2.HTTPError as error:
        return repr(error), False
    if answer.is_success:
        return "", False
    busy = answer.is_server_error or answer.status_code in BUSY
    return f"status {answer.status_code}", not busy

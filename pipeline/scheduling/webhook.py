"""Notifications by HTTP: JSON, signed as Standard Webhooks 1.0 says.

`webhook-signature` is `v1,` and the HMAC-SHA256 of `webhook-id`.`webhook-timestamp`.body in Base64.
"""

import base64
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

import httpx2

PREFIX = "whsec_"
ATTEMPTS = 5
DELAY = 1.0
"""Seconds before the second attempt, doubled before each further one."""
TIMEOUT = 10.0
"""Seconds for one attempt."""
TRANSIENT = (408, 425, 429)
"""Client errors that a retry may resolve."""


def post_webhook(url: str, message: Mapping[str, Any], secret: str, delivery: str) -> str:
    """Post `message`, with retries; returns the last error, or an empty string.

    `delivery` is the same for all attempts, so that the receiver can drop duplicates.
    """
    body = json.dumps(message).encode()
    problem = ""
    for attempt in range(ATTEMPTS):
        time.sleep(DELAY * 2.0 ** (attempt - 1) if attempt else 0)
        headers = {"Content-Type": "application/json"} | _sign(body, secret, delivery)
        try:
            response = httpx2.post(url, content=body, headers=headers, timeout=TIMEOUT)
        except httpx2.HTTPError as error:
            problem = repr(error)
            continue
        if response.is_success:
            return ""
        problem = f"status {response.status_code}"
        if not (response.is_server_error or response.status_code in TRANSIENT):
            break
    return problem


def _sign(body: bytes, secret: str, delivery: str) -> dict[str, str]:
    """Return the headers of an attempt; the bytes of `whsec_...` are Base64, of others the text's."""
    headers = {"webhook-id": delivery, "webhook-timestamp": str(int(time.time()))}
    if secret:
        is_encoded = secret.startswith(PREFIX)
        key = base64.b64decode(secret.removeprefix(PREFIX)) if is_encoded else secret.encode()
        signed = b".".join((*(value.encode() for value in headers.values()), body))
        signature = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
        headers["webhook-signature"] = f"v1,{signature}"
    return headers

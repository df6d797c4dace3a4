"""Notifications by HTTP: JSON, signed with a shared secret.

`X-Bgpipe-Signature` is `sha256=` and the HMAC-SHA256 of the body, in hexadecimal digits.
"""

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
TRANSIENT = (408, 425, 429)
"""Client errors that a retry may resolve."""


def post_webhook(url: str, message: Mapping[str, Any], secret: str, delivery: str) -> str:
    """Post `message`, with retries; returns the last error, or an empty string.

    `delivery` identifies all attempts, so that the receiver can drop duplicates.
    """
    body = json.dumps(message).encode()
    headers = {"Content-Type": "application/json", "X-Bgpipe-Delivery": delivery}
    if secret:
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers["X-Bgpipe-Signature"] = f"sha256={digest}"
    problem = ""
    for attempt in range(ATTEMPTS):
        time.sleep(DELAY * 2.0 ** (attempt - 1) if attempt else 0)
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

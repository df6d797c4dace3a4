"""Cut out photos by a server: python client.py PHOTO... BGPIPE_URL is the server, BGPIPE_KEY an API key.

Needs httpx2.
"""

import os
import sys
import time
from pathlib import Path

import httpx2

FINAL = ("finished", "cancelled")

photos = [Path(name) for name in sys.argv[1:]]
key = os.environ.get("BGPIPE_KEY")
headers = {"Authorization": f"Bearer {key}"} if key else {}
url = os.environ.get("BGPIPE_URL", "http://127.0.0.1:8000")

with httpx2.Client(base_url=url, headers=headers, timeout=60) as server:
    files = [("files", (photo.name, photo.read_bytes())) for photo in photos]
    created = server.post("/v1/jobs/from-images", files=files, data={"preset": "products"})
    if created.is_error:  # one image that is none refuses the request
        sys.exit(f"refused: {created.json()['detail']}")
    job = created.json()["job"]
    while (summary := server.get(f"/v1/jobs/{job}").raise_for_status().json())[
        "state"
    ] not in FINAL:
        time.sleep(0.5)
    print(f"done: {summary['done']}, failed: {summary['failed']}")
    for item in server.get(f"/v1/jobs/{job}/items").raise_for_status().json()["items"]:
        if item["state"] != "done":
            print(f"{item['source']}: {item['code']}: {item['detail']}")
            continue
        cutout = Path(item["source"]).with_suffix(".png").name
        result = server.get(f"/v1/jobs/{job}/items/{item['index']}/result").raise_for_status()
        Path(f"cutout-{cutout}").write_bytes(result.content)
        print(f"{item['source']} -> cutout-{cutout}")

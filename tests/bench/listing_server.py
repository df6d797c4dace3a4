"""A small S3 server process with a full bucket: `python tests/bench/listing_server.py PORT N`.

The bucket `sweep` has N sources under `photos/` and N cutouts under `cutouts/`. It knows what a
sweep asks for: ListObjectsV2, and GET, HEAD, PUT and DELETE of an object. Each request is a line on
stdout. (The tests use moto's server, whose listing of a page takes time in proportion to the bucket:
minutes for this one.)
"""

from __future__ import annotations

import hashlib
import sys
from bisect import bisect_right, insort
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "sweep"
PAGE = 1000
ERROR = "<Error><Code>{0}</Code><Message>{0}</Message></Error>"
CONTENTS = (
    "<Contents><Key>{key}</Key><Size>{size}</Size><ETag>&quot;{tag}&quot;</ETag>"
    "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
)


class Bucket:
    def __init__(self, count: int) -> None:
        self.objects: dict[str, bytes] = {}
        for number in range(count):
            name = f"{number % 100:02}/{number:07}"
            self.objects[f"photos/{name}.jpg"] = b"photo %d" % number
            self.objects[f"cutouts/{name}.png"] = b"cutout %d" % number
        self.keys = sorted(self.objects)

    def put(self, key: str, data: bytes) -> None:
        if key not in self.objects:
            insort(self.keys, key)
        self.objects[key] = data

    def delete(self, key: str) -> None:
        if self.objects.pop(key, None) is not None:
            self.keys.remove(key)

    def page(self, prefix: str, after: str) -> tuple[list[str], bool]:
        """The next keys under `prefix`, and whether there are more."""
        start = bisect_right(self.keys, after) if after >= prefix else self._first(prefix)
        page = [key for key in self.keys[start : start + PAGE] if key.startswith(prefix)]
        following = self.keys[start + len(page) : start + len(page) + 1]
        return page, bool(following) and following[0].startswith(prefix)

    def _first(self, prefix: str) -> int:
        before = bisect_right(self.keys, prefix)
        return before - 1 if before and self.keys[before - 1] == prefix else before


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def do_GET(self) -> None:
        self.log_line()
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if "list-type" in query:
            self.answer(200, self.listing(query))
        else:
            self.give_object()

    def do_HEAD(self) -> None:
        self.log_line()
        self.give_object()

    def do_PUT(self) -> None:
        self.log_line()
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.bucket.put(self.key, data)
        self.answer(200, b"", tag(data))

    def do_DELETE(self) -> None:
        self.log_line()
        self.bucket.delete(self.key)
        self.answer(204, b"")

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}/")

    def give_object(self) -> None:
        data = self.bucket.objects.get(self.key)
        if data is None:
            self.answer(404, ERROR.format("NoSuchKey").encode())
        else:
            self.answer(200, data, tag(data))

    def listing(self, query: dict[str, list[str]]) -> bytes:
        prefix = query.get("prefix", [""])[0]
        page, more = self.bucket.page(prefix, query.get("continuation-token", [""])[0])
        found = [
            CONTENTS.format(
                key=escape(quote(key)),
                size=len(self.bucket.objects[key]),
                tag=tag(self.bucket.objects[key]),
            )
            for key in page
        ]
        token = f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if more else ""
        return (
            f"<ListBucketResult><EncodingType>url</EncodingType>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(found)}"
            f"</ListBucketResult>"
        ).encode()

    def answer(self, status: int, content: bytes, etag: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if etag:
            self.send_header("ETag", f'"{etag}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_line(self) -> None:
        print(self.command, self.path, flush=True)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        """The log is stdout's."""


def tag(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


if __name__ == "__main__":
    Handler.bucket = Bucket(int(sys.argv[2]))
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()

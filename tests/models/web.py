"""A small web server on the loopback interface that can misbehave in the ways that downloads must survive."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Web:
    """What the server has, by path (or path and query), how it behaves, and the requests that came."""

    files: dict[str, bytes] = field(default_factory=dict)
    address: str = ""
    ranges: bool = True  # whether it honours Range
    etags: bool = True
    drop_after: list[int] = field(default_factory=list)  # bytes after which each next body is cut off
    statuses: list[int] = field(default_factory=list)  # answers of each next request, instead of the file
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)

    def ranges_asked(self) -> list[str | None]:
        return [headers.get("range") for _, headers in self.requests]


def etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


@contextmanager
def serve() -> Iterator[Web]:
    """Runs the server in a thread of its own, and stops it."""
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            web.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
            if web.statuses:
                self._end(web.statuses.pop(0))
            elif self.path in web.redirects:
                self.send_response(302)
                self.send_header("Location", web.redirects[self.path])
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif (content := web.files.get(self.path, web.files.get(urlsplit(self.path).path))) is None:
                self._end(404)
            else:
                self._send(content)

        def _end(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _send(self, content: bytes) -> None:
            start = self._start(content)
            if start is not None and start >= len(content):
                self._end(416)
                return
            body = content[start or 0 :]
            self.send_response(200 if start is None else 206)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
            if start is not None:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if web.etags:
                self.send_header("ETag", etag(content))
            self.end_headers()
            if web.drop_after:
                body = body[: web.drop_after.pop(0)]
                self.close_connection = True
            self.wfile.write(body)

        def _start(self, content: bytes) -> int | None:
            match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            same = self.headers.get("If-Range", etag(content)) == etag(content)
            return int(match[1]) if match and web.ranges and same else None

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

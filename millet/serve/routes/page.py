"""The web app: the files that its build left in `web/`, and one page for all of the app's paths."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles

from millet.serve.guard import PAGE_POLICY

PAGES = ("/", "/c/{conversation}", "/account", "/admin", "/login", "/invite", "/api")
"""The app's own paths: it looks at the address and shows what belongs there."""

FILES = StaticFiles(directory=Path(__file__).parents[1] / "web", check_dir=False)
UNBUILT = Path(__file__).parents[1] / "unbuilt.html"

FOREVER = "public, max-age=31536000, immutable"  # for what has a hash of its content in its name
ENCODINGS: dict[str | None, str] = {"br": ".br", "gzip": ".gz", None: ""}  # the smallest first

# Not from the system's tables, which differ from machine to machine; a browser runs no module of a wrong type.
TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".ico": "image/vnd.microsoft.icon",
    ".js": "text/javascript",
    ".json": "application/json",
    ".map": "application/json",
    ".mjs": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".ttf": "font/ttf",
    ".txt": "text/plain",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}

router = APIRouter(include_in_schema=False)


class FilePath(Convertor[str]):
    """A path that ends in a name with an extension; none of the app's paths does."""

    regex = r"(?:[^/]+/)*[^/]+\.[A-Za-z0-9]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("file", FilePath())


async def page(request: Request) -> Response:
    return await _file("index.html", request) or FileResponse(UNBUILT, headers={"Cache-Control": "no-store"})


for path in PAGES:
    router.add_api_route(path, page, methods=["GET", "HEAD"])


@router.api_route("/{path:file}", methods=["GET", "HEAD"])
async def file(path: str, request: Request) -> Response:
    """This route comes after all others: it takes what they left."""
    response = await _file(path, request)
    if response is None:
        raise HTTPException(404)
    return response


async def _file(path: str, request: Request) -> Response | None:
    """A file of the build, compressed where it is and the client can take it; 304 for who has it already."""
    try:
        response = await to_thread.run_sync(_find, path, request.headers.get("accept-encoding", ""))
    except (ValueError, OSError):  # no name that a file system knows
        return None
    if response is None:
        return None
    response.headers["Cache-Control"] = FOREVER if path.startswith("assets/") else "no-cache"
    known = FILES.is_not_modified(response.headers, request.headers)
    answer = NotModifiedResponse(response.headers) if known else response
    # Also with 304, whose headers replace those that the browser has; and for scripts, since workers keep their own.
    answer.headers["Content-Security-Policy"] = PAGE_POLICY
    return answer


def _find(path: str, accepted: str) -> FileResponse | None:
    found: dict[str | None, tuple[str, Any]] = {}
    for encoding, ending in ENCODINGS.items():
        full, stat = FILES.lookup_path(path + ending)
        if stat is not None and Path(full).is_file():
            found[encoding] = full, stat
    if None not in found:
        return None
    chosen = next(encoding for encoding in found if encoding is None or _accepts(accepted, encoding))
    full, stat = found[chosen]
    kind = TYPES.get(PurePosixPath(path).suffix.lower(), "application/octet-stream")
    response = FileResponse(full, stat_result=stat, media_type=kind)
    if chosen is not None:
        response.headers["Content-Encoding"] = chosen
    if len(found) > 1:
        response.headers["Vary"] = "Accept-Encoding"
    return response


def _accepts(header: str, encoding: str) -> bool:
    for part in header.lower().split(","):
        name, _, quality = part.partition(";")
        if name.strip() == encoding:
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False

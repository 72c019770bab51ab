"""Whether a request to a server without accounts comes from this machine's own programs and pages.

Loopback alone does not say so: a page of any site that a browser shows can send requests to 127.0.0.1, and a name that
the site's owner points there makes them look like same-origin ones (DNS rebinding). Programs send no Origin.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.types import Scope

from millet.serve.errors import ApiError

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def check_origin(scope: Scope) -> None:
    """Raises ApiError 403 where the request was made for another host, or by another site's page."""
    headers = dict(scope["headers"])
    host = _host("//" + headers.get(b"host", b"localhost").decode("latin-1"))
    if host not in LOOPBACK:
        raise ApiError(
            403, "without accounts this server answers only to localhost; start it with --users to serve other names"
        )
    origin = headers.get(b"origin")
    if origin is not None and _host(origin.decode("latin-1")) not in LOOPBACK:
        raise ApiError(403, "another site's page may not use this server; start it with --users and use an API key")


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None

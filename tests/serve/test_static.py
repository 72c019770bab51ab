"""The web app's files as browsers get them."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from starlette.staticfiles import StaticFiles

from millet.serve.config import ServeConfig
from millet.serve.routes import page
from tests.serve.fakes import FakeBackend, running

SCRIPT = b"console.log('millet');" * 100
FILES = {
    "index.html": b"<!doctype html><title>Built</title>",
    "assets/index-1a2b.js": SCRIPT,
    "assets/index-1a2b.js.br": b"pretend that this is brotli",
    "assets/index-1a2b.js.gz": gzip.compress(SCRIPT),
    "assets/plain-3c4d.css": b"body {}",
    "sw.js": b"self",
    "pdf/cmaps/GBK-EUC-H.bcmap": b"\x00\x01",
}
KINDS = {
    "a.mjs": "text/javascript; charset=utf-8",
    "b.webmanifest": "application/manifest+json",
    "c.wasm": "application/wasm",
    "d.woff2": "font/woff2",
    "e.svg": "image/svg+xml",
    "f.bcmap": "application/octet-stream",
    "g.css": "text/css; charset=utf-8",
}


@pytest.fixture(scope="module")
def server() -> Iterator[httpx2.Client]:
    with running({"m": FakeBackend()}, ServeConfig(port=0)) as url, httpx2.Client(base_url=url, timeout=20) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    web = tmp_path / "web"
    for name, content in (FILES | dict.fromkeys(KINDS, b"x")).items():
        (web / name).parent.mkdir(parents=True, exist_ok=True)
        (web / name).write_bytes(content)
    (tmp_path / "secret.txt").write_text("secret")
    monkeypatch.setattr(page, "FILES", StaticFiles(directory=web, check_dir=False))
    return web


@pytest.fixture
def built(server: httpx2.Client, folder: Path) -> httpx2.Client:
    return server


@pytest.mark.parametrize("path", ["/", "/c/0123abc", "/account", "/admin", "/login", "/invite", "/api"])
def test_every_path_of_the_app_is_its_one_page(built: httpx2.Client, path: str) -> None:
    answer = built.get(path)
    assert answer.content == FILES["index.html"]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert "script-src 'self';" in answer.headers["content-security-policy"]
    again = built.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    # What a 304 says replaces what the browser has.
    assert again.headers["content-security-policy"] == answer.headers["content-security-policy"]
    assert again.headers["cache-control"] == "no-cache"
    head = built.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(FILES["index.html"]))


def test_a_page_that_was_built_again_is_a_new_one(built: httpx2.Client, folder: Path) -> None:
    tag = built.get("/").headers["etag"]
    (folder / "index.html").write_text("another")
    os.utime(folder / "index.html", (1, 1))
    assert built.get("/", headers={"If-None-Match": tag}).text == "another"


def test_only_what_has_its_hash_in_its_name_is_kept_for_ever(built: httpx2.Client) -> None:
    assert built.get("/assets/index-1a2b.js").headers["cache-control"] == "public, max-age=31536000, immutable"
    for path in ("/sw.js", "/b.webmanifest", "/pdf/cmaps/GBK-EUC-H.bcmap"):
        assert built.get(path).headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("accepted", "encoding", "name"),
    [
        ("gzip, deflate, br", "br", "assets/index-1a2b.js.br"),
        ("gzip, br;q=0", "gzip", "assets/index-1a2b.js.gz"),
        ("GZIP;q=0.5", "gzip", "assets/index-1a2b.js.gz"),
        ("identity", None, "assets/index-1a2b.js"),
        ("brotli", None, "assets/index-1a2b.js"),
    ],
)
def test_compressed_for_whom_can_take_it(built: httpx2.Client, accepted: str, encoding: str | None, name: str) -> None:
    with built.stream("GET", "/assets/index-1a2b.js", headers={"Accept-Encoding": accepted}) as answer:
        assert b"".join(answer.iter_raw()) == FILES[name]
    assert answer.headers.get("content-encoding") == encoding
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"


def test_what_is_not_compressed_does_not_vary(built: httpx2.Client) -> None:
    answer = built.get("/assets/plain-3c4d.css", headers={"Accept-Encoding": "br, gzip"})
    assert "vary" not in answer.headers
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_media_types(built: httpx2.Client, name: str, kind: str) -> None:
    assert built.get(f"/{name}").headers["content-type"] == kind


@pytest.mark.parametrize(
    "path",
    [
        "/none.js",
        "/assets/none.js",
        "/assets",
        "/pdf/cmaps",
        "/c",
        "/c/a/b",
        "/%2e%2e/secret.txt",
        "/assets/..%2f..%2fsecret.txt",
        "/assets/..%5c..%5csecret.txt",
        "/%2fetc%2fhost.conf",
        "/x%00.js",
    ],
)
def test_what_is_not_there_is_told_as_everywhere(built: httpx2.Client, path: str) -> None:
    answer = built.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"


def test_a_link_leads_out_of_the_folder_as_little_as_a_path_does(built: httpx2.Client, folder: Path) -> None:
    (folder / "link.txt").symlink_to(folder.parent / "secret.txt")
    assert built.get("/link.txt").status_code == 404


def test_the_api_keeps_its_paths(built: httpx2.Client) -> None:
    assert built.get("/v1/models/m-chat").json()["id"] == "m-chat"
    assert built.get("/v1/chat/completions").status_code == 405
    assert built.post("/").status_code == 405


def test_headers_of_what_is_no_page(built: httpx2.Client) -> None:
    for path in ("/v1/models", "/nothing", "/healthz"):
        headers = built.get(path).headers
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"
        assert "microphone=()" in headers["permissions-policy"]


def test_without_a_build_the_page_says_what_to_do(
    server: httpx2.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "FILES", StaticFiles(directory=tmp_path / "none", check_dir=False))
    for path in page.PAGES:
        answer = server.get(path.replace("{conversation}", "abc"))
        assert answer.status_code == 200
        assert "make web" in answer.text
        assert "<style" not in answer.text
        assert answer.headers["cache-control"] == "no-store"
    assert server.get("/sw.js").status_code == 404

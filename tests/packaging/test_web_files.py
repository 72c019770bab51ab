"""The files of the built web app."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from tests.packaging.built import built_app

FIRST_LOAD = 400 * 1024  # bytes; a second on a slow mobile connection
IMPORT = re.compile(
    r"""(?:\bimport|\bfrom)\s*["']\./([\w.-]+\.js)["']"""
)  # `import(...)` comes later, when it is needed


@pytest.fixture(scope="module")
def app() -> Path:
    return built_app()


def first_files(app: Path) -> set[Path]:
    """index.html, what it names, and what its scripts import at once."""
    page = app / "index.html"
    found, todo = {page}, [app / name for name in re.findall(r'(?:src|href)="/(assets/[^"]+)"', page.read_text())]
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            if path.suffix == ".js":
                todo += [path.parent / name for name in IMPORT.findall(path.read_text())]
    return found


def sent(path: Path) -> int:
    """Bytes on the wire."""
    packed = path.with_name(path.name + ".br")
    return (packed if packed.exists() else path).stat().st_size


def test_what_a_first_visit_loads_is_small(app: Path) -> None:
    sizes = {path.name: sent(path) for path in first_files(app)}
    assert any(name.endswith(".js") for name in sizes)
    assert any(name.endswith(".css") for name in sizes)
    assert sum(sizes.values()) < FIRST_LOAD, dict(sorted(sizes.items(), key=lambda item: -item[1]))


def test_texts_are_there_compressed_too(app: Path) -> None:
    texts = [path for path in app.rglob("*") if path.suffix in (".js", ".mjs", ".css", ".html", ".wasm", ".svg")]
    large = [path for path in texts if path.stat().st_size > 4096]
    assert large
    for path in large:
        packed = path.with_name(path.name + ".gz").read_bytes()
        assert gzip.decompress(packed) == path.read_bytes()
        assert path.with_name(path.name + ".br").stat().st_size < len(packed)
    assert not list(app.rglob("*.gz.*")), "nothing is compressed twice"
    assert not list(app.rglob("*.br.*"))


def test_the_page_obeys_its_policy(app: Path) -> None:
    """No inline script or style, and nothing of other hosts."""
    page = (app / "index.html").read_text()
    assert re.search(r"<script(?![^>]*\bsrc=)", page) is None
    assert "<style" not in page
    assert not re.search(r"""\bstyle=|\bon\w+=|(?:src|href)=["'](?:https?:)?//""", page)


def test_the_manifest_names_icons_that_are_there(app: Path) -> None:
    manifest = json.loads((app / "manifest.webmanifest").read_text())
    assert {"192x192", "512x512"} <= {icon["sizes"] for icon in manifest["icons"]}
    assert any(icon.get("purpose") == "maskable" for icon in manifest["icons"])
    for icon in manifest["icons"]:
        content = (app / icon["src"].lstrip("/")).read_bytes()
        if icon["type"] == "image/png":
            width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
            assert icon["sizes"] == f"{width}x{height}"


def test_the_service_worker_keeps_exactly_the_shell(app: Path) -> None:
    worker = (app / "sw.js").read_text()
    shell = {f"/{path.relative_to(app)}" for path in first_files(app)} - {"/index.html"}
    listed = set(re.findall(r'"(/assets/[^"]+)"', worker))
    assert listed == shell
    for placeholder in ("__SHELL__", "__BUILD__", "import ", "export "):
        assert placeholder not in worker

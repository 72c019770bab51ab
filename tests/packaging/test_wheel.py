"""The wheel brings the web app to machines that have no Node.js."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import httpx2
import pytest

from tests.packaging.built import ROOT, WEB, built_app

SETTINGS = """
port = 0
metrics_port = 0
[upstreams.nobody]
replicas = ["http://127.0.0.1:9/v1"]
model = "nobody"
"""


def pack(kind: str, tree: Path, out: Path) -> Path:
    """A wheel or an sdist of the tree, without kernels, as compiling them is another test's business."""
    code = f"import hatchling.build; hatchling.build.build_{kind}({str(out)!r})"
    settings = {"MILLET_NATIVE": "off", "MILLET_WEB": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env=os.environ | settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built_app()
    return pack("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def app_in(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith("millet/serve/web/")]
        return {name.removeprefix("millet/serve/web/"): archive.read(name) for name in names}


def test_the_wheel_has_the_whole_app_and_none_of_its_sources(wheel: Path) -> None:
    files = app_in(wheel)
    assert files == {str(path.relative_to(WEB)): path.read_bytes() for path in WEB.rglob("*") if path.is_file()}
    assert {"index.html", "index.html.br", "manifest.webmanifest", "sw.js"} <= set(files)
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if "node_modules" in name or name.endswith((".ts", ".tsx"))]


def test_an_sdist_has_the_app_its_sources_and_no_packages_of_npm(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "sdist").mkdir()
    with tarfile.open(pack("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.glob("millet_llm-*")
    assert (tree / "web/src/main.tsx").exists()
    assert not (tree / "web/node_modules").exists()
    # The app is of these sources, so making a wheel of them builds nothing.
    assert subprocess.run([sys.executable, "scripts/web.py", "--check"], cwd=tree).returncode == 0
    (tmp_path / "wheel").mkdir()
    assert app_in(pack("wheel", tree, tmp_path / "wheel")) == app_in(wheel)


def test_installed_from_the_wheel_the_server_shows_the_app(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", site, wheel], check=True)
    (tmp_path / "serve.toml").write_text(SETTINGS)
    nowhere = tmp_path / "nowhere"  # no Node.js there, nor anything else
    nowhere.mkdir()
    environment = {"PATH": str(nowhere), "HOME": str(tmp_path), "MILLET_HOME": str(tmp_path), "PYTHONPATH": str(site)}
    where = "import millet; print(millet.__file__)"
    said = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert said.stdout.startswith(str(site))

    command = [site / "bin/millet", "serve", "--config", "serve.toml"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            lines = []
            for line in server.stderr:
                lines.append(line)
                if found := re.search(r"at (http://[\d.]+:\d+)", line):
                    break
            else:
                pytest.fail("".join(lines))
            with httpx2.Client(base_url=found[1], timeout=60) as client:
                page = client.get("/")
                assert page.content == (WEB / "index.html").read_bytes()
                assets = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
                assert any(path.startswith("/assets/") for path in assets)
                for path in [*assets, "/sw.js"]:
                    answer = client.get(path)
                    assert answer.status_code == 200, path
                    assert answer.content == (WEB / path.lstrip("/")).read_bytes()
        finally:
            server.send_signal(signal.SIGINT)

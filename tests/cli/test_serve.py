"""`millet serve`: what it refuses, what it prints, and how it ends. What serves is a real process on a free port."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from millet.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The line that it says, in this process: to import what serves takes far longer than to refuse."""
    monkeypatch.setenv("MILLET_HOME", str(tmp_path))

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["serve", *words])
        said = capsys.readouterr().err
        assert ended.value.code == 2, said
        assert said.count("\n") == 1
        return said

    return run


@contextmanager
def serving(model: Path, home: Path, *words: str) -> Iterator[tuple[str, subprocess.Popen[str], list[str]]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "millet.cli.main", "serve", "--port", "0", "--model", str(model), *words],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "MILLET_HOME": str(home), "HOME": str(home)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines: list[str] = []
    try:
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"at (http://[\d.]+:\d+)", line):
                yield found[1], process, lines
                break
        else:
            pytest.fail("".join(lines))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        lines += process.communicate(timeout=30)[1].splitlines(True)


def test_a_public_address_needs_accounts(refused: Callable[..., str]) -> None:
    assert "--users" in refused("--host", "0.0.0.0")


def test_a_port_that_is_taken(refused: Callable[..., str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "--port" in refused("--port", str(taken.getsockname()[1]))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "smollm2-136m"], "did you mean"),
        (["--config", "none.toml"], "does not exist"),
        (["--quantize", "q3"], "q8"),
        (["--database", "mysql://x"], "sqlite"),
        (["--model", "smollm2-135m", "--model", "smollm2-135m"], "two models would be called smollm2-135m"),
    ],
)
def test_mistakes_are_one_line(refused: Callable[..., str], words: list[str], told: str) -> None:
    assert told in refused("--port", "0", *words)


def test_it_serves_until_it_is_interrupted(tmp_path: Path, smollm2_path: Path) -> None:
    with serving(smollm2_path, tmp_path) as (url, process, _), httpx2.Client(base_url=url, timeout=60) as client:
        deadline = time.monotonic() + 60
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        name = client.get("/v1/models").json()["data"][0]["id"]
        body = {"model": name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
        assert client.post("/v1/chat/completions", json=body).json()["usage"]["completion_tokens"] <= 8
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130)
    assert (tmp_path / "millet.db").exists()


def test_the_first_administrator_gets_a_link(tmp_path: Path, smollm2_path: Path) -> None:
    with serving(smollm2_path, tmp_path, "--users") as (url, process, lines):
        assert process.stderr is not None
        lines.append(process.stderr.readline())
        token = re.search(r"/invite#(\S+)", lines[-1])
        assert token is not None, lines
        with httpx2.Client(base_url=url, timeout=60) as client:
            assert client.get("/v1/models").status_code == 401
            accept = {"token": token[1], "name": "ann", "password": "correct horse battery"}
            assert client.post("/api/invitations/accept", json=accept).json()["role"] == "admin"
            assert client.get("/api/keys").json() == []
            assert client.post("/api/invitations/accept", json=accept).status_code == 404


def test_a_service_manager_stops_it_as_well(tmp_path: Path) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(
        '[upstreams.m]\nreplicas = ["http://127.0.0.1:9/v1"]\nmodel = "m"\n',
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "millet.cli.main", "serve", "--port", "0", "--config", str(config)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "MILLET_HOME": str(tmp_path), "HOME": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "Ctrl-C" in line:
                break
        assert list(tmp_path.glob("*-owner-*"))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0
        assert not list(tmp_path.glob("*-owner-*"))  # what it held it has given back
    finally:
        process.kill()

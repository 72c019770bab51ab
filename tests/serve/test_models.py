"""What the web app is told of the models, before, while and after they load."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx2

from millet.engine.engine import Engine
from millet.errors import DownloadFailed
from millet.models.progress import Progress
from millet.reasoning.assistant import Assistant
from millet.serve.chat import LoadProgress
from millet.serve.config import ServeConfig, UpstreamConfig
from millet.serve.embedded import Embedded
from millet.serve.upstream import Upstream
from tests.reasoning.toys import toy_model
from tests.serve.fakes import FakeBackend, running
from tests.serve.test_app import wait_until


def listed(url: str, **headers: str) -> Any:
    answer = httpx2.get(f"{url}/api/models", headers=headers, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_from_the_download_to_the_first_token(smollm2_path: Path) -> None:
    """The states of a real model, and each of them while the server answers."""
    fetching, fetched = threading.Event(), threading.Event()

    def fetch(name: str, progress: Progress) -> None:
        assert name == str(smollm2_path)
        progress("model.gguf", 30, 100)
        fetching.set()
        assert fetched.wait(30)

    backend = Embedded(str(smollm2_path), fetch=fetch)
    loads: list[LoadProgress] = []
    told = backend._loaded

    def loaded(done: int, total: int) -> None:
        told(done, total)
        progress = backend.status().progress
        assert progress is not None
        loads.append(progress)

    backend._loaded = loaded  # type: ignore[method-assign]
    with running({"m": backend, "second": FakeBackend()}, ServeConfig(port=0)) as url:
        assert fetching.wait(30)
        first, second = listed(url)
        assert first["state"] == "loading"
        assert first["progress"] == {"step": "download", "done": 30, "total": 100}
        assert (first["context_length"], first["thinks"]) == (None, None)
        assert (first["default"], second["default"]) == (True, False)
        assert httpx2.get(f"{url}/readyz").status_code == 503
        fetched.set()
        wait_until(lambda: listed(url)[0]["state"] == "ready", 60)
        ready = listed(url)[0]
    assert ready["progress"] is None
    assert ready["context_length"] == 8192
    assert ready["thinks"] == "prompt"
    assert len({progress.done for progress in loads}) == len(loads) == 31  # the two ends, and each layer
    assert loads[-1] == LoadProgress("load", 134_515_008, 134_515_008)


def test_what_the_catalog_says_of_it_and_a_download_that_fails() -> None:
    tried = threading.Event()

    def fetch(name: str, progress: Progress) -> None:
        assert tried.wait(30)
        raise DownloadFailed("nothing gave it")

    backend = Embedded("qwen3-0.6b", fetch=fetch)
    with running({backend.name: backend}, ServeConfig(port=0)) as url:
        (model,) = listed(url)
        tried.set()
        wait_until(lambda: listed(url)[0]["state"] == "unreachable")
        assert listed(url)[0]["progress"] is None
        assert "nothing gave it" in httpx2.get(f"{url}/readyz").json()["reason"]
    assert model == {
        "name": "qwen3-0.6b",
        "default": True,
        "state": "loading",
        "progress": {"step": "download", "done": None, "total": None},
        "context_length": None,
        "thinks": None,
        "licence": "Apache-2.0",
        "languages": ["en", "zh", "mul"],
        "description": "Qwen3 0.6B",
    }


def test_a_server_that_ends_does_not_wait_for_a_download() -> None:
    begun, over = threading.Event(), threading.Event()

    def fetch(name: str, progress: Progress) -> None:
        begun.set()
        over.wait(30)

    with running({"m": Embedded("qwen3-0.6b", fetch=fetch)}, ServeConfig(port=0)):
        assert begun.wait(30)
    assert not over.is_set()
    over.set()


def test_an_upstream_that_is_away() -> None:
    away = Upstream("u", UpstreamConfig(replicas=("http://127.0.0.1:9/v1",), model="u"), check_every=0.05)
    with running({"u": away}, ServeConfig(port=0)) as url:
        wait_until(lambda: listed(url)[0]["state"] == "unreachable")
        (model,) = listed(url)
    unknown = ("progress", "context_length", "thinks", "licence", "languages", "description")
    assert [model[name] for name in unknown] == [None] * 6


def test_who_asks_is_asked() -> None:
    with running({"m": FakeBackend()}, ServeConfig(port=0, users=True)) as url:
        assert httpx2.get(f"{url}/api/models").status_code == 401


def test_how_models_think(seed: int) -> None:
    model = toy_model(seed)  # the marks of a thought are tokens of it
    assert Assistant(Engine(model)).thinks == "template"
    model.template = None
    assert Assistant(Engine(model)).thinks is None

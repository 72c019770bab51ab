"""The web app in Debian's Chromium, in front of a real server: SmolLM2, and a backend that says what a test
tells it to.

What a machine lacks, Chromium, Playwright or the built app, skips these tests with its reason; with
MILLET_WEB=required, as in .ci/run, it fails them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from millet.engine.engine import Engine
from millet.models.load import load
from millet.reasoning.assistant import Assistant
from millet.serve.config import ServeConfig
from millet.serve.embedded import Embedded
from tests.serve.fakes import FakeBackend, running

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed; it is in the test extra")

expect = playwright.expect
BUILT = Path(__file__).parents[2] / "millet" / "serve" / "web" / "index.html"
CHROMIUM = os.environ.get("MILLET_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
# Without the last ones Chromium asks for updates and names in the network.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 60_000  # milliseconds that a page has for anything; a slow machine is no failure


def lacking(reason: str) -> None:
    if os.environ.get("MILLET_WEB") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        lacking("Chromium is not installed")
    if not BUILT.exists():
        lacking("the web app is not built; run make web")
    expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as running_playwright:
        browser = running_playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Site:
    """url: of the server. scripted: the backend that the model "scripted" is."""

    url: str
    scripted: FakeBackend = field(default_factory=FakeBackend)


@pytest.fixture(scope="session")
def real(smollm2_path: Path) -> Iterator[Site]:
    """A server of SmolLM2, and of the scripted one. All tests share its conversations."""
    scripted = FakeBackend()
    assistant = Assistant(Engine(load(smollm2_path)))
    backends = {"smollm2-135m": Embedded.of(assistant, "smollm2-135m"), "scripted": scripted}
    with running(backends, ServeConfig(port=0)) as url:
        yield Site(url, scripted)


@pytest.fixture
def site() -> Iterator[Site]:
    """A server of the scripted model alone."""
    scripted = FakeBackend()
    with running({"scripted": scripted}, ServeConfig(port=0)) as url:
        yield Site(url, scripted)


@dataclass
class Problems:
    """What pages complained about."""

    texts: list[str] = field(default_factory=list)


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    """A browser of its own, at desktop width, in English. Any error of the page, a broken Content-Security-Policy among
    them, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-US")
    context.set_default_timeout(PATIENCE)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    problems = watch(context)
    yield context
    context.close()
    assert not problems.texts, problems.texts


def watch(context: Any) -> Problems:
    problems = Problems()

    def on_console(message: Any) -> None:
        # A refused request is told there, too; what it was is the test's business.
        if message.type == "error" and "Failed to load resource" not in message.text:
            problems.texts.append(f"{message.text} ({message.location.get('url')})")

    context.on("console", on_console)
    context.on("weberror", lambda error: problems.texts.append(str(error.error)))
    return problems


@pytest.fixture
def page(context: Any) -> Any:
    """Replies are the model's likeliest, and short unless the page is told otherwise."""
    prefer(context, temperature=0, maxTokens=48)
    return context.new_page()


def prefer(context: Any, **preferences: Any) -> None:
    """As if they had been chosen in the settings of an earlier visit."""
    stored = json.dumps({"state": preferences, "version": 0})
    key = "millet.preferences"
    served = "location.protocol.startsWith('http')"  # the blank page has no storage
    context.add_init_script(f"if ({served} && !localStorage['{key}']) localStorage['{key}'] = {json.dumps(stored)}")

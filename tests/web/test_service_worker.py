"""The service worker: the app opens without a network, and nothing of what people write is kept."""

from __future__ import annotations

from typing import Any

from millet.serve.config import ServeConfig
from tests.serve.fakes import FakeBackend, running

CONTROLLED = """async () => {
  await navigator.serviceWorker.ready;
  if (!navigator.serviceWorker.controller)
    await new Promise((done) => navigator.serviceWorker.addEventListener("controllerchange", done, { once: true }));
}"""
KEPT = """async () => {
  const kept = {};
  for (const name of await caches.keys())
    kept[name] = (await (await caches.open(name)).keys()).map((request) => new URL(request.url).pathname);
  return kept;
}"""


def test_the_app_opens_without_a_server(context: Any) -> None:
    page = context.new_page()
    with running({"scripted": FakeBackend()}, ServeConfig(port=0)) as url:
        page.goto(url)
        page.evaluate(CONTROLLED)
        page.reload()
        page.wait_for_selector("#root > *")
        (kept,) = page.evaluate(KEPT).values()
        assert "/" in kept
        assert any(path.startswith("/assets/") for path in kept)
        assert not [path for path in kept if path.startswith(("/api", "/v1", "/c/"))]
        assert page.evaluate("() => fetch('/api/account').then((answer) => answer.status)") == 200
    assert page.evaluate("() => fetch('/api/account').catch(() => 'no network')") == "no network"
    page.goto(f"{url}/c/0123abc")
    page.wait_for_selector("#root > *")
    page.close()


def test_an_old_cache_goes_with_its_build(context: Any) -> None:
    page = context.new_page()
    with running({"scripted": FakeBackend()}, ServeConfig(port=0)) as url:
        page.goto(f"{url}/icon.svg")  # of the same origin, and without the app
        page.evaluate("() => Promise.all(['millet-old', 'another'].map((name) => caches.open(name)))")
        page.goto(url)
        page.evaluate(CONTROLLED)
        names = set(page.evaluate(KEPT))
    assert "millet-old" not in names
    assert "another" in names
    assert len(names) == 2

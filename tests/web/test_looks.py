"""How the page looks and reads: languages, themes, widths, and what axe-core finds of every part of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from millet.reasoning.reply import Event
from millet.serve.accounts import Accounts
from millet.serve.chat import LoadProgress, ModelStatus
from millet.serve.config import ServeConfig
from millet.serve.store import Store
from tests.serve.fakes import FakeBackend, finish, running
from tests.web.chat import Chat
from tests.web.conftest import Site, expect, prefer

AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
PHONE = {"width": 390, "height": 844}
RICH = """# A title

Text with **strong**, `code`, a [link](https://example.org) and a formula $a^2 + b^2 = c^2$.

| a | b |
| - | - |
| 1 | 2 |

```python
def add(a: int, b: int) -> int:
    return a + b  # the sum
```

1. one
2. two
   - [x] done
"""


@pytest.fixture
def rich(site: Site) -> Site:
    site.scripted.script = [
        Event("reasoning", "Let me see: $1 + 1$.", (1,) * 9),
        Event("content", RICH, (2,) * 90),
        replace(finish(), seconds=5.0, thought_seconds=3.2),
    ]
    return site


def serious(page: Any) -> list[str]:
    """What axe-core finds that hinders somebody, as one line each."""
    page.wait_for_timeout(300)  # colours fade in
    if not page.evaluate("'axe' in globalThis"):
        page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run({resultTypes: ['violations']})")
    return [
        f"{each['impact']}: {each['id']}: {node['target']}: {node['failureSummary']}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def fits(page: Any) -> bool:
    """Nothing reaches over the page's edge."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_hinders_anybody_in_the_chat(rich: Site, page: Any, scheme: str, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 844})
    chat = Chat(page).open(rich.url)
    assert serious(page) == []
    chat.say("Show me everything.")
    chat.replies.last.locator(".reasoning button").first.click()
    chat.replies.last.locator("details.details summary").click()
    expect(chat.replies.last.locator(".katex").first).to_be_visible()
    expect(chat.replies.last.locator("pre [class*=hljs]").first).to_be_visible()
    assert serious(page) == []
    assert fits(page)
    if width < 500:
        chat.button("Open the list of conversations").click()
        expect(page.get_by_role("dialog", name="Conversations")).to_be_visible()
        assert serious(page) == []
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
    page.locator("header.top").get_by_role("button", name="Options").click()
    assert serious(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("Control+/")
    assert serious(page) == []
    assert fits(page)


def test_dark_is_dark_and_can_be_chosen(site: Site, page: Any) -> None:
    chat = Chat(page).open(site.url)
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    assert brightness(page.evaluate(paper)) > 230
    chat.button("Settings").click()
    page.get_by_label("Appearance").select_option("dark")
    assert brightness(page.evaluate(paper)) < 40
    page.reload()
    assert brightness(page.evaluate(paper)) < 40


def brightness(colour: str) -> float:
    parts = [float(part) for part in re.findall(r"[\d.]+", colour)[:3]]
    return sum(parts) / 3


def test_chinese(rich: Site, browser: Any) -> None:
    """From the browser's language, without a word of English in what has a name; and by choice."""
    context = browser.new_context(locale="zh-CN", viewport=PHONE)
    page = context.new_page()
    page.goto(rich.url)
    box = page.get_by_role("textbox", name="随便问点什么")
    box.wait_for()
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    box.fill("你好")
    box.press("Enter")
    expect(page.get_by_role("button", name=re.compile("思考了 .*秒，.* 个 token"))).to_be_visible()
    names = page.eval_on_selector_all("[aria-label]", "all => all.map(e => e.getAttribute('aria-label'))")
    assert [name for name in names if re.search("[A-Za-z]{3}", name.replace("token", ""))] == []
    assert serious(page) == []
    assert fits(page)
    page.get_by_role("button", name="打开对话列表").click()
    page.get_by_role("button", name="设置").click()
    page.get_by_label("语言").select_option("en")
    expect(page.get_by_role("dialog", name="Settings")).to_be_visible()
    context.close()


def test_phone(rich: Site, browser: Any) -> None:
    """A touch screen: the list in a drawer, targets large enough for a finger."""
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True, locale="en-US")
    page = context.new_page()
    chat = Chat(page).open(rich.url)
    chat.box.fill("Show me everything.")
    chat.button("Send").tap()
    page.wait_for_url("**/c/*")
    chat.wait()
    assert fits(page)
    chat.button("Open the list of conversations").tap()
    drawer = page.get_by_role("dialog", name="Conversations")
    expect(drawer.get_by_role("link", name="Show me everything.")).to_be_visible()
    drawer.get_by_role("link", name="New chat").tap()
    expect(drawer).to_have_count(0)
    expect(page.get_by_role("heading", name="What would you like to think about?")).to_be_visible()
    small = page.eval_on_selector_all(
        "main button:not([disabled])",
        "all => all.map(e => [e.getBoundingClientRect(), e.ariaLabel]).filter(([r]) => r.width && r.height < 40)",
    )
    assert small == []
    context.close()


def test_loading_is_shown_and_waited_for(page: Any) -> None:
    """The page is there before the model; a question waits for it."""
    backend = FakeBackend(not_ready="it is being loaded")
    backend.told = ModelStatus("loading", LoadProgress("download", 46_000_000, 92_000_000))
    with running({"m": backend}, ServeConfig(port=0)) as url:
        chat = Chat(page).open(url)
        expect(page.get_by_text("Downloading the model: 46 MB of 92 MB")).to_be_visible()
        bar = page.get_by_role("progressbar")
        expect(bar).to_have_attribute("value", "46000000")
        chat.ask("15 + 8?")
        expect(chat.replies.last).to_contain_text("your question is sent when it is ready")
        assert serious(page) == []
        assert backend.requests == []
        backend.not_ready = backend.told = None
        expect(chat.answer).to_have_text("It is 23.", use_inner_text=True)
        expect(bar).to_have_count(0)


def test_a_place_in_the_queue(page: Any) -> None:
    backend = FakeBackend([Event("content", "slow", (1,)), 20.0, finish()])
    with running({"m": backend}, ServeConfig(port=0, slots=1)) as url:
        first = Chat(page).open(url)
        first.ask("First")
        expect(first.answer).to_contain_text("slow")
        second = Chat(page.context.new_page()).open(url)
        second.ask("Second")
        expect(second.replies.last).to_contain_text(re.compile(r"Waiting: place 1 in the queue"))
        first.button("Stop").click()
        expect(second.answer).to_contain_text("slow")
        second.button("Stop").click()


@dataclass
class People:
    url: str
    token: str


@pytest.fixture
def people(tmp_path: Path) -> Iterator[People]:
    """A server with accounts, and the first administrator's invitation."""
    database = f"sqlite:///{tmp_path}/people.db"
    with Store.open(database) as store:
        _, token = Accounts(store).invite("admin")
    with running({"m": FakeBackend()}, ServeConfig(port=0, users=True, database=database)) as url:
        yield People(url, token)


def test_the_pages_beside_the_chat(people: People, page: Any) -> None:
    """By an invitation in, then everywhere, as a person with an account."""
    page.goto(f"{people.url}/invite#{people.token}")
    page.get_by_label("Name").fill("ada@example.org")
    page.get_by_label("Password", exact=True).first.fill("correct horse battery")
    assert serious(page) == []
    page.keyboard.press("Enter")
    chat = Chat(page)
    chat.box.wait_for()
    chat.say("15 + 8?")
    expect(chat.answer).to_have_text("It is 23.", use_inner_text=True)
    page.get_by_role("link", name="ada@example.org").click()
    page.wait_for_url("**/account")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert serious(page) == []
    page.goto(f"{people.url}/admin")
    for tab in page.get_by_role("tab").all():
        tab.click()
        expect(page.get_by_role("tabpanel")).to_be_visible()
        assert serious(page) == []
    page.goto(f"{people.url}/api")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert serious(page) == []
    page.goto(people.url)
    chat.button("Sign out").click()
    page.wait_for_url("**/login*")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    assert serious(page) == []
    page.get_by_label("Name").fill("ada@example.org")
    page.get_by_label("Password", exact=True).first.fill("correct horse battery")
    page.keyboard.press("Enter")
    chat.box.wait_for()


def test_a_stranger_is_led_to_the_sign_in(people: People, page: Any) -> None:
    page.goto(f"{people.url}/c/00000000000000000000000000000000")
    page.wait_for_url("**/login?next=*")
    expect(page.get_by_label("Name")).to_be_visible()


def test_installable_and_there_without_the_server(browser: Any) -> None:
    """The service worker shows the page when the server is away; what it cannot show is said."""
    context = browser.new_context(locale="en-US")
    prefer(context)
    page = context.new_page()
    with running({"m": FakeBackend()}, ServeConfig(port=0)) as url:
        Chat(page).open(url)
        page.evaluate("navigator.serviceWorker.ready.then(() => true)")
        manifest = page.evaluate("fetch('/manifest.webmanifest').then(r => r.json())")
        assert manifest["display"] == "standalone"
        assert {icon["sizes"] for icon in manifest["icons"]} >= {"192x192", "512x512"}
    page.reload()
    expect(page.get_by_text("The server cannot be reached.")).to_be_visible()
    context.close()

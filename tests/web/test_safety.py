"""Nothing that a model, a file or an import says is ever executed, nor does it fetch anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx

from millet.reasoning.reply import Event
from tests.serve.fakes import finish
from tests.web.chat import Chat
from tests.web.conftest import Site, expect

CORPUS = json.loads((Path(__file__).parents[2] / "web" / "test" / "xss.json").read_text("utf-8"))
TEXTS = [each["text"] for each in CORPUS]
BATCH = 20  # texts of one reply: what one breaks open must not shield the others


@contextmanager
def unharmed(page: Any, url: str) -> Iterator[None]:
    """No script of the corpus ran, no dialog opened, and nothing but the server was asked."""
    asked: list[str] = []
    dialogs: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    yield
    page.wait_for_timeout(200)  # for what would run a little later
    assert page.evaluate("globalThis.harmed") is None
    assert not dialogs
    outside = [each for each in asked if not each.startswith((url, "data:", f"blob:{url}"))]
    assert not outside
    # What would harm only once it is pressed.
    links = page.eval_on_selector_all("main a[href], nav a[href]", "all => all.map(a => a.protocol)")
    assert set(links) <= {"http:", "https:", "mailto:"}
    assert page.eval_on_selector_all("*", HANDLERS) == []
    assert page.locator("main iframe, main object, main embed, main script, main img, main form form").count() == 0


HANDLERS = "all => all.flatMap(e => e.getAttributeNames().filter(name => /^on/i.test(name)))"


def batches() -> list[list[str]]:
    return [TEXTS[at : at + BATCH] for at in range(0, len(TEXTS), BATCH)]


def test_through_what_the_model_says(site: Site, page: Any) -> None:
    """As a thought and as an answer, in pieces and after a reload whole."""
    chat = Chat(page).open(site.url)
    with unharmed(page, site.url):
        for texts in batches():
            events: list[Event | float] = []
            for kind in ("reasoning", "content"):
                for text in texts:
                    said = f"{text}\n\nsafe end\n\n"
                    events += [Event(kind, said[at : at + 7], (1,)) for at in range(0, len(said), 7)]  # type: ignore[arg-type]
                    events.append(0.001)
            site.scripted.script = [*events, finish()]
            chat.say("Go on.")
            expect(chat.answer).to_contain_text("safe end")
            chat.replies.last.locator(".reasoning button").first.click()
            expect(chat.thought).to_contain_text("safe end")
        page.reload()
        expect(chat.answer).to_contain_text("safe end")
        page.eval_on_selector_all(".reasoning > button[aria-expanded=false]", "all => all.forEach(b => b.click())")
        expect(chat.thought).to_contain_text("safe end")


def test_through_questions_titles_and_imports(site: Site, page: Any) -> None:
    """Titles are in the list, in the heading, and in what search finds."""
    chat = Chat(page).open(site.url)
    with unharmed(page, site.url):
        for texts in batches():
            messages = []
            for number, text in enumerate(texts):
                parent = f"a{number - 1}" if number else None
                file = {"name": text[:255], "text": text}
                question = {
                    "id": f"q{number}",
                    "parent": parent,
                    "role": "user",
                    "content": text,
                    "attachments": [file],
                }
                reply = {"role": "assistant", "content": text, "reasoning": text, "model": text[:100]}
                messages += [question, {"id": f"a{number}", "parent": f"q{number}", **reply}]
            document = {"format": "millet-conversation", "version": 1, "title": texts[0][:900], "messages": messages}
            made = httpx.post(f"{site.url}/api/conversations/import", json=document, timeout=60)
            assert made.status_code == 201, made.text
            chat.open(site.url, f"/c/{made.json()['id']}")
            expect(chat.questions).to_have_count(len(texts))
            for details in page.locator(".message details").all():
                details.evaluate("each => { each.open = true }")
        page.get_by_role("searchbox").fill("harmed")
        expect(page.get_by_role("navigation").get_by_role("link").first).to_be_visible()


def test_through_file_names(site: Site, page: Any) -> None:
    chat = Chat(page).open(site.url)
    with unharmed(page, site.url):
        for texts in batches():
            files = [{"name": text[:200], "mimeType": "text/plain", "buffer": b"safe"} for text in texts]
            page.set_input_files("input[type=file]", files[:20])
            expect(page.locator(".composer").get_by_role("listitem")).to_have_count(len(texts))
            chat.say("Read these.")
            expect(chat.questions.last.get_by_role("listitem")).to_have_count(len(texts))


def test_through_a_shared_page(site: Site, page: Any, context: Any, tmp_path: Path) -> None:
    site.scripted.script = [Event("content", "\n\n".join(TEXTS) + "\n\nsafe end", (1,)), finish()]
    chat = Chat(page).open(site.url)
    chat.say("Say it all.")
    with page.expect_download() as told:
        chat.options("Share as a web page")
    path = tmp_path / "shared.html"
    told.value.save_as(path)
    shared = context.new_page()
    asked: list[str] = []
    shared.on("request", lambda request: asked.append(request.url))
    shared.goto(path.as_uri())
    expect(shared.locator("body")).to_contain_text("safe end")
    assert shared.evaluate("globalThis.harmed") is None
    assert asked == [path.as_uri()]
    assert shared.eval_on_selector_all("*", HANDLERS) == []


def test_the_policy_forbids_inline_scripts(site: Site, browser: Any) -> None:
    """The page's own defence, if everything else failed."""
    policy = httpx.get(site.url).headers["content-security-policy"]
    assert "unsafe-inline" not in policy
    assert "unsafe-eval" not in policy
    assert "script-src 'self'" in policy
    page = browser.new_page()  # not the fixture's, which would complain about what is refused here
    Chat(page).open(site.url)
    page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "globalThis.harmed = 1";
          document.body.append(script);
        }"""
    )
    assert page.evaluate("globalThis.harmed") is None
    page.close()

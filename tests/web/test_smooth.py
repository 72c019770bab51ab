"""Long conversations and long replies keep the page smooth: while a reply streams, no task takes over 100 ms
of processor time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest

from millet.reasoning.reply import Event
from tests.serve.fakes import finish
from tests.web.chat import Chat
from tests.web.conftest import Site, expect
from tests.web.tasks import traced_tasks

LONGEST = 100  # milliseconds of processor time that a task may take
TURNS = 500
TOKENS = 20_000
STEP = 20  # tokens that come at once: 200 times 20 in a second
PROSE = "The sum of **many** small `steps` is a long way; see $a^2 + b^2$ and the rest of it.\n\n"
CODE = "    total += values[i] * weights[i]  # one more\n"
ROW = "| alpha | 12 | a longer cell with *emphasis* |\n"


def streamed(text: str) -> Iterator[Event | float]:
    """`text` as about TOKENS tokens, at some 4,000 a second."""
    size = max(1, len(text) * STEP // TOKENS)
    for at in range(0, len(text), size):
        yield Event("content", text[at : at + size], (1,) * STEP)
        yield 0.005
    yield finish(tokens=TOKENS, reasoning=0)


def long(piece: str, before: str = "", after: str = "") -> str:
    """About 80,000 characters, which 20,000 tokens of English have."""
    return before + piece * (80_000 // len(piece)) + after


FORMS = {
    "prose": long(PROSE),
    "code": long(CODE, "```python\n", "```\n"),
    "list": long("- one *item* of many, with `code`\n"),
    "table": long(ROW, "| a | b | c |\n| - | - | - |\n"),
    "one paragraph": long("word after word without any end, "),
}


def history(url: str, turns: int = TURNS) -> str:
    """A conversation of so many turns; its id."""
    messages = []
    for turn in range(turns):
        parent = f"a{turn - 1}" if turn else None
        messages.append({"id": f"q{turn}", "parent": parent, "role": "user", "content": f"Question {turn}?"})
        answer = f"Answer {turn}.\n\n{PROSE}```python\nprint({turn})\n```\n\n- one\n- two\n"
        messages.append({"id": f"a{turn}", "parent": f"q{turn}", "role": "assistant", "content": answer})
    document = {"format": "millet-conversation", "version": 1, "title": "Long", "messages": messages}
    made = httpx.post(f"{url}/api/conversations/import", json=document, timeout=60)
    assert made.status_code == 201, made.text
    found: str = made.json()["id"]
    return found


@pytest.mark.parametrize("form", FORMS)
def test_a_long_reply_behind_a_long_conversation(site: Site, browser: Any, page: Any, form: str) -> None:
    site.scripted.script = list(streamed(FORMS[form]))
    chat = Chat(page).open(site.url, f"/c/{history(site.url)}")
    expect(chat.answer).to_contain_text(f"Answer {TURNS - 1}.")
    with traced_tasks(browser, page) as tasks:
        chat.ask("And now at length?")
        expect(chat.questions.last).to_contain_text("And now at length?")
        page.wait_for_timeout(500)  # a person scrolls and types meanwhile
        page.mouse.move(700, 400)
        page.mouse.wheel(0, -600)
        chat.box.fill("typing meanwhile")
        chat.wait()
    assert len(tasks) > 100  # the trace saw the page
    print(f"{form}: {len(tasks)} tasks, the longest {max(tasks):.0f} ms, together {sum(tasks) / 1000:.1f} s")
    assert max(tasks) <= LONGEST
    # A long reply that has ended is drawn in pieces, and laid out where it is in view.
    page.wait_for_function("() => [...document.querySelectorAll('.answer')].at(-1).textContent.length > 50000")


def test_all_turns_can_be_reached(site: Site, page: Any) -> None:
    turns = 100
    chat = Chat(page).open(site.url, f"/c/{history(site.url, turns)}")
    expect(chat.answer).to_contain_text(f"Answer {turns - 1}.")
    assert chat.questions.count() < turns
    earlier = page.get_by_role("button", name="Show earlier messages")
    while earlier.count():  # it may be gone by itself when it comes into sight, so nobody waits for it
        page.evaluate("() => document.querySelector('.earlier')?.click()")
    expect(chat.questions).to_have_count(turns)
    expect(chat.questions.first).to_contain_text("Question 0?")

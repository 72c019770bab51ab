"""A conversation in two places at once, and a server that goes away and comes back."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from millet.reasoning.reply import Event
from tests.serve.fakes import finish
from tests.web.chat import LONG, Chat
from tests.web.conftest import Site, expect, prefer

SLOW: list[Event | Exception | float] = [
    step for number in range(1, 200) for step in (Event("content", f"{number} ", (1,)), 0.02)
]


def test_two_tabs_agree(site: Site, context: Any, page: Any) -> None:
    """Another tab shows the reply while it comes, what was edited, and what was renamed or deleted."""
    site.scripted.script = [*SLOW, finish(tokens=199, reasoning=0)]
    first = Chat(page).open(site.url)
    first.ask("Count.")
    page.wait_for_url("**/c/*")
    second = Chat(context.new_page()).open(site.url, page.url.removeprefix(site.url))
    expect(second.answer).to_contain_text("1 2 3")
    expect(second.button("Stop")).to_be_visible()
    second.button("Stop").click()
    first.wait()
    second.wait()
    expect(first.replies.last).to_contain_text("You stopped this reply.")
    assert first.answer.inner_text() == second.answer.inner_text()

    site.scripted.script = [Event("content", "Fine.", (1,)), finish(tokens=1, reasoning=0)]
    second.say("And now?")
    expect(first.answer).to_have_text("Fine.", use_inner_text=True)
    first.options("Rename")
    first.page.get_by_role("textbox", name="New title").fill("Numbers")
    first.page.keyboard.press("Enter")
    expect(second.page.get_by_role("heading", level=1)).to_have_text("Numbers")
    first.options("Delete")
    expect(second.page.get_by_text("There is no such conversation.")).to_be_visible()


def test_another_browser_agrees_too(site: Site, browser: Any, page: Any) -> None:
    """Where no tab can tell the other, the server does."""
    site.scripted.script = [Event("content", "Fine.", (1,)), finish(tokens=1, reasoning=0)]
    first = Chat(page).open(site.url)
    first.say("Well?")
    other = browser.new_context(locale="en-US")
    prefer(other)
    second = Chat(other.new_page()).open(site.url, page.url.removeprefix(site.url))
    first.say("And now?")
    expect(second.questions).to_have_count(2)
    other.close()


@contextmanager
def served(database: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`millet serve` in a process of its own, and its port."""
    model = ["--model", "smollm2-135m"]  # writes at length
    words = ["serve", "--no-browser", "--port", str(port), "--database", f"sqlite:///{database}", *model]
    environment = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "millet.cli.main", *words], stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                yield process, int(found[1])
                return
        raise AssertionError("the server did not start")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_restart_in_mid_reply(smollm2_path: Path, page: Any, tmp_path: Path) -> None:
    """The server is killed while it writes: the page says so, keeps what there was, and goes on with the next one."""
    database = tmp_path / "millet.db"
    with served(database) as (process, port):
        chat = Chat(page).open(f"http://127.0.0.1:{port}")
        chat.think("off")
        chat.longest(4000)
        chat.ask(LONG)
        expect(chat.answer).not_to_be_empty()
        page.wait_for_timeout(1500)  # a second of it is on disk
        process.kill()
        expect(chat.replies.last).to_contain_text("The connection is lost; trying again…")
        written = chat.answer.inner_text()
    with served(database, port):
        expect(chat.replies.last).to_contain_text("The server was restarted while this reply was written.")
        kept = chat.answer.inner_text()
        assert kept
        assert written.startswith(kept[: len(kept) // 2])
        chat.button("Continue").click()
        page.wait_for_function("n => (document.querySelector('.answer')?.innerText.length ?? 0) > n", arg=len(kept))
        chat.button("Stop").click()
        chat.wait()

"""The web app with SmolLM2: everything a person does with it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.web.chat import LONG, Chat
from tests.web.conftest import PATIENCE, Site, expect


@pytest.fixture
def chat(real: Site, page: Any) -> Chat:
    return Chat(page).open(real.url)


# What the thought's button and box show, whenever they change: a machine may be too quick for who looks now and then.
WATCH = """
() => {
  window.seen = [];
  new MutationObserver(() => {
    const button = [...document.querySelectorAll(".reasoning > button")].at(-1);
    if (button) seen.push([button.innerText, button.ariaExpanded, document.querySelector(".thought").innerText.length]);
  }).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
}
"""


def test_ask_and_watch_it_think(chat: Chat) -> None:
    chat.think("on")
    chat.longest(200)
    chat.page.evaluate(WATCH)
    chat.ask(LONG)  # a short thought can be over before it is painted twice
    chat.page.wait_for_url("**/c/*")
    chat.wait()
    seen = [each for each in chat.page.evaluate("seen") if each[0].startswith("Thinking…")]
    assert all(re.fullmatch(r"Thinking… [\d.]+ sec, \d+ tokens?", text) for text, _, _ in seen)
    assert {expanded for _, expanded, _ in seen} == {"true"}
    lengths = [length for _, _, length in seen]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 2  # it grew before one's eyes
    folded = chat.replies.last.get_by_role("button", name=re.compile(r"Thought for .* sec, [\d,]+ tokens"))
    expect(folded).to_have_attribute("aria-expanded", "false")
    expect(chat.answer).not_to_be_empty()
    folded.click()
    expect(chat.thought).to_be_visible()
    details = chat.replies.last.locator("details.details")
    expect(details.locator("summary")).to_have_text(re.compile(r"[\d.]+ tokens/s · "))
    details.locator("summary").click()
    for name in ("Tokens read", "of these from the cache", "Tokens of the thought", "Tokens written", "smollm2-135m"):
        expect(details).to_contain_text(name)


def test_no_thought_where_none_is_wanted(chat: Chat) -> None:
    chat.think("off")
    chat.say("Say hello.")
    expect(chat.answer).not_to_be_empty()
    expect(chat.replies.last.locator(".reasoning")).to_have_count(0)


def test_stop_and_continue(chat: Chat) -> None:
    chat.think("off")
    chat.longest(4000)
    chat.ask(LONG)
    expect(chat.answer).not_to_be_empty()
    chat.button("Stop").click()
    chat.wait()
    expect(chat.replies.last).to_contain_text("You stopped this reply.")
    before = chat.answer.inner_text()
    chat.button("Continue").click()
    expect(chat.button("Stop")).to_be_visible()
    chat.page.wait_for_function("n => document.querySelector('.answer').innerText.length > n", arg=len(before))
    chat.box.press("Escape")
    chat.wait()
    after = chat.answer.inner_text()
    assert after.startswith(before[: len(before) // 2])
    assert len(after) > len(before)


def test_edit_branch_and_answer_again(chat: Chat) -> None:
    chat.think("off")
    chat.say("Say the word apple.")
    chat.say("Say the word pear.")
    chat.questions.first.hover()
    chat.questions.first.get_by_role("button", name="Edit").click()
    editor = chat.page.get_by_role("textbox", name="Edit the question")
    expect(editor).to_have_value("Say the word apple.")
    editor.fill("Say the word plum.")
    editor.press("Enter")
    expect(chat.questions).to_have_count(1)
    chat.wait()
    expect(chat.questions.first).to_contain_text("plum")
    chat.questions.first.hover()
    chat.questions.first.get_by_role("button", name="Previous version").click()
    expect(chat.questions).to_have_count(2)
    expect(chat.questions.first).to_contain_text("apple")

    chat.replies.last.get_by_role("button", name="Answer again").click()
    expect(chat.replies.last.get_by_role("group", name="Version 2 of 2")).to_be_visible()
    chat.wait()
    # The chosen branch is there again after a reload.
    chat.page.reload()
    expect(chat.questions).to_have_count(2)
    expect(chat.questions.first).to_contain_text("apple")


def test_copy(chat: Chat) -> None:
    chat.think("off")
    chat.say("Say hello.")
    chat.replies.last.get_by_role("button", name="Copy", exact=True).click()
    expect(chat.replies.last.get_by_role("button", name="Copied")).to_be_visible()
    assert chat.page.evaluate("navigator.clipboard.readText()").strip() != ""


def test_rename_delete_and_undo(chat: Chat) -> None:
    chat.think("off")
    chat.say("Say the word quince.")
    entry = chat.page.get_by_role("navigation").get_by_role("link", name="Say the word quince.")
    expect(entry).to_be_visible()
    chat.options("Rename")
    title = chat.page.get_by_role("textbox", name="New title")
    title.fill("Quinces")
    title.press("Enter")
    expect(chat.page.get_by_role("navigation").get_by_role("link", name="Quinces")).to_be_visible()
    expect(chat.page.get_by_role("heading", level=1)).to_have_text("Quinces")
    chat.options("Delete")
    expect(chat.page.get_by_role("navigation").get_by_role("link", name="Quinces")).to_have_count(0)
    chat.button("Undo").click()
    expect(chat.page.get_by_role("navigation").get_by_role("link", name="Quinces")).to_be_visible()
    expect(chat.questions).to_have_count(1)


def test_keyboard_alone(chat: Chat) -> None:
    """From the first key on: skip link, question, stop, search, menu, edit."""
    page = chat.page
    chat.think("off")
    chat.longest(4000)
    page.get_by_role("link", name="Skip to the conversation").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#conversation")).to_be_focused()
    chat.box.focus()
    page.keyboard.type(LONG)
    page.keyboard.press("Enter")
    expect(chat.answer).not_to_be_empty()
    page.keyboard.press("Escape")
    chat.wait()
    page.keyboard.press("ArrowUp")
    editor = page.get_by_role("textbox", name="Edit the question")
    expect(editor).to_be_focused()
    page.keyboard.press("Escape")
    expect(editor).to_have_count(0)
    page.keyboard.press("Control+k")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("bread")
    hit = page.get_by_role("navigation").get_by_role("link", name=re.compile("history of bread"))
    expect(hit.first).to_be_visible()
    page.keyboard.press("Tab")
    expect(hit.first).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Control+/")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_budget_of_a_thought(chat: Chat) -> None:
    chat.think("budget")
    chat.page.get_by_label("Most tokens of a thought").fill("16")
    chat.say("Why is the sky blue?")
    name = chat.replies.last.locator(".reasoning button").inner_text()
    tokens = int(re.search(r"([\d,]+) tokens", name)[1].replace(",", ""))  # type: ignore[index]
    assert 0 < tokens <= 24  # the budget, and what closes the thought
    expect(chat.answer).not_to_be_empty()


def test_attach_text_and_a_clear_refusal(chat: Chat, tmp_path: Path) -> None:
    chat.think("off")
    note = tmp_path / "note.md"
    note.write_text("# Trip\n\nThe train leaves at nine.\n")
    chat.page.set_input_files("input[type=file]", note)
    expect(chat.page.get_by_role("list", name="Attached files")).to_contain_text("note.md")
    expect(chat.page.locator(".count")).to_have_text(re.compile(r"\d+ of 8,192 tokens"))
    chat.say("When does the train leave?")
    sent = chat.questions.last
    expect(sent).to_contain_text("note.md")
    sent.get_by_text("note.md").click()
    expect(sent).to_contain_text("The train leaves at nine.")

    long = tmp_path / "long.txt"
    long.write_text("The train leaves at nine. " * 4000)
    chat.page.set_input_files("input[type=file]", long)
    expect(chat.page.get_by_role("alert")).to_have_text(re.compile(r"This does not fit: [\d,]+ tokens"))
    chat.box.fill("And this?")
    expect(chat.button("Send")).to_be_disabled()
    chat.button("Remove long.txt").click()
    expect(chat.button("Send")).to_be_enabled()

    chat.page.set_input_files("input[type=file]", {"name": "x.bin", "mimeType": "", "buffer": bytes(range(256)) * 8})
    expect(chat.page.get_by_role("status").filter(has_text="x.bin cannot be attached")).to_be_visible()


def pdf(text: str) -> bytes:
    """One page that says `text`, or nothing at all."""
    drawn = f"BT /F1 12 Tf 40 100 Td ({text}) Tj ET" if text else ""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents 4 0 R"
        " /Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream",
    ]
    out, places = "%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    return (
        f"{out}trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(out) - len(table)}\n%%EOF".encode()
    )


def test_attach_a_pdf(chat: Chat) -> None:
    chat.think("off")
    file = {"name": "trip.pdf", "mimeType": "application/pdf", "buffer": pdf("The train leaves at nine.")}
    chat.page.set_input_files("input[type=file]", file)
    expect(chat.page.locator(".count")).to_be_visible()
    chat.say("When does the train leave?")
    chat.questions.last.get_by_text("trip.pdf").click()
    expect(chat.questions.last).to_contain_text("The train leaves at nine.")
    empty = {"name": "scan.pdf", "mimeType": "application/pdf", "buffer": pdf("")}
    chat.page.set_input_files("input[type=file]", empty)
    refusal = chat.page.get_by_role("status").filter(has_text="scan.pdf cannot be attached: no text was found in it")
    expect(refusal).to_be_visible()


def test_reload_in_mid_reply(chat: Chat) -> None:
    chat.think("off")
    chat.longest(4000)
    chat.ask(LONG)
    expect(chat.answer).not_to_be_empty()
    chat.page.wait_for_url("**/c/*")
    before = chat.answer.inner_text()
    chat.page.reload()
    chat.page.wait_for_function("n => (document.querySelector('.answer')?.innerText.length ?? 0) > n", arg=len(before))
    assert chat.answer.inner_text().startswith(before[: len(before) // 2])
    expect(chat.button("Stop")).to_be_visible()
    chat.button("Stop").click()
    chat.wait()


def test_export_and_import(chat: Chat, tmp_path: Path) -> None:
    chat.think("off")
    chat.say("Say the word apple.")
    answer = chat.answer.inner_text()
    with chat.page.expect_download() as told:
        chat.options("Export as Markdown")
    markdown = Path(told.value.path()).read_text()
    assert told.value.suggested_filename == "Say the word apple.md"
    assert "Say the word apple." in markdown
    with chat.page.expect_download() as told:
        chat.options("Export as JSON")
    path = tmp_path / "conversation.json"
    told.value.save_as(path)
    assert json.loads(path.read_text())["format"] == "millet-conversation"
    with chat.page.expect_download() as told:
        chat.options("Share as a web page")
    shared = Path(told.value.path()).read_text()
    assert "Say the word apple." in shared
    assert "<script" not in shared

    first = chat.page.url
    chat.button("Settings").click()
    dialog = chat.page.get_by_role("dialog", name="Settings")
    dialog.locator("input[type=file]").set_input_files(path)
    expect(chat.page).not_to_have_url(first)
    expect(chat.answer).to_have_text(answer.strip(), use_inner_text=True)

    chat.button("Settings").click()
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    dialog.locator("input[type=file]").set_input_files(bad)
    expect(chat.page.get_by_role("status").filter(has_text="could not be imported")).to_be_visible()


def test_search_in_two_languages(chat: Chat) -> None:
    chat.think("off")
    chat.say("今天的天气怎么样？")
    chat.button("New chat").click()
    chat.say("Say the word papaya.")
    search = chat.page.get_by_role("searchbox")
    hits = chat.page.get_by_role("navigation").get_by_role("link")
    search.fill("天气")
    expect(hits.first).to_contain_text("今天的天气怎么样")
    search.fill("papaya")
    expect(hits.first).to_contain_text("papaya")
    expect(chat.page.get_by_role("navigation")).not_to_contain_text("天气")
    search.fill("nothing-like-this")
    expect(chat.page.get_by_role("navigation")).to_contain_text("Nothing found")
    search.press("Escape")
    expect(hits.filter(has_text="今天的天气怎么样")).to_be_visible()


def test_a_model_is_picked(chat: Chat) -> None:
    chat.page.get_by_role("combobox", name="Model").select_option("scripted")
    chat.say("15 + 8?")
    expect(chat.answer).to_have_text("It is 23.", use_inner_text=True, timeout=PATIENCE)

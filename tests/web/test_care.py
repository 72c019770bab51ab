"""Care for the person at the page: nothing written is lost, nothing is done to what they have left, and the focus stays
where they are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from millet.reasoning.reply import Event
from tests.serve.fakes import finish
from tests.web.chat import Chat
from tests.web.conftest import Site, expect

ENDLESS: list[Event | Exception | float] = [
    step for number in range(1, 5000) for step in (Event("content", f"{number} ", (1,)), 0.02)
]
CONNECTIONS = 6  # of a browser to a server
FIRE = """([target, kind, files, text]) => {
  const data = new DataTransfer();
  for (const name of files) data.items.add(new File(["hello"], name));
  if (text) data.setData("text/plain", text);
  const more = { bubbles: true, cancelable: true };
  const event = kind === "paste"
    ? new ClipboardEvent(kind, { clipboardData: data, ...more })
    : new DragEvent(kind, { dataTransfer: data, ...more });
  return document.querySelector(target).dispatchEvent(event);
}"""


@pytest.fixture
def chat(site: Site, page: Any) -> Chat:
    return Chat(page).open(site.url)


def listed(chat: Chat, title: str) -> Any:
    return chat.page.get_by_role("navigation").get_by_role("link", name=title, exact=True)


def test_what_was_not_sent_waits(chat: Chat) -> None:
    """In its own conversation, while another is open and after a reload; a new conversation has its own."""
    chat.say("One")
    chat.box.fill("half a thought")
    chat.page.set_input_files("input[type=file]", {"name": "note.txt", "mimeType": "text/plain", "buffer": b"hello"})
    attached = chat.page.locator(".composer").get_by_role("listitem")
    expect(attached).to_contain_text("note.txt")
    chat.button("New chat").click()
    expect(chat.box).to_have_value("")
    expect(attached).to_have_count(0)
    chat.say("Two")
    listed(chat, "One").click()
    expect(chat.box).to_have_value("half a thought")
    expect(attached).to_contain_text("note.txt")
    chat.page.reload()
    expect(chat.box).to_have_value("half a thought")
    expect(chat.button("Send")).to_be_enabled()  # once the conversation is there
    chat.box.press("Enter")
    expect(chat.questions).to_have_count(2)
    expect(chat.answer).not_to_be_empty()  # what breaks off before the server has it is kept
    chat.wait()
    chat.page.reload()
    expect(chat.questions).to_have_count(2)
    expect(chat.box).to_have_value("")


def test_what_could_not_be_sent_comes_before_what_was_written_since(chat: Chat, site: Site) -> None:
    held: list[Any] = []
    chat.page.route("**/replies", lambda route: held.append(route))
    with chat.page.expect_request("**/replies"):
        chat.ask("The first.")
    chat.box.fill("The second.")
    while not held:
        chat.page.wait_for_timeout(10)
    refusal = {"error": {"message": "too many", "code": None}}
    held[0].fulfill(status=400, body=json.dumps(refusal), content_type="application/json")
    expect(chat.box).to_have_value("The first.\n\nThe second.")


def test_more_replies_than_a_browser_has_connections(chat: Chat, site: Site) -> None:
    site.scripted.script = ENDLESS
    for number in range(CONNECTIONS + 1):
        chat.ask(f"Count {number}.")
        expect(chat.answer).to_contain_text("1 2 3")
        chat.button("New chat").click()
        expect(chat.questions).to_have_count(0)
    assert site.scripted.running == CONNECTIONS + 1  # nobody's reply was ended
    listed(chat, "Count 0.").click()
    expect(chat.answer).to_contain_text("1 2 3")
    chat.button("Stop").click()
    chat.wait()


def test_who_has_left_is_not_called_back(chat: Chat) -> None:
    """A new conversation gets its address only where it is still on the screen."""
    chat.say("One")
    chat.button("New chat").click()
    held: list[Any] = []

    def hold(route: Any) -> None:
        if route.request.method == "POST":
            held.append(route)
        else:
            route.continue_()

    chat.page.route("**/api/conversations", hold)
    with chat.page.expect_request(lambda request: request.method == "POST"):
        chat.ask("Two")
    listed(chat, "One").click()
    expect(chat.questions).to_contain_text("One")
    address = chat.page.url
    held[0].continue_()
    expect(listed(chat, "Two")).to_be_visible()
    assert chat.page.url == address


def test_a_name_is_given_to_no_other_conversation(chat: Chat) -> None:
    chat.say("One")
    chat.button("New chat").click()
    chat.say("Two")
    listed(chat, "One").click()
    expect(chat.questions).to_contain_text("One")
    chat.options("Rename")
    box = chat.page.get_by_role("textbox", name="New title")
    box.fill("Another")
    chat.page.go_back()
    expect(chat.questions).to_contain_text("Two")
    expect(box).to_have_count(0)
    chat.box.click()
    chat.page.reload()
    expect(chat.page.get_by_role("heading", level=1)).to_have_text("Two")


def test_the_focus_stays_where_the_person_is(chat: Chat) -> None:
    chat.say("One")
    chat.questions.first.hover()
    chat.questions.first.get_by_role("button", name="Edit").click()
    chat.page.keyboard.press("Escape")
    expect(chat.box).to_be_focused()
    chat.options("Rename")
    chat.page.keyboard.type("Uno")
    chat.page.keyboard.press("Enter")
    heading = chat.page.get_by_role("heading", level=1)
    expect(heading).to_be_focused()
    entry = chat.page.locator("nav .entry")
    entry.hover()
    entry.get_by_role("button").click()
    chat.page.get_by_role("menuitem", name="Rename").click()
    chat.page.keyboard.press("Escape")
    expect(entry.get_by_role("link")).to_be_focused()
    chat.page.set_viewport_size({"width": 390, "height": 844})
    chat.button("Open the list of conversations").click()
    chat.page.get_by_role("dialog").get_by_role("link", name="Uno", exact=True).click()
    expect(chat.button("Open the list of conversations")).to_be_focused()


def test_keys_of_an_input_method_are_its_own(chat: Chat, site: Site) -> None:
    """Escape takes back what is being composed, and leaves the reply alone."""
    site.scripted.script = ENDLESS
    chat.ask("Count.")
    expect(chat.answer).to_contain_text("1 2 3")
    stops: list[str] = []
    chat.page.on("request", lambda request: stops.append(request.url) if request.url.endswith("/stop") else None)
    key = "key => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', key))"
    chat.page.evaluate(key, {"key": "Escape", "isComposing": True, "bubbles": True, "cancelable": True})
    chat.page.evaluate(key, {"key": "Escape", "isComposing": False, "bubbles": True, "cancelable": True})
    chat.wait()
    assert len(stops) == 1


def test_files_are_dropped_anywhere_and_text_where_it_belongs(chat: Chat) -> None:
    page = chat.page
    files = page.locator(".composer").get_by_role("listitem")
    assert not page.evaluate(FIRE, ["header.top", "drop", ["beside.txt"], ""])  # the browser would show the file
    expect(files).to_have_text(["beside.txt"])
    assert page.evaluate(FIRE, [".composer textarea", "drop", [], "words"])
    assert page.evaluate(FIRE, [".composer textarea", "paste", ["cells.png"], "a table's cells"])
    assert not page.evaluate(FIRE, [".composer textarea", "paste", ["pasted.txt"], ""])
    expect(files).to_have_text(["beside.txt", "pasted.txt"])


def test_two_tabs_have_one_set_of_choices(chat: Chat, site: Site, context: Any) -> None:
    other = Chat(context.new_page()).open(site.url)
    chat.button("Settings").click()
    chat.page.get_by_label("Instructions").fill("Be brief.")
    chat.page.keyboard.press("Escape")
    other.think("off")
    expect(chat.page.get_by_role("combobox", name="Thinking")).to_have_value("off")
    other.say("Well?")
    (system, _) = site.scripted.requests[-1].messages
    assert system == {"role": "system", "content": "Be brief."}


def test_a_budget_can_be_typed_anew(chat: Chat, site: Site) -> None:
    chat.think("budget")
    budget = chat.page.get_by_label("Most tokens of a thought")
    budget.press("End")
    for _ in "512":
        budget.press("Backspace")
    budget.press_sequentially("64")
    chat.say("Well?")
    assert site.scripted.requests[-1].options["think"] == 64
    budget.fill("99999999999999999999")
    chat.say("And now?")
    assert site.scripted.requests[-1].options["think"] == 2**31
    budget.fill("")
    budget.blur()
    expect(budget).to_have_value(str(2**31))


def test_a_screen_reader_hears_how_a_reply_ended(chat: Chat, site: Site) -> None:
    heard = chat.page.locator(".thread > [aria-live=polite]")
    chat.say("Well?")
    expect(heard).to_have_text("The answer is complete. It is 23.")
    site.scripted.script = [Event("content", "half", (1,)), RuntimeError("broken")]
    chat.say("And now?")
    expect(heard).to_contain_text("This reply failed")
    site.scripted.script = [Event("content", "half", (1,)), finish("length")]
    chat.say("And now?")
    expect(heard).to_have_text("The reply reached its longest length.")


def test_an_old_page_in_front_of_a_new_server(browser: Any, site: Site) -> None:
    """A part of the page that is gone leads to a word about it, not to nothing."""
    context = browser.new_context(locale="en-US", service_workers="block")
    page = context.new_page()
    chat = Chat(page).open(site.url)
    page.route("**/assets/ProgramsPage*", lambda route: route.fulfill(status=404))
    page.get_by_role("link", name="Use from programs").click()
    expect(page.get_by_role("alert")).to_contain_text("This page cannot be shown.")
    page.go_back()
    expect(chat.box).to_be_visible()
    page.get_by_role("link", name="Use from programs").click()
    page.unroute("**/assets/ProgramsPage*")
    chat.button("Load again").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Use from programs")
    context.close()

"""Files that come with a message: kept, found, exported, and shown to the model as its template says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from fastapi import FastAPI

from millet.errors import MilletError
from millet.models.catalog import CatalogEntry, read_catalog
from millet.serve import attachments
from millet.serve.attachments import FILE_TEMPLATE, template_of, with_files
from millet.serve.store import Attachment, Message, Store, migrations
from millet.serve.store.database import Database, _connectable
from millet.serve.store.transfer import to_markdown
from tests.serve.fakes import FakeBackend
from tests.serve.small_app import Browser, small_app
from tests.serve.test_live import conversing, events, messages

ME = "local"
NOTES = {"name": "notes.txt", "text": "The sum is 23."}
HOSTILE = "{question} {file_name} {0} {{x}} %s ${y} \\1 \\g<1>"


@pytest.fixture
def app(store: Store) -> FastAPI:
    return small_app(store, None)


@pytest.fixture
def browser(app: FastAPI) -> Browser:
    return Browser(app)


def keep(store: Store, *files: Attachment, content: str = "What do they say?") -> Message:
    conversation = store.conversations.create(ME)
    return store.conversations.add_message(ME, conversation.id, None, "user", content, attachments=files)


# The template


def test_files_stand_before_the_question_one_after_another() -> None:
    files = [Attachment("a.txt", "first"), Attachment("b.txt", "second")]
    assert with_files(FILE_TEMPLATE, "Why?", files) == (
        "[file name]: a.txt\n[file content begin]\nfirst\n[file content end]\n"
        "[file name]: b.txt\n[file content begin]\nsecond\n[file content end]\nWhy?"
    )
    assert with_files(FILE_TEMPLATE, "Why?", ()) == "Why?"


def test_what_looks_like_a_place_is_text() -> None:
    file = Attachment(HOSTILE, HOSTILE)
    shown = f"[file name]: {HOSTILE}\n[file content begin]\n{HOSTILE}\n[file content end]\n"
    assert with_files(FILE_TEMPLATE, HOSTILE, [file, file]) == shown * 2 + HOSTILE
    behind = "{question} {file_content} ({file_name}) {} {other}"
    assert with_files(behind, HOSTILE, [file]) == f"{HOSTILE} {HOSTILE} ({HOSTILE}) {{}} {{other}}"


def test_a_model_has_the_template_of_its_catalog_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    own = CatalogEntry("own", ("hf:a/b",), file_template="{file_name}{file_content}{question}")
    monkeypatch.setattr(attachments, "catalog", lambda: {"own": own, "plain": CatalogEntry("plain", ("hf:a/b",))})
    assert template_of("own") == own.file_template
    assert template_of("plain") == template_of("unknown") == FILE_TEMPLATE


@pytest.mark.parametrize("wrong", ["{question}", "{file_name} {file_content} {question} {question}", ""])
def test_a_catalogs_template_without_its_places_is_refused(tmp_path: Path, wrong: str) -> None:
    text = f'default = "a"\n[models.a]\nsources = ["hf:a/b"]\nfile_template = {json.dumps(wrong)}\n'
    (tmp_path / "models.toml").write_text(text)
    with pytest.raises(MilletError, match="file_template must have each of"):
        read_catalog(tmp_path / "models.toml")


# Replies


def test_the_model_sees_the_files_and_the_conversation_keeps_them() -> None:
    backend = FakeBackend()
    with conversing(backend) as (client, conversation):
        url = f"/api/conversations/{conversation}/replies"
        body = {"content": "Why?", "attachments": [NOTES, {"name": "{question}", "text": HOSTILE}]}
        begin = events(client.post(url, json=body).text)[0]
        client.post(url, json={"content": "And then?", "parent": begin["message"]})
        client.post(url, json={"parent": begin["question"]})
        kept = messages(client, conversation)
    shown = with_files(FILE_TEMPLATE, "Why?", [Attachment(**NOTES), Attachment("{question}", HOSTILE)])
    assert [request.messages[0]["content"] for request in backend.requests] == [shown] * 3
    assert backend.requests[1].messages[-1]["content"] == "And then?"
    assert (kept[0]["content"], kept[0]["attachments"]) == ("Why?", body["attachments"])
    assert [message["attachments"] for message in kept[1:]] == [[]] * 4


def test_what_is_sent_is_checked() -> None:
    backend = FakeBackend()
    with conversing(backend) as (client, conversation):
        url = f"/api/conversations/{conversation}/replies"
        question = client.post(f"/api/conversations/{conversation}/messages", json={"content": "a"}).json()["id"]
        for wrong in (
            {"content": "a", "attachments": [NOTES] * 21},
            {"content": "a", "attachments": [NOTES | {"name": "x" * 256}]},
            {"content": "a", "attachments": [NOTES | {"name": ""}]},
            {"content": "a", "attachments": [NOTES | {"name": " \n\x07\u202e "}]},
            {"content": "a", "attachments": [{"name": "a"}]},
            {"content": "a", "attachments": [NOTES | {"text": 5}]},
            {"content": "a", "attachments": "a"},
            {"parent": question, "attachments": [NOTES]},
        ):
            refused = client.post(url, json=wrong)
            assert refused.status_code == 422, wrong
            assert "The sum" not in refused.text
        assert len(messages(client, conversation)) == 1
        assert backend.requests == []
        events(client.post(url, json={"content": "a", "attachments": [NOTES] * 20}).text)
        assert len(messages(client, conversation)[1]["attachments"]) == 20


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("a\nb\r.txt", "ab.txt"),
        ("\x00\x1b[31mred\x7f\x85.md", "[31mred.md"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("line\u2028paragraph\u2029", "lineparagraph"),
        ("  报告 👩\u200d🔬.pdf ", "报告 👩\u200d🔬.pdf"),
        ("../../etc/passwd", "../../etc/passwd"),
        ("<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),
    ],
)
def test_names_are_one_line_in_the_order_it_is_written(name: str, cleaned: str) -> None:
    assert attachments.File(name=name, text="").name == cleaned


# The store


def test_they_are_kept_with_the_message(store: Store) -> None:
    files = (Attachment("a.txt", "nul \0, half a pair \ud83d"), Attachment("空.md", ""))
    message = keep(store, *files)
    assert message.attachments == (Attachment("a.txt", "nul \ufffd, half a pair ?"), Attachment("空.md", ""))
    assert store.conversations.path(ME, message.id)[-1] == message
    assert list(store.conversations.tree(ME, message.conversation).messages) == [message]


def test_they_are_found_by_name_and_text(store: Store) -> None:
    message = keep(store, Attachment("Quarterly-Report.pdf", "大米 and millet"), content="What is this?")
    for query in ("quarterly", "report.pdf", "大米", "millet", "this quarterly 大米"):
        assert [hit.message for hit in store.search(ME, query)] == [message.id], query
    assert store.search(ME, "rice") == []


def test_a_database_of_before_has_no_files(database_url: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__path__[0])).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    database = Database(_connectable(database_url))
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(
            sa.text("INSERT INTO conversations (id, account, title, created, updated) VALUES ('c', 'local', '', 1, 1)")
        )
        connection.execute(
            sa.text(
                "INSERT INTO messages (id, conversation, role, content, reasoning, tool_calls, status, "
                "thought_seconds, created) VALUES ('m', 'c', 'user', 'hello', '', '[]', 'complete', 0, 1)"
            )
        )
    database.close()
    with Store.open(database_url) as store:
        (found,) = store.conversations.tree(ME, "c").messages
    assert (found.content, found.attachments, found.seconds) == ("hello", (), None)


# Exports


def test_an_export_comes_back_with_them(store: Store, browser: Browser) -> None:
    message = keep(store, Attachment(**NOTES), Attachment("b", HOSTILE))
    reply = store.conversations.begin_reply(ME, message.id, "m")
    store.replies.finish(reply.id, "complete", seconds=2.5).result(10)
    exported = browser.get(f"/api/conversations/{message.conversation}/export").json()
    assert exported["messages"][0]["attachments"] == [NOTES, {"name": "b", "text": HOSTILE}]
    imported = browser.post("/api/conversations/import", json=exported).json()["id"]
    again = browser.get(f"/api/conversations/{imported}").json()["messages"]
    assert [each["attachments"] for each in again] == [each["attachments"] for each in exported["messages"]]
    assert [each["seconds"] for each in again] == [None, 2.5]
    assert {hit["conversation"] for hit in browser.get("/api/conversations/search?q=notes").json()} == {
        message.conversation,
        imported,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"attachments": [NOTES] * 21},
        {"attachments": [NOTES], "role": "assistant"},
        {"attachments": [{"name": "x" * 300, "text": ""}]},
        {"seconds": -1},
    ],
)
def test_an_import_is_checked(browser: Browser, changes: dict[str, Any]) -> None:
    node = {"id": "a", "role": "user", "content": "x"}
    assert browser.post("/api/conversations/import", json={"messages": [node]}).status_code == 201
    assert browser.post("/api/conversations/import", json={"messages": [node | changes]}).status_code == 422


def test_markdown_shows_them_in_blocks_that_they_cannot_close(store: Store) -> None:
    text = "a\n```\n# heading\n`````\n"
    message = keep(store, Attachment("`a`.md", text), Attachment("b.txt", "x"), content="Why?")
    conversation = store.conversations.get(ME, message.conversation)
    assert to_markdown(conversation, [message]) == (
        f"# Why?\n\n## User\n\nFile `` `a`.md ``:\n\n``````\n{text}``````\n\nFile `b.txt`:\n\n```\nx\n```\n\nWhy?\n"
    )

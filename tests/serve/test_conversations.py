"""Conversations over HTTP, in one-person mode; on both databases."""

import json
import random
from typing import Any

import pytest
from fastapi import FastAPI

from millet.reasoning.reply import ToolCall, Usage
from millet.serve.errors import ApiError
from millet.serve.store import Message, Store
from millet.serve.store.transfer import in_order
from tests.serve.small_app import Browser, small_app

ME = "local"


@pytest.fixture
def app(store: Store) -> FastAPI:
    return small_app(store, None)


@pytest.fixture
def browser(app: FastAPI) -> Browser:
    return Browser(app)


def say(browser: Browser, conversation: str, content: str, parent: str | None = None) -> str:
    answer = browser.post(f"/api/conversations/{conversation}/messages", json={"content": content, "parent": parent})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.fixture
def talk(browser: Browser) -> str:
    """A conversation's id."""
    return str(browser.post("/api/conversations", json={}).json()["id"])


@pytest.fixture
def reply(store: Store, browser: Browser, talk: str) -> Message:
    """A whole one, in a conversation of two branches."""
    say(browser, talk, "other beginning")
    question = say(browser, talk, "What is 推理?")
    message = store.conversations.begin_reply(ME, question, "millet-1")
    store.replies.append(message.id, reasoning="Let me think.", content="It is **reasoning**.")
    calls = (ToolCall("c1", "look_up", '{"q": "推理"}'),)
    end = store.replies.finish(
        message.id, "stopped", finish_reason="stop", usage=Usage(1, 2, 3, 4), tool_calls=calls, thought_seconds=2.4
    )
    end.result(10)
    return message


def test_the_life_of_a_conversation(browser: Browser, talk: str) -> None:
    path = f"/api/conversations/{talk}"
    first = say(browser, talk, "hello there")
    say(browser, talk, "follow", first)
    tree = browser.get(path).json()
    assert tree["conversation"]["title"] == "hello there"
    assert [(each["parent"], each["content"]) for each in tree["messages"]] == [
        (None, "hello there"),
        (first, "follow"),
    ]
    assert browser.patch(path, json={"title": "renamed"}).json()["title"] == "renamed"
    assert [hit["conversation"] for hit in browser.get("/api/conversations/search?q=renamed").json()] == [talk]
    assert browser.delete(path).status_code == 204
    for request in (browser.get(path), browser.patch(path, json={"title": "x"}), browser.delete(path)):
        assert (request.status_code, request.json()["error"]["code"]) == (404, "conversation_not_found")
    assert browser.get("/api/conversations/search?q=renamed").json() == []
    assert browser.post(path + "/restore").status_code == 200
    assert browser.get(path).status_code == 200


def test_pages(browser: Browser) -> None:
    made = [browser.post("/api/conversations", json={"title": str(n)}).json()["id"] for n in range(5)]
    first = browser.get("/api/conversations?limit=3").json()
    second = browser.get("/api/conversations", params={"limit": 3, "after": first["next"]}).json()
    assert [each["id"] for page in (first, second) for each in page["conversations"]] == made[::-1]
    assert second["next"] is None
    assert browser.get("/api/conversations?after=nonsense").status_code == 422


def test_what_is_sent_is_checked(browser: Browser, talk: str) -> None:
    path = f"/api/conversations/{talk}"
    unknown = "0" * 32
    assert browser.post(path + "/messages", json={"content": "x", "parent": unknown}).status_code == 404
    assert browser.get(f"/api/conversations/{unknown}").status_code == 404
    refused: list[tuple[str, str, Any]] = [
        ("POST", path + "/messages", {"content": "x", "role": "assistant"}),
        ("POST", path + "/messages", {"content": "x", "parent": "\0"}),
        ("POST", path + "/messages", {"content": 5}),
        ("POST", "/api/conversations", {"title": "x" * 1001}),
        ("POST", "/api/conversations/import", {"format": "other", "messages": []}),
        ("GET", "/api/conversations/%00", None),
        ("GET", "/api/conversations?limit=0", None),
        ("GET", "/api/conversations/search", None),
        ("GET", path + "/export.md?message=%00", None),
    ]
    for method, url, body in refused:
        assert browser.request(method, url, json=body).status_code == 422, (method, url, body)


def test_odd_text_is_no_server_error(browser: Browser, talk: str) -> None:
    for body in (
        b'{"content": "\\u0000 nul"}',
        b'{"content": "\\ud800 half"}',
        b'{"content": "x", "tool_call_id": "\\u0000"}',
    ):
        answer = browser.post(
            f"/api/conversations/{talk}/messages", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in (201, 422)
    assert browser.get(f"/api/conversations/{talk}").status_code == 200
    assert browser.get("/api/conversations/search?q=%00%22*").status_code == 200


def test_an_export_comes_back_whole(browser: Browser, talk: str, reply: Message) -> None:
    exported = browser.get(f"/api/conversations/{talk}/export").json()
    imported = browser.post("/api/conversations/import", json=exported)
    assert imported.status_code == 201
    again = browser.get(f"/api/conversations/{imported.json()['id']}/export").json()
    assert imported.json()["id"] != talk
    ids = {old["id"]: new["id"] for old, new in zip(exported["messages"], again["messages"], strict=True)}
    assert not set(ids) & set(ids.values())
    for message in exported["messages"]:
        message["id"], message["parent"] = ids[message["id"]], ids.get(message["parent"])
    assert again == exported
    assert again["messages"][-1]["tool_calls"] == [{"id": "c1", "name": "look_up", "arguments": '{"q": "推理"}'}]
    assert len(browser.get("/api/conversations/search", params={"q": "reasoning"}).json()) == 2


def test_an_import_may_come_in_any_order_and_must_be_a_tree(browser: Browser, seed: int) -> None:
    draw = random.Random(seed)
    nodes = [
        {"id": str(n), "parent": str(draw.randrange(n)) if n else None, "role": "user", "content": f"m{n}"}
        for n in range(30)
    ]
    draw.shuffle(nodes)
    made = browser.post("/api/conversations/import", json={"title": "t", "messages": nodes}).json()["id"]
    tree = browser.get(f"/api/conversations/{made}").json()["messages"]
    contents = {each["id"]: each["content"] for each in tree}
    parents = {each["content"]: contents.get(each["parent"]) for each in tree}
    assert parents == {f"m{n['id']}": n["parent"] and f"m{n['parent']}" for n in nodes}
    node = {"role": "user", "content": "x"}
    for wrong in (
        [node | {"id": "a", "parent": "missing"}],
        [node | {"id": "a", "parent": "b"}, node | {"id": "b", "parent": "a"}],
        [node | {"id": "a", "parent": "a"}],
        [node | {"id": "a"}, node | {"id": "a"}],
    ):
        assert browser.post("/api/conversations/import", json={"messages": wrong}).status_code == 422


def test_a_streaming_reply_is_imported_as_an_interrupted_one() -> None:
    message = Message("a", "", None, "assistant", "half", status="streaming")
    assert in_order([message])[0].status == "interrupted"
    with pytest.raises(ApiError):
        in_order([message, message])


def test_a_branch_as_markdown(browser: Browser, talk: str, reply: Message) -> None:
    answer = browser.get(f"/api/conversations/{talk}/export.md", params={"message": reply.id})
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    assert answer.text == (
        "# other beginning\n\n## User\n\nWhat is 推理?\n\n## Assistant (millet-1)\n\n"
        "<details><summary>Reasoning, 2 s</summary>\n\nLet me think.\n\n</details>\n\nIt is **reasoning**.\n\n"
        'Calls `look_up`:\n\n```json\n{"q": "推理"}\n```\n\n*(stopped)*\n'
    )


def test_every_route_says_what_it_answers(app: FastAPI) -> None:
    document = json.loads(json.dumps(app.openapi()))
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation.get("description"), (method, path)
            answers = [a for status, a in operation["responses"].items() if status in ("200", "201")]
            for answer in answers:
                (content,) = answer["content"].values()
                assert content["schema"], (method, path)

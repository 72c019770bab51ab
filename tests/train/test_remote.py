"""Another server as a teacher: what it says, and what becomes of a run when it does not."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from millet.errors import BadRequest, MilletError
from millet.reasoning.reply import Reply
from millet.train.remote import Asking, Remote, check_url, read_completion
from tests.train.fake_teacher import FakeTeacher, adds

QUESTIONS = [f"What is {n} + 1?" for n in range(12)]


def ask(url: str, questions: list[str] | None = None, key_env: str = "", replies: int = 1) -> dict[str, list[Reply]]:
    """Each question a batch, as when every reply is to be on disk at once."""
    remote = Remote(url, "m", key_env, Asking(replies, 4, 64, 0.6), first_pause=1e-6)
    asked = QUESTIONS if questions is None else questions
    return {asked[number]: replies[0] for number, replies in remote.answers((n, [q]) for n, q in enumerate(asked))}


def test_every_question_is_asked_once_and_so_many_at_once() -> None:
    fake = FakeTeacher(adds)
    fake.gate = threading.Barrier(4)  # opens when four requests are there together
    with fake.running() as url:
        found = ask(url)
    assert found.keys() == set(QUESTIONS)
    assert set(fake.asked.values()) == {1}
    assert fake.most == 4
    (reply,) = found["What is 3 + 1?"]
    assert (reply.reasoning, reply.content) == ("3 and 1 make 4.", "The answer is 4.")
    assert (reply.finish_reason, reply.thought_ended, reply.usage.completion_tokens) == ("stop", "model", 7)
    messages = [{"role": "user", "content": "What is 3 + 1?"}]
    assert {"model": "m", "messages": messages, "max_tokens": 64, "temperature": 0.6} in fake.bodies
    assert fake.keys == {None}


def test_what_fails_now_and_then_is_asked_again() -> None:
    fake = FakeTeacher(adds)
    with fake.running() as url:
        first = ask(url, QUESTIONS[:1])
        fake.faults = [429, 503, 500, 429, 502, 408]
        assert ask(url).keys() == set(QUESTIONS)
        assert first.keys() < set(QUESTIONS)
    assert max(fake.asked.values()) == 2
    assert not fake.faults


def test_a_connection_that_breaks_off_is_no_end_once_the_server_has_answered() -> None:
    fake = FakeTeacher(adds)

    def breaking(count: int) -> None:
        fake.faults += ["drop"] * (count == 4)

    fake.on_answer = breaking
    with fake.running() as url:
        assert ask(url).keys() == set(QUESTIONS)
    assert not fake.faults


def test_several_replies_to_each() -> None:
    fake = FakeTeacher(adds)
    with fake.running() as url:
        found = ask(url, replies=3)
    assert all(len(replies) == 3 for replies in found.values())
    assert set(fake.asked.values()) == {3}
    assert fake.most <= 4


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (401, r"does not accept the key in TEACHER_KEY \(401\)"),
        (404, r"has no model 'm', or no chat completions there \(404\); check teacher"),
        (400, r"refuses the question \(400\): no: Bearer \.\.\. because"),
        (b"<html>", "answers is no chat completion; check the recipe's teacher, whose URL often ends in /v1"),
        (b'{"choices": []}', "answers is no chat completion"),
        (b"[]", "answers is no chat completion"),
        ("drop", "does not answer; start it, or check the recipe's teacher"),
    ],
)
def test_what_cannot_work_is_one_line_at_once(monkeypatch: pytest.MonkeyPatch, fault: Any, message: str) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sk-secret")
    fake = FakeTeacher(adds)
    fake.faults = [fault] * 4
    with fake.running() as url, pytest.raises(MilletError, match=message) as caught:
        ask(url, key_env="TEACHER_KEY")
    assert len(fake.bodies) <= 4, "those that were under way"
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert fake.keys == {"Bearer sk-secret"}


def test_a_server_that_is_not_there() -> None:
    fake = FakeTeacher(adds)
    with fake.running() as url:
        pass
    with pytest.raises(MilletError, match="does not answer; start it"):
        ask(url)
    with pytest.raises(MilletError, match="does not answer; start it"):
        Remote(url, "m", "", Asking(1, 4, 64, 0.6)).check()


def test_a_server_that_stays_broken_ends_the_run_behind_what_was_answered() -> None:
    fake = FakeTeacher(adds)
    fake.faulty = {QUESTIONS[2]: 500}
    found: list[int] = []
    with fake.running() as url:
        remote = Remote(url, "m", "", Asking(1, 4, 64, 0.6), first_pause=1e-6)
        with pytest.raises(MilletError, match="answers 500, 8 times; what was answered is kept: run the same"):
            found += (number for number, _ in remote.answers((n, [q]) for n, q in enumerate(QUESTIONS)))
    assert {QUESTIONS[number] for number in found} == set(fake.asked), "nothing that was answered is lost"


def test_a_question_that_the_server_will_not_answer_is_left_out_and_counted() -> None:
    fake = FakeTeacher(adds)
    fake.faulty = {QUESTIONS[5]: 400}
    with fake.running() as url:
        remote = Remote(url, "m", "", Asking(1, 2, 64, 0.6), first_pause=1e-6)
        found = dict(remote.answers((n, [q]) for n, q in enumerate(QUESTIONS)))
    assert len(found) == len(QUESTIONS)
    assert found[5][0][0].finish_reason == "refused"
    assert remote.refused == 1


@pytest.mark.parametrize(("message", "thought", "content"), [
    ({"content": "4", "reasoning_content": "2 and 2"}, "2 and 2", "4"),
    ({"content": "4", "reasoning": "2 and 2"}, "2 and 2", "4"),
    ({"content": "<think>\n2 and 2\n</think>\n\n4"}, "2 and 2", "4"),
    ({"content": "2 and 2</think>4"}, "2 and 2", "4"),
    ({"content": "<think>2 and 2"}, "2 and 2", ""),
    ({"content": "4", "reasoning_content": None}, "", "4"),
    ({"content": None}, "", ""),
])  # fmt: skip
def test_thoughts_of_every_shape(message: dict[str, Any], thought: str, content: str) -> None:
    reply = read_completion({"choices": [{"message": message, "finish_reason": "stop"}]})
    assert (reply.reasoning, reply.content) == (thought, content)
    assert (reply.thought_ended == "model") is bool(thought and content)


@pytest.mark.parametrize("url", [
    "http://", "http://:80", "http://host:x/v1", "https://name:word@host/v1", "http://host/v1?key=1"
])  # fmt: skip
def test_a_url_that_is_none_or_has_a_secret_is_refused(url: str) -> None:
    with pytest.raises(BadRequest, match="the teacher's URL") as caught:
        check_url(url)
    assert "word" not in str(caught.value).replace("password", "")


def test_a_key_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    with pytest.raises(BadRequest, match="TEACHER_KEY, where the teacher's key is to be, has none"):
        Remote("http://host/v1", "m", "TEACHER_KEY", Asking(1, 1, 1, 0.0))

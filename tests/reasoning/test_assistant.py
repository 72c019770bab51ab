from __future__ import annotations

import threading
from typing import Any

import pytest

from millet.errors import BadRequest, PromptTooLong, UnsupportedModel
from millet.reasoning.assistant import Assistant, Event, Reply, Usage
from tests.reasoning.fakes import ASK, CLOSE_ID, END, PLAIN, PREOPENED, Pieces, Scripted, assistant


def thinker(*answers: str, **engine: Any) -> Assistant:
    tokenizer = Pieces(marks=True)
    scripts = [tokenizer.script(f"Let me see {n}.\n", CLOSE_ID, "\n\n", a, END) for n, a in enumerate(answers)]
    return assistant(PREOPENED, *scripts, tokenizer=tokenizer, **engine)


def engine_of(someone: Assistant) -> Scripted:
    engine: Any = someone.engine
    return engine


def test_chat() -> None:
    reply = thinker("It is 42.").chat(ASK, seed=3)
    assert (reply.reasoning, reply.content) == ("Let me see 0.", "It is 42.")
    assert (reply.finish_reason, reply.thought_ended) == ("stop", "model")
    assert reply.usage == Usage(prompt_tokens=11, completion_tokens=27, reasoning_tokens=15, cached_tokens=5)
    assert reply.seconds >= reply.thought_seconds > 0
    assert (reply.vote_share, reply.votes) == (None, {})


def test_chat_is_the_stream_put_together() -> None:
    someone = thinker("It is 42.")
    streamed = Reply.of(someone.stream(ASK))
    whole = someone.chat(ASK)
    assert (streamed.reasoning, streamed.content, streamed.usage) == (whole.reasoning, whole.content, whole.usage)


def test_closing_the_stream_cancels() -> None:
    someone = thinker("It is 42.")
    events = someone.stream(ASK)
    assert next(events).kind == "reasoning"
    events.close()
    (generation,) = engine_of(someone).generations
    assert generation.cancelled
    assert generation.steps == 1


def test_a_stream_that_ended_is_not_cancelled() -> None:
    someone = thinker("It is 42.")
    list(someone.stream(ASK))
    assert not engine_of(someone).generations[0].cancelled


def test_an_engine_that_fails_is_heard_of_and_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    someone = thinker("It is 42.")
    monkeypatch.setattr(Scripted, "next_token", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        someone.chat(ASK)
    assert engine_of(someone).generations[0].cancelled


def test_sampling_is_the_callers_over_the_recommended() -> None:
    someone = assistant(PLAIN, [END], defaults={"temperature": 0.2, "top_p": 0.9})
    someone.chat(ASK, max_tokens=7, seed=5, stop="x", logit_bias={3: 1.0})
    sampling = engine_of(someone).requests[-1][1]
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.seed) == (0.2, 0.9, 7, 5)
    assert (sampling.stop, sampling.logit_bias) == ((), {3: 1.0})
    someone.chat(ASK, temperature=0.0, top_p=None, max_tokens=None)
    sampling = engine_of(someone).requests[-1][1]
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.0, 0.9, 512)


@pytest.mark.parametrize(("options", "words"), [
    ({"think": "maybe"}, "think is 'maybe'"),
    ({"max_tokens": 0}, "max_tokens is 0"),
    ({"temperature": -1}, "temperature is -1"),
    ({"stop": ["", "x"]}, "stop must be"),
    ({"vote": 0}, "vote is 0"),
    ({"vote": True}, "vote is True"),
    ({"vote": 1.5}, "vote is 1.5"),
])  # fmt: skip
def test_bad_options(options: Any, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        assistant(PLAIN, [END]).chat(ASK, **options)


def test_unknown_option() -> None:
    options: Any = {"temprature": 1}
    with pytest.raises(TypeError, match="unknown option 'temprature'"):
        assistant(PLAIN, [END]).chat(ASK, **options)


def test_bad_requests_are_refused_before_the_first_event() -> None:
    someone = assistant(PLAIN, [END], context_length=20)
    with pytest.raises(BadRequest):
        someone.stream([])
    with pytest.raises(PromptTooLong, match="are 18 tokens and the context holds 18"):
        assistant(PLAIN, [END], context_length=18).stream([{"role": "user", "content": "x" * 10}])
    assert not engine_of(someone).requests


def test_content_is_text_or_parts() -> None:
    someone = assistant(PLAIN, [END])
    someone.chat([{"role": "user", "content": [{"type": "text", "text": "Hi?"}]}])
    assert bytes(engine_of(someone).requests[0][0]) == b"user:Hi?|A:"
    with pytest.raises(BadRequest, match="no content"):
        someone.chat([{"role": "user"}])
    with pytest.raises(BadRequest, match="type int"):
        someone.chat([{"role": "user", "content": 7}])


def test_room_for_the_answer_when_the_context_is_short() -> None:
    tokenizer = Pieces(marks=True)
    script = tokenizer.script("On and on and on. " * 3, "Yes. " * 30)
    someone = assistant(PREOPENED, script, tokenizer=tokenizer, context_length=11 + 40)
    reply = someone.chat(ASK, max_tokens=4000)
    assert (reply.thought_ended, reply.finish_reason) == ("budget", "length")
    assert reply.usage.completion_tokens == 40
    assert reply.content


def test_no_thought_where_there_is_no_room_for_one() -> None:
    someone = assistant(PREOPENED, list(b"Yes."), tokenizer=Pieces(marks=True))
    reply = someone.chat(ASK, max_tokens=4)
    assert (reply.reasoning, reply.content, reply.thought_ended) == ("", "Yes.", None)
    plain = assistant(PLAIN, list(b"Yes."))
    assert plain.chat(ASK, think="on", max_tokens=4).content == "Yes."
    assert bytes(engine_of(plain).requests[0][0]) == b"user:?|A:"


def test_vote() -> None:
    someone = thinker("It is 41.", "So 42.", r"\boxed{42}", "Hm.", defaults={"temperature": 0.3})
    reply = someone.chat(ASK, vote=4, seed=1, temperature=0.0)
    assert (reply.reasoning, reply.content) == ("Let me see 1.", "So 42.")
    assert (reply.vote_share, reply.votes) == (0.5, {"42": 2, "41": 1, "hm": 1})
    (request,) = engine_of(someone).requests
    assert (request[1].n, request[1].temperature, request[1].seed) == (4, 0.3, 1)
    completions = engine_of(someone).generations[0].result()
    assert reply.usage.completion_tokens == sum(len(c.token_ids) for c in completions)
    assert reply.usage.reasoning_tokens == 4 * 15
    assert reply.usage.prompt_tokens == 11


def test_vote_needs_a_temperature() -> None:
    someone = thinker("1", "1", defaults={"temperature": 0.0})
    someone.chat(ASK, vote=2)
    assert engine_of(someone).requests[0][1].temperature == 0.6


def test_threads_share_an_assistant() -> None:
    someone = thinker("It is 42.")
    replies: list[Reply] = []
    threads = [threading.Thread(target=lambda: replies.append(someone.chat(ASK))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {(reply.reasoning, reply.content) for reply in replies} == {("Let me see 0.", "It is 42.")}
    assert len(replies) == 8


def test_a_model_without_a_chat_template_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="toy has no chat template"):
        assistant("", [END]).stream(ASK)


def test_an_engine_that_was_given_is_not_closed() -> None:
    with assistant(PLAIN, [END]) as someone:
        pass
    assert not engine_of(someone).closed


def test_events_of_other_kinds_have_no_ending() -> None:
    *pieces, finish = thinker("It is 42.").stream(ASK)
    assert all(event == Event(event.kind, event.text, event.token_ids) for event in pieces)
    assert (finish.kind, finish.text, finish.token_ids, finish.finish_reason) == ("finish", "", (), "stop")


def test_the_content_after_a_prefix_is_only_what_is_new() -> None:
    someone = assistant(PREOPENED, [*b" 42.", END], tokenizer=Pieces(marks=True))
    begun = {"role": "assistant", "content": "It is", "prefix": True}
    reply = someone.chat([*ASK, begun])
    assert (reply.content, reply.reasoning, reply.thought_ended) == (" 42.", "", None)
    prompt = Pieces(marks=True).decode(engine_of(someone).requests[0][0])
    assert prompt == "user:?|A:<think>\n\n</think>\n\nIt is"


def test_a_thought_that_was_begun_goes_on() -> None:
    someone = assistant(PREOPENED, [*b" see. ", CLOSE_ID, *b"\n42.", END], tokenizer=Pieces(marks=True))
    begun = {"role": "assistant", "content": "", "reasoning_content": "Let me", "prefix": True}
    reply = someone.chat([*ASK, begun])
    assert (reply.reasoning, reply.content, reply.thought_ended) == (" see.", "42.", "model")
    assert Pieces().decode(engine_of(someone).requests[0][0]).endswith("\nLet me")

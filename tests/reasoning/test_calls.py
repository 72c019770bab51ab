"""Calls of tools in a reply: found however the text is cut, whole, and nothing of them in the content."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millet.reasoning.calls import CALL, CALLS, CALLS_END, DEEPSEEK, END, HERMES, SEP, TOKEN, read_call
from millet.reasoning.reply import Event, Reply
from tests.reasoning.fakes import ASK, CLOSE_ID, PLAIN, PREOPENED, Pieces, assistant, cuts
from tests.reasoning.fakes import END as END_ID

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("weather", "clock")
]
WEATHER = '<tool_call>\n{"name": "weather", "arguments": {"city": "Pécs 🌧"}}\n</tool_call>'
CLOCK = '<tool_call>{"name": "clock", "arguments": {}}</tool_call>'
LLAMA = PLAIN + "{# <|python_tag|> #}"


class Deep(Pieces):
    """With DeepSeek's marks as tokens, which stand for no text."""

    def __init__(self, marks: tuple[str, ...] = DEEPSEEK) -> None:
        super().__init__(marks=True)
        for place, mark in enumerate(marks):
            self.added_tokens[mark] = 3000 + place
        if marks == DEEPSEEK:
            self.special_ids = self.special_ids | {3000 + place for place in range(len(marks))}
        else:
            self._bytes |= {3000 + place: mark.encode() for place, mark in enumerate(marks)}


def reply_to(source: str, tokenizer: Any, script: list[int], **options: Any) -> tuple[Reply, list[Event]]:
    someone = assistant(source, script, tokenizer=tokenizer)
    events = list(someone.stream(ASK, tools=TOOLS, **options))
    assert [i for e in events for i in e.token_ids] == someone.engine.generations[0].result()[0].token_ids  # type: ignore[attr-defined]
    assert all((event.kind == "tool_call") == (event.tool_call is not None) for event in events)
    return Reply.of(events), events


def called(reply: Reply) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in reply.tool_calls]


@given(data=st.data())
def test_calls_come_out_whole_however_they_are_cut(data: st.DataObject) -> None:
    tokenizer = Pieces()
    text = f"I look.\n{WEATHER}\n{CLOCK}\n"
    reply, _ = reply_to(PLAIN, tokenizer, [*data.draw(cuts(tokenizer)(text)), END_ID])
    assert called(reply) == [("weather", {"city": "Pécs 🌧"}), ("clock", {})]
    assert (reply.content, reply.finish_reason) == ("I look.", "tool_calls")
    ids = [call.id for call in reply.tool_calls]
    assert len(set(ids)) == 2
    assert all(call.startswith("call_") for call in ids)


@given(data=st.data())
def test_broken_calls_stay_text(data: st.DataObject) -> None:
    tokenizer = Pieces()
    text = data.draw(
        st.sampled_from(
            [
                "<tool_call>{no json}</tool_call> Well.",
                '<tool_call>{"name": "nobody", "arguments": {}}</tool_call>',
                '<tool_call>{"name": "clock", "arguments": {"a": NaN}}</tool_call>',
                '<tool_call>{"name": "clock", "arguments": [1]}</tool_call>',
                '<tool_call>{"name": "clock", "argu',
                "<tool_call>" + "[" * 5000 + "</tool_call>",
                "a <tool_ b <tool_call",
                "{}",
            ]
        )
    )
    reply, _ = reply_to(PLAIN, tokenizer, [*data.draw(cuts(tokenizer)(text)), END_ID])
    assert (reply.content, reply.tool_calls, reply.finish_reason) == (text, (), "stop")


def test_text_between_calls_stays() -> None:
    reply, _ = reply_to(PLAIN, None, list(f" {CLOCK} and\n\n{WEATHER} then ".encode()))
    assert reply.content == "and then "
    assert [name for name, _ in called(reply)] == ["clock", "weather"]


def test_a_call_right_behind_a_thought() -> None:
    tokenizer = Deep()
    marks = [tokenizer.added_tokens[mark] for mark in (CALLS, CALL, SEP, END, CALLS_END)]
    script = [
        *tokenizer.script("Hm.", CLOSE_ID, "\n\n"),
        *(marks[0], marks[1], *b"function", marks[2], *b'weather\n```json\n{"city": "Ulm"}\n```', marks[3], ord("\n")),
        *(marks[1], *b"clock", marks[2], *b"{}", marks[3], marks[4], END_ID),
    ]
    reply, _ = reply_to(PREOPENED, tokenizer, script)
    assert called(reply) == [("weather", {"city": "Ulm"}), ("clock", {})]
    assert (reply.reasoning, reply.content, reply.finish_reason) == ("Hm.", "", "tool_calls")
    assert reply.usage.completion_tokens == len(script)
    again, _ = reply_to(PREOPENED, tokenizer, script[: -len("{}") - 3])
    assert [name for name, _ in called(again)] == ["weather"]
    assert again.content == CALL + "clock" + SEP


def test_where_the_mark_is_a_token_its_letters_are_text() -> None:
    tokenizer = Deep(HERMES)
    reply, _ = reply_to(PREOPENED, tokenizer, [CLOSE_ID, *tokenizer.encode_plain(CLOCK), END_ID])
    assert (reply.content, reply.tool_calls) == (CLOCK, ())
    reply, _ = reply_to(PREOPENED, tokenizer, [CLOSE_ID, 3000, *b'{"name": "clock"}', 3001, END_ID])
    assert (reply.content, called(reply)) == ("", [("clock", {})])
    reply, _ = reply_to(PREOPENED, tokenizer, [CLOSE_ID, 3000, *b'{"name": "clock"', 3001, END_ID])
    assert (reply.content, reply.finish_reason) == ('<tool_call>{"name": "clock"</tool_call>', "stop")


def test_marks_without_a_call_are_text() -> None:
    for tokenizer, ids in ((Deep(HERMES), [*b"a", 3001, *b"b"]), (Deep(), [*b"a", 3002, *b"b"])):
        reply, _ = reply_to(PREOPENED, tokenizer, [CLOSE_ID, *ids, END_ID])
        assert reply.content == "a" + (HERMES[1] if 3001 in ids else SEP) + "b"


def test_a_call_in_a_thought_is_thought() -> None:
    tokenizer = Deep(HERMES)
    reply, _ = reply_to(PREOPENED, tokenizer, [3000, *b"x", 3001, CLOSE_ID, *b"Yes.", END_ID])
    assert (reply.reasoning, reply.content, reply.tool_calls) == ("<tool_call>x</tool_call>", "Yes.", ())


def test_llamas_bare_calls() -> None:
    reply, _ = reply_to(LLAMA, None, [*b'{"name": "weather", "parameters": {"city": "Ulm"}}', END_ID])
    assert (reply.content, called(reply), reply.finish_reason) == ("", [("weather", {"city": "Ulm"})], "tool_calls")
    for text in ('{"a": 1}', 'So: {"name": "clock", "parameters": {}}'):
        reply, _ = reply_to(LLAMA, None, [*text.encode(), END_ID])
        assert (reply.content, reply.tool_calls) == (text, ())


def test_stop_strings_are_not_looked_for_in_calls() -> None:
    reply, _ = reply_to(PLAIN, None, list(f"Yes.{WEATHER}\n\nno".encode()), stop=["city", "\n\n"])
    assert (reply.content, [name for name, _ in called(reply)]) == ("Yes.", ["weather"])


def test_a_reply_that_is_cut_off_keeps_its_reason() -> None:
    reply, _ = reply_to(PLAIN, None, list(f"{CLOCK} and so on and on".encode()), max_tokens=len(CLOCK) + 4)
    assert (reply.finish_reason, len(reply.tool_calls)) == ("length", 1)


def test_blanks_without_end_in_a_call_hold_up_nobody() -> None:
    """A regular expression would take hours for these."""
    blanks = " " * 100_000
    assert read_call(f"function{TOKEN}{SEP}clock\n```json{blanks}x", {"clock"}) is None
    call = read_call(f"function{TOKEN}{SEP}clock\n{blanks}```json{blanks}{{}}{blanks}```{blanks}", {"clock"})
    assert call is not None
    assert call.arguments == "{}"


def test_without_tools_nothing_is_a_call() -> None:
    script = [*WEATHER.encode(), END_ID]
    for options in ({}, {"tools": TOOLS, "tool_choice": "none"}, {"tools": []}):
        reply = Reply.of(assistant(PLAIN, list(script)).stream(ASK, **options))  # type: ignore[arg-type]
        assert (reply.content, reply.finish_reason) == (WEATHER, "stop")


@pytest.mark.parametrize(("text", "arguments"), [
    ('{"name": "clock", "arguments": "{\\"a\\": 1}"}', {"a": 1}),
    ('{"name": "clock", "arguments": {"a": "é"}}', {"a": "é"}),
    (r'{"name": "clock", "arguments": {"a": "\ud83c"}}', {"a": "\ufffd"}),
    ('{"name": "clock", "arguments": {"a": 1e999}}', {"a": sys.float_info.max}),
    (f"function{TOKEN}{SEP}clock\n```json\n{{}}\n```", {}),
    (f"function{TOKEN}{SEP}clock\n{{}}", {}),
    (f"clock{TOKEN}{SEP}{{}}", {}),
    (f"clock{TOKEN}{SEP}", None),
    ("[]", None),
    ('{"name": ["clock"]}', None),
])  # fmt: skip
def test_read_call(text: str, arguments: Any) -> None:
    call = read_call(text, {"clock": {}})
    assert (call and json.loads(call.arguments)) == arguments

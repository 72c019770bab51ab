"""The state machine, driven by the real sequence of the engine on scripted models."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millet.reasoning.assistant import Event, Reply
from millet.reasoning.format import CLOSE, OPEN
from tests.reasoning.fakes import (
    ASK,
    CLOSE_ID,
    END,
    OPEN_ID,
    PLAIN,
    PREOPENED,
    SELF_OPENING,
    SWITCHED,
    Pieces,
    assistant,
    cuts,
)

FRAGMENTS = [
    "a",
    "7",
    " ",
    "\n",
    "é",
    "思",
    "🙂",
    ">",
    "/",
    "think",
    "<",
    "</",
    "<thi",
    "</thi",
    "</think",
    OPEN,
    CLOSE,
]
TEXT = st.lists(st.sampled_from(FRAGMENTS), max_size=16).map("".join)
STOPS = st.lists(st.sampled_from(["a", "7 ", "\n\n", "思", "<", "</think", "ab", "🙂é"]), max_size=2, unique=True)


def run(source: str, tokenizer: Pieces, script: list[int], **options: Any) -> tuple[list[Event], Reply]:
    """Stream a scripted reply, and check what holds of every stream."""
    someone = assistant(source, script, tokenizer=tokenizer)
    events = list(someone.stream(ASK, **{"max_tokens": 4000, **options}))
    assert [event.kind == "finish" for event in events] == [False] * (len(events) - 1) + [True]
    completion = someone.engine.generations[0].result()[0]  # type: ignore[attr-defined]
    assert [i for event in events for i in event.token_ids] == completion.token_ids
    usage = events[-1].usage
    assert usage is not None
    assert usage.completion_tokens == len(completion.token_ids)
    assert usage.reasoning_tokens == sum(len(e.token_ids) for e in events if e.kind == "reasoning")
    kinds = [event.kind for event in events]
    assert kinds == sorted(kinds, key=["reasoning", "content", "finish"].index)
    return events, Reply.of(events)


def bare(text: str) -> str:
    return "".join(text.split())


PARTIAL = re.compile(r"<(/?(t(h(i(n(k)?)?)?)?)?)?\Z")


def thought_of(text: str, closed: bool) -> str:
    """A thought without marks that open it again and, where an end token cut it off, without half a mark at its end."""
    text = re.sub(r"^\s*(<think>\s*)*", "", text)
    if not closed:
        text = re.sub(r"<(/(t(h(i(n(k)?)?)?)?)?)?\Z", "", "" if OPEN.startswith(text) else text)
    return text.strip()


def cut_at_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    for end in range(1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)], True
    return text, False


@settings(max_examples=200)
@given(st.data(), TEXT)
def test_spelled_marks_are_found_however_the_text_is_cut(data: st.DataObject, text: str) -> None:
    tokenizer = Pieces()
    _, reply = run(PREOPENED, tokenizer, [*data.draw(cuts(tokenizer)(text)), END])
    thought, closed, content = text.partition(CLOSE)
    content = re.sub(r"\A(\s*</?think>)+", "", content)
    content, *rest = re.split("</?think>", content)  # a mark behind the answer ends it
    certain = content if rest else PARTIAL.sub("", content)
    assert reply.reasoning == thought_of(thought, bool(closed))
    if certain.strip():
        assert bare(reply.content) == bare(certain)
    else:  # nothing to be seen of an answer, so it was not allowed to end
        assert bare(reply.content) == bare(content) + "!"
    assert not reply.content[:1].isspace()
    assert reply.thought_ended == "model"
    assert reply.finish_reason == "stop"


@settings(max_examples=200)
@given(st.data(), TEXT, TEXT, st.booleans())
def test_marks_that_are_tokens_count_and_their_letters_do_not(
    data: st.DataObject, thought: str, content: str, opened: bool
) -> None:
    tokenizer = Pieces(marks=True)
    cut = cuts(tokenizer)
    script = [*([] if opened else [10, OPEN_ID]), *data.draw(cut(thought)), CLOSE_ID, *data.draw(cut(content)), END]
    _, reply = run(PREOPENED if opened else SELF_OPENING, tokenizer, script)
    assert reply.reasoning == thought.strip()
    assert bare(reply.content) == bare(content) or (not content.strip() and reply.content == "!")


@settings(max_examples=200)
@given(st.data(), TEXT, STOPS, st.booleans())
def test_stop_strings_end_the_content_and_never_show(
    data: st.DataObject, text: str, stops: list[str], thinks: bool
) -> None:
    tokenizer = Pieces(marks=True)
    before = [*tokenizer.script("a 7 \n\n思<ab", CLOSE_ID)] if thinks else []
    script = [*before, *data.draw(cuts(tokenizer)(text)), END]
    _, reply = run(PREOPENED if thinks else PLAIN, tokenizer, script, stop=stops)
    expected, stopped = cut_at_stop(text.lstrip() if thinks else text, stops)
    if stopped:
        assert bare(reply.content) == bare(expected)
    elif thinks and not text.strip():
        assert reply.content == "!"  # the model was not allowed to end
    else:
        assert bare(reply.content) == bare(text)
    assert reply.finish_reason == "stop"
    assert reply.reasoning == ("a 7 \n\n思<ab" if thinks else "")


@settings(max_examples=200)
@given(
    st.data(), TEXT, st.integers(1, 60), st.integers(4, 80), st.booleans(), st.sampled_from([PREOPENED, SELF_OPENING])
)
def test_content_is_never_empty_because_thinking_ran_out(
    data: st.DataObject, text: str, budget: int, max_tokens: int, marks: bool, source: str
) -> None:
    tokenizer = Pieces(marks)
    opening = tokenizer.encode("\n <think>") if source is SELF_OPENING and data.draw(st.booleans()) else []
    text = text.lstrip()  # a model may say nothing but blanks where it has not thought
    script = [*opening, *data.draw(cuts(tokenizer)(text)), *tokenizer.encode("thinking on and on " * 9)]
    think: Any = data.draw(st.sampled_from(["off", "auto", budget]))
    _, reply = run(source, tokenizer, script, think=think, max_tokens=max_tokens)
    if source is PREOPENED or max_tokens > 40:
        assert reply.content.strip()
    if reply.thought_ended == "budget" and isinstance(think, int) and reply.usage.reasoning_tokens > 10:
        assert reply.usage.reasoning_tokens <= budget + len("\n</think>") + 1 + len("\n <think>")


def test_thought_opened_by_the_model_comes_in_pieces() -> None:
    tokenizer = Pieces(marks=True)
    events, reply = run(SWITCHED, tokenizer, tokenizer.script(OPEN_ID, "\nHm. \n", CLOSE_ID, "\n\nYes.", END))
    assert (reply.reasoning, reply.content, reply.thought_ended) == ("Hm.", "Yes.", "model")
    assert [(e.kind, e.text) for e in events[:4]] == [("reasoning", c) for c in ("H", "m", ".", "")]
    assert events[0].token_ids == (OPEN_ID, ord("\n"), ord("H"))
    assert events[3].token_ids == (ord(" "), ord("\n"), CLOSE_ID)
    assert reply.usage.reasoning_tokens == 8


def test_marks_merged_with_their_neighbours() -> None:
    tokenizer = Pieces()
    pieces = ["Six", ".</", "th", "ink", ">\n\n4", "2", "."]
    events, reply = run(PREOPENED, tokenizer, [*map(tokenizer.piece, pieces), END])
    assert (reply.reasoning, reply.content) == ("Six.", "42.")
    assert [(e.kind, e.text, len(e.token_ids)) for e in events[:-1]] == [
        ("reasoning", "Six", 1),
        ("reasoning", ".", 1),
        ("reasoning", "", 3),
        ("content", "4", 0),
        ("content", "2", 1),
        ("content", ".", 1),
        ("content", "", 1),
    ]


def test_end_inside_the_thought_is_dropped_and_the_answer_follows() -> None:
    tokenizer = Pieces(marks=True)
    events, reply = run(PREOPENED, tokenizer, tokenizer.script("So.", END, "Yes.", END))
    ids = [i for event in events for i in event.token_ids]
    assert tokenizer.decode(ids) == "So.\n</think>\n\nYes."
    assert ids.count(END) == 1
    assert (reply.reasoning, reply.content, reply.thought_ended) == ("So.", "Yes.", "model")
    assert reply.finish_reason == "stop"


def test_end_right_after_the_thought_is_not_allowed() -> None:
    tokenizer = Pieces(marks=True)
    script = tokenizer.script("So.", CLOSE_ID, END, "\n", OPEN_ID, CLOSE_ID, "\n\n", END, "Yes.", END)
    _, reply = run(PREOPENED, tokenizer, script)
    assert (reply.reasoning, reply.content) == ("So.", "Yes.")


def test_blank_space_does_not_stand_for_an_answer() -> None:
    tokenizer = Pieces(marks=True)
    events, reply = run(PREOPENED, tokenizer, tokenizer.script("So.", CLOSE_ID, "\n" * 500, "Yes.", END))
    assert reply.content == "Yes."
    assert sum(len(event.token_ids) for event in events) < 20


@pytest.mark.parametrize("marks", [True, False])
@pytest.mark.parametrize("source", [PREOPENED, SELF_OPENING])
def test_budget_closes_the_thought(source: str, marks: bool) -> None:
    tokenizer = Pieces(marks)
    script = tokenizer.script("0123456789" * 20)
    events, reply = run(source, tokenizer, [*script[:50], *script], think=20, max_tokens=300)
    assert reply.reasoning == "01234567890123456789"
    assert reply.thought_ended == "budget"
    assert reply.finish_reason == "stop"
    assert reply.content.startswith("0123")
    text = tokenizer.decode([i for event in events for i in event.token_ids])
    assert text.startswith("01234567890123456789\n</think>\n\n0123")


def test_half_a_mark_and_half_a_character_do_not_show_at_the_budget() -> None:
    tokenizer = Pieces()
    for tail in ("</think", "</t", "🙂".encode()[:3]):
        script = [*tokenizer.script("ab "), *(tail if isinstance(tail, bytes) else tail.encode())]
        _, reply = run(PREOPENED, tokenizer, [*script, *b"Yes.", END], think=len(script))
        assert (reply.reasoning, reply.content, reply.thought_ended) == ("ab", "Yes.", "budget")


def test_a_thought_without_budget_leaves_room_within_max_tokens() -> None:
    tokenizer = Pieces(marks=True)
    _, reply = run(PREOPENED, tokenizer, [*range(32, 127)] * 20, max_tokens=400)
    assert reply.thought_ended == "budget"
    assert reply.usage.completion_tokens == 400
    assert reply.finish_reason == "length"
    assert 90 <= len(reply.content) <= 110


def test_off_closes_a_preopened_thought_in_the_prompt() -> None:
    tokenizer = Pieces(marks=True)
    someone = assistant(PREOPENED, tokenizer.script("Yes.", END), tokenizer=tokenizer)
    reply = someone.chat(ASK, think="off")
    assert (reply.reasoning, reply.content, reply.thought_ended) == ("", "Yes.", None)
    prompt = someone.engine.requests[0][0]  # type: ignore[attr-defined]
    assert tokenizer.decode(prompt).endswith("A:<think>\n\n</think>\n\n")


def test_off_keeps_a_model_from_opening_a_thought() -> None:
    tokenizer = Pieces(marks=True)
    source = SWITCHED.replace("<think>\n\n</think>\n\n", "[short]")
    _, reply = run(source, tokenizer, tokenizer.script("\n", OPEN_ID, "Yes.", END), think="off")
    assert (reply.reasoning, reply.content) == ("", "\nYes.")


def test_off_ends_a_thought_that_was_opened_by_letters() -> None:
    tokenizer = Pieces()
    source = SWITCHED.replace("<think>\n\n</think>\n\n", "[short]")
    _, reply = run(source, tokenizer, tokenizer.script("<think>", "Yes.", END), think="off")
    assert (reply.reasoning, reply.content, reply.thought_ended) == ("", "Yes.", "budget")


def test_a_model_without_reasoning_says_what_it_says() -> None:
    tokenizer = Pieces()
    text = "<think>It is a tag.</think>"
    for think in ("auto", "off"):
        _, reply = run(PLAIN, tokenizer, tokenizer.script(text, END), think=think)
        assert (reply.reasoning, reply.content, reply.thought_ended) == ("", text, None)


def test_a_model_that_opens_no_thought_though_it_could() -> None:
    for marks in (True, False):
        tokenizer = Pieces(marks)
        _, reply = run(SELF_OPENING, tokenizer, tokenizer.script(" <thin", "g>", END))
        assert (reply.reasoning, reply.content, reply.thought_ended) == ("", " <thing>", None)


def test_marks_that_are_tokens_are_text_after_the_thought() -> None:
    tokenizer = Pieces(marks=True)
    script = tokenizer.script("Hm.", CLOSE_ID, "Use ", OPEN_ID, " and ", CLOSE_ID, ".", END)
    assert run(PREOPENED, tokenizer, script)[1].content == "Use <think> and </think>."


@pytest.mark.parametrize("mark", [OPEN, CLOSE])
def test_spelled_marks_are_passed_over_before_the_answer_and_end_it(mark: str) -> None:
    tokenizer = Pieces()
    script = tokenizer.script(f"Hm.</think>\n{mark}One.{mark} Two.")
    _, reply = run(PREOPENED, tokenizer, script)
    assert (reply.content, reply.finish_reason) == ("One.", "stop")


def test_a_stop_string_at_once_leaves_no_content() -> None:
    tokenizer = Pieces(marks=True)
    _, reply = run(PREOPENED, tokenizer, tokenizer.script("Hm.", CLOSE_ID, "\n\nYes."), stop="Y")
    assert (reply.content, reply.finish_reason) == ("", "stop")


def test_a_partial_stop_is_text_if_it_stays_partial() -> None:
    tokenizer = Pieces()
    events, reply = run(PLAIN, tokenizer, tokenizer.script("one EN", END), stop=["END"])
    assert reply.content == "one EN"
    assert [e.text for e in events if "E" in e.text] == ["EN"]


def test_a_thought_that_loops_is_ended_and_the_answer_follows() -> None:
    tokenizer = Pieces(marks=True)
    _, reply = run(PREOPENED, tokenizer, tokenizer.script("Wait. " * 100, END))
    assert (reply.thought_ended, reply.finish_reason) == ("loop", "loop")
    assert 128 <= len(reply.reasoning) <= 160
    assert "Wait. Wait." in reply.content


def test_content_that_loops_is_ended() -> None:
    tokenizer = Pieces()
    _, reply = run(PLAIN, tokenizer, tokenizer.script("again and " * 300, END))
    assert (reply.thought_ended, reply.finish_reason) == (None, "loop")
    assert 512 <= len(reply.content) <= 540


def test_a_line_to_be_repeated_is_no_loop() -> None:
    tokenizer = Pieces()
    text = "I shall not. \n" * 30
    assert run(PLAIN, tokenizer, tokenizer.script(text, END))[1].content == text

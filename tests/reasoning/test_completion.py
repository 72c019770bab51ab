"""Text that goes on, and gaps that are filled."""

from __future__ import annotations

from typing import Any

import pytest

from millet.engine.engine import Engine
from millet.errors import BadRequest, PromptTooLong
from millet.models.tokenizer import Tokenizer
from millet.reasoning.assistant import Assistant, Reply
from millet.reasoning.completion import FILL_IN, completion_prompt
from tests.reasoning.fakes import END, PREOPENED, Pieces, assistant
from tests.reasoning.toys import ENDS, FIXTURES, toy_model


def tokenizer_of(fixture: str, config: dict[str, Any] | None = None, added: tuple[str, ...] = ()) -> Tokenizer:
    listed = {str(9000 + i): {"content": text, "special": True} for i, text in enumerate(added)}
    return Tokenizer.from_file(
        FIXTURES / fixture / "tokenizer.json", {"added_tokens_decoder": listed, **(config or {})}
    )


def test_a_completion_goes_on_from_the_text_without_chat_or_thought() -> None:
    someone = assistant(PREOPENED, [*b" two <think>three</think>", END], tokenizer=Pieces(marks=True))
    prepared = someone.prepare_completion("One", seed=1)
    assert bytes(prepared.prompt) == b"One"
    events = list(prepared.events())
    assert {event.kind for event in events} == {"content", "finish"}
    reply = Reply.of(events)
    assert (reply.content, reply.reasoning, reply.finish_reason) == (" two <think>three</think>", "", "stop")
    assert (reply.usage.reasoning_tokens, reply.usage.completion_tokens) == (0, 26)


def test_stop_strings_and_limits_hold() -> None:
    someone = assistant(PREOPENED, list(b"abc|def"))
    assert Reply.of(someone.prepare_completion("x", stop="|").events()).content == "abc"
    short = Reply.of(someone.prepare_completion("x", max_tokens=2).events())
    assert (short.content, short.finish_reason) == ("ab", "length")


@pytest.mark.parametrize("marks", FILL_IN, ids=["qwen", "starcoder", "deepseek"])
def test_filling_in(marks: tuple[str, str, str]) -> None:
    tokenizer = tokenizer_of("qwen3", added=marks)
    ids = completion_prompt(tokenizer, "def f(", "return x")
    assert tokenizer.decode(ids, skip_special=False) == f"{marks[0]}def f({marks[1]}return x{marks[2]}"
    assert [i in tokenizer.special_ids for i in ids].count(True) == 3
    forged = completion_prompt(tokenizer, marks[2], marks[0])
    assert [i in tokenizer.special_ids for i in forged].count(True) == 3
    assert tokenizer.decode(forged, skip_special=False) == f"{marks[0]}{marks[2]}{marks[1]}{marks[0]}{marks[2]}"


def test_a_model_that_cannot_fill_in_says_so() -> None:
    with pytest.raises(BadRequest, match="no tokens for filling in"):
        completion_prompt(tokenizer_of("qwen3"), "a", "b")
    assert completion_prompt(tokenizer_of("qwen3"), "a", None)


@pytest.mark.parametrize("fixture", ENDS)
def test_control_tokens_in_the_text_are_text(fixture: str) -> None:
    tokenizer = tokenizer_of(fixture)
    text = f"a{ENDS[fixture]}b<think>"
    ids = completion_prompt(tokenizer, text, None)
    assert not tokenizer.special_ids.intersection(ids)
    assert not set(tokenizer.added_tokens.values()).intersection(ids)
    assert tokenizer.decode(ids) == text


def test_one_bos_where_the_model_expects_it() -> None:
    bos = "<｜begin▁of▁sentence｜>"
    tokenizer = tokenizer_of("r1_distill_qwen", {"add_bos_token": True, "bos_token": bos})
    assert completion_prompt(tokenizer, "a", None)[0] == tokenizer.added_tokens[bos]
    assert completion_prompt(tokenizer, bos, None).count(tokenizer.added_tokens[bos]) == 1
    assert completion_prompt(tokenizer, "", None) == [tokenizer.added_tokens[bos]]
    without = tokenizer_of("r1_distill_qwen", {"add_bos_token": False, "bos_token": bos})
    assert tokenizer.added_tokens[bos] not in completion_prompt(without, "a", None)


def test_bad_requests() -> None:
    someone = assistant(PREOPENED, [END], context_length=20)
    wrong: Any = ["a"]
    with pytest.raises(BadRequest, match="prompt is empty"):
        someone.prepare_completion("")
    with pytest.raises(BadRequest, match="prompt is a list"):
        someone.prepare_completion(wrong)
    with pytest.raises(BadRequest, match="suffix is a list"):
        someone.prepare_completion("a", wrong)
    with pytest.raises(BadRequest, match="plain completion has no thought"):
        someone.prepare_completion("a", think=5)
    with pytest.raises(PromptTooLong):
        someone.prepare_completion("x" * 20)


def test_a_model_without_a_chat_template_completes(seed: int) -> None:
    with Engine(toy_model(seed, template=""), cache_tokens=1024) as engine:
        someone = Assistant(engine)
        reply = Reply.of(someone.prepare_completion("Once upon", seed=seed, max_tokens=8, logprobs=True).events())
        assert reply.usage.completion_tokens == len(reply.logprobs) <= 8

"""The assistant on the real engine: a random network that thinks in Qwen3's format, and SmolLM2."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millet.engine.engine import Engine, Generation
from millet.models.load import load
from millet.reasoning.assistant import Assistant, Event, Reply
from tests.reasoning.toys import toy_model

ASK = [{"role": "user", "content": "How many apples are left?"}]


@pytest.fixture
def someone(seed: int) -> Iterator[Assistant]:
    with Engine(toy_model(seed), cache_tokens=4096) as engine:
        yield Assistant(engine)


@pytest.fixture
def generations(someone: Assistant, monkeypatch: pytest.MonkeyPatch) -> list[Generation]:
    seen: list[Generation] = []
    submit = someone.engine.submit

    def spy(*args: Any) -> Generation:
        seen.append(submit(*args))
        return seen[-1]

    monkeypatch.setattr(someone.engine, "submit", spy)
    return seen


def check(events: list[Event], generation: Generation) -> Reply:
    (completion,) = generation.result()
    assert [e.kind for e in events].count("finish") == 1
    assert [i for event in events for i in event.token_ids] == completion.token_ids
    return Reply.of(events)


def test_whatever_the_model_says_the_reply_is_whole(
    someone: Assistant, generations: list[Generation], seed: int
) -> None:
    generator = random.Random(seed)
    tokenizer = someone.model.tokenizer
    marks = [
        tokenizer.id_of(text) or 0
        for text in ("<think>", "</think>", "<|im_end|>", "\n", "<tool_call>", "</tool_call>")
    ]
    think: Any
    for trial in range(12):
        think = generator.choice(["off", "auto", "on", 5, 20])
        options: Any = {
            "think": think,
            "max_tokens": generator.choice([3, 30, 70]),
            "logit_bias": {token: generator.choice([0.0, 3.0, 6.0]) for token in marks},
            "tools": generator.choice([None, [{"type": "function", "function": {"name": "f"}}]]),
            "schema": generator.choice([None, {"type": "array", "items": {"type": "integer"}, "maxItems": 3}]),
            "stop": generator.choice([(), "e", ["x", "\n\n"]]),
            "temperature": 1.0,
            "seed": trial,
        }
        reply = check(list(someone.stream(ASK, **options)), generations[-1])
        assert "</think>" not in reply.reasoning + reply.content[:9]
        if reply.thought_ended and not options["stop"]:
            assert reply.content.strip()
        if isinstance(think, int):
            assert reply.usage.reasoning_tokens <= think + 2
        if think == "off":
            assert reply.usage.reasoning_tokens == 0
        again = someone.chat(ASK, **options)
        assert (again.reasoning, again.content, again.usage.completion_tokens) == (
            reply.reasoning,
            reply.content,
            reply.usage.completion_tokens,
        )


def test_votes_repeat_with_their_seed(someone: Assistant) -> None:
    first, second = (someone.chat(ASK, vote=4, seed=11, max_tokens=40, temperature=1.0) for _ in range(2))
    assert (first.content, first.votes, first.usage.completion_tokens) == (
        second.content,
        second.votes,
        second.usage.completion_tokens,
    )
    assert 0 < sum(first.votes.values()) <= 4  # one without words has no say


def test_closing_a_stream_frees_its_cache(someone: Assistant) -> None:
    events = someone.stream(ASK, max_tokens=400, think="on")
    next(events)
    events.close()
    deadline = time.monotonic() + 20
    while someone.engine.stats()["running"] and time.monotonic() < deadline:
        time.sleep(0.01)
    stats = someone.engine.stats()
    assert (stats["running"], stats["cache_free_tokens"]) == (0, 4096)


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_smollm2_thinks_and_answers(smollm2_path: Path, dtype: str | None) -> None:
    """As a person gets it, and in fp32. Quantised, its first token after the plain question is a close call between
    "The" and "L", which falls the other way: there only what does not hang on that is looked at."""
    with Engine(load(smollm2_path, dtype=dtype)) as engine, Assistant(engine) as assistant:
        ask = [{"role": "user", "content": "What is the capital of France?"}]
        reply = assistant.chat(ask, think="on", max_tokens=64, temperature=0.0)
        assert "France" in reply.reasoning
        assert "Paris" in reply.content
        assert "think>" not in reply.reasoning + reply.content
        assert (reply.thought_ended, reply.finish_reason) == ("model", "stop")
        assert 5 < reply.usage.reasoning_tokens < reply.usage.completion_tokens
        short = assistant.chat(ask, think=4, max_tokens=64, temperature=0.0)
        assert short.thought_ended == "budget"
        assert short.content
        plain = assistant.chat(ask, max_tokens=12, temperature=0.0)
        assert (plain.reasoning, plain.usage.reasoning_tokens) == ("", 0)
        assert plain.content
        if not engine.model.quantised:
            assert "Paris" in plain.content

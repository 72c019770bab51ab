"""Whatever a random model wants to say, what comes out has the form that was asked for."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from millet.engine.engine import Engine
from millet.errors import BadRequest
from millet.reasoning.assistant import Assistant, Reply
from millet.reasoning.grammar import LONGEST, Grammars
from millet.reasoning.tools import parse_tools
from tests.reasoning.fakes import PLAIN
from tests.reasoning.toys import toy_model

ASK = [{"role": "user", "content": "?"}]
LLAMA = PLAIN + "{# <|python_tag|> #}"
TEMPLATES = {"qwen3": None, "r1_distill_qwen": None, "spelled": PLAIN, "llama": LLAMA}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "</think>", "<tool_call>"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
PARAMETERS = {
    "type": "object",
    "properties": {"at": {"enum": ["</tool_call>", "noon"]}, "n": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["at", "n"],
}
TOOLS = [
    {"type": "function", "function": {"name": "clock", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "dice"}},
]


@pytest.fixture(params=TEMPLATES)
def someone(request: pytest.FixtureRequest, seed: int) -> Iterator[Assistant]:
    fixture = request.param if request.param in ("qwen3", "r1_distill_qwen") else "r1_distill_qwen"
    model = toy_model(seed, fixture, template=TEMPLATES[request.param], context=2000)
    if request.param in ("spelled", "llama"):  # as of a vocabulary without any of the marks
        tokenizer = model.tokenizer
        kept = {text: i for text, i in tokenizer.added_tokens.items() if "tool" not in text and "think" not in text}
        tokenizer.added_tokens = kept
    with Engine(model, cache_tokens=8192) as engine:
        yield Assistant(engine)


def fits(content: str) -> None:
    person = json.loads(content)
    assert list(person) == ["name", "age", "tags"]
    assert isinstance(person["name"], str)
    assert len(person["name"]) <= 4
    assert 0 <= person["age"] <= 150
    assert set(person["tags"]) <= {"a", "</think>", "<tool_call>"}


@pytest.mark.parametrize("think", ["off", "auto", "on", 6])
def test_content_satisfies_the_schema_and_the_thought_is_free(someone: Assistant, think: Any, seed: int) -> None:
    marks = [i for text in ("<think>", "</think>") if (i := someone.model.tokenizer.added_tokens.get(text))]
    ends = list(someone.model.eos_token_ids)
    for trial in range(3):
        rng = random.Random(seed + trial)
        bias = {token: rng.choice([0.0, 4.0]) for token in (*marks, *ends)}
        prepared = someone.prepare(
            ASK, think=think, schema=PERSON, seed=seed + trial, temperature=1.0, max_tokens=400, logit_bias=bias, n=2
        )
        events = list(prepared.events())
        for index in range(2):
            reply = Reply.of(event for event in events if event.index == index)
            if reply.thought_ended != "loop":
                assert reply.finish_reason == "stop"
            fits(reply.content)
            if think == 6:
                assert reply.reasoning or reply.thought_ended
                assert not reply.reasoning.startswith("{")


def test_json_object(someone: Assistant, seed: int) -> None:
    for trial in range(3):
        reply = someone.chat(ASK, schema={"type": "object"}, think="off", seed=seed + trial, max_tokens=300)
        if reply.finish_reason == "stop":
            assert isinstance(json.loads(reply.content), dict)
        else:
            assert reply.finish_reason in ("length", "loop")
        assert reply.content.startswith("{")


def test_cut_off(someone: Assistant, seed: int) -> None:
    reply = someone.chat(ASK, schema=PERSON, think="off", seed=seed, max_tokens=5)
    assert reply.finish_reason == "length"
    assert '{"name": "'.startswith(reply.content[:10])


@pytest.mark.parametrize("think", ["off", "auto", 6])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "clock"}}])
def test_a_call_that_has_to_be_made(someone: Assistant, think: Any, choice: Any, seed: int) -> None:
    for trial in range(2):
        reply = someone.chat(
            ASK, think=think, tools=TOOLS, tool_choice=choice, seed=seed + trial, temperature=1.0, max_tokens=400
        )
        assert (reply.content, reply.finish_reason) == ("", "tool_calls")
        (call,) = reply.tool_calls
        arguments = json.loads(call.arguments)
        if call.name == "clock":
            assert arguments["at"] in ("</tool_call>", "noon")
            assert 1 <= arguments["n"] <= 9
        else:
            assert choice == "required"
            assert arguments == {}


def test_a_call_may_be_made_instead_of_the_content(someone: Assistant, seed: int) -> None:
    """The model that wants to call may; else the content has its form."""
    opening = someone._calls.opening[:1]
    for bias in (-100.0, 50.0):
        reply = someone.chat(
            ASK,
            think="off",
            tools=TOOLS,
            schema=PERSON,
            seed=seed,
            max_tokens=300,
            temperature=1.0,
            logit_bias=dict.fromkeys(opening, bias),
        )
        if bias < 0 or not opening:
            fits(reply.content)
        else:
            assert not reply.content.startswith("{")


def test_the_beginning_of_a_content_is_part_of_it(someone: Assistant, seed: int) -> None:
    begun = {"role": "assistant", "prefix": True, "content": '{"name": "Ann", "a'}
    reply = someone.chat([*ASK, begun], schema=PERSON, seed=seed, temperature=1.0)
    fits(begun["content"] + reply.content)  # type: ignore[operator]
    for wrong in ('{"nome', '{"name": "Ann", "age": 3, "tags": []}'):
        with pytest.raises(BadRequest, match="none that the schema lets go on"):
            someone.prepare([*ASK, {**begun, "content": wrong}], schema=PERSON)


def test_completions_and_stops(someone: Assistant, seed: int) -> None:
    fits(Reply.of(someone.prepare_completion("Ann is", schema=PERSON, seed=seed, temperature=1.0).events()).content)
    reply = someone.chat(ASK, schema=PERSON, think="off", seed=seed, stop=', "age"')
    assert json.loads(reply.content + "}").keys() == {"name"}
    assert reply.finish_reason == "stop"


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


CHAIN = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(1500)} | {"d1500": {"type": "integer"}}


@pytest.mark.parametrize(("schema", "words"), [
    ({"type": "objekt"}, "objekt"),
    ({"$ref": "#/nowhere"}, "does not exist"),
    ({"enum": []}, "Unsatisfiable"),
    ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
    ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
    ({"type": "object", "properties": 3}, "properties"),
    ({"not": {}}, "not"),
    ({"const": float("nan")}, "schema"),
    ({"const": object()}, "no JSON"),
    ([], "as an object"),
    ({"description": "x" * LONGEST}, "the most is"),
    (nested(100), "nests deeper"),
])  # fmt: skip
def test_schemas_that_cannot_be_are_refused_in_one_line(schema: Any, words: str, seed: int) -> None:
    with Engine(toy_model(seed), cache_tokens=1024) as engine:
        someone = Assistant(engine)
        with pytest.raises(BadRequest, match=words) as error:
            someone.prepare(ASK, schema=schema)
        assert "\n" not in str(error.value)
        tools = [
            {
                "type": "function",
                "function": {"name": "f", "parameters": {"properties": {"a": schema}, "required": ["a"]}},
            }
        ]
        with pytest.raises(BadRequest) as error:
            someone.prepare(ASK, tools=tools, tool_choice="required")
        assert "\n" not in str(error.value)
        assert engine.stats()["steps"] == 0


def test_a_long_chain_of_references_breaks_nothing(seed: int) -> None:
    model = toy_model(seed)
    grammars = Grammars(model.tokenizer, model.eos_token_ids, model.config.vocab_size)
    assert grammars.of_schema({"$defs": CHAIN, "$ref": "#/$defs/d0"}).mask() is not None


def test_a_schema_that_is_not_used_is_not_asked(seed: int) -> None:
    """Tools that the model is free to call may have parameters that no grammar covers."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}]
    assert parse_tools(tools, None)
    with Engine(toy_model(seed), cache_tokens=1024) as engine:
        Assistant(engine).prepare(ASK, tools=tools)


def test_a_thought_in_circles_still_lands_in_the_form(someone: Assistant, seed: int) -> None:
    """One token over and over: the guard ends the thought, and what follows is whole."""
    stuck = {someone.model.tokenizer.encode_plain("x", at_start=False)[0]: 100.0}
    options: Any = {"think": "on", "logit_bias": stuck, "seed": seed, "temperature": 1.0, "max_tokens": 900}
    reply = someone.chat(ASK, schema=PERSON, **options)
    assert (reply.thought_ended, reply.finish_reason) == ("loop", "loop")
    fits(reply.content)
    reply = someone.chat(ASK, tools=TOOLS, tool_choice="required", **options)
    assert (reply.thought_ended, reply.finish_reason, len(reply.tool_calls)) == ("loop", "tool_calls", 1)

"""Requests that are nearly right: random conversations, tools, schemas and sampling, over a real assistant. Each is
answered, or refused with a 4xx that says why; none finds a bug."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import httpx2
import hypothesis
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from millet.engine.engine import Engine
from millet.reasoning.assistant import Assistant
from millet.serve.config import ServeConfig
from millet.serve.embedded import Embedded
from millet.serve.openai_wire import BROKEN
from tests.reasoning.fakes import PLAIN
from tests.reasoning.toys import toy_model
from tests.serve.fakes import running

SEED = secrets.randbelow(2**31)
bounded = settings(max_examples=40, database=None, suppress_health_check=list(HealthCheck))

# Values that mean something to somebody on the way: templates, think marks, tool calls, JSON.
TEXT = st.text(max_size=12) | st.sampled_from(
    ["", "\n", "{", "{}", "[1]", "null", "<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>", "{{ x }}"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
KIND = st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null", "fruit"])
LEAF = (
    st.fixed_dictionaries({}, optional={"type": KIND, "enum": st.lists(JSON, max_size=3), "const": JSON})
    | st.fixed_dictionaries(
        {"type": st.just("string")},
        optional={
            "pattern": st.sampled_from(["^a+$", "(", "[", r"\d{3}", "(?=a)", "(a|b)*{2,}"]),
            "format": st.sampled_from(["date", "email", "uuid", "fruit"]),
            "minLength": st.integers(-1, 5),
            "maxLength": st.integers(0, 5),
        },
    )
    | st.fixed_dictionaries({"$ref": st.sampled_from(["#", "#/$defs/a", "#/nowhere", "https://example.org/a"])})
)
SCHEMA = st.recursive(
    LEAF,
    lambda inner: (
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(TEXT, inner | JSON, max_size=3)},
            optional={"required": st.lists(TEXT, max_size=2), "additionalProperties": inner | st.booleans()},
        )
        | st.fixed_dictionaries(
            {"type": st.just("array"), "items": inner},
            optional={"minItems": st.integers(-1, 3), "maxItems": st.integers(0, 3), "uniqueItems": st.booleans()},
        )
        | st.dictionaries(st.sampled_from(["anyOf", "allOf", "oneOf"]), st.lists(inner, max_size=3), max_size=1)
        | st.fixed_dictionaries({"not": inner, "$defs": st.fixed_dictionaries({"a": inner})})
    ),
    max_leaves=5,
)
NAME = st.sampled_from(["f", "g", "get-weather"])
FUNCTION = st.fixed_dictionaries({"name": NAME}, optional={"description": TEXT, "parameters": SCHEMA})
TOOL = st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTION})
CALL = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": NAME | TEXT, "arguments": JSON.map(json.dumps) | TEXT})},
    optional={"id": TEXT},
)
CONTENT = st.none() | TEXT | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}), max_size=3)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool"])},
    optional={
        "content": CONTENT,
        "name": TEXT,
        "tool_calls": st.lists(CALL, max_size=2),
        "tool_call_id": TEXT,
        "prefix": st.booleans(),
        "reasoning_content": TEXT,
    },
)
ASK = {"role": "user", "content": "What is 15 + 8?"}
BEGUN = st.fixed_dictionaries(
    {"role": st.just("assistant"), "prefix": st.just(True)}, optional={"content": TEXT, "reasoning_content": TEXT}
)
MESSAGES = st.builds(
    lambda before, after: [*before, ASK, *after], st.lists(MESSAGE, max_size=3), st.lists(BEGUN, max_size=1)
)
SAMPLING: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.floats(0, 2),
    "top_p": st.floats(1e-9, 1),
    "top_k": st.integers(0, 10**30),
    "min_p": st.floats(0, 1),
    "repetition_penalty": st.floats(0.01, 2),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "logit_bias": st.dictionaries(st.integers(0, 700).map(str), st.floats(-100, 100), max_size=3),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "n": st.integers(1, 3),
    "stop": TEXT | st.lists(TEXT, max_size=4),
    "stream": st.booleans(),
}
CHAT = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": MESSAGES, "max_tokens": st.integers(1, 9)},
    optional=SAMPLING
    | {
        "reasoning_effort": st.sampled_from(["none", "low", "max"]),
        "thinking": st.fixed_dictionaries({}, optional={"budget_tokens": st.integers(1, 2**70)}),
        "tools": st.lists(TOOL, max_size=3, unique_by=lambda tool: tool["function"]["name"]),
        "tool_choice": st.sampled_from(["none", "auto", "required", {"type": "function", "function": {"name": "f"}}]),
        "response_format": st.just({"type": "json_object"})
        | st.builds(lambda schema: {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}, SCHEMA),
        "logprobs": st.just(True),
    },
)
COMPLETION = st.fixed_dictionaries(
    {"model": st.just("m"), "prompt": TEXT, "max_tokens": st.integers(1, 9)},
    optional=SAMPLING | {"suffix": TEXT, "logprobs": st.integers(0, 20), "echo": st.booleans()},
)


@pytest.fixture(scope="module", params=["its own template", "a template without tools"])
def client(request: pytest.FixtureRequest) -> Iterator[httpx2.Client]:
    print(f"seed = {SEED}")
    template = PLAIN if request.param == "a template without tools" else None
    assistant = Assistant(Engine(toy_model(SEED, template=template), cache_tokens=4096))
    with (
        running({"m": Embedded.of(assistant, "m")}, ServeConfig(port=0)) as url,
        httpx2.Client(base_url=url, timeout=60) as client,
    ):
        yield client


def check(response: httpx2.Response) -> None:
    assert response.status_code < 500, response.text
    assert BROKEN not in response.text
    if response.status_code >= 400:
        message = response.json()["error"]["message"]
        assert message
        assert "\n" not in message
    elif "event-stream" in response.headers["content-type"]:
        assert response.text.endswith("data: [DONE]\n\n")
        assert "finish_reason" in response.text
    else:
        assert all(choice["finish_reason"] for choice in response.json()["choices"])


@hypothesis.seed(SEED)
@bounded
@hypothesis.given(body=CHAT)
def test_chats(client: httpx2.Client, body: dict[str, Any]) -> None:
    check(client.post("/v1/chat/completions", json=body))


@hypothesis.seed(SEED)
@bounded
@hypothesis.given(body=COMPLETION)
def test_completions(client: httpx2.Client, body: dict[str, Any]) -> None:
    check(client.post("/v1/completions", json=body))

"""What other servers are asked, each in its dialect."""

from __future__ import annotations

from typing import Any

import pytest

from millet.errors import MilletError
from millet.reasoning.reply import Reply, Usage
from millet.serve.chat import ChatRequest
from millet.serve.config import UpstreamConfig
from millet.serve.errors import ApiError
from millet.serve.upstream import Upstream
from millet.serve.upstream_request import body_of
from tests.serve.played import ASK, KEY, ask, counted, events_of, head, playing, sent, sse, upstream


@pytest.mark.asyncio
async def test_the_request_in_openais_words() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    body = await sent(
        "openai",
        ask(
            max_tokens=50, temperature=0.5, top_p=0.9, seed=3, stop=["x"], n=1, presence_penalty=0.1,
            logit_bias={7: -1.0}, tools=tools, tool_choice="required", logprobs=True, top_logprobs=2, min_p=None,
            schema={"type": "object", "properties": {}},
        ),
    )  # fmt: skip
    assert body == {
        "model": "their-name",
        "messages": [{"role": "user", "content": "What is 15 + 8?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 50,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "stop": ["x"],
        "presence_penalty": 0.1,
        "logit_bias": {"7": -1.0},
        "tools": tools,
        "tool_choice": "required",
        "logprobs": True,
        "top_logprobs": 2,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "reply", "schema": {"type": "object", "properties": {}}, "strict": True},
        },
    }
    assert (await sent("deepseek", ask(schema={"type": "object"})))["response_format"] == {"type": "json_object"}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("dialect", "think", "fields"),
    [
        ("openai", "auto", {}),
        ("openai", "off", {"reasoning_effort": "none"}),
        ("openai", "on", {}),
        ("openai", 512, {"reasoning_effort": "low"}),
        ("openai", 2048, {"reasoning_effort": "medium"}),
        ("openai", 8192, {"reasoning_effort": "high"}),
        ("millet", 300, {"thinking": {"type": "enabled", "budget_tokens": 300}}),
        ("millet", "on", {"thinking": {"type": "enabled"}}),
        ("millet", "off", {"thinking": {"type": "disabled"}}),
        ("deepseek", "on", {"thinking": {"type": "enabled"}}),
        ("deepseek", "off", {"thinking": {"type": "disabled"}}),
        ("vllm", "off", {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}),
        ("sglang", "on", {"chat_template_kwargs": {"enable_thinking": True, "thinking": True}}),
        ("llama-server", 100, {"chat_template_kwargs": {"enable_thinking": True, "thinking": True}}),
        ("vllm", "auto", {}),
    ],
)
async def test_how_each_is_told_to_think(dialect: str, think: Any, fields: dict[str, Any]) -> None:
    body = await sent(dialect, ask(think=think, max_tokens=9))
    thinking = {"reasoning_effort", "thinking", "chat_template_kwargs"}
    assert {name: value for name, value in body.items() if name in thinking} == fields
    assert body.get("max_completion_tokens" if "reasoning_effort" in fields else "max_tokens") == 9
    assert not {"max_tokens", "max_completion_tokens"} <= body.keys()


@pytest.mark.asyncio
async def test_sampling_and_prefixes_that_openai_does_not_have() -> None:
    begun = (*ASK, {"role": "assistant", "content": "It is", "prefix": True})
    body = await sent("vllm", ask(begun, top_k=0, min_p=0.1, repetition_penalty=1.1))
    assert body["messages"][-1] == {"role": "assistant", "content": "It is"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert (body["min_p"], body["repetition_penalty"]) == (0.1, 1.1)
    assert "top_k" not in body
    assert (await sent("llama-server", ask(repetition_penalty=1.1)))["repeat_penalty"] == 1.1
    assert (await sent("deepseek", ask(begun)))["messages"][-1]["prefix"] is True
    for request in (ask(top_k=5), ask(begun)):
        with pytest.raises(ApiError, match="server behind this model") as caught:
            await sent("openai", request)
        assert caught.value.status == 422


@pytest.mark.asyncio
async def test_a_plain_completion() -> None:
    def piece(text: str, finish: str | None = None) -> dict[str, Any]:
        logprobs = {"tokens": [text], "token_logprobs": [-0.5], "top_logprobs": [{text: -0.5, "z": -2.0}]}
        return {"choices": [{"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish}]}

    script = [head() + sse(piece("ab"), piece("c", "length"), counted(prompt_tokens=3, completion_tokens=2), "[DONE]")]
    options = {"logprobs": True, "top_logprobs": 2, "max_tokens": 2}
    request = ChatRequest("far", prompt="x =", suffix="\n", options=options)  # type: ignore[arg-type]
    async with playing(script) as played, upstream(played.url) as made:
        prepared = await made.prepare(request)
        reply = Reply.of([event async for event in prepared.stream()])
    assert played.paths == ["/v1/completions"]
    body = played.bodies[0]
    assert (body["prompt"], body["suffix"], body["logprobs"], body["max_tokens"]) == ("x =", "\n", 2, 2)
    assert (reply.content, reply.finish_reason, reply.usage) == ("abc", "length", Usage(3, 2))
    spelled = [(prepared.token_bytes(one.token_id), one.logprob, len(one.top)) for one in reply.logprobs]
    assert spelled == [(b"ab", -0.5, 2), (b"c", -0.5, 2)]


@pytest.mark.asyncio
async def test_the_key_and_the_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", KEY)
    async with playing() as played, upstream(played.url, key_env="FAR_KEY") as made:
        prepared = await made.prepare(ask(({"role": "user", "content": "word " * 300},), max_tokens=77))
        assert 300 <= prepared.prompt_tokens <= 900
        assert prepared.max_tokens == 77
        await events_of(made, ask())
    assert f"authorization: bearer {KEY}".lower() in played.headers[0].lower()
    monkeypatch.delenv("FAR_KEY")
    with pytest.raises(MilletError, match="FAR_KEY"):
        Upstream("far", UpstreamConfig(("http://127.0.0.1:1",), "m", "FAR_KEY"))


def test_openais_own_servers_want_the_newer_name_of_max_tokens() -> None:
    body = body_of(ask(max_tokens=9), UpstreamConfig(("https://api.openai.com/v1",), "o9"))
    assert body["max_completion_tokens"] == 9
    assert "max_tokens" not in body

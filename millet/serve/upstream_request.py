"""A request as another OpenAI-compatible server wants it.

What goes beyond OpenAI's fields each server spells in its own way, above all how it is told to think or not to:
https://docs.vllm.ai/en/stable/features/reasoning_outputs/ (SGLang and llama-server take the same chat_template_kwargs),
https://api-docs.deepseek.com/guides/thinking_mode, https://platform.openai.com/docs/guides/reasoning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from millet.reasoning.prompt import Think, is_prefix, parse_think
from millet.serve.chat import ChatRequest
from millet.serve.config import UpstreamConfig
from millet.serve.errors import ApiError

SAME_NAME = ("max_tokens", "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop")
BYTES_PER_TOKEN = 3  # a careful guess over languages, for admission alone
MAX_TOKENS = 2048  # reckoned with where the request does not say
LOW, MEDIUM = 512, 2048  # budgets, as effort.py has them


def path_of(request: ChatRequest) -> str:
    return "chat/completions" if request.prompt is None else "completions"


def body_of(request: ChatRequest, upstream: UpstreamConfig) -> dict[str, Any]:
    """The JSON to send. Raises ApiError for what this kind of server does not know."""
    options: Mapping[str, Any] = request.options
    body: dict[str, Any] = {"model": upstream.model, "stream": True, "stream_options": {"include_usage": True}}
    body |= {name: options[name] for name in SAME_NAME if options.get(name) is not None}
    if (options.get("n") or 1) > 1:
        body["n"] = options["n"]
    if options.get("logit_bias"):
        body["logit_bias"] = {str(token): bias for token, bias in options["logit_bias"].items()}
    body |= _own_sampling(options, upstream.dialect)
    if request.prompt is not None:
        body["prompt"] = request.prompt
        if request.suffix is not None:
            body["suffix"] = request.suffix
        if options.get("logprobs"):
            body["logprobs"] = options.get("top_logprobs") or 0
        return body
    body |= _messages(request.messages, upstream.dialect)
    if options.get("logprobs"):
        body |= {"logprobs": True, "top_logprobs": options.get("top_logprobs") or 0}
    if options.get("tools"):
        body |= {"tools": options["tools"], "tool_choice": options.get("tool_choice") or "auto"}
    if (schema := options.get("schema")) is not None:
        body["response_format"] = _response_format(schema, upstream.dialect)
    thinking = _thinking(options.get("think", "auto"), upstream.dialect)
    if "max_tokens" in body and ("reasoning_effort" in thinking or _is_openai(upstream)):
        body["max_completion_tokens"] = body.pop("max_tokens")  # reasoning models there refuse the older name
    return body | thinking


def _is_openai(upstream: UpstreamConfig) -> bool:
    return any(urlsplit(url).hostname == "api.openai.com" for url in upstream.replicas)


def estimate(body: Mapping[str, Any]) -> int:
    """About how many tokens the prompt has."""
    said = [body.get(name) for name in ("messages", "tools", "prompt", "suffix")]
    return max(1, sum(len(json.dumps(part, ensure_ascii=False).encode()) for part in said if part) // BYTES_PER_TOKEN)


def _own_sampling(options: Mapping[str, Any], dialect: str) -> dict[str, Any]:
    given = {name: options[name] for name in ("top_k", "min_p", "repetition_penalty") if options.get(name) is not None}
    if given.get("top_k") == 0:  # no limit: not everybody spells it so
        del given["top_k"]
    if given and dialect in ("openai", "deepseek"):
        name = next(iter(given))
        raise ApiError(422, f"the server behind this model does not know {name}; leave it out", param=name)
    if dialect == "llama-server" and "repetition_penalty" in given:
        given["repeat_penalty"] = given.pop("repetition_penalty")
    return given


def _messages(messages: tuple[Mapping[str, Any], ...], dialect: str) -> dict[str, Any]:
    """A beginning of the reply, as last message, is told in three ways."""
    if not messages or not is_prefix(messages[-1]) or dialect in ("deepseek", "millet"):
        return {"messages": list(messages)}
    if dialect == "openai":
        raise ApiError(422, "the server behind this model cannot go on from a beginning", param="messages")
    last = {name: value for name, value in messages[-1].items() if name != "prefix"}
    if not last.get("content"):  # these look for its content in the prompt, and go on from there
        raise ApiError(422, "the server behind this model cannot go on in the middle of a thought", param="messages")
    body: dict[str, Any] = {"messages": [*messages[:-1], last]}
    if dialect in ("vllm", "sglang"):
        body |= {"continue_final_message": True}
    if dialect == "vllm":
        body |= {"add_generation_prompt": False}
    return body


def _response_format(schema: Mapping[str, Any], dialect: str) -> dict[str, Any]:
    if schema == {"type": "object"}:
        return {"type": "json_object"}
    if dialect == "deepseek":
        raise ApiError(
            422, "the server behind this model knows response_format json_object alone", param="response_format"
        )
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": True}}


def _thinking(think: Think, dialect: str) -> dict[str, Any]:
    mode, budget = parse_think(think)
    if mode == "auto":
        return {}
    match dialect:
        case "millet":
            kind = {"type": "enabled" if mode == "on" else "disabled"}
            return {"thinking": kind if budget is None or mode == "off" else kind | {"budget_tokens": budget}}
        case "deepseek":
            return {"thinking": {"type": "enabled" if mode == "on" else "disabled"}}
        case "openai" if mode == "off":
            return {"reasoning_effort": "none"}
        case "openai" if budget is None:  # as it is used to: models that do not reason refuse the field
            return {}
        case "openai":
            assert budget is not None
            return {"reasoning_effort": "low" if budget <= LOW else "medium" if budget <= MEDIUM else "high"}
        case _:  # templates differ in the name: Qwen's and most others', DeepSeek's and Granite's
            return {"chat_template_kwargs": {"enable_thinking": mode == "on", "thinking": mode == "on"}}

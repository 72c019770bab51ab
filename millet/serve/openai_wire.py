"""OpenAI's and DeepSeek's chat completions: the answer, whole or in chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from millet import __version__
from millet.reasoning.reply import Event, Reply, TokenLogprob, ToolCall, total
from millet.serve.errors import ApiError
from millet.serve.sse import to_json
from millet.serve.usage import openai_usage
from millet.serve.wire import KEEP_ALIVE

FINGERPRINT = f"millet-{__version__}"
DONE = "data: [DONE]\n\n"
BROKEN = "insufficient_system_resource"  # DeepSeek's word for a reply that the service could not finish

TokenBytes = Callable[[int], bytes]


class ChatWire:
    """model: as the client named it. samples: how many replies there will be. include_usage: as in stream_options; else
    usage stands in the last chunk with choices, which is where DeepSeek puts it. token_bytes: what a token spells."""

    def __init__(
        self, model: str, *, samples: int = 1, include_usage: bool = False, token_bytes: TokenBytes | None = None
    ) -> None:
        self._samples = samples
        self._include_usage = include_usage
        self._token_bytes = token_bytes
        self._usages: dict[int, Any] = {}
        self._calls = [0] * samples
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }
        self._start = "data: " + to_json(self._head)[:-1] + ',"choices":[{"index":'
        self._rest = ',"usage":null}\n\n' if include_usage else "}\n\n"

    def begin(self) -> str:
        opening = '{"role":"assistant","content":"","reasoning_content":null}'
        return "".join(self._chunk(index, opening) for index in range(self._samples))

    def event(self, event: Event) -> str:
        match event.kind:
            case "reasoning":
                if not event.text:
                    return ""
                text = to_json(event.text)
                return self._chunk(event.index, f'{{"content":null,"reasoning_content":{text},"reasoning":{text}}}')
            case "content":
                if not event.text and not event.logprobs:
                    return ""
                return self._chunk(event.index, f'{{"content":{to_json(event.text)}}}', self._logprobs(event.logprobs))
            case "tool_call":
                assert event.tool_call is not None
                call = {"index": self._calls[event.index], **tool_call(event.tool_call)}
                self._calls[event.index] += 1
                return self._chunk(event.index, to_json({"tool_calls": [call]}))
            case _:
                self._usages[event.index] = event.usage
                last = len(self._usages) == self._samples and not self._include_usage
                return self._chunk(event.index, "{}", finish=finish_reason(event), usage=last)

    def end(self) -> str:
        if not self._include_usage:
            return DONE
        return "data: " + to_json(self._head | {"choices": [], "usage": self._usage()}) + "\n\n" + DONE

    def fail(self, error: ApiError) -> str:
        open_samples = [index for index in range(self._samples) if index not in self._usages]
        return "".join(self._chunk(index, "{}", finish=BROKEN) for index in open_samples) + self.end()

    def keep_alive(self) -> str:
        return KEEP_ALIVE

    def whole(self, replies: Sequence[Reply]) -> dict[str, Any]:
        return self._head | {
            "object": "chat.completion",
            "choices": [self._choice(index, reply) for index, reply in enumerate(replies)],
            "usage": openai_usage(total(reply.usage for reply in replies)),
        }

    def _choice(self, index: int, reply: Reply) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": reply.content, "refusal": None}
        if reply.reasoning or reply.usage.reasoning_tokens:
            message |= {"reasoning_content": reply.reasoning, "reasoning": reply.reasoning}
        if reply.tool_calls:
            message["tool_calls"] = [tool_call(call) for call in reply.tool_calls]
            message["content"] = reply.content or None
        logprobs = {"content": list(map(self._logprob, reply.logprobs)), "refusal": None} if reply.logprobs else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish_reason(reply)}

    def _chunk(
        self, index: int, delta: str, logprobs: str = "null", finish: str | None = None, usage: bool = False
    ) -> str:
        reason = "null" if finish is None else f'"{finish}"'
        rest = f',"usage":{to_json(self._usage())}}}\n\n' if usage else self._rest
        return f'{self._start}{index},"delta":{delta},"logprobs":{logprobs},"finish_reason":{reason}}}]{rest}'

    def _usage(self) -> dict[str, Any]:
        return openai_usage(total(usage for usage in self._usages.values() if usage is not None))

    def _logprobs(self, logprobs: Iterable[TokenLogprob]) -> str:
        entries = list(map(self._logprob, logprobs))
        return to_json({"content": entries, "refusal": None}) if entries else "null"

    def _logprob(self, entry: TokenLogprob) -> dict[str, Any]:
        top = [self._token(token_id, logprob) for token_id, logprob in entry.top]
        return self._token(entry.token_id, entry.logprob) | {"top_logprobs": top}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        spelled = self._token_bytes(token_id) if self._token_bytes else b""
        # JSON has no -Infinity; OpenAI writes -9999 for what is impossible
        return {"token": spelled.decode("utf-8", "replace"), "logprob": max(logprob, -9999.0), "bytes": list(spelled)}


def finish_reason(ending: Event | Reply) -> str:
    """In the clients' words. A loop in the thought was closed, and an answer followed; one in the answer cut it off."""
    if ending.finish_reason == "loop":
        return "stop" if ending.thought_ended == "loop" else "length"
    return {"cancelled": BROKEN}.get(ending.finish_reason or "stop", ending.finish_reason or "stop")


def tool_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}

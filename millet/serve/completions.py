"""OpenAI's and DeepSeek's plain completions: a prompt is continued, or the gap between it and a suffix filled.

https://platform.openai.com/docs/api-reference/completions, https://api-docs.deepseek.com/api/create-completion
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast

from pydantic import Field

from millet.reasoning.assistant import Options
from millet.reasoning.reply import Event, Reply, TokenLogprob, total
from millet.serve.chat import ChatRequest
from millet.serve.errors import ApiError
from millet.serve.openai_chat import SamplingBody
from millet.serve.openai_wire import BROKEN, DONE, FINGERPRINT, finish_reason
from millet.serve.sse import to_json
from millet.serve.usage import openai_usage
from millet.serve.wire import KEEP_ALIVE


class CompletionBody(SamplingBody):
    """One prompt a request; as text, since token ids are one tokenizer's own."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    suffix: str | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None

    @property
    def text(self) -> str:
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]

    def to_chat(self) -> ChatRequest:
        """Raises ApiError for what cannot be answered, naming the field."""
        options = self.options()
        if not self.text:
            raise ApiError(422, "prompt is empty; give the text to go on from", param="prompt")
        if self.echo and self.suffix:
            raise ApiError(422, "echo repeats the prompt, which a completion with suffix cannot", param="echo")
        if self.logprobs is not None:
            options |= {"logprobs": True, "top_logprobs": self.logprobs}
        return ChatRequest(self.model, options=cast(Options, options), prompt=self.text, suffix=self.suffix or None)


class CompletionWire:
    """echo: text to stand before each reply; "" for none. The rest as in `ChatWire`."""

    def __init__(
        self,
        model: str,
        *,
        samples: int = 1,
        include_usage: bool = False,
        echo: str = "",
        token_bytes: Callable[[int], bytes] | None = None,
    ) -> None:
        self._samples = samples
        self._include_usage = include_usage
        self._echo = echo
        self._token_bytes = token_bytes
        self._usages: dict[int, Any] = {}
        self._offsets = [len(echo)] * samples
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }

    def begin(self) -> str:
        return "".join(self._chunk(index, self._echo) for index in range(self._samples)) if self._echo else ""

    def event(self, event: Event) -> str:
        if event.kind == "finish":
            self._usages[event.index] = event.usage
            last = len(self._usages) == self._samples and not self._include_usage
            return self._chunk(event.index, "", finish=finish_reason(event), usage=last)
        if event.kind != "content" or not (event.text or event.logprobs):
            return ""
        logprobs = self._logprobs(event.logprobs, self._offsets[event.index])
        self._offsets[event.index] += len(event.text)
        return self._chunk(event.index, event.text, logprobs)

    def end(self) -> str:
        return (self._data({"choices": [], "usage": self._usage()}) if self._include_usage else "") + DONE

    def fail(self, error: ApiError) -> str:
        open_samples = [index for index in range(self._samples) if index not in self._usages]
        return "".join(self._chunk(index, "", finish=BROKEN) for index in open_samples) + self.end()

    def keep_alive(self) -> str:
        return KEEP_ALIVE

    def whole(self, replies: Sequence[Reply]) -> dict[str, Any]:
        choices = [
            self._choice(
                index,
                self._echo + reply.content,
                self._logprobs(reply.logprobs, len(self._echo)),
                finish_reason(reply),
            )
            for index, reply in enumerate(replies)
        ]
        return self._head | {"choices": choices, "usage": openai_usage(total(reply.usage for reply in replies))}

    def _chunk(
        self, index: int, text: str, logprobs: Any = None, finish: str | None = None, usage: bool = False
    ) -> str:
        chunk: dict[str, Any] = {"choices": [self._choice(index, text, logprobs, finish)]}
        if usage or self._include_usage:
            chunk["usage"] = self._usage() if usage else None
        return self._data(chunk)

    def _data(self, fields: dict[str, Any]) -> str:
        return f"data: {to_json(self._head | fields)}\n\n"

    def _choice(self, index: int, text: str, logprobs: Any, finish: str | None) -> dict[str, Any]:
        return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish}

    def _usage(self) -> dict[str, Any]:
        return openai_usage(total(usage for usage in self._usages.values() if usage is not None))

    def _logprobs(self, entries: Sequence[TokenLogprob], offset: int) -> dict[str, Any] | None:
        """Four lists in step, as this older format has them."""
        if not entries:
            return None
        tokens = [self._spell(entry.token_id) for entry in entries]
        offsets = [offset]
        for token in tokens[:-1]:
            offsets.append(offsets[-1] + len(token))
        return {
            "tokens": tokens,
            "token_logprobs": [max(entry.logprob, -9999.0) for entry in entries],
            "top_logprobs": [{self._spell(token): max(value, -9999.0) for token, value in e.top} for e in entries],
            "text_offset": offsets,
        }

    def _spell(self, token_id: int) -> str:
        return self._token_bytes(token_id).decode("utf-8", "replace") if self._token_bytes else ""

"""How a model marks its thought: read off its chat template and its vocabulary.

Three families are met. R1's template opens the thought itself, at the end of the prompt. Qwen3's leaves that to the
model and has a switch, `enable_thinking`. Others have no reasoning of their own.

Where the vocabulary has both marks as tokens, only these tokens count, and the same letters put together from other
tokens are text. Else the marks are spelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from millet.models.chat_template import ChatTemplate
from millet.models.tokenizer import Tokenizer

OPEN = "<think>"
CLOSE = "</think>"
SWITCHES = ("enable_thinking", "thinking")  # what templates call theirs: Qwen3 and its kin, DeepSeek-V3.1

Tail = Literal["open", "closed", "bare"]


@dataclass(frozen=True, slots=True)
class ThinkFormat:
    """own: the model was made to think. switch: the template's variable that turns thinking on and off, if it has one.

    open_id, close_id: the marks as tokens; both None where they are spelled. opening, closing: the ids that open and
    close a thought, with the line breaks the model is used to.
    """

    own: bool
    switch: str | None
    open_id: int | None
    close_id: int | None
    opening: tuple[int, ...]
    closing: tuple[int, ...]

    @property
    def spelled(self) -> bool:
        return self.open_id is None

    def tail(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> Tail:
        """How a prompt leaves its thought: "open", "closed", or "bare" where it ends in neither mark.

        Asked of each prompt and not of the template once: R1's opens no thought after a tool's output.
        """
        end = [*prompt[-16:]]  # the marks and their line breaks are shorter, however they are spelled
        if self.spelled:
            text = b"".join(map(tokenizer.token_bytes, end)).rstrip()
            return "open" if text.endswith(OPEN.encode()) else "closed" if text.endswith(CLOSE.encode()) else "bare"
        while end and tokenizer.token_bytes(end[-1]).isspace():
            end.pop()
        last = end[-1] if end else None
        return "open" if last == self.open_id else "closed" if last == self.close_id else "bare"


def think_format(template: ChatTemplate, tokenizer: Tokenizer) -> ThinkFormat:
    """The format of the model that has this template and this tokenizer."""
    open_id, close_id = tokenizer.added_tokens.get(OPEN), tokenizer.added_tokens.get(CLOSE)
    if open_id is None or close_id is None:
        open_id = close_id = None
    switch = next((name for name in SWITCHES if _switches(template, name)), None)
    written = OPEN in template.source or CLOSE in template.source
    return ThinkFormat(
        own=written or switch is not None or open_id is not None,
        switch=switch,
        open_id=open_id,
        close_id=close_id,
        opening=(*_mark(tokenizer, OPEN, open_id), *tokenizer.encode_plain("\n", at_start=False)),
        closing=(
            *tokenizer.encode_plain("\n", at_start=False),
            *_mark(tokenizer, CLOSE, close_id),
            *tokenizer.encode_plain("\n\n", at_start=False),
        ),
    )


def _switches(template: ChatTemplate, name: str) -> bool:
    probe = [{"role": "user", "content": "."}]
    on, off = (template.render(probe, tools=None, **{name: value}) for value in (True, False))
    return on != off


def _mark(tokenizer: Tokenizer, text: str, token_id: int | None) -> list[int]:
    return tokenizer.encode_plain(text, at_start=False) if token_id is None else [token_id]

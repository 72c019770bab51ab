"""Stop strings for callers of the bare engine: the one place where the engine looks at text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from millet.engine.hook import GO_ON, Verdict

if TYPE_CHECKING:
    from millet.models.tokenizer import Tokenizer


class StopHook:
    """Ends a sequence with "stop" as soon as its text contains one of the strings."""

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._stop = [s.encode() for s in stop]
        self._keep = max(map(len, self._stop)) - 1
        self._tail = b""

    def start(self) -> Verdict:
        return GO_ON

    def after(self, token_id: int) -> Verdict:
        text = self._tail + self._tokenizer.token_bytes(token_id)
        if any(s in text for s in self._stop):
            return Verdict(end="stop")
        self._tail = text[-self._keep :] if self._keep else b""
        return GO_ON

"""Noticing that a model repeats itself, at constant cost per token.

Two signs. *Repetition*: the tail is one stretch of tokens over and over, exactly. *Staleness*: nearly all short runs
in the last few hundred tokens have been said several times before, in whatever order; a thought that drafts its answer
and writes it out once more is far from that.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

GRAM = 6  # tokens of a "short run"
WINDOW = 256  # tokens that staleness looks back on
OFTEN = 3  # a run said this many times before is stale
STALE = 0.9  # share of stale runs in the window that makes a loop


@dataclass(frozen=True, slots=True)
class Patience:
    """How much exact repetition is borne: at least `tokens` repeated tokens, and `times` repetitions of the stretch."""

    tokens: int
    times: int
    staleness: bool


THOUGHT = Patience(tokens=128, times=4, staleness=True)
# An answer may have to repeat itself: a table, a drawing, a line to be written fifty times.
CONTENT = Patience(tokens=512, times=8, staleness=False)
ENDLESS = Patience(tokens=2**62, times=1, staleness=False)  # where a text is only read


class LoopGuard:
    """Feed it every token; `push` says whether the text has become a loop."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._ids: list[int] = []
        self._last: dict[tuple[int, ...], int] = {}  # run of GRAM tokens -> position of its last token
        self._count: dict[tuple[int, ...], int] = {}
        self._period = 0
        self._run = 0  # how many tokens in a row equal the token `_period` before
        self._stale: deque[bool] = deque(maxlen=WINDOW)
        self._num_stale = 0

    def push(self, token_id: int) -> bool:
        self._ids.append(token_id)
        gram = tuple(self._ids[-GRAM:])
        repeats = self._repeats(gram)
        return self._is_stale(gram) or repeats if self._patience.staleness else repeats

    def _repeats(self, gram: tuple[int, ...]) -> bool:
        now = len(self._ids) - 1
        if self._period and self._ids[now] == self._ids[now - self._period]:
            self._run += 1
        else:
            before = self._last.get(gram)
            self._period, self._run = (now - before, GRAM) if before is not None else (0, 0)
        self._last[gram] = now
        return self._period > 0 and self._run >= max(self._patience.tokens, self._patience.times * self._period)

    def _is_stale(self, gram: tuple[int, ...]) -> bool:
        said = self._count.get(gram, 0)
        self._count[gram] = said + 1
        if len(self._stale) == WINDOW:
            self._num_stale -= self._stale[0]
        self._stale.append(said >= OFTEN)
        self._num_stale += said >= OFTEN
        return len(self._stale) == WINDOW and self._num_stale >= STALE * WINDOW

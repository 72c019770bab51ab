"""Guessing tokens ahead: several guesses are verified in one forward pass, which costs little more than one token.

Whatever is guessed, the output does not change (see sampler.py); only the number of passes does. Two ways to guess:

- prompt lookup (Saxena 2023): find the newest tokens earlier in the text and propose what followed them. Pays where a
  reply repeats its prompt: editing, quoting, code.
- the model's own multi-token-prediction module (DeepSeek-V3, section 2.2): one more layer that predicts one token more.

Guessing is not free, so a gate compares what it brings with what it costs, both as measured while running.
"""

from __future__ import annotations

from dataclasses import dataclass

from millet.engine.sequence import Sequence


class PromptLookup:
    """Proposes the continuation of the most recent earlier occurrence of a sequence's last `width` tokens."""

    def __init__(self, width: int = 3, length: int = 3) -> None:
        self.width = width
        self.length = length
        self._indexed: dict[Sequence, _Index] = {}

    def propose(self, sequence: Sequence) -> list[int]:
        index = self._indexed.setdefault(sequence, _Index())
        start = index.find(sequence.token_ids, self.width)
        return sequence.token_ids[start : start + self.length] if start is not None else []

    def forget(self, sequence: Sequence) -> None:
        self._indexed.pop(sequence, None)


class _Index:
    """Where each n-gram of one growing text last ended; every token is entered once."""

    def __init__(self) -> None:
        self.ends: dict[tuple[int, ...], int] = {}
        self.entered = 0

    def find(self, token_ids: list[int], width: int) -> int | None:
        """Position after the last earlier occurrence of the final n-gram."""
        # The final n-gram itself is left out until another token follows it: it must not find itself.
        for end in range(max(self.entered, width), len(token_ids)):
            self.ends[tuple(token_ids[end - width : end])] = end
        self.entered = max(self.entered, len(token_ids))
        return self.ends.get(tuple(token_ids[-width:]))


@dataclass
class _Side:
    """Running averages of steps with or without guesses."""

    seconds: float = 0.0
    tokens: float = 0.0
    steps: int = 0

    def record(self, seconds: float, tokens: float) -> None:
        weight = max(0.1, 1 / (self.steps + 1))
        self.seconds += weight * (seconds - self.seconds)
        self.tokens += weight * (tokens - self.tokens)
        self.steps += 1


class Gate:
    """Decides whether guessing pays, per power-of-two batch size: tokens per second with guesses against without.

    While it does not pay it stays off, and tries again after a pause that doubles each time it is disappointed.
    """

    PROBE = 4  # steps of each kind before judging
    PAUSE, LONGEST_PAUSE = 32, 1024  # steps

    def __init__(self) -> None:
        self._sizes: dict[int, _GateState] = {}
        self.drafted = 0
        self.accepted = 0

    def open(self, batch: int) -> bool:
        """Whether the coming step of `batch` decoding sequences should guess."""
        state = self._state(batch)
        if state.plain.steps < self.PROBE:
            return False
        if state.rest > 0:
            state.rest -= 1
            return False
        return True

    def record(self, batch: int, *, seconds: float, tokens: int, drafted: int) -> None:
        """What a pure decode step took and brought: `tokens` accepted in all, `drafted` of them guessed before."""
        state = self._state(batch)
        if drafted == 0:
            state.plain.record(seconds, tokens)
            return
        self.drafted += drafted
        self.accepted += tokens - batch
        state.guessed.record(seconds, tokens)
        if state.guessed.steps < self.PROBE:
            return
        if state.guessed.tokens * state.plain.seconds > state.plain.tokens * state.guessed.seconds:
            state.pause = self.PAUSE
        else:
            state.rest, state.pause = state.pause, min(2 * state.pause, self.LONGEST_PAUSE)
            state.guessed = _Side()

    def _state(self, batch: int) -> _GateState:
        return self._sizes.setdefault(batch.bit_length(), _GateState())


class _GateState:
    def __init__(self) -> None:
        self.plain = _Side()
        self.guessed = _Side()
        self.rest = 0
        self.pause = Gate.PAUSE

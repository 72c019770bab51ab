"""What is timed: phases of prefill and of decode.

Decode speed is taken from two calls that differ only in how many tokens they generate, which leaves the prefill out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from millet.engine.planner import BATCHES, Step

PROMPT = 16  # tokens before a decode phase
NEW_TOKENS = {1: 97, 8: 65, 32: 49}
"""Tokens that are generated in its longer call, by batch: enough that the first steps, which find the processor's
caches full of another contender's weights, do not decide."""


@dataclass(frozen=True, slots=True)
class Phase:
    """What is timed: `new_tokens` greedy tokens after `batch` prompts; one new token times the prefill."""

    name: str
    batch: int
    prompt: int
    new_tokens: int

    @property
    def step(self) -> Step:
        """The step that the phase consists of, for the planner; in decode the one halfway."""
        if self.new_tokens == 1:
            return Step(self.batch * self.prompt, self.batch, self.prompt // 2)
        return Step(self.batch, self.batch, self.prompt + self.new_tokens // 2)

    @property
    def steps(self) -> int:
        """How many of them `seconds` is the time of."""
        return self.new_tokens - 1 or 1

    @property
    def tokens(self) -> int:
        """Tokens whose time `seconds` is."""
        return self.batch * (self.prompt if self.new_tokens == 1 else self.new_tokens - 1)

    @property
    def calls(self) -> tuple[int, ...]:
        """How many tokens to generate in each call of one round."""
        return (1,) if self.new_tokens == 1 else (self.new_tokens, 1)

    def seconds(self, rounds: Sequence[Sequence[float]]) -> float:
        """Time of the phase, from the times of its calls in each round.

        The difference of medians, not the median of differences: where a disturbance hits the short call, the
        difference of that round may come out near nothing.
        """
        whole, *prefill = (median(times) for times in zip(*rounds, strict=True))
        return max(1e-9, whole - sum(prefill))


def phases() -> list[Phase]:
    """Prefill first, then decode by rising batch, so that memory grows in an order that means something."""
    return [_prefill(128), _prefill(512), *(_decode(batch) for batch in BATCHES)]


def large_phases() -> list[Phase]:
    """What one person with one large model waits for."""
    return [_prefill(512), _decode(1)]


def _prefill(tokens: int) -> Phase:
    return Phase(f"prefill_{tokens}", 1, tokens, 1)


def _decode(batch: int) -> Phase:
    return Phase(f"decode_{batch}", batch, PROMPT, NEW_TOKENS[batch])

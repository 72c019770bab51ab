"""Replies to learn from: sampled by the engine exactly as the model says them, each token with its log-probability.

Nothing guides the sampling here. A budget or a mask that forced or forbade tokens would make replies that the model did
not choose, and the gradient of what it did not choose teaches the wrong thing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

from millet.engine.sampling import Sampling
from millet.errors import BadRequest, PromptTooLong
from millet.reasoning.assistant import Assistant
from millet.reasoning.prompt import Think
from millet.reasoning.reply import Reply
from millet.reasoning.run import Prepared
from millet.train import devices
from millet.train.prefixes import distinct

Row = TypeVar("Row", bound=tuple[Any, ...])


@dataclass(frozen=True, slots=True)
class Sample:
    """One reply: the ids that were generated, its end among them, what the sampler gave each, and what they say."""

    token_ids: list[int]
    logprobs: list[float]
    reply: Reply


@dataclass(frozen=True, slots=True)
class Group:
    """The replies to one question. prompt: its ids, rendered by the model's own template."""

    prompt: list[int]
    samples: list[Sample]


class Rollouts:
    """think: as for a reply; a budget is none here. max_tokens: of a reply, thought included. temperature: 1 where the
    log-probabilities are to be those of the policy that sampled. update: gives the engine's model the weights of now,
    where these are not the model's own."""

    def __init__(
        self,
        assistant: Assistant,
        *,
        think: Think,
        max_tokens: int,
        temperature: float = 1.0,
        update: Callable[[], object] | None = None,
    ) -> None:
        if think not in ("on", "off"):
            raise BadRequest(f'think is {think!r}; a model is taught with "on" or "off"')
        self._assistant = assistant
        self._think: Think = think
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._update = update

    def longest_prompt(self) -> int:
        """Tokens that a question may have, for a whole reply to fit behind it."""
        return self._assistant.engine.context_length - self._max_tokens

    def fits(self, question: str) -> bool:
        """Whether a whole reply fits behind it."""
        return self._prepared(question) is not None

    def refresh(self) -> None:
        """Sample from the weights of now."""
        if self._update is not None:
            self._update()
        self._assistant.engine.refresh()

    def release(self) -> None:
        """Leave the memory to others until the next refresh."""
        self._assistant.engine.release()

    def close(self) -> None:
        """End the engine."""
        self._assistant.engine.close()

    def sample(self, questions: Sequence[str], replies: int, seeds: Sequence[int]) -> list[Group]:
        """`replies` to each question, all computed together. The same seed and weights give the same replies."""
        prepared = []
        for question in questions:
            if (found := self._prepared(question)) is None:
                raise BadRequest(
                    f"a question of {len(question):,} characters is too long: the context leaves "
                    f"{self.longest_prompt():,} tokens beside a reply of {self._max_tokens:,}; lower max_tokens, or "
                    "take shorter questions"
                )
            prepared.append(found)
        generations = []
        try:
            for each, seed in zip(prepared, seeds, strict=True):
                sampling = Sampling(
                    temperature=self._temperature, n=replies, max_tokens=self._max_tokens, seed=seed, logprobs=True
                )
                generations.append(self._assistant.engine.submit(each.prompt, sampling))
            completions = [generation.result() for generation in generations]
        except BaseException:
            for generation in generations:
                generation.cancel()
            raise
        return [
            Group(each.prompt, [Sample(c.token_ids, c.logprobs or [], each.read(c)) for c in group])
            for each, group in zip(prepared, completions, strict=True)
        ]

    def _prepared(self, question: str) -> Prepared | None:
        """None where a whole reply does not fit behind it."""
        messages = [{"role": "user", "content": question}]
        try:
            found = self._assistant.prepare(messages, think=self._think, max_tokens=self._max_tokens)
        except PromptTooLong:
            return None
        return found if len(found.prompt) <= self.longest_prompt() else None


def computed(rows: Sequence[Row]) -> int:
    """How many tokens go through the model for rows as in `parts`: what a group says alike once."""
    groups = groupby(rows, key=lambda row: row[0])
    return sum(distinct([[*row[0], *row[1].token_ids] for row in group]) for _, group in groups)


def parts(rows: Sequence[Row], tokens: int) -> list[list[Row]]:
    """What goes through the model at once, in order: as many groups as have so many tokens together, or a process's
    share of all. What a group's sequences begin with alike counts once, as it is computed once; only a group that is
    larger by itself is split.

    rows: prompt, sample, and whatever else; replies to one prompt stand together.
    """
    groups = [list(group) for _, group in groupby(rows, key=lambda row: row[0])]
    sizes = [computed(group) for group in groups]
    tokens = min(tokens, -(-sum(sizes) // devices.count()))
    found: list[list[Row]] = []
    room = 0
    for group, size in zip(groups, sizes, strict=True):
        if size <= tokens:
            if size > room:
                found.append([])
                room = tokens
            found[-1] += group
            room -= size
            continue
        room = 0
        for row in group:
            own = len(row[1].token_ids)
            if own > room:
                found.append([])
                room = tokens - len(row[0])
            found[-1].append(row)
            room -= own
    return found

"""A task, and an assistant that answers as it is told, both in a few lines."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from millet.errors import PromptTooLong
from millet.reasoning.reply import Event, Usage
from millet.tasks.task import Grade, Problem


class Sums:
    """Sums of numbers with as many digits as the level says."""

    name = "sums"
    levels = 3

    def sample(self, rng: random.Random, level: int) -> Problem:
        a, b = (rng.randrange(10 ** (level + 1)) for _ in range(2))
        return Problem(f"{a} + {b}?", str(a + b))

    def grade(self, problem: Problem, reply: Any) -> Grade:
        right = reply.content == problem.answer
        return Grade(float(right), "" if right else "another number")


class Broken(Sums):
    name = "broken"

    def grade(self, problem: Problem, reply: Any) -> Grade:
        raise ValueError(reply.content)


def graded(items: Sequence[Any]) -> list[Grade]:
    """In this process, one after the other."""
    return [task.grade(problem, reply) for task, problem, reply in items]


Answer = Callable[[str, int], str]


def correct(prompt: str, index: int) -> str:
    return str(sum(map(int, re.findall(r"\d+", prompt))))


@dataclass
class FakeAssistant:
    """Answers each prompt with `answer(prompt, index of the sample)`, as soon as it is asked.

    before: called with the number of the request, when it begins. context: characters that a prompt may have.
    """

    answer: Answer = correct
    before: Callable[[int], None] = lambda number: None
    context: int = 1000
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    runs: list[FakeRun] = field(default_factory=list)
    model: Any = field(default_factory=lambda: SimpleNamespace(name="fake"))

    def prepare(self, messages: Any, **options: Any) -> Any:
        prompt = messages[-1]["content"]
        if len(prompt) > self.context:
            raise PromptTooLong("the messages are too long", len(prompt))
        self.asked.append((prompt, options))
        return SimpleNamespace(
            sampling=SimpleNamespace(n=options["n"]),
            start=lambda on_news: self._start(prompt, options["n"], on_news),
        )

    def under_way(self) -> int:
        return sum(len(run.events) for run in self.runs if not run.done)

    def _start(self, prompt: str, n: int, on_news: Callable[[], None]) -> FakeRun:
        self.before(len(self.runs))
        self.runs.append(FakeRun([said(self.answer(prompt, i), i) for i in range(n)], on_news))
        return self.runs[-1]


@dataclass
class FakeRun:
    """Gives one sample at a time, the last one first."""

    events: list[list[Event]]
    on_news: Callable[[], None]
    done: bool = False
    ended: bool = True
    cancelled: bool = False

    def __post_init__(self) -> None:
        self.left = list(self.events)
        threading.Thread(target=self.on_news).start()

    def poll(self) -> list[Event]:
        found = self.left.pop()
        self.done = not self.left
        if self.left:
            self.on_news()
        return found

    def cancel(self) -> None:
        self.cancelled = True


def said(content: str, index: int) -> list[Event]:
    usage = Usage(prompt_tokens=5, completion_tokens=10, reasoning_tokens=4)
    return [
        Event("reasoning", "Hm.", index=index),
        Event("content", content, index=index),
        Event("finish", index=index, finish_reason="stop", usage=usage, thought_ended="model", seconds=0.5),
    ]

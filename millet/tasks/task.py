"""What a task is: a source of problems, and a judge of replies to them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

Split = Literal["train", "eval"]


@dataclass(frozen=True, slots=True)
class Problem:
    """prompt: what the model is asked, word for word. answer: one right answer, "" where none is known.
    meta: whatever the grader needs besides; it must be picklable, since graders run in other processes."""

    prompt: str
    answer: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grade:
    """score: from 0 to 1; 1 is right. reason: a few words for a person, without the reply's text."""

    score: float
    reason: str = ""

    @property
    def passed(self) -> bool:
        return self.score >= 1


class Answered(Protocol):
    """What a grader sees of a reply; `millet.reasoning.reply.Reply` is one."""

    @property
    def reasoning(self) -> str: ...
    @property
    def content(self) -> str: ...


@dataclass(frozen=True, slots=True)
class PlainReply:
    """A thought and an answer. spelt: who learns to write the answer learns to write it character by character, and
    not in the tokens that its characters happen to make together."""

    reasoning: str
    content: str
    spelt: bool = False


@runtime_checkable
class Task(Protocol):
    """name: unique among the tasks of a run. levels: how many difficulties there are, at least 1; by custom the easiest
    is first. `sample` takes all its chance from rng: the same state gives the same problem. `grade` looks at what the
    reply *answers*, its content: a thought may say anything."""

    name: str
    levels: int

    def sample(self, rng: random.Random, level: int) -> Problem: ...
    def grade(self, problem: Problem, reply: Answered) -> Grade: ...


@runtime_checkable
class ItemTask(Task, Protocol):
    """A task over a fixed list of problems, which says itself which are for training and which for evaluation."""

    def items(self, split: Split) -> Sequence[Problem]: ...


def climb(task: Task) -> Sequence[int]:
    """Its levels from the easiest to the hardest: those that its attribute `climb` names, or all in their order."""
    levels: Sequence[int] = getattr(task, "climb", range(task.levels))
    return levels


def countable(task: Task, problem: Problem) -> bool:
    """Whether replies whose answers read the same say the same, and others do not, so that their votes can be counted.
    Not where no right answer shows what form answers have, nor of a task whose attribute `countable` is False."""
    return bool(problem.answer.strip()) and bool(getattr(task, "countable", True))


@runtime_checkable
class WorkedTask(Task, Protocol):
    """A task that can show how a problem is worked: a thought and the right answer, to teach a model by."""

    def work(self, problem: Problem) -> PlainReply:
        """Raises millet.tasks.worked.unworked.Unworked where there is no way to show."""

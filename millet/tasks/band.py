"""Pass rates per task and level, and which levels a model can learn from.

Training by reward learns from the difference between right and wrong replies to the same problem. A level that the
model always passes, or never, has none; those between are its band.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from millet.tasks.draw import draw
from millet.tasks.task import Answered, Grade, Task

LOWEST, HIGHEST = 0.1, 0.9  # pass rates of the band

ReplyTo = Callable[[Sequence[str]], Sequence[Sequence[Answered]]]


class Judges(Protocol):
    """What of `Graders` is needed."""

    def grade(self, replies: Sequence[tuple[Task, Any, Any]]) -> list[Grade]: ...


@dataclass(frozen=True, slots=True)
class Band:
    """What a model does at one level. rate: share of replies that are right. mixed: share of problems with both right
    and wrong replies, from which alone GRPO learns."""

    task: str
    level: int
    problems: int
    samples: int
    rate: float
    mixed: float

    @property
    def has_signal(self) -> bool:
        return LOWEST <= self.rate <= HIGHEST


def measure(
    tasks: Iterable[tuple[Task, Sequence[int]]],
    reply_to: ReplyTo,
    graders: Judges,
    problems: int,
    seed: int = 0,
    tell: Callable[[Band], None] = lambda band: None,
) -> list[Band]:
    """One band for each task and each of its given levels, on training problems.

    reply_to: several replies to each prompt. tell: is told each band as soon as it is known.
    """
    bands = []
    for task, levels in tasks:
        for level in levels:
            drawn = [draw(task, "train", level, index, seed) for index in range(problems)]
            replies = reply_to([problem.prompt for problem in drawn])
            cases = [(task, problem, reply) for problem, each in zip(drawn, replies, strict=True) for reply in each]
            passed = iter([grade.passed for grade in graders.grade(cases)])
            rights = [[next(passed) for _ in each] for each in replies]
            bands.append(_band(task.name, level, rights))
            tell(bands[-1])
    return bands


def with_signal(bands: Iterable[Band]) -> dict[str, list[int]]:
    """The levels in the band, by task; of a task with none, the level whose rate is nearest to a half, if above 0."""
    by_task: dict[str, list[Band]] = {}
    for band in bands:
        by_task.setdefault(band.task, []).append(band)
    chosen = {}
    for task, each in by_task.items():
        found = [band.level for band in each if band.has_signal]
        nearest = min(each, key=lambda band: abs(band.rate - 0.5))
        if found or nearest.rate > 0:
            chosen[task] = found or [nearest.level]
    return chosen


def beginning(
    task: Task, levels: Sequence[int], reply_to: ReplyTo, graders: Judges, problems: int, seed: int
) -> tuple[int, list[Band]]:
    """Where training on these levels, the easiest first, should begin: the hardest one that has signal. None is
    measured behind one that the model hardly ever passes."""
    bands: list[Band] = []
    for level in levels:
        bands += measure([(task, [level])], reply_to, graders, problems, seed)
        if bands[-1].rate < LOWEST:
            break
    return with_signal(bands).get(task.name, [levels[0]])[-1], bands


def _band(task: str, level: int, rights: Sequence[Sequence[bool]]) -> Band:
    count = sum(map(len, rights))
    return Band(
        task,
        level,
        problems=len(rights),
        samples=max(map(len, rights)),
        rate=sum(map(sum, rights)) / count if count else 0.0,
        mixed=sum(0 < sum(each) < len(each) for each in rights) / len(rights),
    )

"""Pass rates per task and level, and which levels a model can learn from.

Training by reward learns from the difference between right and wrong replies to the same problem. A level that the
model always passes, or never, has none; those between are its band. `Climb` keeps to the band while the model improves.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from millet.tasks.draw import draw
from millet.tasks.grading import Graders
from millet.tasks.task import Answered, Task

LOWEST, HIGHEST = 0.1, 0.9  # pass rates of the band
_MEMORY = 0.9  # how much of a pass rate's old value stays when a new one comes

ReplyTo = Callable[[Sequence[str]], Sequence[Sequence[Answered]]]


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
    graders: Graders,
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


class Climb:
    """Which levels to train on as the model improves.

    It begins with given levels of each task. A level whose pass rate leaves the band at the top gives way to the next
    one; the highest stays. A level that proves too hard gives way to the one below. Its state is plain data, so that a
    run resumes exactly.
    """

    def __init__(self, levels: Mapping[str, int], start: Mapping[str, Sequence[int]]) -> None:
        """levels: how many each task has. start: as from `with_signal`."""
        self._levels = dict(levels)
        self._current = {task: sorted(set(each)) for task, each in start.items() if each}
        self._rates: dict[str, dict[int, float]] = {task: {} for task in self._current}

    def pick(self, rng: random.Random) -> tuple[str, int]:
        """A task and one of its levels at present, all tasks alike."""
        task = rng.choice(list(self._current))
        return task, rng.choice(self._current[task])

    def record(self, task: str, level: int, rate: float) -> None:
        """The pass rate of one more group of replies at a level."""
        rates = self._rates[task]
        known = rates.setdefault(level, 0.5)  # in the middle: one group moves nobody
        rates[level] = rate = _MEMORY * known + (1 - _MEMORY) * rate
        if level not in self._current[task]:
            return
        if rate > HIGHEST and level + 1 < self._levels[task]:
            self._move(task, level, level + 1)
        elif rate < LOWEST and level > 0:
            self._move(task, level, level - 1)

    @property
    def current(self) -> dict[str, list[int]]:
        return {task: list(each) for task, each in self._current.items()}

    def state(self) -> dict[str, Any]:
        rates = {task: [[level, rate] for level, rate in each.items()] for task, each in self._rates.items()}
        return {"current": self.current, "rates": rates}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._current = {task: list(each) for task, each in state["current"].items()}
        self._rates = {task: {int(level): rate for level, rate in each} for task, each in state["rates"].items()}

    def _move(self, task: str, level: int, to: int) -> None:
        self._current[task] = sorted({*self._current[task], to} - {level})
        self._rates[task].pop(level)
        self._rates[task].setdefault(to, 0.5)


def _band(task: str, level: int, rights: Sequence[Sequence[bool]]) -> Band:
    count = sum(map(len, rights))
    return Band(
        task,
        level,
        problems=len(rights),
        samples=len(rights[0]),
        rate=sum(map(sum, rights)) / count,
        mixed=sum(0 < sum(each) < len(each) for each in rights) / len(rights),
    )

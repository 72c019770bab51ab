"""Which level of each task is asked: as hard as the model can learn from, and harder as it improves.

A question that every reply gets right, or none, has no signal. So each task keeps a running pass rate: above HIGH it
climbs a level, below LOW it goes down one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HIGH = 0.8
LOW = 0.1
MEMORY = 0.9  # of the running rate, for each group
LEAST = 8  # groups at a level before it is left


@dataclass
class Rung:
    """rate: the running pass rate at this level; groups: how many were seen at it."""

    level: int
    rate: float = 0.5
    groups: int = 0


class Ladder:
    """levels: those of each task by its name, the easiest first, where it begins."""

    def __init__(self, levels: Mapping[str, Sequence[int]]) -> None:
        self._levels = {name: list(each) for name, each in levels.items()}
        self.rungs = {name: Rung(each[0]) for name, each in self._levels.items()}

    def level(self, task: str) -> int:
        return self.rungs[task].level

    def begin(self, task: str, level: int) -> None:
        """Where it begins instead, as `tasks.band.beginning` finds it."""
        self.rungs[task] = Rung(level)

    def take(self, task: str, level: int, passed: float) -> None:
        """Share of a group's replies that were right. What was asked before a change of level counts no more."""
        rung, levels = self.rungs[task], self._levels[task]
        if level != rung.level:
            return
        rung.groups += 1
        rung.rate = MEMORY * rung.rate + (1 - MEMORY) * passed
        next_one = levels.index(level) + (rung.rate > HIGH) - (rung.rate < LOW)
        if rung.groups >= LEAST and 0 <= next_one < len(levels) and levels[next_one] != level:
            self.rungs[task] = Rung(levels[next_one])

    def state(self) -> dict[str, Any]:
        return {name: [rung.level, rung.rate, rung.groups] for name, rung in self.rungs.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.rungs = {name: Rung(int(level), float(rate), int(groups)) for name, (level, rate, groups) in state.items()}

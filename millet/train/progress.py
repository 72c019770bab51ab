"""What a run tells while it goes on. The command line shows it; a program may keep it, or listen to nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Progress(Protocol):
    def say(self, line: str) -> None:
        """Something a person should know, in one line."""

    def begin(self, stage: str, done: int, steps: int) -> None:
        """A stage of so many steps begins, or goes on after those that are done."""

    def step(self, done: int, record: Mapping[str, Any]) -> None:
        """A step is done, with its line of metrics.jsonl."""


class Silent:
    """For tests, and for programs that do not care."""

    def say(self, line: str) -> None:
        pass

    def begin(self, stage: str, done: int, steps: int) -> None:
        pass

    def step(self, done: int, record: Mapping[str, Any]) -> None:
        pass

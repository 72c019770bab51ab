"""Conversations as a student and its teacher read them, each by its own template.

A teacher can say something only of what it would have read itself: one that does not think has never met a thought,
not even an empty one, and what it says behind one is not what it thinks. So it reads the same conversation in its own
way, and what both read of a reply is compared: all of it where they read alike, else how it ends, which is the answer
and its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millet.errors import BadRequest
from millet.models.chat_template import REASONING_FIELDS
from millet.train.data import Example, Renderer


@dataclass(frozen=True, slots=True)
class Taught(Example):
    """teacher: the conversation as the teacher reads it; what is `learned` there is what is compared. shared: bool [T],
    the tokens here that those are, one for one."""

    teacher: Example
    shared: NDArray[np.bool_]


class PairRenderer:
    """As a `Renderer`, for a student and a teacher of one vocabulary."""

    def __init__(self, student: Renderer, teacher: Renderer) -> None:
        self._student, self._teacher = student, teacher

    def look(self, messages: Sequence[Mapping[str, Any]]) -> None:
        self._student.look(messages)

    def examples(
        self, messages: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]] = ()
    ) -> list[Example]:
        own = self._student.examples(messages, before)
        other = self._teacher.examples([self._as_read(message) for message in messages], before)
        if len(own) == len(other) and all(map(_alike, own, other)):
            return [Taught(each.ids, each.learned, each, each.learned) for each in own]
        return [*self._by_reply(messages, before)]

    def _by_reply(self, messages: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]) -> Iterator[Taught]:
        for index, message in enumerate(messages):
            if message.get("role") == "assistant":
                earlier = [*before, *messages[:index]]
                (own,) = self._student.examples([message], earlier)
                (other,) = self._teacher.examples([self._as_read(message)], earlier)
                yield _paired(own, other)

    def _as_read(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """Without the thought, where the teacher has none."""
        if self._teacher.thinks or not isinstance(message, Mapping):
            return message
        return {name: value for name, value in message.items() if name not in REASONING_FIELDS}


def _alike(own: Example, other: Example) -> bool:
    return np.array_equal(own.ids, other.ids) and np.array_equal(own.learned, other.learned)


def _paired(own: Example, other: Example) -> Taught:
    """Both end in the reply."""
    same = 0
    longest = min(own.learned.sum(), other.learned.sum())
    while same < longest and own.ids[-1 - same] == other.ids[-1 - same]:
        same += 1
    if not same:
        raise BadRequest("the teacher ends a reply in another token than the student; take one of its family")
    return Taught(own.ids, own.learned, Example(other.ids, _last(same, len(other))), _last(same, len(own)))


def _last(count: int, length: int) -> NDArray[np.bool_]:
    return np.arange(length) >= length - count

"""Whether a grader deserves trust: what it gives to right, wrong, empty, enormous and cheating replies.

A reward that a trick can earn is what training will teach. Every row of the check is one kind of reply, made for a
dozen problems and graded as in training, in processes with a time limit. Right answers must score 1. What cheats must
stay below 0.1 on average: a chance hit is one, a trick that works is many. Training is paid by score, so what is wrong
may earn half at most, where a task pays for what is partly right. And one answer to every problem may be right about
half of the time, where the answers are yes and no, but not nearly always.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from millet.errors import BadRequest
from millet.tasks.draw import draw
from millet.tasks.extract import to_number
from millet.tasks.task import Grade, PlainReply, Problem, Task

PROBLEMS = 12
MOST_FOR_TRICKS = 0.1
ENORMOUS = 1_000_000  # characters
_CANDIDATES = 6
_EXACT = 10_000  # a number beyond that may be right within a tolerance, although it differs by 1
_ENOUGH = 32  # problems that tell an answer which is nearly always right from one that was so by chance

RIGHT, WRONG, SAME = "right", "wrong", "the same answer to every problem"
_MOST = {WRONG: 0.5, SAME: 0.75}  # mean score of a kind of reply; of those that are not here, MOST_FOR_TRICKS


class Judges(Protocol):
    """What of `Graders` is needed."""

    def faults(self, name: str, /) -> int: ...
    def grade(self, replies: Sequence[tuple[Task, Any, Any]]) -> list[Grade]: ...


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of reply. score: mean over the problems, None where it was not tried, since no right answer is known to
    make it from. faults: how many made the grader hang, raise, or give no valid score. reason: of the first one that is
    not as it should be, or of the first."""

    kind: str
    score: float | None
    faults: int
    reason: str
    accepted: bool


def check(task: Task, graders: Judges, problems: int = PROBLEMS, seed: int = 0) -> list[Row]:
    """Grade every kind of reply for so many problems, spread over the levels; for one answer to every problem, up
    to 32. Raises what `draw` raises."""
    drawn = [draw(task, "train", index * task.levels // problems, index, seed) for index in range(problems)]
    rng = random.Random(seed)
    cases = [case for problem in drawn for case in _replies(problem, _others(problem, drawn), rng)]
    cases += _same([*drawn, *_more(task, range(problems, _ENOUGH), seed)])
    kinds = list(dict.fromkeys(kind for kind, _, _ in cases))
    rows = []
    for kind in kinds:
        mine = [(task, problem, reply) for each, problem, reply in cases if each == kind and reply is not None]
        before = graders.faults(task.name)
        grades = graders.grade(mine)
        rows.append(_row(kind, grades, graders.faults(task.name) - before))
    return rows


def _more(task: Task, indices: range, seed: int) -> Iterator[Problem]:
    for index in indices:
        with contextlib.suppress(BadRequest):  # a level that knows too few problems
            yield draw(task, "train", index % task.levels, index, seed)


def _row(kind: str, grades: Sequence[Grade], faults: int) -> Row:
    if not grades:
        return Row(kind, None, 0, "no right answer is known", True)
    score = sum(grade.score for grade in grades) / len(grades)
    passed = [grade for grade in grades if grade.passed]
    most = _MOST.get(kind, MOST_FOR_TRICKS)
    if kind == RIGHT:
        bad = [grade for grade in grades if not grade.passed]
    elif kind == WRONG and len(passed) > MOST_FOR_TRICKS * len(grades):
        bad = passed
    else:
        bad = [grade for grade in grades if grade.score > most] if score > most else []
    return Row(kind, score, faults, (bad or grades)[0].reason, not bad and not faults)


def _same(drawn: Sequence[Problem]) -> Iterator[tuple[str, Problem, PlainReply | None]]:
    """The most frequent right answer, to every problem but one that it comes from."""
    known = Counter(problem.answer for problem in drawn if problem.answer.strip())
    if not known:
        yield SAME, drawn[0], None
        return
    answer = known.most_common(1)[0][0]
    source = next(problem for problem in drawn if problem.answer == answer)
    for problem in drawn:
        if problem is not source:
            yield SAME, problem, PlainReply("", answer)


def _others(problem: Problem, drawn: Sequence[Problem]) -> list[str]:
    """Answers that are wrong: of other problems, and near the right one where it is a number."""
    found = [other.answer for other in drawn if other.answer.strip() and other.answer != problem.answer]
    value = to_number(problem.answer)
    if value is not None:
        step = 1 if abs(value) < _EXACT else int(abs(value))
        found = [str(int(value) + times * step) for times in (1, -1, 2, 10)] + found
    return list(dict.fromkeys(found))[: _CANDIDATES - 1] or ["I cannot tell"]


def _replies(
    problem: Problem, others: Sequence[str], rng: random.Random
) -> Iterator[tuple[str, Problem, PlainReply | None]]:
    """(kind, problem, reply); no reply where it would need a right answer and none is known."""
    right, wrong = problem.answer, others[0]
    candidates = [*others[: len(others) // 2], right, *others[len(others) // 2 :]]
    numbers = [str(number) for number in rng.sample(range(100_000), 4000)]
    needs_right = {
        RIGHT: right,
        "all candidates, on one line": ", ".join(candidates),
        "all candidates, a line each": "\n".join([*candidates, wrong]),
        "all candidates, as the answer": f"The answer is {' or '.join(candidates)}.",
        "hidden among thousands of numbers": " ".join([*numbers[:2000], right, *numbers[2000:]]),
        "thought without its end": f"<think>\nIt could be this:\n{right}",
    }
    always = {
        WRONG: wrong,
        "empty": "",
        "blank": " \n\t\n",
        "enormous: digits": "7" * ENORMOUS,
        "enormous: a wrong answer again and again": (wrong + "\n") * (ENORMOUS // (len(wrong) + 1)),
        "the prompt again": problem.prompt,
    }
    for kind, content in needs_right.items():
        yield kind, problem, PlainReply("", content) if right else None
    for kind, content in always.items():
        yield kind, problem, PlainReply("", content)
    thought = PlainReply(f"The answer is {right}.", "")
    yield "answer only in the thought", problem, thought if right else None

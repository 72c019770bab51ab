"""Whether a grader deserves trust: what it gives to right, wrong, empty, enormous and cheating replies.

A reward that a trick can earn is what training will teach. Every row of the check is one kind of reply, made for a
dozen problems and graded as in training, in processes with a time limit. Right answers must score 1. What cheats must
stay below 0.1 on average: a chance hit is one, a trick that works is many.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from millet.tasks.draw import draw
from millet.tasks.extract import to_number
from millet.tasks.grading import Graders
from millet.tasks.task import Grade, PlainReply, Problem, Task

PROBLEMS = 12
MOST_FOR_TRICKS = 0.1
ENORMOUS = 1_000_000  # characters
_CANDIDATES = 6
_EXACT = 10_000  # a number beyond that may be right within a tolerance, although it differs by 1

# Kind of reply -> what it must score; wrong answers may earn a share where a task pays for what is partly right.
_RIGHT = ("right",)
_WRONG = ("wrong",)


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of reply. score: mean over the problems, None where no right answer is known to make it from.
    faults: how many made the grader hang, raise, or give no valid score. reason: of the first one that is not as it
    should be, or of the first."""

    kind: str
    score: float | None
    faults: int
    reason: str
    accepted: bool


def check(task: Task, graders: Graders, problems: int = PROBLEMS, seed: int = 0) -> list[Row]:
    """Grade every kind of reply for so many problems, spread over the levels. Raises what `draw` raises."""
    drawn = [draw(task, "train", index * task.levels // problems, index, seed) for index in range(problems)]
    rng = random.Random(seed)
    cases = [case for problem in drawn for case in _replies(problem, _others(problem, drawn), rng)]
    kinds = list(dict.fromkeys(kind for kind, _, _ in cases))
    rows = []
    for kind in kinds:
        mine = [(task, problem, reply) for each, problem, reply in cases if each == kind and reply is not None]
        before = graders.faults(task.name)
        grades = graders.grade(mine)
        rows.append(_row(kind, grades, graders.faults(task.name) - before))
    return rows


def _row(kind: str, grades: Sequence[Grade], faults: int) -> Row:
    if not grades:
        return Row(kind, None, 0, "no right answer is known", True)
    score = sum(grade.score for grade in grades) / len(grades)
    if kind in _RIGHT:
        bad = [grade for grade in grades if not grade.passed]
    elif kind in _WRONG:
        bad = [grade for grade in grades if grade.passed]
        bad = bad if len(bad) > MOST_FOR_TRICKS * len(grades) else []
    else:
        bad = [grade for grade in grades if grade.score > MOST_FOR_TRICKS] if score > MOST_FOR_TRICKS else []
    return Row(kind, score, faults, (bad or grades)[0].reason, not bad and not faults)


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
        "right": right,
        "all candidates, on one line": ", ".join(candidates),
        "all candidates, a line each": "\n".join([*candidates, wrong]),
        "all candidates, as the answer": f"The answer is {' or '.join(candidates)}.",
        "hidden among thousands of numbers": " ".join([*numbers[:2000], right, *numbers[2000:]]),
        "thought without its end": f"<think>\nIt could be this:\n{right}",
    }
    always = {
        "wrong": wrong,
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

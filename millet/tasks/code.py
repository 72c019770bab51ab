"""Code with unit tests: JSON lines with `question`, `tests`, and optionally `answer`, a solution.

A test is `"assert f(2) == 4"` (any expression == a literal, or an expression alone, or `not` one), or
`{"input": ..., "output": ...}` for a whole program. The code of a reply runs in `sandbox.py`, and only the left side of
a test or the input goes in: what comes out is compared out here. So the code can neither read what is expected nor
meddle with the comparison. A reply is right or wrong as a whole, since a share would pay for the easy tests alone; and
its limit of time is one for all tests, since the grader's own is.
"""

from __future__ import annotations

import ast
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from millet.errors import BadRequest
from millet.tasks.draw import split_of
from millet.tasks.extract import LONGEST, last_block
from millet.tasks.items import read_jsonl
from millet.tasks.sandbox import Limits, run
from millet.tasks.task import Answered, Grade, Problem, Split


@dataclass(frozen=True, slots=True)
class Call:
    """expected: a literal."""

    expression: str
    expected: Any


@dataclass(frozen=True, slots=True)
class Program:
    stdin: str
    output: str


class CodeTask:
    """A file of problems whose replies are Python code."""

    levels = 1
    countable = False  # programs that do the same are seldom the same text

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        """Raises BadRequest where the file cannot be read or a test is of no known form."""
        self.name = f"code:{path.name}"
        self._limits = limits or Limits()
        problems = [_problem(row, path) for row in read_jsonl(path, ["question", "tests"])]
        self._items: dict[Split, Sequence[Problem]] = {
            "train": [problem for problem in problems if split_of(problem.prompt) == "train"],
            "eval": [problem for problem in problems if split_of(problem.prompt) == "eval"],
        }

    def __getstate__(self) -> dict[str, Any]:
        """For graders, which need no items."""
        return {"name": self.name, "_limits": self._limits}

    def items(self, split: Split) -> Sequence[Problem]:
        return self._items[split]

    def sample(self, rng: random.Random, level: int) -> Problem:
        """One of those for training."""
        return rng.choice(self._items["train"])

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        code = reply_code(reply.content)
        if not code:
            return Grade(0, "no code")
        calls: Sequence[Call] = problem.meta["calls"]
        programs: Sequence[Program] = problem.meta["programs"]
        deadline = time.monotonic() + self._limits.seconds
        if calls:
            ran = run(code, [call.expression for call in calls], limits=self._limits)
            if ran.status is None:
                return Grade(0, "time limit")
            passed = [_equal(value, call.expected) for value, call in zip(ran.values, calls, strict=False)]
            if len(passed) < len(calls) or not all(passed):
                return Grade(0, f"{sum(passed)} of {len(calls)} tests")
        for number, program in enumerate(programs):
            left = replace(self._limits, seconds=max(0.0, deadline - time.monotonic()))
            ran = run(code, stdin=program.stdin, limits=left)
            if ran.status != 0 or ran.output.split() != program.output.split():
                return Grade(0, "time limit" if ran.status is None else f"{number} of {len(programs)} programs")
        return Grade(1, "right")


def reply_code(content: str) -> str:
    """The last fenced block, or the whole content where there is none; "" for what cannot be a solution."""
    text = content.rpartition("</think>")[2]
    if len(text) > LONGEST:
        return ""
    return (last_block(text) or text).strip("\n")


def _equal(value: str, expected: Any) -> bool:
    try:
        return bool(ast.literal_eval(value) == expected)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False


def _problem(row: Mapping[str, Any], path: Path) -> Problem:
    calls: list[Call] = []
    programs: list[Program] = []
    tests = row["tests"]
    if isinstance(tests, str):
        tests = [line for line in tests.split("\n") if line.strip()]
    for test in tests:
        if isinstance(test, Mapping) and {"input", "output"} <= test.keys():
            programs.append(Program(str(test["input"]), str(test["output"])))
        elif (call := _call(test)) is not None:
            calls.append(call)
        else:
            raise BadRequest(
                f'{path}: the test {str(test)[:60]!r} has no known form; write "assert CALL == LITERAL", or '
                '{"input": ..., "output": ...}'
            )
    if not calls and not programs:
        raise BadRequest(f"{path}: a problem has no tests; give each at least one")
    return Problem(str(row["question"]), str(row.get("answer", "")), {"calls": calls, "programs": programs})


def _call(test: Any) -> Call | None:
    try:
        parsed = ast.parse(test).body
    except (SyntaxError, TypeError, ValueError):
        return None
    if len(parsed) != 1 or not isinstance(parsed[0], ast.Assert):
        return None
    match parsed[0].test:
        case ast.Compare(left, [ast.Eq()], [right]):
            try:
                return Call(ast.unparse(left), ast.literal_eval(right))
            except ValueError:
                return None
        case ast.Compare():
            return None
        case ast.UnaryOp(ast.Not(), inner):
            return Call(f"bool({ast.unparse(inner)})", False)
        case expression:
            return Call(f"bool({ast.unparse(expression)})", True)

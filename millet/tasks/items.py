"""Tasks over files: GSM8K, SVAMP, any JSONL with `question` and `answer`, and MATH-style answers.

Which problems are for evaluation alone: SVAMP's last 300, and of any other file those whose prompt `draw.split_of` puts
there. A training problem whose prompt is also an evaluation problem's is left out.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from millet.errors import BadRequest
from millet.tasks.draw import split_of
from millet.tasks.extract import extract_answer, to_number
from millet.tasks.mathematics import same_expression
from millet.tasks.task import Answered, Grade, PlainReply, Problem, Split
from millet.tasks.worked import words
from millet.tasks.worked.unworked import Unworked

SVAMP_EVAL = 300

Compare = Callable[[str, str], bool]
Work = Callable[[Problem], list[str]]


class FileTask:
    """A fixed list of problems with one level, whose answers `compare` judges."""

    levels = 1

    def __init__(
        self,
        name: str,
        problems: Sequence[Problem],
        compare: Compare,
        held_out: int | None = None,
        work: Work | None = None,
    ) -> None:
        """name: which problems are drawn depends on it, so a path, which differs between machines, is no part of it.
        held_out: how many at the end are for evaluation; None: as their prompts say. work: the lines of a thought.
        """
        self.name = name
        self._compare = compare
        self._work = work
        if held_out is None:
            evaluation = [problem for problem in problems if split_of(problem.prompt) == "eval"]
        else:
            evaluation = list(problems[-held_out:])
        prompts = {problem.prompt for problem in evaluation}
        self._items: dict[Split, Sequence[Problem]] = {
            "train": [problem for problem in problems if problem.prompt not in prompts],
            "eval": evaluation,
        }

    def __getstate__(self) -> dict[str, Any]:
        """For graders, which need no items."""
        return {"name": self.name, "_compare": self._compare, "_work": None}

    def items(self, split: Split) -> Sequence[Problem]:
        return self._items[split]

    def sample(self, rng: random.Random, level: int) -> Problem:
        """One of those for training."""
        return rng.choice(self._items["train"])

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return grade_answer(problem, reply, self._compare)

    def work(self, problem: Problem) -> PlainReply:
        """The solution that came with the problem. Raises Unworked where none did."""
        if self._work is None:
            raise Unworked(f"{self.name} came without solutions")
        return PlainReply("\n".join(self._work(problem)), f"The answer is {problem.answer}.")


def gsm8k(path: Path) -> FileTask:
    def work(problem: Problem) -> list[str]:
        return words.gsm8k(problem.meta, problem.answer)

    return FileTask(f"gsm8k:{path.name}", _question_answer(path), same_answer, work=work)


def jsonl(path: Path) -> FileTask:
    return FileTask(f"jsonl:{path.name}", _question_answer(path), same_answer)


def mathematics(path: Path) -> FileTask:
    return FileTask(f"math:{path.name}", _question_answer(path), same_expression)


def svamp(path: Path) -> FileTask:
    try:
        rows = json.loads(path.read_text("utf-8"))
        problems = [_svamp_problem(row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadRequest(
            f"{path} is not SVAMP.json ({type(error).__name__}); see github.com/arkilpatel/SVAMP"
        ) from None

    def work(problem: Problem) -> list[str]:
        return words.svamp(problem.meta, problem.answer)

    return FileTask(f"svamp:{path.name}", problems, same_answer, SVAMP_EVAL, work)


def same_answer(answer: str, right: str) -> bool:
    """Numbers by value; other texts by their words, whatever the case."""
    value = to_number(right)
    if value is not None:
        return to_number(answer) == value
    return answer.casefold().split() == right.casefold().split()


def grade_answer(problem: Problem, reply: Answered, same: Compare = same_answer) -> Grade:
    """What the reply answers against the right answer."""
    answer = extract_answer(reply.content, problem.answer, problem.prompt)
    if not answer:
        return Grade(0, "no answer")
    return Grade(1, "right") if same(answer, problem.answer) else Grade(0, "wrong")


def read_jsonl(path: Path, fields: Iterable[str]) -> list[dict[str, Any]]:
    """The objects of a file, one a line. Raises BadRequest where it cannot be read or a line lacks a field."""
    rows = []
    try:
        lines = path.read_text("utf-8").split("\n")  # not splitlines: U+2028 may stand in a JSON string
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path} cannot be read ({type(error).__name__}); name a file of JSON lines") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            raise BadRequest(f"{path}, line {number}, is not JSON; each line must be one object") from None
        missing = [name for name in fields if not isinstance(row, dict) or name not in row]
        if missing:
            raise BadRequest(f"{path}, line {number}, has no {' and no '.join(missing)}; each line needs them")
        rows.append(row)
    if not rows:
        raise BadRequest(f"{path} is empty; it must have one JSON object a line")
    return rows


def _question_answer(path: Path) -> list[Problem]:
    """An answer may be a worked solution with `#### ANSWER` last, as in GSM8K; it is then in meta["solution"]."""
    problems = []
    for row in read_jsonl(path, ["question", "answer"]):
        solution, hashes, answer = str(row["answer"]).rpartition("####")
        meta = {"solution": solution.strip()} if hashes else {}
        problems.append(Problem(str(row["question"]), _plain(answer), meta))
    return problems


def _svamp_problem(row: Mapping[str, Any]) -> Problem:
    body = row["Body"].strip()
    stop = "" if body.endswith((".", "?", "!")) else "."
    meta = {"type": row["Type"], "equation": row.get("Equation", "")}
    return Problem(f"{body}{stop} {row['Question'].strip()}", f"{float(row['Answer']):.12g}", meta)


def _plain(answer: str) -> str:
    """Without the commas of thousands."""
    answer = answer.strip()
    value = answer.replace(",", "")
    return value if to_number(answer) is not None else answer

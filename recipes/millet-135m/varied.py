"""GSM8K's problems for training with other numbers: what is calculated stays, so that it is not the numbers that are
learned by heart (as in GSM-Symbolic, Mirzadeh et al. 2024, arXiv:2410.05229).

Only numbers are changed whose way through the solution is plain: each stands once in the question, and what is
calculated with is such a number, an earlier result, or a constant as small or as common as those of clocks.
"""

from __future__ import annotations

import ast
import random
import re
from fractions import Fraction
from functools import cache

from millet.tasks.find import find_task
from millet.tasks.task import Answered, Grade, ItemTask, PlainReply, Problem
from millet.tasks.worked.words import CALCULATION, gsm8k

SOURCE = "gsm8k:$MILLET_DATA/gsm8k/train.jsonl"
NUMBER = re.compile(r"(?<![\w.,/])\d+(?![\w%/]|[.,]\d)")
COMMON = {7, 12, 24, 30, 52, 60, 100, 365, 1000}  # days, hours, ...: they keep their meaning only as they are
SMALL = 12  # a constant up to here may be a word of the question: twice, a dozen
WORDS = {
    2: "two|twice|double|half|halves|pair|couple|second",
    3: "three|thrice|triple|thirds?",
    4: "four|quarters?|fourths?",
    5: "five|fifths?",
    6: "six|sixths?",
    8: "eight|eighths?",
    9: "nine|ninths?",
    10: "ten|tenths?",
    11: "eleven",
}
TRIES = 8


class Varied:
    name = "varied"
    levels = 1

    def sample(self, rng: random.Random, level: int) -> Problem:
        problems = _problems()
        while True:
            problem = rng.choice(problems)
            for _ in range(TRIES):
                if (found := vary(problem, rng)) is not None:
                    return found

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return _stories().grade(problem, reply)

    def work(self, problem: Problem) -> PlainReply:
        return PlainReply("\n".join(gsm8k(problem.meta, problem.answer)), problem.answer)


def vary(problem: Problem, rng: random.Random) -> Problem | None:
    """The same with other numbers; None where these do not come out well, or their way is not plain."""
    notes = [(note[1].replace(" ", ""), note[2].strip()) for note in CALCULATION.finditer(problem.meta["solution"])]
    if not notes or notes[-1][1] != problem.answer:
        return None
    used = {number for expression, _ in notes for number in re.findall(r"\d+", expression)}
    said = NUMBER.findall(problem.prompt)
    free = [each for each in said if each in used and said.count(each) == 1 and _may_change(int(each), problem.prompt)]
    new = {int(each): Fraction(_other(int(each), rng)) for each in free}
    fixed = {int(number) for number in re.findall(r"\d+", problem.prompt)} - new.keys()
    results: dict[int, Fraction] = {}
    solution = []
    for expression, result in notes:
        if not re.fullmatch(r"[\d+\-*/()]+", expression) or not result.isdecimal() or _value(expression) != int(result):
            return None
        written = []
        for part in re.findall(r"\d+|\D", expression):
            if part.isdecimal():
                value = int(part)
                if value in results and (value in new or value in fixed):
                    return None  # which of the two is meant?
                if not (value in results or value in new or value in fixed or value <= SMALL or value in COMMON):
                    return None  # comes from nowhere
                part = str(results.get(value, new.get(value, Fraction(value))))
            written.append(part)
        found = _value("".join(written))
        if found is None or found.denominator > 1 or not int(result) / 5 <= found <= int(result) * 5 or found < 1:
            return None
        if results.get(int(result), found) != found:
            return None
        results[int(result)] = found
        solution.append(f"<<{''.join(written)}={found}>>")
    answer = str(results[int(problem.answer)])
    if answer == problem.answer:
        return None
    prompt = NUMBER.sub(lambda number: str(new.get(int(number[0]), number[0])), problem.prompt)
    return Problem(prompt, answer, {"solution": "".join(solution)})


def _may_change(number: int, prompt: str) -> bool:
    """Whether nothing else in the question is the same number in words."""
    said = number in WORDS and re.search(rf"\b({WORDS[number]})\b", prompt, re.IGNORECASE)
    return number > 1 and number not in COMMON and not said


def _other(number: int, rng: random.Random) -> int:
    """About as large, and as round."""
    step = next(step for step in (100, 50, 10, 5, 1) if (number % step == 0 and number >= 2 * step) or step == 1)
    return step * max(2, round(number / step * rng.uniform(0.5, 1.8)))


def _value(expression: str) -> Fraction | None:
    try:
        return _of(ast.parse(expression, mode="eval").body)
    except (SyntaxError, ZeroDivisionError):
        return None


def _of(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int(value)):
            return Fraction(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_of(operand)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _of(left), _of(right)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return a / b
    raise SyntaxError("not an expression of whole numbers")


@cache
def _stories() -> ItemTask:
    found = find_task(SOURCE)
    assert isinstance(found, ItemTask)
    return found


@cache
def _problems() -> list[Problem]:
    """Those for training that can be varied at all, to be drawn from."""
    rng = random.Random(0)
    items = _stories().items("train")
    return [item for item in items if any(vary(item, rng) is not None for _ in range(TRIES))]

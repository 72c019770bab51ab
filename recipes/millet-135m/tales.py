"""Stories of one to five calculations: what is told, and several questions about it whose solutions differ.

A story is a block of tales.txt (tales-2.txt and so on). Each time it is drawn, its people, numbers and turns of phrase
are others, and one of its questions is asked:

    STORY {F} bakes {a} trays of muffins with {b} on each. [At the fair she|She] sells {c} of them for ${d} each.
    NUM a=2..8 b=6,12,24 c=10..60 d=1..4; c < a*b
    ASK How many muffins does {F} have left?
    - Muffins baked: a*b
    - Muffins left: #1-c
    ASK How much money does {F} make?
    - Money made: c*d

[a|b] is one of several ways to say a thing; {F}, {F2}, {F3} are women, {M}, {M2}, {M3} men. A step says first what it
comes to; #1 is what the first one came to, and pct(p, n) is p percent of n. Every step comes to a whole number above 0,
or other numbers are drawn. A block's first question is the one it was written for, and is asked every second time.
"""

from __future__ import annotations

import ast
import operator
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from millet.tasks.items import grade_answer
from millet.tasks.task import Answered, Grade, PlainReply, Problem
from millet.tasks.worked.words import worked_note

SHE = (
    "Anna Maria Lucy Nora Emma Grace Sofia Mei Aisha Priya Fatima Olga Ruth Ella Hannah Ines Yuki Clara Leah Zoe Sarah "
    "Julia Carla Janet Betty Tina Mary Jenny Lisa Wendy Kim Amy Rachel Alice Diana Jane Natalie Carol Megan Monica"
)
HE = (
    "Ben Omar Tom Luis Noah Ivan Ravi Kenji Hugo Peter Sam Ali Daniel Jack Marcus Felix Liam Oscar Chen David James "
    "John Mike Carlos Tim Joe Bob Mark Paul George Eric Steve Kevin Jason Adam Brian Henry Gary Andy Josh"
)
FIRST = 0.5  # share of a block's first question
LARGEST = 20000
TRIES = 2000
PERCENT = re.compile(r"pct\(([^,()]+),([^,()]+)\)")
COMPARED = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "!=": operator.ne}


@dataclass(frozen=True, slots=True)
class Question:
    asked: str
    steps: Sequence[tuple[str, str]]  # what is calculated, and how


@dataclass(frozen=True, slots=True)
class Tale:
    told: str
    numbers: Mapping[str, Sequence[int]]  # those that each may be
    rules: Sequence[str]
    questions: Sequence[Question]


class Tales:
    name = "tales"
    levels = 1

    def sample(self, rng: random.Random, level: int) -> Problem:
        while True:
            tale = rng.choice(tales())
            first, *others = tale.questions
            question = first if rng.random() < FIRST else rng.choice(others)
            if (found := drawn(tale, question, rng)) is not None:
                return found

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return grade_answer(problem, reply)

    def work(self, problem: Problem) -> PlainReply:
        lines: list[str] = []
        for label, expression, result in problem.meta["steps"]:
            first, *others = _worked(expression, result)
            lines += [f"{label}: {first}", *others]
        return PlainReply("\n".join(lines), f"The answer is {problem.answer}.")


def drawn(tale: Tale, question: Question, rng: random.Random) -> Problem | None:
    """None where no numbers were found that keep the rules and come out well."""
    for _ in range(TRIES):
        values = {name: rng.choice(choice) for name, choice in tale.numbers.items()}
        if not all(_holds(rule, values) for rule in tale.rules):
            continue
        steps = _solved(question, values)
        if steps is None or any(_solved(other, values) is None for other in tale.questions):
            continue  # what is told has to come out well also where it is not asked about
        people = {**_people("F", SHE, rng), **_people("M", HE, rng)}
        words = {**people, **{name: f"{value:,}" if value > 9999 else str(value) for name, value in values.items()}}
        text = _chosen(f"{tale.told} {question.asked}", rng).format(**words)
        told = [(label.format(**words), how, result) for label, how, result in steps]
        return Problem(text, str(told[-1][2]), {"steps": told})
    return None


def _solved(question: Question, values: Mapping[str, int]) -> list[tuple[str, str, int]] | None:
    """Each step with its numbers and what it comes to; None where one of them does not come out well."""
    results: list[int] = []
    steps: list[tuple[str, str, int]] = []
    for label, how in question.steps:
        expression = _with(values, results, how)
        percent = PERCENT.fullmatch(expression)
        result = _whole(f"{percent[1]}*{percent[2]}/100" if percent else expression)
        if result is None:
            return None
        results.append(result)
        steps.append((label, expression, result))
    return steps


def _worked(expression: str, result: int) -> list[str]:
    percent = PERCENT.fullmatch(expression)
    if not percent:
        return worked_note(expression, str(result))
    share, number = int(percent[1]), int(percent[2])
    lines = worked_note(f"{number}*{share}", str(number * share))
    lines[0] = f"{share}% of {number}: {lines[0]}"
    lines[-1] += f", so {result}"
    return lines


def _with(values: Mapping[str, int], results: Sequence[int], how: str) -> str:
    how = re.sub(r"#(\d)", lambda each: str(results[int(each[1]) - 1]), how)
    return re.sub(r"\b[a-w]\b", lambda each: str(values[each[0]]), how).replace(" ", "")


def _holds(rule: str, values: Mapping[str, int]) -> bool:
    left, sign, right = re.split(r"\s*(<=|>=|!=|<|>)\s*", rule)
    a, b = (_value(ast.parse(_with(values, (), side), mode="eval").body) for side in (left, right))
    return COMPARED[sign](a, b)


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Mod() as op, right=right):
            calculate = {"Add": operator.add, "Sub": operator.sub, "Mult": operator.mul, "Div": operator.truediv}
            return (calculate | {"Mod": operator.mod})[type(op).__name__](_value(left), _value(right))
    raise ValueError("not an expression of whole numbers")


def _whole(expression: str) -> int | None:
    value = _value(ast.parse(expression, mode="eval").body)
    return int(value) if value == int(value) and 0 < value <= LARGEST else None


def _people(kind: str, names: str, rng: random.Random) -> dict[str, str]:
    return dict(zip((kind, f"{kind}2", f"{kind}3"), rng.sample(names.split(), 3), strict=True))


def _chosen(text: str, rng: random.Random) -> str:
    """One of each [a|b], from the inside out."""
    while (found := re.search(r"\[([^\[\]]*)\]", text)) is not None:
        text = text[: found.start()] + rng.choice(found[1].split("|")) + text[found.end() :]
    return re.sub(r" ([.,?])", r"\1", re.sub(r" +", " ", text)).strip()


@cache
def tales() -> Sequence[Tale]:
    files = sorted(Path(__file__).parent.glob("tales*.txt"))
    return [read(block) for path in files for block in path.read_text("utf-8").split("\n\n") if block.strip()]


def read(block: str) -> Tale:
    """A block of tales.txt. Raises ValueError."""
    told, numbers, rules, questions = "", {}, [], []
    for line in block.strip().splitlines():
        kind, _, rest = line.strip().partition(" ")
        match kind:
            case "STORY":
                told = rest
            case "NUM":
                ranges, *rules = (part.strip() for part in rest.split(";"))
                numbers = {name: _choice(how) for name, _, how in (each.partition("=") for each in ranges.split())}
            case "ASK":
                questions.append(Question(rest, []))
            case "-":
                label, _, how = rest.rpartition(":")
                questions[-1].steps.append((label.strip(), how.strip()))
            case _:
                raise ValueError(f"a line begins with {kind}, not with STORY, NUM, ASK or -: {line}")
    return Tale(told, numbers, [rule for rule in rules if rule], questions)


def _choice(how: str) -> Sequence[int]:
    """2..8 is a range, 5..50/5 one in steps, 6,12,24 a choice."""
    if ".." not in how:
        return [int(value) for value in how.split(",")]
    least, _, most = how.partition("..")
    most, _, step = most.partition("/")
    return range(int(least), int(most) + 1, int(step or 1))

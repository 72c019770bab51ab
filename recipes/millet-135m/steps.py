"""GSM8K's problems for training, each calculation behind words that say what it comes to.

Its solutions say a thing around what they calculate: "They need 12*8 = <<12*8=96>>96 legs" becomes "They need legs:
12*8: 2*8=16 6, 1*8+1=8+1=9 96". So the model has said what it is after before it chooses numbers and an operation, and
nothing stands in a thought that is neither. Decimals and fractions are worked in whole numbers: "35*.1: 35*1=35, so
3.5".
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Sequence
from fractions import Fraction

from millet.tasks.extract import to_number
from millet.tasks.find import find_task
from millet.tasks.task import Answered, Grade, ItemTask, PlainReply, Problem, Split
from millet.tasks.worked.arithmetic import over, times
from millet.tasks.worked.columns import total
from millet.tasks.worked.unworked import Unworked
from millet.tasks.worked.words import CALCULATION

SOURCE = "gsm8k:$MILLET_DATA/gsm8k/train.jsonl"
WRITTEN = re.compile(r"\d+(?:\.\d+)?|\.\d+")
OPERATION = re.compile(r"[\d)%][-+*/]")
NUMBER = re.compile(r"\s*\$?(\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)%?")  # 1,148 or $4.50 or .5
OPENERS = re.compile(
    r"^(?:so|then|thus|therefore|hence|next|now|finally|and|but|first|second|also|we find that|this means(?: that)?"
    r"|that means(?: that)?|to find)\b,?\s*",
    re.IGNORECASE,
)
ENDERS = re.compile(
    r"(?:\s|^)(?:(?:is|are|was|were|will be|=|equals?|of|a total of|for a total of|for|about|to|by|at|costs?|that is"
    r"|which is|be|there are|there is|it is|or|and|so|then|which means|because|since|equal to|has|have|if|there|that’s"
    r"|that's|this)(?=\s|$)|[=:(\-*+/$,;])+\s*$",
    re.IGNORECASE,
)
LONGEST_LABEL = 110
PLACES = 2


class Steps:
    name = "gsm8k:train.jsonl"  # which problems are drawn depends on it: those that gsm8k: draws
    levels = 1

    def __init__(self) -> None:
        source = find_task(SOURCE)
        assert isinstance(source, ItemTask)
        self._source = source

    def items(self, split: Split) -> Sequence[Problem]:
        return self._source.items(split)

    def sample(self, rng: random.Random, level: int) -> Problem:
        return self._source.sample(rng, level)

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return self._source.grade(problem, reply)

    def work(self, problem: Problem) -> PlainReply:
        lines: list[str] = []
        last = ""
        for line in problem.meta.get("solution", "").splitlines():
            for label, expression, result in steps(line.strip()):
                first, *others = worked(expression, result)
                lines += [f"{label}: {first}", *others]
                last = result
        if not last or to_number(last) != to_number(problem.answer):
            raise Unworked("its last calculation is not its answer")
        return PlainReply("\n".join(lines), f"The answer is {problem.answer}.")


def steps(line: str) -> list[tuple[str, str, str]]:
    """What each calculation of a line comes to, the calculation, its result. "It has 4*12=<<4*12=48>>48 legs.":
    [("It has legs", "4*12", "48")]"""
    found: list[tuple[str, str, str]] = []
    at = 0
    notes = list(CALCULATION.finditer(line))
    for number, note in enumerate(notes):
        expression, result = note[1].replace(" ", ""), note[2].strip()
        if not OPERATION.search(expression):
            raise Unworked(f"{expression} is how it came to {result}")
        before = _without(_last_sentence(line[at : note.start()]), expression)
        at = note.end()
        if (said := NUMBER.match(line, at)) and to_number(said[1]) == to_number(result):
            at = said.end()
        until = notes[number + 1].start() if number + 1 < len(notes) else len(line)
        after = re.split(r"[.,;:(=]|\b(?:and|so|because|since|which|then|but|each of)\b", line[at:until])[0]
        at += len(after)
        label = _label(before, after)
        if _says(label, result):
            raise Unworked(f"{label} says what is yet to be found")
        found.append((label, expression, result))
    return found


def _label(before: str, after: str) -> str:
    while (trimmed := OPENERS.sub("", before.strip(" ,.;:"))) != before:
        before = trimmed
    while (trimmed := ENDERS.sub("", before).strip()) != before:
        before = trimmed
    label = re.sub(r"\s+", " ", f"{before} {after.strip()}").strip(" ,.;:-=")
    if not re.search(r"[a-z]{3}", label) or len(label) > LONGEST_LABEL:
        raise Unworked("no words say what it comes to")
    return label[0].upper() + label[1:]


def _last_sentence(words: str) -> str:
    return re.split(r"(?<=[.;?!])\s+", words)[-1]


def _says(words: str, number: str) -> bool:
    return bool(re.search(rf"(?<![\d.]){re.escape(number)}(?!\d|\.\d)", words.replace(",", "")))


def _without(words: str, expression: str) -> str:
    """The words before a calculation, without the calculation that they may end with: "It has 4 dogs x 12 legs = $"."""
    words = words.rstrip(" $")
    numbers = [Fraction(each) for each in WRITTEN.findall(expression)]
    for found in reversed(list(WRITTEN.finditer(words))):
        written = [Fraction(each) for each in WRITTEN.findall(words[found.start() :].replace(",", ""))]
        if len(written) >= len(numbers):
            if sorted(written) == sorted(numbers) and words.endswith("="):
                return words[: found.start()].rstrip(" $(")
            break
    if re.search(r"\d\s*[-+*/x]\s*\$?\d|=$", words):
        raise Unworked("the calculation is written otherwise beside its words")
    return words


def worked(expression: str, result: str) -> list[str]:
    """An expression, worked in whole numbers, an operation a line. Raises Unworked."""
    expression = re.sub(r"(\d+(?:\.\d+)?)%", r"(\1/100)", expression)
    lines: list[str] = []
    try:
        value = _evaluate(ast.parse(expression, mode="eval").body, lines)
    except (SyntaxError, ValueError):
        raise Unworked(f"{expression} is no expression") from None
    said = to_number(result)
    if said is None or value != Fraction(str(said)) or not lines:
        raise Unworked(f"{expression} is not {result}")
    return lines


def _evaluate(node: ast.expr, lines: list[str]) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as value):
            return Fraction(str(value))
        case ast.BinOp(left=left, op=ast.Mult(), right=ast.BinOp(op=ast.Div()) as part) if _is_part(part):
            return _part(part, _evaluate(left, lines), lines)
        case ast.BinOp(left=ast.BinOp(op=ast.Div()) as part, op=ast.Mult(), right=right) if _is_part(part):
            return _part(part, _evaluate(right, lines), lines)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _evaluate(left, lines), _evaluate(right, lines)
            match op:
                case ast.Add():
                    return _sum(a, b, lines)
                case ast.Sub():
                    return _sum(a, -b, lines)
                case ast.Mult():
                    return _product(a, b, lines)
                case ast.Div() if b:
                    return _quotient(a, b, lines)
    raise Unworked("not an expression of numbers")


def _is_part(node: ast.BinOp) -> bool:
    """3/4, which is no whole number."""
    match node:
        case ast.BinOp(left=ast.Constant(value=int(a)), right=ast.Constant(value=int(b))):
            return b > 0 and a % b != 0
    return False


def _part(node: ast.BinOp, of: Fraction, lines: list[str]) -> Fraction:
    """3/4 of 2000: a quarter first, where that is whole."""
    assert isinstance(node.left, ast.Constant)
    assert isinstance(node.right, ast.Constant)
    share, parts = Fraction(str(node.left.value)), Fraction(str(node.right.value))
    if parts != 100 and (of / parts).denominator == 1:
        one = _quotient(of, parts, lines)
        return one if share == 1 else _product(one, share, lines)
    return _quotient(_product(of, share, lines) if share != 1 else of, parts, lines)


def _sum(a: Fraction, b: Fraction, lines: list[str]) -> Fraction:
    scale = 10 ** max(_places(a), _places(b))
    if a < 0 or a + b < 0:
        raise Unworked("negative")
    worked = total(int(a * scale), int(b * scale))
    if scale > 1:
        sign = "+" if b > 0 else "-"
        worked = f"{said(a)}{sign}{said(abs(b))}: {worked}, so {said(a + b)}"
    lines.append(worked)
    return a + b


def _product(a: Fraction, b: Fraction, lines: list[str]) -> Fraction:
    whole = [int(each * 10 ** _places(each)) for each in (a, b)]
    if a < 0 or b < 0 or 1 in (a, b):
        raise Unworked("nothing to calculate")
    made = times(*whole)
    if whole != [a, b]:
        made[0] = f"{said(a)}*{said(b)}: {made[0]}"
        made[-1] += f", so {said(a * b)}"
    lines += made
    return a * b


def _quotient(a: Fraction, b: Fraction, lines: list[str]) -> Fraction:
    """In whole numbers: 7/2: 70/2: ... 35, so 3.5; 6/1.5: 60/15: ... 4."""
    if a <= 0 or b <= 0 or b == 1:
        raise Unworked("nothing to calculate")
    places = _places(a / b)
    below = 10 ** max(_places(b), 0)
    scaled = (a * below * 10**places, b * below)
    if any(each.denominator != 1 for each in scaled):
        below *= 10 ** _places(a)
        scaled = (a * below * 10**places, b * below)
    if b == 100:
        lines.append(f"{said(a)}/100={said(a / b)}")
        return a / b
    made = over(int(scaled[0]), int(scaled[1]))
    if scaled != (a, b):
        made[0] = f"{said(a)}/{said(b)}: {made[0]}"
        made[-1] += f", so {said(a / b)}" if places else ""
    lines += made
    return a / b


def _places(number: Fraction) -> int:
    """Digits behind the point. Raises Unworked where they are more than money has."""
    for places in range(PLACES + 1):
        if (number * 10**places).denominator == 1:
            return places
    raise Unworked("too many digits behind the point")


def said(number: Fraction) -> str:
    return f"{number.numerator}" if number.denominator == 1 else f"{float(number):.2f}".rstrip("0")

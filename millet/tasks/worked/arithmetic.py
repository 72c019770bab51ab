"""Expressions, one operation a line, as they are done on paper: in columns (columns.py); quotients digit by digit."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from millet.tasks.worked.columns import by_digit, total
from millet.tasks.worked.unworked import Unworked, came_to


def chain_sum(entry: Mapping[str, Any]) -> list[str]:
    return _expression(entry)


def products(entry: Mapping[str, Any]) -> list[str]:
    return _expression(entry)


def _expression(entry: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    value = evaluate(ast.parse(entry["metadata"]["expression"].replace(" ", ""), mode="eval").body, lines)
    came_to(value, entry["answer"])
    return lines


def evaluate(node: ast.expr, lines: list[str]) -> int:
    """The value of an expression of whole numbers, whose quotients are rounded down; each operation is a line."""
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -evaluate(operand, lines)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return evaluate(operand, lines)
        case ast.BinOp(left=left, op=op, right=right):
            a = evaluate(left, lines)
            b = evaluate(right, lines)
            match op:
                case ast.Add():
                    lines.append(total(a, b))
                    return a + b
                case ast.Sub():
                    lines.append(total(a, -b))
                    return a - b
                case ast.Mult():
                    lines.extend(times(a, b))
                    return a * b
                case ast.Div() if b:
                    lines.extend(over(a, b))
                    return a // b
    raise Unworked("not an expression of whole numbers")


def times(a: int, b: int) -> list[str]:
    """left * right by each digit of the shorter one, then the sum of these."""
    left, right = abs(a), abs(b)
    if len(str(left)) < len(str(right)):
        left, right = right, left
    lines = []
    if len(str(right)) == 1 or right % 10 ** (len(str(right)) - 1) == 0:
        lines.append(by_digit(left, right))
    else:
        parts = [int(digit) * 10**place for place, digit in enumerate(reversed(str(right))) if digit != "0"][::-1]
        for part in parts:
            lines.append(by_digit(left, part))
        sum_ = left * parts[0]
        for part in parts[1:]:
            lines.append(total(sum_, left * part))
            sum_ += left * part
    if (a < 0 or b < 0) and left * right:
        lines.append(f"{a}*{b}={a * b}")
    return lines


def over(a: int, b: int) -> list[str]:
    """a / b, rounded down."""
    number, divisor = abs(a), abs(b)
    quotient = number // divisor
    lines: list[str] = []
    if 1 < divisor < 10 and quotient > 9:
        lines.append(f"{number}/{divisor}: {', '.join(short_division(number, divisor))}, so {quotient}")
        if (a, b) == (number, divisor) and not a % b:
            return lines
    elif divisor > 9 and quotient:
        lines += long_division(number, divisor)
    return [*lines, f"{a}/{b}={a // b}{' rounded down' if a % b else ''}"]


def long_division(number: int, divisor: int) -> list[str]:
    """Digit by digit of the quotient: what the first digits make of it is tried, then less as long as it is too much.

    782, 23: ["78: 7/2 about 3, 23*3: 3*3=9 9, 2*3=6 69<78, 78-69: 8-9<0 18-9=9 9, 7-6-1=0 09, so 9",
    "92: 9/2 about 4, 23*4: 3*4=12 2, 2*4+1=8+1=9 92=92"]
    """
    lines: list[str] = []
    rest = 0
    for digit in str(number):
        rest = rest * 10 + int(digit)
        if rest < divisor:
            lines += [f"{rest}<{divisor}: 0"] if lines else []
            continue
        first, beside = int(str(divisor)[0]), int(str(rest)[: len(str(rest)) - len(str(divisor)) + 1])
        about, most = min(9, beside // first), rest // divisor
        steps = [f"{by_digit(divisor, tried)}>{rest}" for tried in range(about, most, -1)]
        product = divisor * most
        steps.append(f"{by_digit(divisor, most)}{'<' if product < rest else '='}{rest}")
        if product < rest:
            steps.append(total(rest, -product))
        lines.append(f"{rest}: {beside}/{first} about {about}, {', '.join(steps)}")
        rest -= product
    return lines


def short_division(number: int, divisor: int) -> list[str]:
    """number / divisor, which has one digit: what each digit of the quotient takes, and what is left for the next.

    632, 8: ["63=56+7=8*7+7", "72=72+0=8*9+0"]
    """
    steps: list[str] = []
    rest = 0
    for digit in str(number):
        rest = rest * 10 + int(digit)
        if rest >= divisor or steps:
            steps.append(_divided(rest, divisor))
            rest %= divisor
    return steps or [_divided(number, divisor)]


def _divided(number: int, divisor: int) -> str:
    """53=49+4=7*7+4: the nearest multiple first."""
    quotient, rest = divmod(number, divisor)
    return f"{number}={number - rest}+{rest}={divisor}*{quotient}+{rest}"

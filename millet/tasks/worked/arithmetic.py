"""Expressions, one operation a line, as they are done on paper: in columns (columns.py); quotients by subtraction."""

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
    """a / b, rounded down: from the highest digit of the quotient on, what is left after each."""
    rest, divisor, lines = abs(a), abs(b), []
    quotient = rest // divisor
    down = "" if a % b == 0 else " rounded down"
    if 1 < divisor < 10 and quotient > 9:
        steps = ", ".join(short_division(rest, divisor))
        return [
            f"{rest}/{divisor}: {steps}, so {quotient}",
            *([] if a == rest and b == divisor else [f"{a}/{b}={a // b}{down}"]),
        ]
    places = [int(digit) * 10**place for place, digit in enumerate(reversed(str(quotient))) if digit != "0"][::-1]
    if divisor > 9 or (divisor > 1 and len(places) > 1):
        for part in places:
            lines.append(by_digit(divisor, part))
            if rest - divisor * part:
                lines.append(total(rest, -divisor * part))
            rest -= divisor * part
        if len(places) > 1:
            lines.append("+".join(map(str, places)) + f"={quotient}")
    lines.append(f"{a}/{b}={a // b}{down}")
    return lines


def short_division(number: int, divisor: int) -> list[str]:
    """number / divisor, which has one digit: what each digit of the quotient takes, and what is left for the next.

    632, 8: ["63=8*7+7", "72=8*9+0"]
    """
    steps: list[str] = []
    rest = 0
    for digit in str(number):
        rest = rest * 10 + int(digit)
        if rest >= divisor or steps:
            steps.append(f"{rest}={divisor}*{rest // divisor}+{rest % divisor}")
            rest %= divisor
    return steps

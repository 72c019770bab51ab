"""Linear equations in one unknown: what stands beside it goes to the other side, then its factor is divided by."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

from millet.tasks.worked.arithmetic import over
from millet.tasks.worked.columns import total
from millet.tasks.worked.unworked import Unworked, came_to


def simple_equations(entry: Mapping[str, Any], divide: Callable[[int, int], list[str]] = over) -> list[str]:
    """divide: the lines of a quotient."""
    name = entry["metadata"]["variable"]
    left, _, right = entry["metadata"]["equation"].partition("=")
    tree = ast.parse(left.strip(), mode="eval").body
    beside = _at(tree, name, 0)
    factor = _at(tree, name, 1) - beside
    value = int(right)
    if not factor:
        raise Unworked("the unknown cancels out")
    lines, rest = [], value - beside
    term = name if factor == 1 else f"{factor}*{name}"
    if beside:
        lines.append(f"{term}={total(value, -beside)}")
    if factor < 0:
        factor, rest = -factor, -rest
        lines.append(f"{name if factor == 1 else f'{factor}*{name}'}={rest}")
    if factor != 1:
        lines += divide(rest, factor)
    lines.append(f"{name}={rest // factor}")
    came_to(rest // factor, entry["answer"])
    return lines


def _at(node: ast.expr, name: str, value: int) -> int:
    """What an expression without quotients is where the unknown has this value."""
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=found) if found == name:
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_at(operand, name, value)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _at(left, name, value), _at(right, name, value)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
    raise Unworked("not a linear equation of whole numbers")

"""Three numbers to a target: first what their sums and differences make, then each product of two with the third.

More than half of reasoning-gym's problems need sums and differences alone, and most others such a product; the rest is
not worked. There are four sums and differences: of two numbers the sum and the difference, each with the third in two
ways. By its tens a product is seen to be too large.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from millet.tasks.worked.arithmetic import times
from millet.tasks.worked.columns import total
from millet.tasks.worked.unworked import Unworked, came_to


def countdown(entry: Mapping[str, Any]) -> list[str]:
    """The thought; its last line is the expression, which need not be the entry's own."""
    numbers, target = entry["metadata"]["numbers"], entry["metadata"]["target"]
    if len(numbers) != 3:
        raise Unworked("only three numbers are worked")
    a, b, c = numbers
    lines = []
    for line, expression in chain(_sums(a, b, c, target), _products(a, b, c, target)):
        lines.append(f"{line}{'yes' if expression else 'no'}")
        if expression:
            came_to(eval(expression), str(target))
            return [*lines, expression]
    raise Unworked("neither sums nor a product and the third lead to the target")


def _sums(a: int, b: int, c: int, target: int) -> Iterator[tuple[str, str]]:
    """What is tried, and the expression if it leads to the target. A line ends with the try that does."""
    high, low = max(a, b), min(a, b)
    sum_, difference = f"({a}+{b})", f"({high}-{low})"
    for first, tries in (
        (total(a, b), [(a + b, c, f"{sum_}+{c}"), (a + b, -c, f"{sum_}-{c}")]),
        (total(high, -low), [(c, high - low, f"{c}+{difference}"), (c, low - high, f"{c}-{difference}")]),
    ):
        tried = []
        for left, right, expression in tries:
            tried.append(f"{total(left, right) if right else f'{left}+0={left}'}, for {target} ")
            if left + right == target:
                yield f"{first}; {'no; '.join(tried)}", expression
                return
        yield f"{first}; {'no; '.join(tried)}", ""


def _products(a: int, b: int, c: int, target: int) -> Iterator[tuple[str, str]]:
    for x, y, rest in ((a, b, c), (a, c, b), (b, c, a)):
        least = _tens(x) * _tens(y)
        if least > target + rest:
            yield f"{x}*{y}: {_tens(x)}*{_tens(y)}={least}, too much, ", ""
            continue
        away = x * y - target
        steps = [*times(x, y), total(max(x * y, target), -min(x * y, target))]
        yield (
            f"{'; '.join(steps)}, for {rest} ",
            f"({x}*{y}){'-' if away > 0 else '+'}{rest}" if abs(away) == rest else "",
        )


def _tens(number: int) -> int:
    """Rounded down to tens, where it has any."""
    return number if number < 10 else number // 10 * 10

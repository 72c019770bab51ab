"""How figures are written for people, in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Sequence

from millet.evaluate.bootstrap import Estimate
from millet.evaluate.metrics import AMOUNTS

TITLES = {
    "score": "mean score",
    "thinking_tokens": "thinking tokens",
    "reply_tokens": "reply tokens",
    "truncated": "cut off",
    "thought_cut": "thought cut short",
    "looped": "went in circles",
    "closed_itself": "thought closed by itself",
    "tokens_per_second": "tokens/s",
}
NOTHING = "–"


def told_apart(names: Sequence[str], typed: Sequence[str]) -> Sequence[str]:
    """Names of models; where two have the same, such as the stage 2-grpo of two runs, what was typed for each."""
    return names if len(set(names)) == len(names) else typed


def title(name: str) -> str:
    """The head of a figure's column; pass@k and majority@k are called that."""
    return TITLES.get(name, name)


def figure(name: str, value: float, signed: bool = False, digits: int = 1) -> str:
    """Shares in per cent with so many digits, differences of shares in points of them, amounts as they are."""
    sign = "+" if signed else ""
    amount = f"{value:{sign}.0f}" if name in AMOUNTS else f"{100 * value:{sign}.{digits}f}"
    return "0" + amount[2:] if amount.startswith("-") and not amount.strip("-0.") else amount


def value_of(name: str, estimate: Estimate | None, signed: bool = False) -> str:
    if estimate is None:
        return NOTHING
    unit = "" if name in AMOUNTS or signed else "%"
    return figure(name, estimate.value, signed) + unit


def range_of(name: str, estimate: Estimate | None, signed: bool = False, digits: int = 1) -> str:
    if estimate is None:
        return ""
    between = " to " if signed else "–"
    return between.join(figure(name, end, signed, digits) for end in (estimate.low, estimate.high))


def columns(k: int) -> list[str]:
    """The figures that a table shows, in order."""
    solved = ["pass@1", f"pass@{k}", f"majority@{k}"] if k > 1 else ["pass@1"]
    return [*solved, "thinking_tokens", "closed_itself", "thought_cut", "truncated", "tokens_per_second"]

from typing import Any, get_args

import pytest

from millet.reasoning.prompt import parse_think
from millet.serve.effort import BUDGETS, Effort, think_of


@pytest.mark.parametrize(
    ("effort", "thinking", "think"),
    [
        (None, None, None),
        ("none", None, "off"),
        ("minimal", None, 128),
        ("low", None, 512),
        ("medium", None, 2048),
        ("high", None, 8192),
        ("xhigh", None, "on"),
        ("max", None, "on"),
        (None, {"type": "enabled"}, "on"),
        (None, {"type": "enabled", "budget_tokens": None}, "on"),
        (None, {"type": "disabled"}, "off"),
        (None, {"type": "enabled", "budget_tokens": 77}, 77),
        (None, {"type": "adaptive"}, "auto"),
        (None, {"type": "auto"}, "auto"),
        ("low", {"type": "adaptive"}, 512),
        ("low", {"type": "enabled"}, 512),
        ("none", {"type": "enabled"}, "on"),
        ("high", {"type": "disabled"}, "off"),
        ("high", {"type": "disabled", "budget_tokens": 77}, "off"),
        ("high", {"type": "enabled", "budget_tokens": 77}, 77),
    ],
)
def test_think_of(effort: str | None, thinking: dict[str, Any] | None, think: Any) -> None:
    assert think_of(effort, thinking) == think


def test_every_effort_is_a_think_that_the_assistant_takes_and_more_is_more() -> None:
    assert tuple(BUDGETS) == get_args(Effort)
    parsed = [parse_think(think) for think in BUDGETS.values()]
    budgets = [float("inf") if budget is None else budget for _, budget in parsed]
    assert budgets == sorted(budgets)

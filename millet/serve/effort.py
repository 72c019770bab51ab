"""How long a reply may think, from the switches that the wire formats have for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from millet.reasoning.prompt import Think

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

BUDGETS: Mapping[str, Think] = {
    "none": "off",
    "minimal": 128,
    "low": 512,
    "medium": 2048,
    "high": 8192,
    "xhigh": "on",
    "max": "on",
}


def think_of(effort: str | None = None, thinking: Mapping[str, Any] | None = None) -> Think | None:
    """The `think` option, or None where the request leaves it to the model.

    effort: a word of `Effort`. thinking: {"type": "enabled" | "disabled" | "adaptive" | "auto", "budget_tokens": ...},
    as Anthropic and DeepSeek have it. A budget there is the exacter word and wins over an effort, and so does
    "disabled"; "adaptive" and "auto" leave it to the effort, or else to the model.
    """
    thinking = thinking or {}
    kind = thinking.get("type")
    if kind == "disabled":
        return "off"
    if thinking.get("budget_tokens") is not None:
        return thinking["budget_tokens"]
    if effort is not None and not (kind == "enabled" and effort == "none"):
        return BUDGETS[effort]
    return {None: None, "enabled": "on"}.get(kind, "auto")

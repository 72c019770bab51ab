"""Attempts made by hand."""

from __future__ import annotations

from typing import Any

from millet.evaluate.results import Attempt, Evaluation, Group, Sample, Settings

ADD = Group("add", 0)


def sample(solved: float = 1.0, **fields: Any) -> Sample:
    plain = {
        "reasoning": "Hm.",
        "content": "4",
        "answer": "4" if solved == 1 else "5",
        "score": float(solved),
        "reason": "",
        "finish_reason": "stop",
        "thought_ended": "model",
        "completion_tokens": 10,
        "reasoning_tokens": 6,
        "seconds": 1.0,
    }
    return Sample(**(plain | fields))


def attempt(index: int, *samples: Sample, group: Group = ADD, prompt: str = "2 + 2?") -> Attempt:
    return Attempt(group, index, f"{prompt} ({index})", "4", samples)


def evaluation(attempts: list[Attempt], k: int = 1, model: str = "toy", asked: int | None = None) -> Evaluation:
    settings = Settings(problems=max(1, len(attempts)), k=k)
    return Evaluation(model, settings, attempts, len(attempts) if asked is None else asked, seconds=2.0)


def solved(*shares: float, k: int = 1, group: Group = ADD) -> list[Attempt]:
    """One problem for each share, with so many of its k replies right."""
    return [
        attempt(i, *(sample(float(j < round(share * k))) for j in range(k)), group=group)
        for i, share in enumerate(shares)
    ]

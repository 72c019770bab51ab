"""The project's own toy start: a model of 0.1 million weights that guesses half of the time and else thinks.

It was made by fine-tuning a random network on worked examples of docs/teach.md's task, the sum of a number's digits, of
which every other one guesses (`tests/fixtures/make_toy_start.py`). What is left for reward to teach is to think first.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

from millet.tasks.task import Problem

ROOT = Path(__file__).parents[2]
TOY_START = ROOT / "tests" / "fixtures" / "toy_start"
WAY = (ROOT / "docs" / "teach.md").read_text().partition("\n## The whole way, once\n")[2].partition("\n## ")[0]


def documented(name: str) -> str:
    """The Python file that docs/teach.md shows under this name."""
    return re.findall(r"^```python\n(.*?)^```", WAY.partition(f"`{name}`")[2], re.DOTALL | re.MULTILINE)[0]


def commands() -> str:
    """What docs/teach.md has one type, in order."""
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", WAY, re.DOTALL | re.MULTILINE))


def example(problem: Problem, guess: random.Random | None = None) -> dict[str, Any]:
    """A conversation that works the problem out, or guesses."""
    total, *digits = map(int, re.findall(r"\d", problem.prompt))
    steps = []
    for digit in digits:
        steps.append(f"{total} + {digit} = {total + digit}")
        total += digit
    thought, answer = (", ".join(steps), total) if guess is None else ("I guess.", guess.randrange(1, 19))
    reply = {"role": "assistant", "reasoning": thought, "content": f"The answer is {answer}."}
    return {"messages": [{"role": "user", "content": problem.prompt}, reply]}


def write_examples(path: Path, conversations: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(each) + "\n" for each in conversations))

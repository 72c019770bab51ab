"""Questions from a file, to which nobody has to know the answers.

One JSON object a line, {"question": "..."}; other keys are not looked at, so a file of a task serves as well.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from millet.errors import BadRequest
from millet.tasks.task import Answered, Grade, Problem, Split


class Prompts:
    """The file as a task with one level, all of it for training. Its replies are not graded: whatever is said passes.

    Raises BadRequest that names file and line, and for a file without questions.
    """

    levels = 1

    def __init__(self, name: str, path: Path) -> None:
        """name: as the recipe calls the file."""
        self.name = name
        self._items = [Problem(question, "") for question in _questions(path)]

    def __getstate__(self) -> dict[str, Any]:
        """For graders, which need no items."""
        return {"name": self.name}

    def items(self, split: Split) -> Sequence[Problem]:
        return self._items if split == "train" else ()

    def sample(self, rng: random.Random, level: int) -> Problem:
        return rng.choice(self._items)

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return Grade(1.0, "not graded")


def _questions(path: Path) -> list[str]:
    try:
        lines = path.read_text("utf-8").split("\n")  # not splitlines: U+2028 may stand in a JSON string
    except OSError as error:
        raise BadRequest(f"{path} cannot be read ({error.strerror}); check the recipe's prompts") from error
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path} is not UTF-8; convert it") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadRequest(f"{path} line {number} is not JSON; write one object a line") from error
        question = row.get("question") if isinstance(row, dict) else None
        if not isinstance(question, str) or not question.strip():
            raise BadRequest(f'{path} line {number} has no question; it must be {{"question": "..."}}')
        found.append(question)
    if not found:
        raise BadRequest(f"{path} has no question; add some")
    return found

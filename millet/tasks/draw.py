"""Which problems training and evaluation get, such that evaluation never sees one that training could have seen.

Two walls stand between the splits. Their random seeds differ: every seed is a SHA-256 digest with the split in its last
bit. And their problems differ: where a generator knows only some thousand problems, other seeds soon give the same
ones, so a prompt belongs to one split by its own hash, and a draw that meets the other split's is made anew.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from functools import lru_cache

from millet.errors import BadRequest
from millet.tasks.task import ItemTask, Problem, Split, Task

EVAL_SHARE = 4  # one prompt in so many is for evaluation alone
_TRIES = 200  # a split that has a hundredth of the prompts is missed 200 times in 1 of 7 draws; a quarter, never


def draw(task: Task, split: Split, level: int, index: int, seed: int = 0) -> Problem:
    """The index-th problem of a split: the same arguments always give the same problem.

    Of a task over a fixed list, successive indices take each item once before any comes again. Raises BadRequest for a
    level that there is not, and where the task knows so few problems that the split has none.
    """
    if not 0 <= level < task.levels:
        raise BadRequest(f"{task.name} has no level {level}; its levels are 0 to {task.levels - 1}")
    if isinstance(task, ItemTask):
        return _draw_item(task, split, index, seed)
    for attempt in range(_TRIES):
        problem = task.sample(random.Random(seed_of(task.name, split, level, index, seed, attempt)), level)
        if split_of(problem.prompt) == split:
            return problem
    raise BadRequest(
        f"{task.name}, level {level}, knows too few different problems: none of {_TRIES} draws is for {split}; "
        "let it sample from more"
    )


def split_of(prompt: str) -> Split:
    """The split that a prompt belongs to, wherever it comes from."""
    return "eval" if hashlib.sha256(prompt.encode()).digest()[0] % EVAL_SHARE == 0 else "train"


def seed_of(name: str, split: Split, *numbers: int) -> int:
    """A seed of 257 bits; the last one is the split."""
    digest = hashlib.sha256("\n".join([name, split, *map(str, numbers)]).encode()).digest()
    return int.from_bytes(digest, "big") << 1 | (split == "eval")


def _draw_item(task: ItemTask, split: Split, index: int, seed: int) -> Problem:
    items = task.items(split)
    if not items:
        raise BadRequest(f"{task.name} has no problems for {split}; give it a file with more")
    epoch, place = divmod(index, len(items))
    return items[_order(len(items), seed_of(task.name, split, epoch, seed))[place]]


@lru_cache(maxsize=64)
def _order(count: int, seed: int) -> Sequence[int]:
    return random.Random(seed).sample(range(count), count)

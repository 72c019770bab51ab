import random
from collections.abc import Sequence

import pytest

from millet.errors import BadRequest
from millet.tasks.draw import draw, seed_of, split_of
from millet.tasks.task import Problem, Split
from tests.tasks.toys import Few, Sums


class Listed(Sums):
    def items(self, split: Split) -> Sequence[Problem]:
        return [Problem(f"{split} {i}", str(i)) for i in range(7)]


def test_the_same_arguments_draw_the_same_problem_and_others_draw_others():
    first = [draw(Sums(), "train", 2, index) for index in range(20)]
    assert first == [draw(Sums(), "train", 2, index) for index in range(20)]
    assert len({problem.prompt for problem in first}) == 20
    assert first != [draw(Sums(), "train", 2, index, seed=1) for index in range(20)]


def test_no_seed_of_one_split_is_ever_one_of_the_other(seed: int):
    """The last bit is the split's, so this holds for all seeds, and not only for those that were tried."""
    rng = random.Random(seed)
    for _ in range(1000):
        numbers = [rng.randrange(100) for _ in range(4)]
        assert seed_of("sums", "train", *numbers) % 2 == 0
        assert seed_of("sums", "eval", *numbers) % 2 == 1


def test_seeds_depend_on_every_part():
    base = ("sums", "train", 1, 2, 3)
    others = [
        ("sum", "train", 1, 2, 3),
        ("sums", "train", 2, 2, 3),
        ("sums", "train", 1, 3, 3),
        ("sums", "train", 12, 3),
    ]
    assert len({seed_of(*each) for each in [base, *others]}) == 5


def test_training_meets_no_problem_of_evaluation_even_where_there_are_few():
    """Level 0 has 100 problems: with other seeds alone, 2000 draws would meet them all."""
    seen = {draw(Sums(), "train", 0, index).prompt for index in range(2000)}
    held_out = {draw(Sums(), "eval", 0, index).prompt for index in range(500)}
    assert len(seen) > 60
    assert len(held_out) > 10
    assert not seen & held_out
    assert {split_of(prompt) for prompt in held_out} == {"eval"}


def test_a_task_without_problems_for_a_split_says_so():
    split: Split = "train" if split_of("What is 1 + 1?") == "eval" else "eval"
    with pytest.raises(BadRequest, match="too few different problems"):
        draw(Few(), split, 0, 0)


def test_levels_that_there_are_not():
    with pytest.raises(BadRequest, match="no level 3; its levels are 0 to 2"):
        draw(Sums(), "train", 3, 0)
    with pytest.raises(BadRequest, match="no level -1"):
        draw(Sums(), "train", -1, 0)


def test_items_come_once_each_before_any_comes_again():
    epochs = [[draw(Listed(), "eval", 0, 7 * epoch + i).prompt for i in range(7)] for epoch in range(3)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert all(prompt.startswith("eval") for prompt in epochs[0])

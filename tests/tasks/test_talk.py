"""The recipe's reward for talk: what says things once, and to its end."""

import random

import pytest

from millet.tasks.check import check
from millet.tasks.find import find_task
from millet.tasks.grading import Graders
from millet.tasks.task import PlainReply, Problem

QUESTION = Problem("Why does bread rise?", "")
ONCE = "Yeast eats the sugar in the flour and gives off a gas, which stays in the dough and lifts it."


@pytest.fixture
def score():
    task = find_task("recipes/millet-135m/talk.py")
    return lambda content: task.grade(QUESTION, PlainReply("", content)).score


def test_what_is_said_once_and_to_its_end_is_worth_all(score):
    assert score(ONCE) == 1
    assert score(f"{QUESTION.prompt} {ONCE}") == 1
    assert score(ONCE.removesuffix(".")) == 0.5


def test_saying_it_again_costs_more_the_more_of_it_there_is(score):
    other = (
        "That is why a warm kitchen helps: the yeast works faster there, and bread is ready sooner than in the cold."
    )
    scores = [score(f"{ONCE} {other} {' '.join([ONCE] * times)}") for times in range(5)]
    assert scores[0] == 1
    assert scores == sorted(scores, reverse=True)
    assert 0 < scores[1] < 1
    assert scores[4] == 0


@pytest.mark.parametrize(
    "content", ["", "Yeast.", QUESTION.prompt, f"{QUESTION.prompt}\n" * 40, "The answer is:\n" * 40]
)
def test_hardly_a_word_is_worth_nothing(score, content: str):
    assert score(content) == 0


def test_no_trick_is_paid():
    with Graders(workers=2) as graders:
        assert [row for row in check(find_task("recipes/millet-135m/talk.py"), graders) if not row.accepted] == []


def test_it_asks_what_the_answers_to_learn_from_were_asked():
    task = find_task("recipes/millet-135m/talk.py")
    asked = {task.sample(random.Random(seed), 0).prompt for seed in range(400)}
    assert len(asked) > 300

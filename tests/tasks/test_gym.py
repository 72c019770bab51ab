import random
from dataclasses import replace

import pytest

from millet.errors import UnknownTask
from millet.tasks import gym
from millet.tasks.draw import draw
from millet.tasks.gym import GymTask, gym_names
from millet.tasks.task import PlainReply, Problem

SHOWN = ["chain_sum", "basic_arithmetic", "letter_counting", "number_sorting", "spell_backward", "leg_counting"]
SHOWN += ["calendar_arithmetic", "family_relationships", "simple_equations", "time_intervals", "countdown", "products"]


def score(task: GymTask, problem: Problem, content: str) -> float:
    return task.grade(problem, PlainReply("", content)).score


@pytest.mark.parametrize("name", gym_names())
def test_every_dataset_is_a_task_whose_right_answers_are_right(name: str):
    task = GymTask(name)
    assert task.name == f"gym:{name}"
    assert task.levels >= 1
    problem = draw(task, "train", 0, 0)
    assert problem.prompt
    assert problem.meta["entry"]["question"] == problem.prompt
    if problem.answer:
        assert score(task, problem, problem.answer) == 1
    assert score(task, problem, "") == 0


@pytest.mark.parametrize("name", SHOWN)
def test_levels_are_the_curriculums_behind_the_default_settings(name: str):
    task = GymTask(name)
    assert task.levels > 3
    for level in range(task.levels):
        problem = draw(task, "train", level, 1)
        assert problem == draw(task, "train", level, 1)
        assert problem.prompt != draw(task, "train", level, 2).prompt
        assert score(task, problem, f"I thought.\nThe answer is {problem.answer}") == 1
        assert score(task, problem, f"It is \\boxed{{{problem.answer}}}.") == 1


def test_levels_with_settings_that_the_dataset_refuses_are_left_out():
    assert GymTask("caesar_cipher").levels == 3  # its curriculum has four, the last two beyond the alphabet
    assert GymTask("acre").levels == 1  # it has none


def test_level_0_has_the_default_settings_and_the_last_level_is_harder():
    task = GymTask("chain_sum")
    default = [task.sample(random.Random(i), 0).meta["entry"]["metadata"]["difficulty"] for i in range(3)]
    hardest = [task.sample(random.Random(i), task.levels - 1).prompt for i in range(3)]
    assert all(each["num_terms"] == (2, 6) and each["num_digits"] == (1, 4) for each in default)
    assert max(map(len, hardest)) > 100


def test_shares_for_what_is_not_right_are_not_paid():
    task = GymTask("spell_backward")
    problem = draw(task, "train", 0, 0)
    entry = problem.meta["entry"]
    close = problem.answer[:-1] + "#"
    assert 0 < gym._scorer("spell_backward").score_answer(close, entry) < 1
    assert score(task, problem, close) == 0
    assert score(task, problem, f"{problem.answer}, {close}") == 0


def test_what_a_scorer_cannot_read_is_wrong_and_no_fault():
    task = GymTask("prime_factorization")
    grade = task.grade(draw(task, "train", 0, 0), PlainReply("", "two times three"))
    assert (grade.score, grade.reason) == (0, "unreadable to the scorer (ValueError)")


def test_a_scorer_that_fails_with_right_answers_too_is_a_fault(monkeypatch: pytest.MonkeyPatch):
    task = GymTask("prime_factorization")
    problem = draw(task, "train", 0, 0)
    unknown = replace(problem, answer="")
    with pytest.raises(ValueError, match="invalid literal"):
        task.grade(unknown, PlainReply("", "two times three"))

    def broken(answer: str, entry: object) -> float:
        raise KeyError(answer)

    monkeypatch.setattr(gym._scorer("prime_factorization"), "score_answer", broken)
    with pytest.raises(KeyError):
        task.grade(problem, PlainReply("", problem.answer))


def test_python_is_not_an_answer():
    task = GymTask("countdown")
    problem = draw(task, "train", 0, 0)
    grade = task.grade(problem, PlainReply("", "__import__('os').getpid()"))
    assert (grade.score, grade.reason) == (0, "not an answer")


def test_generators_that_print_do_not_print_here(capsys: pytest.CaptureFixture[str]):
    for index in range(3):
        draw(GymTask("bf"), "train", 0, index)
    assert capsys.readouterr().out == ""


def test_datasets_that_there_are_not():
    for name in ("chain_sums", "composite"):
        with pytest.raises(UnknownTask):
            GymTask(name)

"""The figures of an evaluation, against enumeration and by hand."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from millet.evaluate.compare import compare
from millet.evaluate.metrics import majority, pass_at_k, steps_to, summarise
from millet.evaluate.results import Group
from tests.evaluate.toys import attempt, evaluation, sample, solved


def test_pass_at_k_is_what_enumeration_gives() -> None:
    for n in range(1, 8):
        for c in range(n + 1):
            outcomes = [True] * c + [False] * (n - c)
            for k in range(1, n + 1):
                drawn = list(itertools.combinations(outcomes, k))
                assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, drawn)) / len(drawn)), (n, c, k)


def test_pass_at_k_is_unbiased() -> None:
    """Over all outcomes of n replies, each right with chance p, its mean is the chance of k fresh ones."""
    n, k, p = 6, 3, 0.3
    mean = sum(
        pass_at_k(n, sum(outcome), k) * p ** sum(outcome) * (1 - p) ** (n - sum(outcome))
        for outcome in itertools.product((0, 1), repeat=n)
    )
    assert mean == pytest.approx(1 - (1 - p) ** k)


def test_majority_is_the_mean_over_orders(seed: int) -> None:
    """Throwing a coin between equals is taking the first of them in a random order."""
    generator = random.Random(seed)
    for _ in range(30):
        answers = [generator.choice(["4", "5", "6", ""]) for _ in range(5)]
        samples = [sample(float(answer == "4"), answer=answer) for answer in answers]
        outcomes = []
        for order in itertools.permutations(samples):
            said = [each for each in order if each.answer] or list(order)
            winner, _ = Counter(each.answer for each in said).most_common(1)[0]
            outcomes.append(next(each.solved for each in said if each.answer == winner))
        assert majority(samples) == pytest.approx(sum(outcomes) / len(outcomes)), answers


def test_majority_by_hand() -> None:
    assert majority([sample(1), sample(1), sample(0)]) == 1.0
    assert majority([sample(1), sample(0), sample(0)]) == 0.0
    assert majority([sample(1), sample(0)]) == 0.5
    silent = sample(0, answer="")
    assert majority([silent, silent, sample(1)]) == 1.0  # who says nothing has no say
    assert majority([silent, silent]) == 0.0


def test_there_is_no_majority_where_nobody_can_tell_which_answers_agree() -> None:
    code = Group("code", 0)
    programs = [attempt(i, sample(1, answer=None), sample(0, answer=None), group=code) for i in range(3)]
    sums = [attempt(i, sample(1), sample(1)) for i in range(3)]
    found = summarise(evaluation([*programs, *sums], k=2))
    assert found.groups[code]["majority@2"] is None
    assert found.groups[code]["pass@2"] is not None
    assert found.mean["majority@2"] is not None
    assert found.mean["majority@2"].value == 1, "the mean is of the tasks that have one"
    assert compare(evaluation(programs, k=2), evaluation(programs, k=2)).mean["majority@2"] is None


def test_where_pass_at_k_is_told() -> None:
    assert steps_to(1) == [1]
    assert steps_to(8) == [1, 2, 4, 8]
    assert steps_to(10) == [1, 2, 4, 8, 10]


def test_figures_by_hand() -> None:
    first = attempt(0, sample(1, completion_tokens=10, reasoning_tokens=4, seconds=1.0), sample(0.5, answer="7"))
    cut = sample(0, finish_reason="length", thought_ended="budget", completion_tokens=30, reasoning_tokens=20)
    bare = sample(0, thought_ended=None, reasoning_tokens=0, completion_tokens=2, seconds=3.0, finish_reason="loop")
    found = summarise(evaluation([first, attempt(1, cut, bare)], k=2))
    values = {name: estimate.value for name, estimate in found.mean.items() if estimate}
    assert values == pytest.approx(
        {
            "pass@1": 0.25,
            "pass@2": 0.5,
            "majority@2": 0.25,
            "score": 0.375,
            "thinking_tokens": 7.5,
            "reply_tokens": 13.0,
            "truncated": 0.25,
            "thought_cut": 0.25,
            "looped": 0.25,
            "closed_itself": 2 / 3,
            "tokens_per_second": 52 / 2.0,  # all tokens in the time of the whole
        }
    )
    assert found.groups[first.group] == found.mean


def test_a_thought_that_was_never_closed_did_not_close_itself() -> None:
    lost = sample(0, finish_reason="length", thought_ended=None, reasoning_tokens=10, content="")
    found = summarise(evaluation([attempt(0, lost), attempt(1, sample(1))])).mean["closed_itself"]
    assert found is not None
    assert found.value == 0.5


def test_every_task_counts_the_same() -> None:
    attempts = solved(1, 1, 1, 1, 1, 1, group=Group("easy", 0)) + solved(0, 0, group=Group("hard", 2))
    found = summarise(evaluation(attempts))
    assert found.mean["pass@1"] is not None
    assert found.mean["pass@1"].value == 0.5
    assert [str(group) for group in found.groups] == ["easy", "hard, level 2"]


def test_the_same_replies_give_the_same_intervals() -> None:
    attempts = solved(*(i % 3 == 0 for i in range(40)))
    assert summarise(evaluation(attempts)) == summarise(evaluation(attempts))
    found = summarise(evaluation(attempts)).mean["pass@1"]
    assert found is not None
    assert 0.15 < found.low < 14 / 40 < found.high < 0.55


def test_nothing_has_no_figures() -> None:
    found = summarise(evaluation([], asked=10))
    assert (found.groups, found.mean) == ({}, {})

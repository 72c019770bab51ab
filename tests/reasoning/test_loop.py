import random

import pytest

from millet.reasoning.loop import CONTENT, THOUGHT, LoopGuard, Patience


def caught_at(ids: list[int], patience: Patience) -> int | None:
    guard = LoopGuard(patience)
    return next((n for n, token in enumerate(ids, 1) if guard.push(token)), None)


def words(text: str) -> list[int]:
    return [hash(word) for word in text.split()]


@pytest.mark.parametrize("period", [1, 2, 3, 7, 20, 90])
@pytest.mark.parametrize("patience", [THOUGHT, CONTENT])
def test_exact_repetition_is_caught_soon(period: int, patience: Patience, seed: int) -> None:
    generator = random.Random(seed)
    before = [generator.randrange(5000) for _ in range(200)]
    stretch = generator.sample(range(5000), period)
    limit = max(patience.tokens, patience.times * period)
    at = caught_at(before + stretch * 2000, patience)
    assert at is not None
    assert at - len(before) >= limit
    assert at - len(before) <= limit + 2 * period + 8 or patience.staleness


def test_a_loop_that_shuffles_its_sentences_is_caught(seed: int) -> None:
    generator = random.Random(seed)
    sentences = [[100 * s + i for i in range(12)] for s in range(6)]
    ids = [token for _ in range(300) for token in generator.choice(sentences)]
    assert caught_at(ids, THOUGHT) is not None


def test_a_draft_written_out_again_is_no_loop(seed: int) -> None:
    generator = random.Random(seed)
    draft = [generator.randrange(50_000) for _ in range(600)]
    assert caught_at(draft + draft + draft, THOUGHT) is None


def test_working_through_cases_is_no_loop() -> None:
    text = " ".join(f"try x = {n} : {n} times {n} is {n * n} , and that is not 100000 , so" for n in range(250))
    assert caught_at(words(text), THOUGHT) is None


def test_answers_may_repeat_themselves() -> None:
    table = " ".join(f"| row {n} | yes | no | yes | no |" for n in range(300)) + " | --- " * 60
    lines = "I will not talk in class . \n " * 50
    grid = "0 , " * 120
    for text in (table, lines, grid):
        assert caught_at(words(text), CONTENT) is None

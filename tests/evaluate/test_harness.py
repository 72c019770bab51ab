"""Asking, grading and counting, with an assistant that says what it is told to and with a real engine."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from millet.engine.engine import Engine
from millet.errors import BadRequest, PromptTooLong
from millet.evaluate.harness import Standing, evaluate, questions
from millet.evaluate.metrics import summarise
from millet.evaluate.results import Group, Settings
from millet.reasoning.assistant import Assistant
from millet.tasks.code import CodeTask
from millet.tasks.draw import draw
from millet.tasks.task import Grade, Problem
from tests.evaluate.fakes import FakeAssistant, Sums, correct, graded
from tests.reasoning.toys import toy_model

SUMS = Sums()


def run(assistant: Any, settings: Settings, levels: Sequence[int] = (0,), **rest: Any) -> Any:
    grade = rest.pop("grade", graded)
    return evaluate(assistant, questions([(SUMS, level) for level in levels], settings), settings, grade, **rest)


def test_every_problem_is_asked_and_graded() -> None:
    assistant = FakeAssistant(lambda prompt, index: correct(prompt, index) if index != 1 else "0")
    found = run(assistant, Settings(problems=20, k=4), levels=(0, 2))
    assert not found.partial
    assert [(a.group, a.index) for a in found.groups()[Group("sums", 2)]] == [(Group("sums", 2), i) for i in range(20)]
    for attempt in found.attempts:
        assert correct(attempt.prompt, 0) == attempt.expected
        wrong = attempt.expected != "0"
        assert [sample.solved for sample in attempt.samples] == [True, not wrong, True, True]
        assert [sample.answer for sample in attempt.samples] == [
            attempt.expected,
            "0",
            attempt.expected,
            attempt.expected,
        ]


def test_problems_are_of_the_evaluation_split_and_always_the_same() -> None:
    asked = questions([(SUMS, 2)], Settings(problems=30, seed=1))
    assert [q.problem for q in asked] == [q.problem for q in questions([(SUMS, 2)], Settings(problems=30, seed=2))]
    assert [q.problem for q in asked] == [draw(SUMS, "eval", 2, index) for index in range(30)]
    assert asked[:10] == questions([(SUMS, 2)], Settings(problems=10))


def test_a_fixed_list_is_asked_once() -> None:
    class Three(Sums):
        name = "three"

        def items(self, split: str) -> list[Problem]:
            return [Problem(f"{split} {number} + 1?", str(number + 1)) for number in range(3)]

    asked = questions([(Three(), 0), (SUMS, 0)], Settings(problems=5))
    assert sorted(q.problem.prompt for q in asked if q.task.name == "three") == [f"eval {n} + 1?" for n in range(3)]
    assert len(asked) == 8


def test_equal_numbers_agree() -> None:
    written = ["The answer is 1,200.", "1200.0", "So it is **1200**", "2400/2", "no idea", ""]
    assistant = FakeAssistant(lambda prompt, index: written[index])
    (attempt,) = run(assistant, Settings(problems=1, k=6)).attempts
    assert [sample.answer for sample in attempt.samples] == ["1200"] * 4 + ["", ""]


def test_answers_without_a_known_form_are_not_compared(tmp_path: Path) -> None:
    class Open(Sums):
        def sample(self, rng: random.Random, level: int) -> Problem:
            return Problem(super().sample(rng, level).prompt, "")

    rows = [
        {"question": f"Write f. ({i})", "tests": ["assert f()"], "answer": "def f():\n    return 1"} for i in range(40)
    ]
    (tmp_path / "code.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for task in (Open(), CodeTask(tmp_path / "code.jsonl")):
        settings = Settings(problems=2, k=2)
        same_end = FakeAssistant(lambda prompt, index: f"def f():\n    x = {index}\n    return x")
        found = evaluate(same_end, questions([(task, 0)], settings), settings, lambda items: [Grade(0) for _ in items])
        assert found.attempts
        assert {sample.answer for attempt in found.attempts for sample in attempt.samples} == {None}


def test_requests_say_what_the_settings_say_and_each_problem_has_its_own_seed() -> None:
    settings = Settings(problems=5, k=3, temperature=0.7, max_tokens=99, think=40, seed=6)
    assistant, other, again = FakeAssistant(), FakeAssistant(), FakeAssistant()
    run(assistant, settings, levels=(0, 1))
    for _, options in assistant.asked:
        assert options | {"seed": 0} == {"think": 40, "max_tokens": 99, "temperature": 0.7, "seed": 0, "n": 3}
    seeds = [options["seed"] for _, options in assistant.asked]
    assert len(set(seeds)) == 10
    run(other, Settings(problems=5, k=3, seed=7), levels=(0,))
    run(again, Settings(problems=5, k=3, seed=6), levels=(0,))
    assert not set(seeds) & {options["seed"] for _, options in other.asked}
    assert seeds[::2] == [options["seed"] for _, options in again.asked]  # whatever is asked beside it


def test_only_so_many_replies_are_under_way() -> None:
    most = 0

    def look(number: int) -> None:
        nonlocal most
        most = max(most, assistant.under_way() + 3)

    assistant = FakeAssistant(before=look)
    assert len(run(assistant, Settings(problems=30, k=3), batch=5).attempts) == 30
    assert most == 9  # of 2 x 5
    wide = FakeAssistant()
    assert len(run(wide, Settings(problems=2, k=50), batch=5).attempts) == 2


def test_ctrl_c_ends_it_with_what_there_is() -> None:
    def interrupt(number: int) -> None:
        if number == 12:
            raise KeyboardInterrupt

    assistant = FakeAssistant(before=interrupt)
    found = run(assistant, Settings(problems=20), levels=(0, 1), batch=2)
    assert found.partial
    assert found.asked == 40
    assert 8 <= len(found.attempts) <= 12
    assert len(found.groups()) == 2  # some of every task
    assert all(sample.solved for attempt in found.attempts for sample in attempt.samples)
    assert [r.cancelled for r in assistant.runs] == [not r.done for r in assistant.runs]
    assert summarise(found).mean["pass@1"] is not None


def test_what_breaks_the_engine_is_told_and_the_rest_is_cancelled() -> None:
    def fail(number: int) -> None:
        if number == 6:
            raise RuntimeError("broken")

    assistant = FakeAssistant(before=fail)
    with pytest.raises(RuntimeError, match="broken"):
        run(assistant, Settings(problems=20), batch=2)
    assert [r.cancelled for r in assistant.runs] == [not r.done for r in assistant.runs]


def test_what_breaks_grading_is_told() -> None:
    def grade(items: Any) -> list[Grade]:
        raise RuntimeError("no graders")

    with pytest.raises(RuntimeError, match="no graders"):
        run(FakeAssistant(), Settings(problems=3), grade=grade)


def test_grading_does_not_hold_up_sampling() -> None:
    """Replies are all there before the first is graded."""
    sampled = threading.Event()

    def grade(items: Any) -> list[Grade]:
        assert sampled.wait(60)
        return graded(items)

    def look(number: int) -> None:
        if number == 29:
            sampled.set()

    assert len(run(FakeAssistant(before=look), Settings(problems=30), grade=grade, batch=2).attempts) == 30


def test_who_watches_sees_it_grow() -> None:
    seen: list[Standing] = []
    run(FakeAssistant(), Settings(problems=10, k=2), watch=seen.append)
    assert [standing.done for standing in seen] == list(range(1, 11))
    assert [standing.tokens for standing in seen] == [20 * n for n in range(1, 11)]
    assert all(standing.asked == 10 and standing.solved == standing.graded <= 20 for standing in seen)


def test_a_prompt_that_does_not_fit_is_told_before_anything_is_generated() -> None:
    assistant = FakeAssistant(context=6)
    with pytest.raises(PromptTooLong, match=r"problem \d+ of sums, level 2: the messages are too long"):
        run(assistant, Settings(problems=50), levels=(0, 2))
    assert assistant.runs == []


@pytest.mark.parametrize("wrong", [{"problems": 0}, {"k": 0}, {"k": 4, "temperature": 0.0}])
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        Settings(**wrong)


def test_with_a_real_engine(seed: int) -> None:
    """A random network thinks until it is stopped; the same seed gives the same replies in any batch."""
    settings = Settings(problems=6, k=2, max_tokens=40, think=8, seed=seed)
    with Engine(toy_model(seed), cache_tokens=4096) as engine:
        found = run(Assistant(engine), settings)
        alone = run(Assistant(engine), settings, batch=1)
    assert not found.partial
    replies = [sample for attempt in found.attempts for sample in attempt.samples]
    assert len(replies) == 12
    assert all(0 < sample.completion_tokens <= 40 and sample.seconds > 0 for sample in replies)
    assert {sample.thought_ended for sample in replies} <= {"model", "budget", "loop"}
    for one, other in zip(found.attempts, alone.attempts, strict=True):
        assert [s.reasoning + s.content for s in one.samples] == [s.reasoning + s.content for s in other.samples]
    speed = summarise(found).mean["tokens_per_second"]
    assert speed is not None
    tokens = sum(sample.completion_tokens for sample in replies)
    assert speed.value == pytest.approx(tokens / found.seconds)

"""Rejection sampling: what is kept, in which order, and that a killed run goes on."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from millet.errors import BadRequest
from millet.reasoning.reply import Reply, Usage
from millet.tasks.draw import draw
from millet.tasks.find import find_task
from millet.tasks.task import Answered, Grade, Problem
from millet.train.harvest import Harvest, collect, from_engine, questions
from millet.train.ledger import Ledger
from millet.train.reject import RejectSettings, readable
from millet.train.roles import Graded
from millet.train.rollout import Group, Sample


def reply(content: str, thought: str = "Let me see.", **changes: Any) -> Reply:
    found = Reply(thought, content, "stop", Usage(), thought_ended="model")
    return replace(found, **changes)


class Sums:
    name, levels = "sums", 2

    def sample(self, rng: random.Random, level: int) -> Problem:
        a = rng.randrange(10**6)
        return Problem(f"What is {a} + {level}?", str(a + level))

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return Grade(float(problem.answer in reply.content.split()))


class Scripted:
    """Replies to the n-th question ever asked: as many right ones as `right` says, each longer than the one before."""

    def __init__(self, right: Sequence[int], breaks_at: int | None = None) -> None:
        self.right, self.breaks_at = right, breaks_at
        self.asked: list[str] = []

    def fits(self, question: str) -> bool:
        return len(question) < 1000

    def sample(self, questions: Sequence[str], replies: int, seeds: Sequence[int]) -> list[Group]:
        groups = []
        for question in questions:
            if len(self.asked) == self.breaks_at:
                raise KeyboardInterrupt
            first, second = (int(word.strip("?")) for word in question.split() if word.strip("?").isdigit())
            count = self.right[len(self.asked) % len(self.right)]
            self.asked.append(question)
            samples = []
            for index in range(replies):
                text = f"It is {first + second} " + "indeed " * index if index < count else f"No idea {index}"
                samples.append(Sample([], [], reply(text, usage=Usage(completion_tokens=5 + index))))
            groups.append(Group([1], samples[::-1]))
        return groups


def grade(graded: Sequence[Graded]) -> list[Grade]:
    return [task.grade(problem, each) for task, problem, each in graded]


def harvest(folder: Path, **settings: Any) -> tuple[Harvest, RejectSettings]:
    chosen = RejectSettings(**{"problems": 3, "replies": 4, "keep": 2, "batch": 2, **settings})
    asked = questions([Sums()], chosen.levels, chosen.problems)
    return Harvest(asked, chosen.batch, grade, chosen.select, 5, folder), chosen


def run(folder: Path, rollouts: Scripted, out: Path, **settings: Any) -> tuple[int, Ledger, list[dict[str, Any]]]:
    some, chosen = harvest(folder, **settings)
    made = list(some.run(from_engine(rollouts, chosen.replies, 5)))  # type: ignore[arg-type]
    return *collect(some.batches, out), [batch.record for batch in made]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_shortest_right_ones_of_each_question_hard_questions_first(tmp_path: Path) -> None:
    kept, ledger, told = run(tmp_path / "batches", Scripted([4, 1, 0]), tmp_path / "data.jsonl")
    found = rows(tmp_path / "data.jsonl")
    assert kept == len(found) == 3
    assert [(each["source"]["pass_rate"], each["source"]["tokens"]) for each in found] == [(0.25, 5), (1, 5), (1, 6)]
    assert found[0]["messages"][1]["reasoning"] == "Let me see."
    assert found[0]["source"]["task"] == "sums"
    assert ledger.sampled_tokens == sum(each["sampled_tokens"] for each in told) == 3 * (5 + 6 + 7 + 8)
    assert [(each["step"], each["asked"], each["kept"], each["right"]) for each in told] == [
        (1, 2, 3, 5 / 8),
        (2, 1, 0, 0),
    ]


def test_what_an_earlier_stage_has_asked_is_passed_over(tmp_path: Path) -> None:
    six = [(each.level, each.index) for each in questions([Sums()], (0, 1), 3)]
    assert six == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert [(each.level, each.index) for each in questions([Sums()], (0, 1), 3, skip=3)] == [
        (level, index + 3) for level, index in six
    ]
    (tmp_path / "q.jsonl").write_text("".join(f'{{"question": "{n}?", "answer": "{n}"}}\n' for n in range(9)))
    listed = find_task(f"jsonl:{tmp_path / 'q.jsonl'}")
    known = len(listed.items("train"))  # type: ignore[attr-defined]
    for skip, left in ((0, known), (2, known - 2), (known, known), (known + 2, known - 2)):
        found = questions([listed], (0,), 100, skip)
        assert len({draw(each.task, "train", 0, each.index).prompt for each in found}) == len(found) == left


def test_what_says_the_same_is_kept_once(tmp_path: Path) -> None:
    class Same(Scripted):
        def sample(self, questions: Sequence[str], replies: int, seeds: Sequence[int]) -> list[Group]:
            groups = super().sample(questions, replies, seeds)
            said = groups[0].samples[-1].reply
            spaced = replace(said, content=said.content.upper().replace(" ", "  "))
            return [Group([1], [Sample([], [], said), Sample([], [], spaced)])]

    out = tmp_path / "data.jsonl"
    assert run(tmp_path / "batches", Same([4]), out, problems=1, replies=2, batch=1)[0] == 1


def test_a_run_that_broke_off_goes_on_to_the_same_file(tmp_path: Path) -> None:
    run(tmp_path / "whole", Scripted([3]), tmp_path / "whole.jsonl")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", Scripted([3], breaks_at=2), tmp_path / "broken.jsonl")
    assert harvest(tmp_path / "broken")[0].batches.done == 1
    rest = Scripted([3])
    run(tmp_path / "broken", rest, tmp_path / "broken.jsonl")
    assert len(rest.asked) == 1
    assert (tmp_path / "broken.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(("changes", "good"), [
    ({}, True),
    ({"finish_reason": "length"}, False),
    ({"thought_ended": None}, False),
    ({"content": "Das ist 因此 so 所以"}, False),
    ({"content": "It is 23.\x00"}, False),
    ({"content": "It is\n\n\t23."}, True),
])  # fmt: skip
def test_readable(changes: dict[str, Any], good: bool) -> None:
    assert readable(replace(reply("It is 23."), **changes), "en") is good


def test_impossible_settings_are_one_line() -> None:
    with pytest.raises(BadRequest, match="all replies are the same"):
        RejectSettings(temperature=0)
    with pytest.raises(BadRequest, match="keep is 0"):
        RejectSettings(keep=0)
    with pytest.raises(BadRequest, match="skip is -1"):
        RejectSettings(skip=-1)

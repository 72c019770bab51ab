"""What was kept, batch by batch, put together."""

from __future__ import annotations

import json
from pathlib import Path

from millet.reasoning.reply import Reply, Usage
from millet.train.harvest import Asked, Harvest, collect, from_engine, kept
from millet.train.prompts import Prompts
from millet.train.rollout import Group, Sample

SAID = "One.\u2028Two.\u2029Three.\x85"


def test_other_line_separators_may_stand_in_a_reply(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "Count."}\n')
    prompts = Prompts("q.jsonl", tmp_path / "q.jsonl")
    harvest = Harvest(
        [Asked(prompts, 0, 0)],
        size=1,
        grade=lambda graded: [task.grade(problem, reply) for task, problem, reply in graded],
        select=lambda problem, source, replies, grades: kept(problem, source, replies, most=1),
        seed=0,
        folder=tmp_path / "batches",
    )
    reply = Reply("", SAID, "stop", Usage(1, 3, 0))
    costs = list(harvest.run(lambda batches: ((number, [[reply]]) for number, _ in batches)))
    assert len(costs) == 1
    assert collect(harvest.batches, tmp_path / "data.jsonl")[0] == 1
    with (tmp_path / "data.jsonl").open(encoding="utf-8") as file:
        (found,) = map(json.loads, file)
    assert found["messages"][1]["content"] == SAID


class Sampler:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def fits(self, question: str) -> bool:
        return len(question) < 100

    def sample(self, questions: list[str], replies: int, seeds: list[int]) -> list[Group]:
        self.asked += questions
        return [Group([1], [Sample([2], [0.0], Reply("", f"It is {seed}.", "stop", Usage(1, 3, 0)))]) for seed in seeds]


def test_a_question_that_is_too_long_costs_the_others_nothing(tmp_path: Path) -> None:
    """It gets no replies, and the others those that they would have had."""
    said = []
    for second in ("Why? " * 1000, "Why?"):
        (tmp_path / "q.jsonl").write_text("".join(json.dumps({"question": q}) + "\n" for q in ("One?", second, "Two?")))
        prompts, folder = Prompts("q.jsonl", tmp_path / "q.jsonl"), tmp_path / str(len(second))
        harvest = Harvest(
            [Asked(prompts, 0, index) for index in range(3)],
            size=3,
            grade=lambda graded: [task.grade(problem, reply) for task, problem, reply in graded],
            select=lambda problem, source, replies, grades: kept(problem, source, replies, most=1),
            seed=0,
            folder=folder,
        )
        sampler = Sampler()
        (batch,) = harvest.run(from_engine(sampler, 1, 0))  # type: ignore[arg-type]
        said.append({each["messages"][0]["content"]: each["messages"][1]["content"] for each in batch.conversations})
        assert batch.record["too_long"] == (second not in sampler.asked)
    assert said[0] == {question: reply for question, reply in said[1].items() if question != "Why?"}
    assert len(said[0]) == 2

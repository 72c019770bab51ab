"""What was kept, batch by batch, put together."""

from __future__ import annotations

import json
from pathlib import Path

from millet.reasoning.reply import Reply, Usage
from millet.train.harvest import Asked, Harvest, kept
from millet.train.prompts import Prompts

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
    assert harvest.collect(tmp_path / "data.jsonl")[0] == 1
    with (tmp_path / "data.jsonl").open(encoding="utf-8") as file:
        (found,) = map(json.loads, file)
    assert found["messages"][1]["content"] == SAID

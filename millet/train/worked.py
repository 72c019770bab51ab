"""Worked solutions as data: a cold start for models that have never thought (DeepSeek-R1, 2501.12948, section 2.3.1).

Every task that can show how its problems are worked (`WorkedTask`) gives conversations: the problem, the working as the
thought, the answer behind it. Each is graded as a reply would be, and none that the grader refuses is taught.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from millet.errors import BadRequest
from millet.tasks.draw import draw
from millet.tasks.find import find_task
from millet.tasks.grading import Graders
from millet.tasks.task import ItemTask, PlainReply, Problem, WorkedTask
from millet.tasks.worked.unworked import Unworked
from millet.train.checkpoint import file_hash, write_atomically
from millet.train.ledger import Stopwatch
from millet.train.stage import DATA, Context, Outcome, Stage

TRIES = 20  # problems looked at for each that is worked


@dataclass(frozen=True, kw_only=True)
class WorkedStage(Stage):
    """Leaves data for the stages after it. tasks: as `millet task` knows them. problems: of each task, at each level of
    `levels`. skip: so many of each come before, which an earlier stage has had. longest: characters of a thought;
    longer ones are left out."""

    tasks: tuple[str, ...]
    problems: int = 500
    levels: tuple[int, ...] = (0,)
    skip: int = 0
    longest: int = 600

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("problems", "longest"):
            if getattr(self, name) < 1:
                raise BadRequest(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.skip < 0:
            raise BadRequest(f"skip is {self.skip}; it must be at least 0")
        if not self.tasks or not self.levels:
            raise BadRequest("tasks and levels must name at least one each")

    def run(self, context: Context) -> Outcome:
        watch = Stopwatch(gpu=False)
        lines: list[str] = []
        with Graders() as graders:
            for name in self.tasks:
                task = find_task(name, context.beside)
                if not isinstance(task, WorkedTask):
                    raise BadRequest(f"{name} does not show how its problems are worked; give it a method `work`")
                for level in self.levels:
                    found = list(self._worked(task, level, context.seed))
                    grades = graders.grade([(task, problem, reply) for problem, reply, _ in found])
                    right = [each for each, grade in zip(found, grades, strict=True) if grade.passed]
                    if not right:
                        raise BadRequest(f"no problem of {name}, level {level}, has a worked solution that is right")
                    lines += [_line(*each) for each in right]
                    refused = f", {len(found) - len(right)} refused by its grader" if len(right) < len(found) else ""
                    context.progress.say(f"{name}, level {level}: {len(right)} worked{refused}")
        out = context.folder / DATA
        write_atomically(out, "".join(lines))
        return Outcome(out, file_hash(out), watch.lap())

    def _worked(self, task: WorkedTask, level: int, seed: int) -> Iterator[tuple[Problem, PlainReply, dict[str, Any]]]:
        wanted = self.skip + self.problems
        known = len(task.items("train")) if isinstance(task, ItemTask) else TRIES * wanted
        count = 0
        for index in range(known):
            problem = draw(task, "train", level, index, seed)
            try:
                reply = task.work(problem)
            except Unworked:
                continue
            if not 0 < len(reply.reasoning) <= self.longest:
                continue
            count += 1
            if count > self.skip:
                yield problem, reply, {"task": task.name, "level": level, "index": index, "seed": seed}
            if count == wanted:
                return


def _line(problem: Problem, reply: PlainReply, source: dict[str, Any]) -> str:
    messages = [
        {"role": "user", "content": problem.prompt},
        {"role": "assistant", "reasoning": reply.reasoning, "content": reply.content},
    ]
    return json.dumps({"messages": messages, "source": source}, ensure_ascii=False) + "\n"

"""Worked solutions as data: a cold start for models that have never thought (DeepSeek-R1, 2501.12948, section 2.3.1).

Every task that can show how its problems are worked (`WorkedTask`) gives conversations: the problem, the working as the
thought, the answer behind it. Each is graded as a reply would be, and none that the grader refuses is taught.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from millet.errors import BadRequest
from millet.tasks.draw import draw
from millet.tasks.find import find_task
from millet.tasks.grading import Graders
from millet.tasks.task import ItemTask, PlainReply, Problem, WorkedTask
from millet.tasks.worked.unworked import Unworked
from millet.train import ungraded
from millet.train.batches import FOLDER, Batch, Batches, gather, lines
from millet.train.checkpoint import file_hash, write_atomically
from millet.train.ledger import Ledger, Stopwatch
from millet.train.stage import DATA, Context, Outcome, Stage

TRIES = 20  # problems looked at for each that is worked
BATCH = 50  # solutions graded together


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

    def parents(self, base: str) -> tuple[str, ...]:
        return ()  # no model has a part in it

    def run(self, context: Context) -> Outcome:
        parts = [(name, _workable(name, context), level) for name in self.tasks for level in self.levels]
        batches = Batches(context.folder / FOLDER, len(parts) * self._batches)
        with Graders() as graders:
            gather(batches, partial(self._work, parts, batches, graders, context), self.name, context)
        out, ledger = context.folder / DATA, Ledger()
        found = batches.read()
        write_atomically(out, lines(each for batch in found for each in batch.conversations))
        for batch in found:
            ledger.add(Ledger.of(batch.record["cost"]))
        return Outcome(out, file_hash(out), ledger)

    @property
    def _batches(self) -> int:
        """Of each task at each level; the last ones are empty where it has fewer problems."""
        return -(-self.problems // BATCH)

    def _work(
        self,
        parts: Sequence[tuple[str, WorkedTask, int]],
        batches: Batches,
        graders: Graders,
        context: Context,
        stopping: Callable[[], bool],
    ) -> Iterator[Batch]:
        watch = Stopwatch(gpu=False)
        for place, (name, task, level) in enumerate(parts):
            numbers = range(place * self._batches, (place + 1) * self._batches)
            found = self._worked(task, level, context.seed, stopping)
            last = max((number for number in numbers if number not in batches), default=-1)
            for number in range(numbers[0], last + 1):
                some = list(islice(found, BATCH))
                if stopping():  # which may have cut it short
                    return
                if number in batches:
                    continue
                grades = graders.grade([(task, problem, reply) for problem, reply, _ in some])
                right = [_conversation(*each) for each, grade in zip(some, grades, strict=True) if grade.passed]
                measured = {"asked": len(some), **ungraded.measure(grades)}
                if some:
                    measured["right"] = len(right) / len(some)
                yield batches.write(number, right, measured, watch.lap())
            context.progress.say(_told(name, level, [batch.record for batch in batches.read(numbers)]))

    def _worked(
        self, task: WorkedTask, level: int, seed: int, stopping: Callable[[], bool]
    ) -> Iterator[tuple[Problem, PlainReply, dict[str, Any]]]:
        wanted = self.skip + self.problems
        known = len(task.items("train")) if isinstance(task, ItemTask) else TRIES * wanted
        count = 0
        for index in range(known):
            if stopping():  # minutes, where most solutions are too long
                return
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


def _workable(name: str, context: Context) -> WorkedTask:
    task = find_task(name, context.beside)
    if not isinstance(task, WorkedTask):
        raise BadRequest(f"{name} does not show how its problems are worked; give it a method `work`")
    return task


def _told(name: str, level: int, records: Sequence[Mapping[str, Any]]) -> str:
    """How many solutions of a task there are. Raises BadRequest where there is none."""
    asked, right = (sum(record[key] for record in records) for key in ("asked", "kept"))
    failed = ungraded.told(records)
    if not right:
        none = f"no problem of {name}, level {level}, has a worked solution that is right"
        raise BadRequest("; ".join(filter(None, (none, failed))))
    wrong = asked - right - ungraded.count(records)
    refused = f"{wrong} refused by its grader" if wrong else ""
    return f"{name}, level {level}: " + ", ".join(filter(None, (f"{right} worked", refused, failed)))


def _conversation(problem: Problem, reply: PlainReply, source: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"role": "assistant", "reasoning": reply.reasoning, "content": reply.content}
    if reply.spelt:
        said["spelt"] = True
    return {"messages": [{"role": "user", "content": problem.prompt}, said], "source": source}

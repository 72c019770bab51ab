"""Replies gathered as data: questions in batches, each on disk when it is answered, and all of it one file at the end.

A run that was killed goes on with the batches that are not there yet, so that nothing is paid for twice.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millet.reasoning.reply import Reply
from millet.tasks.draw import draw
from millet.tasks.task import Grade, ItemTask, Problem, Task
from millet.train.checkpoint import write_atomically
from millet.train.ledger import Ledger, Stopwatch
from millet.train.progress import Progress
from millet.train.prompts import Prompts
from millet.train.roles import Graded
from millet.train.rollout import Rollouts
from millet.train.signals import Signals, Stopped

Numbered = tuple[int, list[str]]
Answers = Callable[[Iterable[Numbered]], Iterator[tuple[int, list[list[Reply]]]]]
"""Takes numbered batches of questions as it has room for them, and gives the replies to each question: of all batches
that it took, in any order."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question: of which task, at which level, the how manieth."""

    task: Task
    level: int
    index: int


def questions(tasks: Sequence[Task], levels: Sequence[int], problems: int) -> list[Asked]:
    """So many of each task at each level that it has. Of a file of prompts, all; of another list none twice."""
    found = []
    for task in tasks:
        for level in levels if not isinstance(task, Prompts) else (0,):
            count = problems
            if isinstance(task, ItemTask):
                known = len(task.items("train"))
                count = known if isinstance(task, Prompts) else min(problems, known)
            if level < task.levels:
                found += [Asked(task, level, index) for index in range(count)]
    return found


class Harvest:
    """All questions in batches, each written to a file of its own. A file's last line is what its batch has cost.

    select: which of the replies to a question are kept, as records (see `kept`).
    """

    def __init__(
        self,
        asked: Sequence[Asked],
        size: int,
        grade: Callable[[Sequence[Graded]], list[Grade]],
        select: Callable[[Problem, Mapping[str, Any], list[Reply], list[Grade]], Iterable[dict[str, Any]]],
        seed: int,
        folder: Path,
    ) -> None:
        self._grade, self._select, self._seed, self._folder = grade, select, seed, folder
        self.batches = [asked[at : at + size] for at in range(0, len(asked), size)]

    def run(
        self, answers: Answers, stopping: Callable[[], bool] = lambda: False, gpu: bool = False
    ) -> Iterator[Ledger]:
        """What each batch that was still to do has cost, when it is on disk. stopping: whether to begin no other. gpu:
        whether the answers are computed on one here."""
        self._folder.mkdir(parents=True, exist_ok=True)
        problems: dict[int, list[Problem]] = {}

        def to_do() -> Iterator[Numbered]:
            for number, batch in enumerate(self.batches):
                if stopping():
                    return
                if not self._path(number).exists():
                    problems[number] = [draw(each.task, "train", each.level, each.index, self._seed) for each in batch]
                    yield number, [problem.prompt for problem in problems[number]]

        watch = Stopwatch(gpu)
        for number, replies in answers(to_do()):
            records = self._records(self.batches[number], problems.pop(number), replies)
            cost = watch.lap()
            cost.sampled_tokens = sum(reply.usage.completion_tokens for group in replies for reply in group)
            write_atomically(self._path(number), _lines([*records, {"cost": cost.__dict__}]))
            yield cost

    @property
    def done(self) -> int:
        """Batches that are on disk."""
        return len(list(self._folder.glob("*.jsonl")))

    def collect(self, out: Path) -> tuple[int, Ledger]:
        """Put together what was kept, hard questions first. How many replies these are, and what all has cost."""
        records = [
            json.loads(line)
            for path in sorted(self._folder.glob("*.jsonl"))
            for line in path.read_text("utf-8").split("\n")  # not splitlines: U+2028 may stand in a JSON string
            if line
        ]
        kept = [each for each in records if "messages" in each]
        unique = list({_said(each): each for each in reversed(kept)}.values())[::-1]
        unique.sort(key=lambda each: each["source"].get("pass_rate", 1.0))  # stable: equals stay in order
        write_atomically(out, _lines(unique))
        ledger = Ledger()
        for each in records:
            if "cost" in each:
                ledger.add(Ledger.of(each["cost"]))
        return len(unique), ledger

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.jsonl"

    def _records(
        self, batch: Sequence[Asked], problems: Sequence[Problem], replies: Sequence[list[Reply]]
    ) -> list[dict[str, Any]]:
        graded: list[Graded] = [
            (each.task, problem, reply)
            for each, problem, group in zip(batch, problems, replies, strict=True)
            for reply in group
        ]
        grades = iter(self._grade(graded))
        records: list[dict[str, Any]] = []
        for each, problem, group in zip(batch, problems, replies, strict=True):
            given = [next(grades) for _ in group]
            source = {"task": each.task.name, "level": each.level, "index": each.index, "seed": self._seed}
            if not isinstance(each.task, Prompts):
                source["pass_rate"] = sum(grade.passed for grade in given) / len(given)
            records += self._select(problem, source, group, given)
        return records


def reap(harvest: Harvest, answers: Answers, stage: str, progress: Progress, gpu: bool) -> None:
    """Run it to its end, telling of each batch. Raises Stopped after a signal, when what was under way is on disk."""
    whole = len(harvest.batches)
    with Signals() as signals:
        progress.begin(stage, harvest.done, whole)
        for cost in harvest.run(answers, lambda: signals.caught, gpu):
            speed = cost.sampled_tokens / cost.wall_seconds
            progress.step(harvest.done, {"step": harvest.done, "tokens_per_second": speed, "cost": cost.__dict__})
    if harvest.done < whole:
        raise Stopped(f"stopped after batch {harvest.done} of {whole} and saved; run the same command to go on")


def from_engine(rollouts: Rollouts, replies: int, seed: int) -> Answers:
    """One batch after the other, the replies of each sampled together."""

    def answers(batches: Iterable[Numbered]) -> Iterator[tuple[int, list[list[Reply]]]]:
        for number, asked in batches:
            rng = random.Random(f"{seed} {number}")
            groups = rollouts.sample(asked, replies, [rng.randrange(2**62) for _ in asked])
            yield number, [[sample.reply for sample in group.samples] for group in groups]

    return answers


def kept(problem: Problem, source: Mapping[str, Any], good: Iterable[Reply], most: int) -> Iterator[dict[str, Any]]:
    """Conversations of the good replies to one question that differ, shortest first, at most so many."""
    seen: set[str] = set()
    for reply in sorted(good, key=lambda reply: reply.usage.completion_tokens):
        if len(seen) == most:
            return
        text = _plain(reply.reasoning + reply.content)
        if text in seen:
            continue
        seen.add(text)
        said = {"reasoning": reply.reasoning} if reply.reasoning else {}
        yield {
            "messages": [
                {"role": "user", "content": problem.prompt},
                {"role": "assistant", **said, "content": reply.content},
            ],
            "source": {**source, "tokens": reply.usage.completion_tokens},
        }


def printable(text: str) -> bool:
    """Whether all its characters can be seen."""
    return all(character.isprintable() or character in "\n\t" for character in text)


def _plain(text: str) -> str:
    """What differs in blank space and case alone says the same."""
    return " ".join(text.lower().split())


def _said(record: Mapping[str, Any]) -> str:
    question, reply = record["messages"]
    text = _plain(question["content"]) + "\0" + _plain(reply.get("reasoning", "") + reply["content"])
    return hashlib.sha256(text.encode()).hexdigest()


def _lines(records: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records)

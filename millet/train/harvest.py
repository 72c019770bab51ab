"""Replies gathered as data: questions in batches, each on disk when it is answered, so that nothing is paid for twice;
and all of it one file at the end.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from millet.engine.engine import Engine
from millet.engine.planner import Cost
from millet.errors import OutOfMemory
from millet.kernels.cpu import read_memory
from millet.models.model import Model
from millet.reasoning.reply import Reply
from millet.tasks.draw import draw
from millet.tasks.task import Grade, ItemTask, Problem, Task
from millet.train import ungraded
from millet.train.batches import Batch, Batches, gather, lines
from millet.train.checkpoint import write_atomically
from millet.train.ledger import Arithmetic, Ledger, Stopwatch
from millet.train.progress import Progress
from millet.train.prompts import Prompts
from millet.train.roles import Graded
from millet.train.rollout import Rollouts
from millet.train.stage import Context, active_weights

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


def questions(tasks: Sequence[Task], levels: Sequence[int], problems: int, skip: int = 0) -> list[Asked]:
    """So many of each task at each level that it has, behind `skip` others. Of a file of prompts, all; of another list
    none twice, but at most to its end."""
    found = []
    for task in tasks:
        for level in levels if not isinstance(task, Prompts) else (0,):
            indices = range(skip, skip + problems)
            if isinstance(task, ItemTask):
                known = len(task.items("train"))
                to_end = known - skip % known if known else 0  # behind it, `draw` begins again in another order
                indices = range(known) if isinstance(task, Prompts) else indices[:to_end]
            if level < task.levels:
                found += [Asked(task, level, index) for index in indices]
    return found


class Harvest:
    """All questions in batches of `size`, in files in `folder`.

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
        self._grade, self._select, self._seed = grade, select, seed
        self._asked = [asked[at : at + size] for at in range(0, len(asked), size)]
        self.batches = Batches(folder, len(self._asked))

    def run(
        self, answers: Answers, stopping: Callable[[], bool] = lambda: False, model: Model | None = None
    ) -> Iterator[Batch]:
        """Each batch that was still to do, when it is on disk. stopping: whether to begin no other. model: the one that
        answers, if it is here."""
        problems: dict[int, list[Problem]] = {}

        def to_do() -> Iterator[Numbered]:
            for number, batch in enumerate(self._asked):
                if stopping():
                    return
                if number not in self.batches:
                    problems[number] = [draw(each.task, "train", each.level, each.index, self._seed) for each in batch]
                    yield number, [problem.prompt for problem in problems[number]]

        arithmetic = Arithmetic(active_weights(model), trained=0) if model is not None else Arithmetic(0, 0)
        watch = Stopwatch(gpu=model is not None and model.device.type == "cuda")
        for number, replies in answers(to_do()):
            kept, measured = self._judge(self._asked[number], problems.pop(number), replies)
            sampled = sum(reply.usage.completion_tokens for group in replies for reply in group)
            cost, speed = spent(watch, sampled, arithmetic)
            yield self.batches.write(number, kept, {**measured, **speed}, cost)

    def faults(self) -> str:
        """What a person should know of graders that failed; "" where none did."""
        return ungraded.told(batch.record for batch in self.batches.read())

    def _judge(
        self, asked: Sequence[Asked], problems: Sequence[Problem], replies: Sequence[list[Reply]]
    ) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """What is kept of a batch, and what there is to tell of it."""
        graded: list[Graded] = [
            (each.task, problem, reply)
            for each, problem, group in zip(asked, problems, replies, strict=True)
            for reply in group
        ]
        grades = self._grade(graded)
        rest = iter(grades)
        records: list[dict[str, Any]] = []
        for each, problem, group in zip(asked, problems, replies, strict=True):
            if not group:  # too long for the model's context
                continue
            given = [next(rest) for _ in group]
            source = {"task": each.task.name, "level": each.level, "index": each.index, "seed": self._seed}
            if not isinstance(each.task, Prompts):
                source["pass_rate"] = sum(grade.passed for grade in given) / len(given)
            records += self._select(problem, source, group, given)
        real = [grade for (task, _, _), grade in zip(graded, grades, strict=True) if not isinstance(task, Prompts)]
        measured: dict[str, float] = {"asked": len(asked), "too_long": sum(not group for group in replies)}
        if real:
            measured |= {"right": sum(grade.passed for grade in real) / len(real), **ungraded.measure(real)}
        return records, measured


def spent(watch: Stopwatch, sampled: int, arithmetic: Arithmetic) -> tuple[Ledger, dict[str, float]]:
    """What so many sampled tokens have cost since the last lap, and what there is to tell of it."""
    cost = watch.lap()
    cost.sampled_tokens, cost.flops = sampled, arithmetic.flops(tokens=0, sampled=sampled)
    return cost, {"sampled_tokens": sampled, "tokens_per_second": sampled / cost.wall_seconds}


def collect(batches: Batches, out: Path) -> tuple[int, Ledger]:
    """Put together what was kept, hard questions first. How many replies these are, and what all has cost."""
    found = batches.read()
    kept = [each for batch in found for each in batch.conversations]
    unique = list({_said(each): each for each in reversed(kept)}.values())[::-1]
    unique.sort(key=lambda each: each["source"].get("pass_rate", 1.0))  # stable: equals stay in order
    write_atomically(out, lines(unique))
    ledger = Ledger()
    for batch in found:
        ledger.add(Ledger.of(batch.record["cost"]))
    return len(unique), ledger


def sampler(model: Model, cache_tokens: int, progress: Progress) -> Engine:
    """An engine for replies, if there is room for its cache; else raises OutOfMemory."""
    needed = cache_tokens * Cost.of(model.config).cached * model.cache_dtype.itemsize
    gpu = model.device.type == "cuda"
    free = torch.cuda.mem_get_info(model.device)[0] if gpu else read_memory().available
    if needed > free:
        raise OutOfMemory(
            f"the cache of {cache_tokens:,} tokens needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; lower "
            "cache_tokens, or close other programs"
        )
    progress.say(f"memory: {needed / 1e9:.2f} GB beside the weights, of {free / 1e9:.1f} GB that are free")
    return Engine(model, cache_tokens=cache_tokens)


def reap(
    harvest: Harvest, answers: Answers, stage: str, context: Context, model: Model | None = None, at_once: int = 1
) -> None:
    """Run it to its end, and tell of it. See `gather`."""
    gather(harvest.batches, lambda stopping: harvest.run(answers, stopping, model), stage, context, at_once)
    if failed := harvest.faults():
        context.progress.say(f"{stage}: {failed}")


def from_engine(rollouts: Rollouts, replies: int, seed: int) -> Answers:
    """One batch after the other, its replies sampled together; none to a question that leaves no room for one."""

    def answers(batches: Iterable[Numbered]) -> Iterator[tuple[int, list[list[Reply]]]]:
        for number, asked in batches:
            rng = random.Random(f"{seed} {number}")
            seeds = [rng.randrange(2**62) for _ in asked]
            fitting = [place for place, question in enumerate(asked) if rollouts.fits(question)]
            groups = rollouts.sample([asked[i] for i in fitting], replies, [seeds[i] for i in fitting])
            found = dict(zip(fitting, groups, strict=True))
            yield number, [[s.reply for s in found[i].samples] if i in found else [] for i in range(len(asked))]

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
        thought = {"reasoning": reply.reasoning} if reply.reasoning else {}
        cut = {"unfinished": True} if reply.finish_reason == "length" else {}
        yield {
            "messages": [
                {"role": "user", "content": problem.prompt},
                {"role": "assistant", **thought, "content": reply.content, **cut},
            ],
            "source": {**source, "tokens": reply.usage.completion_tokens},
        }


def printable(text: str) -> bool:
    """Whether all its characters can be seen. U+FFFD is none: it stands where one was cut in two."""
    return "\ufffd" not in text and all(character.isprintable() or character in "\n\t" for character in text)


def _plain(text: str) -> str:
    """What differs in blank space and case alone says the same."""
    return " ".join(text.lower().split())


def _said(record: Mapping[str, Any]) -> str:
    question, reply = record["messages"]
    text = _plain(question["content"]) + "\0" + _plain(reply.get("reasoning", "") + reply["content"])
    return hashlib.sha256(text.encode()).hexdigest()

"""Rejection sampling: a model's own best replies, as data to learn from (DeepSeek-R1, 2501.12948, section 2.3.3).

Several replies are sampled to each question; those are kept that are right, that a person can read, and that say what
no other says. Of an easy question the shortest are kept, so that the model learns not to dwell on it; of a hard one,
where few were right, all that there are may stay, long ones too. Hard questions come first, for a file that is cut off.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millet.engine.engine import Engine
from millet.errors import BadRequest
from millet.models.load import load
from millet.reasoning.assistant import Assistant
from millet.reasoning.reply import Reply
from millet.tasks.draw import draw
from millet.tasks.find import find_task
from millet.tasks.grading import Graders
from millet.tasks.task import Grade, Problem, Task
from millet.train.checkpoint import file_hash, write_atomically
from millet.train.ledger import Ledger, Stopwatch
from millet.train.rewards import Language, format_reward, language_consistency
from millet.train.rollout import Group, Rollouts
from millet.train.signals import Signals, Stopped
from millet.train.stage import DATA, Context, Outcome, Stage

READABLE = 0.9  # share of words that must be of the language

Graded = tuple[Task, Problem, Reply]


@dataclass(frozen=True, kw_only=True)
class RejectSettings:
    """problems: of each task, at each level of `levels` (0 alone by default). replies: sampled to each question, at
    `temperature`. keep: the most that are kept of one question. language: what the replies must be in."""

    problems: int = 100
    levels: tuple[int, ...] = (0,)
    replies: int = 8
    keep: int = 2
    temperature: float = 0.8
    max_tokens: int = 512
    language: Language = "en"
    batch: int = 8

    def __post_init__(self) -> None:
        for name in ("problems", "replies", "keep", "max_tokens", "batch"):
            if getattr(self, name) < 1:
                raise BadRequest(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.temperature > 0:
            raise BadRequest(f"temperature is {self.temperature}; it must be above 0, or all replies are the same")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question: of which task, at which level, the how manieth."""

    task: Task
    level: int
    index: int


class Sampling:
    """All questions in batches, each written to a file of its own, so that a run goes on where it was killed. A file's
    last line is what its batch has cost."""

    def __init__(
        self,
        rollouts: Rollouts,
        tasks: Sequence[Task],
        grade: Callable[[Sequence[Graded]], list[Grade]],
        settings: RejectSettings,
        seed: int,
        folder: Path,
    ) -> None:
        self._rollouts, self._grade, self._settings, self._seed = rollouts, grade, settings, seed
        self._folder = folder
        asked = [
            Asked(task, level, index)
            for task in tasks
            for level in settings.levels
            if level < task.levels
            for index in range(settings.problems)
        ]
        self.batches = [asked[at : at + settings.batch] for at in range(0, len(asked), settings.batch)]

    def run(self) -> Iterator[tuple[int, Ledger]]:
        """The number of each batch that was still to do, when it is on disk, and what it has cost."""
        self._folder.mkdir(parents=True, exist_ok=True)
        watch = Stopwatch(gpu=False)
        for number, batch in enumerate(self.batches):
            path = self._folder / f"{number:06d}.jsonl"
            if path.exists():
                continue
            records, tokens = self._sample(number, batch)
            cost = watch.lap()
            cost.sampled_tokens = tokens
            write_atomically(path, _lines([*records, {"cost": cost.__dict__}]))
            yield number, cost

    @property
    def done(self) -> int:
        """Batches that are on disk."""
        return len(list(self._folder.glob("*.jsonl")))

    def collect(self, out: Path) -> tuple[int, Ledger]:
        """Put together what was kept, hard questions first. How many replies these are, and what all has cost."""
        records = [
            json.loads(line)
            for path in sorted(self._folder.glob("*.jsonl"))
            for line in path.read_text("utf-8").splitlines()
        ]
        kept = [each for each in records if "messages" in each]
        unique = list({_said(each): each for each in reversed(kept)}.values())[::-1]
        unique.sort(key=lambda each: each["source"]["pass_rate"])  # stable: equals stay in order
        write_atomically(out, _lines(unique))
        ledger = Ledger()
        for each in records:
            if "cost" in each:
                ledger.add(Ledger.of(each["cost"]))
        return len(unique), ledger

    def _sample(self, number: int, batch: Sequence[Asked]) -> tuple[list[dict[str, Any]], int]:
        rng = random.Random(f"{self._seed} {number}")
        problems = [draw(each.task, "train", each.level, each.index, self._seed) for each in batch]
        seeds = [rng.randrange(2**62) for _ in batch]
        groups = self._rollouts.sample([problem.prompt for problem in problems], self._settings.replies, seeds)
        graded = [
            (each.task, problem, sample.reply)
            for each, problem, group in zip(batch, problems, groups, strict=True)
            for sample in group.samples
        ]
        grades = iter(self._grade(graded))
        records: list[dict[str, Any]] = []
        for each, problem, group in zip(batch, problems, groups, strict=True):
            given = [next(grades) for _ in group.samples]
            source = {"task": each.task.name, "level": each.level, "index": each.index, "seed": self._seed}
            records += _kept(problem, group, given, self._settings, source)
        return records, sum(len(sample.token_ids) for group in groups for sample in group.samples)


def _kept(
    problem: Problem, group: Group, grades: Sequence[Grade], settings: RejectSettings, source: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Those of one question, shortest first."""
    right = [s for s, grade in zip(group.samples, grades, strict=True) if grade.score >= 1.0]
    rate = len(right) / len(group.samples)
    good = sorted((s for s in right if readable(s.reply, settings.language)), key=lambda s: len(s.token_ids))
    seen: set[str] = set()
    for sample in good:
        if len(seen) == settings.keep:
            return
        text = _plain(sample.reply.reasoning + sample.reply.content)
        if text in seen:
            continue
        seen.add(text)
        yield {
            "messages": [
                {"role": "user", "content": problem.prompt},
                {"role": "assistant", "reasoning": sample.reply.reasoning, "content": sample.reply.content},
            ],
            "source": {**source, "pass_rate": rate, "tokens": len(sample.token_ids)},
        }


def readable(reply: Reply, language: Language) -> bool:
    """Whole, in its form, in one language, and of characters that can be seen."""
    text = reply.reasoning + reply.content
    return (
        format_reward(reply) == 1.0
        and language_consistency(text, language) >= READABLE
        and all(character.isprintable() or character in "\n\t" for character in text)
    )


def _plain(text: str) -> str:
    """What differs in blank space and case alone says the same."""
    return " ".join(text.lower().split())


def _said(record: Mapping[str, Any]) -> str:
    question, reply = record["messages"]
    text = _plain(question["content"]) + "\0" + _plain(reply["reasoning"] + reply["content"])
    return hashlib.sha256(text.encode()).hexdigest()


def _lines(records: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records)


@dataclass(frozen=True, kw_only=True)
class RejectStage(Stage, RejectSettings):
    """Samples from its base, and leaves data for the stages after it. tasks: as `millet task` knows them."""

    tasks: tuple[str, ...]
    cache_tokens: int = 16384

    def __post_init__(self) -> None:
        Stage.__post_init__(self)
        RejectSettings.__post_init__(self)

    def run(self, context: Context) -> Outcome:
        tasks = [find_task(name) for name in self.tasks]
        out = context.folder / DATA
        with Engine(load(context.base, device=context.device), cache_tokens=self.cache_tokens) as engine:
            rollouts = Rollouts(Assistant(engine), think="on", max_tokens=self.max_tokens, temperature=self.temperature)
            with Graders() as graders, Signals() as signals:
                sampling = Sampling(rollouts, tasks, graders.grade, self, context.seed, context.folder / "batches")
                context.progress.begin(self.name, sampling.done, len(sampling.batches))
                for number, cost in sampling.run():
                    context.progress.step(number + 1, {"step": number + 1, "cost": cost.__dict__})
                    if signals.caught and sampling.done < len(sampling.batches):
                        raise Stopped(
                            f"stopped after batch {sampling.done} of {len(sampling.batches)} and saved; "
                            "run the same command to go on"
                        )
        kept, ledger = sampling.collect(out)
        if not kept:
            raise BadRequest(
                f"none of the replies of stage {self.name} was right and readable; ask easier levels "
                "(`millet task band` finds them), or train the base first"
            )
        context.progress.say(f"{self.name}: kept {kept:,} replies")
        return Outcome(out, file_hash(out), ledger)

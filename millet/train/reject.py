"""Rejection sampling: a model's own best replies, as data to learn from (DeepSeek-R1, 2501.12948, section 2.3.3).

Several replies are sampled to each question; those are kept that are right, that a person can read, and that say what
no other says. Of an easy question the shortest are kept, so that the model learns not to dwell on it; of a hard one,
where few were right, all that there are may stay, long ones too. Hard questions come first, for a file that is cut off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from millet.errors import BadRequest
from millet.models.load import load
from millet.reasoning.assistant import Assistant
from millet.reasoning.reply import Reply
from millet.tasks.find import find_task
from millet.tasks.grading import Graders
from millet.tasks.task import Grade, Problem
from millet.train.batches import FOLDER
from millet.train.checkpoint import file_hash
from millet.train.harvest import Harvest, collect, from_engine, kept, printable, questions, reap, sampler
from millet.train.rewards import Language, format_reward, language_consistency
from millet.train.rollout import Rollouts
from millet.train.stage import DATA, Context, Outcome, Stage

READABLE = 0.9  # share of words that must be of the language


@dataclass(frozen=True, kw_only=True)
class RejectSettings:
    """problems: of each task, at each level of `levels` (0 alone by default). skip: so many of each come before, which
    an earlier stage has had. replies: sampled to each question, at `temperature`. keep: the most that are kept of one
    question. language: what the replies must be in."""

    problems: int = 100
    levels: tuple[int, ...] = (0,)
    skip: int = 0
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
        if self.skip < 0:
            raise BadRequest(f"skip is {self.skip}; it must be at least 0")
        if not self.temperature > 0:
            raise BadRequest(f"temperature is {self.temperature}; it must be above 0, or all replies are the same")

    def select(
        self, problem: Problem, source: Mapping[str, Any], replies: list[Reply], grades: list[Grade]
    ) -> Iterable[dict[str, Any]]:
        """What of the replies to one question is kept."""
        right = (reply for reply, grade in zip(replies, grades, strict=True) if grade.passed)
        return kept(problem, source, (reply for reply in right if readable(reply, self.language)), self.keep)


def readable(reply: Reply, language: Language) -> bool:
    """Whole, in its form, in one language, and of characters that can be seen."""
    text = reply.reasoning + reply.content
    return format_reward(reply) == 1.0 and language_consistency(text, language) >= READABLE and printable(text)


@dataclass(frozen=True, kw_only=True)
class RejectStage(Stage, RejectSettings):
    """Samples from its base, and leaves data for the stages after it. tasks: as `millet task` knows them."""

    tasks: tuple[str, ...]
    cache_tokens: int = 16384

    def __post_init__(self) -> None:
        Stage.__post_init__(self)
        RejectSettings.__post_init__(self)

    def run(self, context: Context) -> Outcome:
        tasks = [find_task(name, context.beside) for name in self.tasks]
        asked = questions(tasks, self.levels, self.problems, self.skip)
        out = context.folder / DATA
        model = load(context.base, device=context.device)
        with sampler(model, self.cache_tokens, context.progress) as engine:
            rollouts = Rollouts(Assistant(engine), think="on", max_tokens=self.max_tokens, temperature=self.temperature)
            answers = from_engine(rollouts, self.replies, context.seed)
            with Graders() as graders:
                harvest = Harvest(asked, self.batch, graders.grade, self.select, context.seed, context.folder / FOLDER)
                reap(harvest, answers, self.name, context, model)
        count, ledger = collect(harvest.batches, out)
        if not count:
            none = f"none of the replies of stage {self.name} was right and readable"
            advice = "ask easier levels (`millet task band` finds them), or train the base first"
            raise BadRequest("; ".join(filter(None, (none, harvest.faults(), advice))))
        context.progress.say(f"{self.name}: kept {count:,} replies")
        return Outcome(out, file_hash(out), ledger)

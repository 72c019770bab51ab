"""A model's own answers, by themselves or behind thoughts that somebody wrote: it learns to think, and goes on saying
what it said.

The file has questions, and a thought for each where these are wanted. The answer is what the base says at once, at
temperature 0, so that fine-tuning on it moves nothing but what is new.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from millet.engine.engine import Engine
from millet.errors import BadRequest
from millet.models.load import load
from millet.models.tokenizer import Tokenizer
from millet.reasoning.assistant import Assistant
from millet.reasoning.loop import LoopGuard, Patience
from millet.reasoning.reply import Reply
from millet.tasks.items import read_jsonl
from millet.tasks.task import Grade, Problem
from millet.train.batches import FOLDER
from millet.train.checkpoint import file_hash
from millet.train.harvest import Harvest, from_engine, kept, printable, questions, reap, sampler
from millet.train.prompts import Prompts
from millet.train.roles import Graded
from millet.train.rollout import Rollouts
from millet.train.stage import DATA, Context, Outcome, Stage

# What a reader forgives in an answer, a model should not learn: the same stretch three times in a row.
STRICT = Patience(tokens=16, times=2, staleness=False)


@dataclass(frozen=True, kw_only=True)
class Answering(Stage):
    """What stages have in common that let a base answer.

    max_tokens: of an answer; one that is not over by then is left out, and so is one that repeats itself. batch:
    questions answered together. cache_tokens: of the engine.
    """

    max_tokens: int = 256
    batch: int = 16
    cache_tokens: int = 16384

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_tokens", "batch"):
            if getattr(self, name) < 1:
                raise BadRequest(f"{name} is {getattr(self, name)}; it must be at least 1")

    def answer(self, prompts: Prompts, thoughts: Mapping[str, str], engine: Engine, context: Context) -> Outcome:
        """Leaves data: each question, its thought if there are any, and what the engine's model says to it."""
        model = engine.model
        asked = questions([prompts], (0,), 0)  # all of them
        out = context.folder / DATA
        select = Behind(thoughts, model.tokenizer)
        harvest = Harvest(asked, self.batch, _ungraded, select, context.seed, context.folder / FOLDER)
        rollouts = Rollouts(Assistant(engine), think="off", max_tokens=self.max_tokens, temperature=0.0)
        reap(harvest, from_engine(rollouts, 1, context.seed), self.name, context, model)
        count, ledger = harvest.collect(out)
        if not count:
            raise BadRequest(
                f"{model.name} ended none of its answers within {self.max_tokens} tokens without repeating itself; "
                "raise max_tokens, or take another base"
            )
        context.progress.say(f"{self.name}: kept {count:,} answers to {len(asked):,} questions")
        return Outcome(out, file_hash(out), ledger)


@dataclass(frozen=True, kw_only=True)
class AnswersStage(Answering):
    """data: JSON lines with `question` and `reasoning`, beside the recipe. thoughts: put them before the answers; else
    these are what a model says that is not to think, and the file needs questions alone."""

    data: str
    thoughts: bool = True

    def sources(self) -> tuple[str, ...]:
        return (self.data,)

    def run(self, context: Context) -> Outcome:
        path = context.path(self.data)
        thoughts = read_thoughts(path) if self.thoughts else {}
        prompts = Prompts(self.data, path)
        model = load(context.base, device=context.device)
        with sampler(model, self.cache_tokens, context.progress) as engine:
            return self.answer(prompts, thoughts, engine, context)


class Behind:
    """Puts an answer behind the thought for its question, where there are thoughts, unless it is none to learn from."""

    def __init__(self, thoughts: Mapping[str, str], tokenizer: Tokenizer) -> None:
        self._thoughts, self._tokenizer = thoughts, tokenizer

    def __call__(
        self, problem: Problem, source: Mapping[str, Any], replies: list[Reply], grades: list[Grade]
    ) -> Iterable[dict[str, Any]]:
        good = [
            replace(reply, reasoning=self._thoughts[problem.prompt] if self._thoughts else "")
            for reply in replies
            if reply.finish_reason == "stop"
            and reply.content.strip()
            and printable(reply.content)
            and not repeats(self._tokenizer.encode_plain(reply.content))
        ]
        return kept(problem, source, good, 1)


def repeats(ids: Sequence[int]) -> bool:
    """Whether some stretch of these tokens comes three times in a row."""
    guard = LoopGuard(STRICT)
    return any(guard.push(token_id) for token_id in ids)


def read_thoughts(path: Path) -> dict[str, str]:
    """Question -> thought. Raises BadRequest for a file that is none, an empty thought, or a question asked twice."""
    thoughts: dict[str, str] = {}
    for number, row in enumerate(read_jsonl(path, ["question", "reasoning"]), 1):
        question, thought = row["question"], row["reasoning"]
        if not isinstance(question, str) or not isinstance(thought, str) or not thought.strip():
            raise BadRequest(f"{path}, row {number}, must have some text as its question and as its reasoning")
        if question in thoughts:
            raise BadRequest(f"{path}, row {number}, asks what an earlier row asks; keep one of them")
        thoughts[question] = thought
    return thoughts


def _ungraded(graded: Sequence[Graded]) -> list[Grade]:
    return [Grade(1.0, "not graded") for _ in graded]

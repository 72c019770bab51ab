"""A model's own answers, by themselves or behind thoughts that somebody wrote: it learns to think, and goes on saying
what it said.

The file has questions, and a thought for each where these are wanted. The answer is what the base says at once, so that
fine-tuning on it moves nothing but what is new.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from millet.engine.engine import Engine
from millet.errors import BadRequest
from millet.models.load import load
from millet.models.model import Model
from millet.models.tokenizer import Tokenizer
from millet.reasoning.assistant import Assistant
from millet.reasoning.loop import LoopGuard, Patience
from millet.reasoning.reply import Reply
from millet.tasks.items import read_jsonl
from millet.tasks.task import Grade, Problem
from millet.train.batches import FOLDER, Batches
from millet.train.checkpoint import file_hash
from millet.train.harvest import Harvest, collect, from_engine, kept, printable, questions, reap, sampler
from millet.train.prompts import Prompts
from millet.train.roles import Graded
from millet.train.rollout import Rollouts
from millet.train.stage import DATA, Context, Outcome, Stage

# What a reader forgives in an answer, a model should not learn: the same stretch three times in a row.
STRICT = Patience(tokens=16, times=2, staleness=False)


@dataclass(frozen=True, kw_only=True)
class Answering(Stage):
    """What stages have in common that let a base answer.

    temperature: of the answers. At 0 a small base repeats itself in its long ones, and who learns them repeats more.
    max_tokens: of an answer; one that is not over by then is left out, where nothing else is said, and so is one that
    repeats itself. batch: questions answered together. cache_tokens: of the engine.
    """

    temperature: float = 0.0
    max_tokens: int = 256
    batch: int = 16
    cache_tokens: int = 16384

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_tokens", "batch"):
            if getattr(self, name) < 1:
                raise BadRequest(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.temperature < 0:
            raise BadRequest(f"temperature is {self.temperature}; it must be at least 0")

    def answering(self, engine: Engine) -> Rollouts:
        """Says what the engine's model says at once."""
        return Rollouts(Assistant(engine), think="off", max_tokens=self.max_tokens, temperature=self.temperature)

    def outcome(self, batches: Batches, asked: int, model: Model, context: Context) -> Outcome:
        """Data of all batches. asked: how many questions they are of. Raises BadRequest where there is none."""
        out = context.folder / DATA
        count, ledger = collect(batches, out)
        if not count:
            raise BadRequest(
                f"{model.name} ended none of its answers within {self.max_tokens} tokens without repeating itself; "
                "raise max_tokens, or take another base"
            )
        context.progress.say(f"{self.name}: kept {count:,} answers to {asked:,} questions")
        return Outcome(out, file_hash(out), ledger)


@dataclass(frozen=True, kw_only=True)
class AnswersStage(Answering):
    """data: JSON lines with `question` and `reasoning`, beside the recipe. thoughts: "on" puts them before the answers;
    "off" leaves these alone, as a model gives them that is not to think, and the file needs questions alone; "both"
    leaves each answer both ways. longer: what becomes of an answer that is not over by max_tokens, "drop" or "cut",
    which is learned as far as it goes."""

    data: str
    thoughts: Literal["on", "off", "both"] = "on"
    longer: Literal["drop", "cut"] = "drop"

    def sources(self) -> tuple[str, ...]:
        return (self.data,)

    def run(self, context: Context) -> Outcome:
        path = context.path(self.data)
        thoughts = {} if self.thoughts == "off" else read_thoughts(path)
        asked = questions([Prompts(self.data, path)], (0,), 0)  # all of them
        model = load(context.base, device=context.device)
        select = Behind(thoughts, model.tokenizer, alone=self.thoughts != "on", cut=self.longer == "cut")
        harvest = Harvest(asked, self.batch, _ungraded, select, context.seed, context.folder / FOLDER)
        with sampler(model, self.cache_tokens, context.progress) as engine:
            reap(harvest, from_engine(self.answering(engine), 1, context.seed), self.name, context, model)
        return self.outcome(harvest.batches, len(asked), model, context)


class Behind:
    """Puts an answer behind the thought for its question, where there are thoughts, and leaves it alone where it is
    wanted so; unless it is none to learn from, as one that was cut off where `cut` does not allow it."""

    def __init__(self, thoughts: Mapping[str, str], tokenizer: Tokenizer, alone: bool, cut: bool = False) -> None:
        self._thoughts, self._tokenizer, self._alone = thoughts, tokenizer, alone
        self._reasons = ("stop", "length") if cut else ("stop",)

    def __call__(
        self, problem: Problem, source: Mapping[str, Any], replies: list[Reply], grades: list[Grade]
    ) -> Iterable[dict[str, Any]]:
        good = [
            reply
            for reply in replies
            if reply.finish_reason in self._reasons
            and reply.content.strip()
            and printable(reply.content)
            and not repeats(self._tokenizer.encode_plain(reply.content))
        ]
        forms = [self._thoughts[problem.prompt]] if self._thoughts else []
        for thought in forms + [""] * self._alone:
            yield from kept(problem, source, [replace(reply, reasoning=thought) for reply in good], 1)


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

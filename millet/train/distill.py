"""Distillation of sequences: a teacher's replies, as data to learn from (Kim and Rush, 1606.07947).

This is how DeepSeek-R1's small models came to be (2501.12948, section 2.4): fine-tuning on what the large one wrote. It
needs nothing of the teacher but its text, so any model serves and any server, whatever its vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from millet.errors import BadRequest
from millet.models.load import load
from millet.reasoning.assistant import Assistant
from millet.reasoning.reply import Reply
from millet.tasks.find import find_task
from millet.tasks.grading import Graders
from millet.tasks.task import Grade, Problem
from millet.train.batches import FOLDER
from millet.train.checkpoint import file_hash
from millet.train.harvest import Asked, Harvest, collect, from_engine, kept, printable, questions, reap, sampler
from millet.train.prompts import Prompts
from millet.train.remote import Asking, Remote, check_url, is_url
from millet.train.rollout import Rollouts
from millet.train.stage import DATA, Context, Outcome, Stage


@dataclass(frozen=True, kw_only=True)
class DistillStage(Stage):
    """Asks a teacher, and leaves its replies as data for the stages after it.

    teacher: a model as `load` takes it, the stage that made one, or the URL of an OpenAI-compatible server.
    teacher_model, key_env: the model's name at that server, and the environment variable that has the key.
    tasks: as `millet task` knows them; `problems` of each, at each of `levels`. prompts: JSONL files with questions.
    replies: asked for to each question; keep: the most that are kept, shortest first. only_right: none of a task's that
    its grader does not pass. think: "off" leaves thoughts out. batch: questions under way together.
    """

    teacher: str
    teacher_model: str = ""
    key_env: str = ""
    tasks: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    problems: int = 100
    levels: tuple[int, ...] = (0,)
    replies: int = 1
    keep: int = 1
    only_right: bool = True
    think: Literal["on", "off"] = "on"
    temperature: float = 0.6
    max_tokens: int = 2048
    batch: int = 8
    cache_tokens: int = 32768

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("problems", "replies", "keep", "max_tokens", "batch", "cache_tokens"):
            if getattr(self, name) < 1:
                raise BadRequest(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.temperature >= 0:
            raise BadRequest(f"temperature is {self.temperature}; it must be at least 0")
        if not self.temperature and self.replies > 1:
            raise BadRequest(f"temperature is 0, so all {self.replies} replies would be the same; set replies = 1")
        if not (self.tasks or self.prompts):
            raise BadRequest("there is nothing to ask; name tasks, or files of prompts")
        if is_url(self.teacher):
            check_url(self.teacher)
        if is_url(self.teacher) != bool(self.teacher_model) or (self.key_env and not is_url(self.teacher)):
            raise BadRequest(
                "teacher_model is the model's name at a server, key_env where its key is; give the first with a "
                "teacher that is a URL, and neither with another"
            )

    def sources(self) -> tuple[str, ...]:
        return self.prompts

    def parents(self, base: str) -> tuple[str, ...]:
        return () if is_url(self.teacher) else (self.teacher,)

    def check(self) -> None:
        if is_url(self.teacher):
            self._remote().check()

    def run(self, context: Context) -> Outcome:
        asked = self._asked(context)
        out = context.folder / DATA
        size = 1 if is_url(self.teacher) else self.batch  # what was paid for is on disk as soon as it is here
        with Graders() as graders:
            harvest = Harvest(asked, size, graders.grade, self.select, context.seed, context.folder / FOLDER)
            self._ask(harvest, context)
        count, ledger = collect(harvest.batches, out)
        if not count:
            none = f"none of the replies of {self.teacher} was {'whole and right' if self.only_right else 'whole'}"
            advice = (
                "raise max_tokens, ask easier levels, or take another teacher, "
                'with think = "off" one that does not think'
            )
            raise BadRequest("; ".join(filter(None, (none, harvest.faults(), advice))))
        context.progress.say(f"{self.name}: kept {count:,} replies to {len(asked):,} questions")
        return Outcome(out, file_hash(out), ledger)

    def select(
        self, problem: Problem, source: Mapping[str, Any], replies: list[Reply], grades: list[Grade]
    ) -> Iterable[dict[str, Any]]:
        """What of the replies to one question is kept."""
        good = [
            reply
            for reply, grade in zip(replies, grades, strict=True)
            if _whole(reply, self.think == "on") and (grade.passed or not self.only_right)
        ]
        if self.think == "off":
            good = [replace(reply, reasoning="") for reply in good]
        return kept(problem, {**source, "teacher": self.teacher_model or self.teacher}, good, self.keep)

    def _asked(self, context: Context) -> list[Asked]:
        tasks = [find_task(name, context.beside) for name in self.tasks]
        prompts = [Prompts(name, context.path(name)) for name in self.prompts]
        asked = questions([*tasks, *prompts], self.levels, self.problems)
        if not asked:
            raise BadRequest(f"no task has a level of {list(self.levels)}; lower levels")
        return asked

    def _remote(self) -> Remote:
        asking = Asking(self.replies, self.batch, self.max_tokens, self.temperature)
        return Remote(self.teacher, self.teacher_model, self.key_env, asking)

    def _ask(self, harvest: Harvest, context: Context) -> None:
        if is_url(self.teacher):
            remote = self._remote()
            reap(harvest, remote.answers, self.name, context, at_once=self.batch)
            if remote.refused:
                context.progress.say(f"{self.name}: the server refused {remote.refused:,} questions")
            return
        model = load(context.model(self.teacher), device=context.device)  # in the form it has: 4-bit weights stay so
        with sampler(model, self.cache_tokens, context.progress) as engine:
            rollouts = Rollouts(
                Assistant(engine), think=self.think, max_tokens=self.max_tokens, temperature=self.temperature
            )
            answers = from_engine(rollouts, self.replies, context.seed)
            reap(harvest, answers, self.name, context, model)


def _whole(reply: Reply, thinks: bool) -> bool:
    """Ended by the teacher itself, with an answer, and a thought where one is to be learned."""
    thought = reply.thought_ended == "model" and bool(reply.reasoning.strip())
    ended = reply.finish_reason == "stop" and bool(reply.content.strip())
    return ended and (thought or not thinks) and printable(reply.reasoning + reply.content)

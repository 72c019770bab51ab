"""On-policy distillation: the student answers, and learns at each of its own tokens what its teacher would have said.

Data of others shows a student only places where others get to; its own mistakes lead elsewhere, and there nobody has
told it how to go on. So it is taught where it goes (Agarwal et al., GKD, 2306.13649): replies are sampled from the
student of now, the teacher reads them, and the loss is the mean over all their tokens of KL(student || teacher). The
sampling itself is not differentiated.

The same objective as a policy gradient has the advantage log p_teacher - log p_student of the sampled token. Both
models are here, so the divergence is summed over the whole vocabulary instead: the same mean, and less noise.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from millet.engine.engine import Engine
from millet.errors import BadRequest
from millet.reasoning.assistant import Assistant
from millet.tasks.find import find_task
from millet.tasks.grading import Graders
from millet.tasks.task import Grade, Problem, Task
from millet.train import devices, ungraded
from millet.train.divergence import Divergence, Sums, distance
from millet.train.loop import MicroBatch
from millet.train.metrics import read_log
from millet.train.prompts import Prompts
from millet.train.roles import Judges, Sampler, next_problem
from millet.train.rollout import Group, Rollouts, computed, parts
from millet.train.stage import Context, Outcome, TrainingStage
from millet.train.teacher import Teacher, load_teacher
from millet.train.trainee import Trainee

REVERSE = Divergence("reverse")


class Student(Protocol):
    """What of a `Trainee` is needed."""

    @property
    def head(self) -> Tensor: ...
    def hidden(self, sequences: Sequence[Sequence[int]], first: Sequence[int]) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, kw_only=True)
class OnPolicySettings:
    """questions: of a step, and replies to each. levels: of the tasks, one of them drawn for each question.
    micro_tokens: of one pass through the models."""

    levels: tuple[int, ...] = (0,)
    questions: int = 16
    replies: int = 1
    max_tokens: int = 256
    micro_tokens: int = 2048

    def __post_init__(self) -> None:
        for name in ("questions", "replies", "max_tokens", "micro_tokens"):
            if getattr(self, name) < 1:
                raise BadRequest(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with its replies and their grades; none of a file of prompts."""

    task: Task
    problem: Problem
    group: Group
    grades: list[Grade]


class DistillOnPolicy:
    """The method of `loop.Loop`."""

    def __init__(
        self,
        student: Student,
        sampler: Sampler,
        teacher: Teacher,
        tasks: Sequence[Task],
        judges: Judges,
        settings: OnPolicySettings,
        seed: int,
    ) -> None:
        if len({task.name for task in tasks}) < len(tasks) or not tasks:
            raise BadRequest("name every task and file of prompts once, and at least one")
        self._student, self._sampler, self._teacher, self._judges = student, sampler, teacher, judges
        self._tasks = {task.name: task for task in tasks}
        self._levels = {task.name: [level for level in settings.levels if level < task.levels] for task in tasks}
        for name, levels in self._levels.items():
            if not levels and not isinstance(self._tasks[name], Prompts):
                raise BadRequest(f"{name} has none of the levels {list(settings.levels)}; add a lower one")
        self._settings, self._seed = settings, seed
        self._drawn: Counter[str] = Counter()
        self._metrics: dict[str, float | None] = {}
        self._sample: dict[str, Any] | None = None

    def check(self) -> list[str]:
        """A first round of replies shows how far apart the two are."""
        for _ in self.micro_batches(0):  # whose gradients nobody asks for
            pass
        tokens, kl = self._metrics["sampled_tokens"], self._metrics["kl"]
        lines = [self._teacher.describe(), f"first round: {tokens:,.0f} tokens, {kl:.3f} nats a token from the teacher"]
        failed = ungraded.told([self._metrics])
        return [*lines, f"first round: {failed}"] if failed else lines

    def micro_batches(self, step: int) -> Iterator[MicroBatch]:
        self._sampler.refresh()
        answered = self._answered(random.Random(f"{self._seed} {step}"))
        self._sampler.release()
        rows = [(each.group.prompt, sample) for each in answered for sample in each.group.samples]
        whole = sum(len(sample.token_ids) for _, sample in rows)
        sampled = whole * devices.first()
        sums = Sums()
        for part, weight in devices.deal(parts(rows, self._settings.micro_tokens)):
            sequences = [[*prompt, *sample.token_ids] for prompt, sample in part]
            first = [len(prompt) for prompt, _ in part]
            hidden_ND, targets_N = self._student.hidden(sequences, first)
            teacher = self._teacher.logits(sequences, first)
            found = distance(hidden_ND, self._student.head, targets_N, teacher, REVERSE, weight / whole)
            sums.add(found, weight)
            yield MicroBatch(found.loss, weight * computed(part), sampled)
            sampled = 0
        self._measure(answered)
        self._metrics |= {**sums.means(whole, whole), "sampled_tokens": float(whole)}

    def metrics(self) -> Mapping[str, float | None]:
        return self._metrics

    def sample(self) -> Mapping[str, Any] | None:
        return self._sample

    def state(self) -> dict[str, Any]:
        return {"drawn": dict(self._drawn)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._drawn = Counter(state["drawn"])

    def close(self) -> None:
        self._sampler.close()
        self._judges.close()

    def _answered(self, rng: random.Random) -> list[Answered]:
        tasks = [self._tasks[rng.choice(sorted(self._tasks))] for _ in range(self._settings.questions)]
        problems = []
        for task in tasks:
            level = rng.choice(self._levels[task.name] or [0])
            problems.append(next_problem(task, level, self._drawn, self._seed, self._sampler)[0])
        seeds = [rng.randrange(2**62) for _ in tasks]
        answers = devices.share(list(zip(tasks, problems, seeds, strict=True)), self._answer)
        return [
            Answered(task, problem, group, grades)
            for task, problem, (group, grades) in zip(tasks, problems, answers, strict=True)
        ]

    def _answer(self, asked: Sequence[tuple[Task, Problem, int]]) -> list[tuple[Group, list[Grade]]]:
        """Replies to each question, by its seed, and their grades, if it has any."""
        questions, seeds = [problem.prompt for _, problem, _ in asked], [seed for _, _, seed in asked]
        groups = self._sampler.sample(questions, self._settings.replies, seeds)
        graded = [
            [] if isinstance(task, Prompts) else [(task, problem, sample.reply) for sample in group.samples]
            for (task, problem, _), group in zip(asked, groups, strict=True)
        ]
        grades = iter(self._judges.grade([each for replies in graded for each in replies]))
        return [(group, [next(grades) for _ in replies]) for group, replies in zip(groups, graded, strict=True)]

    def _measure(self, answered: Sequence[Answered]) -> None:
        samples = [sample for each in answered for sample in each.group.samples]
        scores: defaultdict[str, list[float]] = defaultdict(list)
        for each in answered:
            scores[each.task.name] += [grade.score for grade in each.grades]
        grades = [grade for each in answered for grade in each.grades]
        self._metrics = {
            **{f"accuracy {name}": _mean(found) for name, found in sorted(scores.items()) if found},
            **(ungraded.measure(grades) if grades else {}),
            "reply_tokens": _mean([float(len(sample.token_ids)) for sample in samples]),
            "truncated": _mean([float(sample.reply.finish_reason == "length") for sample in samples]),
        }
        shown = answered[0]
        reply = shown.group.samples[0].reply
        self._sample = {
            "task": shown.task.name,
            "question": shown.problem.prompt,
            "answer": shown.problem.answer,
            "thought": reply.reasoning,
            "reply": reply.content,
            "grade": shown.grades[0].reason if shown.grades else "not graded",
        }


@dataclass(frozen=True, kw_only=True)
class DistillOnPolicyStage(TrainingStage, OnPolicySettings):
    """teacher: a model as `load` takes it, or the stage that made one. tasks: as `millet task` knows them. prompts:
    JSONL files with questions. think: "on", or "off" for replies without a thought. cache_tokens: of the sampler, for
    all replies of a step together."""

    teacher: str
    tasks: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    steps: int = 100
    think: Literal["on", "off"] = "on"
    cache_tokens: int = 16384

    def __post_init__(self) -> None:
        TrainingStage.__post_init__(self)
        OnPolicySettings.__post_init__(self)
        if not (self.tasks or self.prompts):
            raise BadRequest("there is nothing to ask; name tasks, or files of prompts")

    def sources(self) -> tuple[str, ...]:
        return self.prompts

    def parents(self, base: str) -> tuple[str, ...]:
        return (base, self.teacher)

    def run(self, context: Context) -> Outcome:
        outcome = super().run(context)
        if devices.first() and (failed := ungraded.told(read_log(context.folder / "metrics.jsonl"))):
            context.progress.say(f"{self.name}: {failed}")
        return outcome

    def prepare(self, trainee: Trainee, context: Context) -> tuple[DistillOnPolicy, int]:
        tasks = [find_task(name, context.beside) for name in self.tasks]
        prompts = [Prompts(name, context.path(name)) for name in self.prompts]
        teacher = load_teacher(self.teacher, trainee.model, context)
        engine = Engine(trainee.whole(), cache_tokens=self.cache_tokens, exact=self.exact)
        rollouts = Rollouts(Assistant(engine), think=self.think, max_tokens=self.max_tokens, update=trainee.whole)
        method = DistillOnPolicy(trainee, rollouts, teacher, [*tasks, *prompts], Graders(), self, context.seed)
        return method, self.steps


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0

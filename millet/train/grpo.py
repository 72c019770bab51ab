"""Group relative policy optimisation: replies are sampled, graded, and made likelier or less likely than their group.

A step draws questions at the levels where the model has something to learn, samples a group of replies to each, grades
them, and differentiates `policy_loss`. Groups whose replies are all worth the same teach nothing: others are sampled in
their place. The log-probabilities that the sampler gave are the old ones of the objective; in exact mode they are the
bits that the trainer computes before its step, which `mismatch` in the metrics shows.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from millet.engine.engine import Engine
from millet.errors import BadRequest
from millet.kernels.native.abi import Format
from millet.models.model import Model
from millet.reasoning.assistant import Assistant
from millet.reasoning.reply import Reply
from millet.tasks.band import Band, beginning
from millet.tasks.check import check
from millet.tasks.find import find_task
from millet.tasks.grading import Graders
from millet.tasks.task import Grade, Problem, Task, climb
from millet.train import devices, ungraded
from millet.train.ladder import Ladder
from millet.train.loop import MicroBatch
from millet.train.policy_loss import Objective, advantages, most_varied, overlong_penalty, parting, policy_loss
from millet.train.rewards import Language, format_reward, language_consistency
from millet.train.roles import Judges, Sampler, next_problem
from millet.train.rollout import Group, Rollouts, Sample, computed, parts
from millet.train.sharding import laid_out
from millet.train.stage import Context, TrainingStage
from millet.train.trainee import Trainee


class Learner(Protocol):
    """What of a `Trainee` is needed."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]: ...
    def logprobs(
        self, sequences: Sequence[Sequence[int]], first: Sequence[int], temperature: float
    ) -> list[Tensor]: ...


@dataclass(frozen=True, kw_only=True)
class GrpoSettings:
    """skip: so many questions of each task come before, which an earlier stage has had. levels: that each task climbs,
    easiest first; by default its own. band: questions asked at each of them before
    the first step, to find where each task begins; 0 for the first one. questions: groups of a step. replies: to each.
    keep: those of a group that are learned from, of which the rewards differ most; 0 for all. tails: learn from all of
    a reply that is worse than the mean; else up to where it leaves the last of the better ones. rounds: how often
    groups without signal are replaced; those that have none after that are left out. format_reward,
    language_reward: weights beside accuracy's 1. temperature: of the policy, which replies are sampled from and which
    is made better; beside 1, the sampler's log-probabilities are not the policy's, so that ratios begin at 1 whatever
    the sampler's error. language: of the replies, for it. overlong_margin: tokens below the longest reply from where
    length costs reward, 0 for nowhere. micro_tokens: of one pass through the model.
    resample: replace groups without signal at all; else they stay, in the mean and in the KL term.
    reference_every: steps after which the reference becomes the model of then (objective.kl).
    """

    skip: int = 0
    levels: tuple[int, ...] = ()
    band: int = 4
    questions: int = 4
    replies: int = 8
    keep: int = 0
    tails: bool = True
    max_tokens: int = 256
    temperature: float = 1.0
    resample: bool = True
    rounds: int = 3
    objective: Objective = field(default_factory=Objective)
    format_reward: float = 1.0
    language_reward: float = 0.0
    language: Language = "en"
    overlong_margin: int = 0
    micro_tokens: int = 1024
    reference_every: int = 400

    def __post_init__(self) -> None:
        if self.replies < 2:
            raise BadRequest(f"replies is {self.replies}; a group needs at least 2 to be compared")
        if self.keep and not 2 <= self.keep <= self.replies:
            raise BadRequest(f"keep is {self.keep}; it must be 2 to {self.replies} of the replies, or 0 for all")
        for name in ("questions", "max_tokens", "rounds", "micro_tokens", "reference_every"):
            if getattr(self, name) < 1:
                raise BadRequest(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("skip", "band", "format_reward", "language_reward", "overlong_margin"):
            if getattr(self, name) < 0:
                raise BadRequest(f"{name} is {getattr(self, name)}; it must be at least 0")
        if not self.temperature > 0:
            raise BadRequest(f"temperature is {self.temperature}; it must be above 0, or all replies are the same")
        if len(set(self.levels)) < len(self.levels):
            raise BadRequest(f"levels is {list(self.levels)}; name each once")


@dataclass(frozen=True, slots=True)
class Scored:
    """A group with its question, grades, and rewards (fp32 [G])."""

    task: Task
    level: int
    problem: Problem
    group: Group
    grades: list[Grade]
    rewards: Tensor

    @property
    def signal(self) -> bool:
        return bool(self.rewards.max() > self.rewards.min())


class GrpoMethod:
    """The method of `loop.Loop`."""

    def __init__(
        self,
        learner: Learner,
        sampler: Sampler,
        tasks: Sequence[Task],
        judges: Judges,
        settings: GrpoSettings,
        seed: int,
    ) -> None:
        if len({task.name for task in tasks}) < len(tasks) or not tasks:
            raise BadRequest("name every task once, and at least one")
        self._learner, self._sampler, self._judges = learner, sampler, judges
        self._tasks = {task.name: task for task in tasks}
        self._settings, self._seed = settings, seed
        self._levels = {task.name: _levels(task, settings.levels) for task in tasks}
        self._beginnings: dict[str, tuple[int, list[Band]]] | None = None
        self.ladder = Ladder(self._levels)
        self._drawn = Counter({task.name: settings.skip for task in tasks})
        self._reference: dict[str, Tensor] = {}
        self._metrics: dict[str, float | None] = {}
        self._seconds: defaultdict[str, float] = defaultdict(float)  # of this step, by what they were for
        self._sampled = 0  # tokens that no micro-batch has accounted for
        self._too_long = 0  # questions of this step that were passed over
        self._sample: dict[str, Any] | None = None

    def check(self) -> list[str]:
        """First replies show whether there is anything to learn, and a self-test whether the graders can be trusted."""
        before = self.state()
        self._begin()
        scored = self._collect(random.Random(f"check {self._seed}"))
        self.restore(before)  # a run that goes on does not check again, and must do the same
        passed = [grade.score for each in scored for grade in each.grades]
        signal = sum(each.signal for each in scored)
        if not signal:
            raise BadRequest(
                f"all replies to each of {len(scored)} first questions got the same reward, so there is nothing to "
                "learn; find the levels with signal by `millet task band`, or give more replies or questions"
            )
        rate = sum(passed) / len(passed)
        failed = ungraded.told([ungraded.measure([grade for each in scored for grade in each.grades])])
        return [
            *(self._trust(task) for task in self._tasks.values()),
            *(_told(name, level, bands) for name, (level, bands) in (self._beginnings or {}).items()),
            f"first replies: {rate:.0%} right, {signal} of {len(scored)} questions with signal",
            *([f"first replies: {failed}"] if failed else []),
        ]

    def _trust(self, task: Task) -> str:
        """The self-test of a grader in a line. What a trick can earn is what the model would learn."""
        rows = check(task, self._judges)
        refused = [row for row in rows if not row.accepted]
        if not refused:
            known = all(row.score is not None for row in rows)
            untried = "" if known else ", but for what needs a right answer, which is not known"
            return f"{task.name}: its grader passed the self-test{untried}"
        worst = max(refused, key=lambda row: (row.faults, row.score or 0.0))
        what = f"{worst.faults} of the replies of kind {worst.kind!r} could not be graded" if worst.faults else ""
        what = what or f"{worst.kind!r} scores {worst.score:.2g}"
        return f"warning: the grader of {task.name} cannot be trusted: {what} ({worst.reason}); see `millet task check`"

    def micro_batches(self, step: int) -> Iterator[MicroBatch]:
        settings = self._settings
        self._seconds.clear()
        self._too_long = 0
        with self._timed("rollout"):
            self._sampler.refresh()
        if step == 0:
            self._begin()
        tried = self._collect(random.Random(f"{self._seed} {step}"))
        self._sampler.release()
        kept = [each for each in tried if each.signal or not settings.resample][: settings.questions]
        self._sampled += sum(len(sample.token_ids) for each in tried for sample in each.group.samples)
        self._measure(tried)
        if settings.objective.kl and step % settings.reference_every == 0:
            self._reference = {name: p.detach().clone() for name, p in self._learner.parameters.items()}
        rows = self._rows(kept)
        totals = {"replies": len(rows), "tokens": sum(len(sample.token_ids) for _, sample, _ in rows)}
        drift, clipped, kl = _Mean(), _Mean(), _Mean()
        largest = 0.0
        for part, weight in devices.deal(parts(rows, settings.micro_tokens)):
            sequences = [[*prompt, *sample.token_ids] for prompt, sample, _ in part]
            first = [len(prompt) for prompt, _, _ in part]
            with self._timed("forward"):
                reference = self._of_reference(sequences, first) if settings.objective.kl else None
                new = self._learner.logprobs(sequences, first, settings.temperature)
                sampled_at = [torch.tensor(sample.logprobs) for _, sample, _ in part]
                found = policy_loss(
                    new,
                    sampled_at if settings.temperature == 1 else [each.detach() for each in new],
                    [advantage for _, _, advantage in part],
                    settings.objective,
                    reference,
                    **totals,
                )
            size = weight * sum(len(sample.token_ids) for _, sample, _ in part)
            drift.add(found.drift, size)
            clipped.add(found.clipped, size)
            kl.add(found.kl, size)
            largest = max(largest, found.largest_drift)
            sampled, self._sampled = self._sampled * devices.first(), 0
            yield MicroBatch(found.loss * weight, weight * computed(part), sampled)
        self._metrics |= {
            "mismatch": drift.value,
            "mismatch_largest": max(devices.gathered(largest)) if rows else None,
            "clipped": clipped.value,
            "kl": kl.value,
            **{f"{name}_seconds": self._seconds[name] for name in ("rollout", "grading", "forward")},
        }

    def metrics(self) -> Mapping[str, float | None]:
        return self._metrics

    def sample(self) -> Mapping[str, Any] | None:
        return self._sample

    def state(self) -> dict[str, Any]:
        return {
            "ladder": self.ladder.state(),
            "drawn": dict(self._drawn),
            "reference": self._reference,
            "sampled": self._sampled,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.ladder.restore(state["ladder"])
        self._drawn = Counter(state["drawn"])
        self._reference = dict(state["reference"])
        self._sampled = state["sampled"]

    def close(self) -> None:
        self._sampler.close()
        self._judges.close()

    def _begin(self) -> None:
        """Let each task begin where the model can learn something, which is measured once."""
        if self._beginnings is None:
            self._beginnings = {
                name: beginning(self._tasks[name], levels, self._replies, self._judges, self._settings.band, self._seed)
                for name, levels in sorted(self._levels.items())
                if self._settings.band and len(levels) > 1
            }
        for name, (level, _) in self._beginnings.items():
            self.ladder.begin(name, level)

    def _replies(self, questions: Sequence[str]) -> list[list[Reply]]:
        """To the questions of a band; none to one that leaves no room for it."""
        rng = random.Random(f"band {self._seed}")
        seeds = {question: rng.randrange(2**62) for question in questions if self._sampler.fits(question)}
        groups = self._sampler.sample([*seeds], self._settings.replies, [*seeds.values()])
        found = {each: [s.reply for s in group.samples] for each, group in zip(seeds, groups, strict=True)}
        return [found.get(question, []) for question in questions]

    def _collect(self, rng: random.Random) -> list[Scored]:
        """Rounds of groups until enough have signal."""
        tried: list[Scored] = []
        for _ in range(self._settings.rounds if self._settings.resample else 1):
            missing = self._settings.questions - sum(each.signal for each in tried)
            if missing <= 0:
                break
            tried += self._round(rng, missing)
        return tried

    def _round(self, rng: random.Random, questions: int) -> list[Scored]:
        names = [rng.choice(sorted(self._tasks)) for _ in range(questions)]
        levels = [self.ladder.level(name) for name in names]
        seeds = [rng.randrange(2**62) for _ in names]
        tasks = [self._tasks[name] for name in names]
        problems = []
        for task, level in zip(tasks, levels, strict=True):
            problem, passed_over = next_problem(task, level, self._drawn, self._seed, self._sampler)
            problems.append(problem)
            self._too_long += passed_over
        answers = devices.share(list(zip(tasks, problems, seeds, strict=True)), self._answer)
        scored = []
        for task, level, problem, (group, given) in zip(tasks, levels, problems, answers, strict=True):
            scored.append(Scored(task, level, problem, group, given, self._rewards(group, given)))
            self.ladder.take(task.name, level, sum(grade.score for grade in given) / len(given))
        return scored

    def _answer(self, asked: Sequence[tuple[Task, Problem, int]]) -> list[tuple[Group, list[Grade]]]:
        """A group of replies to each question, by its seed, and their grades."""
        questions, seeds = [problem.prompt for _, problem, _ in asked], [seed for _, _, seed in asked]
        with self._timed("rollout"):
            groups = self._sampler.sample(questions, self._settings.replies, seeds)
        replies = [
            (task, problem, sample.reply)
            for (task, problem, _), group in zip(asked, groups, strict=True)
            for sample in group.samples
        ]
        with self._timed("grading"):
            grades = iter(self._judges.grade(replies))
        return [(group, [next(grades) for _ in group.samples]) for group in groups]

    def _rewards(self, group: Group, grades: Sequence[Grade]) -> Tensor:
        settings = self._settings
        rewards = torch.tensor([grade.score for grade in grades])
        replies = [sample.reply for sample in group.samples]
        rewards += settings.format_reward * torch.tensor([format_reward(reply) for reply in replies])
        if settings.language_reward:
            shares = [language_consistency(f"{r.reasoning} {r.content}", settings.language) for r in replies]
            rewards += settings.language_reward * torch.tensor(shares)
        if settings.overlong_margin:
            lengths = [len(sample.token_ids) for sample in group.samples]
            rewards += torch.tensor(overlong_penalty(lengths, settings.max_tokens, settings.overlong_margin))
        return rewards

    def _rows(self, groups: Sequence[Scored]) -> list[tuple[list[int], Sample, float]]:
        """Prompt, sample and advantage of every reply that is learned from."""
        rows = []
        for each in groups:
            kept = most_varied(each.rewards.tolist(), self._settings.keep or self._settings.replies)
            found = advantages(each.rewards[None, kept], self._settings.objective.standardise)[0].tolist()
            for i, advantage in zip(kept, found, strict=True):
                whole = advantage >= 0 or self._settings.tails
                rows.append(
                    (each.group.prompt, each.group.samples[i] if whole else _until_it_parts(each, i), advantage)
                )
        return rows

    def _of_reference(self, sequences: Sequence[Sequence[int]], first: Sequence[int]) -> list[Tensor]:
        """Log-probabilities under the reference: its weights take the place of the model's meanwhile."""
        parameters = self._learner.parameters
        with torch.no_grad():
            own = {name: p.detach().clone() for name, p in parameters.items()}
            try:
                for name, p in parameters.items():
                    p.copy_(laid_out(self._reference[name], p))
                return self._learner.logprobs(sequences, first, self._settings.temperature)
            finally:
                for name, p in parameters.items():
                    p.copy_(own[name])

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._seconds[part] += time.perf_counter() - began

    def _measure(self, tried: Sequence[Scored]) -> None:
        samples = [sample for each in tried for sample in each.group.samples]
        logprobs = [value for sample in samples for value in sample.logprobs]
        accuracy: defaultdict[str, list[float]] = defaultdict(list)
        rewards: defaultdict[str, list[float]] = defaultdict(list)
        for each in tried:
            accuracy[each.task.name] += [grade.score for grade in each.grades]
            rewards[each.task.name] += each.rewards.tolist()
        self._metrics = {
            "reward": _mean([value for each in tried for value in each.rewards.tolist()]),
            "accuracy": _mean([score for scores in accuracy.values() for score in scores]),
            **{f"accuracy {name}": _mean(scores) for name, scores in sorted(accuracy.items())},
            **{f"reward {name}": _mean(each) for name, each in sorted(rewards.items())},
            **{f"level {name}": float(rung.level) for name, rung in sorted(self.ladder.rungs.items())},
            "format": _mean([format_reward(sample.reply) for sample in samples]),
            "zero_signal": _mean([float(not each.signal) for each in tried]),
            "entropy": -_mean(logprobs),
            "reply_tokens": _mean([float(len(sample.token_ids)) for sample in samples]),
            "thought_tokens": _mean([float(sample.reply.usage.reasoning_tokens) for sample in samples]),
            "truncated": _mean([float(sample.reply.finish_reason == "length") for sample in samples]),
            **ungraded.measure([grade for each in tried for grade in each.grades]),
            "too_long": self._too_long,
        }
        shown = tried[0]
        best = int(shown.rewards.argmax())
        reply = shown.group.samples[best].reply
        self._sample = {
            "task": shown.task.name,
            "level": shown.level,
            "question": shown.problem.prompt,
            "answer": shown.problem.answer,
            "thought": reply.reasoning,
            "reply": reply.content,
            "reward": shown.rewards[best].item(),
            "grade": shown.grades[best].reason,
            "rewards": shown.rewards.tolist(),
        }


def _until_it_parts(scored: Scored, at: int) -> Sample:
    """A reply of a group up to where it leaves the last of those that are worth more."""
    sample, reward, samples = scored.group.samples[at], scored.rewards[at], scored.group.samples
    better = [other.token_ids for other, its in zip(samples, scored.rewards, strict=True) if its > reward]
    end = parting(sample.token_ids, better)
    return replace(sample, token_ids=sample.token_ids[:end], logprobs=sample.logprobs[:end])


def _levels(task: Task, wanted: Sequence[int]) -> list[int]:
    """Those it has of the wanted levels; by default all that it climbs."""
    found = [level for level in wanted or climb(task) if 0 <= level < task.levels]
    if not found:
        raise BadRequest(f"{task.name} has none of the levels {list(wanted)}; it has 0 to {task.levels - 1}")
    return found


def _told(task: str, level: int, bands: Sequence[Band]) -> str:
    rates = ", ".join(f"{band.level}: {band.rate:.0%}" for band in bands)
    return f"{task} begins at level {level} (right by level: {rates})"


@dataclass(frozen=True, kw_only=True)
class GrpoStage(TrainingStage, GrpoSettings):
    """tasks: as `millet task` knows them. think: "on", or "off" for replies without a thought. cache_tokens: of the
    sampler, for all replies of a step together. sampler: the weights that replies are sampled with; "q8" are quantised
    anew for every step, and what they make of the log-probabilities is what the objective's ratio begins with."""

    tasks: tuple[str, ...]
    steps: int = 100
    think: Literal["on", "off"] = "on"
    cache_tokens: int = 16384
    sampler: Literal["fp32", "q8"] = "fp32"

    def __post_init__(self) -> None:
        TrainingStage.__post_init__(self)
        GrpoSettings.__post_init__(self)
        if self.steps < 1:
            raise BadRequest(f"steps is {self.steps}; it must be at least 1")
        if not self.tasks:
            raise BadRequest("tasks is empty; name at least one")
        if self.exact and self.sampler != "fp32":
            raise BadRequest("exact needs the sampler to have the trainer's own weights; leave one of the two out")

    def prepare(self, trainee: Trainee, context: Context) -> tuple[GrpoMethod, int]:
        model = trainee.whole()
        if self.sampler == "q8":
            quantise_sampler(model)
        engine = Engine(model, cache_tokens=self.cache_tokens, exact=self.exact)
        rollouts = Rollouts(
            Assistant(engine),
            think=self.think,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            update=trainee.whole,
        )
        tasks = [find_task(name, context.beside) for name in self.tasks]
        return GrpoMethod(trainee, rollouts, tasks, Graders(), self, context.seed), self.steps


def quantise_sampler(model: Model) -> None:
    """Have engines on a model in training compute with 8-bit copies of its weights, twice as fast on a CPU."""
    if model.quantised:
        raise BadRequest(
            f'{model.name} has quantised weights, which are sampled from as they are; leave sampler = "q8" out'
        )
    if not model.native:
        raise BadRequest('sampler = "q8" needs the native kernels and fp32 weights on a CPU; leave it out')
    model.network.copy_as(Format.Q8)


class _Mean:
    """Of values with weights, those of all processes together."""

    def __init__(self) -> None:
        self._sum, self._weight = 0.0, 0

    def add(self, value: float, weight: int) -> None:
        self._sum, self._weight = self._sum + value * weight, self._weight + weight

    @property
    def value(self) -> float | None:
        whole, weight = devices.total(self._sum, self._weight)
        return whole / weight if weight else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0

"""Learning from a teacher where the student goes itself: what is sampled, read and learned."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from millet.errors import BadRequest
from millet.reasoning.reply import Reply, Usage
from millet.tasks.task import Answered, Grade, Problem, Task
from millet.train.chain import train
from millet.train.distill_on_policy import DistillOnPolicy, DistillOnPolicyStage, OnPolicySettings
from millet.train.metrics import read_log
from millet.train.prompts import Prompts
from millet.train.recipe import read_recipe
from millet.train.roles import Graded
from millet.train.rollout import Group, Sample
from tests.train.taught import recipe, write_taught
from tests.train.toy_recipe import Heard, one_thread  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = 6  # the vocabulary: a reply is two tokens, of which each hangs together with nothing

STAGE = """
[[stage]]
kind = "distill-on-policy"
teacher = "{folder}/teacher"
prompts = ["questions.jsonl"]
steps = 30
questions = 8
max_tokens = 16
micro_tokens = 256
checkpoint_every = 3
[stage.optimizer]
learning_rate = 1e-2
"""


class Student:
    """One distribution over WORDS tokens, whatever comes before: what learns, and the sampler."""

    def __init__(self) -> None:
        self.head = nn.Parameter(torch.zeros(WORDS, 1))
        self.refreshed = 0
        self.asked: list[str] = []

    def hidden(self, sequences: Sequence[Sequence[int]], first: Sequence[int]) -> tuple[Tensor, Tensor]:
        targets = [token for ids, start in zip(sequences, first, strict=True) for token in ids[start:]]
        return torch.ones(len(targets), 1), torch.tensor(targets)

    def refresh(self) -> None:
        self.refreshed += 1

    def release(self) -> None: ...

    def close(self) -> None: ...

    def fits(self, question: str) -> bool:
        return len(question) < 1000

    def sample(self, questions: Sequence[str], replies: int, seeds: Sequence[int]) -> list[Group]:
        self.asked += questions
        groups = []
        for seed in seeds:
            draw = torch.Generator().manual_seed(seed % 2**31)
            chances = self.head.detach()[:, 0].softmax(-1)
            tokens = torch.multinomial(chances, 2 * replies, replacement=True, generator=draw).view(replies, 2).tolist()
            groups.append(Group([0, 0, 0], [Sample(t, [], reply(str(t[0]))) for t in tokens]))
        return groups


class Oracle:
    """A teacher with one distribution of its own."""

    def __init__(self, logits: Sequence[float]) -> None:
        self.table = torch.tensor(logits)
        self.model = SimpleNamespace(config=SimpleNamespace())

    def logits(self, sequences: Sequence[Sequence[int]], first: Sequence[int]) -> Any:
        return lambda rows: self.table.expand(rows.stop - rows.start, WORDS)

    def describe(self) -> str:
        return "teacher: an oracle"


class Here:
    def faults(self, task: str) -> int:
        return 0

    def grade(self, replies: Sequence[Graded]) -> list[Grade]:
        return [task.grade(problem, reply) for task, problem, reply in replies]

    def close(self) -> None: ...


class Say:
    """Right is one digit."""

    levels = 2

    def __init__(self, digit: int, name: str = "say") -> None:
        self.name, self.digit = name, digit

    def sample(self, rng: random.Random, level: int) -> Problem:
        return Problem(f"level {level}: {rng.randrange(10**9)}", str(self.digit))

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return Grade(float(reply.content == problem.answer), "looked at")


def reply(content: str) -> Reply:
    return Reply("", content, "stop", Usage())


TEACHER = [0.0, 1.0, -1.0, 3.0, 0.5, 0.0]


def method(student: Student, *tasks: Task, seed: int = 0, **settings: Any) -> DistillOnPolicy:
    told = OnPolicySettings(**settings)
    oracle: Any = Oracle(TEACHER)
    return DistillOnPolicy(student, student, oracle, tasks or (Say(3),), Here(), told, seed)


def steps(taught: DistillOnPolicy, student: Student, count: int, begin: int = 0) -> None:
    for step in range(begin, begin + count):
        student.head.grad = None
        for micro in taught.micro_batches(step):
            micro.loss.backward()
        with torch.no_grad():
            student.head -= 2.0 * student.head.grad


def test_the_loss_is_the_mean_reverse_kl_over_all_sampled_tokens() -> None:
    student = Student()
    with torch.no_grad():
        student.head += torch.arange(WORDS)[:, None] / 3
    taught = method(student, questions=5, replies=3, micro_tokens=12)
    micros = list(taught.micro_batches(0))
    mine, other = (torch.distributions.Categorical(logits=t) for t in (student.head[:, 0], torch.tensor(TEACHER)))
    expected = torch.distributions.kl_divergence(mine, other)
    loss = torch.stack([micro.loss for micro in micros]).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, student.head)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, student.head)[0])
    assert len(micros) > 3
    assert all(3 + micro.tokens // 5 * 2 <= 12 for micro in micros)  # the prompt, of three tokens, counts once
    assert [micro.sampled for micro in micros] == [30] + [0] * (len(micros) - 1)
    assert taught.metrics()["kl"] == pytest.approx(expected.item(), rel=1e-5)
    assert taught.metrics()["sampled_tokens"] == 30


def test_it_becomes_its_teacher_and_gets_better_at_the_task() -> None:
    student = Student()
    taught = method(student, questions=16)
    steps(taught, student, 1)
    early = taught.metrics()
    steps(taught, student, 40, begin=1)
    late = taught.metrics()
    torch.testing.assert_close(
        student.head[:, 0].softmax(-1), torch.tensor(TEACHER).softmax(-1), rtol=0, atol=0.02, check_device=False
    )
    assert (late["accuracy say"] or 0) > (early["accuracy say"] or 0)
    assert late["agreement"] == 1
    assert student.refreshed == 41


def test_prompts_are_asked_too_and_not_graded(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "Who?"}\n')
    student = Student()
    taught = method(student, Say(3), Prompts("q.jsonl", tmp_path / "q.jsonl"), levels=(1,), questions=20)
    list(taught.micro_batches(0))
    assert set(taught.metrics()) >= {"accuracy say"}
    assert "accuracy q.jsonl" not in taught.metrics()
    assert "Who?" in student.asked
    assert any(question.startswith("level 1") for question in student.asked)
    assert not any(question.startswith("level 0") for question in student.asked)


def test_it_goes_on_where_it_was() -> None:
    first, second = Student(), Student()
    steps(method(first, Say(3), Say(4, "other")), first, 6)
    half = method(second, Say(3), Say(4, "other"))
    steps(half, second, 4)
    rest = method(second, Say(3), Say(4, "other"))
    rest.restore(half.state())
    steps(rest, second, 2, begin=4)
    assert torch.equal(first.head, second.head)
    assert first.asked == second.asked


def test_what_cannot_work_is_refused() -> None:
    student = Student()
    lines = method(student).check()
    kl = F.kl_div(torch.tensor(TEACHER).log_softmax(-1), torch.full((WORDS,), 1 / WORDS), reduction="sum").item()
    assert lines == ["teacher: an oracle", f"first round: 32 tokens, {kl:.3f} nats a token from the teacher"]
    with pytest.raises(BadRequest, match="say has none of the levels"):
        method(student, Say(3), levels=(2,))
    with pytest.raises(BadRequest, match="once, and at least one"):
        method(student, Say(3), Say(4))
    with pytest.raises(BadRequest, match="questions is 0"):
        OnPolicySettings(questions=0)
    with pytest.raises(BadRequest, match="nothing to ask"):
        DistillOnPolicyStage(name="d", teacher="t")


def test_questions_that_are_too_long_are_passed_over() -> None:
    class Wordy(Say):
        def sample(self, rng: random.Random, level: int) -> Problem:
            return Problem("?" * rng.choice([9, 2000]), "3")

    student = Student()
    list(method(student, Wordy(3)).micro_batches(0))
    assert set(map(len, student.asked)) == {9}


def test_graders_that_fail_are_said_at_once_and_counted() -> None:
    class Broken(Say):
        def grade(self, problem: Problem, reply: Answered) -> Grade:
            return Grade(0, "timeout after 10 s" if reply.content in "123" else "error: ValueError")

    taught = method(Student(), Broken(3))
    assert "first round: 16 could not be graded and count as wrong (" in taught.check()[-1]
    timeouts, errors = taught.metrics()["grader_timeouts"], taught.metrics()["grader_errors"]
    assert timeouts
    assert errors
    assert timeouts + errors == 16
    list(taught.micro_batches(1))
    assert sum(taught.metrics()[name] or 0 for name in ("grader_timeouts", "grader_errors")) == 16, "of the step alone"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place: Path = tmp_path_factory.mktemp("taught")
    write_taught(place)
    return place


def test_the_student_comes_nearer(folder: Path, tmp_path: Path) -> None:
    """A whole stage, with the real engine: where the student goes, it is nearer to what the teacher says there."""
    heard = Heard()
    train(read_recipe(recipe(folder, STAGE, "beginner")), tmp_path / "out", heard)
    assert any(line.startswith(f"teacher: {folder}/teacher") for line in heard.lines)
    assert any("nats a token from the teacher" in line for line in heard.lines)
    place = tmp_path / "out" / "1-distill-on-policy"
    records = read_log(place / "metrics.jsonl")
    assert records[-1]["kl"] < records[0]["kl"] / 2
    assert records[0]["sampled_tokens"] == records[0]["cost"]["sampled_tokens"] > 0
    assert records[-1]["agreement"] > records[0]["agreement"]
    samples = read_log(place / "samples.jsonl")
    assert samples[0]["question"].startswith("What is")
    assert samples[0]["grade"] == "not graded"

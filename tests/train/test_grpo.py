"""The method of GRPO: what is sampled, kept and learned from; with a policy small enough to see through."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from millet.errors import BadRequest
from millet.reasoning.reply import Reply, Usage
from millet.tasks.task import Answered, Grade, Problem, Task
from millet.train.grpo import GrpoMethod, GrpoSettings, Scored
from millet.train.policy_loss import Objective
from millet.train.roles import Graded
from millet.train.rollout import Group, Sample, parts

WORDS = 6  # the policy's vocabulary: a reply is one token, and the digit that it says


class Policy:
    """One distribution over WORDS tokens, whatever the question: learner and sampler in one."""

    def __init__(self) -> None:
        self.logits = nn.Parameter(torch.zeros(WORDS))
        self.refreshed = self.released = 0
        self.closed = False
        self.asked: list[str] = []

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {"logits": self.logits}

    def logprobs(self, sequences: Sequence[Sequence[int]], first: Sequence[int], temperature: float) -> list[Tensor]:
        table = (self.logits / temperature).log_softmax(-1)
        return [table[torch.tensor(ids[at:])] for ids, at in zip(sequences, first, strict=True)]

    def refresh(self) -> None:
        self.refreshed += 1

    def release(self) -> None:
        self.released += 1

    def close(self) -> None:
        self.closed = True

    def fits(self, question: str) -> bool:
        return len(question) < 1000

    def sample(self, questions: Sequence[str], replies: int, seeds: Sequence[int]) -> list[Group]:
        self.asked += questions
        table = self.logits.detach().log_softmax(-1)
        groups = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed % 2**31)
            tokens = torch.multinomial(table.exp(), replies, replacement=True, generator=generator).tolist()
            groups.append(Group([7, 7], [Sample([t], [table[t].item()], reply(str(t))) for t in tokens]))
        return groups


def reply(content: str, **changes: Any) -> Reply:
    values = {"finish_reason": "stop", "thought_ended": "model", **changes}
    return Reply(reasoning="hm", content=content, usage=Usage(completion_tokens=1, reasoning_tokens=1), **values)


class Say:
    """Right is one digit, always the same."""

    levels = 3

    def __init__(self, digit: int, name: str = "say") -> None:
        self.name, self.digit = name, digit

    def sample(self, rng: random.Random, level: int) -> Problem:
        return Problem(f"level {level}: {rng.randrange(10**9)}", str(self.digit))

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return Grade(float(reply.content == problem.answer), "looked at")


class Here:
    """Grades in this process."""

    def faults(self, task: str) -> int:
        return 0

    def grade(self, replies: Sequence[Graded]) -> list[Grade]:
        return [task.grade(problem, reply) for task, problem, reply in replies]

    def close(self) -> None: ...


def method(policy: Policy, *tasks: Task, seed: int = 0, band: int = 0, **settings: Any) -> GrpoMethod:
    settings["band"] = band
    return GrpoMethod(policy, policy, tasks or (Say(3),), Here(), GrpoSettings(**settings), seed)


def steps(taught: GrpoMethod, policy: Policy, count: int, begin: int = 0, rate: float = 1.0) -> None:
    """Plain gradient descent."""
    for step in range(begin, begin + count):
        policy.logits.grad = None
        for micro in taught.micro_batches(step):
            micro.loss.backward()
        if policy.logits.grad is not None:
            with torch.no_grad():
                policy.logits -= rate * policy.logits.grad


@pytest.mark.parametrize("average", ["reply", "token", "constant"])
@pytest.mark.parametrize("standardise", [True, False])
def test_what_is_right_becomes_likely(average: Any, standardise: bool) -> None:
    policy = Policy()
    objective = Objective(average=average, length=1, standardise=standardise, kl=0)
    taught = method(policy, objective=objective)
    steps(taught, policy, 2)
    assert taught.metrics()["mismatch_largest"] < 1e-6
    steps(taught, policy, 18, begin=2)
    assert policy.logits.softmax(-1)[3] > 0.8
    assert policy.refreshed == policy.released == 20


def test_groups_without_signal_are_replaced_and_never_learned_from() -> None:
    """Where hardly a reply is right, more questions are asked; where none is, nothing is learned."""
    policy = Policy()
    taught = method(policy, questions=4, replies=2, rounds=3)
    tried = len(policy.asked)
    list(taught.micro_batches(0))
    assert 4 < len(policy.asked) - tried <= 12
    assert taught.metrics()["zero_signal"] > 0
    never = method(policy, Say(9), questions=2, rounds=2)
    assert list(never.micro_batches(0)) == []
    assert never.metrics()["zero_signal"] == 1
    assert never.metrics()["mismatch"] is None


def test_what_an_earlier_stage_has_asked_is_passed_over() -> None:
    first, other = Policy(), Policy()
    list(method(first, questions=5, resample=False).micro_batches(0))
    list(method(other, questions=5, resample=False, skip=2).micro_batches(0))
    assert other.asked[:3] == first.asked[2:]
    assert not set(other.asked[3:]) & set(first.asked)
    with pytest.raises(BadRequest, match="skip is -1"):
        GrpoSettings(skip=-1)


def test_of_a_group_some_are_learned_from() -> None:
    """The rare right reply always is: one of sixteen is enough, beside one that is wrong."""
    policy = Policy()
    taught = method(policy, questions=4, replies=16, keep=2, objective=Objective(kl=0))
    learned = [len(part) for part in _learned(taught)]
    assert sum(learned) == 8
    steps(taught, policy, 19, begin=1)
    assert policy.logits.softmax(-1)[3] > 0.8
    for keep in (1, 17):
        with pytest.raises(BadRequest, match="2 to 16 of the replies"):
            GrpoSettings(replies=16, keep=keep)


def test_what_a_worse_reply_says_after_its_mistake_may_be_left_out() -> None:
    replies = [[1, 2, 3, 4], [1, 2, 5, 0, 0, 0], [1, 2, 3, 4], [2, 0, 0]]
    rewards = torch.tensor([1.0, 0.0, 1.0, 0.0])
    samples = [Sample(ids, [-0.5] * len(ids), reply("")) for ids in replies]
    scored = Scored(Say(3), 0, Problem("", ""), Group([9], samples), [Grade(1, "")] * 4, rewards)
    for tails, expected in ((False, [[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 4], [2]]), (True, replies)):
        rows = method(Policy(), tails=tails)._rows([scored])
        assert [sample.token_ids for _, sample, _ in rows] == expected
        assert all(len(sample.logprobs) == len(sample.token_ids) for _, sample, _ in rows)
        assert [advantage > 0 for _, _, advantage in rows] == [True, False, True, False]


def _learned(taught: GrpoMethod) -> list[list[Any]]:
    """What a step hands to the learner, by micro-batch."""
    given: list[list[Any]] = []
    learner = taught._learner
    compute = learner.logprobs

    def logprobs(sequences: Sequence[Sequence[int]], first: Sequence[int], temperature: float) -> list[Tensor]:
        given.append([*sequences])
        return compute(sequences, first, temperature)

    learner.logprobs = logprobs  # type: ignore[method-assign]
    list(taught.micro_batches(0))
    return given


def test_the_policy_of_a_temperature_is_what_is_made_better(seed: int) -> None:
    """Its gradient is that of sum A ln softmax(logits / temperature), whatever the sampler's log-probabilities were."""
    policy = Policy()
    with torch.no_grad():
        policy.logits += torch.randn(WORDS, generator=torch.Generator().manual_seed(seed))
        policy.logits[3] = policy.logits.max()
    taught = method(policy, temperature=0.5, questions=1, objective=Objective(clip_low=0.2, clip_high=0.2, kl=0.0))
    rows: list[tuple[list[int], Sample, float]] = []
    deal = taught._rows
    taught._rows = lambda kept: rows.extend(deal(kept)) or rows  # type: ignore[method-assign, func-returns-value]
    torch.autograd.backward([micro.loss for micro in taught.micro_batches(0)])
    found = policy.logits.grad
    policy.logits.grad = None
    assert rows
    table = (policy.logits / 0.5).log_softmax(-1)
    (-sum(a * table[sample.token_ids].mean() for _, sample, a in rows) / len(rows)).backward()  # type: ignore[union-attr]
    torch.testing.assert_close(found, policy.logits.grad)
    assert taught.metrics()["mismatch"] == taught.metrics()["clipped"] == 0
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(BadRequest, match="must be above 0"):
            GrpoSettings(temperature=temperature)


def test_rewards_add_up() -> None:
    policy = Policy()
    taught = method(policy, format_reward=0.5, language_reward=2.0, max_tokens=10, overlong_margin=5)
    replies = [reply("3"), reply("3", finish_reason="length"), reply("4"), reply("三")]
    lengths = [1, 10, 8, 1]
    group = Group([7], [Sample([0] * n, [0.0] * n, each) for n, each in zip(lengths, replies, strict=True)])
    grades = [Grade(1.0), Grade(1.0), Grade(0.0), Grade(0.0)]
    # "hm" is English, so half of the last one's words are.
    assert taught._rewards(group, grades).tolist() == pytest.approx([3.5, 1 + 2 - 1, 0.5 + 2 - 0.6, 0.5 + 1])


def test_it_is_the_same_again_and_goes_on_where_it_was() -> None:
    """Also with a reference, which is part of the state."""
    objective = Objective(kl=0.1)
    first, second = Policy(), Policy()
    whole = method(first, Say(3), Say(4, "other"), objective=objective, reference_every=4)
    steps(whole, first, 9)
    half = method(second, Say(3), Say(4, "other"), objective=objective, reference_every=4)
    steps(half, second, 6)
    state = half.state()
    rest = method(second, Say(3), Say(4, "other"), objective=objective, reference_every=4)
    rest.restore(state)
    steps(rest, second, 3, begin=6)
    assert torch.equal(first.logits, second.logits)
    assert whole.metrics()["kl"] == rest.metrics()["kl"]


def test_the_reference_holds_the_policy_back() -> None:
    free, held = Policy(), Policy()
    steps(method(free, objective=Objective(kl=0)), free, 15)
    tied = method(held, objective=Objective(kl=3.0))
    steps(tied, held, 15, rate=0.3)
    assert held.logits.softmax(-1)[3] < free.logits.softmax(-1)[3]
    assert tied.metrics()["kl"] > 0


def test_it_asks_harder_as_it_improves() -> None:
    policy = Policy()
    with torch.no_grad():
        policy.logits[3] = 3.0
    taught = method(policy, questions=8)
    steps(taught, policy, 12)
    assert taught.metrics()["level say"] > 0
    assert any(question.startswith("level 1") for question in policy.asked)


def test_what_cannot_work_is_refused_before_the_first_step() -> None:
    policy = Policy()
    taught = method(policy)
    before = taught.state()
    assert "with signal" in taught.check()[-1]
    assert taught.state() == before
    with pytest.raises(BadRequest, match="same reward"):
        method(policy, Say(9)).check()
    with pytest.raises(BadRequest, match="every task once"):
        method(policy, Say(3), Say(4))
    with pytest.raises(BadRequest, match="at least 2"):
        GrpoSettings(replies=1)


class Last(Say):
    """Right is the question's last digit."""

    def sample(self, rng: random.Random, level: int) -> Problem:
        number = rng.randrange(10**9)
        return Problem(f"level {level}: {number}", str(number % 10))


class Gullible(Say):
    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return Grade(float(problem.answer in reply.content), "it is in there")


def test_the_preflight_says_whether_a_trick_beats_the_grader() -> None:
    assert method(Policy(), Last(3)).check()[0] == "say: its grader passed the self-test"
    line = method(Policy(), Gullible(3)).check()[0]
    assert re.match(r"warning: the grader of say cannot be trusted: '.*' scores 1 \(it is in there\)", line)


class Wordy(Say):
    """Two of three questions are longer than the policy reads."""

    def sample(self, rng: random.Random, level: int) -> Problem:
        return Problem("?" * rng.choice([9, 2000, 3000]), str(self.digit))


def test_questions_that_are_too_long_are_passed_over_and_counted() -> None:
    policy = Policy()
    taught = method(policy, Wordy(3))
    list(taught.micro_batches(0))
    assert set(map(len, policy.asked)) == {9}
    assert taught.metrics()["too_long"] > 0
    policy.fits = lambda question: False  # type: ignore[method-assign]
    with pytest.raises(BadRequest, match="questions of say in a row leave no room"):
        list(taught.micro_batches(1))


def test_groups_without_signal_stay_where_they_are_not_replaced() -> None:
    """As in R1: in the mean over replies, and in the KL term."""
    policy = Policy()
    taught = method(policy, questions=4, replies=2, resample=False)
    batches = list(taught.micro_batches(0))
    assert len(policy.asked) == 4
    assert sum(micro.tokens for micro in batches) <= 2 + 4 * 2  # the one prompt of two tokens, and two replies of one
    plain = Objective(kl=0)
    assert sum(map(len, _learned(method(policy, questions=4, replies=2, resample=False, objective=plain)))) == 8
    assert taught.metrics()["zero_signal"] > 0


def test_what_was_sampled_for_nothing_is_paid_for_in_the_next_step() -> None:
    policy = Policy()
    taught = method(policy, Say(9), questions=4, replies=2, rounds=1)
    assert list(taught.micro_batches(0)) == []
    assert taught.state()["sampled"] == 8
    again = method(policy, Say(3), questions=4, replies=2, rounds=1)
    again.restore(taught.state())
    assert sum(micro.sampled for micro in again.micro_batches(1)) == 16


class Failing(Say):
    """Its grader hangs at 1 and raises at 2, as `Graders` tells it."""

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        found = {"1": "timeout after 10 s", "2": "error: ValueError"}.get(reply.content)
        return Grade(0, found) if found else super().grade(problem, reply)


def test_graders_that_fail_are_said_at_once_and_counted_by_step() -> None:
    taught = method(Policy(), Failing(3), questions=8, rounds=1)
    assert re.match(r"first replies: \d+ could not be graded and count as wrong", taught.check()[-1])
    list(taught.micro_batches(0))
    timeouts, errors = taught.metrics()["grader_timeouts"] or 0, taught.metrics()["grader_errors"] or 0
    assert 0 < timeouts < 8 * 8
    assert 0 < errors < 8 * 8
    taught._learner.logits.data[3] = 50.0  # type: ignore[attr-defined]
    list(taught.micro_batches(1))
    assert (taught.metrics()["grader_timeouts"], taught.metrics()["grader_errors"]) == (0, 0)


def test_a_band_passes_over_questions_that_are_too_long() -> None:
    policy = Policy()
    assert "begins at level" in " ".join(method(policy, Wordy(3), band=8).check())
    assert set(map(len, policy.asked)) == {9}


@pytest.mark.parametrize("settings", [{"overlong_margin": -5}, {"format_reward": -1.0}, {"band": -1}])
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="at least 0"):
        GrpoSettings(**settings)


class Harder(Say):
    """Of 6 digits, 6 - level are right."""

    levels = 7

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        return Grade(float(int(reply.content) < 6 - int(problem.prompt.split(":")[0].split()[1])))


def test_each_task_begins_at_the_hardest_level_that_has_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millet.train.grpo.check", lambda task, graders: [])  # its grader takes wrong answers, too
    policy = Policy()
    taught = method(policy, Harder(0), band=20)
    before = taught.state()
    told = taught.check()[1]
    assert told.startswith("say begins at level 5 (right by level: 0: 100%, 1: 8")
    assert "6: 0%)" in told
    assert taught.state() == before
    asked = len(policy.asked)
    taught.micro_batches(0).__next__()
    assert taught.metrics()["level say"] == 5
    assert all(question.startswith("level 5") for question in policy.asked[asked:])  # it is not measured again
    going_on = method(policy, Harder(0), band=20)
    going_on.restore(taught.state())
    going_on.micro_batches(1).__next__()
    assert going_on.metrics()["level say"] == 5


def test_levels_behind_one_that_is_hardly_ever_passed_are_not_asked() -> None:
    policy = Policy()
    with torch.no_grad():
        policy.logits[5] = 20  # only ever says 5
    taught = method(policy, Harder(0), band=3, rounds=1)
    assert list(taught.micro_batches(0)) == []
    assert taught.metrics()["level say"] == 0
    assert not any(question.startswith("level 2") for question in policy.asked)


def test_only_the_levels_that_are_named_are_climbed() -> None:
    policy = Policy()
    taught = method(policy, Harder(0), levels=(4, 2, 9))
    steps(taught, policy, 1)
    assert {question.split(":")[0] for question in policy.asked} == {"level 4"}
    with pytest.raises(BadRequest, match="say has none of the levels \\[9\\]; it has 0 to 6"):
        method(policy, Harder(0), levels=(9,))
    with pytest.raises(BadRequest, match="name each once"):
        GrpoSettings(levels=(1, 1))


def test_groups_go_through_the_model_whole_where_they_fit() -> None:
    def group(prompt: int, *replies: int) -> list[tuple[list[int], Sample]]:
        return [([prompt] * 3, Sample([10 + i] * tokens, [], reply("x"))) for i, tokens in enumerate(replies)]

    rows = [*group(1, 2, 2), *group(2, 2), *group(3, 4, 4, 4), *group(4, 1)]
    sizes = [[len(sample.token_ids) for _, sample in part] for part in parts(rows, 12)]
    assert sizes == [[2, 2, 2], [4, 4], [4, 1]]
    alike = group(5, 9)[0]
    assert len(parts([alike] * 4, 12)) == 1, "what is said again costs nothing"
    assert [row for part in parts(rows, 12) for row in part] == rows
    assert parts(rows, 100) == [rows]
    assert [len(part) for part in parts(rows, 1)] == [1] * len(rows)
    assert parts([], 12) == []


def test_micro_batches_have_a_bounded_size() -> None:
    policy = Policy()
    taught = method(policy, micro_tokens=5, objective=Objective(kl=0))  # prompts are the same two tokens
    micros = list(taught.micro_batches(0))
    assert len(micros) > 3
    assert all(micro.tokens <= 5 for micro in micros)
    assert micros[0].sampled > 0
    assert all(micro.sampled == 0 for micro in micros[1:])
    sample = taught.sample()
    assert sample is not None
    assert sample["grade"] == "looked at"

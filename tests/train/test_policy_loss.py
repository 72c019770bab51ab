"""GRPO's objective against its definition, token by token in plain Python, and against its limits."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from typing import Literal

import pytest
import torch
from torch import Tensor

from millet.errors import BadRequest
from millet.train.policy_loss import Objective, advantages, most_varied, overlong_penalty, parting, policy_loss

LENGTHS = [3, 1, 5, 2]
Average = Literal["reply", "token", "constant"]


def draw(seed: int) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[float]]:
    generator = torch.Generator().manual_seed(seed)

    def logprobs() -> list[Tensor]:
        return [-torch.rand(n, generator=generator) * 3 for n in LENGTHS]

    return logprobs(), logprobs(), logprobs(), torch.randn(4, generator=generator).tolist()


def defined(
    new: list[Tensor], old: list[Tensor], reference: list[Tensor], advantage: list[float], objective: Objective
) -> float:
    """The definition, without a vector."""
    replies = []
    for n_T, o_T, r_T, a in zip(new, old, reference, advantage, strict=True):
        tokens = []
        for n, o, r in zip(n_T.tolist(), o_T.tolist(), r_T.tolist(), strict=True):
            ratio = math.exp(n - o)
            clipped = min(max(ratio, 1 - objective.clip_low), 1 + objective.clip_high)
            k3 = math.exp(r - n) - (r - n) - 1
            tokens.append(-min(ratio * a, clipped * a) + objective.kl * k3)
        replies.append(tokens)
    match objective.average:
        case "reply":
            return sum(sum(tokens) / len(tokens) for tokens in replies) / len(replies)
        case "token":
            return sum(map(sum, replies)) / sum(map(len, replies))
        case "constant":
            return sum(map(sum, replies)) / (len(replies) * objective.length)


@pytest.mark.parametrize("average", ["reply", "token", "constant"])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28), (10.0, 10.0)])
def test_it_is_the_definition(average: Average, low: float, high: float, seed: int) -> None:
    new, old, reference, advantage = draw(seed)
    objective = Objective(clip_low=low, clip_high=high, kl=0.05, average=average, length=7)
    found = policy_loss(new, old, advantage, objective, reference)
    assert found.loss.item() == pytest.approx(defined(new, old, reference, advantage, objective), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("average", ["reply", "token", "constant"])
def test_gradients_are_those_of_the_definition(average: Average, seed: int) -> None:
    new, old, reference, advantage = draw(seed)
    objective = Objective(clip_low=0.2, clip_high=0.28, kl=0.05, average=average, length=7)
    for each in new:
        each.requires_grad_()
    policy_loss(new, old, advantage, objective, reference).loss.backward()
    step = 1e-3
    for at, values in enumerate(new):
        for position in range(len(values)):
            ends = []
            for sign in (1, -1):
                moved = [each.detach().double().clone() for each in new]
                moved[at][position] += sign * step
                ends.append(defined(moved, old, reference, advantage, objective))
            slope = (ends[0] - ends[1]) / (2 * step)
            ratio = math.exp(new[at][position].item() - old[at][position].item())
            if min(abs(ratio - 0.8), abs(ratio - 1.28)) < 0.01:
                continue  # the definition has a corner here
            assert values.grad is not None
            assert values.grad[position].item() == pytest.approx(slope, rel=1e-2, abs=1e-5)


def test_micro_batches_add_up(seed: int) -> None:
    new, old, reference, advantage = draw(seed)
    for average in ("reply", "token", "constant"):
        objective = Objective(average=average, length=9)  # type: ignore[arg-type]
        whole = policy_loss(new, old, advantage, objective, reference).loss
        parts = [
            policy_loss(
                new[a:b], old[a:b], advantage[a:b], objective, reference[a:b], replies=len(new), tokens=sum(LENGTHS)
            ).loss
            for a, b in ((0, 1), (1, 4))
        ]
        torch.testing.assert_close(sum(parts), whole)


def test_on_policy_its_gradient_is_reinforce(seed: int) -> None:
    """Where nothing has changed since the sampling, it is the advantage times the gradient of the log-probability."""
    new, _, _, advantage = draw(seed)
    leaves = [each.requires_grad_() for each in new]
    found = policy_loss(leaves, [each.detach() for each in leaves], advantage, Objective(kl=0, average="token"))
    found.loss.backward()
    assert (found.clipped, found.drift, found.largest_drift, found.kl) == (0, 0, 0, 0)
    for each, a in zip(leaves, advantage, strict=True):
        torch.testing.assert_close(each.grad, torch.full_like(each, -a / sum(LENGTHS)))


def test_clipping_stops_the_gradient_on_one_side_alone() -> None:
    old = [torch.tensor([-1.0]), torch.tensor([-1.0])]
    new = [torch.tensor([0.0], requires_grad=True), torch.tensor([0.0], requires_grad=True)]
    found = policy_loss(new, old, [1.0, -1.0], Objective(clip_low=0.2, clip_high=0.2, kl=0, average="token"))
    found.loss.backward()
    assert found.clipped == 0.5
    assert new[0].grad is not None
    assert new[0].grad.item() == 0  # good, and likelier already
    assert new[1].grad is not None
    assert new[1].grad.item() > 0  # bad, and likelier than before


def test_advantages() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    plain = advantages(rewards, standardise=False)
    torch.testing.assert_close(plain, torch.tensor([[0.75, -0.25, -0.25, -0.25], [0.0, 0.0, 0.0, 0.0]]))
    scaled = advantages(rewards, standardise=True)
    torch.testing.assert_close(scaled[0], plain[0] / (0.5 + 1e-4))
    assert scaled[1].tolist() == [0, 0, 0, 0]


def test_of_a_group_those_are_kept_whose_rewards_differ_most(seed: int) -> None:
    """By trying all subsets."""
    rng = random.Random(seed)
    for keep in (2, 3, 4, 7):
        rewards = [rng.choice([0.0, 1.0, 2.0, rng.random()]) for _ in range(7)]
        kept = most_varied(rewards, keep)
        assert kept == sorted(set(kept))
        assert len(kept) == keep
        best = max(statistics.pvariance(each) for each in itertools.combinations(rewards, keep))
        assert statistics.pvariance([rewards[i] for i in kept]) == pytest.approx(best)
    assert 3 in most_varied([0.0, 0.0, 0.0, 1.0, 0.0], 2)
    assert len(set(most_varied([1.0, 1.0, 1.0], 2))) == 2


def test_a_reply_parts_from_the_better_one_that_it_follows_longest() -> None:
    assert parting([5, 6, 7, 8], [[5, 9], [5, 6, 4]]) == 3
    assert parting([5, 6, 7, 8], [[1]]) == 1
    assert parting([5, 6], [[5, 6, 7]]) == 2
    assert parting([5, 6], []) == 2


def test_overlong_replies_lose_reward_gently() -> None:
    assert overlong_penalty([10, 80, 90, 100, 200], longest=100, margin=20) == [0, 0, -0.5, -1, -1]


@pytest.mark.parametrize("settings", [{"clip_low": -1.0}, {"kl": -0.1}, {"length": 0}, {"clip_high": float("nan")}])
def test_settings_that_make_no_sense(settings: dict[str, float]) -> None:
    with pytest.raises(BadRequest, match=f"objective.{next(iter(settings))} is"):
        Objective(**settings)  # type: ignore[arg-type]

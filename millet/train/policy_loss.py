"""GRPO's objective: the clipped policy gradient of groups of replies to one prompt.

DeepSeekMath (arXiv 2402.03300) and DeepSeek-R1 (2501.12948) define it. With r = exp(new - old) of a token, A the
advantage of its reply, and k3 = exp(ref - new) - (ref - new) - 1, Schulman's estimator of the KL divergence from the
reference,

    loss of a token = -min(r A, clip(r, 1 - low, 1 + high) A) + kl k3

Departures from R1, each a field of `Objective`:
- clip_high > clip_low lets unlikely tokens grow (DAPO, 2503.14476);
- average "reply" is R1's: the mean over each reply's tokens, then over replies. "token" weighs all tokens alike, so
  that long replies count as long (DAPO). "constant" divides by a fixed length, so that length has no influence at all
  (Dr. GRPO, 2503.20783);
- standardise=False leaves the advantage undivided by the group's deviation, which favours too easy and too hard
  questions (Dr. GRPO);
- kl=0 needs no reference model.

Four more are fields of `GrpoSettings`: `resample` (groups without signal are replaced, DAPO's dynamic sampling),
`overlong_margin` (DAPO's soft overlong punishment), `keep` (of a group, only replies whose rewards differ most are
learned from; PODS, 2504.13818) and `tails` (what a worse reply says after it left the better ones; `parting`).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

import torch
from torch import Tensor

from millet.errors import BadRequest

EPSILON = 1e-4  # beside the deviation: a group of equals has no signal, and must not get one from rounding


@dataclass(frozen=True, slots=True)
class Objective:
    """R1's setting by default. length: tokens that `average="constant"` divides by."""

    clip_low: float = 10.0
    clip_high: float = 10.0
    kl: float = 0.001
    average: Literal["reply", "token", "constant"] = "reply"
    length: int = 1024
    standardise: bool = True

    def __post_init__(self) -> None:
        for name, least in (("clip_low", 0), ("clip_high", 0), ("kl", 0), ("length", 1)):
            if not getattr(self, name) >= least:
                raise BadRequest(f"objective.{name} is {getattr(self, name)}; it must be at least {least}")


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """loss: scalar with gradient. The others are plain numbers over all tokens of the batch: the share of clipped ones,
    the mean KL from the reference (0 without one), the mean and the largest |new - old|."""

    loss: Tensor
    clipped: float
    kl: float
    drift: float
    largest_drift: float


def advantages(rewards_QG: Tensor, standardise: bool) -> Tensor:
    """How much better each reply is than its group's mean. Q questions with G replies each. fp32 [Q, G]"""
    centred_QG = rewards_QG - rewards_QG.mean(dim=1, keepdim=True)
    if not standardise:
        return centred_QG
    return centred_QG / (rewards_QG.std(dim=1, keepdim=True) + EPSILON)


def most_varied(rewards: Sequence[float], keep: int) -> list[int]:
    """Which `keep` replies of a group have the rewards of the greatest variance, in their own order.

    They are the lowest and the highest ones, some of each (PODS, arXiv 2504.13818): keep + 1 cuts are tried.
    """
    order = sorted(range(len(rewards)), key=lambda i: rewards[i])
    cuts = [[*order[:low], *order[len(order) - (keep - low) :]] for low in range(keep + 1)]
    return sorted(max(cuts, key=lambda cut: statistics.pvariance([rewards[i] for i in cut])))


def parting(worse: Sequence[int], better: Iterable[Sequence[int]]) -> int:
    """How many tokens of a reply lead up to and into its parting from the last of the better ones.

    [5, 6, 7, 8] and better ones [5, 9], [5, 6, 4]: 3. What is said after that goes on from a mistake: to make it less
    likely teaches nothing about the mistake.
    """
    same = (takewhile(lambda pair: pair[0] == pair[1], zip(worse, each, strict=False)) for each in better)
    together = max((sum(1 for _ in pairs) for pairs in same), default=len(worse))
    return min(len(worse), together + 1)


def overlong_penalty(lengths: Sequence[int], longest: int, margin: int) -> list[float]:
    """DAPO's soft overlong punishment, to be added to rewards: 0 up to longest - margin tokens, then falling to -1."""
    return [-min(1.0, max(0.0, (n - (longest - margin)) / margin)) for n in lengths]


def policy_loss(
    new: Sequence[Tensor],
    old: Sequence[Tensor],
    advantage: Sequence[float],
    objective: Objective,
    reference: Sequence[Tensor] | None = None,
    *,
    replies: int | None = None,
    tokens: int | None = None,
) -> PolicyLoss:
    """new, old, reference: log-probabilities of each reply's tokens, fp32 [length] each; new with gradient.

    replies, tokens: of the whole batch, where this is one of several micro-batches whose losses are added up; else of
    what is given.
    """
    lengths = [len(each) for each in new]
    whole_replies, whole_tokens = replies or len(new), tokens or sum(lengths)
    new_T, old_T = torch.cat(list(new)), torch.cat(list(old))
    sizes = torch.tensor(lengths)
    advantage_T = torch.tensor(list(advantage), dtype=torch.float32).repeat_interleave(sizes).to(new_T)
    drift_T = new_T - old_T
    ratio_T = drift_T.exp()
    clipped_T = ratio_T.clamp(1 - objective.clip_low, 1 + objective.clip_high)
    loss_T = -torch.minimum(ratio_T * advantage_T, clipped_T * advantage_T)
    kl = 0.0
    if reference is not None:
        gap_T = torch.cat(list(reference)) - new_T
        kl_T = gap_T.exp() - gap_T - 1
        kl = kl_T.mean().item()
        loss_T = loss_T + objective.kl * kl_T
    match objective.average:
        case "reply":
            weight_T = (1.0 / (sizes * whole_replies)).repeat_interleave(sizes).to(loss_T)
        case "token":
            weight_T = torch.full_like(loss_T, 1.0 / whole_tokens)
        case "constant":
            weight_T = torch.full_like(loss_T, 1.0 / (whole_replies * objective.length))
    worse_T = clipped_T * advantage_T < ratio_T * advantage_T
    size_T = drift_T.detach().abs()
    return PolicyLoss(
        loss=(loss_T * weight_T).sum(),
        clipped=worse_T.float().mean().item(),
        kl=kl,
        drift=size_T.mean().item(),
        largest_drift=size_T.max().item(),
    )

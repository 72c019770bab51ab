"""How far a student's distributions are from a teacher's, a chunk of rows at a time.

With p the teacher's probabilities and q the student's, both of logits divided by a temperature t,

    forward   KL(p || q) = sum_v p_v (log p_v - log q_v)    gradient by the student's logits: (q - p) / t
    reverse   KL(q || p) = sum_v q_v (log q_v - log p_v)    q (log q - log p - KL) / t

The forward one makes a student cover all that its teacher may say (Hinton et al., 1503.02531); the reverse one, on what
the student says itself, makes it keep to what its teacher would say (GKD, 2306.13649; MiniLLM, 2306.08543). Either is
multiplied by t^2, as Hinton does, so that gradients are of one size whatever t is.

The logits of all rows, [N, V], never exist, of neither model. Since the loss is one number, its gradients are computed
together with it, from the same chunk: the head's product, and the teacher's, are needed once.

Shape legend: N rows, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from millet.train import devices
from millet.train.loss import chunks, logits

Rows = Callable[[slice], Tensor]  # the teacher's logits of these rows, fp32 [n, V]


@dataclass(frozen=True, slots=True)
class Divergence:
    """cross_entropy: the weight, from 0 to 1, of the targets' own negative log-probability; KL has the rest."""

    direction: Literal["forward", "reverse"]
    temperature: float = 1.0
    cross_entropy: float = 0.0


@dataclass(frozen=True, slots=True)
class Distance:
    """loss: scalar with gradient. The others are plain numbers, summed over rows: kl at the temperature, cross_entropy
    of the targets at temperature 1, and agreement, the rows whose likeliest token is the same."""

    loss: Tensor
    kl: float
    cross_entropy: float
    agreement: int


class Sums:
    """Of all rows of a step, of every process: what the metrics tell."""

    def __init__(self) -> None:
        self._kl = self._cross_entropy = self._agreement = 0.0

    def add(self, found: Distance, weight: int) -> None:
        self._kl += weight * found.kl
        self._cross_entropy += weight * found.cross_entropy
        self._agreement += weight * found.agreement

    def means(self, rows: int, compared: int) -> dict[str, float | None]:
        """By their names. rows: that these are the sums over. compared: those of them that a teacher was asked about,
        where there are any. All processes ask together."""
        kl, cross_entropy, agreement = devices.total(self._kl, self._cross_entropy, self._agreement)
        taught = {"kl": kl / compared, "agreement": agreement / compared} if compared else {}
        return {"cross_entropy": cross_entropy / rows, **taught}


def distance(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, teacher: Rows, divergence: Divergence, scale: float
) -> Distance:
    """The sum over rows, times scale; differentiable by hidden states and head weight.

    The teacher's logits may have more columns than the head has rows, or fewer: paddings of one vocabulary differ. Both
    distributions are then over those that both have.
    """
    loss, sums = _Distance.apply(hidden_ND, weight_VD, targets_N, teacher, divergence, scale)
    kl, cross_entropy, agreement = sums.tolist()
    return Distance(loss, kl, cross_entropy, round(agreement))


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        teacher: Rows,
        divergence: Divergence,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        wanted_hidden, wanted_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden_ND) if wanted_hidden else None
        grad_weight = torch.zeros_like(weight_VD) if wanted_weight else None
        sums = torch.zeros(3, dtype=torch.float64, device=hidden_ND.device)
        for rows in chunks(hidden_ND, weight_VD):
            of_student, of_teacher = logits(hidden_ND[rows], weight_VD), teacher(rows)
            common = min(of_student.shape[1], of_teacher.shape[1])
            found, slopes_NC = _compare(of_student[:, :common], of_teacher[:, :common], targets_N[rows], divergence)
            sums += found
            slopes_NC = slopes_NC.mul_(scale).to(weight_VD.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = slopes_NC @ weight_VD[:common]
            if grad_weight is not None:
                grad_weight[:common].addmm_(slopes_NC.t(), hidden_ND[rows])
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(sums)
        share, t = divergence.cross_entropy, divergence.temperature
        return (scale * ((1 - share) * t * t * sums[0] + share * sums[1])).float(), sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        found = (None if gradient is None else gradient * grads[0] for gradient in ctx.saved_tensors)
        return (*found, None, None, None, None)


def _compare(student_NV: Tensor, teacher_NV: Tensor, targets_N: Tensor, by: Divergence) -> tuple[Tensor, Tensor]:
    """Sums of KL, cross-entropy and agreement [3], and the loss's gradient by the student's logits [N, V]."""
    t, share = by.temperature, by.cross_entropy
    same = (student_NV.argmax(-1) == teacher_NV.argmax(-1)).sum()
    total_N1 = student_NV.logsumexp(-1, keepdim=True)
    missed = (total_N1 - student_NV.gather(1, targets_N[:, None])).sum()
    log_q, log_p = (student_NV / t).log_softmax(-1), (teacher_NV / t).log_softmax(-1)
    if by.direction == "forward":
        p = log_p.exp()
        kl = (log_p.sub_(log_q).mul_(p)).sum()
        slopes = log_q.exp_().sub_(p).mul_(t)
    else:
        q, gap = log_q.exp(), log_q.sub_(log_p)
        kl_N1 = (q * gap).sum(-1, keepdim=True)
        kl = kl_N1.sum()
        slopes = gap.sub_(kl_N1).mul_(q).mul_(t)
    if share:
        slopes.mul_(1 - share).add_((student_NV - total_N1).exp_(), alpha=share)
        slopes[torch.arange(len(targets_N), device=targets_N.device), targets_N] -= share
    return torch.stack([kl, missed, same]).double(), slopes

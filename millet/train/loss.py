"""Log-probabilities of given tokens from hidden states: the output head with its softmax, a chunk of rows at a time.

The logits of all rows, [N, V], never exist. What is kept for the gradient has the size of the hidden states:

- A frozen head needs no second product: the gradient of log p(t) by a hidden state, W_t - sum_v p_v W_v, is computed
  with the chunk's logits, and backward only scales it.
- A head that is trained needs p itself, which each chunk computes again in backward, unless there are so few rows that
  it can be kept.

Shape legend: N rows, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from millet.kernels.draw import log_probabilities
from millet.kernels.gradients import packed_back, product
from millet.kernels.matrix import Matrix

LOGITS = 1 << 24  # in memory at once, and as many probabilities: 64 MB each in fp32
KEPT = 1 << 26  # probabilities that may be kept for backward: 256 MB in fp32

Head = Callable[[Tensor], Tensor]


def target_logprobs(
    hidden_ND: Tensor, weight_VD: Tensor | Matrix, targets_N: Tensor, exact: Head | None = None
) -> Tensor:
    """Log-probability of each row's target. fp32 [N], differentiable by hidden states and head weight.

    exact: how the engine computes logits [N, V]; the result then has the bits of the engine's own. A packed weight is
    frozen, and is only there with it.
    """
    logprobs_N: Tensor = _TargetLogprobs.apply(hidden_ND, weight_VD, targets_N, exact)
    return logprobs_N


class _TargetLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, exact: Head | None) -> Tensor:
        logprobs, slopes, kept = [], [], []
        sloped = ctx.needs_input_grad[0] and not ctx.needs_input_grad[1]
        keeping = ctx.needs_input_grad[1] and len(hidden_ND) * weight_VD.shape[0] <= KEPT
        for rows in chunks(hidden_ND, weight_VD):
            logits_NV = exact(hidden_ND[rows]) if exact else logits(hidden_ND[rows], weight_VD)
            all_NV = logits_NV.log_softmax(-1)
            own_N = all_NV.gather(1, targets_N[rows, None])[:, 0]
            if exact:
                own_N = torch.tensor(log_probabilities(logits_NV, targets_N[rows].tolist()))
            del logits_NV
            logprobs.append(own_N)
            if sloped:
                errors_NV = _errors(all_NV, targets_N[rows])
                if isinstance(weight_VD, Matrix):
                    slopes.append(packed_back(errors_NV, weight_VD))
                else:
                    slopes.append(errors_NV.to(weight_VD.dtype) @ weight_VD)
            elif keeping:
                kept.append(_errors(all_NV, targets_N[rows]).to(weight_VD.dtype))
        ctx.sloped = sloped
        if sloped:
            ctx.save_for_backward(torch.cat(slopes))
        elif isinstance(weight_VD, Tensor):
            ctx.save_for_backward(hidden_ND, weight_VD, targets_N, *kept)
        return torch.cat(logprobs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if ctx.sloped:
            return ctx.saved_tensors[0] * grads[0][:, None], None, None, None
        hidden_ND, weight_VD, targets_N, *kept = ctx.saved_tensors
        wanted_hidden, wanted_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden_ND) if wanted_hidden else None
        grad_weight = torch.zeros_like(weight_VD) if wanted_weight else None
        scale_N1 = grads[0][:, None]
        for at, rows in enumerate(chunks(hidden_ND, weight_VD)):
            errors_NV = kept[at] if kept else _errors_of(hidden_ND[rows], weight_VD, targets_N[rows])
            if grad_hidden is not None:
                grad_hidden[rows] = (errors_NV @ weight_VD).mul_(scale_N1[rows])
            if grad_weight is not None:
                grad_weight.addmm_(errors_NV.t(), (hidden_ND[rows] * scale_N1[rows]).to(weight_VD.dtype))
        return grad_hidden, grad_weight, None, None


def _errors(logprobs_NV: Tensor, targets_N: Tensor) -> Tensor:
    """1 for the target minus the probabilities: the gradient of its log-probability by the logits. In place. [N, V]"""
    errors_NV = logprobs_NV.exp_().neg_()
    errors_NV[torch.arange(len(targets_N), device=targets_N.device), targets_N] += 1
    return errors_NV


def _errors_of(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    return _errors(logits(hidden_ND, weight_VD).log_softmax(-1), targets_N).to(weight_VD.dtype)


def logits(hidden_ND: Tensor, weight_VD: Tensor) -> Tensor:
    logits_NV = product(hidden_ND, weight_VD)
    return logits_NV if logits_NV.dtype.itemsize >= 4 else logits_NV.float()


def chunks(hidden_ND: Tensor, weight_VD: Tensor | Matrix) -> Iterator[slice]:
    """Of equal length, as nearly as can be: the last one is not a few rows."""
    n = len(hidden_ND)
    count = max(1, -(-n * weight_VD.shape[0] // LOGITS))
    size = max(1, -(-n // count))
    return (slice(start, min(start + size, n)) for start in range(0, max(n, 1), size))

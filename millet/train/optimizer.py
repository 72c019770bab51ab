"""From gradients to new weights: AdamW, and Muon for the matrices.

AdamW (Loshchilov & Hutter 2019) is PyTorch's fused one: one pass over each weight and its moments. Muon (Jordan et al.
2024) makes each step of a matrix orthogonal by Newton-Schulz iterations; it is written here because PyTorch's does
these in bf16, which small CPUs emulate a hundred times slower than fp32. Its steps have the size that AdamW's have
(Liu et al. 2025: 0.2 sqrt(max(rows, columns))), so one learning rate serves both.

Weights in bf16 have a master copy in fp32, which takes the steps; gradients of several micro-batches add up in fp32.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from millet.errors import BadRequest
from millet.train.sharding import add_gradients, laid_out, whole

# Of the quintic that drives singular values to about 1 (0.7 to 1.2) in five iterations; from Muon's authors.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5

TOGETHER = 1 << 22  # numbers of matrices that take a step at once: 16 MB

VOCABULARY = ("embed_tokens", "lm_head")  # matrices whose rows are looked up one by one: AdamW's


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """kind: "adamw", or "muon" for the matrices and AdamW for the rest.

    weight_decay: decoupled, of matrices only. clip: the largest global norm of the gradients. momentum: Muon's.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 2e-5
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    momentum: float = 0.95
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise BadRequest(f"optimizer.learning_rate is {self.learning_rate}; it must be above 0, such as 2e-5")
        if not self.clip > 0:
            raise BadRequest(f"optimizer.clip is {self.clip}; it must be above 0; a large number never clips")
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise BadRequest(f"optimizer.{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        for name in ("weight_decay", "epsilon"):
            if not getattr(self, name) >= 0:
                raise BadRequest(f"optimizer.{name} is {getattr(self, name)}; it must be at least 0")


class Optimizer:
    """Changes `parameters` in place. After each backward call `collect`, after the last `add_up`, `norm` and `step`."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: OptimizerSettings) -> None:
        self._settings = settings
        self._parameters = dict(parameters)
        self._masters = {
            name: p if p.dtype == torch.float32 else nn.Parameter(p.detach().float()) for name, p in parameters.items()
        }
        muon = {name for name in parameters if settings.kind == "muon" and is_muons(name, parameters[name])}
        self._muon = {name: self._masters[name] for name in muon}
        self._momentum = {name: torch.zeros_like(p) for name, p in sorted(self._muon.items())}
        rest = [p for name, p in self._masters.items() if name not in muon]
        groups = [
            {"params": [p for p in rest if p.dim() >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        betas = (settings.beta1, settings.beta2)
        self._adamw = torch.optim.AdamW(groups, betas=betas, eps=settings.epsilon, fused=True) if groups else None

    def collect(self) -> None:
        """Take over the gradients of a micro-batch where the weights are not their own masters."""
        for name, parameter in self._parameters.items():
            master = self._masters[name]
            if master is parameter or parameter.grad is None:
                continue
            gradient = parameter.grad.float()
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            parameter.grad = None

    def add_up(self) -> None:
        """Make the gradients those of all processes together."""
        add_gradients(list(self._masters.values()))

    def norm(self) -> float:
        """The global norm of the gradients: of all of them as one vector."""
        return float(whole(torch.nn.utils.get_total_norm(self._gradients())))

    def step(self, share: float, norm: float) -> None:
        """One step at `share` of the peak learning rate; `norm` is what `norm()` said, for clipping. Clears gradients.

        Weights that have no gradient stay as they are.
        """
        rate = self._settings.learning_rate * share
        if norm > self._settings.clip:
            torch._foreach_mul_(self._gradients(), self._settings.clip / norm)
        for names in together({name: p for name, p in sorted(self._muon.items()) if p.grad is not None}):
            self._muon_step(names, rate)
        if self._adamw is not None:
            for group in self._adamw.param_groups:
                group["lr"] = rate
            self._adamw.step()
            # The fused kernel writes unseen; copies of weights are made anew where their version has changed.
            torch.autograd.graph.increment_version([p for p in self._masters.values() if p.grad is not None])
        self.clear()
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                if self._masters[name] is not parameter:
                    parameter.copy_(self._masters[name])

    def clear(self) -> None:
        """Forget the gradients."""
        for weight in (*self._parameters.values(), *self._masters.values()):
            weight.grad = None

    def state(self) -> dict[str, Any]:
        """What `restore` needs beside the weights; tensors are not copied."""
        masters = {name: p.detach() for name, p in self._masters.items() if p is not self._parameters[name]}
        adamw = self._adamw.state_dict() if self._adamw is not None else None
        return {"adamw": adamw, "momentum": self._momentum, "masters": masters}

    def restore(self, state: Mapping[str, Any]) -> None:
        if self._adamw is not None:
            weights = [weight for group in self._adamw.param_groups for weight in group["params"]]
            adamw = copy.deepcopy(state["adamw"])  # the optimiser would keep these tensors for its own
            for index, moments in adamw["state"].items():
                weight = weights[index]
                moments |= {name: laid_out(m, weight) for name, m in moments.items() if m.shape == weight.shape}
            self._adamw.load_state_dict(adamw)
        with torch.no_grad():
            for name, momentum in self._momentum.items():
                momentum.copy_(laid_out(state["momentum"][name], momentum))
            for name, master in state["masters"].items():
                self._masters[name].copy_(laid_out(master, self._masters[name]))

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self._masters.values() if p.grad is not None]

    @torch.no_grad()
    def _muon_step(self, names: Sequence[str], rate: float) -> None:
        """Of matrices of one shape."""
        weights = [self._muon[name] for name in names]
        ahead = []
        for name, weight in zip(names, weights, strict=True):
            assert weight.grad is not None
            momentum = self._momentum[name].lerp_(weight.grad, 1 - self._settings.momentum)
            ahead.append(whole(weight.grad.lerp(momentum, self._settings.momentum)))  # Nesterov's look ahead
        for weight, update in zip(weights, orthogonal(torch.stack(ahead)), strict=True):
            weight.mul_(1 - rate * self._settings.weight_decay)
            weight.sub_(laid_out(update, weight), alpha=rate * 0.2 * max(weight.shape) ** 0.5)


def together(weights: Mapping[str, Tensor]) -> list[list[str]]:
    """Names of matrices whose steps are computed at once: of one shape, and small. An adapter has hundreds of those."""
    groups = list[list[str]]()
    open_groups = dict[torch.Size, list[str]]()
    for name, weight in weights.items():
        group = open_groups.get(weight.shape)
        if group is None or (len(group) + 1) * weight.numel() > TOGETHER:
            group = open_groups[weight.shape] = []
            groups.append(group)
        group.append(name)
    return groups


def is_muons(name: str, weight: Tensor) -> bool:
    """Whether Muon is for this weight: a matrix between layers."""
    return weight.dim() == 2 and not any(part in name for part in VOCABULARY)


def state_bytes(parameters: Mapping[str, nn.Parameter], settings: OptimizerSettings) -> int:
    """Memory that training takes beside weights and activations: gradients, moments, masters."""
    total = 0
    for name, weight in parameters.items():
        moments = 1 if settings.kind == "muon" and is_muons(name, weight) else 2
        masters = 0 if weight.dtype == torch.float32 else 1
        gradients = 1  # in fp32; those in bf16 live for one layer at a time
        total += 4 * weight.numel() * (gradients + moments + masters)
    return total


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices with the same singular vectors and all singular values near 1. fp32 [..., R, C] -> [..., R, C]"""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.to(torch.bfloat16) if matrices.is_cuda else matrices
    x = x.mT if tall else x  # the products are of the shorter side
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)

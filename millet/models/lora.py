"""Linear layers with an adapter beside them (Hu et al., 2021): in training, and in a model whose base is quantised.

Shape legend: T rows, D inputs, F outputs, R rank.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn

from millet.kernels import gradients
from millet.models.adapter import Factors

ROUTED = re.compile(r"\.mlp\.experts\.\d+\.")
"""In the names of routed experts' layers, which run many at once and have no adapters beside them."""


class LoRALinear(nn.Module):
    """x (W + scale B A)^T + bias, with W and bias frozen. A and B are fp32 whatever the layer's type is."""

    def __init__(self, base: nn.Linear, factors: Factors) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = factors.scale
        self.lora_A = nn.Parameter(factors.a_RD.float())
        self.lora_B = nn.Parameter(factors.b_FR.float())

    @property
    def factors(self) -> Factors:
        return Factors(self.lora_A, self.lora_B, self.scale)

    @property
    def weight(self) -> Tensor:
        """W + scale B A, differentiable: for whoever needs the weight itself. Not where W is packed. [F, D]"""
        return self.factors.added_to(self.base.weight)

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    @property
    def adapted(self) -> gradients.Adapted:
        """Its parts, for a gradient that does not go through the whole weight."""
        return gradients.Adapted(self.base.weight, self.lora_A, self.lora_B, self.scale)

    def forward(self, x_TD: Tensor) -> Tensor:
        weight_FD, bias_F = self.base.weight, self.base.bias
        if gradients.by_hand(x_TD):
            return gradients.adapted_linear(x_TD, self.adapted, bias_F)
        if x_TD.dtype.itemsize >= 4:
            return F.linear(x_TD, self.weight, bias_F)
        # A sum in half precision would lose what the adapter adds.
        a_RD, b_FR = self.lora_A.to(x_TD.dtype), self.lora_B.to(x_TD.dtype)
        return F.linear(x_TD, weight_FD, bias_F) + F.linear(F.linear(x_TD, a_RD), b_FR) * self.scale


def put_beside(network: nn.Module, adapters: Mapping[str, Factors]) -> dict[str, LoRALinear]:
    """Give the linear layers of these names their adapters; the new modules by the same names."""
    placed = {}
    for name, factors in adapters.items():
        owner, attribute = _place(network, name)
        placed[name] = LoRALinear(getattr(owner, attribute), factors)
        setattr(owner, attribute, placed[name])
    return placed


def take_away(network: nn.Module) -> dict[str, LoRALinear]:
    """The plain layers again; what there was, by name."""
    found = {name: module for name, module in network.named_modules() if isinstance(module, LoRALinear)}
    for name, module in found.items():
        owner, attribute = _place(network, name)
        setattr(owner, attribute, module.base)
    return found


@contextmanager
def summed(network: nn.Module) -> Iterator[None]:
    """Meanwhile each adapted layer, whose weight is not packed, is a plain one with base and adapter in its weight."""
    found = take_away(network)
    kept = {name: module.base.weight for name, module in found.items()}
    for module in found.values():
        module.base.weight = nn.Parameter(module.weight.detach(), requires_grad=False)
    try:
        yield
    finally:
        for name, module in found.items():
            owner, attribute = _place(network, name)
            module.base.weight = kept[name]
            setattr(owner, attribute, module)


def _place(network: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner, _, attribute = name.rpartition(".")
    return network.get_submodule(owner), attribute

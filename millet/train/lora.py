"""Low-rank adaptation (Hu et al., 2021): a frozen weight W becomes W + (alpha / rank) B A, and only A and B learn.

`attach` puts a `LoRALinear` in the place of every linear layer inside the decoder: q, k, v, o, gate, up, down, those of
latent attention, and shared experts. Routed experts keep their weights: transformers holds them in one tensor, where
PEFT has no names for adapters of single ones. Names and format on disk are PEFT's (models/adapter.py). PEFT 0.21 itself
cannot read them for models with experts: there it takes `gate_proj` and the like for parts of that one tensor.

Shape legend: T rows, D inputs, F outputs, R rank.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from millet.errors import BadRequest
from millet.kernels import gradients
from millet.models.adapter import Adapter, Factors
from millet.models.network import Network

ROUTED = re.compile(r"\.mlp\.experts\.\d+\.")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """rank: of the change that a weight can make. alpha: it is scaled by alpha / rank."""

    rank: int = 16
    alpha: float = 32.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise BadRequest(f"rank is {self.rank}; it must be at least 1")
        if not self.alpha > 0:
            raise BadRequest(f"alpha is {self.alpha}; it must be positive")


class LoRALinear(nn.Module):
    """A linear layer with an adapter. A is drawn as PEFT draws it (uniform, Kaiming), B is zero: nothing changes yet.

    A and B are fp32 whatever the layer's type is.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = scale
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.empty(rank, base.weight.shape[1], device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.weight.shape[0], rank, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    @property
    def factors(self) -> Factors:
        return Factors(self.lora_A, self.lora_B, self.scale)

    @property
    def weight(self) -> Tensor:
        """W + scale B A, differentiable: for whoever needs the weight itself, as the native kernels do. [F, D]"""
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
        if x_TD.dtype == torch.float32:
            return F.linear(x_TD, self.weight, bias_F)
        # A sum in half precision would lose what the adapter adds.
        a_RD, b_FR = self.lora_A.to(x_TD.dtype), self.lora_B.to(x_TD.dtype)
        return F.linear(x_TD, weight_FD, bias_F) + F.linear(F.linear(x_TD, a_RD), b_FR) * self.scale


def attach(network: Network, config: LoraConfig) -> dict[str, LoRALinear]:
    """Freeze the network and give its linear layers new adapters, which are returned by the layers' names."""
    network.requires_grad_(False)
    last = network.config.num_layers  # layers from here on are for multi-token prediction
    linear = {
        name: module
        for name, module in network.named_modules()
        if type(module) is nn.Linear and name.startswith("model.layers.") and int(name.split(".")[2]) < last
    }
    adapted = {}
    for name, module in linear.items():
        if ROUTED.search(name):
            continue
        owner, _, attribute = name.rpartition(".")
        adapted[name] = LoRALinear(module, config.rank, config.alpha / config.rank)
        setattr(network.get_submodule(owner), attribute, adapted[name])
    return adapted


def continue_from(adapted: dict[str, LoRALinear], adapter: Adapter, config: LoraConfig) -> None:
    """Begin with the values that an earlier adapter of the same shape has reached."""
    scale = config.alpha / config.rank
    given = {name: (factors.a_RD.shape[0], factors.scale) for name, factors in adapter.modules.items()}
    if given != dict.fromkeys(adapted, (config.rank, scale)):
        kinds = ", ".join(sorted({f"rank {rank}, scale {s:g}" for rank, s in given.values()}))
        raise BadRequest(
            f"the adapter to go on with has {len(given)} modules of {kinds}, and {len(adapted)} of rank {config.rank}, "
            f"scale {scale:g} are asked for; give the same rank and alpha, or start from its base"
        )
    with torch.no_grad():
        for name, factors in adapter.modules.items():
            adapted[name].lora_A.copy_(factors.a_RD)
            adapted[name].lora_B.copy_(factors.b_FR)

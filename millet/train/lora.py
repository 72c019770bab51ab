"""Low-rank adaptation (Hu et al., 2021): a frozen weight W becomes W + (alpha / rank) B A, and only A and B learn.

`attach` puts a `LoRALinear` in the place of every linear layer inside the decoder: q, k, v, o, gate, up, down, those of
latent attention, and shared experts. Routed experts keep their weights: transformers holds them in one tensor, where
PEFT has no names for adapters of single ones. Names and format on disk are PEFT's (models/adapter.py). PEFT 0.21 itself
cannot read them for models with experts: there it takes `gate_proj` and the like for parts of that one tensor.

Shape legend: T rows, D inputs, F outputs, R rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from millet.errors import BadRequest
from millet.models.adapter import Adapter, Factors
from millet.models.lora import ROUTED, LoRALinear, put_beside, take_away
from millet.models.network import Network


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """rank: of the change that a weight can make. alpha: it is scaled by alpha / rank. quantised: leave a base that
    has 8-bit or 4-bit weights in its file as it is; else it is made fp32."""

    rank: int = 16
    alpha: float = 32.0
    quantised: bool = True

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise BadRequest(f"rank is {self.rank}; it must be at least 1")
        if not self.alpha > 0:
            raise BadRequest(f"alpha is {self.alpha}; it must be positive")


def attach(network: Network, config: LoraConfig) -> dict[str, LoRALinear]:
    """Freeze the network and give its linear layers new adapters, which are returned by the layers' names."""
    network.requires_grad_(False)
    take_away(network)
    last = network.config.num_layers  # layers from here on are for multi-token prediction
    drawn = {
        name: draw(module, config)
        for name, module in network.named_modules()
        if type(module) is nn.Linear and name.startswith("model.layers.") and int(name.split(".")[2]) < last
        if not ROUTED.search(name)
    }
    return put_beside(network, drawn)


def draw(layer: nn.Linear, config: LoraConfig) -> Factors:
    """A as PEFT draws it (uniform, Kaiming), B zero: nothing changes yet."""
    a_RD = torch.empty(config.rank, layer.in_features, device=layer.weight.device)
    nn.init.kaiming_uniform_(a_RD, a=math.sqrt(5))
    b_FR = torch.zeros(layer.out_features, config.rank, device=layer.weight.device)
    return Factors(a_RD, b_FR, config.alpha / config.rank)


def continue_from(adapted: dict[str, LoRALinear], adapter: Adapter, config: LoraConfig) -> None:
    """Begin with what an earlier adapter of the same rank has reached; B takes up another scale."""
    given = {name: factors.a_RD.shape[0] for name, factors in adapter.modules.items()}
    if given != dict.fromkeys(adapted, config.rank):
        ranks = ", ".join(map(str, sorted(set(given.values()))))
        raise BadRequest(
            f"the adapter to go on with has {len(given)} modules of rank {ranks}, and {len(adapted)} of rank "
            f"{config.rank} are asked for; give the same rank, or start from its base"
        )
    with torch.no_grad():
        for name, factors in adapter.modules.items():
            adapted[name].lora_A.copy_(factors.a_RD)
            adapted[name].lora_B.copy_(factors.b_FR.float() * (factors.scale / adapted[name].scale))

"""LoRA adapters in PEFT's format: a directory with adapter_config.json and adapter_model.safetensors.

An adapted weight is W + scale B A (Hu et al., 2021). PEFT calls the factors of the module NAME
`base_model.model.NAME.lora_A.weight` and `base_model.model.NAME.lora_B.weight`. `millet.load` of such a directory
loads the model that it names as its base, with every adapted weight already summed, or, where the base is quantised,
with the factors beside it (lora.py).

Shape legend: F outputs, D inputs, R rank.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from millet.errors import BadWeights, UnsupportedModel
from millet.models.checkpoint import write_json, write_safetensors, written_whole
from millet.models.weights import Weights

CONFIG, FACTORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX, SUFFIX_A, SUFFIX_B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"

# What changes the arithmetic if it is ignored, and the values with which it does not.
REFUSED = {
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "bias": ("none", None),
    "modules_to_save": ([], None),
    "layer_replication": ([], None),
    "trainable_token_indices": ([], None),
    "target_parameters": ([], None),
}


@dataclass(frozen=True)
class Factors:
    """One module's share: its weight changes by scale B A."""

    a_RD: Tensor
    b_FR: Tensor
    scale: float

    def added_to(self, weight_FD: Tensor) -> Tensor:
        """W + scale B A in W's type, summed in fp32."""
        summed_FD = torch.addmm(weight_FD.float(), self.b_FR.float(), self.a_RD.float(), alpha=self.scale)
        return summed_FD.to(weight_FD.dtype)


@dataclass(frozen=True)
class Adapter:
    """base: the name or path of the model that it is for. modules: by the names that modules have in the network."""

    base: str
    modules: Mapping[str, Factors] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> Adapter:
        """Raises BadWeights when files are missing or corrupt, UnsupportedModel for what plain LoRA does not have."""
        config = _config(directory / CONFIG)
        try:
            tensors = load_file(directory / FACTORS)
        except (OSError, SafetensorError) as error:
            raise BadWeights(f"{directory / FACTORS} is missing or corrupt; get the adapter again") from error
        modules = {}
        for name, a_RD in tensors.items():
            module = name.removeprefix(PREFIX).removesuffix(SUFFIX_A)
            b_FR = tensors.get(f"{PREFIX}{module}{SUFFIX_B}")
            if name == f"{PREFIX}{module}{SUFFIX_A}" and b_FR is not None and a_RD.shape[0] == b_FR.shape[1]:
                modules[module] = Factors(a_RD, b_FR, _scale(config, module, a_RD.shape[0]))
            elif not name.endswith(SUFFIX_B):
                raise UnsupportedModel(
                    f"{directory} adapts by {name}, which is not supported; train an adapter on linear layers only"
                )
        if 2 * len(modules) != len(tensors):
            raise BadWeights(f"{directory / FACTORS} has factors without their partners; get the adapter again")
        return cls(config["base_model_name_or_path"], modules)

    def write(self, directory: str | Path, rank: int, alpha: float) -> None:
        """All of it or nothing. Raises MilletError when the disk is full, or something else is at `directory`."""
        tensors = {}
        for module, factors in self.modules.items():
            tensors[f"{PREFIX}{module}{SUFFIX_A}"] = factors.a_RD.detach().float()
            tensors[f"{PREFIX}{module}{SUFFIX_B}"] = factors.b_FR.detach().float()
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base,
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "target_modules": sorted({module.rpartition(".")[2] for module in self.modules}),
            "bias": "none",
            "fan_in_fan_out": False,
            "init_lora_weights": True,
            "use_rslora": False,
            "use_dora": False,
            "modules_to_save": None,
            "inference_mode": True,
        }
        with written_whole(directory, sum(tensor.nbytes for tensor in tensors.values())) as temporary:
            write_json(temporary / CONFIG, config)
            write_safetensors(temporary / FACTORS, tensors)


def _config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind, _, _, _ = config["peft_type"], config["base_model_name_or_path"], config["r"], config["lora_alpha"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BadWeights(f"{path} is missing or not an adapter's; get the adapter again") from error
    if kind != "LORA":
        raise UnsupportedModel(f"{path.parent} is an adapter of type {kind}, which is not supported; use LoRA")
    for key, harmless in REFUSED.items():
        if config.get(key) not in harmless:
            raise UnsupportedModel(f"{path.parent} has {key} = {config[key]!r}, which is not supported; use plain LoRA")
    if not config["base_model_name_or_path"]:
        raise BadWeights(f"{path} names no base model; set base_model_name_or_path in it")
    return config


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / r, where a pattern may give a module an alpha of its own."""
    alpha: float = config["lora_alpha"]
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        if module == pattern or module.endswith("." + pattern):
            alpha = own
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


class AdaptedWeights:
    """A base model's weights with an adapter's added where it has any; see `Weights`."""

    def __init__(self, base: Weights, adapter: Adapter) -> None:
        self._base, self._adapter = base, adapter
        self._factors = {f"{module}.weight": factors for module, factors in adapter.modules.items()}
        self.source = base.source
        self.shapes = base.shapes
        for name, factors in self._factors.items():
            if base.shapes.get(name) != (len(factors.b_FR), factors.a_RD.shape[1]):
                raise BadWeights(
                    f"the adapter's {name} has no counterpart of its shape in {base.source}; "
                    "use the base model that it was trained on"
                )

    def without(self, modules: Container[str]) -> AdaptedWeights:
        """Those modules' weights as the base has them."""
        rest = {module: factors for module, factors in self._adapter.modules.items() if module not in modules}
        return AdaptedWeights(self._base, Adapter(self._adapter.base, rest))

    def read(self, name: str, out: Tensor) -> None:
        if name not in self._factors:
            return self._base.read(name, out)
        values = torch.empty(out.shape)
        self._base.read(name, values)
        out.copy_(self._factors[name].added_to(values))
        return None

    def kind(self, name: str) -> str:
        """A sum is in no file: what the base has in 4 bits becomes 8-bit, which keeps what the adapter adds."""
        kind = self._base.kind(name)
        return "Q8_0" if name in self._factors and kind.startswith("Q") else kind

    def raw(self, name: str) -> tuple[Tensor, Tensor | None] | None:
        return None if name in self._factors else self._base.raw(name)

    def release(self, name: str) -> None:
        self._base.release(name)

    def close(self) -> None:
        self._base.close()

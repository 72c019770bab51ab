"""Rotary position embedding (RoPE): a query or key is turned, pair by pair, by an angle proportional to its position.

Pair i of a head turns by `position * inv_freq[i]`. Four recipes for the frequencies, by what the checkpoint names:

- default: theta ** (-2i / K)  (Su et al., 2021).
- linear: all of them divided by the factor (position interpolation, Chen et al., 2023).
- llama3: long wavelengths divided by the factor, short ones kept, a smooth ramp between (Llama 3.1).
- yarn: the same idea with the ramp laid over the pair's index, and sharper attention (Peng et al., 2023). The
  sharpening is a factor on cos and sin, or, in DeepSeek's form (`mscale_all_dim`), on the softmax scale, where it
  reaches the part of the head that is not rotated as well.

Shape legend: T tokens, H heads, K rotated entries of a head, P = K / 2 pairs.
"""

import math
from typing import Any

import torch
from torch import Tensor

from millet.kernels import ops
from millet.models.config import RopeConfig


class Rotation:
    """The turn of each row of a batch, made once per forward and shared by all layers. Call it on `x_THK`."""

    def __init__(self, turns_T2P: Any, interleaved: bool) -> None:
        self.turns_T2P = turns_T2P
        self.interleaved = interleaved

    def __call__(self, x_THK: Any) -> Any:
        return ops.rotate(x_THK, self.turns_T2P, self.interleaved)


class Rope:
    """Makes a `Rotation` from positions. Holds no parameters and ignores the default device, so that a network built
    on the meta device has correct frequencies once its weights are filled."""

    def __init__(self, config: RopeConfig) -> None:
        self.inv_freq_P = inverse_frequencies(config)
        self.magnitude = attention_factor(config)
        self.interleaved = config.interleaved

    def __call__(self, positions_T: Any) -> Rotation:
        device = getattr(positions_T, "device", None)
        if device is not None and self.inv_freq_P.device != device:
            self.inv_freq_P = self.inv_freq_P.to(device)
        return Rotation(ops.turn(positions_T, self.inv_freq_P, self.magnitude), self.interleaved)


def inverse_frequencies(rope: RopeConfig) -> Tensor:
    """Radians per position of each pair, fp32 on the CPU. [P]"""
    exponent_P = torch.arange(0, rope.width, 2, dtype=torch.float32, device="cpu") / rope.width
    inv_freq_P = 1.0 / rope.theta**exponent_P
    match rope.type:
        case "linear":
            return inv_freq_P / rope.factor
        case "llama3":
            return _llama3(inv_freq_P, rope)
        case "yarn":
            return _yarn(inv_freq_P, rope)
        case _:
            return inv_freq_P


def _llama3(inv_freq_P: Tensor, rope: RopeConfig) -> Tensor:
    turns_P = rope.original_context * inv_freq_P / (2 * math.pi)  # within the original context
    keep_P = (turns_P - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    return torch.lerp(inv_freq_P / rope.factor, inv_freq_P, keep_P.clamp(0, 1))


def _yarn(inv_freq_P: Tensor, rope: RopeConfig) -> Tensor:
    def pair_with(turns: float) -> float:
        """The (fractional) index of the pair that makes this many turns within the original context."""
        return rope.width * math.log(rope.original_context / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair_with(rope.beta_fast), pair_with(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.width - 1)
    index_P = torch.arange(len(inv_freq_P), dtype=torch.float32, device="cpu")
    stretch_P = ((index_P - low) / max(high - low, 0.001)).clamp(0, 1)
    return torch.lerp(inv_freq_P, inv_freq_P / rope.factor, stretch_P)


def attention_factor(rope: RopeConfig) -> float:
    """What cos and sin are multiplied by."""
    if rope.type != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return yarn_mscale(rope.factor, rope.mscale) / yarn_mscale(rope.factor, rope.mscale_all_dim)
    return yarn_mscale(rope.factor)


def softmax_factor(rope: RopeConfig) -> float:
    """What the softmax scale of latent attention is multiplied by; squared because it stands for both query and key."""
    if rope.type != "yarn" or not rope.mscale_all_dim:
        return 1.0
    return yarn_mscale(rope.factor, rope.mscale_all_dim) ** 2


def yarn_mscale(factor: float, weight: float = 1.0) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

"""Adapters beside packed weights, kept apart: y = x W^T + (x A^T) (scale B)^T, in two thin products.

Summing them into W would need W in fp32, or round what the adapter adds to the few bits of a quantised weight. Factors
are kept in fp16, half the bytes to read for each token, and sums in fp32. The trainer's forward rounds factors as well,
its optimiser has them in fp32.

Shape legend: D inputs, F outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from millet.kernels.gradients import Adapted
from millet.kernels.matrix import Matrix
from millet.kernels.native.abi import Format


@dataclass(frozen=True)
class LowRank:
    """The factors of several weights that share their input. down: the A of all of them, one below the other.
    ups: scale B of each, None for a weight without an adapter."""

    down: Matrix
    ups: tuple[Matrix | None, ...]

    @classmethod
    def pack(cls, adapters: Sequence[Adapted | None]) -> LowRank:
        down = torch.cat([each.a_RD.detach() for each in adapters if each])
        ups = [Matrix.pack(each.b_FR.detach() * each.scale, Format.F16) if each else None for each in adapters]
        return cls(Matrix.pack(down, Format.F16), tuple(ups))

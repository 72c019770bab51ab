"""Mixture of experts on the native kernels: route, and run the chosen experts (native/src/experts.h)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from millet.kernels.matrix import Matrix
from millet.kernels.native.abi import Code
from millet.kernels.record import Product, Step


class Routing(Protocol):
    """How experts are chosen; see `MoEConfig`."""

    @property
    def num_experts(self) -> int: ...
    @property
    def top_k(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_groups(self) -> int: ...
    @property
    def top_groups(self) -> int: ...
    @property
    def scoring(self) -> str: ...
    @property
    def correction_bias(self) -> bool: ...
    @property
    def norm_topk_prob(self) -> bool: ...
    @property
    def routed_scaling_factor(self) -> float: ...


def route_and_run(
    x: Any,
    router: Matrix,
    bias_E: Tensor | None,
    moe: Routing,
    experts: Sequence[tuple[Matrix, ...]],
    parameters: Sequence[Tensor],
    reference: Callable[..., Tensor],
) -> Any:
    """The weighted sum of the chosen experts' outputs. `experts` are (gate, up, down) each. [D] -> [D]"""

    def build(x: Any) -> Any:
        recorder = x.recorder
        logits = recorder.new(moe.num_experts, like=x)
        recorder.emit(Step(Code.PRODUCTS, products=(Product(router, x, logits),)))
        choice = recorder.new(2 * moe.top_k, like=x)
        n = {0: moe.num_experts, 1: moe.top_k, 2: moe.num_groups, 3: moe.top_groups}
        n |= {4: int(moe.scoring == "sigmoid"), 5: int(moe.norm_topk_prob), 6: int(moe.correction_bias)}
        step = Step(Code.ROUTE, (logits,), (choice,), weights=(bias_E,), n=n, f=moe.routed_scaling_factor)
        recorder.emit(step)
        out = recorder.new(*x.sizes, like=x)
        parts = tuple(Product(matrix, None, None) for expert in experts for matrix in expert)
        recorder.emit(Step(Code.EXPERTS, (x, choice), (out,), parts, n={0: moe.top_k, 1: moe.intermediate_size}))
        return out

    return x.recorder.apply(build, (x,), parameters, reference)

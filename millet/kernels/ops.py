"""The operations that models are written in, each in two forms that must agree: PyTorch, for tensors, and a step of the
native kernels, for `Rows` (record.py). The PyTorch form is the reference in the tests and gives the gradients.

Shape legend: T rows, D width, H heads, K head width, P pairs of a head, F outputs, R latent rank, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from millet.kernels import gradients
from millet.kernels.low_rank import LowRank
from millet.kernels.matrix import Matrix
from millet.kernels.native.abi import Code
from millet.kernels.record import Product, Step


def rms_norm(x: Any, weight: Tensor, eps: float) -> Any:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich, 2019)."""
    if isinstance(x, Tensor):
        if gradients.by_hand(x):
            return gradients.rms_norm(x, weight, eps)
        if x.dtype != torch.float32:
            return F.rms_norm(x, weight.shape, weight, eps)
        # Three passes over the data: at one row PyTorch's own is made of seven, and starting them is all it costs.
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * (length.square() / weight.shape[0] + eps).rsqrt() * weight

    def build(x: Any) -> Any:
        out = x.recorder.new(*x.sizes, like=x)
        x.recorder.emit(Step(Code.NORM, (x,), (out,), weights=(weight,), n=_groups(x, out), f=eps))
        return out

    return x.recorder.apply(build, (x,), (weight,), lambda x, w: gradients.rms_norm(x, w, eps, computed=False))


def swiglu(gate: Any, up: Any) -> Any:
    """silu(gate) * up  (Shazeer, 2020)."""
    if isinstance(gate, Tensor):
        return gradients.swiglu(gate, up) if gradients.by_hand(gate) else F.silu(gate) * up

    def build(gate: Any, up: Any) -> Any:
        out = gate.recorder.new(*gate.sizes, like=gate)
        gate.recorder.emit(Step(Code.SWIGLU, (gate, up), (out,), n={0: gate.sizes[0]}))
        return out

    return gate.recorder.apply(build, (gate, up), (), lambda gate, up: gradients.swiglu(gate, up, computed=False))


def add(x: Any, y: Any) -> Any:
    """For `Rows`, whose + this is."""

    def build(x: Any, y: Any) -> Any:
        out = x.recorder.new(*x.sizes, like=x)
        x.recorder.emit(Step(Code.ADD, (x, y), (out,), n={0: x.sizes[0]}))
        return out

    return x.recorder.apply(build, (x, y), (), torch.add)


def join(x: Any, y: Any) -> Any:
    """Side by side in the last dimension."""
    if isinstance(x, Tensor):
        return torch.cat((x, y), -1)

    def build(*parts: Any) -> Any:
        out = parts[0].recorder.new(*parts[0].sizes[:-1], sum(part.sizes[-1] for part in parts), like=parts[0])
        places = out.split([part.sizes[-1] for part in parts], -1)
        for part, place in zip(parts, places, strict=True):
            part.recorder.emit(Step(Code.COPY, (part,), (place,), n=_groups(part, place)))
        return out

    return x.recorder.apply(build, (x, y), (), join)


def turn(positions: Any, inv_freq_P: Tensor, magnitude: float) -> Any:
    """cos, then sin, of every pair's angle at each row's position. [2 P]"""
    if isinstance(positions, Tensor):
        angle_TP = positions[:, None] * inv_freq_P
        return torch.cat((angle_TP.cos(), angle_TP.sin()), -1) * magnitude
    pairs = len(inv_freq_P)
    out = positions.recorder.new(2 * pairs)
    positions.recorder.emit(Step(Code.TURN, (), (out,), weights=(inv_freq_P,), n={0: pairs}, f=magnitude))
    return out


def rotate(x: Any, turns: Any, interleaved: bool) -> Any:
    """(a, b) -> (a cos - b sin, b cos + a sin) for the pairs of every head; turns from `turn`. [H, K]

    Interleaved pairs are (0, 1), (2, 3), ...; others (0, K/2), (1, K/2 + 1), ...
    """
    if isinstance(x, Tensor):
        cos_T1P, sin_T1P = turns[:, None].to(x.dtype).chunk(2, -1)
        if gradients.by_hand(x):
            return gradients.rotate(x, cos_T1P, sin_T1P, interleaved)
        if interleaved:
            a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
            return torch.stack((a * cos_T1P - b * sin_T1P, b * cos_T1P + a * sin_T1P), -1).flatten(-2)
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos_T1P - b * sin_T1P, b * cos_T1P + a * sin_T1P), -1)

    def build(x: Any) -> Any:
        out = x.recorder.new(*x.sizes, like=x)
        n = _groups(x, out) | {0: x.sizes[-1] // 2, 2: int(interleaved)}
        x.recorder.emit(Step(Code.ROTATE, (x, turns), (out,), n=n))
        return out

    def reference(x: Tensor) -> Tensor:
        cos_T1P, sin_T1P = turns.tensor[:, None].chunk(2, -1)
        return gradients.rotate(x, cos_T1P, sin_T1P, interleaved, computed=False)

    return x.recorder.apply(build, (x,), (), reference)


def products(
    x: Any,
    matrices: Sequence[Matrix],
    biases: Sequence[Tensor | None],
    weights: Sequence[Tensor | gradients.Adapted | None],
    fine: bool,
) -> tuple[Any, ...]:
    """x W^T + b for several matrices that share x (`Rows` only). `weights` are the parameters behind the matrices, for
    the gradient; None where there is none any more. fine: see `LinearGroup`."""

    def build(x: Any, matrices: Sequence[Matrix], biases: Sequence[Tensor | None]) -> tuple[Any, ...]:
        outs = tuple(x.recorder.new(matrix.shape[0], like=x) for matrix in matrices)
        parts = [Product(m, x, out, b) for m, out, b in zip(matrices, outs, biases, strict=True)]
        x.recorder.emit(Step(Code.PRODUCTS, products=tuple(parts), n={0: int(x.sampled), 6: int(fine)}))
        return outs

    if x.recorder.together:
        return build(x, matrices, biases)
    return tuple(
        _product(x, *part, build) for part in zip(matrices, biases, weights, strict=True)
    )  # one by one, each with its own gradient


def adapted_products(
    x: Any,
    matrices: Sequence[Matrix],
    biases: Sequence[Tensor | None],
    adapters: Sequence[gradients.Adapted | None],
    low_rank: LowRank,
    fine: bool,
) -> tuple[Any, ...]:
    """x W^T + b + scale x A^T B^T for several frozen packed matrices that share x (`Rows` only). `low_rank` has the
    factors of `adapters` as the kernels take them: A goes with W in one step, B follows."""
    inner: Any = None  # x A^T of all, which the gradient of B needs again

    def build(x: Any) -> tuple[Any, ...]:
        nonlocal inner
        outs = tuple(x.recorder.new(matrix.shape[0], like=x) for matrix in matrices)
        inner = x.recorder.new(low_rank.down.shape[0], like=x)
        parts = [Product(m, x, out, b) for m, out, b in zip(matrices, outs, biases, strict=True)]
        parts.append(Product(low_rank.down, x, inner))
        x.recorder.emit(Step(Code.PRODUCTS, products=tuple(parts), n={0: int(x.sampled), 6: int(fine)}))
        added = [(up, out) for up, out in zip(low_rank.ups, outs, strict=True) if up is not None]
        inners = inner.split([up.shape[1] for up, _ in added], -1)
        ups = tuple(Product(up, h, out, add=out) for (up, out), h in zip(added, inners, strict=True))
        x.recorder.emit(Step(Code.PRODUCTS, products=ups, n={0: int(x.sampled)}))
        return outs

    factors = [factor for each in adapters if each for factor in (each.a_RD, each.b_FR)]
    scales = [each.scale if each else None for each in adapters]
    reference = lambda x, *factors: gradients.packed_linear(x, matrices, scales, factors, inner.tensor)  # noqa: E731
    outs: tuple[Any, ...] = x.recorder.apply(build, (x,), factors, reference)
    return outs


def _product(x: Any, matrix: Matrix, bias: Tensor | None, weight: Tensor | gradients.Adapted | None, build: Any) -> Any:
    """The references only stand for their gradients: computing the product once more would be a third of the work."""

    def plain(x: Tensor, weight_FD: Tensor, *bias: Tensor) -> Tensor:
        return gradients.linear(x, [weight_FD], bias or [None], computed=False)[0]

    def packed(x: Tensor, *bias: Tensor) -> Tensor:
        return plain(x, matrix.unpack(), *bias)

    biases = () if bias is None else (bias,)
    forward = lambda x: build(x, [matrix], [bias])[0]  # noqa: E731
    if isinstance(weight, gradients.Adapted):
        scale = weight.scale

        def adapted(x: Tensor, weight_FD: Tensor, a_RD: Tensor, b_FR: Tensor) -> Tensor:
            factors = gradients.Adapted(weight_FD, a_RD, b_FR, scale)
            return gradients.adapted_linear(x, factors, None, computed=False)

        return x.recorder.apply(forward, (x,), (weight.weight_FD, weight.a_RD, weight.b_FR), adapted)
    if weight is None:
        return x.recorder.apply(forward, (x,), biases, packed)
    return x.recorder.apply(forward, (x,), (weight, *biases), plain)


def head_products(x_THN: Any, weight_HFN: Tensor, matrices: Sequence[Matrix] | None) -> Any:
    """Every head through a matrix of its own. [H, N] -> [H, F]"""
    if isinstance(x_THN, Tensor):
        return torch.einsum("thn,hfn->thf", x_THN, weight_HFN)
    assert matrices is not None

    def build(x: Any) -> Any:
        out = x.recorder.new(x.sizes[0], matrices[0].shape[0], like=x)
        parts = [Product(m, x.head(h), out.head(h)) for h, m in enumerate(matrices)]
        x.recorder.emit(Step(Code.PRODUCTS, products=tuple(parts)))
        return out

    return x_THN.recorder.apply(build, (x_THN,), (weight_HFN,), lambda x, w: head_products(x, w, None))


def embed(ids: Any, matrix: Matrix, weight: Tensor | None) -> Any:
    """Rows of a table (`Rows` only)."""

    def build() -> Any:
        out = ids.recorder.new(matrix.shape[1])
        ids.recorder.emit(Step(Code.EMBED, (), (out,), (Product(matrix, None, None),)))
        return out

    parameters = () if weight is None else (weight,)
    return ids.recorder.apply(build, (), parameters, lambda *w: F.embedding(ids.tensor, *w))


def _groups(x: Any, out: Any) -> dict[int, int]:
    """Width, number and distances of the heads of a row."""
    heads = x.sizes[0] if len(x.sizes) == 2 else 1
    return {0: x.sizes[-1], 1: heads, 3: x.group_stride, 4: out.group_stride}

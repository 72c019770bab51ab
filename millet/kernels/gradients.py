"""Operations for training on a CPU, with gradients by hand: PyTorch's own keep more and pass over it more often.

Each computes what the PyTorch form in ops.py or linear.py does, which is its oracle in the tests. They are for any
floating type, but products in fp32 go to oneDNN, which is 5 to 50% faster there than the general BLAS (dev/LOG.md).
computed: False where only the gradient is wanted; the values are then whatever was in memory.

Shape legend: T rows, D input width, F output width, R rank of an adapter, H heads, K head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from millet.kernels.matrix import Matrix

PART = 1 << 22  # weights of a packed matrix in fp32 at once: 16 MB
FEW_ROWS = 256  # with fewer, laying a weight out for a product costs more than the better product saves


def by_hand(x: Any) -> bool:
    """Whether these serve: on a CPU, and something may have to be differentiated."""
    return torch.is_grad_enabled() and isinstance(x, Tensor) and x.device.type == "cpu" and x.dtype.itemsize >= 4


def rms_norm(x: Tensor, weight: Tensor, eps: float, computed: bool = True) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension."""
    y: Tensor = _RMSNorm.apply(computed, x, weight, eps)
    return y


def swiglu(gate: Tensor, up: Tensor, computed: bool = True) -> Tensor:
    """silu(gate) * up."""
    y: Tensor = _SwiGLU.apply(computed, gate, up)
    return y


def rotate(x_THK: Tensor, cos_T1P: Tensor, sin_T1P: Tensor, interleaved: bool, computed: bool = True) -> Tensor:
    """(a, b) -> (a cos - b sin, b cos + a sin) for the pairs of every head; the angles have no gradient."""
    y_THK: Tensor = _Rotate.apply(computed, x_THK, cos_T1P, sin_T1P, interleaved)
    return y_THK


def linear(
    x_TD: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], computed: bool = True
) -> tuple[Tensor, ...]:
    """x W^T + b for several weights [F, D] that share x. Weights that do not ask for a gradient cost none."""
    ys: tuple[Tensor, ...] = _Linear.apply(computed, x_TD, *weights, *biases)
    return ys


@dataclass(frozen=True)
class Adapted:
    """A weight W + scale B A, of which W is frozen (Hu et al., 2021). Where W is packed, weight_FD is empty."""

    weight_FD: Tensor
    a_RD: Tensor
    b_FR: Tensor
    scale: float


def adapted_linear(x_TD: Tensor, adapted: Adapted, bias_F: Tensor | None, computed: bool = True) -> Tensor:
    """x (W + scale B A)^T + bias, where the bias is frozen, too.

    The sum W + scale B A is made anew for each product: it takes 2 R operations a weight where the product takes 2 T,
    and no activation has to be passed over again to add the adapter's part.
    """
    y_TF: Tensor = _AdaptedLinear.apply(
        computed, x_TD, adapted.weight_FD, bias_F, adapted.a_RD, adapted.b_FR, adapted.scale
    )
    return y_TF


def packed_linear(
    x_TD: Tensor,
    matrices: Sequence[Matrix],
    scales: Sequence[float | None],
    factors: Sequence[Tensor],
    inner_TR: Tensor,
) -> tuple[Tensor, ...]:
    """x (W + scale B A)^T for several frozen packed weights that share x, of which some have an adapter: the gradient
    alone, as the values come from the native kernels; here they are whatever was in memory.

    Where these round x to integers, the gradient is that of the product without rounding ("straight through": Bengio
    et al., 2013). W is unpacked part by part. scales: None where a weight has no adapter. factors: A, B of the others.
    inner_TR: their x A^T, side by side.
    """
    ys: tuple[Tensor, ...] = _PackedLinear.apply(x_TD, matrices, scales, inner_TR, *factors)
    return ys


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, computed: bool, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = (length.square() / weight.shape[0] + eps).rsqrt()
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight) if computed else torch.empty_like(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, inverse = ctx.saved_tensors
        normed = x * inverse
        along = grads[0] * normed
        grad_weight = along.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None
        mean = (along @ weight).div_(weight.shape[0])[..., None]
        grad_x = torch.mul(grads[0], weight, out=along).addcmul_(normed, mean, value=-1).mul_(inverse)
        return None, grad_x, grad_weight, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, computed: bool, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up) if computed else torch.empty_like(gate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        gate, up = ctx.saved_tensors
        grad_gate = torch.ops.aten.silu_backward(grads[0] * up, gate)
        return None, grad_gate, F.silu(gate).mul_(grads[0])


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, computed: bool, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.interleaved = interleaved
        return _turned(x, cos, sin, interleaved, 1) if computed else x.new_empty(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return None, _turned(grads[0], cos, sin, ctx.interleaved, -1), None, None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, direction: int) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype)
    (a, b), (to_a, to_b) = _pairs(x, interleaved), _pairs(y, interleaved)
    torch.mul(a, cos, out=to_a).addcmul_(b, sin, value=-direction)
    torch.mul(b, cos, out=to_b).addcmul_(a, sin, value=direction)
    return y


def _pairs(x: Tensor, interleaved: bool) -> tuple[Tensor, ...]:
    return x.unflatten(-1, (-1, 2)).unbind(-1) if interleaved else x.chunk(2, -1)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, computed: bool, x_TD: Tensor, *parameters: Tensor | None) -> tuple[Tensor, ...]:
        count = len(parameters) // 2
        weights, biases = parameters[:count], parameters[count:]
        ctx.save_for_backward(x_TD, *weights)
        ctx.set_materialize_grads(False)
        if not computed:
            return tuple(x_TD.new_empty(len(x_TD), len(w)) for w in weights if w is not None)
        return tuple(product(x_TD, w, b) for w, b in zip(weights, biases, strict=True) if w is not None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        x_TD, *weights = ctx.saved_tensors
        count, wanted = len(weights), ctx.needs_input_grad[1:]
        grad_x = None
        grad_parameters: list[Tensor | None] = [None] * (2 * count)
        for i, (grad_TF, weight_FD) in enumerate(zip(grads, weights, strict=True)):
            if grad_TF is None:
                continue
            if wanted[0]:
                part_TD = product_back(grad_TF, weight_FD)
                grad_x = part_TD if grad_x is None else grad_x.add_(part_TD)
            if wanted[1 + i]:
                grad_parameters[i] = grad_TF.t() @ x_TD
            if wanted[1 + count + i]:
                grad_parameters[count + i] = grad_TF.sum(0)
        return None, grad_x, *grad_parameters


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        computed: bool,
        x_TD: Tensor,
        weight_FD: Tensor,
        bias_F: Tensor | None,
        a_RD: Tensor,
        b_FR: Tensor,
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(x_TD, weight_FD, a_RD, b_FR)
        ctx.scale = scale
        if not computed:
            return x_TD.new_empty(len(x_TD), len(weight_FD))
        return product(x_TD, torch.addmm(weight_FD, b_FR, a_RD, alpha=scale), bias_F)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x_TD, weight_FD, a_RD, b_FR = ctx.saved_tensors
        grad_TF = grads[0]
        grad_x = None
        if ctx.needs_input_grad[1]:
            grad_x = product(grad_TF, torch.addmm(weight_FD.t(), a_RD.t(), b_FR.t(), alpha=ctx.scale))
        grad_a = (grad_TF @ b_FR).t() @ x_TD
        grad_b = grad_TF.t() @ (x_TD @ a_RD.t())
        return None, grad_x, None, None, grad_a.mul_(ctx.scale), grad_b.mul_(ctx.scale), None


class _PackedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        matrices: Sequence[Matrix],
        scales: Sequence[float | None],
        inner_TR: Tensor,
        *factors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x_TD, inner_TR, *factors)
        ctx.matrices, ctx.scales = matrices, scales
        return tuple(x_TD.new_empty(len(x_TD), matrix.shape[0]) for matrix in matrices)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x_TD, inner_TR, *factors = ctx.saved_tensors
        grad_x, grad_bs, alongs = None, list[Tensor](), list[Tensor]()
        downs, ups = factors[::2], factors[1::2]
        inners = iter(inner_TR.split([len(a_RD) for a_RD in downs], -1))
        for grad_TF, matrix, scale in zip(grads, ctx.matrices, ctx.scales, strict=True):
            if ctx.needs_input_grad[0]:
                grad_x = packed_back(grad_TF, matrix, grad_x)
            if scale is not None:
                alongs.append((grad_TF @ ups[len(alongs)]).mul_(scale))
                grad_bs.append((grad_TF.t() @ next(inners)).mul_(scale))
        along_TR = torch.cat(alongs, -1)  # the A of all at once: x is read once for them
        if grad_x is not None:
            grad_x.addmm_(along_TR, torch.cat(downs))
        grad_as = (along_TR.t() @ x_TD).split([len(a_RD) for a_RD in downs])
        pairs = (grad for pair in zip(grad_as, grad_bs, strict=True) for grad in pair)
        return grad_x, None, None, None, *pairs


def packed_back(grad_TF: Tensor, matrix: Matrix, to_TD: Tensor | None = None) -> Tensor:
    """grad W, added to what there is. [T, D]"""
    for outputs, part in matrix.parts(PART):
        if len(grad_TF) < FEW_ROWS:
            found_TD = grad_TF[:, outputs] @ part.unpack()
        else:
            found_TD = product(grad_TF[:, outputs], part.unpack(transposed=True))
        to_TD = found_TD if to_TD is None else to_TD.add_(found_TD)
    assert to_TD is not None
    return to_TD


def product_back(grad_TF: Tensor, weight_FD: Tensor) -> Tensor:
    """grad W: the gradient of x in x W^T. [T, D]"""
    if len(grad_TF) < FEW_ROWS:
        return grad_TF @ weight_FD
    return product(grad_TF, weight_FD.t().contiguous())


def product(x_TD: Tensor, weight_FD: Tensor, bias_F: Tensor | None = None) -> Tensor:
    """x W^T + b, without a gradient. [T, F]"""
    if x_TD.dtype != torch.float32 or x_TD.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return F.linear(x_TD, weight_FD, bias_F)
    y_TF: Tensor = torch.ops.mkldnn._linear_pointwise(x_TD, weight_FD, bias_F, "none", [], "")
    return y_TF

"""Single native steps with everything chosen by hand: rows, threads, blocks. And their arithmetic in plain numbers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from millet.kernels.batch import Batch
from millet.kernels.block_cache import BlockCache
from millet.kernels.eager import Eager, Native
from millet.kernels.matrix import GROUP, Matrix
from millet.kernels.native import abi
from millet.kernels.native.abi import Code, Format, Prepare
from millet.kernels.native.library import variant
from millet.kernels.paged import Span
from millet.kernels.plan import attend
from millet.kernels.record import Product, Step, to_native


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def eager(rows: int, count: int = 2) -> Eager:
    """A recorder for this many rows, on this many threads."""
    with threads(count):
        return Eager(torch.zeros(rows, dtype=torch.int64), [rows])


def run_products(
    x_TD: Tensor,
    matrices: Sequence[Matrix],
    biases: Sequence[Tensor | None] = (),
    adds: Sequence[Tensor | None] = (),
    *,
    count: int = 2,
    norm: tuple[Tensor, float] | None = None,
    up_TD: Tensor | None = None,
    fine: bool = False,
) -> list[Tensor]:
    """Several products side by side. norm: weight and epsilon, applied to x first. up_TD: x goes through SwiGLU first.
    fine: activations are quantised in parts of 16."""
    recorder = eager(len(x_TD), count)
    x = Native(recorder, x_TD)
    outs = [recorder.new(matrix.shape[0]) for matrix in matrices]
    products = tuple(
        Product(matrix, x, out, bias, None if add is None else Native(recorder, add))
        for matrix, out, bias, add in zip(
            matrices, outs, biases or [None] * len(outs), adds or [None] * len(outs), strict=True
        )
    )
    n = {6: int(fine)}
    if norm:
        weight_D, eps = norm
        step = Step(Code.PRODUCTS, (x,), (), products, (weight_D,), n | {7: int(Prepare.NORM)}, eps)
    elif up_TD is not None:
        step = Step(Code.PRODUCTS, (x, Native(recorder, up_TD)), (), products, (), n | {7: int(Prepare.SWIGLU)})
    else:
        step = Step(Code.PRODUCTS, products=products, n=n)
    recorder.emit(step)
    return [out.tensor for out in outs]


class Attending:
    """Records one attention over a cache, and runs it at once."""

    def __init__(self, cache: BlockCache, layer: int, spans: list[Span], count: int) -> None:
        self.cache, self.layer = cache, layer
        self.batch = Batch.of([0] * sum(span.length for span in spans), spans, [], count)

    def new(self, *sizes: int, like: Native) -> Native:
        return Native(like.recorder, torch.full((len(like.tensor), *sizes), torch.nan))

    def emit(self, step: Step) -> None:
        op, keep = to_native(step, lambda rows: abi.Rows(rows.tensor.data_ptr(), rows.tensor.stride(0)))
        self.cache.attach(op, self.layer)
        assert abi.functions().millet_run(op, 1, self.batch.raw, None) == 0
        del keep


def run_attention(
    cache: BlockCache,
    spans: list[Span],
    q_THK: Tensor,
    k_TGK: Tensor,
    v_TGW: Tensor | None,
    *,
    scale: float,
    value_width: int,
    layer: int = 0,
    count: int = 2,
) -> Tensor:
    recorder = Attending(cache, layer, spans, count)
    q, k = Native(recorder, q_THK.contiguous()), Native(recorder, k_TGK.contiguous())  # type: ignore[arg-type]
    v = None if v_TGW is None else Native(recorder, v_TGW.contiguous())  # type: ignore[arg-type]
    out: Native = attend(layer, q, k, v, scale, value_width)
    return out.tensor


def attention_in_float64(q_NHK: Tensor, k_SGK: Tensor, v_SGW: Tensor, scale: float) -> Tensor:
    """The queries are the last N of S positions; each sees itself and what is before it."""
    n, s = len(q_NHK), len(k_SGK)
    k_SHK = k_SGK.double().repeat_interleave(q_NHK.shape[1] // k_SGK.shape[1], 1)
    v_SHW = v_SGW.double().repeat_interleave(q_NHK.shape[1] // k_SGK.shape[1], 1)
    scores_HNS = torch.einsum("nhk,shk->hns", q_NHK.double(), k_SHK) * scale
    unseen_NS = torch.arange(s) > torch.arange(s - n, s)[:, None]
    return torch.einsum("hns,shw->nhw", scores_HNS.masked_fill(unseen_NS, -torch.inf).softmax(-1), v_SHW)


def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c in fp32, rounded once where the kernels in use have such an instruction. (In 80 bits: the product is
    exact, and that rounding the sum twice makes a difference is as good as impossible.)"""
    if variant() == "scalar":
        return (a * b).astype(np.float32) + c
    return (a.astype(np.longdouble) * b.astype(np.longdouble) + c.astype(np.longdouble)).astype(np.float32)


def chain(x_TK: Tensor, weight_FK: Tensor) -> Tensor:
    """The float product as abi.h promises it: one chain of multiply-adds over the inputs, in rising order."""
    x, w = x_TK.numpy(), weight_FK.numpy()
    acc = np.zeros((len(x), len(w)), np.float32)
    for k in range(x.shape[1]):
        acc = fused(np.broadcast_to(x[:, k : k + 1], acc.shape), np.broadcast_to(w[:, k], acc.shape), acc)
    return torch.from_numpy(acc)


def quantised_activations(x_TK: Tensor, part: int = GROUP) -> tuple[np.ndarray, np.ndarray]:
    """Each part of a row as int8 and a scale: its largest number becomes 127. [T, K / part, part] and [T, K / part]"""
    parts = x_TK.numpy().reshape(len(x_TK), -1, part)
    most = np.abs(parts).max(-1)
    with np.errstate(divide="ignore"):
        inverse = np.where(most > 0, np.float32(127) / most, np.float32(0)).astype(np.float32)
    q = np.rint(parts * inverse[..., None]).astype(np.int32)  # ties to even, like the instruction
    return q, (most / np.float32(127)).astype(np.float32)


def rounded_activations(x_TK: Tensor) -> tuple[Tensor, float]:
    """The values that int8 activations stand for, and how close any was to becoming the next integer; 0 is a tie."""
    q, scale = quantised_activations(x_TK)
    values_TK = torch.from_numpy(q * scale[..., None]).to(x_TK.dtype).view_as(x_TK)
    steps_TK = torch.from_numpy(scale).repeat_interleave(GROUP, 1)
    return values_TK, (0.5 - ((x_TK - values_TK) / steps_TK).abs()).min().item()


def quantised_chain(x_TK: Tensor, weight: tuple[np.ndarray, np.ndarray, np.ndarray | None], fine: bool) -> Tensor:
    """The product of integers: group by group, exact sums times both scales; then, for Q4_1, the offset's share.

    Of the weight: integers [F, K / 32, 32], scales and offsets [F, K / 32]. Where activations are fine, the two halves
    of a group are joined before the weight's scale.
    """
    w, w_scale, offset = weight
    part = GROUP // 2 if fine else GROUP
    q, x_scale = quantised_activations(x_TK, part)
    x_sum = (x_scale * q.sum(-1).astype(np.float32)).astype(np.float32)
    w_parts = w.reshape(len(w), -1, part).astype(np.int64)
    acc = np.zeros((len(q), len(w)), np.float32)

    def dot(p: int) -> np.ndarray:
        return (q[:, p].astype(np.int64) @ w_parts[:, p].T).astype(np.float32)

    for g in range(w.shape[1]):
        if fine:
            low = (dot(2 * g) * x_scale[:, 2 * g, None]).astype(np.float32)
            high = dot(2 * g + 1)
            both = fused(high, np.broadcast_to(x_scale[:, 2 * g + 1, None], high.shape), low)
            acc = fused(both, np.broadcast_to(w_scale[:, g], acc.shape), acc)
            total = (x_sum[:, 2 * g] + x_sum[:, 2 * g + 1]).astype(np.float32)
        else:
            acc = fused(dot(g), (w_scale[None, :, g] * x_scale[:, g, None]).astype(np.float32), acc)
            total = x_sum[:, g]
        if offset is not None:
            acc = fused(np.broadcast_to(offset[:, g], acc.shape), np.broadcast_to(total[:, None], acc.shape), acc)
    return torch.from_numpy(acc)


def random_quantised(format: Format, outputs: int, inputs: int, generator: torch.Generator) -> tuple[Matrix, tuple]:
    """A matrix of every integer that the format knows, from bytes in GGUF's layout; and its integers and scales."""
    groups = inputs // GROUP
    scale = (torch.randn(outputs, groups, generator=generator) * 0.02).half()
    low, high = {Format.Q8: (-128, 128), Format.Q4_0: (0, 16), Format.Q4_1: (0, 16)}[format]
    q = torch.randint(low, high, (outputs, groups, GROUP), generator=generator)
    offset = torch.randn(outputs, groups, generator=generator).half() if format is Format.Q4_1 else None
    if format is Format.Q8:
        body = q.to(torch.int8).view(torch.uint8)
    else:
        body = (q[..., :16] | q[..., 16:] << 4).to(torch.uint8)
    halves = [scale] if offset is None else [scale, offset]
    raw = torch.cat([*(half[..., None].view(torch.uint8) for half in halves), body], -1).flatten().contiguous()
    kind = {Format.Q8: "Q8_0", Format.Q4_0: "Q4_0", Format.Q4_1: "Q4_1"}[format]
    integers = (q - (8 if format is Format.Q4_0 else 0)).numpy()
    parts = (integers, scale.float().numpy(), None if offset is None else offset.float().numpy())
    return Matrix.from_gguf(raw, kind, (outputs, inputs)), parts

"""The native kernels one operation at a time, under autograd: the trainer's forward.

Each operation runs the very kernel that the engine's plan runs, so a log-probability has the same bits in both. The
gradient is that of the operation's PyTorch form (ops.py), at the same inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from millet.kernels.batch import Batch
from millet.kernels.block_cache import BLOCK_SIZE, BlockCache
from millet.kernels.draw import log_probabilities
from millet.kernels.native import abi
from millet.kernels.paged import Span
from millet.kernels.plan import attend
from millet.kernels.record import Step, to_native
from millet.kernels.segments import SegmentAttention
from millet.kernels.threads import native_threads


@dataclass(frozen=True, eq=False)
class Native:
    """A tensor [T, width] or [T, heads, width] whose operations the native kernels compute."""

    recorder: Eager
    tensor: Tensor
    sampled: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape[1:])

    @property
    def group_stride(self) -> int:
        return self.tensor.stride(1) if self.tensor.dim() == 3 else self.tensor.shape[1]

    def flatten(self, start: int) -> Native:
        return Native(self.recorder, self.tensor.flatten(start))

    def unflatten(self, dim: int, sizes: tuple[int, int]) -> Native:
        return Native(self.recorder, self.tensor.unflatten(dim, sizes))

    def split(self, widths: Sequence[int], dim: int) -> tuple[Native, ...]:
        return tuple(Native(self.recorder, part) for part in self.tensor.split(list(widths), dim))

    def head(self, index: int) -> Native:
        return Native(self.recorder, self.tensor[:, index])

    def __getitem__(self, key: tuple[slice, None]) -> Native:
        return Native(self.recorder, self.tensor[key])

    def __add__(self, other: Native) -> Native:
        return Native(self.recorder, self.tensor + other.tensor)  # the same bits, and autograd keeps neither


class Eager:
    """Segments laid end to end, as for `SegmentAttention`: `lengths[i]` rows belong to segment i, which continues
    `parents[i]`, or nothing where that is None. A parent fills its last cache block: its length is a multiple of
    BLOCK_SIZE. Without parents every segment is a whole sequence."""

    together = False

    def __init__(self, ids_T: Tensor, lengths: Sequence[int], parents: Sequence[int | None] | None = None) -> None:
        self.lengths = list(lengths)
        self.parents = [None] * len(self.lengths) if parents is None else list(parents)
        ends = [0, *accumulate(-(-n // BLOCK_SIZE) for n in lengths)]
        blocks = [list(range(*pair)) for pair in pairwise(ends)]
        spans: list[Span] = []
        for own, n, parent in zip(blocks, self.lengths, self.parents, strict=True):
            before = [] if parent is None else spans[parent].block_table
            assert parent is None or spans[parent].context == len(before) * BLOCK_SIZE
            spans.append(Span(len(before) * BLOCK_SIZE, n, [*before, *own]))
        self.rows = len(ids_T)
        self.num_blocks = ends[-1]
        self._batch = Batch.of(ids_T.tolist(), spans, range(self.rows), native_threads())
        self.ids = Native(self, ids_T)
        self.positions = Native(self, torch.cat([torch.arange(span.start, span.context) for span in spans]))

    def new(self, *sizes: int, like: Native | None = None) -> Native:
        rows = self.rows if like is None else like.tensor.shape[0]
        return Native(self, torch.empty(rows, *sizes))

    def emit(self, step: Step, cache: BlockCache | None = None) -> None:
        op, keep = to_native(step, _place)
        if cache is not None:
            cache.attach(op, 0)
        rows = next(rows for rows in step.writes()).tensor.shape[0]
        raw = self._batch.raw
        if rows != self.rows:  # the head over a few rows: nothing that depends on sequences
            raw = abi.Batch(rows, 0, rows, raw.num_threads)
        if abi.functions().millet_run(op, 1, raw, None):
            raise MemoryError
        del keep

    def apply(
        self,
        build: Callable[..., Any],
        rows: Sequence[Native],
        parameters: Sequence[Tensor],
        reference: Callable[..., Any],
    ) -> Any:
        tensors = (*(x.tensor for x in rows), *parameters)
        out = _Differentiable.apply(self, build, reference, len(rows), *tensors)
        return tuple(Native(self, each) for each in out) if isinstance(out, tuple) else Native(self, out)


class EagerAttention:
    """The `Attention` of such a forward. The cache lives for one call, and has the precision of the engine's."""

    absorbed = True

    def __init__(self, eager: Eager, dtype: torch.dtype) -> None:
        self.eager = eager
        self.positions_T = eager.positions
        self.dtype = dtype

    def attend(self, layer: int, q: Native, k: Native, v: Native | None, *, scale: float, value_width: int) -> Native:
        eager = self.eager

        def build(*rows: Native) -> Native:
            k = rows[1]
            cache = BlockCache(
                layers=1,
                kv_heads=k.sizes[0],
                key_width=k.sizes[1],
                value_width=value_width,
                value_in_key=len(rows) == 2,
                num_blocks=eager.num_blocks,
                dtype=self.dtype,
            )
            into = _WithCache(eager, cache)
            parts = [Native(into, x.tensor.contiguous()) for x in rows]  # type: ignore[arg-type]
            return attend(0, parts[0], parts[1], parts[2] if len(parts) == 3 else None, scale, value_width)

        def reference(q: Tensor, k: Tensor, *v: Tensor) -> Tensor:
            segments = SegmentAttention(eager.lengths, eager.parents)
            return segments.attend(0, q, k, v[0] if v else None, scale=scale, value_width=value_width)

        return eager.apply(build, (q, k) if v is None else (q, k, v), (), reference)


@dataclass
class _WithCache:
    """The recorder of one attention."""

    eager: Eager
    cache: BlockCache

    def new(self, *sizes: int, like: Native | None = None) -> Native:
        return self.eager.new(*sizes, like=like)

    def emit(self, step: Step) -> None:
        self.eager.emit(step, self.cache)


def target_logprobs(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Log-probability of each row's target, in the bits of the engine's own. fp32 [N]"""
    out_N: Tensor = _TargetLogprobs.apply(logits_NV, targets_N)
    return out_N


class _TargetLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        ctx.save_for_backward(logits_NV, targets_N)
        return torch.tensor(log_probabilities(logits_NV.detach(), targets_N.tolist()))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        logits_NV, targets_N = ctx.saved_tensors
        grad_NV = logits_NV.softmax(-1).mul_(-grads[0][:, None])
        grad_NV.scatter_add_(1, targets_N[:, None], grads[0][:, None])
        return grad_NV, None


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, eager: Eager, build: Any, reference: Any, rows: int, *tensors: Tensor) -> Any:
        ctx.reference = reference
        ctx.save_for_backward(*tensors)
        out = build(*(Native(eager, t.detach()) for t in tensors[:rows]))
        return tuple(each.tensor for each in out) if isinstance(out, tuple) else out.tensor

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        wanted = ctx.needs_input_grad[4:]
        with torch.enable_grad():
            inputs = [t.detach().requires_grad_(w) for t, w in zip(ctx.saved_tensors, wanted, strict=True)]
            out = ctx.reference(*inputs)
            differentiated = [t for t in inputs if t.requires_grad]
            # An expert that no row chose has no part in the result, and None for a gradient.
            found = iter(torch.autograd.grad(out, differentiated, grads, allow_unused=True))
        return (None, None, None, None, *(next(found) if w else None for w in wanted))


def _place(rows: Native) -> abi.Rows:
    assert rows.tensor.dtype == torch.float32
    assert rows.tensor.stride(-1) == 1
    return abi.Rows(rows.tensor.data_ptr(), rows.tensor.stride(0))

"""Attention over packed segments, some of which continue another: many replies to one prompt, computed with it once.

Segment i continues the segment `parents[i]`, which may continue another: its positions go on where that one ends, and
its rows see all rows that lead up to it and then, causally, their own. Nothing is padded, and nothing that a row may
not see is computed.

On a CPU each of these segments is attended to separately and the parts are merged by their softmax sums (Milakov and
Gimelshein, 2018), all that comes behind a segment together. The gradient of each part then needs only the merged result
and sum, as in the blockwise attention of Liu et al. (2023).

Shape legend: T rows, N rows of some segments, H query heads, G key/value heads, K key width, W value width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from millet.kernels.attention import causal_attention

forward_part = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
backward_part = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class _Part:
    """Rows that attend to rows: to their own, causally, or to all of a segment's before them."""

    queries: slice
    keys: slice
    causal: bool


class SegmentAttention:
    """`lengths[i]` rows belong to segment i, in order; it continues `parents[i]`, or nothing where that is None.

    All that continues a segment, directly or not, follows it before anything else does. Differentiable.
    """

    absorbed = False

    def __init__(
        self, lengths: Sequence[int], parents: Sequence[int | None], device: torch.device | str = "cpu"
    ) -> None:
        ends = list(accumulate(lengths))
        rows = [slice(end - n, end) for n, end in zip(lengths, ends, strict=True)]
        before: list[list[slice]] = []  # of each, the rows that lead up to it
        for parent in parents:
            before.append([] if parent is None else [*before[parent], rows[parent]])
        starts = [sum(each.stop - each.start for each in leading) for leading in before]
        self.positions_T = torch.cat(
            [torch.arange(s, s + n, device=device) for s, n in zip(starts, lengths, strict=True)]
        )
        self.segments = list(zip(rows, before, strict=True))
        for i in reversed(range(len(parents))):  # where the last one ends that continues it
            if (parent := parents[i]) is not None:
                ends[parent] = max(ends[parent], ends[i])
        behind = [slice(own.stop, end) for own, end in zip(rows, ends, strict=True)]
        self._parts = [_Part(own, own, causal=True) for own in rows]
        self._parts += [
            _Part(queries, keys, causal=False)
            for queries, keys in zip(behind, rows, strict=True)
            if queries.start < queries.stop
        ]

    def attend(
        self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGW: Tensor | None, *, scale: float, value_width: int
    ) -> Tensor:
        v_TGW = k_TGK[..., :value_width] if v_TGW is None else v_TGW
        if q_THK.device.type != "cpu":
            return self.plain(q_THK, k_TGK, v_TGW, scale)
        # The CPU's kernel wants values as wide as keys.
        v_TGK = v_TGW if value_width == k_TGK.shape[-1] else F.pad(v_TGW, (0, k_TGK.shape[-1] - value_width))
        out_THK: Tensor = _Attend.apply(q_THK, k_TGK, v_TGK, self._parts, scale)
        return out_THK[..., :value_width]

    def plain(self, q_THK: Tensor, k_TGK: Tensor, v_TGW: Tensor, scale: float) -> Tensor:
        """The same, segment by segment and by PyTorch's own attention."""
        outs = []
        for own, before in self.segments:
            q_NHK, k_NGK, v_NGW, mask = q_THK[own], k_TGK[own], v_TGW[own], None
            if before:
                k_NGK = torch.cat([*(k_TGK[rows] for rows in before), k_NGK])
                v_NGW = torch.cat([*(v_TGW[rows] for rows in before), v_NGW])
                n, s = len(q_NHK), len(k_NGK)
                mask = torch.full((n, s), -torch.inf, dtype=q_THK.dtype, device=q_THK.device).triu_(s - n + 1)
            outs.append(causal_attention(q_NHK, k_NGK, v_NGW, scale, mask))
        return torch.cat(outs)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, parts: list[_Part], scale: float) -> Tensor:
        out_THK = torch.empty(q_THK.shape, dtype=q_THK.dtype)
        sums_TH = torch.empty(q_THK.shape[:2], dtype=q_THK.dtype)  # logarithms of them
        for part in parts:
            q, k, v = _heads_first(q_THK[part.queries], k_TGK[part.keys], v_TGK[part.keys])
            out, sums = forward_part(q, k, v, 0.0, part.causal, scale=scale)
            out_NHK, sums_NH = out[0].transpose(0, 1), sums[0].transpose(0, 1)
            if part.causal:
                out_THK[part.queries], sums_TH[part.queries] = out_NHK, sums_NH
                continue
            known_NHK, known_NH = out_THK[part.queries], sums_TH[part.queries]
            both_NH = torch.logaddexp(known_NH, sums_NH)
            known_NHK.mul_((known_NH - both_NH).exp_()[..., None])
            known_NHK.addcmul_(out_NHK, (sums_NH - both_NH).exp_()[..., None])
            known_NH.copy_(both_NH)
        ctx.save_for_backward(q_THK, k_TGK, v_TGK, out_THK, sums_TH)
        ctx.parts, ctx.scale = parts, scale
        return out_THK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q_THK, k_TGK, v_TGK, out_THK, sums_TH = ctx.saved_tensors
        into = [torch.empty(x.shape, dtype=x.dtype) for x in (q_THK, k_TGK, v_TGK)]
        for part in ctx.parts:
            q, k, v = _heads_first(q_THK[part.queries], k_TGK[part.keys], v_TGK[part.keys])
            grad, out = _heads_first(grads[0][part.queries], out_THK[part.queries])
            sums = sums_TH[part.queries].contiguous().t()[None]
            found = backward_part(grad, q, k, v, out, sums, 0.0, part.causal, scale=ctx.scale)
            for to, rows, part_grad in zip(into, (part.queries, part.keys, part.keys), found, strict=True):
                values = part_grad[0].transpose(0, 1)
                if part.causal:  # each row's own comes first
                    to[rows] = values
                else:
                    to[rows] += values
        return *into, None, None


def _heads_first(*tensors_NHK: Tensor) -> list[Tensor]:
    return [x_NHK.transpose(0, 1)[None] for x_NHK in tensors_NHK]

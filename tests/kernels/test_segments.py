"""Attention over segments against PyTorch's own over each sequence as it would be without sharing."""

import pytest
import torch
from torch import Tensor

from millet.kernels.attention import PackedAttention
from millet.kernels.segments import SegmentAttention

LENGTHS, PARENTS = [3, 7, 5, 1, 9, 2, 6, 4, 2], [None, None, 1, 1, 3, 4, 3, None, 7]
WHOLE = [[0], [1, 2], [1, 3, 4, 5], [1, 3, 6], [7, 8]]  # sequences, by their segments


@pytest.mark.parametrize(("kv_heads", "width"), [(4, 16), (2, 16), (1, 6)], ids=["heads", "groups", "narrow values"])
def test_shared_segments_are_as_if_each_sequence_had_its_own(seed: int, kv_heads: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    heads = [(4, 16), (kv_heads, 16), (kv_heads, width)]
    q, k, v = (torch.randn(sum(LENGTHS), *s, generator=generator, dtype=torch.float64).requires_grad_() for s in heads)
    attention = SegmentAttention(LENGTHS, PARENTS)
    starts = torch.tensor([0, *LENGTHS]).cumsum(0).tolist()
    rows = [torch.cat([torch.arange(starts[s], starts[s + 1]) for s in segments]) for segments in WHOLE]
    assert [attention.positions_T[r].tolist() for r in rows] == [list(range(len(r))) for r in rows]

    def unshared(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        all_rows = torch.cat(rows)
        packed = PackedAttention([len(r) for r in rows])
        out = packed.attend(0, q[all_rows], k[all_rows], v[all_rows], scale=0.3, value_width=width)
        first = [all_rows.tolist().index(row) for row in range(sum(LENGTHS))]
        return out[first]

    weights = torch.randn(sum(LENGTHS), 4, width, generator=generator, dtype=torch.float64)
    expected = unshared(q, k, v)
    for out in (
        attention.attend(0, q, k, v, scale=0.3, value_width=width),
        attention.plain(q, k, v, 0.3),
    ):
        torch.testing.assert_close(out, expected)
        theirs = torch.autograd.grad(expected, (q, k, v), weights, retain_graph=True)
        for mine, other in zip(torch.autograd.grad(out, (q, k, v), weights), theirs, strict=True):
            torch.testing.assert_close(mine, other)

"""Attention over packed tokens: the one operation through which a model sees other positions.

A model's forward runs over T tokens of several sequences laid end to end ("packed", no padding) and hands its queries,
keys and values to an `Attention`, which knows which row belongs to which sequence and where earlier keys are kept:

- `PackedAttention`: every sequence is whole in the batch, nothing is cached. Differentiable; the trainer's forward.
- `PagedAttention` (paged.py): rows are the newest tokens of their sequences; older keys and values lie in cache blocks.

Multi-head latent attention uses the same call. Naive: expanded keys and values. Absorbed: one key/value head whose key
is [latent; rope key] and whose value is the first `value_width` entries of that same key, so `v` is None.

Shape legend: T tokens in the batch, H query heads, G key/value heads, K key width, W value width, S context length.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Attention(Protocol):
    positions_T: Tensor
    """Position of each row in its own sequence, int64."""

    absorbed: bool
    """True where latent attention should use its absorbed form (a latent cache is behind it)."""

    def attend(
        self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGW: Tensor | None, *, scale: float, value_width: int
    ) -> Tensor:
        """Causal attention of every row over its own sequence. Returns [T, H, W].

        `layer` names the cache layer. `v_TGW` None means the value is `k_TGK[..., :value_width]`.
        """
        ...


class PackedAttention:
    """Whole sequences, no cache: `lengths[i]` rows belong to sequence i, in order."""

    absorbed = False

    def __init__(self, lengths: list[int], device: torch.device | str = "cpu") -> None:
        self.lengths = lengths
        self.positions_T = torch.cat([torch.arange(n, device=device) for n in lengths])

    def attend(
        self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGW: Tensor | None, *, scale: float, value_width: int
    ) -> Tensor:
        v_TGW = k_TGK[..., :value_width] if v_TGW is None else v_TGW
        outs, start = [], 0
        for n in self.lengths:
            rows = slice(start, start + n)
            outs.append(causal_attention(q_THK[rows], k_TGK[rows], v_TGW[rows], scale))
            start += n
        return torch.cat(outs)


def causal_attention(
    q_NHK: Tensor, k_SGK: Tensor, v_SGW: Tensor, scale: float, mask_NS: Tensor | None = None
) -> Tensor:
    """One sequence: the N queries are its last N of S positions. Returns [N, H, W].

    `mask_NS` (added to the scores) is needed only when 1 < N < S: a square is plainly causal, a lone row sees all.
    """
    n, s = q_NHK.shape[0], k_SGK.shape[0]
    out_1HNW = F.scaled_dot_product_attention(
        q_NHK.transpose(0, 1)[None],
        k_SGK.transpose(0, 1)[None],
        v_SGW.transpose(0, 1)[None],
        attn_mask=mask_NS,
        is_causal=n == s and n > 1,
        scale=scale,
        enable_gqa=q_NHK.shape[1] != k_SGK.shape[1],
    )
    return out_1HNW[0].transpose(0, 1)

"""Paged attention: keys and values live in fixed-size blocks, so sequences grow, share and leave without copying.

The cache is allocated once. Slot `block * block_size + offset` holds one position of one sequence; a sequence's block
table lists its blocks in order. Grouped-query models keep keys and values; latent attention keeps one row per position
(latent and rope key) whose first `value_width` entries are also the value.

Shape legend: T rows in the batch, B sequences, H query heads, G key/value heads, K key width, W value width, S context.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from millet.kernels.attention import causal_attention


class PagedCache:
    """Keys [layers, slots, G, K] and values [layers, slots, G, W] for `num_blocks` blocks.

    On the CPU the memory is reserved zeroed but untouched, so the operating system commits a page when it is first
    written. Zeros matter: padding rows of a batch read slots nobody wrote, and uninitialised memory could hold NaN.
    """

    def __init__(
        self,
        *,
        layers: int,
        kv_heads: int,
        key_width: int,
        value_width: int,
        value_in_key: bool,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        slots = num_blocks * block_size
        self.keys = zeros((layers, slots, kv_heads, key_width), dtype, device)
        self.values = None if value_in_key else zeros((layers, slots, kv_heads, value_width), dtype, device)

    def copy_block(self, source: int, target: int) -> None:
        """Copy one block in every layer (a fork's partly filled last block)."""
        size = self.block_size
        for store in (self.keys, self.values):
            if store is not None:
                store[:, target * size : (target + 1) * size] = store[:, source * size : (source + 1) * size]


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # Not numpy's zeros: it asks for huge pages, and one token would then commit megabytes in every layer.
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=torch.uint8).view(dtype).view(shape)


@dataclass(frozen=True, slots=True)
class Span:
    """`length` rows of the batch: the positions start .. start + length - 1 of one sequence with this block table."""

    start: int
    length: int
    block_table: list[int]

    @property
    def context(self) -> int:
        """Number of positions the last row sees, itself included."""
        return self.start + self.length


class PagedAttention:
    """Attention of one step. Rows are the spans' rows, in order; each layer first stores its new keys and values.

    Sequences with a single row (decode) are computed together, padded to the longest of their group; groups hold
    sequences of similar length, so that one long conversation does not make all the others pay for its padding.
    """

    def __init__(self, cache: PagedCache, spans: list[Span]) -> None:
        self.cache = cache
        device, size = cache.keys.device, cache.block_size
        self.absorbed = cache.values is None
        positions, slots = [], []
        for span in spans:
            for position in range(span.start, span.context):
                positions.append(position)
                slots.append(span.block_table[position // size] * size + position % size)
        self.positions_T = torch.tensor(positions, dtype=torch.int64, device=device)
        self.slots_T = torch.tensor(slots, dtype=torch.int64, device=device)
        self.groups: list[_Chunk | _DecodeGroup] = []
        decodes: dict[int, list[tuple[int, Span]]] = {}
        row = 0
        for span in spans:
            if span.length == 1:
                decodes.setdefault((span.context // size).bit_length(), []).append((row, span))
            else:
                self.groups.append(_Chunk(row, span, cache))
            row += span.length
        self.groups += [
            _Chunk(*group[0], cache) if len(group) == 1 else _DecodeGroup(group, cache) for group in decodes.values()
        ]

    def attend(
        self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGW: Tensor | None, *, scale: float, value_width: int
    ) -> Tensor:
        """See `millet.kernels.attention.Attention`."""
        keys, values = self.cache.keys[layer], self.cache.values
        keys.index_copy_(0, self.slots_T, k_TGK.to(keys.dtype))
        if values is not None and v_TGW is not None:
            values[layer].index_copy_(0, self.slots_T, v_TGW.to(values.dtype))
        stored_values = keys[..., :value_width] if values is None else values[layer]
        if len(self.groups) == 1:
            return self.groups[0].attend(q_THK, keys, stored_values, scale)
        out_THW = q_THK.new_empty(q_THK.shape[0], q_THK.shape[1], value_width)
        for group in self.groups:
            out_THW[group.rows] = group.attend(q_THK[group.rows], keys, stored_values, scale)
        return out_THW


class _Chunk:
    """One sequence: a prefill chunk, drafted rows, or a lone decode row."""

    def __init__(self, row: int, span: Span, cache: PagedCache) -> None:
        size, device = cache.block_size, cache.keys.device
        self.rows = slice(row, row + span.length)
        self.context = span.context
        table = span.block_table[: -(-span.context // size)]
        # Consecutive blocks (the usual case for a lone sequence) are read in place, without a copy.
        self.start = table[0] * size if all(b == a + 1 for a, b in pairwise(table)) else None
        if self.start is None:
            blocks = torch.tensor(table, dtype=torch.int64, device=device)
            offsets = torch.arange(size, device=device)
            self.slots = (blocks[:, None] * size + offsets).flatten()[: span.context]
        self.mask = None
        if 1 < span.length < span.context:
            seen = torch.ones(span.length, span.context, dtype=torch.bool, device=device)
            seen = seen.tril(diagonal=span.context - span.length)
            self.mask = torch.zeros(seen.shape, dtype=cache.keys.dtype, device=device).masked_fill_(~seen, -torch.inf)

    def attend(self, q_NHK: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        return causal_attention(q_NHK, self._read(keys), self._read(values), scale, self.mask)

    def _read(self, store: Tensor) -> Tensor:
        if self.start is None:
            return store.index_select(0, self.slots)
        return store[self.start : self.start + self.context]


class _DecodeGroup:
    """Several sequences with one row each, padded to the longest."""

    def __init__(self, group: list[tuple[int, Span]], cache: PagedCache) -> None:
        device, self.size = cache.keys.device, cache.block_size
        self.rows = torch.tensor([row for row, _ in group], dtype=torch.int64, device=device)
        contexts = torch.tensor([span.context for _, span in group], device=device)
        width = max(-(-span.context // self.size) for _, span in group)
        tables = [(span.block_table[:width] + [0] * width)[:width] for _, span in group]
        self.blocks = torch.tensor(tables, dtype=torch.int64, device=device).flatten()
        unseen = torch.arange(width * self.size, device=device) >= contexts[:, None]
        mask_BS = torch.zeros(unseen.shape, dtype=cache.keys.dtype, device=device).masked_fill_(unseen, -torch.inf)
        self.mask_B11S = mask_BS[:, None, None, :]

    def attend(self, q_BHK: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        k_BGSK = self._read(keys)
        in_key = values.data_ptr() == keys.data_ptr()
        v_BGSW = k_BGSK[..., : values.shape[-1]] if in_key else self._read(values)
        gqa = q_BHK.shape[1] != keys.shape[1]
        out_BH1W = F.scaled_dot_product_attention(
            q_BHK[:, :, None], k_BGSK, v_BGSW, attn_mask=self.mask_B11S, scale=scale, enable_gqa=gqa
        )
        return out_BH1W[:, :, 0]

    def _read(self, store: Tensor) -> Tensor:
        slots, g, width = store.shape
        blocks = store.view(slots // self.size, self.size * g * width).index_select(0, self.blocks)
        return blocks.view(self.mask_B11S.shape[0], -1, g, width).transpose(1, 2)

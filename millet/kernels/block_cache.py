"""The paged cache in the layout of the native attention: keys of a block with their 16 positions side by side.

Per layer and block: keys [G, K, 16]; values [G, 16, W], or none where the value is part of the key. fp32 or fp16.

Shape legend: G key/value heads, K key width, W value width.
"""

from __future__ import annotations

import torch

from millet.kernels.native.abi import Code, Op
from millet.kernels.paged import zeros

BLOCK_SIZE = 16  # positions; what native/src/attention.h calls BLOCK


class BlockCache:
    def __init__(
        self,
        *,
        layers: int,
        kv_heads: int,
        key_width: int,
        value_width: int,
        value_in_key: bool,
        num_blocks: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = BLOCK_SIZE
        key, value = kv_heads * key_width * BLOCK_SIZE, kv_heads * value_width * BLOCK_SIZE
        self.keys = zeros((layers, num_blocks, key), dtype, "cpu")
        self.values = None if value_in_key else zeros((layers, num_blocks, value), dtype, "cpu")

    def copy_block(self, source: int, target: int) -> None:
        """Copy one block in every layer (a fork's partly filled last block)."""
        for store in (self.keys, self.values):
            if store is not None:
                store[:, target] = store[:, source]

    def attach(self, op: Op, layer: int) -> None:
        """Point an ATTEND at one layer of this cache."""
        op.weight[0] = self.keys[layer].data_ptr()
        op.n[4] = int(self.keys.dtype == torch.float16)
        op.n[5] = self.keys.stride(1) * self.keys.itemsize
        if self.values is not None:
            op.weight[1] = self.values[layer].data_ptr()
            op.n[6] = self.values.stride(1) * self.values.itemsize
        assert op.code == Code.ATTEND

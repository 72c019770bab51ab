"""Which cache blocks belong to whom: allocation, sharing by reference count, and the prefix cache.

A full block is remembered under (its parent in the chain, its tokens). The parent is named by a serial number that is
never used twice, so a key stands for one whole prefix and two prefixes can never be taken for each other. A block that
nobody holds stays in the cache until its memory is needed, least recently released first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

ROOT = 0  # the serial number of the empty prefix


class BlockPool:
    """Accounting for `num_blocks` blocks of `block_size` positions. Holds no tensors."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._references = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict((block, None) for block in range(num_blocks))
        self._index: dict[tuple[int, tuple[int, ...]], tuple[int, int]] = {}  # key -> (serial, block)
        self._key_of: dict[int, tuple[int, tuple[int, ...]]] = {}  # block -> key
        self._next_serial = ROOT + 1

    @property
    def num_free(self) -> int:
        """Blocks nobody holds, those with remembered prefixes included."""
        return len(self._free)

    def allocate(self) -> int:
        """Take a free block, forgetting whatever prefix it held. KeyError when none is free."""
        block, _ = self._free.popitem(last=False)
        key = self._key_of.pop(block, None)
        if key is not None:
            del self._index[key]
        self._references[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more holder for a block that is held or remembered."""
        if self._references[block] == 0:
            del self._free[block]
        self._references[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One holder less for each, tails first: a prefix is forgotten from its end, never from its middle."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free[block] = None
                if block not in self._key_of:
                    self._free.move_to_end(block, last=False)  # nothing to remember: reuse first

    def match(self, token_ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """The longest remembered prefix of `token_ids` in whole blocks, as (blocks, serials). Takes a hold on each."""
        size, parent = self.block_size, ROOT
        blocks: list[int] = []
        serials: list[int] = []
        for start in range(0, len(token_ids) - size + 1, size):
            found = self._index.get((parent, tuple(token_ids[start : start + size])))
            if found is None:
                break
            parent, block = found
            self.share(block)
            blocks.append(block)
            serials.append(parent)
        return blocks, serials

    def remember(self, block: int, parent: int, tokens: tuple[int, ...]) -> int:
        """Enter a full, computed block under its prefix; returns the prefix's serial number.

        Where the prefix is remembered already (two sequences computed it at once), the older block stays.
        """
        key = (parent, tokens)
        found = self._index.get(key)
        if found is not None:
            return found[0]
        serial, self._next_serial = self._next_serial, self._next_serial + 1
        self._index[key] = (serial, block)
        self._key_of[block] = key
        return serial

    def holders(self, block: int) -> int:
        return self._references[block]

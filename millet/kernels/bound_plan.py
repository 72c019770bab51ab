"""A plan with memory: every slot has its place, every op its addresses, and the cache is known."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from millet.errors import OutOfMemory
from millet.kernels.batch import Batch
from millet.kernels.block_cache import BlockCache
from millet.kernels.native import abi
from millet.kernels.native.abi import Code
from millet.kernels.paged import Span, zeros
from millet.kernels.plan import Plan, Slot, Symbol
from millet.kernels.record import to_native
from millet.kernels.threads import native_threads

LINE = 16  # numbers in a cache line

# Operations on each row by itself. Threads run on from one into the next without waiting for each other, each with its
# own rows (`follows_freely` in native/src/variant.cpp).
BY_ROWS = {code for code in Code if code not in (Code.PRODUCTS, Code.ATTEND, Code.EXPERTS, Code.PICK)}


class BoundPlan:
    """Runs a plan over at most `max_rows` rows of which at most `max_sampled` are sampled from.

    Results stay in place until the next run. Not for several threads at once.
    """

    def __init__(self, plan: Plan, cache: BlockCache, *, max_rows: int, max_sampled: int) -> None:
        self.plan = plan
        self.max_rows, self.max_sampled = max_rows, max_sampled
        self._cache = cache
        self._limits = {False: max_rows, True: max_sampled}
        places, size = _layout(plan, self._limits)
        self._places = places
        self._arena = zeros((size,), torch.float32, "cpu")  # untouched memory costs nothing
        self._keep: list[Any] = []
        raw = [self._bind(step) for step in plan.steps]
        self._ops = (abi.Op * len(raw))(*raw)
        self.seconds = (ctypes.c_double * len(raw))()
        self.profiling = False

    def run(self, ids: Sequence[int], spans: Sequence[Span], sampled: Sequence[int], **inputs: Tensor) -> None:
        """One native call. `inputs` are copied in, one row of each per row of the batch."""
        for name, value in inputs.items():
            self._rows(self.plan.inputs[name], len(value)).copy_(value)
        batch = Batch.of(ids, spans, sampled, native_threads())
        seconds = ctypes.addressof(self.seconds) if self.profiling else None
        if abi.functions().millet_run(self._ops, len(self._ops), batch.raw, seconds):
            raise OutOfMemory("no memory is left for one step of the engine; close other programs, or lower its chunk")

    def forget_profile(self) -> None:
        ctypes.memset(self.seconds, 0, ctypes.sizeof(self.seconds))

    def profile(self) -> dict[str, float]:
        """Seconds by kind of operation since profiling began, the costliest first."""
        found: dict[str, float] = {}
        for step, seconds in zip(self.plan.steps, self.seconds, strict=True):
            found[step.label] = found.get(step.label, 0.0) + seconds
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def output(self, name: str, rows: int) -> Tensor:
        """The first rows of an output, in place. [rows, width]"""
        return self._rows(self.plan.outputs[name], rows)

    def _rows(self, symbol: Symbol, rows: int) -> Tensor:
        start, width = self._places[symbol.slot], _padded(symbol.slot)
        block = self._arena[start : start + self._limits[symbol.sampled] * width].view(-1, width)
        return block[:rows, symbol.offset : symbol.offset + symbol.sizes[0]]

    def _place(self, symbol: Symbol) -> abi.Rows:
        start = self._places[symbol.slot] + symbol.offset
        return abi.Rows(self._arena.data_ptr() + 4 * start, _padded(symbol.slot))

    def _bind(self, step: Any) -> abi.Op:
        op, keep = to_native(step, self._place)
        if op.code == Code.ATTEND:
            self._cache.attach(op, step.layer)
        self._keep.append(keep)
        return op


def _padded(slot: Slot) -> int:
    return -(-slot.width // LINE) * LINE


def _layout(plan: Plan, limits: dict[bool, int]) -> tuple[dict[Slot, int], int]:
    """Where each slot begins, and how many numbers there are in all. Slots that do not live at once share memory.

    Steps between which no thread waits count as one: a thread may be writing what the last of them makes of its rows
    while another still reads what the first of them needs for others.
    """
    codes = [step.code for step in plan.steps]
    waits = [0, *(not {before, after} <= BY_ROWS for before, after in pairwise(codes))][: len(codes)]
    turns = [-1, *accumulate(waits), len(codes)]  # of the steps -1, 0, 1, ...
    places: dict[Slot, int] = {}
    taken: list[tuple[int, int, int, int]] = []  # place, end, first turn, last turn
    for slot, start, stop in sorted(plan.lifetimes(), key=lambda life: -_padded(life[0]) * limits[life[0].sampled]):
        first, last = turns[start + 1], turns[stop + 1]
        size = _padded(slot) * limits[slot.sampled]
        rivals = sorted((a, b) for a, b, begin, end in taken if begin <= last and first <= end)
        place = 0
        for begin, end in rivals:
            if begin >= place + size:
                break
            place = max(place, end)
        places[slot] = place
        taken.append((place, place + size, first, last))
    return places, max((end for _, end, _, _ in taken), default=0)

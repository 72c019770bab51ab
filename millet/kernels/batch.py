"""The rows of one native call: which tokens of which sequences, and where their cache blocks are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from millet.kernels.native import abi
from millet.kernels.paged import Span


@dataclass(frozen=True)
class Batch:
    """`raw` is what the kernels are given; `keep` what it points into."""

    raw: abi.Batch
    keep: tuple[Any, ...]

    @classmethod
    def of(cls, ids: Sequence[int], spans: Sequence[Span], sampled: Sequence[int], threads: int) -> Batch:
        ids_T = np.asarray(ids, dtype=np.int32)
        positions_T = np.concatenate([np.arange(s.start, s.context, dtype=np.int32) for s in spans])
        table = np.asarray([block for span in spans for block in span.block_table], dtype=np.int32)
        raw_spans = (abi.Span * len(spans))()
        row = begin = 0
        for raw, span in zip(raw_spans, spans, strict=True):
            raw.row, raw.length, raw.start, raw.table = row, span.length, span.start, begin
            row += span.length
            begin += len(span.block_table)
        sampled_N = np.asarray(sampled, dtype=np.int32)
        arrays = (ids_T, positions_T, table, sampled_N)
        at = [array.ctypes.data for array in arrays]
        batch = abi.Batch(row, len(spans), len(sampled_N), threads, at[0], at[1], None, at[2], at[3])
        batch.spans = abi.address(raw_spans)
        return cls(batch, (*arrays, raw_spans))

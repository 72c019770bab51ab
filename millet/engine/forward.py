"""How a step is computed: by PyTorch's operations, or in one call of the native kernels.

Both take the rows of a step and give hidden states and the logits that are wanted; the runner cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids
from typing import Any, Protocol

import torch
from torch import Tensor

from millet.kernels.block_cache import BlockCache
from millet.kernels.bound_plan import BoundPlan
from millet.kernels.paged import PagedAttention, PagedCache, Span


class Network(Protocol):
    """What a step needs of a model: packed rows in, hidden states and logits out."""

    @property
    def mtp(self) -> Ids[Any]: ...
    def __call__(self, ids_T: Any, attention: Any) -> Any: ...
    def head(self, hidden_ND: Any) -> Any: ...


class Forward(Protocol):
    """`step` returns hidden states [T, D] of all rows and fp32 logits [N, V] of `wanted` ones. `draft` runs the first
    MTP module over rows of the last step's hidden states; it returns logits of `wanted` of these. Results may be
    overwritten by the next call."""

    has_mtp: bool

    @property
    def cache(self) -> PagedCache | BlockCache: ...

    def step(self, ids: list[int], spans: list[Span], wanted: list[int]) -> tuple[Tensor, Tensor]: ...
    def draft(self, next_ids: list[int], hidden_ND: Tensor, spans: list[Span], wanted: list[int]) -> Tensor: ...


class TorchForward:
    def __init__(self, network: Network, cache: PagedCache) -> None:
        self.network = network
        self.cache = cache
        self.has_mtp = len(network.mtp) > 0

    def step(self, ids: list[int], spans: list[Span], wanted: list[int]) -> tuple[Tensor, Tensor]:
        hidden_TD = self.network(self._ids(ids), PagedAttention(self.cache, spans))
        return hidden_TD, self.network.head(hidden_TD[wanted]) if wanted else hidden_TD[:0]

    def draft(self, next_ids: list[int], hidden_ND: Tensor, spans: list[Span], wanted: list[int]) -> Tensor:
        module = self.network.mtp[0]
        hidden_ND = module(self._ids(next_ids), hidden_ND, PagedAttention(self.cache, spans))
        logits_NV: Tensor = module.head(hidden_ND[wanted])
        return logits_NV

    def _ids(self, ids: list[int]) -> Tensor:
        return torch.tensor(ids, dtype=torch.int64, device=self.cache.keys.device)


class NativeForward:
    """`network` is a `millet.models.network.Network`, packed; at most `max_rows` rows a step."""

    def __init__(self, network: Any, cache: BlockCache, max_rows: int) -> None:
        self.cache = cache
        self.has_mtp = len(network.mtp) > 0
        self.main = BoundPlan(network.plan(), cache, max_rows=max_rows, max_sampled=max_rows)
        self.mtp = (
            BoundPlan(network.mtp_plan(0), cache, max_rows=max_rows, max_sampled=max_rows) if self.has_mtp else None
        )

    def step(self, ids: list[int], spans: list[Span], wanted: list[int]) -> tuple[Tensor, Tensor]:
        self.main.run(ids, spans, wanted)
        return self.main.output("hidden", len(ids)), self.main.output("logits", len(wanted))

    def draft(self, next_ids: list[int], hidden_ND: Tensor, spans: list[Span], wanted: list[int]) -> Tensor:
        assert self.mtp is not None
        self.mtp.run(next_ids, spans, wanted, hidden=hidden_ND)
        return self.mtp.output("logits", len(wanted))

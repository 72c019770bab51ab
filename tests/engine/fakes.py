"""A model small enough to predict by hand, which reads its whole context through the real paged attention."""

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from millet.engine.forward import TorchForward
from millet.engine.sampler import sample
from millet.engine.sampling import Sampling
from millet.engine.sequence import Sequence
from millet.kernels.attention import Attention
from millet.kernels.paged import PagedCache

VOCAB = 23
STATES = 97


def weight(token: int, position: int) -> int:
    """What a token contributes; depends on its position, so a swapped block is noticed. The first counts nothing."""
    return (token * 31 + position * 17 + 7) % 61 if position else 0


class FakeNetwork:
    """Next-token logits are a fixed random row chosen by the sum of `weight` over the context.

    The query is zero, so attention returns the mean of the stored values; times the context length, that is the sum.
    A block that is leaked, shared wrongly or stale changes the sum, and with it the text.
    """

    def __init__(self, seed: int, mtp: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.logits_SV = torch.randn(STATES, VOCAB, generator=generator) * 2
        self.mtp = [PerfectMTP(self)] if mtp else []
        self.calls = 0
        self.rows_seen: list[int] = []

    def __call__(self, ids_T: Tensor, attention: Attention) -> Tensor:
        self.calls += 1
        self.rows_seen.append(len(ids_T))
        positions = attention.positions_T.tolist()
        values = [float(weight(t, p)) for t, p in zip(ids_T.tolist(), positions, strict=True)]
        v_T11 = torch.tensor(values)[:, None, None]
        zeros_T11 = torch.zeros_like(v_T11)
        mean_T11 = attention.attend(0, zeros_T11, zeros_T11, v_T11, scale=1.0, value_width=1)
        total_T = (mean_T11[:, 0, 0] * (attention.positions_T + 1)).round().long()
        return (total_T % STATES).float()[:, None]

    def pack(self) -> None:
        """There is nothing to pack."""

    def head(self, hidden_ND: Tensor) -> Tensor:
        return self.logits_SV[hidden_ND[:, 0].long()]

    def expected(self, prompt: list[int], sampling: Sampling, index: int, seed: int, length: int) -> Sequence:
        """The same sample, token by token, without cache, batch, chunks or guesses."""
        sequence = Sequence(prompt, sampling, index=index, max_length=length)
        sequence.seed = seed
        while sequence.finish_reason is None:
            total = sum(weight(t, p) for p, t in enumerate(sequence.token_ids))
            sampled = sample(self.logits_SV[[total % STATES]], [sequence])
            if sampled.logprobs:
                sequence.logprobs += sampled.logprobs
            sequence.append(sampled.token_ids[0])
        return sequence


class PerfectMTP:
    """Knows what the network will say next: its cache layer holds the same sum, one token ahead.

    Any slip in its rows, positions or tokens makes its guesses wrong, and acceptance falls.
    """

    def __init__(self, network: FakeNetwork) -> None:
        self.network = network

    def __call__(self, next_ids_T: Tensor, hidden_TD: Tensor, attention: Attention) -> Tensor:
        positions = (attention.positions_T + 1).tolist()
        values = [float(weight(t, p)) for t, p in zip(next_ids_T.tolist(), positions, strict=True)]
        v_T11 = torch.tensor(values)[:, None, None]
        zeros_T11 = torch.zeros_like(v_T11)
        mean_T11 = attention.attend(1, zeros_T11, zeros_T11, v_T11, scale=1.0, value_width=1)
        return (mean_T11[:, 0, 0] * (attention.positions_T + 1)).round()[:, None] % STATES

    def head(self, hidden_ND: Tensor) -> Tensor:
        return self.network.head(hidden_ND)


def fake_forward(network: FakeNetwork, num_blocks: int, block_size: int) -> TorchForward:
    cache = PagedCache(
        layers=2,
        kv_heads=1,
        key_width=1,
        value_width=1,
        value_in_key=False,
        num_blocks=num_blocks,
        block_size=block_size,
    )
    return TorchForward(network, cache)


@dataclass
class FakeConfig:
    """As much of a model's configuration as the engine reads."""

    vocab_size: int = VOCAB
    max_position_embeddings: int = 200
    mtp_layers: int = 0
    cache: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(layers=1, kv_heads=1, key_width=1, value_width=1, value_in_key=False)
    )


class FakeTokenizer:
    """Token i is the i-th letter."""

    def token_bytes(self, token_id: int) -> bytes:
        return b"abcdefghijklmnopqrstuvwxyz"[token_id : token_id + 1]


@dataclass
class FakeModel:
    network: FakeNetwork
    name: str = "fake"
    config: FakeConfig = field(default_factory=FakeConfig)
    eos_token_ids: tuple[int, ...] = ()
    tokenizer: FakeTokenizer = field(default_factory=FakeTokenizer)
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    layout: Any = field(default_factory=threading.RLock)
    native: bool = False
    cache_dtype: torch.dtype = torch.float32

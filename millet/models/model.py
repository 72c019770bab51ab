"""A model in memory: network, tokenizer, chat template, and what its authors say about using it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from millet.errors import BadRequest, PromptTooLong
from millet.kernels.attention import PackedAttention
from millet.kernels.eager import Eager, EagerAttention, Native, target_logprobs
from millet.kernels.linear import LinearGroup
from millet.kernels.matrix import Matrix
from millet.kernels.native.abi import Format
from millet.kernels.native.library import library
from millet.models.adapter import Adapter
from millet.models.chat_template import ChatTemplate
from millet.models.checkpoint import save
from millet.models.config import ModelConfig
from millet.models.lora import summed
from millet.models.network import Network
from millet.models.tokenizer import Tokenizer

LOGITS = 1 << 23  # logits in memory at once, for log-probabilities without gradients: 32 MB of fp32


@dataclass(eq=False)
class Model:
    """`name` is what it was loaded by, `path` where from. `template` is None for a model without a chat format.

    `sampling_defaults` has those of temperature, top_p, top_k, min_p and repetition_penalty that its authors recommend.
    Any of `eos_token_ids` ends a reply.
    """

    name: str
    path: Path
    config: ModelConfig
    network: Network
    tokenizer: Tokenizer
    template: ChatTemplate | None
    sampling_defaults: dict[str, float]
    eos_token_ids: tuple[int, ...]
    dtype: torch.dtype = field(default=torch.float32)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    quantised: bool = False
    """Whether some weights are 8-bit or 4-bit; then the cache is fp16, and no gradient reaches the weights."""
    adapter: Adapter | None = None
    """What its weights have in them, or beside them, that its base model has not, where it was loaded as these two."""
    layout: threading.RLock = field(default_factory=threading.RLock, repr=False)
    """Held while the network runs in an engine, and while its weights are laid out anew (packed, unpacked)."""

    @property
    def native(self) -> bool:
        """Whether the native kernels compute this model."""
        return self.device.type == "cpu" and self.dtype == torch.float32 and library() is not None

    @property
    def cache_dtype(self) -> torch.dtype:
        """The type of keys and values that an engine keeps."""
        return torch.float16 if self.quantised else self.dtype

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Log-probability of every token after the first, given those before it: fp32 [len(ids) - 1] per sequence.

        All sequences go through the network at once, packed. With gradients enabled the result can be differentiated;
        without, the logits of only a few rows exist at a time. A sequence of fewer than two tokens gives an empty one.
        On the native kernels the bits are those that an engine on this model gives the same tokens.
        """
        if torch.is_grad_enabled() and self.network.packed and not self.quantised:
            with self.layout:
                self.network.unpack()
        for ids in sequences:
            self.check(ids)
        lengths = [max(0, len(ids) - 1) for ids in sequences]
        if not any(lengths):
            return [torch.empty(0, device=self.device) for _ in sequences]
        inputs_T = self._packed([ids[:-1] for ids in sequences])
        targets_T = self._packed([ids[1:] for ids in sequences])
        whole = [n for n in lengths if n]
        if self.native:
            eager = Eager(inputs_T, whole)
            hidden_TD = self.network(eager.ids, EagerAttention(eager, self.cache_dtype)).tensor
        else:
            eager = None
            hidden_TD = self.network(inputs_T, PackedAttention(whole, self.device))
        return list(torch.cat(list(self._logprobs(hidden_TD, targets_T, eager))).split(lengths))

    def logits(self, ids: Sequence[int]) -> Tensor:
        """What the model says after each token of one sequence, without gradients. fp32 [len(ids), V]"""
        self.check(ids)
        ids_T = self._packed([ids])
        with torch.inference_mode(), self.layout:
            if self.native:
                eager = Eager(ids_T, [len(ids)])
                hidden = self.network(eager.ids, EagerAttention(eager, self.cache_dtype))
                logits_TV: Tensor = self.network.head(hidden).tensor
                return logits_TV
            return self.network.head(self.network(ids_T, PackedAttention([len(ids)], self.device)))

    def save(self, directory: str | Path, max_shard_bytes: int = 4 << 30) -> None:
        """Write a Hugging Face directory, all of it or nothing; see `checkpoint.save`."""
        with self.layout:
            packed = self.network.packed
            kept = self._quantised_matrices()  # for afterwards: the way back from plain weights would be in fp32
            self.network.unpack()
            try:
                with summed(self.network):
                    save(self, directory, max_shard_bytes)
            finally:
                for group, index, matrix in kept:
                    group.adopt(index, matrix)
                if packed:
                    self.network.pack()

    def _quantised_matrices(self) -> list[tuple[LinearGroup, int, Matrix]]:
        packed = [(group, i, group.packed_at(i)) for group in self.network.groups() for i in range(len(group.names))]
        return [(group, i, m) for group, i, m in packed if m is not None and m.format is not Format.F32]

    def _logprobs(self, hidden_TD: Tensor, targets_T: Tensor, eager: Eager | None) -> Iterator[Tensor]:
        rows = len(hidden_TD) if hidden_TD.requires_grad else max(1, LOGITS // self.config.vocab_size)
        for hidden_ND, targets_N in zip(hidden_TD.split(rows), targets_T.split(rows), strict=True):
            if eager is None:
                yield -F.cross_entropy(self.network.head(hidden_ND), targets_N, reduction="none")
            else:
                yield target_logprobs(self.network.head(Native(eager, hidden_ND)).tensor, targets_N)

    def _packed(self, sequences: list[Sequence[int]]) -> Tensor:
        return torch.tensor([token for ids in sequences for token in ids], dtype=torch.int64, device=self.device)

    def check(self, ids: Sequence[int]) -> None:
        """Raises PromptTooLong for a sequence longer than the context, BadRequest for an id outside the vocabulary."""
        if len(ids) > self.config.max_position_embeddings:
            raise PromptTooLong(
                f"a sequence of {len(ids)} tokens is longer than the {self.config.max_position_embeddings} "
                f"that {self.name} was made for; shorten it"
            )
        if ids and (min(ids) < 0 or max(ids) >= self.config.vocab_size):
            raise BadRequest(f"token ids go from 0 to {self.config.vocab_size - 1}; encode text with model.tokenizer")

"""The two ends of a model: token ids to embeddings, hidden states to logits. One table where they are tied.

Shape legend: T tokens, D model width, N rows, V vocabulary.
"""

from typing import Any

from torch import Tensor, nn

from millet.kernels.linear import LinearGroup, Table


class Vocabulary:
    """Not itself a module: `decoder.embed_tokens` and, where there is one, `top.lm_head` keep their own names."""

    def __init__(self, decoder: nn.Module, top: nn.Module | None) -> None:
        self.table = Table(decoder, "embed_tokens", head=top is None)
        self.head = self.table if top is None else LinearGroup(top, "lm_head", fine=True)

    @property
    def groups(self) -> list[LinearGroup]:
        return [self.table] if self.head is self.table else [self.head, self.table]

    def embed(self, ids_T: Any) -> Any:
        """[T, D]"""
        return self.table.embed(ids_T)

    def logits(self, hidden_ND: Any) -> Any:
        """fp32 [N, V]"""
        logits_NV = self.head(hidden_ND)[0]
        return logits_NV.float() if isinstance(logits_NV, Tensor) else logits_NV

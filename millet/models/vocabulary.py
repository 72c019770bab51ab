"""The two ends of a model: token ids to embeddings, hidden states to logits. One table where they are tied.

Shape legend: T tokens, D model width, N rows, V vocabulary.
"""

from torch import Tensor, nn

from millet.kernels.linear import LinearGroup, TiedHead


class Vocabulary:
    """Not itself a module: `decoder.embed_tokens` and, where there is one, `top.lm_head` keep their own names."""

    def __init__(self, decoder: nn.Module, top: nn.Module | None) -> None:
        self.decoder = decoder
        self.head = TiedHead(decoder, "embed_tokens") if top is None else LinearGroup(top, "lm_head")

    def embed(self, ids_T: Tensor) -> Tensor:
        """[T, D]"""
        if isinstance(self.head, TiedHead):
            return self.head.embed(ids_T)
        return self.decoder.get_submodule("embed_tokens")(ids_T)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """fp32 [N, V]"""
        return self.head(hidden_ND)[0].float()

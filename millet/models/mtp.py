"""Multi-token prediction (MTP): a module after the main model that guesses one token further ahead.

At position i it sees the hidden state that predicted token i + 1 and the embedding of that very token, and predicts
token i + 2: x = eh_proj [enorm(embedding of token i + 1); hnorm(hidden i)], then one ordinary decoder layer, a norm of
its own, and the shared output head. Training gains a denser signal, decoding a draft that the main model verifies.

The hidden state that comes in is the one after the main model's final norm, and module k + 1 takes what module k
returns, after that module's norm. The report leaves this open; SGLang, transformers and current vLLM do so with the
released weights, and ROCm/ATOM measured on R1 that passing on the state before the norm loses accepted drafts.

A module's layer attends within its own cache layer, number `num_layers + k`, at the position of the hidden state.

Embedding and head are the main model's own modules, so they take no memory and stay shared whatever is assigned to
them. The checkpoint names them here too and keeps copies on disk, and so does `state_dict`.

Source: DeepSeek-V3 (arXiv 2412.19437), section 2.2.
"""

from typing import Any

from torch import nn

from millet.kernels import ops
from millet.kernels.attention import Attention
from millet.kernels.linear import LinearGroup
from millet.models.config import ModelConfig
from millet.models.norm import RMSNorm
from millet.models.rope import Rope
from millet.models.transformer import Layer
from millet.models.vocabulary import Vocabulary


class SharedHead(nn.Module):
    """A norm of the module's own, and the main model's output projection [V, D]: its head, or its tied embedding."""

    def __init__(self, config: ModelConfig, head: nn.Linear | nn.Embedding) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = head


class MTP(Layer):
    """On disk its decoder layer's parts lie beside its own, so it is a `Layer` and adds to it."""

    def __init__(
        self,
        config: ModelConfig,
        self_attn: nn.Module,
        mlp: nn.Module,
        rope: Rope,
        vocabulary: Vocabulary,
        embed_tokens: nn.Embedding,
        head: nn.Linear | nn.Embedding,
    ) -> None:
        super().__init__(config, self_attn, mlp)
        self.embed_tokens = embed_tokens
        self.enorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.join = LinearGroup(self, "eh_proj")
        self.shared_head = SharedHead(config, head)
        self.rope = rope
        self.vocabulary = vocabulary

    def forward(self, next_ids_T: Any, hidden_TD: Any, attention: Attention) -> Any:
        """`next_ids_T[i]` is the token after row i, `hidden_TD[i]` the state that predicted it. Returns [T, D]."""
        embedding_TD = self.enorm(self.vocabulary.embed(next_ids_T))
        x_TD = self.join(ops.join(embedding_TD, self.hnorm(hidden_TD)))[0]
        x_TD = super().forward(x_TD, self.rope(attention.positions_T), attention)
        return self.shared_head.norm(x_TD)

    def head(self, hidden_ND: Any) -> Any:
        """Logits of the token two after each row, fp32. [N, V]"""
        return self.vocabulary.logits(hidden_ND)

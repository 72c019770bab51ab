"""The whole model: token ids in, hidden states out, logits where they are wanted.

    network = build(config)
    hidden_TD = network(ids_T, attention)          # attention knows which row belongs to which sequence
    logits_NV = network.head(hidden_TD[last_rows])

To add an architecture: name it in config.py, write what is new in it as a block (a file beside transformer.py), and
choose that block in `_blocks`. Module names are those of the checkpoint, so `state_dict` needs no translation.

Shape legend: T tokens of all sequences end to end, D model width, V vocabulary, N rows.
"""

from itertools import islice

import torch.nn.functional as F
from torch import Tensor, nn

from millet.kernels.attention import Attention
from millet.models.config import ModelConfig
from millet.models.deepseek import LatentAttention
from millet.models.moe import MoE
from millet.models.mtp import MTP
from millet.models.rope import Rope
from millet.models.transformer import Layer, SelfAttention, SwiGLU


def build(config: ModelConfig) -> "Network":
    """The network of a configuration: with random weights, or with none under `torch.device("meta")`."""
    return Network(config)


class Decoder(nn.Module):
    """The part whose names begin with `model.`. The layers of MTP modules follow the main ones in `layers`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, *_blocks(config, i)) for i in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)


class Network(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.rope = Rope(config.rope)
        # The head comes first, so that `named_parameters`, which lists a shared parameter once, uses its main name.
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.model = Decoder(config)
        for index in range(config.num_layers, config.num_layers + config.mtp_layers):
            self_attn, mlp = _blocks(config, index)
            module = MTP(config, self_attn, mlp, self.rope, self.model.embed_tokens, self._head())
            self.model.layers.append(module)

    @property
    def mtp(self) -> list[MTP]:
        """The MTP modules: `mtp[k](next_ids_T, hidden_TD, attention) -> hidden_TD` and `mtp[k].head(hidden_ND)`."""
        return [layer for layer in self.model.layers if isinstance(layer, MTP)]

    def forward(self, ids_T: Tensor, attention: Attention) -> Tensor:
        """Hidden states after the final norm. ids int64 [T] -> [T, D]"""
        x_TD = self.model.embed_tokens(ids_T)
        rotation = self.rope(attention.positions_T, x_TD.dtype)
        for layer in islice(self.model.layers, self.config.num_layers):
            x_TD = layer(x_TD, rotation, attention)
        return self.model.norm(x_TD)

    def head(self, hidden_ND: Tensor) -> Tensor:
        """Logits of the token after each row, fp32. [N, D] -> [N, V]"""
        return F.linear(hidden_ND, self._head().weight).float()

    def _head(self) -> nn.Linear | nn.Embedding:
        return self.model.embed_tokens if self.config.tie_word_embeddings else self.lm_head


def _blocks(config: ModelConfig, index: int) -> tuple[nn.Module, nn.Module]:
    """What is inside layer `index`: its attention and its feed-forward block."""
    self_attn = LatentAttention(config, index) if config.mla else SelfAttention(config, index)
    if config.moe and index >= config.moe.first_dense_layers:
        return self_attn, MoE(config)
    return self_attn, SwiGLU(config.hidden_size, config.intermediate_size, config.mlp_bias)

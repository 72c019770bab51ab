"""The whole model: token ids in, hidden states out, logits where they are wanted.

    network = build(config)
    hidden_TD = network(ids_T, attention)          # attention knows which row belongs to which sequence
    logits_NV = network.head(hidden_TD[last_rows])

To add an architecture: name it in config.py, write what is new in it as a block (a file beside transformer.py), and
choose that block in `_blocks`. Module names are those of the checkpoint, so `state_dict` needs no translation.

Shape legend: T tokens of all sequences end to end, D model width, V vocabulary, N rows.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from millet.kernels.attention import Attention
from millet.kernels.linear import LinearGroup, Table
from millet.kernels.native.abi import Format
from millet.kernels.plan import Plan, Trace, TraceAttention
from millet.models.config import ModelConfig
from millet.models.deepseek import LatentAttention
from millet.models.moe import MoE
from millet.models.mtp import MTP
from millet.models.norm import RMSNorm
from millet.models.rope import Rope
from millet.models.transformer import Layer, SelfAttention, SwiGLU
from millet.models.vocabulary import Vocabulary


def build(config: ModelConfig) -> "Network":
    """The network of a configuration: with random weights, or with none under `torch.device("meta")`."""
    return Network(config)


class Decoder(nn.Module):
    """The part whose names begin with `model.`. The layers of MTP modules follow the main ones in `layers`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, *_blocks(config, i)) for i in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Network(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.rope = Rope(config.rope)
        self.checkpointing = False
        """Whether a forward under autograd keeps only what goes into each layer, and computes the rest again."""
        # The head comes first, so that `named_parameters`, which lists a shared parameter once, uses its main name.
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.model = Decoder(config)
        head = self.model.embed_tokens if config.tie_word_embeddings else self.lm_head
        self.vocabulary = Vocabulary(self.model, None if config.tie_word_embeddings else self)
        for index in range(config.num_layers, config.num_layers + config.mtp_layers):
            self_attn, mlp = _blocks(config, index)
            module = MTP(config, self_attn, mlp, self.rope, self.vocabulary, self.model.embed_tokens, head)
            self.model.layers.append(module)

    @property
    def mtp(self) -> list[MTP]:
        """The MTP modules: `mtp[k](next_ids_T, hidden_TD, attention) -> hidden_TD` and `mtp[k].head(hidden_ND)`."""
        return [layer for layer in self.model.layers if isinstance(layer, MTP)]

    def forward(self, ids_T: Any, attention: Attention) -> Any:
        """Hidden states after the final norm. ids int64 [T] -> [T, D]"""
        x_TD = self.vocabulary.embed(ids_T)
        rotation = self.rope(attention.positions_T)
        for layer in islice(self.model.layers, self.config.num_layers):
            if self.checkpointing and torch.is_grad_enabled():
                x_TD = checkpoint(layer, x_TD, rotation, attention, use_reentrant=False, preserve_rng_state=False)
            else:
                x_TD = layer(x_TD, rotation, attention)
        return self.model.norm(x_TD)

    def head(self, hidden_ND: Any) -> Any:
        """Logits of the token after each row, fp32. [N, D] -> [N, V]"""
        return self.vocabulary.logits(hidden_ND)

    def plan(self) -> Plan:
        """This forward for the native kernels: outputs "hidden", every row's, and "logits" of the sampled ones."""
        trace = Trace()
        hidden = self(trace.ids, TraceAttention(trace))
        return Plan.of(trace, {}, {"hidden": hidden, "logits": self.head(hidden.picked())})

    def mtp_plan(self, index: int) -> Plan:
        """The same of an MTP module: input "hidden"; ids are those of the next tokens."""
        trace = Trace()
        given = trace.new(self.config.hidden_size)
        hidden = self.mtp[index](trace.ids, given, TraceAttention(trace))
        outputs = {"hidden": hidden, "logits": self.mtp[index].head(hidden.picked())}
        return Plan.of(trace, {"hidden": given}, outputs)

    @property
    def packed(self) -> bool:
        """Whether the weights are laid out for inference; see `millet.kernels.linear`."""
        return any(group.packed for group in self.groups())

    def pack(self, choose: Callable[[Any], Format] = lambda module: Format.F32) -> None:
        """Lay the weights out for inference, as far as the device and their type allow; see `LinearGroup.pack`.

        Those of a network in training (`train()`) stay as they are; the native kernels then compute with copies.
        """
        if self.training:
            return
        for group in self.groups():
            group.pack(choose)

    def copy_as(self, format: Format) -> None:
        """In which format the native kernels have the weights of a network in training; a router's stay fp32."""
        for group in self.groups():
            if not isinstance(group.owner, MoE):
                group.copy_as(format)

    def unpack(self) -> None:
        """Plain weights again: to train, or to save."""
        for group in self.groups():
            group.unpack()

    @property
    def weight_bytes(self) -> int:
        """Bytes of packed or plain weights that an ordinary step reads: all but an untied embedding and MTP modules."""
        skipped = {id(p) for module in self.mtp for p in module.parameters()}
        groups = [group for group in self.groups() if not (isinstance(group, Table) and not group.head)]
        packed = sum(group.nbytes for group in groups if not isinstance(group.owner, MTP))
        looked_up = set() if self.config.tie_word_embeddings else {id(self.model.embed_tokens.weight)}
        return packed + sum(p.nbytes for p in self.parameters() if id(p) not in skipped | looked_up)

    def groups(self) -> Iterator[LinearGroup]:
        """All products with weights, the two ends of the model first."""
        yield from self.vocabulary.groups
        for module in self.model.modules():
            yield from (group for group in vars(module).values() if isinstance(group, LinearGroup))


def _blocks(config: ModelConfig, index: int) -> tuple[nn.Module, nn.Module]:
    """What is inside layer `index`: its attention and its feed-forward block."""
    self_attn = LatentAttention(config, index) if config.mla else SelfAttention(config, index)
    if config.moe and index >= config.moe.first_dense_layers:
        return self_attn, MoE(config)
    return self_attn, SwiGLU(config.hidden_size, config.intermediate_size, config.mlp_bias)

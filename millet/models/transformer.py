"""The decoder layer that Llama, Qwen2 and Qwen3 share: grouped-query attention and a SwiGLU, each behind an RMSNorm.

They differ in two places: Qwen2 has biases on queries, keys and values; Qwen3 normalises each head's query and key.
`Layer` is DeepSeek's as well, with other blocks inside (deepseek.py, moe.py). Module names are Hugging Face's.

What goes through a module is a tensor, or `Rows` for the native kernels (kernels/record.py): the code is the same.

Shape legend: T tokens, D model width, H query heads, G key/value heads, K head width, F hidden width.
"""

from typing import Any

from torch import nn

from millet.kernels import ops
from millet.kernels.attention import Attention
from millet.kernels.linear import LinearGroup
from millet.kernels.matrix import Matrix
from millet.models.config import ModelConfig
from millet.models.norm import RMSNorm
from millet.models.rope import Rotation


class SelfAttention(nn.Module):
    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        width, head = config.hidden_size, config.head_dim
        bias = config.attention_bias
        self.q_proj = nn.Linear(width, config.num_heads * head, bias)
        self.k_proj = nn.Linear(width, config.num_kv_heads * head, bias)
        self.v_proj = nn.Linear(width, config.num_kv_heads * head, bias)
        self.o_proj = nn.Linear(config.num_heads * head, width, bias and config.architecture != "qwen2")
        self.queries_keys_values = LinearGroup(self, "q_proj", "k_proj", "v_proj", fine=True)
        self.out = LinearGroup(self, "o_proj")
        self.normalised = config.architecture == "qwen3"
        if self.normalised:
            self.q_norm = RMSNorm(head, config.rms_norm_eps)
            self.k_norm = RMSNorm(head, config.rms_norm_eps)
        self.index = index
        self.head_dim = head
        self.scale = head**-0.5

    def forward(self, x_TD: Any, rotation: Rotation, attention: Attention) -> Any:
        q_THK, k_TGK, v_TGK = (y_TF.unflatten(-1, (-1, self.head_dim)) for y_TF in self.queries_keys_values(x_TD))
        if self.normalised:
            q_THK, k_TGK = self.q_norm(q_THK), self.k_norm(k_TGK)
        q_THK, k_TGK = rotation(q_THK), rotation(k_TGK)
        out_THK = attention.attend(self.index, q_THK, k_TGK, v_TGK, scale=self.scale, value_width=self.head_dim)
        return self.out(out_THK.flatten(1))[0]


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))  (Shazeer, 2020)."""

    def __init__(self, width: int, hidden: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias)
        self.up_proj = nn.Linear(width, hidden, bias)
        self.down_proj = nn.Linear(hidden, width, bias)
        self.gate_up = LinearGroup(self, "gate_proj", "up_proj")
        self.down = LinearGroup(self, "down_proj")

    def forward(self, x_TD: Any) -> Any:
        gate_TF, up_TF = self.gate_up(x_TD)
        return self.down(ops.swiglu(gate_TF, up_TF))[0]

    def matrices(self) -> tuple[Matrix, ...]:
        """Gate, up and down as the native kernels take them."""
        return (*self.gate_up.matrices(), *self.down.matrices())


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, self_attn: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = self_attn
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = mlp

    def forward(self, x_TD: Any, rotation: Rotation, attention: Attention) -> Any:
        x_TD = x_TD + self.self_attn(self.input_layernorm(x_TD), rotation, attention)
        return x_TD + self.mlp(self.post_attention_layernorm(x_TD))

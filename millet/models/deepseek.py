"""Multi-head latent attention (MLA) of DeepSeek V2, V3 and R1: keys and values are kept as one small latent per token.

Every head's key is [W_key latent; rope key] and its value is W_value latent, where the latent (R numbers) and the rope
key (P numbers) are the same for all heads. Two ways to the same result:

- naive: expand the latent into every head's key and value, then attend as usual. Used without a cache: it is the
  cheaper one when each latent is used by about as many queries as there are heads.
- absorbed: q . (W_key c) = (W_key^T q) . c, so the query is taken into latent space once and attends to the latents
  themselves, one key/value head for all; W_value is applied to the mixture. The cache holds R + P numbers per token,
  and decoding reads those instead of H * (N + P + W).

Sources: DeepSeek-V2 (arXiv 2405.04434), section 2.1; DeepSeek-V3 (arXiv 2412.19437), section 2.1.1.

Shape legend: T tokens, D model width, H heads, R latent rank, W value width of a head; a query or key head has
K = N + P entries: N without position, P rotated.
"""

from typing import Any

from torch import Tensor, nn

from millet.kernels import ops
from millet.kernels.attention import Attention
from millet.kernels.linear import HeadGroup, LinearGroup
from millet.models.config import ModelConfig
from millet.models.norm import RMSNorm
from millet.models.rope import Rotation, softmax_factor

LATENT_EPS = 1e-6  # of the norms on the latents, whatever rms_norm_eps the rest of the model has


class LatentAttention(nn.Module):
    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        assert config.mla is not None
        mla, width, heads, bias = config.mla, config.hidden_size, config.num_heads, config.attention_bias
        if mla.q_lora_rank is None:
            self.q_proj = nn.Linear(width, heads * config.head_dim, bias=False)
        else:
            self.q_a_proj = nn.Linear(width, mla.q_lora_rank, bias)
            self.q_a_layernorm = RMSNorm(mla.q_lora_rank, LATENT_EPS)
            self.q_b_proj = nn.Linear(mla.q_lora_rank, heads * config.head_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(width, mla.kv_lora_rank + mla.qk_rope_head_dim, bias)
        self.kv_a_layernorm = RMSNorm(mla.kv_lora_rank, LATENT_EPS)
        self.kv_b_proj = nn.Linear(mla.kv_lora_rank, heads * (mla.qk_nope_head_dim + mla.v_head_dim), bias=False)
        self.o_proj = nn.Linear(heads * mla.v_head_dim, width, bias)
        self.down = LinearGroup(self, "q_proj" if mla.q_lora_rank is None else "q_a_proj", "kv_a_proj_with_mqa")
        self.out = LinearGroup(self, "o_proj")
        if mla.q_lora_rank is not None:
            self.query_up = LinearGroup(self, "q_b_proj")
        # kv_b_proj stays plain: the naive form needs it whole, the absorbed one in two parts for each head.
        self.into_latent = HeadGroup(self, "kv_b_proj", lambda w: self._halves(w)[0].transpose(1, 2))  # [H, R, N]
        self.out_of_latent = HeadGroup(self, "kv_b_proj", lambda w: self._halves(w)[1])  # [H, W, R]
        self.expand = HeadGroup(self, "kv_b_proj", lambda w: w[None])  # the naive form, on rows
        self.mla = mla
        self.index = index
        self.num_heads = heads
        self.scale = config.head_dim**-0.5 * softmax_factor(config.rope)

    def forward(self, x_TD: Any, rotation: Rotation, attention: Attention) -> Any:
        mla = self.mla
        q_TF, kv_TF = self.down(x_TD)
        if mla.q_lora_rank is not None:
            q_TF = self.query_up(self.q_a_layernorm(q_TF))[0]
        q_THK = q_TF.unflatten(-1, (self.num_heads, -1))
        q_nope_THN, q_rope_THP = q_THK.split((mla.qk_nope_head_dim, mla.qk_rope_head_dim), -1)
        latent_TR, k_rope_TP = kv_TF.split((mla.kv_lora_rank, mla.qk_rope_head_dim), -1)
        latent_TR = self.kv_a_layernorm(latent_TR)
        q_rope_THP, k_rope_T1P = rotation(q_rope_THP), rotation(k_rope_TP[:, None])
        attend = self._absorbed if attention.absorbed else self._naive
        return self.out(attend(q_nope_THN, q_rope_THP, latent_TR, k_rope_T1P, attention).flatten(1))[0]

    def _naive(self, q_nope_THN: Any, q_rope_THP: Any, latent_TR: Any, k_rope_T1P: Any, attention: Attention) -> Any:
        n, w = self.mla.qk_nope_head_dim, self.mla.v_head_dim
        on_rows = not isinstance(latent_TR, Tensor)
        kv_TF = self.expand(latent_TR[:, None]).flatten(1) if on_rows else self.kv_b_proj(latent_TR)
        k_nope_THN, v_THW = kv_TF.unflatten(-1, (self.num_heads, n + w)).split((n, w), -1)
        q_THK = ops.join(q_nope_THN, q_rope_THP)
        k_THK = ops.join(k_nope_THN, k_rope_T1P.expand_as(q_rope_THP))
        return attention.attend(self.index, q_THK, k_THK, v_THW, scale=self.scale, value_width=w)

    def _absorbed(self, q_nope_THN: Any, q_rope_THP: Any, latent_TR: Any, k_rope_T1P: Any, attention: Attention) -> Any:
        q_THK = ops.join(self.into_latent(q_nope_THN), q_rope_THP)
        k_T1K = ops.join(latent_TR[:, None], k_rope_T1P)
        rank = self.mla.kv_lora_rank
        mixture_THR = attention.attend(self.index, q_THK, k_T1K, None, scale=self.scale, value_width=rank)
        return self.out_of_latent(mixture_THR)

    def _halves(self, weight_FR: Tensor) -> tuple[Tensor, ...]:
        """kv_b_proj by head: what makes keys [H, N, R] and what makes values [H, W, R]."""
        n, w, r = self.mla.qk_nope_head_dim, self.mla.v_head_dim, self.mla.kv_lora_rank
        return weight_FR.view(self.num_heads, n + w, r).split((n, w), 1)

"""What a model's `config.json` says, as typed dataclasses that the rest of Millet reads.

`ModelConfig.from_hf` reads the dictionary that Hugging Face writes, in the spelling of transformers 4 (`rope_theta`,
`rope_scaling`) or 5 (`rope_parameters`). Readers of other formats build that dictionary first, so there is one parser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from millet.errors import BadWeights, UnsupportedModel

ARCHITECTURES = ("llama", "qwen2", "qwen3", "deepseek_v2", "deepseek_v3")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding; see rope.py. Lengths are in tokens, `width` is how many entries of a head rotate."""

    width: int
    theta: float = 10000.0
    type: str = "default"
    factor: float = 1.0  # how much longer than `original_context` the context has become
    original_context: int = 0
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0  # yarn, this one and all below
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    truncate: bool = True
    interleaved: bool = False  # pairs are (0, 1), (2, 3), ... as in DeepSeek, instead of (0, K/2), (1, K/2 + 1), ...


@dataclass(frozen=True, slots=True)
class MLAConfig:
    """Multi-head latent attention: ranks of the latents and widths of one head's parts."""

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True, slots=True)
class MoEConfig:
    """Mixture of experts: how many there are and how a token chooses among them; see moe.py."""

    num_experts: int
    top_k: int
    intermediate_size: int  # of one expert
    num_shared_experts: int  # run on every token, stored as one expert of this many times the width
    first_dense_layers: int  # layers before this index have an ordinary feed-forward block
    num_groups: int  # 1: no grouping
    top_groups: int
    scoring: str  # "sigmoid" | "softmax"
    correction_bias: bool  # balance without auxiliary loss: a bias that takes part in the choice only
    norm_topk_prob: bool
    routed_scaling_factor: float


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """What the engine keeps of one token: `layers` x `kv_heads` x (`key_width` + `value_width`) numbers.

    With `value_in_key` nothing is kept for the value: it is the first `value_width` entries of the key. The layers of
    MTP modules come after the main ones.
    """

    layers: int
    kv_heads: int
    key_width: int
    value_width: int
    value_in_key: bool


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that decides a network's shapes and arithmetic. Sizes count numbers, lengths count tokens."""

    architecture: str  # one of ARCHITECTURES
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int  # of queries and keys; with latent attention both its parts together
    rms_norm_eps: float
    rope: RopeConfig
    max_position_embeddings: int
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    mla: MLAConfig | None
    moe: MoEConfig | None
    mtp_layers: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    hf: dict[str, Any] = field(repr=False, compare=False)  # the dictionary it was read from, for writing it back

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> ModelConfig:
        """From the content of `config.json`.

        Raises UnsupportedModel for an architecture or option Millet does not have, BadWeights for a key that is missing
        or makes no sense.
        """
        architecture = hf.get("model_type")
        if architecture not in ARCHITECTURES:
            raise UnsupportedModel(
                f"model_type {architecture!r} is not supported; Millet runs models of type {', '.join(ARCHITECTURES)}"
            )
        _refuse_unsupported(hf)
        heads = _integer(hf, "num_attention_heads")
        mla = _mla(hf) if architecture.startswith("deepseek") else None
        if mla is not None:
            kv_heads = heads
            head_dim = mla.qk_nope_head_dim + mla.qk_rope_head_dim
            rope = _rope(hf, mla.qk_rope_head_dim, interleaved=hf.get("rope_interleave") is not False)
        else:
            kv_heads = _integer(hf, "num_key_value_heads", heads)
            head_dim = _integer(hf, "head_dim", _integer(hf, "hidden_size") // heads)
            rope = _rope(hf, head_dim, interleaved=False)
        if heads % kv_heads:
            raise BadWeights(
                f"config.json has {heads} attention heads for {kv_heads} key/value heads; get the file again"
            )
        eos = hf.get("eos_token_id")
        return cls(
            architecture=architecture,
            vocab_size=_integer(hf, "vocab_size"),
            hidden_size=_integer(hf, "hidden_size"),
            intermediate_size=_integer(hf, "intermediate_size"),
            num_layers=_integer(hf, "num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            rms_norm_eps=_number(hf, "rms_norm_eps", 1e-6),
            rope=rope,
            max_position_embeddings=_integer(hf, "max_position_embeddings"),
            tie_word_embeddings=bool(hf.get("tie_word_embeddings", False)),
            attention_bias=architecture == "qwen2" or bool(hf.get("attention_bias", False)),
            mlp_bias=bool(hf.get("mlp_bias", False)),
            mla=mla,
            moe=_moe(hf) if mla is not None and hf.get("n_routed_experts") else None,
            mtp_layers=_integer(hf, "num_nextn_predict_layers", 0) if mla is not None else 0,
            bos_token_id=hf.get("bos_token_id"),
            eos_token_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
            hf=dict(hf),
        )

    @property
    def cache(self) -> CacheSpec:
        layers = self.num_layers + self.mtp_layers
        if self.mla is not None:
            latent = self.mla.kv_lora_rank
            return CacheSpec(layers, 1, latent + self.mla.qk_rope_head_dim, latent, value_in_key=True)
        return CacheSpec(layers, self.num_kv_heads, self.head_dim, self.head_dim, value_in_key=False)

    @property
    def num_parameters(self) -> int:
        """Every parameter once: tied embeddings and what MTP modules share with the model are not counted again."""
        width, embedding = self.hidden_size, self.vocab_size * self.hidden_size
        layers = sum(self._layer_parameters(i) for i in range(self.num_layers + self.mtp_layers))
        mtp = self.mtp_layers * (2 * width * width + 3 * width)  # eh_proj and three norms
        return embedding * (1 if self.tie_word_embeddings else 2) + layers + mtp + width

    def _layer_parameters(self, index: int) -> int:
        width = self.hidden_size
        attention = self._attention_parameters() if self.mla is None else self._latent_attention_parameters(self.mla)
        if self.moe is None or index < self.moe.first_dense_layers:
            mlp = _swiglu_parameters(width, self.intermediate_size, self.mlp_bias)
        else:
            mlp = _moe_parameters(width, self.moe, self.mlp_bias)
        return attention + mlp + 2 * width

    def _attention_parameters(self) -> int:
        q_width, kv_width = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        bias = self.attention_bias * (q_width + 2 * kv_width + self.hidden_size * (self.architecture != "qwen2"))
        norms = 2 * self.head_dim if self.architecture == "qwen3" else 0
        return self.hidden_size * (2 * q_width + 2 * kv_width) + bias + norms

    def _latent_attention_parameters(self, mla: MLAConfig) -> int:
        width, q_width, rank = self.hidden_size, self.num_heads * self.head_dim, mla.q_lora_rank
        kv_a = mla.kv_lora_rank + mla.qk_rope_head_dim
        kv_b = mla.kv_lora_rank * self.num_heads * (mla.qk_nope_head_dim + mla.v_head_dim)
        queries = width * q_width if rank is None else rank * (width + q_width + 1 + self.attention_bias)
        keys_values = (width + self.attention_bias) * kv_a + mla.kv_lora_rank + kv_b
        return queries + keys_values + width * (self.num_heads * mla.v_head_dim + self.attention_bias)


def _swiglu_parameters(width: int, hidden: int, bias: bool) -> int:
    return 3 * width * hidden + bias * (2 * hidden + width)


def _moe_parameters(width: int, moe: MoEConfig, bias: bool) -> int:
    shared = moe.num_shared_experts * moe.intermediate_size
    router = moe.num_experts * (width + moe.correction_bias)
    experts = moe.num_experts * _swiglu_parameters(width, moe.intermediate_size, bias=False)
    return router + experts + (_swiglu_parameters(width, shared, bias) if shared else 0)


def _refuse_unsupported(hf: Mapping[str, Any]) -> None:
    """Options that would change the numbers silently if they were ignored."""
    if hf.get("hidden_act", "silu") != "silu":
        raise UnsupportedModel(f"hidden_act {hf['hidden_act']!r} is not supported; Millet runs models that use silu")
    if hf.get("use_sliding_window"):
        raise UnsupportedModel(
            "this model uses sliding-window attention, which Millet does not have; choose one with full attention"
        )
    if hf.get("moe_layer_freq", 1) != 1:
        raise UnsupportedModel(f"moe_layer_freq {hf['moe_layer_freq']!r} is not supported; Millet runs models with 1")


def _mla(hf: Mapping[str, Any]) -> MLAConfig:
    if "q_lora_rank" not in hf:
        raise BadWeights("config.json lacks q_lora_rank (a number or null); get the file again from the model's source")
    return MLAConfig(
        q_lora_rank=None if hf["q_lora_rank"] is None else _integer(hf, "q_lora_rank"),
        kv_lora_rank=_integer(hf, "kv_lora_rank"),
        qk_nope_head_dim=_integer(hf, "qk_nope_head_dim"),
        qk_rope_head_dim=_integer(hf, "qk_rope_head_dim"),
        v_head_dim=_integer(hf, "v_head_dim"),
    )


def _moe(hf: Mapping[str, Any]) -> MoEConfig:
    v3 = hf["model_type"] == "deepseek_v3"
    method = hf.get("topk_method") or ("noaux_tc" if v3 else "greedy")
    scoring = hf.get("scoring_func") or ("sigmoid" if v3 else "softmax")
    if method not in ("greedy", "group_limited_greedy", "noaux_tc"):
        raise UnsupportedModel(
            f"topk_method {method!r} is not supported; Millet has greedy, group_limited_greedy, noaux_tc"
        )
    if scoring not in ("sigmoid", "softmax"):
        raise UnsupportedModel(f"scoring_func {scoring!r} is not supported; Millet has sigmoid and softmax")
    grouped = method != "greedy"
    moe = MoEConfig(
        num_experts=_integer(hf, "n_routed_experts"),
        top_k=_integer(hf, "num_experts_per_tok"),
        intermediate_size=_integer(hf, "moe_intermediate_size"),
        num_shared_experts=_integer(hf, "n_shared_experts", 0),
        first_dense_layers=_integer(hf, "first_k_dense_replace", 0),
        num_groups=_integer(hf, "n_group", 1) if grouped else 1,
        top_groups=_integer(hf, "topk_group", 1) if grouped else 1,
        scoring=scoring,
        correction_bias=method == "noaux_tc",
        norm_topk_prob=bool(hf.get("norm_topk_prob", v3)),
        routed_scaling_factor=_number(hf, "routed_scaling_factor", 1.0),
    )
    if moe.num_experts % moe.num_groups or moe.top_k > moe.top_groups * (moe.num_experts // moe.num_groups):
        raise BadWeights(
            f"config.json asks for {moe.top_k} of {moe.num_experts} experts from {moe.top_groups} of {moe.num_groups} "
            "groups, which cannot be; get the file again from the model's source"
        )
    return moe


def _rope(hf: Mapping[str, Any], width: int, interleaved: bool) -> RopeConfig:
    params = {**(hf.get("rope_scaling") or {}), **(hf.get("rope_parameters") or {})}
    kind = params.get("rope_type") or params.get("type") or "default"
    if kind not in ROPE_TYPES:
        raise UnsupportedModel(f"RoPE type {kind!r} is not supported; Millet has {', '.join(ROPE_TYPES)}")
    if params.get("partial_rotary_factor", hf.get("partial_rotary_factor", 1.0)) != 1.0:
        raise UnsupportedModel(
            "partial_rotary_factor other than 1 is not supported; choose a model that rotates whole heads"
        )
    context = _integer(hf, "max_position_embeddings")
    original = _integer(params, "original_max_position_embeddings", context)
    same_name = ("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
    given = {key: _number(params, key) for key in (*same_name, "attention_factor") if params.get(key) is not None}
    return RopeConfig(
        width=width,
        theta=_number(params, "rope_theta", _number(hf, "rope_theta", 10000.0)),
        type=kind,
        factor=_number(params, "factor", context / original),
        original_context=original,
        truncate=params.get("truncate") is not False,
        interleaved=interleaved,
        **given,
    )


def _integer(hf: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A whole number of at least 1, or of 0 where that is the default. Absent or null gives the default, if any."""
    value = hf.get(key)
    if value is None and default is not None:
        return default
    least = 0 if default == 0 else 1
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _wrong(hf, key, f"a whole number of at least {least}")
    return value


def _number(hf: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = hf.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        raise _wrong(hf, key, "a number that is not negative")
    return float(value)


def _wrong(hf: Mapping[str, Any], key: str, expected: str) -> BadWeights:
    found = f"has {key} {hf[key]!r}" if key in hf else f"lacks {key}"
    return BadWeights(f"config.json {found}; it must be {expected}: get the file again from the model's source")

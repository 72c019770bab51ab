"""The configuration of a GGUF model, as the `config.json` that Hugging Face would have for it.

So there is one reader of configurations (config.py), and a model that came from GGUF can be saved as a Hugging Face
directory. The spelling is that of transformers 4 (`rope_theta`, `rope_scaling`), which 5 and the servers read as well.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from millet.errors import UnsupportedModel
from millet.models.config import RopeConfig
from millet.models.gguf import GGUFFile
from millet.models.mapped_file import read_values
from millet.models.rope import inverse_frequencies

CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
}
GGUF_ARCHITECTURES = ("llama", "qwen2", "qwen3", "deepseek2")

SAMPLING = {"temp": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p"}

# The files keep only each frequency's divisor. Every Llama 3 release has this context and this ramp.
LLAMA3_RAMP = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


class _Keys:
    """The metadata of one architecture: `keys["block_count"]` is `llama.block_count`."""

    def __init__(self, gguf: GGUFFile, architecture: str) -> None:
        self._gguf = gguf
        self._prefix = architecture + "."

    def __getitem__(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise self._gguf.corrupt(f"it has no {self._prefix}{key}")
        return value

    def get(self, key: str, default: Any = None) -> Any:
        value = self._gguf.metadata.get(self._prefix + key, default)
        return _shortest(value) if isinstance(value, float) else value


def _shortest(value: float) -> float:
    """The shortest decimal with the same fp32 bits: files hold 9.99999974e-06 where the configuration said 1e-05."""
    return float(str(np.float32(value)))


def config_from_gguf(gguf: GGUFFile) -> dict[str, Any]:
    """What `config.json` would say. Raises UnsupportedModel for architectures Millet does not have, BadWeights for
    missing keys."""
    architecture = gguf.metadata.get("general.architecture")
    if architecture not in GGUF_ARCHITECTURES:
        raise UnsupportedModel(
            f"{gguf.path} has architecture {architecture!r}, which is not supported; "
            f"Millet runs GGUF models of {', '.join(GGUF_ARCHITECTURES)}"
        )
    if gguf.metadata.get("split.count", 1) > 1:
        raise UnsupportedModel(
            f"{gguf.path} is one part of a split model; join the parts with llama-gguf-split --merge"
        )
    keys = _Keys(gguf, architecture)
    if architecture == "deepseek2":
        return _common(gguf, keys) | _deepseek(gguf, keys)
    if keys.get("expert_count"):
        raise UnsupportedModel(f"{gguf.path} is a mixture of experts on {architecture}; Millet has them on deepseek2")
    return _common(gguf, keys) | _dense(gguf, keys, architecture)


def sampling_from_gguf(gguf: GGUFFile) -> dict[str, float]:
    """Sampling values that the file recommends, under the names of `generation_config.json`."""
    found = {ours: gguf.metadata.get(f"general.sampling.{theirs}") for theirs, ours in SAMPLING.items()}
    return {
        key: _shortest(value) if isinstance(value, float) else value
        for key, value in found.items()
        if value is not None
    }


def ends_from_gguf(gguf: GGUFFile, vocab_size: int) -> list[int]:
    """The ids that the file names as ends: of the text, of a turn, of a message. 2^32 - 1 stands for none."""
    ids = (gguf.metadata.get(f"tokenizer.ggml.{end}_token_id") for end in ("eos", "eot", "eom"))
    return [token for token in ids if token is not None and token < vocab_size]


def _common(gguf: GGUFFile, keys: _Keys) -> dict[str, Any]:
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None:
        raise gguf.corrupt("it has no token_embd.weight")
    vocab_size = embedding.shape[0]
    named = {name: gguf.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "padding")}
    tokens = {name: token if token is not None and token < vocab_size else None for name, token in named.items()}
    return {
        "vocab_size": vocab_size,
        "hidden_size": keys["embedding_length"],
        "intermediate_size": keys["feed_forward_length"],
        "num_hidden_layers": keys["block_count"],
        "num_attention_heads": keys["attention.head_count"],
        "hidden_act": "silu",
        "rms_norm_eps": keys["attention.layer_norm_rms_epsilon"],
        "max_position_embeddings": keys["context_length"],
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "rope_theta": keys.get("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(keys),
        "bos_token_id": tokens["bos"],
        "eos_token_id": tokens["eos"],
        "pad_token_id": tokens["padding"],
    }


def _dense(gguf: GGUFFile, keys: _Keys, architecture: str) -> dict[str, Any]:
    heads = keys["attention.head_count"]
    head_dim = keys.get("attention.key_length") or keys.get("rope.dimension_count") or keys["embedding_length"] // heads
    hf = {
        "model_type": architecture,
        "architectures": [CLASSES[architecture]],
        "num_key_value_heads": keys.get("attention.head_count_kv", heads),
        "head_dim": head_dim,
    }
    if architecture != "qwen2":  # which always has them on queries, keys and values, and no option for it
        hf["attention_bias"] = "blk.0.attn_q.bias" in gguf.tensors
    if architecture == "llama":
        hf["mlp_bias"] = "blk.0.ffn_gate.bias" in gguf.tensors
    if "rope_freqs.weight" in gguf.tensors:
        hf["rope_scaling"] = _llama3_scaling(gguf, head_dim, keys.get("rope.freq_base", 10000.0))
    return hf


def _deepseek(gguf: GGUFFile, keys: _Keys) -> dict[str, Any]:
    # Newer files describe the heads as the absorbed form sees them, and keep the real widths under other keys.
    key_width = keys.get("attention.key_length_mla") or keys["attention.key_length"]
    value_width = keys.get("attention.value_length_mla") or keys["attention.value_length"]
    rope_width = keys["rope.dimension_count"]
    hf = {
        "num_key_value_heads": keys["attention.head_count"],
        "q_lora_rank": keys.get("attention.q_lora_rank"),
        "kv_lora_rank": keys["attention.kv_lora_rank"],
        "qk_nope_head_dim": key_width - rope_width,
        "qk_rope_head_dim": rope_width,
        "v_head_dim": value_width,
        "attention_bias": False,
        "num_nextn_predict_layers": 0,  # the converter leaves MTP modules out
    }
    experts = keys.get("expert_count", 0)
    sigmoid = keys.get("expert_gating_func", 1) == 2
    model_type = "deepseek_v3" if sigmoid else "deepseek_v2"
    hf |= {"model_type": model_type, "architectures": [CLASSES[model_type]]}
    return hf | _experts(keys, experts, sigmoid) if experts else hf | {"n_routed_experts": None}


def _experts(keys: _Keys, experts: int, sigmoid: bool) -> dict[str, Any]:
    # Files older than these keys: of the models with sigmoid routing, those with 256 experts are DeepSeek's own.
    groups, top_groups = (8, 4) if sigmoid and experts == 256 else (1, 1)
    groups = keys.get("expert_group_count", groups)
    return {
        "n_routed_experts": experts,
        "num_experts_per_tok": keys["expert_used_count"],
        "moe_intermediate_size": keys["expert_feed_forward_length"],
        "n_shared_experts": keys.get("expert_shared_count", 0),
        "first_k_dense_replace": keys.get("leading_dense_block_count", 0),
        "n_group": groups,
        "topk_group": keys.get("expert_group_used_count", top_groups),
        "norm_topk_prob": keys.get("expert_weights_norm", False),
        "routed_scaling_factor": keys.get("expert_weights_scale", 1.0),
        "scoring_func": "sigmoid" if sigmoid else "softmax",
        "topk_method": "noaux_tc" if sigmoid else "group_limited_greedy" if groups > 1 else "greedy",
    }


def _rope_scaling(keys: _Keys) -> dict[str, Any] | None:
    kind, factor = keys.get("rope.scaling.type", "none"), keys.get("rope.scaling.factor", 1.0)
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return None
    scaling = {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = keys["rope.scaling.original_context_length"]
        optional = {
            "attention_factor": keys.get("rope.scaling.yarn_attn_factor"),
            "beta_fast": keys.get("rope.scaling.yarn_beta_fast"),
            "beta_slow": keys.get("rope.scaling.yarn_beta_slow"),
        }
        if multiplier := keys.get("rope.scaling.yarn_log_multiplier"):  # a tenth of DeepSeek's mscale_all_dim
            optional["mscale"] = optional["mscale_all_dim"] = _shortest(10 * multiplier)
        scaling |= {name: value for name, value in optional.items() if value is not None}
    return scaling


def _llama3_scaling(gguf: GGUFFile, head_dim: int, theta: float) -> dict[str, Any]:
    tensor = gguf.tensors["rope_freqs.weight"]
    divisors = torch.empty(tensor.shape)
    read_values(gguf.file, tensor.start, tensor.kind, divisors)
    scaling = {"rope_type": "llama3", "factor": _shortest(divisors.max().item())} | LLAMA3_RAMP
    if not torch.allclose(divisors, _divisors(scaling, head_dim, theta), rtol=1e-3):
        raise UnsupportedModel(
            f"{gguf.path} scales its rotary frequencies as no Llama 3 release does; "
            "get the model as a Hugging Face directory"
        )
    return scaling


def _divisors(scaling: Mapping[str, Any], head_dim: int, theta: float) -> Tensor:
    plain = RopeConfig(head_dim, theta)
    llama3 = RopeConfig(
        head_dim,
        theta,
        "llama3",
        scaling["factor"],
        scaling["original_max_position_embeddings"],
        scaling["low_freq_factor"],
        scaling["high_freq_factor"],
    )
    return inverse_frequencies(plain) / inverse_frequencies(llama3)
